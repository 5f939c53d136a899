"""Where the jobs of a run come from: a jobs file, or a part of it, or the journal of a run that was planned.

Who reads a part of a file reads a job together with all that depends on it. Of equal lines, the
order in the whole file decides which is which: they are different jobs, whatever parts they are in.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from soundpiece_async import Journal, Request
from soundpiece_async._core.job_records import JobIdentity
from soundpiece_async._journal.occurrences import RequestIdentifier
from soundpiece_async._journal.store import Part, TakenOver
from soundpiece_async.cli.arguments import WHOLE
from soundpiece_async.cli.bulk_options import JobsFile
from soundpiece_async.cli.dependents import Dependents
from soundpiece_async.cli.jobs_file import InvalidLine, Job, iterate_in_thread, require_valid
from soundpiece_async.cli.results import JobOutcome, ResultCounts


async def read_file(file: JobsFile, dependents: Dependents, journal: Journal) -> AsyncGenerator[Job]:
    """Yield the jobs of a part of a file that do not depend on others.

    Raises:
        UsageError: the file has changed since it was validated.
    """
    async with aclosing(iterate_in_thread(_read_part(file, dependents))) as chunks:
        async for chunk in chunks:
            for line, identity in chunk:
                job = require_valid(file.path, line)
                if identity is not None:
                    journal.identify(job.request, identity)
                yield job


async def read_planned(journal: Journal, part: Part, *, totals: ResultCounts) -> AsyncGenerator[Job]:
    """Yield the jobs of a part that was taken over, and count those that another process takes over meanwhile."""
    read = 0
    try:
        async with aclosing(journal.read_part(part)) as jobs:
            async for request, record in jobs:
                read += 1
                yield Job(record.line or 0, request, record.name, record.metadata)
    except TakenOver:
        totals.outcomes[JobOutcome.TAKEN_OVER] += part.jobs - read


async def plan_file(file: JobsFile, dependents: Dependents, journal: Journal, *, totals: ResultCounts) -> int:
    """Record the jobs of a part of a file that are known before anything is sent, and count all its lines.

    Returns:
        How many jobs are new.

    Raises:
        UsageError: the file has changed since it was validated.
    """

    async def read() -> AsyncGenerator[tuple[Request, str | None]]:
        async with aclosing(read_file(file, dependents, journal)) as jobs:
            async for job in jobs:
                totals.lines += 1 + dependents.graph.count_dependents(job.line)[0]
                if job.file is None:
                    journal.annotate(job.request, metadata=job.metadata, line=job.line)
                    yield job.request, job.name

    totals.lines = 0
    return await journal.plan(read())


def _read_part(file: JobsFile, dependents: Dependents) -> Iterator[tuple[Job | InvalidLine, JobIdentity | None]]:
    """Yield jobs with their identities, or None: the run makes it out itself, as it sees all of them. Blocks."""
    identifier = RequestIdentifier()
    for line in dependents.read_independent(file.path):
        if file.part == WHOLE or isinstance(line, InvalidLine):
            yield line, None
        else:
            identity = identifier.identify(dependents.local.identify(line).request)
            if dependents.is_in(line.line, file.part):
                yield line, identity

"""Yields the requests of jobs in the order in which they come, dependent ones once their source is ready.

1. A job that waits for its source is not in flight. Once the outputs of the source are in the journal, its dependents
   come before lines that were not read yet, so that few outputs are unused at a time.
2. When a job ends without outputs, its dependents are blocked, unless the run was stopped before the job was sent.
"""

from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from itertools import islice

import anyio
import anyio.to_thread

from soundpiece_async import Journal, Operation, Request
from soundpiece_async.cli.dependents import Blocked, Dependents
from soundpiece_async.cli.jobs_file import CHUNK_LINES, Job, iterate_in_thread
from soundpiece_async.cli.results import ResultCounts


class JobReader:
    """The requests of a run, and the jobs they came from while they are in flight.

    Args:
        jobs: that do not depend on others.
        dependents: of those, from the validation of the jobs file.
        journal: stores metadata, and reports when operations are ready.
        totals: counts the jobs of repeated lines, whose number is known late.
    """

    def __init__(
        self, jobs: AsyncGenerator[Job], dependents: Dependents, *, journal: Journal, totals: ResultCounts
    ) -> None:
        self._source = jobs
        self._dependents = dependents
        self._journal = journal
        self._totals = totals
        self._stopped = self._dropped = False
        self._exhausted = False
        self._jobs: dict[str, Job] = {}
        self._unready: set[str] = set()
        """Keys of the jobs in flight that have dependents."""
        self._made: deque[Iterator[Job | Blocked]] = deque()
        """Dependents of jobs that are ready, built on iteration."""
        self._blocked: deque[Iterator[Blocked]] = deque()
        self._begun = bytearray()
        """By repeated line: whether a job of it has begun."""
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        state = " stopped" * self._stopped
        return f"<JobReader in_flight={len(self._jobs)} awaited={len(self._unready)}{state}>"

    @property
    def more(self) -> bool:
        """Whether repeated lines may be more jobs than were counted, because the run was stopped before."""
        return bool(self._dependents.graph.repeated) and not self._exhausted

    async def read(self) -> AsyncGenerator[tuple[Request, str | None]]:
        """Yield the requests with the names of their files.

        Raises:
            UsageError: the file has changed since it was validated.
        """
        async with aclosing(self._source) as jobs:
            async for job in jobs:
                while self._made and not self._stopped:
                    for dependent in await self._make_dependents():
                        yield self._begin(dependent)
                if self._stopped:
                    return
                yield self._begin(await self._dependents.local.upload(job))
        while (self._unready or self._made) and not self._stopped:
            if not self._made:
                self._changed = anyio.Event()
                await self._changed.wait()
            for dependent in await self._make_dependents():
                yield self._begin(dependent)
        self._exhausted = not (self._stopped or self._dropped)

    def pop(self, request: Request) -> Job:
        """Return the job of a request and forget it."""
        return self._jobs.pop(request.idempotency_key)

    def settle(self, job: Job, *, blocking: str | None) -> None:
        """Block the dependents of a job that has a result but no outputs.

        Args:
            job: the job.
            blocking: the reason; None: the run was stopped.
        """
        key = job.request.idempotency_key
        if key not in self._unready:  # no dependents, or it was ready
            return
        self._unready.discard(key)
        self._journal.forget_listener(job.request)
        if blocking is None:
            self._dropped = True
        else:
            self._blocked.append(self._dependents.block_all(job.line, blocking))
        self._changed.set()

    def stop(self) -> None:
        """Yield no more requests."""
        self._stopped = True
        self._changed.set()

    async def read_blocked(self) -> AsyncGenerator[Blocked]:
        """Yield the jobs that were blocked since the last call."""
        while self._blocked:
            async with aclosing(iterate_in_thread(self._blocked.popleft())) as chunks:
                async for chunk in chunks:
                    for blocked in chunk:
                        self._count(blocked.line)
                        yield blocked

    async def _make_dependents(self) -> list[Job]:
        """Build the next dependents of jobs that are ready."""
        made = await anyio.to_thread.run_sync(self._make)
        if blocked := [job for job in made if isinstance(job, Blocked)]:
            self._blocked.append(iter(blocked))
        return [job for job in made if isinstance(job, Job)]

    def _make(self) -> list[Job | Blocked]:
        made: list[Job | Blocked] = []
        while self._made and len(made) < CHUNK_LINES:
            made += islice(self._made[0], CHUNK_LINES - len(made))
            if len(made) < CHUNK_LINES:
                self._made.popleft()
        return made

    def _begin(self, job: Job) -> tuple[Request, str | None]:
        self._journal.annotate(job.request, metadata=job.metadata, line=job.line or None)
        self._jobs[job.request.idempotency_key] = job
        if self._dependents.graph.has_dependents(job.line):
            self._unready.add(job.request.idempotency_key)
            self._journal.listen(job.request, partial(self._release, job))
        self._count(job.line)
        return job.request, job.name

    def _release(self, job: Job, operation: Operation[Request]) -> None:
        """Release the dependents of a job: its outputs are in the journal."""
        self._unready.discard(job.request.idempotency_key)
        self._made.append(self._dependents.make_jobs(job, operation))
        self._changed.set()

    def _count(self, line: int) -> None:
        """Count one more job of a repeated line."""
        if self._dependents.graph.is_repeated(line):
            if len(self._begun) <= line:
                self._begun.extend(bytes(line + 1 - len(self._begun)))
            self._totals.lines += self._begun[line]
            self._begun[line] = True

"""Jobs whose source is an output of another job of the file: stored until that is ready, then built with its outputs.

1. Memory hardly grows with them: the graph is small, and their lines are stored in a temporary SQLite file.
2. A job is built when its source is ready, with an output of it: it is identified by its own fields, the operation of
   its source and the number of the output, and never by a URL.
"""

import json
import sqlite3
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import attrs

from soundpiece_async import Operation, Output, Request
from soundpiece_async._core.job_graph import EVERY, JobGraph, JobReference
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.requests import GeneratedKey, explicit_key
from soundpiece_async.cli.console import pluralize
from soundpiece_async.cli.jobs_file import InvalidLine, Job, clip_fault, find_field, has_reference, parse_lines, to_job
from soundpiece_async.cli.jobs_formats import Line, read_lines
from soundpiece_async.cli.local_sources import LocalSources


@attrs.frozen
class Blocked:
    """A job that cannot be sent, because its source has failed or lacks the output.

    Attributes:
        line: of the job.
        route, name: of the job.
        source: line of its source.
        blocked_by: line of the first job in the chain of sources that failed or lacks the output.
        reason: what is wrong with that job.
    """

    line: int
    route: str
    name: str | None
    source: int
    blocked_by: int
    reason: str


class Dependents:
    """The dependent jobs of one file, collected while the file is validated.

    Args:
        local: finds the local files of the others.
    """

    def __init__(self, local: LocalSources | None = None) -> None:
        self.local: LocalSources = local or LocalSources()
        self.graph: JobGraph = JobGraph()
        self.files: int = 0
        """Lines whose source is a local file."""
        self._lines = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a temporary file
        weakref.finalize(self, self._lines.close)
        self._lines.execute("PRAGMA journal_mode = OFF")
        self._lines.execute("PRAGMA synchronous = OFF")
        self._lines.execute("CREATE TABLE line (number INTEGER PRIMARY KEY, members TEXT NOT NULL)")

    def __repr__(self) -> str:
        return f"<Dependents {self.graph!r}>"

    def read_all(self, path: Path) -> Iterator[Job | InvalidLine]:
        """Read all jobs of a file and store the dependent ones; call ``check`` afterwards. Blocks.

        Raises:
            OSError: the file cannot be read.
        """
        for line, job in parse_lines(path):
            taken = self._add(line, job)
            if taken is not None:
                yield InvalidLine(line.number, f"id: already used on line {taken}; ids are unique")
                continue
            self.files += isinstance(job, Job) and job.file is not None
            if isinstance(job, Job) and job.file is not None and (fault := self.local.find_fault(job.file)):
                yield InvalidLine(line.number, clip_fault(f"{find_field(line.members or {})}: {fault}"))
            else:
                yield job

    def read_independent(self, path: Path) -> Iterator[Job | InvalidLine]:
        """Read the jobs of the file that do not depend on others. Blocks.

        Raises:
            OSError: the file cannot be read.
        """
        for line in read_lines(path):
            waits = self.graph.source(line.number) is not None
            if waits is not has_reference(line):
                yield InvalidLine(line.number, "its source has changed since the file was validated")
            elif not waits:
                yield to_job(line)

    @property
    def unplannable(self) -> int:
        """Number of lines whose requests are not known before others are ready, or a file is uploaded."""
        return len(self.graph) + self.files

    def is_in(self, line: int, part: tuple[int, int]) -> bool:
        """Return whether a line is in a part, together with all lines that its source or its outputs lead to."""
        number, parts = part
        return parts == 1 or self.graph.component(line) % parts == number % parts

    def _add(self, line: Line, job: Job | InvalidLine) -> int | None:
        """Add a line to the graph if it has an id or a source; return the line that already has its id, if any."""
        if isinstance(job, InvalidLine):
            id_ = (line.members or {}).get("id")
            return self.graph.add(line.number, None, id=id_) if isinstance(id_, str) else None
        taken = self.graph.add(job.line, job.request, id=job.id, reference=job.reference)
        if taken is None and job.reference is not None:
            self._lines.execute("INSERT INTO line VALUES (?, ?)", (line.number, json.dumps(line.members)))
        return taken

    def check(self) -> Iterator[InvalidLine]:
        """Check all references after all lines were added; yield each invalid line once. Blocks."""
        faults: dict[int, str] = {}
        for line, fault in self.graph.check():
            faults[line] = (
                f"{faults[line]}; {fault}" if line in faults else f"{find_field(self._read_members(line))}: {fault}"
            )
        for line, fault in faults.items():
            yield InvalidLine(line, clip_fault(fault))

    def make_jobs(self, source: Job, operation: Operation[Request]) -> Iterator[Job | Blocked]:
        """Yield the dependents of a job whose operation is ready, in the order of their lines. Blocks."""
        for line in self.graph.dependents(source.line):
            job = self.read(line)
            assert job.reference is not None  # noqa: S101 - it is a dependent
            outputs = job.reference.select(operation.outputs)
            if not outputs:
                yield from self._block([line], source.line, _describe_missing(job.reference, operation))
            for output in outputs:
                yield _with_source(job, output, source)

    def block_all(self, source: int, reason: str) -> Iterator[Blocked]:
        """Yield all direct and indirect dependents of a line as blocked by it. Blocks."""
        return self._block(self.graph.dependents(source), source, reason)

    def read(self, line: int) -> Job:
        """Return the dependent job of a line; its source is ``PENDING``. Blocks."""
        job = to_job(Line(line, self._read_members(line)))
        assert isinstance(job, Job)  # noqa: S101 - the line was valid
        return job

    def _block(self, lines: Iterable[int], source: int, reason: str) -> Iterator[Blocked]:
        """Yield lines and their dependents as blocked."""
        queue = deque(lines)
        while queue:
            line = queue.popleft()
            members = self._read_members(line)
            parent = self.graph.source(line) or source
            yield Blocked(line, members["route"], members.get("name"), parent, source, reason)
            queue.extend(self.graph.dependents(line))

    def _read_members(self, line: int) -> JsonObject:
        ((members,),) = self._lines.execute("SELECT members FROM line WHERE number = ?", [line])
        return dict(json.loads(members))


def _with_source(job: Job, output: Output, source: Job) -> Job:
    """Return the job with an output as its source; several jobs of one line get different keys and names."""
    request, repeated = job.request, job.reference is not None and job.reference.output == EVERY
    suffix = f"{source.suffix}-{output.kind or output.index + 1}" if repeated else source.suffix
    key = explicit_key(request) or GeneratedKey(uuid4())
    keyed = attrs.evolve(job, request=attrs.evolve(request, idempotency_key=key))
    return attrs.evolve(keyed.with_source(output), name=job.name and f"{job.name}{suffix}", suffix=suffix)


def _describe_missing(reference: JobReference, operation: Operation[Request]) -> str:
    if reference.kind is None:
        return f"no {reference}: the operation has {pluralize(len(operation.outputs), 'output')}"
    kinds = sorted({output.kind for output in operation.outputs if output.kind})
    return f"no {reference}: its outputs are {', '.join(kinds) if kinds else 'of no kind'}"

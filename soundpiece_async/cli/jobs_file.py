"""Reads the jobs of a file, or of standard input, which is copied into a file first."""

import math
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import anyio
import anyio.to_thread
import attrs

from soundpiece_async import AudioSource, Request
from soundpiece_async._core.job_graph import JobReference
from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.requests import ROUTES, SOURCE_FIELDS, Source, violations
from soundpiece_async._journal.occurrences import OccurrenceCounter
from soundpiece_async.cli.console import UsageError, did_you_mean, print_status
from soundpiece_async.cli.jobs_formats import EXTRA_FIELDS, Line, read_lines

T = TypeVar("T")

MAX_METADATA_DEPTH = 200
"""Levels of metadata: the json module recurses for each, and Python allows about a thousand calls."""
CHUNK_LINES = 200
"""Lines read in one call in a worker thread: about ten milliseconds of work."""
PENDING = AudioSource("https://pending.invalid/")
"""Placeholder for an output that is not known yet."""
_MAX_MESSAGE_CHARS = 300


@attrs.frozen
class Job:
    """A valid line: its request, and the fields that are not sent.

    Attributes:
        line: line number; 0: the journal does not know it.
        request: its source is ``PENDING`` until the output of another job is known.
        name: of its files.
        metadata: any JSON value.
        id: by which other lines refer to it.
        reference: to the job whose output is its source.
        suffix: of its files, different for other jobs of the same line.
    """

    line: int
    request: Request
    name: str | None
    metadata: JsonValue
    id: str | None = None
    reference: JobReference | None = None
    suffix: str = ""
    file: str | None = None

    def with_source(self, source: Source) -> "Job":
        """Return the job with another source."""
        changes: dict[str, JsonValue] = {field: source for field in SOURCE_FIELDS if getattr(self.request, field, None)}
        return attrs.evolve(self, request=attrs.evolve(self.request, **changes))


@attrs.frozen
class InvalidLine:
    """An invalid line and the reason."""

    line: int
    fault: str


def read_jobs(path: Path) -> Iterator[Job | InvalidLine]:
    """Read a jobs file.

    Raises:
        OSError: the file cannot be read.
    """
    return (job for _, job in parse_lines(path))


def parse_lines(path: Path) -> Iterator[tuple[Line, Job | InvalidLine]]:
    """Read a jobs file; yield each line with its job.

    Raises:
        OSError: the file cannot be read.
    """
    keys = OccurrenceCounter()
    for line in read_lines(path):
        job = to_job(line)
        if isinstance(job, Job) and line.members is not None and line.members.get("idempotency_key") is not None:
            times, first = keys.count(UUID(job.request.idempotency_key).bytes, line.number)
            if times > 1:
                job = InvalidLine(line.number, f"idempotency_key: already used on line {first}; each job needs its own")
        yield line, job


def require_valid(path: Path, job: Job | InvalidLine) -> Job:
    """Return a job of a file that was validated before.

    Raises:
        UsageError: the line is invalid: the file has changed.
    """
    if isinstance(job, InvalidLine):
        raise UsageError(f"{path} was changed during the run; {path}:{job.line}: {job.fault}")
    return job


async def iterate_in_thread(items: Iterator[T]) -> AsyncGenerator[list[T]]:
    """Yield the items of a blocking iterator in chunks, read in a worker thread."""
    while chunk := await anyio.to_thread.run_sync(lambda: list(islice(items, CHUNK_LINES))):
        yield chunk


def to_job(line: Line) -> Job | InvalidLine:
    """Return the job of a line, or all that is wrong with the line."""
    members = {name: value for name, value in (line.members or {}).items() if value is not None}
    faults = [*line.faults]
    if not faults:
        faults += _check_members(members)
    if not faults:
        given = {name: _to_member(name, value) for name, value in members.items() if name not in EXTRA_FIELDS}
        request = ROUTES[members["route"]](**given)
        faults += [f"{field}: {wrong}" for field, wrong in violations(request)]
        if not faults:
            reference = _to_reference(members)
            name, metadata = members.get("name"), members.get("metadata")
            return Job(line.number, request, name, metadata, members.get("id"), reference, file=_to_file(members))
    return InvalidLine(line.number, clip_fault("; ".join(faults)))


def _check_members(members: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield faults that the validation of a request does not find: missing and unknown fields, invalid text."""
    route = members.get("route")
    if not isinstance(route, str) or route not in ROUTES:
        yield f"{_route_error(route, members)}; known routes: {', '.join(ROUTES)}"
        return
    own = attrs.fields_dict(ROUTES[route])
    for name in members:
        if name not in own and name not in EXTRA_FIELDS:
            known = (*own, *(field for field in EXTRA_FIELDS if field != "route"))
            yield f"unknown field {name!r} for {route}{did_you_mean(name, known)}; known fields: {', '.join(known)}"
    for name, member in own.items():
        if member.default is attrs.NOTHING and name not in members:
            yield f"missing field: {name}"
    yield from _check_extra_fields(members)
    for name, value in members.items():
        if not _is_utf8(value):
            yield f"{name}: invalid UTF-8"
        if name in SOURCE_FIELDS and isinstance(value, dict) and (fault := _find_source_fault(value)):
            yield f"{name}: {fault}"


def _check_extra_fields(members: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield faults of the fields that are not sent."""
    name = members.get("name", "x")
    if not isinstance(name, str) or not name.strip():
        yield "name: must be text that is not blank"
    id_ = members.get("id", "x")
    if not isinstance(id_, str) or not id_.strip():
        yield "id: must be text that is not blank"
    if fault := find_metadata_fault(members.get("metadata")):
        yield f"metadata: {fault}"


def _route_error(route: object, members: Mapping[str, JsonValue]) -> str:
    """Return the message about a missing, misspelt or unknown route."""
    if route is not None:
        return f"unknown route {route!r}{did_you_mean(str(route), ROUTES)}"
    spelt = next((name for name in members if name.strip().lower() == "route"), None)
    return "missing field: route" if spelt is None else f"missing field: route ({spelt!r} must be lower case)"


def find_metadata_fault(metadata: JsonValue) -> str:
    """Return why the journal cannot store metadata; empty if it can."""
    level, values = 0, [metadata]
    while values:
        if level > MAX_METADATA_DEPTH:
            return f"nested deeper than {MAX_METADATA_DEPTH} levels"
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            return "contains a number that is too large"
        groups = [value for value in values if isinstance(value, dict | list)]
        values = list(chain.from_iterable(group.values() if isinstance(group, dict) else group for group in groups))
        level += 1
    return ""


def _find_source_fault(value: Mapping[str, JsonValue]) -> str:
    """Return the fault of a source that is an object; empty if it is valid."""
    if "job" not in value:
        if list(value) == ["file"]:
            return "" if isinstance(value["file"], str) and value["file"].strip() else "file must be a path"
        if list(value) == ["url"]:
            return ""
        return 'must be a URL, {"url": "..."}, {"job": "id of another line"} or {"file": "path on this machine"}'
    try:
        JobReference.parse(value)
    except ValueError as error:
        return str(error)
    return ""


def _to_reference(members: Mapping[str, JsonValue]) -> JobReference | None:
    """Return the reference to another job in the members of a valid line."""
    for name in SOURCE_FIELDS:
        value = members.get(name)
        if isinstance(value, dict) and "job" in value:
            return JobReference.parse(value)
    return None


def find_field(members: Mapping[str, JsonValue]) -> str:
    """Return which field of a line has its source."""
    return next(field for field in SOURCE_FIELDS if members.get(field) is not None)


def _to_file(members: Mapping[str, JsonValue]) -> str | None:
    """Return the path of the local file that is the source of a valid line."""
    sources = (members.get(name) for name in SOURCE_FIELDS)
    return next((value["file"] for value in sources if isinstance(value, dict) and "file" in value), None)


def has_reference(line: Line) -> bool:
    """Return whether a line names another job as its source."""
    return any(isinstance(value := (line.members or {}).get(name), dict) and "job" in value for name in SOURCE_FIELDS)


def _is_utf8(value: object) -> bool:
    """Return whether text can be encoded: invalid bytes of the file, and lone surrogates, cannot."""
    text = value["url"] if isinstance(value, dict) and "url" in value else value
    return not isinstance(text, str) or text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _to_member(name: str, value: JsonValue) -> JsonValue:
    if name not in SOURCE_FIELDS or not isinstance(value, dict):
        return value
    return AudioSource(value["url"]) if "url" in value else PENDING


def clip_fault(text: str) -> str:
    """Return a message about a line shortened, with control characters escaped."""
    cut = text[:_MAX_MESSAGE_CHARS]
    shown = cut if cut.isprintable() else cut.encode("unicode_escape").decode()
    return f"{shown}{'...' * (len(text) > _MAX_MESSAGE_CHARS)}"


async def require_regular_file(path: Path) -> None:
    """Check that a path is a regular file: it is read twice, so it cannot be a pipe.

    Raises:
        UsageError: it is missing, unreadable or not a regular file.
    """
    try:
        mode = (await anyio.Path(path).stat()).st_mode
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is not a regular file, and a jobs file is read twice: it is validated before anything is sent. "
            "To read jobs from a pipe: soundpiece bulk - OUT"
        )


STANDARD_INPUT = Path("/dev/stdin")
"""The path that ``-`` stands for."""
SPOOLED_NAME = "standard-input.txt"
"""The copy of standard input beside the journal, read by later runs."""
BLOCK_BYTES = 1 << 16
"""Bytes read at a time."""


@asynccontextmanager
async def spool_standard_input() -> AsyncGenerator[Path]:
    """Copy standard input into a temporary file, and yield its path."""
    with tempfile.TemporaryDirectory(prefix="soundpiece-") as folder:
        path = Path(folder, SPOOLED_NAME)
        descriptor = sys.stdin.fileno()
        if os.isatty(descriptor):
            print_status("reading jobs from standard input (end with Ctrl-D)")
        await _copy(descriptor, path)
        yield path


async def keep_spooled(path: Path, folder: Path) -> Path:
    """Copy a spooled file into the folder of the journal, replacing an earlier one, and return its new path."""

    def copy() -> Path:
        part = Path(shutil.copyfile(path, folder / f"{SPOOLED_NAME}.part"))
        return part.replace(folder / SPOOLED_NAME)

    return await anyio.to_thread.run_sync(copy)


async def _copy(descriptor: int, path: Path) -> None:
    """Copy to the end of a descriptor; waiting for more to read can be cancelled."""
    mode = os.fstat(descriptor).st_mode
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    async with await anyio.open_file(path, "wb") as file:
        while True:
            if waits:
                await anyio.wait_readable(descriptor)
            block = await anyio.to_thread.run_sync(os.read, descriptor, BLOCK_BYTES)
            if not block:
                return
            await file.write(block)

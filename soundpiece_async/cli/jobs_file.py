"""A jobs file: from its lines to jobs, or to what is wrong with them; standard input is copied into a file first."""

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
from typing import Any, TypeVar
from uuid import UUID

import anyio
import anyio.to_thread
import attrs

from soundpiece_async import AudioSource, Request
from soundpiece_async._core.requests import ROUTES, violations
from soundpiece_async._journal.occurrences import OccurrenceCounter
from soundpiece_async.cli.console import UsageError, did_you_mean, print_status
from soundpiece_async.cli.jobs_formats import EXTRA_FIELDS, Line, read_lines

T = TypeVar("T")

MAX_METADATA_DEPTH = 200
"""Levels of metadata: what writes and reads JSON calls itself for each, and Python allows a thousand calls."""
CHUNK_LINES = 200
"""Lines read in one visit to a worker thread: about ten milliseconds of work."""
_MAX_MESSAGE_CHARS = 300


@attrs.frozen
class Job:
    """A line that may be sent: its request, and what the user wants with it."""

    line: int
    request: Request
    name: str | None
    metadata: Any


@attrs.frozen
class InvalidLine:
    """A line that may not, and why."""

    line: int
    fault: str


def read_jobs(path: Path) -> Iterator[Job | InvalidLine]:
    """Read a jobs file once.

    Raises:
        OSError: it cannot be read.
    """
    keys = OccurrenceCounter()
    for line in read_lines(path):
        job = _to_job(line)
        if isinstance(job, Job) and line.members is not None and line.members.get("idempotency_key") is not None:
            times, first = keys.count(UUID(job.request.idempotency_key).bytes, line.number)
            if times > 1:
                job = InvalidLine(
                    line.number, f"idempotency_key: is that of line {first}, and a key stands for one piece"
                )
        yield job


def require_valid(path: Path, job: Job | InvalidLine) -> Job:
    """Take a line of a file that was checked before.

    Raises:
        UsageError: it is not any more what it was.
    """
    if isinstance(job, InvalidLine):
        raise UsageError(f"{path} was changed meanwhile; {path}:{job.line}: {job.fault}")
    return job


async def iterate_in_thread(items: Iterator[T]) -> AsyncGenerator[list[T]]:
    """Give what a blocking iterator gives, a chunk at a time, made in a worker thread."""
    while chunk := await anyio.to_thread.run_sync(lambda: list(islice(items, CHUNK_LINES))):
        yield chunk


def _to_job(line: Line) -> Job | InvalidLine:
    """Make a piece of work of a line, or say everything that is wrong with it."""
    members = {name: value for name, value in (line.members or {}).items() if value is not None}
    faults = [*line.faults]
    if not faults:
        faults += _check_members(members)
    if not faults:
        given = {name: _to_member(name, value) for name, value in members.items() if name not in EXTRA_FIELDS}
        request = ROUTES[members["route"]](**given)
        faults += [f"{field}: {wrong}" for field, wrong in violations(request)]
        if not faults:
            return Job(line.number, request, members.get("name"), members.get("metadata"))
    return InvalidLine(line.number, _clip("; ".join(faults)))


def _check_members(members: Mapping[str, Any]) -> Iterator[str]:
    """Say which members are missing or too many, and what no rule of the contract would find."""
    route = members.get("route")
    if not isinstance(route, str) or route not in ROUTES:
        yield f"route: {_route_error(route, members)}; the routes are {', '.join(ROUTES)}"
        return
    own = attrs.fields_dict(ROUTES[route])
    for name in members:
        if name not in own and name not in EXTRA_FIELDS:
            takes = (*own, "name", "metadata")
            yield f"{name}: {route} does not take it{did_you_mean(name, takes)}; it takes {', '.join(takes)}"
    for name, member in own.items():
        if member.default is attrs.NOTHING and name not in members:
            yield f"{name}: is missing"
    yield from _check_extra_fields(members)
    for name, value in members.items():
        if not _is_utf8(value):
            yield f"{name}: holds what is not UTF-8"
        if name in ("source", "reference") and isinstance(value, dict) and list(value) != ["url"]:
            yield f'{name}: must be a URL, or {{"url": "..."}}'


def _check_extra_fields(members: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the members that are not the request's."""
    name = members.get("name", "x")
    if not isinstance(name, str) or not name.strip():
        yield "name: must be text that can name a file"
    if fault := find_metadata_fault(members.get("metadata")):
        yield f"metadata: {fault}"


def _route_error(route: object, members: Mapping[str, Any]) -> str:
    """Return what is wrong with a route, or with the spelling of its name."""
    if route is not None:
        return f"{route!r} is none{did_you_mean(str(route), ROUTES)}"
    spelt = next((name for name in members if name.strip().lower() == "route"), None)
    return "is missing" if spelt is None else f"is missing ({spelt!r} has capital letters)"


def find_metadata_fault(metadata: Any) -> str:
    """Return why the journal could not keep metadata, or nothing."""
    level, values = 0, [metadata]
    while values:
        if level > MAX_METADATA_DEPTH:
            return f"is nested more than {MAX_METADATA_DEPTH} levels deep"
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            return "holds a number that is too large"
        groups = [value for value in values if isinstance(value, dict | list)]
        values = list(chain.from_iterable(group.values() if isinstance(group, dict) else group for group in groups))
        level += 1
    return ""


def _is_utf8(value: object) -> bool:
    """Tell whether text can be sent: bytes that were no UTF-8, and halves of surrogate pairs, cannot."""
    text = value["url"] if isinstance(value, dict) and "url" in value else value
    return not isinstance(text, str) or text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _to_member(name: str, value: Any) -> Any:
    return AudioSource(value["url"]) if name in ("source", "reference") and isinstance(value, dict) else value


def _clip(text: str) -> str:
    """Cut what is long, and show what would move a terminal's cursor."""
    cut = text[:_MAX_MESSAGE_CHARS]
    shown = cut if cut.isprintable() else cut.encode("unicode_escape").decode()
    return f"{shown}{'...' * (len(text) > _MAX_MESSAGE_CHARS)}"


async def require_regular_file(path: Path) -> None:
    """Refuse what is no file: it is read twice, so it cannot be a pipe.

    Raises:
        UsageError: it is not there, or something else.
    """
    try:
        mode = (await anyio.Path(path).stat()).st_mode
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is no file, as it has to be: it is read twice, to check it before anything is "
            "sent; what a pipe brings is read by: soundpiece bulk - OUT"
        )


STANDARD_INPUT = Path("/dev/stdin")
"""What ``-`` stands for."""
SPOOLED_NAME = "standard-input.txt"
"""The file in the folder of the journal, for the runs that go on; JSONL or CSV, as its first line says."""
BLOCK_BYTES = 1 << 16
"""Bytes that are read at a time."""


@asynccontextmanager
async def spool_standard_input() -> AsyncGenerator[Path]:
    """Read standard input to its end, into a temporary file."""
    with tempfile.TemporaryDirectory(prefix="soundpiece-") as folder:
        path = Path(folder, SPOOLED_NAME)
        descriptor = sys.stdin.fileno()
        if os.isatty(descriptor):
            print_status("reading jobs from standard input, until Ctrl-D")
        await _copy(descriptor, path)
        yield path


async def keep_spooled(path: Path, folder: Path) -> Path:
    """Copy a spooled file into the folder of the journal, in place of that of an earlier run; return its path there."""

    def copy() -> Path:
        part = Path(shutil.copyfile(path, folder / f"{SPOOLED_NAME}.part"))
        return part.replace(folder / SPOOLED_NAME)

    return await anyio.to_thread.run_sync(copy)


async def _copy(descriptor: int, path: Path) -> None:
    """Copy what can be read until the end; a signal can end it while there is nothing to read."""
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

"""From the lines of a jobs file to pieces of work, or to what is wrong with them. Blocks, but for ``in_thread``."""

import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import anyio.to_thread
import attrs

from soundpiece_async import AudioSource, Request
from soundpiece_async._core.requests import ROUTES
from soundpiece_async._core.validation import find_faults
from soundpiece_async._journal.occurrences import Occurrences
from soundpiece_async.cli.console import UsageError, suggest
from soundpiece_async.cli.jobs_file import read_lines
from soundpiece_async.cli.lines import OWN, Line

T = TypeVar("T")

DEEPEST = 200
"""Levels of metadata: what writes and reads JSON calls itself for each, and Python allows a thousand calls."""
CHUNK = 200
"""Lines read in one visit to a worker thread: about ten milliseconds of work."""
_LONGEST_FAULT = 300


@attrs.frozen
class Job:
    """A line that may be sent: its request, and what the user wants with it."""

    line: int
    request: Request
    name: str | None
    metadata: Any


@attrs.frozen
class Bad:
    """A line that may not, and why."""

    line: int
    fault: str


def read_jobs(path: Path) -> Iterator[Job | Bad]:
    """Read a jobs file once.

    Raises:
        OSError: it cannot be read.
    """
    keys = Occurrences()
    for line in read_lines(path):
        job = _make_job(line)
        if isinstance(job, Job) and line.members is not None and line.members.get("idempotency_key") is not None:
            times, first = keys.count(UUID(job.request.idempotency_key).bytes, line.number)
            if times > 1:
                job = Bad(line.number, f"idempotency_key: is that of line {first}, and a key stands for one piece")
        yield job


def demand_right(path: Path, job: Job | Bad) -> Job:
    """Take a line of a file that was checked before.

    Raises:
        UsageError: it is not any more what it was.
    """
    if isinstance(job, Bad):
        raise UsageError(f"{path} was changed meanwhile; {path}:{job.line}: {job.fault}")
    return job


async def in_thread(items: Iterator[T]) -> AsyncGenerator[list[T]]:
    """Give what a blocking iterator gives, a chunk at a time, made in a worker thread."""
    while chunk := await anyio.to_thread.run_sync(lambda: list(islice(items, CHUNK))):
        yield chunk


def _make_job(line: Line) -> Job | Bad:
    """Make a piece of work of a line, or say everything that is wrong with it."""
    members = {name: value for name, value in (line.members or {}).items() if value is not None}
    faults = [*line.faults]
    if not faults:
        faults += _check_members(members)
    if not faults:
        given = {name: _read_member(name, value) for name, value in members.items() if name not in OWN}
        request = ROUTES[members["route"]](**given)
        faults += [f"{field}: {wrong}" for field, wrong in find_faults(request)]
        if not faults:
            return Job(line.number, request, members.get("name"), members.get("metadata"))
    return Bad(line.number, _shorten("; ".join(faults)))


def _check_members(members: Mapping[str, Any]) -> Iterator[str]:
    """Say which members are missing or too many, and what no rule of the contract would find."""
    route = members.get("route")
    if not isinstance(route, str) or route not in ROUTES:
        yield f"route: {_explain_route(route, members)}; the routes are {', '.join(ROUTES)}"
        return
    own = attrs.fields_dict(ROUTES[route])
    for name in members:
        if name not in own and name not in OWN:
            takes = (*own, "name", "metadata")
            yield f"{name}: {route} does not take it{suggest(name, takes)}; it takes {', '.join(takes)}"
    for name, member in own.items():
        if member.default is attrs.NOTHING and name not in members:
            yield f"{name}: is missing"
    yield from _check_labels(members)
    for name, value in members.items():
        if not _is_text(value):
            yield f"{name}: holds what is not UTF-8"
        if name in ("source", "reference") and isinstance(value, dict) and list(value) != ["url"]:
            yield f'{name}: must be a URL, or {{"url": "..."}}'


def _check_labels(members: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the members that are not the request's."""
    name = members.get("name", "x")
    if not isinstance(name, str) or not name.strip():
        yield "name: must be text that can name a file"
    if fault := find_metadata_fault(members.get("metadata")):
        yield f"metadata: {fault}"


def _explain_route(route: object, members: Mapping[str, Any]) -> str:
    """Return what is wrong with a route, or with the spelling of its name."""
    if route is not None:
        return f"{route!r} is none{suggest(str(route), ROUTES)}"
    spelt = next((name for name in members if name.strip().lower() == "route"), None)
    return "is missing" if spelt is None else f"is missing ({spelt!r} has capital letters)"


def find_metadata_fault(metadata: Any) -> str:
    """Return why the journal could not keep metadata, or nothing."""
    level, values = 0, [metadata]
    while values:
        if level > DEEPEST:
            return f"is nested more than {DEEPEST} levels deep"
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            return "holds a number that is too large"
        groups = [value for value in values if isinstance(value, dict | list)]
        values = list(chain.from_iterable(group.values() if isinstance(group, dict) else group for group in groups))
        level += 1
    return ""


def _is_text(value: object) -> bool:
    """Tell whether text can be sent: bytes that were no UTF-8, and halves of surrogate pairs, cannot."""
    text = value["url"] if isinstance(value, dict) and "url" in value else value
    return not isinstance(text, str) or text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _read_member(name: str, value: Any) -> Any:
    return AudioSource(value["url"]) if name in ("source", "reference") and isinstance(value, dict) else value


def _shorten(text: str) -> str:
    """Cut what is long, and show what would move a terminal's cursor."""
    cut = text[:_LONGEST_FAULT]
    shown = cut if cut.isprintable() else cut.encode("unicode_escape").decode()
    return f"{shown}{'...' * (len(text) > _LONGEST_FAULT)}"

"""``soundpiece run``: one piece, from flags to files."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import attrs
from cyclopts import Parameter

from soundpiece_async import Operation, Request, RetryPolicy, SavedFile, Settings
from soundpiece_async._core.requests import ROUTES, violations
from soundpiece_async.cli.arguments import (
    DESTINATION,
    LYRICS,
    POSITIVE,
    ensure_writable,
    read_lyrics,
    require_unused_name,
)
from soundpiece_async.cli.console import UsageError, format_count, format_size, print_result, print_status
from soundpiece_async.cli.results import files_to_json, format_saved

if TYPE_CHECKING:
    from soundpiece_async import Session

SUBMIT_PATIENCE = 60.0
"""Seconds of trying to submit. The library's 300 are for jobs; a person at a terminal wants to know sooner."""
DEFAULT_DURATION = 5.0
"""Seconds of an effect or a sample when no length was given; the API has no length of its own."""


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Members:
    """The members of all eight requests; None: the flag was not given.

    Args:
        prompt: what it should sound like.
        lyrics: the words to sing, or @FILE to read them from a file.
        reference: URL of a track to take as a model, instead of a prompt.
        source: URL of the track to work on.
        duration: the wanted length in seconds, of an effect or a sample (5).
        target_duration: the wanted length of a cut-down in seconds.
        loopable: make a sample that loops without a seam.
        n_variations: how many remixes to make, 1 to 3.
        callback_url: an https address the service posts the news to.
        idempotency_key: a UUID; with the same key and flags a piece is made, and paid for, once.
    """

    prompt: str | None = None
    lyrics: Annotated[str | None, LYRICS] = None
    reference: str | None = None
    source: str | None = None
    duration: float | None = None
    target_duration: float | None = None
    loopable: bool | None = None
    n_variations: int | None = None
    callback_url: str | None = None
    idempotency_key: str | None = None


NO_MEMBERS = Members()


async def run(
    route: Annotated[str, Parameter(choices=tuple(ROUTES))],
    first: str | None = None,
    /,
    *,
    members: Members = NO_MEMBERS,
    save_to: Annotated[str | Path, DESTINATION] = Path(),
    name: str | None = None,
    overwrite: Annotated[bool, Parameter(show_default=False)] = False,
    timeout: Annotated[float | None, POSITIVE] = None,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> None:
    """Make one piece, wait for it, and save its files, whose paths are printed.

    The API key comes from SOUNDPIECE_API_KEY, and SOUNDPIECE_BASE_URL names another service than the real one.

    Exit codes: 0 saved; 1 failed; 2 wrong usage or input, and nothing was sent; 3 refused by the account (the key, no
    credits); 130 interrupted.

    Args:
        route: what to make.
        first: its lyrics, prompt or source, whichever it takes first; the flag of that name does the same.
        members: what it is made of.
        save_to: the folder for the files, or the URL of one in an object store, as s3://bucket/songs.
        name: the name of the files, instead of the operation's id.
        overwrite: replace other files that have the name.
        timeout: seconds after which to stop trying to submit (by default 60), and then to stop waiting (never).
        as_json: print one line of JSON instead.
    """
    request = build_request(route, members, first=first)
    await ensure_writable(save_to)
    if name is not None and not overwrite and members.idempotency_key is None:  # one that is given may be here already
        await require_unused_name(save_to, name, request)
    async with make_session(timeout) as session:
        operation = await _submit(session, request)
        started = anyio.current_time()
        print_status(f"{operation.handle} {operation.status}; resume with: soundpiece get {operation.handle}")
        operation = await session.wait(operation, timeout=timeout)
        waited = anyio.current_time() - started
        print_status(f"{operation.handle} {operation.status} after {waited:.1f} s, {format_count(operation.outputs)}")
        files = await session.download(operation, save_to, name=name, overwrite=overwrite)
    print_status(f"{operation.handle} saved {format_size(sum(file.bytes for file in files))}")
    text = format_json_line(operation, files, waited=waited) if as_json else "\n".join(file.location for file in files)
    print_result(text, kept=format_saved(files))


def make_session(timeout: float | None) -> "Session":
    """Build a session for a person at a terminal, of the environment; ``timeout`` bounds the trying, in seconds."""
    from soundpiece_async import Session  # noqa: PLC0415 - it brings aiohttp, and --help needs neither

    return Session(Settings(retries=RetryPolicy(submit_max_elapsed=SUBMIT_PATIENCE if timeout is None else timeout)))


def build_request(route: str, members: Members, *, first: str | None = None) -> Request:
    """Build the request of a route from the flags that were given, and its first member if that was given without one.

    Raises:
        UsageError: a flag is missing, has a value that the API does not take, or the route does not take it.
    """
    kind = ROUTES[route]
    own = attrs.fields_dict(kind)
    flags = attrs.asdict(members)
    given = {name: value for name, value in flags.items() if value is not None}
    if first is not None:
        _set_first_member(given, first, kind)
    if "duration" in own:
        given.setdefault("duration", DEFAULT_DURATION)
    foreign = [name for name in given if name not in own]
    missing = [name for name, member in own.items() if member.default is attrs.NOTHING and name not in given]
    if foreign or missing:
        wrong = f"does not take {_flag_names(foreign)}" if foreign else f"needs {_flag_names(missing)}"
        raise UsageError(f"{route} {wrong}; its flags are {_flag_names(name for name in flags if name in own)}")
    request = kind(**given)
    if faults := [f"{_flag_names([field])} {fault}" for field, fault in violations(request)]:
        raise UsageError(f"{route}: {'; '.join(faults)}; nothing was sent")
    return request


def _set_first_member(given: dict[str, object], value: str, kind: type[Request]) -> None:
    """Add the member that stands without its flag, which is the first one of Python's callers, too."""
    name = next(member.name for member in attrs.fields(kind) if not member.kw_only)
    if name in given:
        raise UsageError(f"{kind.route} has two values for {_flag_names([name])}: write one of them")
    given[name] = read_lyrics(value) if name == "lyrics" else value


def format_json_line(operation: Operation[Request], files: Sequence[SavedFile], *, waited: float) -> str:
    """Write one line of JSON about a finished piece; no signed URL is in it. Seconds are floats."""
    return json.dumps(
        {
            "route": operation.route,
            "id": operation.id,
            "status": operation.status,
            "idempotency_key": operation.request.idempotency_key,
            "waited": round(waited, 3),
            "files": files_to_json(files),
        }
    )


async def _submit(session: "Session", request: Request) -> Operation[Request]:
    started = anyio.current_time()
    try:
        return await session.submit(request)
    except anyio.get_cancelled_exc_class():
        print_status(
            f"{request.route} was being submitted, for {anyio.current_time() - started:.1f} s without an answer, and "
            "may have been accepted; to come back to it, and pay for it once, give the same command with "
            f"--idempotency-key {request.idempotency_key}"
        )
        raise


def _flag_names(names: Iterable[str]) -> str:
    return " ".join(f"--{name.replace('_', '-')}" for name in names)

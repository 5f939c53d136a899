"""``soundpiece run``: one request, from flags to files."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import attrs
from cyclopts import Parameter

from soundpiece_async import Operation, Request, RetryPolicy, SavedFile, Settings, upload_source
from soundpiece_async._core.job_records import find_source
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.requests import ROUTES, SOURCE_FIELDS, violations
from soundpiece_async.cli.arguments import (
    DESTINATION,
    LYRICS,
    POSITIVE,
    ensure_writable,
    read_lyrics,
    require_unused_name,
)
from soundpiece_async.cli.console import UsageError, format_size, pluralize, print_result, print_status
from soundpiece_async.cli.results import files_to_json, format_saved

if TYPE_CHECKING:
    from soundpiece_async import Session
    from soundpiece_async._download.upload import SourceUpload

SUBMIT_PATIENCE = 60.0
"""Seconds of retries of a submit; the 300 of the library are too long for a person at a terminal."""
DEFAULT_DURATION = 5.0
"""Default seconds of an effect or a sample; the API has no default."""


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class RequestFlags:
    """Fields of all eight requests; None: the flag was not given.

    Args:
        prompt: description of the sound.
        lyrics: lyrics, or @FILE to read them from a file.
        reference: URL of a reference track, instead of a prompt; with --via also a local file.
        source: URL of the source track; with --via also a local file.
        duration: length of an effect or a sample in seconds (default: 5).
        target_duration: length of a cut-down in seconds.
        loopable: generate a sample that loops seamlessly.
        n_variations: number of remixes, 1 to 3.
        callback_url: https URL for the webhook.
        idempotency_key: UUID; the same key with the same flags is generated and charged once.
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


NO_FLAGS = RequestFlags()


async def run(
    route: Annotated[str, Parameter(choices=tuple(ROUTES))],
    first: str | None = None,
    /,
    *,
    flags: RequestFlags = NO_FLAGS,
    save_to: Annotated[str | Path, DESTINATION] = Path(),
    name: str | None = None,
    overwrite: Annotated[bool, Parameter(show_default=False)] = False,
    via: str | None = None,
    timeout: Annotated[float | None, POSITIVE] = None,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> None:
    """Run one request, wait for the result, save its files and print their paths.

    SOUNDPIECE_API_KEY holds the API key; SOUNDPIECE_BASE_URL selects a service other than the public one.

    Exit codes: 0 saved; 1 failed; 2 usage error or invalid input, nothing was sent; 3 account error (invalid
    key, no credits); 130 interrupted.

    Args:
        route: route of the request.
        first: its lyrics, prompt or source, whichever is its first field; same as the flag of that name.
        flags: fields of the request.
        save_to: folder for the files, or a URL in an object store such as s3://bucket/songs.
        name: name of the files, instead of the operation id.
        overwrite: replace existing files of that name.
        via: folder in a bucket, such as s3://bucket/inbox, to which a local file given as source or reference is
            uploaded for the service; the object is named by its content, and stays.
        timeout: seconds for each of two steps: to retry the submit (default: 60), to wait for the result (default: no
            limit).
        as_json: print one line of JSON instead.
    """
    request = build_request(route, flags, first=first, with_files=via is not None)
    upload = _prepare_upload(request, via)
    await ensure_writable(save_to)
    if name is not None and not overwrite and flags.idempotency_key is None:  # files of an explicit key may exist
        await require_unused_name(save_to, name, request)
    request = request if upload is None else await _upload(request, upload, via)
    async with make_session(timeout) as session:
        operation = await _submit(session, request)
        started = anyio.current_time()
        print_status(f"{operation.handle} {operation.status}; resume with: soundpiece get {operation.handle}")
        operation = await session.wait(operation, timeout=timeout)
        waited = anyio.current_time() - started
        print_status(
            f"{operation.handle} {operation.status} after {waited:.1f} s, {pluralize(len(operation.outputs), 'file')}"
        )
        files = await session.download(operation, save_to, name=name, overwrite=overwrite)
    print_status(f"{operation.handle} saved {format_size(sum(file.bytes for file in files))}")
    text = format_json_line(operation, files, waited=waited) if as_json else "\n".join(file.location for file in files)
    print_result(text, kept=format_saved(files))


def make_session(timeout: float | None) -> "Session":
    """Return a session from the environment, with fewer retries than the default.

    Args:
        timeout: seconds of retries of a submit; None: ``SUBMIT_PATIENCE``.
    """
    from soundpiece_async import Session  # it brings aiohttp, and --help needs neither

    return Session(Settings(retries=RetryPolicy(submit_max_elapsed=SUBMIT_PATIENCE if timeout is None else timeout)))


def build_request(route: str, flags: RequestFlags, *, first: str | None = None, with_files: bool = False) -> Request:
    """Return the request of a route from flags, and from its first field if that was given without its flag.

    Args:
        route: of the request.
        flags: fields; None: not given.
        first: the first field.
        with_files: the source or reference may be the path of a local file, which is uploaded later.

    Raises:
        UsageError: a flag is missing, invalid, or unknown to the route.
    """
    kind = ROUTES[route]
    own = attrs.fields_dict(kind)
    values = attrs.asdict(flags)
    given = {name: value for name, value in values.items() if value is not None}
    if first is not None:
        _set_first_field(given, first, kind)
    if "duration" in own:
        given.setdefault("duration", DEFAULT_DURATION)
    foreign = [name for name in given if name not in own]
    missing = [name for name, member in own.items() if member.default is attrs.NOTHING and name not in given]
    if foreign or missing:
        wrong = f"does not accept {_flag_names(foreign)}" if foreign else f"requires {_flag_names(missing)}"
        raise UsageError(f"{route} {wrong}; its flags are {_flag_names(name for name in values if name in own)}")
    request = kind(**given)
    is_file = _is_path(find_source(request))
    skipped = [_source_name(request)] if is_file and with_files else []
    if faults := [f"{_flag_names([field])} {fault}" for field, fault in violations(request) if field not in skipped]:
        hint = "; to upload a local file, add --via s3://bucket/folder" if is_file and not with_files else ""
        raise UsageError(f"{route}: {'; '.join(faults)}{hint}; nothing was sent")
    return request


def _prepare_upload(request: Request, via: str | None) -> "SourceUpload | None":
    """Return the upload of the local file that is the source of a request.

    Raises:
        UsageError: there is no such file, or ``--via`` without one, or one without ``--via``.
        InvalidRequest, SettingsError: it cannot be uploaded there.
    """
    source = find_source(request)
    if via is None:
        return None
    if not _is_path(source):
        raise UsageError("--via is for a local file as --source or --reference; nothing was sent")
    if not Path(str(source)).is_file():
        raise UsageError(f"{_flag_names([_source_name(request)])} {source}: no such file; nothing was sent")
    return upload_source(str(source), via)


async def _upload(request: Request, upload: "SourceUpload", via: str | None) -> Request:
    """Return the request with the uploaded file as its source."""
    print_status(f"{find_source(request)} uploading to {redact_url(str(via))}")
    changes: dict[str, Any] = {_source_name(request): await upload}
    return attrs.evolve(request, **changes)


def _source_name(request: Request) -> str:
    return next(name for name in SOURCE_FIELDS if hasattr(request, name))


def _is_path(source: object) -> bool:
    return isinstance(source, str) and "://" not in source


def _set_first_field(given: dict[str, object], value: str, kind: type[Request]) -> None:
    """Add the field that was given without its flag: the positional one of the request class."""
    name = next(member.name for member in attrs.fields(kind) if not member.kw_only)
    if name in given:
        raise UsageError(f"{kind.route} has two values for {_flag_names([name])}; give one of them")
    given[name] = read_lyrics(value) if name == "lyrics" else value


def format_json_line(operation: Operation[Request], files: Sequence[SavedFile], *, waited: float) -> str:
    """Return one line of JSON about a finished request, without signed URLs. Times are in seconds."""
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
            f"{request.route}: no response to the submit for {anyio.current_time() - started:.1f} s; it may have been "
            "accepted; to resume without paying twice, run the same command with "
            f"--idempotency-key {request.idempotency_key}"
        )
        raise


def _flag_names(names: Iterable[str]) -> str:
    return " ".join(f"--{name.replace('_', '-')}" for name in names)

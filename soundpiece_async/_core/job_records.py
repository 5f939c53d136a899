"""The jobs of a recorded run: their identity, states and failures, and how they are stored.

1. A job goes planned, sending, submitted, ready, saved. ``sending`` is written before the PUT leaves; from
   ``submitted`` on an operation exists, and nothing is ever submitted again.
2. ``failed`` is what the same key cannot change; of an operation that exists, only the service says so. An outage, an
   empty account or a wrong API key leave the state as it is; and what may have been accepted stays ``sending``,
   whatever the service answers to its repeats.
3. How long the service remembers a key is UNKNOWN (docs/api.md#idempotency): what was sent a day ago and never answered
   is *uncertain*. That is not stored: it follows from ``sending`` and the time.
4. An operation that the service does not know any more is uncertain as well; that is stored, with its id, which the
   next run asks for again before anything else.
5. A job is identified by the digest of its route and fields, and by which occurrence of that digest it is in the
   run: two equal lines are two jobs, an edited line is a new one, an inserted line moves none of the others.
6. The key is no part of the digest. A key that the user passed, and that was not generated here, is the whole identity
   by itself.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Literal, TypeVar

import attrs

from soundpiece_async._core import wire
from soundpiece_async._core.attempts import is_rejected
from soundpiece_async._core.errors import (
    ApiError,
    BadRequest,
    CorruptAudio,
    DownloadError,
    InvalidRequest,
    NotFound,
    OperationFailed,
    SoundpieceError,
    ValidationError,
)
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.operations import AnyOperation, Operation, OperationError, Status
from soundpiece_async._core.redaction import forget_arguments, redact_message, redact_url
from soundpiece_async._core.requests import (
    SOURCE_FIELDS,
    URL_RENEWAL_MARGIN,
    AudioSource,
    Handle,
    Output,
    Request,
    Source,
)

R = TypeVar("R", bound=Request)

KEY_LIFETIME = 24 * 3600.0
"""Seconds after which a PUT without a response is sent again only on explicit request (rule 3)."""


EXPIRED = datetime.fromtimestamp(0, UTC)
"""When stored URLs expired that are not signed any more."""


class JobState(StrEnum):
    """The progress of a job."""

    PLANNED = "planned"
    """Its key and body are fixed; no PUT has left."""
    SENDING = "sending"
    """A PUT may have left; no response is known."""
    SUBMITTED = "submitted"
    """The service gave an operation id."""
    READY = "ready"
    """Its outputs and their numbers are known."""
    SAVED = "saved"
    """Its files are whole and on disk."""
    FAILED = "failed"
    """Retrying with the same key cannot succeed. Failed downloads are still retried (free)."""
    UNCERTAIN = "uncertain"
    """``SENDING`` for more than a day (rule 3), or an operation that the service does not know (rule 4)."""


@attrs.frozen
class Failure:
    """Why a job failed, as it is stored.

    Attributes:
        kind: the class of the error.
        code: the operation's error code, or the HTTP status, or empty.
        text: for people.
        retryable: whether the same request may succeed with a new key, which is paid for again.
    """

    kind: str
    code: str
    text: str
    retryable: bool


def _as_tuple(texts: Iterable[str]) -> tuple[str, ...]:
    """Return what JSON knows as a list only."""
    return tuple(texts)


@attrs.frozen(kw_only=True)
class FileRecord:
    """A saved file as it is stored: ``path`` is relative to the journal's folder, so that both may move, or a URL.

    Of an object, ``endpoint`` is that of its store, or its account, where it is not the provider's own. ``verified`` is
    the level of checks it has passed, or None for files of versions that did not record it. ``missing``: an object
    was looked for, and is not there as it was saved.
    """

    path: str
    bytes: int
    sha256: str
    duration: float
    sample_rate: int
    channels: int
    index: int
    url: str | None = None
    endpoint: str | None = None
    warnings: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple)
    verified: Literal["header", "full", "none"] | None = None
    missing: bool = False


@attrs.frozen
class Annotation:
    """The user's data on a job, which is no part of its identity.

    Attributes:
        name: the stem of its files.
        metadata: any JSON value.
        line: of the file that it was read from.
        source: the output of another operation that it is made from, as ``describe_source`` has it.
    """

    name: str | None = None
    metadata: JsonValue = attrs.field(default=None, repr=False)
    line: int | None = None
    source: str | None = None

    def as_row(self) -> tuple[str | None, str | None, int | None, str | None]:
        """Return all as they are stored; ValueError or TypeError if the metadata has no JSON form."""
        metadata = None if self.metadata is None else json.dumps(self.metadata, allow_nan=False)
        return self.name and self.name.encode(errors="replace").decode(), metadata, self.line, self.source

    def put_on(self, job: "JobRecord", *, title: str | None) -> "JobRecord":
        """Return a job with this annotation, and a title."""
        return attrs.evolve(job, **attrs.asdict(self, recurse=False), title=title)

    @classmethod
    def of(cls, job: "JobRecord") -> "Annotation":
        """Return the annotation of a job."""
        return cls(job.name, job.metadata, job.line, job.source)


NO_ANNOTATION = Annotation()


def describe_source(request: Request) -> str | None:
    """Return which output of another operation a request is made from, as ``<handle>#<index>``; None: of none."""
    source = find_source(request)
    return f"{source.handle}#{source.index}" if isinstance(source, Output) else None


def find_source(request: Request) -> Source | None:
    """Return the audio that a request is made from: each route has one such field at most."""
    return next((found for name in SOURCE_FIELDS if (found := getattr(request, name, None))), None)


def restore_source(job: "JobRecord", request: Request) -> Output | None:
    """Return the output that the body of a job was made of; as expired, so that it is renewed before it is sent."""
    source = find_source(request)
    if job.source is None or not isinstance(source, AudioSource):
        return None
    handle, _, index = job.source.rpartition("#")
    return Output(url=source.url, expires_at=EXPIRED, handle=Handle.parse(handle), index=int(index))


def find_renewal(request: Request, body: bytes, *, outputs: Iterable[Output], now: datetime) -> datetime | None:
    """Return when the URL of a source in a body is to be renewed: a minute before it expires.

    Args:
        request: its source may have another URL than the body, which was made earlier.
        body: of every PUT so far.
        outputs: of the operation that the source is an output of, as they were last seen.
        now: by the server's clock.

    Returns:
        ``EXPIRED``: the body has an older URL than the source. None: the URL lasts, or cannot be renewed.
    """
    source = find_source(request)
    if not isinstance(source, Output | AudioSource):
        return None
    for one in (source, *outputs):
        if json.dumps(one.url, ensure_ascii=False).encode() in body:
            return _renew_at(one) if isinstance(one, Output) or one.renew is not None else None
    if isinstance(source, Output):
        return EXPIRED
    latest = _renew_at(source)
    return EXPIRED if source.sha256 is not None and (latest is None or now < latest) else None


def _renew_at(source: Output | AudioSource) -> datetime | None:
    """Return when the URL of a source can be used for a minute only; None: it lasts, as far as is known."""
    until = source.expires_at
    return until and (until if until.tzinfo else until.replace(tzinfo=UTC)) - URL_RENEWAL_MARGIN


@attrs.frozen(kw_only=True)
class JobRecord:
    """One job as it is stored.

    Attributes:
        number: in the journal.
        digest: of the request it was made from.
        key: the idempotency key.
        route: of the request.
        body: the bytes of every PUT.
        state: as stored: ``UNCERTAIN`` is rule 4 only.
        sent_at: when its first PUT left, in seconds since 1970.
        operation: the operation's id.
        created_at: when the service says it was submitted.
        echo_differences: fields of the request that the service echoed differently.
        outputs, files: what it became.
        failure: why it failed.
        name: the requested file stem.
        metadata: any JSON value, kept for the user.
        line: of the jobs file, where it stood in the latest run that read it.
        source: the output of another operation that it is made from: ``<handle>#<index>``.
        title: the stem of its files, unique in the run; None: not known yet.
        submitted_at, ready_at, ended_at: when its operation, its outputs, and its files or its failure came to be
            known here, in seconds since 1970.
        attempt: how often it was planned again, with a new key, in a journal that counts it.
        taken: the claim of the process that works on it, in a journal that several write.
    """

    number: int
    digest: bytes = attrs.field(repr=False)
    key: str
    route: str
    body: bytes = attrs.field(repr=False)
    state: JobState
    sent_at: float | None = None
    operation: str | None = None
    created_at: datetime | None = None
    echo_differences: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    files: tuple[FileRecord, ...] = ()
    failure: Failure | None = None
    name: str | None = None
    metadata: JsonValue = attrs.field(default=None, repr=False)
    line: int | None = None
    source: str | None = None
    title: str | None = None
    submitted_at: float | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    attempt: int = 0
    taken: int = attrs.field(default=0, repr=False)

    @property
    def ended(self) -> bool:
        """True when it failed for good."""
        return self.state is JobState.FAILED and self.failure is not None and not self.outputs

    def is_uncertain(self, *, now: float) -> bool:
        """Return whether it was sent too long ago to be resent (rule 3); ``now`` in seconds since 1970."""
        return self.state is JobState.SENDING and self.sent_at is not None and now - self.sent_at > KEY_LIFETIME


def classify_failure(error: SoundpieceError, *, submitted: bool, in_doubt: bool = False) -> Failure | None:
    """Return the failure to store if an error ends a job permanently (rule 2), else None.

    Args:
        error: what went wrong.
        submitted: whether an operation exists. Asking for one costs nothing, so a refused GET ends nothing.
        in_doubt: whether an attempt with the same key may have been accepted.

    Returns:
        None: the state stays, and the next run continues from it.
    """
    kind = type(error).__name__
    match error:
        case OperationFailed(operation=Operation(error=OperationError(code=code, message=message))):
            return Failure(kind, redact_message(code), redact_message(message), retryable=True)
        case ApiError(status=status) if not submitted and is_rejected(error, in_doubt=in_doubt):
            return Failure(kind, str(status), str(error), retryable=False)
        case DownloadError() if isinstance(error, CorruptAudio) or error.__cause__ is None:
            return Failure(kind, "", str(error), retryable=True)  # with a cause, the disk or the network is at fault
    return None


def unknown_failure(error: NotFound) -> Failure:
    """Return what to store of an operation that the service does not know (rule 4)."""
    return Failure(NotFound.__name__, str(error.status), str(error), retryable=True)


def restore_operation(job: JobRecord, request: R) -> Operation[R]:
    """Return the operation of a stored job, as far as it is known; ``raw`` is empty.

    Raises:
        ValueError: it has none.
    """
    if job.operation is None:
        raise ValueError(f"job {job.key} has no operation")
    error = None
    if job.failure is not None and job.failure.kind == OperationFailed.__name__:
        error = OperationError(job.failure.code, job.failure.text)
    return Operation(
        route=job.route,
        id=job.operation,
        status=Status.FAILED if error else Status.READY if job.outputs else Status.PROCESSING,
        created_at=job.created_at,
        idempotency_key=job.key,
        request=request,
        outputs=job.outputs,
        error=error,
        echo_differences=job.echo_differences,
    )


def restore_error(failure: Failure, *, operation: AnyOperation | None) -> SoundpieceError:
    """Return the error of a stored failure; details such as ``fields`` are only in its text."""
    match failure.kind:
        case "OperationFailed" if operation is not None:
            return OperationFailed(wire.failure_message(operation), operation=operation)
        case kind if failure.code.isdigit():
            classes: dict[str, type[ApiError]] = {"BadRequest": BadRequest, "ValidationError": ValidationError}
            return classes.get(kind, ApiError)(failure.text, status=int(failure.code))
    return SoundpieceError(failure.text)


def write_outputs(outputs: tuple[Output, ...]) -> str:
    """Write outputs as JSON, without the operation they belong to."""
    return json.dumps(
        [
            {
                "index": output.index,
                "kind": output.kind,
                "duration": output.duration,
                "expires_at": output.expires_at.isoformat() if output.expires_at else None,
                "url": output.url,
            }
            for output in outputs
        ]
    )


def unsign_outputs(text: str) -> str:
    """Return stored outputs without what signs their URLs, and as expired: they are renewed before they are used.

    Raises:
        ValueError, TypeError, LookupError: the text is not what ``write_outputs`` wrote.
    """
    return json.dumps([_unsign(members) for members in json.loads(text)])


def _unsign(members: JsonObject) -> JsonObject:
    url = redact_url(members["url"])
    return members if url == members["url"] else {**members, "url": url, "expires_at": EXPIRED.isoformat()}


def read_outputs(text: str, *, handle: Handle) -> tuple[Output, ...]:
    """Read what ``write_outputs`` wrote; ValueError, TypeError or KeyError if it did not."""
    return tuple(
        Output(**{**members, "expires_at": read_time(members["expires_at"]), "handle": handle})
        for members in json.loads(text)
    )


def write_files(files: tuple[FileRecord, ...]) -> str:
    """Write the records of files as JSON."""
    return json.dumps([attrs.asdict(file) for file in files])


def read_files(text: str) -> tuple[FileRecord, ...]:
    """Read what ``write_files`` wrote; ValueError or TypeError if it did not."""
    return tuple(FileRecord(**members) for members in json.loads(text))


def read_time(text: str | None) -> datetime | None:
    """Read an ISO 8601 time, in UTC without a zone, or None; ValueError if it is invalid."""
    time = None if text is None else datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


_DIGEST_BYTES = 16
_SORTED = json.JSONEncoder(sort_keys=True)


@attrs.frozen(kw_only=True)
class JobIdentity:
    """The identity of a job (rules 5 and 6).

    Attributes:
        digest: of route and fields.
        occurrence: the n-th of that digest in this run, from 1; None: ``key`` was given.
        key: the key that was given; None: it was made, and the journal's own counts.
    """

    digest: bytes
    occurrence: int | None = None
    key: str | None = None


def digest(request: Request) -> bytes:
    """Return a content digest of the request, excluding its key; the same in every process and version.

    Fields at their defaults count as absent, so that a field of a later version changes nothing. JSON values are
    compared: 2 is 2.0. An ``Output`` counts by operation and number, because its URL is signed again each time.

    Raises:
        InvalidRequest: a field has no JSON form.
    """
    members = {}
    kind: type = type(request)  # a plain class, which a cache may hold
    for name, default in _list_members(kind):
        value = getattr(request, name)
        if value is default:  # most are, and then need not be written to be compared
            continue
        text = json.dumps(value) if type(value) is str else _canonical_json(request, name, value)
        if default is attrs.NOTHING or text != _canonical_json(request, name, default):
            members[name] = text
    whole = _SORTED.encode([request.route, members])
    return hashlib.blake2b(whole.encode(), digest_size=_DIGEST_BYTES).digest()


@cache
def _list_members(kind: type[Request]) -> tuple[tuple[str, object], ...]:
    """Return the name and the default of each member but the key."""
    return tuple((member.name, member.default) for member in attrs.fields(kind) if member.name != "idempotency_key")


@forget_arguments
def _canonical_json(request: Request, name: str, value: object) -> str:
    """Write a field as JSON of one form; sources by what they are, whole numbers without a fraction."""
    match value:
        case Output():
            value = {"operation": str(value.handle), "index": value.index}
        case AudioSource(sha256=str() as sha256):
            value = {"sha256": sha256}
        case AudioSource():
            value = value.url
        case float() if value.is_integer():
            value = int(value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{request.route}: {name} cannot be encoded as JSON: {error}; nothing was sent", field=name
        ) from error

"""The models of results: operations, their errors, saved files, outcomes of requests, statistics."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import attrs

from soundpiece_async._core import showing
from soundpiece_async._core.errors import SoundpieceError
from soundpiece_async._core.outputs import Handle, Output
from soundpiece_async._core.redaction import hide_secrets, redact_text, redacted_repr
from soundpiece_async._core.requests import Request

R_co = TypeVar("R_co", bound=Request | None, covariant=True)


class Status(StrEnum):
    """The status of an operation. Open: an unknown status is kept and counts as not final (docs/api.md#status)."""

    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"

    @classmethod
    def _missing_(cls, value: object) -> "Status | None":
        if not isinstance(value, str):
            return None
        status = str.__new__(cls, value)
        status._name_ = status._value_ = value
        return status

    def __repr__(self) -> str:
        return f"<Status.{redact_text(self.name)}: {redact_text(self.value)!r}>"

    @property
    def final(self) -> bool:
        """True when the operation will not change any more."""
        return self in (Status.READY, Status.FAILED)


@attrs.frozen
class OperationError:
    """The reason of a failure. The set of codes is open; code and message are as they came.

    See docs/api.md#operation-errors.

    ``str(error)`` is one printable line of them without secrets, good for a log or a terminal.
    """

    code: str = attrs.field(repr=redacted_repr)
    message: str = attrs.field(repr=redacted_repr)

    def __str__(self) -> str:
        return redact_text(": ".join(part for part in (self.code, self.message) if part))


@attrs.frozen(kw_only=True)
class Operation(Generic[R_co]):
    """One operation of the service, as it was last read.

    Attributes:
        route: as ``create.new_song``.
        id: opaque handle of the operation on its route.
        status: see ``Status``; unknown ones are kept and count as not final.
        created_at: the time of submission; None if the service did not name it.
        idempotency_key: the request's key, as echoed; None if the service did not echo it.
        request: the request object; of an operation known by its handle only, rebuilt from the echo, or None.
        outputs: the audio files, once ready; a single one is a tuple, too.
        error: the reason, once failed.
        echo_differences: names of the request's members that the service echoed otherwise than they were sent.
        raw: the JSON object as it came, unknown members included. Holds signed URLs; not in the repr.
    """

    route: str = attrs.field(repr=redacted_repr)
    id: str = attrs.field(repr=redacted_repr)
    status: Status
    created_at: datetime | None = None
    idempotency_key: str | None = attrs.field(default=None, repr=redacted_repr)
    request: R_co = attrs.field(repr=False)
    outputs: tuple[Output, ...] = ()
    error: OperationError | None = None
    echo_differences: tuple[str, ...] = ()
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @property
    def handle(self) -> Handle:
        """Route and id: store them to find this operation again."""
        return Handle(self.route, self.id)

    def to_dict(self, *, urls: bool = False) -> dict[str, Any]:
        """Return the operation as JSON values without secrets: for responses of web apps, logs and queues.

        ``Handle.parse`` of the member ``handle`` leads back to the operation. The members of the request are left out,
        because lyrics may be private and sources signed.

        Args:
            urls: include the signed URLs of the outputs. Anybody who has one can fetch the file while it is valid.
        """
        return {
            "handle": str(self.handle),
            "route": self.route,
            "id": self.id,
            "status": self.status.value,
            "created_at": self.created_at and self.created_at.isoformat(),
            "idempotency_key": self.idempotency_key and str(self.idempotency_key),
            "outputs": [output.to_dict(urls=urls) for output in self.outputs],
            "error": self.error and {"code": self.error.code, "message": hide_secrets(self.error.message)},
        }

    def __rich_repr__(self) -> showing.Fields:
        return showing.operation_fields(self)

    def _repr_html_(self) -> str:
        return showing.operation_html(self)


@attrs.frozen(kw_only=True)
class SavedFile:
    """A whole, verified file on disk, or object in a store.

    Attributes:
        path: where it is; None: it is an object in a store, at ``url``.
        bytes: its size.
        sha256: of its bytes, as hex.
        duration: length in seconds, by its own header.
        sample_rate: in Hz, by its own header.
        channels: by its own header.
        output: what it was made from.
        warnings: what is unusual about it and no reason to withhold it, in plain sentences.
        verified: the level of checks it has passed: ``"full"``: every frame was decoded and, if its header states one,
            the MD5 of its audio compared; ``"header"``: its size and its header; ``"none"``: its size.
        url: where an object is, as ``s3://bucket/songs/take.flac``; None: it is a file, at ``path``.
    """

    path: Path | None
    bytes: int
    sha256: str
    duration: float
    sample_rate: int
    channels: int
    output: Output
    warnings: tuple[str, ...] = ()
    verified: Literal["header", "full", "none"] = "none"
    url: str | None = None

    @property
    def location(self) -> str:
        """Where it is, as text: the path of a file, the URL of an object."""
        return self.url or str(self.path)

    @property
    def name(self) -> str:
        """Its file name."""
        return self.location.rpartition("/")[2] if self.path is None else self.path.name

    def to_dict(self, *, urls: bool = False) -> dict[str, Any]:
        """Return it as JSON values; ``path`` is as it was given, ``output`` as ``Output.to_dict`` has it."""
        return {
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "url": self.url,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "duration": self.duration,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "warnings": list(self.warnings),
            "output": self.output.to_dict(urls=urls),
        }

    def __rich_repr__(self) -> showing.Fields:
        return showing.file_fields(self)

    def _repr_html_(self) -> str:
        return showing.file_html(self)


@attrs.frozen(kw_only=True)
class Succeeded(Generic[R_co]):
    """A request that succeeded: its operation is ready, and its files are saved if a destination was named.

    Attributes:
        request: the caller's object.
        operation: ready.
        files: none without a destination.
        from_journal: True when an earlier run ended it, and nothing was asked of the service now.
    """

    request: R_co
    operation: Operation[R_co]
    files: tuple[SavedFile, ...] = ()
    from_journal: bool = attrs.field(default=False, repr=False)

    def to_dict(self, *, urls: bool = False) -> dict[str, Any]:
        """Return the operation and the files as JSON values, as ``Operation.to_dict`` and ``SavedFile.to_dict``."""
        files = [file.to_dict(urls=urls) for file in self.files]
        return {"operation": self.operation.to_dict(urls=urls), "files": files}

    def __rich_repr__(self) -> showing.Fields:
        return showing.succeeded_fields(self)

    def _repr_html_(self) -> str:
        return showing.succeeded_html(self)


@attrs.frozen(kw_only=True)
class Failed(Generic[R_co]):
    """A request that did not succeed.

    Attributes:
        request: the caller's object.
        operation: the operation as it was last seen, or None.
        error: the reason.
        from_journal: True if an earlier run ended it, and the service was not asked now.
    """

    request: R_co
    operation: Operation[R_co] | None
    error: SoundpieceError
    from_journal: bool = False

    def to_dict(self, *, urls: bool = False) -> dict[str, Any]:
        """Return the operation, if there is one, and the error as JSON values, as ``Operation.to_dict``."""
        operation = self.operation and self.operation.to_dict(urls=urls)
        error = {"type": type(self.error).__name__, "message": str(self.error), "retryable": self.error.retryable}
        return {"operation": operation, "error": error, "from_journal": self.from_journal}


@attrs.frozen(kw_only=True)
class Statistics:
    """A snapshot of a session. Counts are since its start.

    Attributes:
        submitted: operations the service accepted from this session.
        in_flight: operations somebody here waits for now.
        active_submits, active_polls: requests on the wire now.
        ready, failed: operations seen to end so; one that is read again after 4096 others is counted again.
        active_downloads: streams open now.
        downloads: files saved.
        bytes: bytes received from the output host.
        requests: requests sent to the API, retries included.
        rate_limited: answers 429.
        rate: requests per second that the rate gate allows now, for all processes that share it; None: unlimited.
        paused_for: seconds until the gate opens again; 0: it is open.
        queued: requests that wait for a slot or at the gate; polls, of which any number may be due, count as one.
        degraded: the service gives no usable answers; until it does, requests are sent singly, at growing intervals.
        detection_lag: mean seconds that ready operations can have gone unnoticed (0 for those seen inside a long poll).
        detection_lag_max: the worst of them.
        peers: live processes at the shared gate, this one included; 0: there is none (``Settings(shared=…)``).
        store_away: the store of the shared gate does not answer; this process goes on alone meanwhile.
        unknown_statuses: words for the status of operations that this version does not know; it polls on.
    """

    submitted: int = 0
    in_flight: int = 0
    active_submits: int = 0
    active_polls: int = 0
    ready: int = 0
    failed: int = 0
    active_downloads: int = 0
    downloads: int = 0
    bytes: int = 0
    requests: int = 0
    rate_limited: int = 0
    rate: float | None = None
    paused_for: float = 0.0
    queued: int = 0
    degraded: bool = False
    detection_lag: float = 0.0
    detection_lag_max: float = 0.0
    peers: int = 0
    store_away: bool = False
    unknown_statuses: tuple[str, ...] = ()

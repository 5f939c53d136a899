"""One tree of everything that can go wrong.

::

    SoundpieceError
    ├── SettingsError                      wrong settings
    ├── InvalidRequest (ValueError)        refused before anything was sent
    ├── NotReady                           the operation has no outputs yet
    ├── SessionClosed                      closed, or used from another event loop
    ├── TransportError         retryable   no usable response
    ├── ApiError                           a response with an error status
    │   ├── BadRequest 400 · AuthenticationError 401, 403 · InsufficientCredits 402 · NotFound 404
    │   ├── ValidationError 422
    │   ├── RateLimited 429    retryable
    │   └── ServerError 5xx    retryable
    ├── DecodeError                        a response that does not match the API
    ├── OperationFailed                    the service gave up on the work
    ├── WaitTimeout (TimeoutError)         nothing is lost: wait again
    ├── DownloadError
    │   └── CorruptAudio                   the bytes are not the FLAC they claim to be
    ├── JournalError
    ├── SharedStoreError                   the shared store cannot be used as configured
    └── WebhookError

``retryable`` is a class attribute and the whole retry table: true where sending the same bytes again may help.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar, Literal, Self, TypeAlias, TypeVar, cast

import attrs

from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.redaction import redact_message, redact_text, redact_url, redacted_repr
from soundpiece_async._core.requests import Handle

E = TypeVar("E", bound="SoundpieceError")

FailureKind: TypeAlias = Literal["address", "connect", "drop", "timeout", "response", "body", "rejected"]


class SoundpieceError(Exception):
    """Base of the library's own errors; an error about an operation names it by ``operation`` and ``handle``.

    Foreign text in a message (of the service, a host, a file system) is one printable line without secrets.

    Attributes:
        stops_run: True when every other request would fail in the same way (a rejected key, insufficient credits, an
            unwritable destination, an address that never answered): ``run_many`` submits nothing more then.
        retry_after: seconds the service asked to wait, or None.
    """

    retryable: ClassVar[bool] = False
    stops_run: bool = False
    retry_after: float | None = None
    _operation: AnyOperation | None = None
    _handle: Handle | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_message(message))

    @property
    def operation(self) -> AnyOperation | None:
        """The operation as it was last seen, or None when only its handle is known, or not even that."""
        return self._operation

    @property
    def handle(self) -> Handle | None:
        """Route and id of the operation: accepted by ``wait``, ``refresh`` and ``download``."""
        return self._handle if self._operation is None else self._operation.handle

    def about(self, handle: Handle | None = None, *, operation: AnyOperation | None = None) -> Self:
        """Name the operation the error is about, where it does not name one yet; returns the error itself."""
        self._handle = self._handle or handle
        self._operation = self._operation or operation
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy an error; Python's default would call the class without its keyword arguments."""
        return _revive, (type(self), self.args), self.__dict__


class SettingsError(SoundpieceError):
    """A setting is missing or invalid; nothing was sent."""

    stops_run = True


class InvalidRequest(SoundpieceError, ValueError):
    """A request that breaks the rules of the API, refused at submit before anything was sent.

    Attributes:
        field: the invalid field.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotReady(SoundpieceError):
    """The operation has no outputs yet: wait for it, or refresh it later. Nothing is lost."""


class SessionClosed(SoundpieceError):
    """The session was closed, was never started, or is used from another event loop than the one it was started in."""


class TransportError(SoundpieceError):
    """No usable response: no connection, a drop, a timeout, or a 2xx that is not JSON. Retry with the same key.

    Attributes:
        sent: False when nothing of the request left, for certain, because there was no connection; of several attempts
            it is about the last one.
        local_shortage: this machine was short of descriptors, buffers or memory; waiting helps, and is no failed
            attempt.
        stale: the host closed a connection it had kept open, in the moment it was used again.
        kind: what went wrong: ``"address"`` (no such name, its certificate is not trusted, or it does not use TLS:
            probably a setting), ``"connect"`` (no connection), ``"drop"``, ``"timeout"``, ``"response"`` (one that is
            not HTTP, or in an encoding that is not installed), ``"body"`` (a 2xx that is not JSON), or ``"rejected"``
            (an attempt may have been accepted, and its repeats are rejected; the rejection is the ``__cause__``).
    """

    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        kind: FailureKind = "drop",
        retry_after: float | None = None,
        local_shortage: bool = False,
        stale: bool = False,
    ) -> None:
        super().__init__(message)
        self.sent = sent
        self.kind: FailureKind = kind
        self.retry_after = retry_after
        self.local_shortage = local_shortage
        self.stale = stale


@attrs.frozen
class FieldError:
    """One entry of a 422: where, what for people, and the stable code for programs (docs/api.md#http-errors)."""

    loc: tuple[str | int, ...] = attrs.field(repr=lambda loc: redact_text(repr(loc)))
    msg: str = attrs.field(repr=redacted_repr)
    type: str = attrs.field(repr=redacted_repr)


class ApiError(SoundpieceError):
    """An HTTP error of the API.

    Attributes:
        status: the HTTP status.
        detail: the body's ``detail`` as it came (text, list or object), or None.
        body: the parsed JSON, or the text if it is not JSON.
        headers: the response's headers.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        detail: JsonValue = None,
        body: JsonValue = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.body = body
        self.headers: Mapping[str, str] = headers or {}
        self.retry_after = retry_after


class BadRequest(ApiError):
    """400: the body could not be read."""


class AuthenticationError(ApiError):
    """401 or 403: the key is missing, wrong or revoked, or this address is not on the account's allowlist.

    A 403 without the API's JSON body (an object with ``detail``) comes from something in between, such as a firewall,
    and is about one request: its ``stops_run`` is False.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        detail: JsonValue = None,
        body: JsonValue = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, detail=detail, body=body, headers=headers, retry_after=retry_after)
        self.stops_run: bool = status != HTTPStatus.FORBIDDEN or (isinstance(body, dict) and "detail" in body)


class InsufficientCredits(ApiError):
    """402: the account has too few credits. Submit the same request, with the same key, again after topping up.

    What a 402 does: it is not retried (``attempts.judge_submit``), and a single call raises it. It has ``stops_run``,
    so the transport sets the ``StopSignal`` of every run: nothing more is submitted, each request that is left becomes
    ``Failed`` with a copy, and operations in flight are still read and downloaded. With a journal the jobs keep their
    state and their keys, and other processes of the run stop as well (``recorded_run``). ``soundpiece`` exits with 3.
    """

    stops_run = True


class NotFound(ApiError):
    """404: this URL does not exist (the base URL is probably wrong), or the service does not know an operation.

    Of an operation (``handle`` names it) it is raised by ``wait`` only after the service has reported it for a minute.
    """


class ValidationError(ApiError):
    """422: the service rejected a field.

    Attributes:
        fields: the rejected fields, with reasons.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        detail: JsonValue = None,
        body: JsonValue = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        fields: tuple[FieldError, ...] = (),
    ) -> None:
        super().__init__(message, status=status, detail=detail, body=body, headers=headers, retry_after=retry_after)
        self.fields = fields


class RateLimited(ApiError):
    """429: the account sent requests too fast."""

    retryable: ClassVar[bool] = True


class ServerError(ApiError):
    """5xx: a fault of the service. Retry with the same key."""

    retryable: ClassVar[bool] = True


class DecodeError(SoundpieceError):
    """A response that does not match the API, or that echoes another idempotency key than the one sent.

    Attributes:
        path: where in the operation, such as ``outputs[0].url``, or empty if no operation could be found.
        body: the response's JSON as received, or None. May contain signed URLs.
        operation: what could be read of it. An id that is known is never lost, and never paid for twice.
    """

    def __init__(
        self, message: str, *, path: str = "", body: JsonValue = None, operation: AnyOperation | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.body = body
        self._operation = operation


class OperationFailed(SoundpieceError):
    """The operation failed; to try again, create a new request (with a new key)."""

    def __init__(self, message: str, *, operation: AnyOperation) -> None:
        super().__init__(message)
        self._operation = operation

    @property
    def operation(self) -> AnyOperation:
        """The operation that failed; its ``error`` says why."""
        return cast("AnyOperation", self._operation)

    @property
    def handle(self) -> Handle:
        """Route and id of the operation."""
        return self.operation.handle


class WaitTimeout(SoundpieceError, TimeoutError):
    """The caller's timeout passed. The operation continues: wait for it again, later or elsewhere, by its handle.

    Attributes:
        handle: route and id.
        operation: the operation as it was last seen, or None when only the handle was known.
    """

    def __init__(self, message: str, *, handle: "Handle", operation: AnyOperation | None = None) -> None:
        super().__init__(message)
        self._handle = handle
        self._operation = operation

    @property
    def handle(self) -> Handle:
        """Route and id of the operation."""
        return cast("Handle", self._handle)


class DownloadError(SoundpieceError):
    """An output could not be downloaded or saved; no file with the final name was left behind.

    Attributes:
        url: where from, without the query that signs it.
        path: where to.
        received: bytes that had arrived.
        retry_after: seconds that the host asked to wait, when that is why it was given up.
    """

    retry_after: float | None = None

    def __init__(self, message: str, *, url: str, path: str, received: int = 0) -> None:
        super().__init__(message)
        self.url: str = redact_url(url)
        self.path = path
        self.received = received


class CorruptAudio(DownloadError):
    """The bytes arrived and are not the FLAC they claim to be."""


class JournalError(SoundpieceError):
    """The journal of a bulk run cannot be opened, written or locked, or a job's state is uncertain.

    Attributes:
        ends_run: True when no other job of the run could be recorded, either.
    """

    ends_run: ClassVar[bool] = True


class SharedStoreError(SoundpieceError):
    """The store that the processes of an account share cannot be used as configured: its extra is not installed."""


class WebhookError(SoundpieceError):
    """A webhook that is malformed, not authentic, too old or too large.

    Attributes:
        http_status: the HTTP status to answer it with: 400 malformed, 401 wrong signature, 413 too large.
    """

    def __init__(self, message: str, *, http_status: int = 400) -> None:
        super().__init__(message)
        self.http_status = http_status


def _revive(kind: type[E], args: tuple[object, ...]) -> E:
    error = kind.__new__(kind)
    error.args = args
    return error


def copy_error(error: E) -> E:
    """Return an equal error to raise: a shared one would collect the traceback and the notes of every waiter."""
    copy: E = _revive(type(error), error.args)
    copy.__dict__ |= error.__dict__
    if notes := getattr(error, "__notes__", None):
        copy.__notes__ = list(notes)
    copy.__cause__ = error.__cause__
    return copy


def detach(error: E) -> E:
    """Return an equal error that names no operation and holds no frames: one that many other requests will share."""
    copy = copy_error(error)
    copy._operation = copy._handle = None  # noqa: SLF001 - of this file
    return copy.with_traceback(None)

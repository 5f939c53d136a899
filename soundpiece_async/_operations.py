"""Submits requests, and reads operations.

A request is sent until it is answered, with the same bytes each time, and never again after that. The outputs of an
operation keep the numbers that they had when they were first seen.
"""

import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import attrs

from soundpiece_async._core import checks, codec, completion, hosts, wire
from soundpiece_async._core.attempts import Attempts
from soundpiece_async._core.checks import check_handle
from soundpiece_async._core.errors import DecodeError, DownloadError, InvalidRequest, SoundpieceError, copy_error
from soundpiece_async._core.gate import Priority
from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.operations import AnyOperation, Operation, Status, match_outputs
from soundpiece_async._core.parsing import ParsedOperation
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._core.requests import (
    SOURCE_FIELDS,
    URL_RENEWAL_MARGIN,
    AudioSource,
    Handle,
    Output,
    Request,
    explicit_key,
)
from soundpiece_async._core.retry import Budget
from soundpiece_async._core.wire import ApiRequest
from soundpiece_async._lifetime import NEVER, StopSignal
from soundpiece_async._locks import Lock
from soundpiece_async._logs import get_logger
from soundpiece_async._transport import Transport

R = TypeVar("R", bound=Request)
E = TypeVar("E", bound=Request | None)

logger = get_logger("operations")

MAX_CACHED = 4096
"""Operations whose outputs are cached; the least recently used is dropped first."""

MAX_NOTES = 1000
"""Distinct notes that are logged; a service may invent any number of statuses."""


@attrs.define(eq=False)
class _Renewal:
    """A request for renewed URLs. All callers that wait for it share its outcome."""

    lock: Lock = attrs.field(factory=Lock)
    error: SoundpieceError | None = None


class Reader:
    """One per session. Every operation that is read passes ``with_stable_outputs``."""

    def __init__(self, transport: Transport) -> None:
        self.ready: int = 0
        self.failed: int = 0
        self.unknown_statuses: dict[str, None] = {}
        self._noted: set[str] = set()
        self._transport = transport
        self._outputs: OrderedDict[Handle, tuple[Output, ...]] = OrderedDict()
        self._renewing: dict[Handle, _Renewal] = {}

    def __repr__(self) -> str:
        return f"<Reader cached={len(self._outputs)} renewing={len(self._renewing)}>"

    def take(self, reading: ParsedOperation) -> AnyOperation:
        """Return the operation of a response, as ``with_stable_outputs`` does, and log the notes about it."""
        self.note(reading)
        return self.with_stable_outputs(reading.operation)

    def note(self, reading: ParsedOperation) -> None:
        """Log the notes about a response, each once per session: the next ten thousand responses have them, too."""
        for note in reading.notes:
            if note.about not in self._noted and len(self._noted) < MAX_NOTES:
                self._noted.add(note.about)
                logger.warning("%s: %s (logged once)", reading.operation.handle, note.text)
        if reading.ending.unknown and len(self.unknown_statuses) < MAX_NOTES:
            self.unknown_statuses[redact_text(reading.ending.unknown)] = None

    def with_stable_outputs(self, operation: Operation[E]) -> Operation[E]:
        """Return an operation whose outputs have whole URLs and the numbers they had at first; count it at its end.

        Once an operation has ended, later outputs replace the cached ones, whatever its status is called: their URLs
        may have been renewed.
        """
        over = completion.is_over(operation)
        if not (over or operation.outputs):
            return operation
        operation, handle = self._resolve(operation), operation.handle
        known = self._outputs.get(handle)
        if not (over or known is not None):
            return operation
        if known is None:
            self.ready += operation.status is Status.READY
            self.failed += operation.status is Status.FAILED
            return self._remember(operation, handle)
        self._outputs.move_to_end(handle)
        outputs = match_outputs(operation.outputs, known)
        return self._remember(attrs.evolve(operation, outputs=outputs), handle)

    def adopt(self, operation: Operation[E]) -> Operation[E]:
        """Return an operation that was read earlier, perhaps by another process; its outputs are the cached ones."""
        operation = self._resolve(operation)
        if not completion.is_over(operation):
            return operation  # it has no outputs yet
        handle = operation.handle
        known = self._outputs.get(handle)
        return self._remember(operation, handle) if known is None else attrs.evolve(operation, outputs=known)

    def _resolve(self, operation: Operation[E]) -> Operation[E]:
        """Return an operation whose outputs have whole URLs."""
        base = self._transport.base_url
        whole = [hosts.resolve(output.url, base) for output in operation.outputs]
        if whole == [output.url for output in operation.outputs]:
            return operation
        pairs = zip(operation.outputs, whole, strict=True)
        return attrs.evolve(operation, outputs=tuple(attrs.evolve(output, url=url) for output, url in pairs))

    def _remember(self, operation: Operation[E], handle: Handle) -> Operation[E]:
        self._outputs[handle] = operation.outputs
        if len(self._outputs) > MAX_CACHED:
            self._outputs.popitem(last=False)
        return operation

    def cached_outputs(self, handle: Handle) -> tuple[Output, ...]:
        """Return the outputs as they were last read, or an empty tuple."""
        return self._outputs.get(handle, ())

    async def read(
        self, handle: Handle, *, request: Request | None, key: str | None = None, priority: Priority = Priority.SUBMIT
    ) -> AnyOperation:
        """Read the current state of an operation, with a short poll."""
        call = wire.poll_request(handle, wait=False)
        read = partial(wire.parse_poll_response, handle=handle, request=request, key=key)
        try:
            return self.take(await self._transport.send(call, priority=priority, parse=read))
        except SoundpieceError as error:
            error.about(handle)
            raise

    async def refresh(self, what: AnyOperation | Handle) -> AnyOperation:
        """Read an operation again, with the request it had, if that is known."""
        if not isinstance(what, Operation):
            return await self.read(check_handle(what), request=None)
        try:
            latest = await self.read(what.handle, request=what.request, key=wire.key_of(what))
        except SoundpieceError as error:
            error.about(operation=what)
            raise
        return attrs.evolve(latest, echo_differences=what.echo_differences)

    async def renew(self, output: Output) -> Output:
        """Return an output with a renewed URL; concurrent calls for the same operation share one request.

        Raises:
            DownloadError: the output no longer exists.
            SoundpieceError: the request failed.
        """
        renewal = self._renewing.setdefault(output.handle, _Renewal())
        try:
            async with renewal.lock:
                if renewal.error is not None:  # otherwise each would retry for a whole budget, one after the other
                    raise copy_error(renewal.error)
                latest = await self._renew_once(output)
        except SoundpieceError as error:
            renewal.error = error
            raise
        finally:
            if not renewal.lock.locked:
                self._renewing.pop(output.handle, None)
        if latest is None:
            raise DownloadError(
                f"output {output.index} no longer exists on operation {output.handle}", url=output.url, path=""
            )
        return latest

    def find_latest(self, output: Output) -> Output:
        """Return an output as it was last read; its URL may have been renewed."""
        return self._find(output) or output

    async def _renew_once(self, output: Output) -> Output | None:
        latest = self.find_latest(output)
        if latest.url != output.url:
            return latest  # renewed meanwhile
        await self.read(output.handle, request=None, priority=Priority.RENEWAL)
        return self._find(output)

    def _find(self, output: Output) -> Output | None:
        return next((one for one in self.cached_outputs(output.handle) if one.index == output.index), None)


@attrs.define(eq=False)
class _Submission:
    """The state of one idempotency key, as long as its request object lives."""

    owner: "weakref.ref[Request]"  # when it is gone, this submission is removed
    lock: Lock = attrs.field(factory=Lock)
    attempts: Attempts = attrs.field(factory=Attempts)
    budget: Budget | None = None  # shared by concurrent submits
    outage: SoundpieceError | None = None  # the error of the latest submit, for those who waited for it
    body: bytes | None = attrs.field(default=None, repr=False)
    renew_at: datetime | None = None  # when the URLs of sources in it must be renewed
    raw: Mapping[str, JsonValue] | None = attrs.field(default=None, repr=False)
    """JSON of the operation only: the ``Operation`` would keep the request alive."""
    id: str = ""
    """Of the operation."""
    error: DecodeError | None = None


@attrs.define(eq=False)
class PreparedSubmit:
    """A PUT whose bytes were fixed earlier, perhaps by another process, and its attempts.

    Attributes:
        body: the bytes, made by ``Submitter.prepare``; so the request is not validated again.
        before_attempt: awaited before each attempt; returns when the bytes must not be sent any more, and it is to be
            awaited again; None: they may be sent at any time.
        attempts: the PUTs so far.
    """

    body: bytes = attrs.field(repr=False)
    before_attempt: Callable[[], Awaitable[datetime | None]]
    attempts: Attempts = attrs.field(factory=Attempts)


class Submitter:
    """Submits each request object at most once. One per session.

    Args:
        transport: sends the requests.
        reader: renews source URLs that are about to expire.
        validate: validate requests first.
    """

    def __init__(self, transport: Transport, reader: Reader, *, validate: bool) -> None:
        self.submitted: int = 0
        self._transport = transport
        self._reader = reader
        self._validate = validate
        self._submissions: dict[str, _Submission] = {}

    def __repr__(self) -> str:
        return f"<Submitter submitted={self.submitted} known={len(self._submissions)}>"

    async def prepare(self, request: Request, *, anew: bool = False) -> bytes:
        """Return the body of every PUT of this request. Nothing is sent but renewals; raises as ``submit``.

        ``anew``: the body it had certainly created nothing, and is replaced.
        """
        submission = self._register(request, validate=self._validate)
        async with submission.lock:
            if anew:
                submission.body = None
            return await self._encode(request, submission)

    async def submit(
        self, request: R, *, stop: StopSignal = NEVER, prepared: PreparedSubmit | None = None
    ) -> Operation[R]:
        """Send a request, or return the operation it already became.

        Args:
            request: the request.
            stop: of the run that the request belongs to.
            prepared: the body, if it is fixed already.

        Raises:
            InvalidRequest: refused here, nothing was sent.
            SoundpieceError: see ``Transport.send`` and ``wire.parse_submit_response``.
        """
        submission = self._register(request, validate=self._validate and prepared is None)
        queued = submission.lock.locked
        try:
            async with submission.lock:
                if submission.error is not None:
                    raise _copy_error(submission.error, request)
                # otherwise each would retry for a whole budget, one after the other
                if queued and submission.outage is not None:
                    raise copy_error(submission.outage)
                if submission.raw is None:
                    return await self._send(request, submission, stop, prepared)
        finally:
            if not submission.lock.locked:
                submission.budget = submission.outage = None
        handle = Handle(request.route, submission.id)
        known = wire.parse_with_echo(submission.raw, handle, request=request, body=submission.body, recorded=True)
        return self._reader.adopt(known.operation)

    def _register(self, request: Request, *, validate: bool) -> _Submission:
        checks.check_request(request)
        if validate:
            checks.validate(request)
        key = request.idempotency_key
        submission = self._submissions.get(key)
        if submission is None:
            submissions = self._submissions
            submission = submissions[key] = _Submission(weakref.ref(request, lambda _: submissions.pop(key, None)))
        owner = submission.owner()
        if owner is not None and owner is not request and owner != request:
            raise InvalidRequest(
                f"{request.route}: idempotency key {key} already stands for another request; use a fresh one",
                field="idempotency_key",
            )
        return submission

    async def _encode(self, request: Request, submission: _Submission) -> bytes:
        if submission.body is None:
            names = _list_renewable(request)
            if names:
                request = await self._renew_sources(request, names)
            submission.body = codec.encode_request(request)
            submission.renew_at = self._find_renewal(request, names) if names else None
        return submission.body

    async def _send(
        self, request: R, submission: _Submission, stop: StopSignal, prepared: PreparedSubmit | None
    ) -> Operation[R]:
        attempts = submission.attempts
        if prepared is not None:
            submission.body, submission.renew_at = prepared.body, None
            prepared.attempts.before |= attempts.may_have_been_accepted
            attempts = submission.attempts = prepared.attempts
        call = wire.submit_request(request, await self._encode(request, submission))
        submission.budget = submission.budget or self._transport.make_budget()
        before_attempt: Callable[[], Awaitable[ApiRequest]] | None = None
        if prepared is not None:
            before_attempt = partial(_ask_before_attempt, call, prepared)
        elif submission.renew_at is not None:
            before_attempt = partial(self._renew_before_attempt, request, submission)
        try:
            reading = await self._transport.send(
                call,
                priority=Priority.SUBMIT,
                parse=partial(wire.parse_submit_response, request=request, recorded=prepared is not None),
                stop=stop,
                before_attempt=before_attempt,
                attempts=attempts,
                budget=submission.budget,
            )
        except DecodeError as error:
            if error.operation is not None:  # the work was accepted: sending it again could be charged twice
                submission.error = _copy_error(error, None)
                self.submitted += 1
            else:
                submission.outage = error
            raise
        except SoundpieceError as error:
            if stop.error is None:  # the error that stopped a run is no outcome of the request
                submission.outage = error
            raise
        self.submitted += 1
        operation = self._reader.take(reading)
        submission.raw, submission.id = operation.raw, operation.id
        _report_echo(reading, operation, request)
        return operation

    async def _renew_before_attempt(self, request: Request, submission: _Submission) -> ApiRequest:
        """Return the PUT; build its bytes again if a URL in them expires and they were never sent."""
        sent = submission.attempts.started > 0
        if not sent and submission.renew_at and submission.renew_at <= self._transport.now:
            submission.body = None
        body = await self._encode(request, submission)
        return wire.submit_request(request, body, renew_at=None if sent else submission.renew_at)

    async def _renew_sources(self, request: Request, names: list[str]) -> Request:
        """Renew the URLs in these fields that are about to expire: outputs of operations, or those with a ``renew``."""
        changes: dict[str, Any] = {}
        for name in names:
            source = getattr(request, name)
            if self._expires(source):
                changes[name] = await self._renew_source(source)
        return attrs.evolve(request, **changes) if changes else request

    def _expires(self, source: object) -> bool:
        """Return whether the URL of a source expires soon."""
        expires_at = _find_expiry(source)
        return expires_at is not None and expires_at < self._transport.now + URL_RENEWAL_MARGIN

    async def _renew_source(self, source: Any) -> Output | AudioSource:
        if isinstance(source, Output):
            latest = self._reader.find_latest(source)
            return await self._reader.renew(latest) if self._expires(latest) else latest
        renewed = await source.renew()
        if not isinstance(renewed, AudioSource):
            raise TypeError(f"AudioSource.renew must return an AudioSource, not {type(renewed).__name__}")
        return renewed

    def _find_renewal(self, request: Request, names: list[str]) -> datetime | None:
        """Return when the sources in these fields, just renewed, should be renewed again; None: never.

        A new URL is used until it expires, however short its life is; one that has expired already, at any time.
        """
        expiries = [_find_expiry(getattr(request, name)) for name in names]
        known = [at for at in expiries if at is not None]
        if not known:
            return None
        now = self._transport.now
        later, early = [at for at in known if at > now], now + URL_RENEWAL_MARGIN
        return min((at - URL_RENEWAL_MARGIN if at > early else at for at in later), default=None)


async def _ask_before_attempt(call: ApiRequest, prepared: PreparedSubmit) -> ApiRequest:
    """Return the PUT of a prepared submit, once it may be sent."""
    return attrs.evolve(call, renew_at=await prepared.before_attempt())


def _list_renewable(request: Request) -> list[str]:
    """Return the fields of a request with a URL that expires and can be renewed."""
    given = [(name, source) for name in SOURCE_FIELDS if (source := getattr(request, name, None)) is not None]
    return [name for name, source in given if _find_expiry(source) is not None]


def _find_expiry(source: object) -> datetime | None:
    """Return when the URL of a source expires; None: never, or it cannot be renewed, or is unknown."""
    if isinstance(source, Output) or (isinstance(source, AudioSource) and source.renew is not None):
        return source.expires_at
    return None


def _copy_error(error: DecodeError, request: Request | None) -> DecodeError:
    """Return a copy: the error that was raised keeps the request alive, by its operation and by its traceback."""
    operation = error.operation and attrs.evolve(error.operation, request=request)
    return DecodeError(str(error), path=error.path, body=error.body, operation=operation)


def _report_echo(reading: ParsedOperation, operation: AnyOperation, request: Request) -> None:
    """Log an echo that differs so much that an explicit key may have been used for another request."""
    if reading.suspicious and explicit_key(request) is not None:
        logger.error(
            "%s: %s is echoed differently: the explicit idempotency key %s may have been used for another request; "
            "compare the result with the request",
            operation.handle,
            ", ".join(reading.suspicious),
            request.idempotency_key,
        )

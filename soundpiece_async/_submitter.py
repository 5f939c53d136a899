"""One request object, one operation: made into bytes once, sent until it is answered, and never again after that."""

import weakref
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import anyio
import attrs

from soundpiece_async._core import checks, codec, job_records, wire
from soundpiece_async._core.attempts import Attempts
from soundpiece_async._core.errors import DecodeError, InvalidRequest, SoundpieceError, duplicate
from soundpiece_async._core.gate import Turn
from soundpiece_async._core.operations import Operation
from soundpiece_async._core.reading import Reading
from soundpiece_async._core.requests import Handle, Output, Request
from soundpiece_async._core.retry import Budget
from soundpiece_async._lifetime import NEVER, StopSignal
from soundpiece_async._logs import get_logger
from soundpiece_async._reader import Reader
from soundpiece_async._transport import Transport

R = TypeVar("R", bound=Request)

logger = get_logger("submitter")

FRESH = timedelta(seconds=60)
"""A source whose URL lives shorter than this is signed afresh first: the service fetches it after the submit."""


@attrs.define(eq=False)
class _Piece:
    """What is known of one idempotency key, for as long as its request object lives."""

    owner: "weakref.ref[Request]"  # its end takes this piece out of the book
    lock: "anyio.Lock" = attrs.field(factory=lambda: anyio.Lock(fast_acquire=True))
    attempts: Attempts = attrs.field(factory=Attempts)
    budget: Budget | None = None  # what all who submit it at the same time share
    outage: SoundpieceError | None = None  # how the last attempt ended, for those who waited for it meanwhile
    body: bytes | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    """Of its operation, which itself holds the request: that would keep itself alive."""
    id: str = ""
    """Of the same."""
    error: DecodeError | None = None


@attrs.define(eq=False)
class Sending:
    """A PUT whose bytes were fixed earlier, perhaps by another process, and what becomes of it.

    Attributes:
        body: the bytes, made by ``Submitter.prepare``; so the request is not held against the contract again.
        announce: awaited before each attempt.
        attempts: the PUTs so far.
    """

    body: bytes = attrs.field(repr=False)
    announce: Callable[[], Awaitable[None]]
    attempts: Attempts = attrs.field(factory=Attempts)


class Submitter:
    """One per session.

    Args:
        transport: sends.
        reader: renews the URL of a source that is about to expire.
        validate: hold requests against the contract first.
    """

    def __init__(self, transport: Transport, reader: Reader, *, validate: bool) -> None:
        self.submitted = 0
        self._transport = transport
        self._reader = reader
        self._validate = validate
        self._pieces: dict[str, _Piece] = {}

    def __repr__(self) -> str:
        return f"<Submitter submitted={self.submitted} remembers={len(self._pieces)}>"

    async def prepare(self, request: Request) -> bytes:
        """Make the body every PUT of this request will have. Nothing is sent but renewals; raises as ``submit``."""
        piece = self._know(request, validate=self._validate)
        async with piece.lock:
            return await self._encode(request, piece)

    async def submit(self, request: R, *, stop: StopSignal = NEVER, sending: Sending | None = None) -> Operation[R]:
        """Send a request, or give the operation it already became.

        Args:
            request: the piece of work.
            stop: of the run that the request belongs to.
            sending: the body, where it is fixed already.

        Raises:
            InvalidRequest: refused here, nothing was sent.
            SoundpieceError: see ``Transport.ask`` and ``wire.read_submitted``.
        """
        piece = self._know(request, validate=self._validate and sending is None)
        queued = piece.lock.locked()
        try:
            async with piece.lock:
                if piece.error is not None:
                    raise _renew(piece.error, request)
                if queued and piece.outage is not None:  # or each would try for a whole budget, one after the other
                    raise duplicate(piece.outage)
                if piece.raw is None:
                    return await self._send(request, piece, stop, sending)
        finally:
            if not (piece.lock.locked() or piece.lock.statistics().tasks_waiting):
                piece.budget = piece.outage = None
        known = wire.reading_of(piece.raw, Handle(request.route, piece.id), request=request, body=piece.body)
        return self._reader.remember(known.operation)

    def _know(self, request: Request, *, validate: bool) -> _Piece:
        checks.check_request(request)
        if validate:
            checks.validate(request)
        key = request.idempotency_key
        piece = self._pieces.get(key)
        if piece is None:
            pieces = self._pieces
            piece = pieces[key] = _Piece(weakref.ref(request, lambda _: pieces.pop(key, None)))
        owner = piece.owner()
        if owner is not None and owner is not request and owner != request:
            raise InvalidRequest(
                f"{request.route}: idempotency key {key} already stands for another request; use a fresh one",
                field="idempotency_key",
            )
        return piece

    async def _encode(self, request: Request, piece: _Piece) -> bytes:
        if piece.body is None:
            piece.body = codec.encode_request(await self._freshen(request))
        return piece.body

    async def _send(self, request: R, piece: _Piece, stop: StopSignal, sending: Sending | None) -> Operation[R]:
        attempts, announce = piece.attempts, None
        if sending is not None:
            piece.body, announce = sending.body, sending.announce
            sending.attempts.before |= attempts.in_doubt
            attempts = piece.attempts = sending.attempts
        call = wire.submit(request, await self._encode(request, piece))
        piece.budget = piece.budget or self._transport.make_budget()
        try:
            reading = await self._transport.ask(
                call,
                turn=Turn.SUBMIT,
                read=partial(wire.read_submitted, request=request),
                stop=stop,
                announce=announce,
                attempts=attempts,
                budget=piece.budget,
            )
        except DecodeError as error:
            if error.operation is not None:  # the work was accepted: sending again could only pay for it twice
                piece.error = _renew(error, None)
                self.submitted += 1
            else:
                piece.outage = error
            raise
        except SoundpieceError as error:
            if stop.error is None:  # what stops one run is not the others' outcome
                piece.outage = error
            raise
        self.submitted += 1
        operation = self._reader.take(reading)
        piece.raw, piece.id = operation.raw, operation.id
        _report_echo(reading, operation, request)
        return operation

    async def _freshen(self, request: Request) -> Request:
        """Renew the URL of a source that is an output of an earlier operation and about to expire."""
        changes: dict[str, Any] = {}
        for name in ("source", "reference"):
            source = getattr(request, name, None)
            if isinstance(source, Output) and source.expires_at and source.expires_at - self._transport.now < FRESH:
                changes[name] = await self._reader.renew(source)
        return attrs.evolve(request, **changes) if changes else request


def _renew(error: DecodeError, request: Request | None) -> DecodeError:
    """Make an error anew: the one that was raised keeps the request alive, by its operation and by its traceback."""
    operation = error.operation and attrs.evolve(error.operation, request=request)
    return DecodeError(str(error), path=error.path, body=error.body, operation=operation)


def _report_echo(reading: Reading, operation: Operation[Any], request: Request) -> None:
    """Log an echo that differs so much that a key given by the caller may have been used for other work."""
    if reading.suspicious and job_records.explicit_key(request) is not None:
        logger.error(
            "%s: %s is echoed otherwise than it was sent: the idempotency key %s, which was given to the request, "
            "may have been used for other work; compare the result with the request",
            operation.handle,
            ", ".join(reading.suspicious),
            request.idempotency_key,
        )

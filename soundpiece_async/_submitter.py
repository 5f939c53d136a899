"""One request object, one operation: made into bytes once, sent until it is answered, and never again after that."""

import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import anyio
import attrs

from soundpiece_async._core import codec, validation, wire
from soundpiece_async._core.errors import DecodeError, InvalidRequest
from soundpiece_async._core.models import Operation
from soundpiece_async._core.outputs import Output
from soundpiece_async._core.pacing import Turn
from soundpiece_async._core.requests import Request
from soundpiece_async._reader import Reader
from soundpiece_async._transport import Transport

R = TypeVar("R", bound=Request)

FRESH = timedelta(seconds=60)
"""A source whose URL lives shorter than this is signed afresh first: the service fetches it after the submit."""


@attrs.define(eq=False)
class _Piece:
    """What is known of one idempotency key, for as long as its request object lives."""

    owner: "weakref.ref[Request]"
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)
    body: bytes | None = None
    operation: Operation[Any] | None = None  # without its request, which would otherwise keep itself alive
    error: DecodeError | None = None


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

    async def submit(self, request: R, *, check: Callable[[], None] = lambda: None) -> Operation[R]:
        """Send a request, or give the operation it already became.

        Args:
            request: the piece of work.
            check: called when it is this request's turn to be sent; may raise, and nothing is sent.

        Raises:
            InvalidRequest: refused here, nothing was sent.
            SoundpieceError: see ``Transport.ask`` and ``wire.read_submitted``.
        """
        piece = self._know(request)
        async with piece.lock:
            if piece.error is not None:
                raise piece.error
            operation = piece.operation
            if operation is None:
                operation = piece.operation = await self._send(request, piece, check)
        return attrs.evolve(operation, request=request)

    def _know(self, request: Request) -> _Piece:
        if not isinstance(request, Request):
            raise InvalidRequest(
                f"not a request: {type(request).__name__}; use one of the eight classes", field="request"
            )
        if self._validate:
            validation.validate(request)
        key = request.idempotency_key
        piece = self._pieces.get(key)
        if piece is None:
            piece = self._pieces[key] = _Piece(weakref.ref(request))
            weakref.finalize(request, self._pieces.pop, key, None).atexit = False
        owner = piece.owner()
        if owner is not None and owner is not request and owner != request:
            raise InvalidRequest(
                f"{request.route}: idempotency key {key} already stands for another request; use a fresh one",
                field="idempotency_key",
            )
        return piece

    async def _send(self, request: Request, piece: _Piece, check: Callable[[], None]) -> Operation[Any]:
        if piece.body is None:
            piece.body = codec.encode_request(await self._freshen(request))
        call = wire.submit(request, piece.body)
        try:
            operation: Operation[Any] = await self._transport.ask(
                call,
                turn=Turn.SUBMIT,
                read=lambda answer: wire.read_submitted(answer, call, request=request),
                check=check,
            )
        except DecodeError as error:
            if error.operation is not None:  # the work was accepted: sending again could only pay for it twice
                piece.error = error
                self.submitted += 1
            raise
        self.submitted += 1
        return attrs.evolve(self._reader.fix(operation), request=None)

    async def _freshen(self, request: Request) -> Request:
        """Renew the URL of a source that is an output of an earlier operation and about to expire."""
        changes: dict[str, Any] = {}
        for name in ("source", "reference"):
            source = getattr(request, name, None)
            if isinstance(source, Output) and source.expires_at and source.expires_at - self._transport.now < FRESH:
                changes[name] = await self._reader.renew(source)
        return attrs.evolve(request, **changes)

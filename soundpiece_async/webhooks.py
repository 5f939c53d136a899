"""Receivers for web frameworks: a verified delivery wakes whoever waits for its operation.

::

    webhooks = Webhooks([os.environ["SOUNDPIECE_WEBHOOK_SECRET"]])
    app.router.add_post("/hooks/soundpiece", aiohttp_handler(webhooks, session.deliver))           # aiohttp
    Route("/hooks/soundpiece", asgi_app(webhooks, session.deliver), methods=["POST"])              # Starlette, FastAPI
    status = webhooks.handle(request.headers, await request.body(), deliver=session.deliver)       # anything else

The account needs an active signing secret: without one nothing is sent at all (docs/api.md#webhooks). Redirects are not
to be counted on, so ``callback_url`` must be the very URL of the route, with its trailing slash if it has one.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, MutableMapping
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import attrs

from soundpiece_async._core import signing
from soundpiece_async._core.errors import SessionClosed, SettingsError, WebhookError
from soundpiece_async._core.operations import Operation
from soundpiece_async._core.redaction import SecretBytes, forget_arguments
from soundpiece_async._core.signing import Headers
from soundpiece_async._core.webhook_events import Delivery
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Delivery", "Webhooks", "aiohttp_handler", "asgi_app"]

_logger = get_logger("webhooks")

TOLERANCE = 4 * 86_400.0
"""Seconds. The service signs the time of the first attempt and does not say for how long it tries again
(docs/api.md#webhooks); schedules in use elsewhere end after one to three days. The usual five minutes would lose every
retry that comes later, and with it the news that matters most, that of an outage. A replay in that time does no harm:
ids are remembered, and a final state does not change any more."""

LARGEST = 1 << 20
"""Bytes: a hundred times the longest lyrics and a dozen signed URLs."""

READ_TIMEOUT = 30.0
"""Seconds a body may take to arrive: the service sends a few thousand bytes at once."""

REMEMBERED = 65_536
"""Events remembered at least, the oldest going first, in less than 10 MB however long their ids are."""

MAX_NOTES = 1000
"""Different oddities that are logged."""

Deliver: TypeAlias = Callable[[Operation[Any]], None]
"""What takes the news: ``session.deliver``, or anything else that does not block."""

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


class Webhooks:
    """What an account's deliveries are checked against. One per process; to be used in one thread.

    Args:
        secrets: the active signing secrets; while they rotate, the old one and the new one.
        tolerance: seconds since the first attempt after which a delivery is refused; see ``TOLERANCE``.
        max_bytes: the largest body taken.
        read_timeout: seconds a body may take to arrive at one of the receivers below, before it is answered 408.
        clock: seconds since 1970.

    Raises:
        SettingsError: a secret, or a number, makes no sense.
    """

    @forget_arguments
    def __init__(
        self,
        secrets: Iterable[str],
        *,
        tolerance: float = TOLERANCE,
        max_bytes: int = LARGEST,
        read_timeout: float = READ_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        read = [signing.read_secret(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
        self._secrets = len(read)
        self._keys = tuple(key for keys in read for key in keys)
        if not self._keys:
            raise SettingsError("webhooks need a signing secret: without one nothing could be told from junk")
        if not tolerance > 0:
            raise SettingsError(f"tolerance must be above 0 seconds, not {tolerance!r}")
        if not max_bytes > 0:
            raise SettingsError(f"max_bytes must be above 0, not {max_bytes!r}: it is the largest body taken")
        if not read_timeout > 0:
            raise SettingsError(f"read_timeout must be above 0 seconds, not {read_timeout!r}")
        self.max_bytes = max_bytes
        self.read_timeout = read_timeout
        self._tolerance = tolerance
        self._clock = clock
        self._known = _Recent(REMEMBERED)
        self._noted: set[str] = set()

    def __repr__(self) -> str:
        return f"<Webhooks secrets={self._secrets} tolerance={self._tolerance} s remembers={len(self._known)}>"

    @forget_arguments
    def verify(self, headers: Headers, body: bytes) -> Delivery:
        """Verify and read one delivery. It remembers nothing: a duplicate is read as often as it comes.

        Args:
            headers: a mapping with names in any case, or (ASGI) pairs.
            body: the bytes as they came: JSON that was parsed and written again has another signature.

        Raises:
            WebhookError: anything that is not an honest delivery; nothing else is raised.
        """
        if len(body) > self.max_bytes:
            raise WebhookError(f"a webhook of more than {self.max_bytes} bytes", http_status=413)
        delivery, notes = signing.read_delivery(
            headers, bytes(body), keys=self._keys, now=self._clock(), tolerance=self._tolerance
        )
        for note in notes:
            if note.about not in self._noted and len(self._noted) < MAX_NOTES:
                self._noted.add(note.about)
                _logger.warning("webhook %s: %s (logged once)", delivery.id, note.text)
        return delivery

    def handle(self, headers: Headers, body: bytes, *, deliver: Deliver) -> int:
        """Receive one delivery and give the HTTP status to answer: the whole receiver, for any framework.

        204 for all that is signed: for news, for a duplicate (not delivered again), and for what says no end of an
        operation (ignored: a poll finds it). Else that of the ``WebhookError``, or 503 when the session is closed. What
        else ``deliver`` raises is raised: then the event counts as not received, and is delivered when the service
        tries again.
        """
        body = SecretBytes(body)  # it holds signed URLs, and ``deliver`` may raise
        try:
            delivery = self.verify(headers, body)
            if delivery.operation is None:
                _logger.info("webhook %s: ignored, type %r: no end of an operation", delivery.id, delivery.type[:100])
            elif delivery.id in self._known:
                _logger.info("webhook %s: known already", delivery.id)
            else:
                deliver(delivery.operation)
                self._known.add(delivery.id)
                _logger.info("webhook %s: operation %s is %s", delivery.id, delivery.operation.handle, delivery.status)
        except WebhookError as error:
            _logger.warning("answered %d: %s", error.http_status, error)
            return error.http_status
        except SessionClosed as error:
            _logger.warning("a webhook came too late for this process: %s", error)
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.NO_CONTENT


class _Recent:
    """The latest texts added, as digests: at least so many, at most twice as many, whatever their length."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._new: set[int] = set()
        self._old: set[int] = set()

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, text: str) -> bool:
        digest = _digest(text)
        return digest in self._new or digest in self._old

    def add(self, text: str) -> None:
        """Remember one; the older half is forgotten when the newer one is full."""
        if len(self._new) == self._number:
            self._old, self._new = self._new, set()
        self._new.add(_digest(text))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


async def _read_body(blocks: AsyncIterable[bytes], *, limit: int) -> bytes:
    """Read a body, or as much of it as shows that it is too large."""
    body = bytearray()
    async for block in blocks:
        body += block
        if len(body) > limit:
            break
    return SecretBytes(body)  # it holds signed URLs


def aiohttp_handler(webhooks: Webhooks, deliver: Deliver) -> "Callable[[web.Request], Awaitable[web.Response]]":
    """Make a handler for ``app.router.add_post``; ``deliver`` is called with the operation, in the event loop."""
    from aiohttp import web  # noqa: PLC0415 - only for a handler of the user's own server

    async def handle(request: web.Request) -> web.Response:
        try:
            with anyio.fail_after(webhooks.read_timeout):
                body = await _read_body(request.content.iter_any(), limit=webhooks.max_bytes)
        except TimeoutError:
            status: int = HTTPStatus.REQUEST_TIMEOUT
        except (web.RequestPayloadError, ConnectionError):  # broken chunks or compression, or the sender left
            status = HTTPStatus.BAD_REQUEST
        else:
            status = webhooks.handle(request.headers, body, deliver=deliver)
        response = web.Response(status=status)
        if not request.content.is_eof():
            response.force_close()  # what else comes is not waited for
        return response

    return handle


def asgi_app(webhooks: Webhooks, deliver: Deliver) -> AsgiApp:
    """Make an ASGI app, to be routed to from anywhere (it looks at no path); ``deliver`` as of ``aiohttp_handler``."""
    return _AsgiReceiver(webhooks, deliver)


@attrs.frozen
class _AsgiReceiver:
    """An object, because Starlette takes a function for a handler of its own requests."""

    webhooks: Webhooks
    deliver: Deliver

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"webhooks come by http, not by {scope['type']}")  # what ASGI asks for
        try:
            with anyio.fail_after(self.webhooks.read_timeout):
                async with aclosing(_receive_blocks(receive)) as blocks:
                    body = await _read_body(blocks, limit=self.webhooks.max_bytes)
        except TimeoutError:
            status: int = HTTPStatus.REQUEST_TIMEOUT
        except ConnectionError:
            return
        else:
            status = self.webhooks.handle(scope["headers"], body, deliver=self.deliver)
        await send({"type": "http.response.start", "status": int(status), "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _receive_blocks(receive: Receive) -> AsyncGenerator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        yield message.get("body", b"")
        more = message.get("more_body", False)

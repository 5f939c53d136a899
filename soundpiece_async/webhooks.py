"""Webhook receivers for web frameworks: a verified delivery wakes the waiters of its operation.

::

    webhooks = Webhooks([os.environ["SOUNDPIECE_WEBHOOK_SECRET"]])
    app.router.add_post("/hooks/soundpiece", aiohttp_handler(webhooks, session.deliver))           # aiohttp
    Route("/hooks/soundpiece", asgi_app(webhooks, session.deliver), methods=["POST"])              # Starlette, FastAPI
    status = webhooks.handle(request.headers, await request.body(), deliver=session.deliver)       # anything else

The account needs an active signing secret: without one nothing is sent at all (docs/api.md#webhooks). The service may
not follow redirects, so ``callback_url`` must be the exact URL of the route, with its trailing slash if it has one.
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
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.redaction import SecretBytes, forget_arguments
from soundpiece_async._core.signing import Headers
from soundpiece_async._core.webhook_events import Delivery
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Delivery", "Webhooks", "aiohttp_handler", "asgi_app"]

_logger = get_logger("webhooks")

TOLERANCE = 4 * 86_400.0
"""Seconds. The service signs the time of the first attempt and does not document how long it retries
(docs/api.md#webhooks); schedules in use elsewhere end after one to three days. The usual five minutes would reject
every later retry, for example all those after an outage of the receiver. A replay within that time is harmless: ids
are remembered, and a final state does not change."""

LARGEST = 1 << 20
"""Bytes: a hundred times the longest lyrics and a dozen signed URLs."""

READ_TIMEOUT = 30.0
"""Seconds a body may take to arrive: the service sends a few thousand bytes at once."""

REMEMBERED = 65_536
"""Minimum number of event ids that are remembered, in less than 10 MB however long the ids are."""

MAX_NOTES = 1000
"""Maximum number of different warnings that are logged."""

Deliver: TypeAlias = Callable[[AnyOperation], None]
"""Called with the operation: ``session.deliver``, or any function that does not block."""

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


class Webhooks:
    """Verifies the webhook deliveries of an account. Use one per process, in one thread.

    Args:
        secrets: the active signing secrets; while they rotate, the old one and the new one.
        tolerance: seconds since the first attempt after which a delivery is rejected; see ``TOLERANCE``.
        max_bytes: the size limit of a body.
        read_timeout: seconds a body may take to arrive at one of the receivers below, before it is answered 408.
        clock: seconds since 1970.

    Raises:
        SettingsError: a secret or a number is invalid.
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
            raise SettingsError("at least one signing secret is required to verify webhooks")
        if not tolerance > 0:
            raise SettingsError(f"tolerance must be above 0 seconds, not {tolerance!r}")
        if not max_bytes > 0:
            raise SettingsError(f"max_bytes must be above 0, not {max_bytes!r}: it is the size limit of a body")
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
        """Verify and parse one delivery. Duplicates are not detected here.

        Args:
            headers: a mapping with names in any case, or (ASGI) pairs.
            body: the raw bytes: JSON that was parsed and serialized again has another signature.

        Raises:
            WebhookError: the delivery is malformed or not authentic; nothing else is raised.
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
        """Process one delivery and return the HTTP status of the response: a complete receiver, for any framework.

        204 for every valid signature: a final operation, a duplicate (not delivered again), and a body without a final
        operation (ignored: a poll finds it). Otherwise the status of the ``WebhookError``, or 503 when the session is
        closed. Any other exception of ``deliver`` is raised: then the event counts as not received, and the retry of
        the service is delivered.
        """
        body = SecretBytes(body)  # it holds signed URLs, and ``deliver`` may raise
        try:
            delivery = self.verify(headers, body)
            if delivery.operation is None:
                _logger.info("webhook %s: ignored, type %r: no final operation", delivery.id, delivery.type[:100])
            elif delivery.id in self._known:
                _logger.info("webhook %s: duplicate", delivery.id)
            else:
                deliver(delivery.operation)
                self._known.add(delivery.id)
                _logger.info("webhook %s: operation %s is %s", delivery.id, delivery.operation.handle, delivery.status)
        except WebhookError as error:
            _logger.warning("answered %d: %s", error.http_status, error)
            return error.http_status
        except SessionClosed as error:
            _logger.warning("a webhook arrived after the session was closed: %s", error)
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.NO_CONTENT


class _Recent:
    """The digests of the latest texts: at least ``number``, at most twice as many, whatever their length."""

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
        """Add one; the older half is dropped when the newer one is full."""
        if len(self._new) == self._number:
            self._old, self._new = self._new, set()
        self._new.add(_digest(text))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


async def _read_body(blocks: AsyncIterable[bytes], *, limit: int) -> bytes:
    """Read a body, up to the block that exceeds the limit."""
    body = bytearray()
    async for block in blocks:
        body += block
        if len(body) > limit:
            break
    return SecretBytes(body)  # it holds signed URLs


def aiohttp_handler(webhooks: Webhooks, deliver: Deliver) -> "Callable[[web.Request], Awaitable[web.Response]]":
    """Return a handler for ``app.router.add_post``; ``deliver`` is called with the operation, in the event loop."""
    from aiohttp import web  # only for a handler of the user's own server

    async def handle(request: web.Request) -> web.Response:
        try:
            with anyio.fail_after(webhooks.read_timeout):
                body = await _read_body(request.content.iter_any(), limit=webhooks.max_bytes)
        except TimeoutError:
            status: int = HTTPStatus.REQUEST_TIMEOUT
        except (web.RequestPayloadError, ConnectionError):  # broken chunks or compression, or a disconnect
            status = HTTPStatus.BAD_REQUEST
        else:
            status = webhooks.handle(request.headers, body, deliver=deliver)
        response = web.Response(status=status)
        if not request.content.is_eof():
            response.force_close()  # do not wait for the rest
        return response

    return handle


def asgi_app(webhooks: Webhooks, deliver: Deliver) -> AsgiApp:
    """Return an ASGI app for any route (it ignores the path); ``deliver`` as in ``aiohttp_handler``."""
    return _AsgiReceiver(webhooks, deliver)


@attrs.frozen
class _AsgiReceiver:
    """An object, because Starlette treats a function as a handler of its own requests."""

    webhooks: Webhooks
    deliver: Deliver

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"expected an http scope, got {scope['type']}")  # what ASGI asks for
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

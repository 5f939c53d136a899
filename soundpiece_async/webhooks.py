"""Receivers for web frameworks: a verified delivery wakes whoever waits for its operation.

::

    webhooks = Webhooks([os.environ["SOUNDPIECE_WEBHOOK_SECRET"]])
    app.router.add_post("/hooks/soundpiece", aiohttp_handler(webhooks, session.deliver))           # aiohttp
    Route("/hooks/soundpiece", asgi_app(webhooks, session.deliver), methods=["POST"])              # Starlette, FastAPI
    status = webhooks.handle(request.headers, await request.body(), deliver=session.deliver)       # anything else

The account needs an active signing secret: without one nothing is sent at all (contract section 9). Redirects are not
to be counted on, so ``callback_url`` must be the very URL of the route, with its trailing slash if it has one.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from soundpiece_async._core import signing
from soundpiece_async._core.errors import SessionClosed, SettingsError, WebhookError
from soundpiece_async._core.models import Operation
from soundpiece_async._core.signing import Delivery, Headers

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Delivery", "Webhooks", "aiohttp_handler", "asgi_app"]

_logger = logging.getLogger("soundpiece_async.webhooks")

TOLERANCE = 4 * 86_400.0
"""Seconds. The service signs the time of the first attempt and does not say for how long it tries again (contract
section 9); schedules in use elsewhere end after one to three days. The usual five minutes would lose every retry that
comes later, and with it the news that matters most, that of an outage. A replay in that time does no harm: ids are
remembered, and a final state does not change any more."""

LARGEST = 1 << 20
"""Bytes: a hundred times the longest lyrics and a dozen signed URLs."""

REMEMBERED = 65_536
"""Event ids remembered, the oldest going first: some 10 MB at most."""

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
        clock: seconds since 1970.

    Raises:
        SettingsError: a secret, the tolerance or the size is none.
    """

    def __init__(
        self,
        secrets: Iterable[str],
        *,
        tolerance: float = TOLERANCE,
        max_bytes: int = LARGEST,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = tuple(
            signing.read_secret(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)
        )
        if not self._keys:
            raise SettingsError("webhooks need a signing secret: without one nothing could be told from junk")
        if not tolerance > 0:
            raise SettingsError(f"tolerance must be above 0 seconds, not {tolerance!r}")
        if not max_bytes > 0:
            raise SettingsError(f"max_bytes must be above 0, not {max_bytes!r}: it is the largest body taken")
        self.max_bytes = max_bytes
        self._tolerance = tolerance
        self._clock = clock
        self._known: OrderedDict[str, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Webhooks secrets={len(self._keys)} tolerance={self._tolerance} s remembers={len(self._known)}>"

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
        return signing.read_delivery(headers, body, keys=self._keys, now=self._clock(), tolerance=self._tolerance)

    def handle(self, headers: Headers, body: bytes, *, deliver: Deliver) -> int:
        """Receive one delivery and give the HTTP status to answer: the whole receiver, for any framework.

        204 for news, for a duplicate (not delivered again) and for a type this version does not know (ignored); else
        that of the ``WebhookError``, or 503 when the session is closed. What else ``deliver`` raises is raised: then
        the event counts as not received, and is delivered when the service tries again.
        """
        try:
            delivery = self.verify(headers, body)
            if delivery.operation is None:
                _logger.info("webhook %s: ignored, of unknown type %r", delivery.id, delivery.type[:100])
            elif delivery.id in self._known:
                _logger.info("webhook %s: known already", delivery.id)
            else:
                deliver(delivery.operation)
                self._remember(delivery.id)
                _logger.info("webhook %s: operation %s is %s", delivery.id, delivery.operation.handle, delivery.status)
        except WebhookError as error:
            _logger.warning("answered %d: %s", error.http_status, error)
            return error.http_status
        except SessionClosed as error:
            _logger.warning("a webhook came too late for this process: %s", error)
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.NO_CONTENT

    def _remember(self, identity: str) -> None:
        self._known[identity] = None
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def aiohttp_handler(webhooks: Webhooks, deliver: Deliver) -> "Callable[[web.Request], Awaitable[web.Response]]":
    """Make a handler for ``app.router.add_post``; ``deliver`` is called with the operation, in the event loop."""
    from aiohttp import web  # noqa: PLC0415 - the door to the network is _transport.py; this is the user's own server

    async def handle(request: web.Request) -> web.Response:
        body = bytearray()
        try:
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > webhooks.max_bytes:
                    break  # it is refused as it is
        except web.RequestPayloadError:  # broken chunks, or a broken compression
            return web.Response(status=HTTPStatus.BAD_REQUEST)
        return web.Response(status=webhooks.handle(request.headers, bytes(body), deliver=deliver))

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
        body, more = bytearray(), True
        while more and len(body) <= self.webhooks.max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status = self.webhooks.handle(scope["headers"], bytes(body), deliver=self.deliver)
        await send({"type": "http.response.start", "status": int(status), "headers": []})
        await send({"type": "http.response.body", "body": b""})

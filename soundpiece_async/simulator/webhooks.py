"""Webhooks as the service sends them: signed, repeated, late, doubled or lost (docs/api.md#webhooks).

Rules:

1. One event per operation that ended, if it has a callback and the account has a signing secret; else nothing is sent.
2. All attempts of an event have the same id, timestamp (that of the first) and body, so its URLs may have expired.
3. Any 2xx within the timeout is a delivery; everything else, redirects included, is tried again, later every time.
4. The simulator stays at home: only private hosts are called. A callback to a public one is withheld, and counted.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections import Counter, deque
from urllib.parse import urlsplit

import aiohttp
import anyio
import attrs

from soundpiece_async.simulator.schema import JsonObject, is_private

_RETRY_AFTER = 5.0
_GROWTH = 4.0
_URL_SAFE = str.maketrans("-_", "+/")


@attrs.frozen(kw_only=True)
class Event:
    """News of one operation: `timestamp` is in seconds since 1970; it may get `lost`, or be delivered twice.

    `prefix` begins the names of the three headers.
    """

    id: str
    operation: str
    url: str
    timestamp: str
    body: bytes = attrs.field(repr=False)
    prefix: str = "webhook"
    lost: bool = False
    doubled: bool = False


@attrs.frozen(kw_only=True)
class WebhookAttempt:
    """One attempt: its number from 1, the receiver's status, None when it gave none in time."""

    event: str
    operation: str
    attempt: int
    status: int | None


@attrs.define(eq=False, kw_only=True)
class WebhookSender:
    """Delivers events; `pause` stretches the time between attempts, `timeout` is in real seconds.

    `keys` are those of the account's active signing secrets; while secrets rotate, each signs (docs/api.md#webhooks).
    """

    keys: tuple[bytes, ...] = attrs.field(repr=False)
    attempts: int
    timeout: float
    pause: float = 1.0
    deliveries: list[WebhookAttempt] = attrs.field(factory=list, init=False)
    counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _queue: deque[Event] = attrs.field(factory=deque, init=False)
    _enqueued: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def __repr__(self) -> str:
        """Show the counts of attempts and outcomes."""
        return f"<WebhookSender {dict(self.counts)}, {len(self._queue)} queued>"

    def enqueue(self, event: Event) -> None:
        """Queue an event for delivery, unless it is lost or its address is not allowed (rule 4)."""
        if event.lost:
            self.counts["lost"] += 1
        elif not is_private(urlsplit(event.url).hostname or ""):
            self.counts["withheld"] += 1
        else:
            self._queue.append(event)
            self._enqueued.set()

    async def run(self, client: aiohttp.ClientSession) -> None:
        """Deliver what is posted, until cancelled; no receiver waits for another."""
        async with anyio.create_task_group() as group:
            while True:
                await self._enqueued.wait()
                self._enqueued = anyio.Event()
                while self._queue:
                    group.start_soon(self._deliver, self._queue.popleft(), client)

    async def _deliver(self, event: Event, client: aiohttp.ClientSession) -> None:
        """Deliver one event to its receiver, or give up after the last attempt."""
        rest = _RETRY_AFTER * self.pause
        for attempt in range(1, self.attempts + 1):
            if await self._attempt(event, attempt, client):
                self.counts["delivered"] += 1
                if event.doubled:
                    await self._attempt(event, attempt + 1, client)
                return
            if attempt < self.attempts:
                await anyio.sleep(rest)
                rest *= _GROWTH
        self.counts["given_up"] += 1

    async def _attempt(self, event: Event, attempt: int, client: aiohttp.ClientSession) -> bool:
        """Send an event once; whether the receiver took it."""
        self.counts["sent"] += 1
        headers = sign(event, keys=self.keys)
        status: int | None = None
        try:
            with anyio.fail_after(self.timeout):
                async with client.post(event.url, data=event.body, headers=headers, allow_redirects=False) as response:
                    status = response.status
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            status = None
        self.deliveries.append(
            WebhookAttempt(event=event.id, operation=event.operation, attempt=attempt, status=status)
        )
        return status is not None and status // 100 == 2


def write_event(route: str, document: JsonObject, *, status: str) -> bytes:
    """Return the body of an event: its type, which ends with the operation's own status or the one given, and its data.

    The data is the bare operation object, without an envelope.
    """
    kind = f"{route}.{document.get('status', status)}"
    return json.dumps({"type": kind, "data": document}, separators=(",", ":")).encode()


def sign(event: Event, *, keys: tuple[bytes, ...]) -> dict[str, str]:
    """Return the headers of an event, signed once with each key (Standard Webhooks 1.0.0)."""
    signed = f"{event.id}.{event.timestamp}.".encode() + event.body
    signatures = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "Content-Type": "application/json",
        "User-Agent": "soundpiece-simulator",
        f"{event.prefix}-id": event.id,
        f"{event.prefix}-timestamp": event.timestamp,
        f"{event.prefix}-signature": " ".join(f"v1,{base64.b64encode(signature).decode()}" for signature in signatures),
    }


def read_secret(secret: str) -> bytes:
    """Return the key in a signing secret: base64, or base64url, behind the prefix `whsec_`."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_").translate(_URL_SAFE), validate=True)
    except binascii.Error as error:
        raise ValueError("a webhook secret is whsec_ and base64, such as Simulator's own default") from error

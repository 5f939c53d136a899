"""Brings the bytes of one output here: asks, goes on where a stream broke, and has the URL signed afresh.

Resuming is the retry: no layer below tries again. Bounded by attempts in a row that bring no new byte:
``MOST_REFUSALS`` answers that refuse the URL, and the ``stalls`` of the settings for everything else.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs

from soundpiece_async._core import pacing
from soundpiece_async._core.errors import DownloadError, TransportError
from soundpiece_async._core.outputs import Output
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._descriptors import Shortage

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from soundpiece_async._network import Stream

T = TypeVar("T")

logger = logging.getLogger("soundpiece_async.downloader")

MOST_REFUSALS = 4
"""Refusals in a row without a new byte, each but the last followed by a URL signed afresh."""
MARGIN = timedelta(seconds=60)
"""A URL with less life than this is renewed before it is used (contract section 6: a minute or so)."""
BACKOFF_BASE = 0.25
BACKOFF_CAP = 5.0
"""Seconds between attempts: doubled with each that brings nothing, up to the cap, with jitter."""


class Setback(Exception):  # noqa: N818 - no error yet: it becomes one when there are too many in a row
    """An attempt that did not bring the rest; never leaves this floor."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class TooLarge(Exception):  # noqa: N818 - as Setback: it becomes an error where it is caught
    """The file is larger than it may be; never leaves this floor, and is not tried again."""


@attrs.define(eq=False)
class ServerClock:
    """The output host's time, once it has told it; until then the local clock's."""

    _seen: tuple[datetime, float] | None = None

    def read(self, headers: Mapping[str, str]) -> None:
        """Learn from an answer's ``Date``, plus its ``Age`` in a cache on the way (RFC 9111, section 5.1)."""
        try:
            date = parsedate_to_datetime(headers["date"]).astimezone(UTC)
            age = timedelta(seconds=int(headers.get("age", "0")))
            self._seen = (date + age, time.monotonic())
        except (KeyError, ValueError, OverflowError):
            return

    def now(self) -> datetime:
        """Give the time by which the host judges a URL."""
        if self._seen is None:
            return datetime.now(UTC)
        date, seen_at = self._seen
        return date + timedelta(seconds=time.monotonic() - seen_at)


@attrs.define(eq=False, kw_only=True)
class OutputHost:
    """The output host as all downloads of a session share it.

    Attributes:
        stream: opens a URL.
        renew: gives an output with its URL signed afresh.
        slots: bounds the streams.
        stalls: attempts in a row without a new byte, after which a download gives up.
        sleep: waits between attempts.
        max_bytes: of one file; None: as many as it has.
        close_idle: gives up connections that idle, when descriptors run short.
        received: bytes of bodies, since the start.
    """

    stream: Callable[..., "AbstractAsyncContextManager[Stream]"]
    renew: Callable[[Output], Awaitable[Output]]
    slots: anyio.CapacityLimiter
    stalls: int
    sleep: Callable[[float], Awaitable[None]]
    max_bytes: int | None = None
    close_idle: Callable[[], None] = lambda: None
    clock: ServerClock = attrs.field(factory=ServerClock)
    received: int = 0


class Source:
    """One output as long as it is being saved: its URL, and how much patience is left.

    Attributes:
        output: with the URL signed last.
        received: bytes of bodies, for this file.
    """

    def __init__(self, output: Output, *, target: str, host: OutputHost) -> None:
        self.output = output
        self.received = 0
        self._target = target
        self._host = host
        self._refused = False
        self._gained = False
        self._furthest = 0
        self._refusals = 0
        self._stalls = 0

    def __repr__(self) -> str:
        return (
            f"<Source {redact_url(self.output.url)} received={self.received} furthest={self._furthest} "
            f"refusals={self._refusals} stalls={self._stalls}>"
        )

    def reach(self, length: int) -> None:
        """Say how many bytes of the file are here; more than ever before is what counts as progress."""
        if length > self._furthest:
            self._furthest = length
            self._gained = True

    def forget(self) -> None:
        """Begin anew: what was here is not the file."""
        self._furthest = self._refusals = self._stalls = 0
        self._gained = False

    async def persist(self, ask: Callable[[], Mapping[str, str]], read: Callable[["Stream"], Awaitable[T]]) -> T:
        """Ask until ``read`` makes something of the answer; it raises ``Setback`` when it cannot.

        Raises:
            DownloadError: too many attempts in a row brought no new byte, or the file is larger than it may be.
            SoundpieceError: what ``renew`` or ``read`` raise.
        """
        shortage, stale = Shortage(f"{self.output.handle}"), False
        while True:
            async with self._host.slots:
                await self._freshen()  # inside the slot: a URL that lives for seconds must not wait in a queue of ours
                try:
                    async with self._host.stream(self.output.url, headers=ask()) as stream:
                        self._host.clock.read(stream.headers)
                        return await read(stream)
                except TooLarge as error:
                    raise self.fail(str(error)) from None
                except (TransportError, Setback) as error:
                    setback = error
            stale = not stale and getattr(setback, "stale", False)
            if stale:  # one attempt without a pause: the connection was closed before the request came
                continue
            if getattr(setback, "passing", False):
                await shortage.wait(setback)
                continue
            delay = self._count(setback)
            logger.info("%s: trying again in %.2f s: %s", self.output.handle, delay, setback)
            await self._host.sleep(delay)

    def admit(self, size: int) -> None:
        """Say how large the file is at least.

        Raises:
            TooLarge: that is more than it may be.
        """
        most = self._host.max_bytes
        if most is not None and size > most:
            raise TooLarge(f"it has {size} bytes or more, and Limits.max_bytes allows {most}")

    def receive(self, size: int) -> None:
        """Count bytes of a body, new or not."""
        self.received += size
        self._host.received += size

    async def relieve(self, shortage: Shortage, error: OSError) -> None:
        """Wait, within a call for this file, until something is free again; connections that idle go first."""
        self._host.close_idle()
        await shortage.wait(error)

    def fail(self, why: str, *, error: type[DownloadError] = DownloadError) -> DownloadError:
        """Make the error that ends this download; ``why`` ends with what to do next."""
        url = redact_url(self.output.url)
        message = f"{self.output.handle}: {url} was not saved as {self._target}: {why}"
        return error(message, url=url, path=self._target, received=self.received)

    async def _freshen(self) -> None:
        """Have the URL signed afresh when it was refused or will be soon; a fresh one is used whatever its life."""
        expires_at = self.output.expires_at
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=UTC)
        if self._refused or (expires_at is not None and expires_at - self._host.clock.now() < MARGIN):
            self.output = await self._host.renew(self.output)
            self._refused = False

    def _count(self, setback: TransportError | Setback) -> float:
        """Count an attempt that did not bring the rest, and give the seconds to wait before the next."""
        self._refused = isinstance(setback, Setback) and setback.refused
        if self._gained:
            self._gained = False
            self._refusals = self._stalls = 0
        elif self._refused:
            self._refusals += 1
        else:
            self._stalls += 1
        if self._refusals >= MOST_REFUSALS or self._stalls >= self._host.stalls:
            raise self.fail(
                f"{setback}; {self._refusals + self._stalls} attempts in a row brought no new byte after the first "
                f"{self._furthest}; download it again to go on from what was kept"
            ) from (setback if isinstance(setback, TransportError) else None)
        tries = self._refusals + self._stalls
        return pacing.backoff(tries, base=BACKOFF_BASE, cap=BACKOFF_CAP, jitter=random.random())  # noqa: S311 - spreads requests, guards nothing

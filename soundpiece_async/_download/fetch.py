"""Brings the bytes of one output here: asks, goes on where a stream broke, and has the URL signed afresh.

Resuming is the retry: no layer below tries again. ``_core.patience`` says when it ends.
"""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Self, TypeVar

import anyio
import attrs

from soundpiece_async._core import flac, retry
from soundpiece_async._core.errors import DownloadError, TransportError
from soundpiece_async._core.flac import FlacHeader
from soundpiece_async._core.hosts import OutputRefused
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.requests import Output
from soundpiece_async._core.retry import DownloadBudget, Speed
from soundpiece_async._descriptors import Shortage
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from soundpiece_async._http.client import Stream

T = TypeVar("T")

logger = get_logger("downloader")

URL_RENEWAL_MARGIN = timedelta(seconds=60)
"""A URL with less life than this is renewed before it is used (docs/api.md#downloads: a minute or so)."""


class AttemptFailed(Exception):  # noqa: N818 - no error yet: it becomes one when there are too many in a row
    """An attempt that did not bring the rest; never leaves this floor."""

    def __init__(self, why: str, *, refused: bool = False, slow: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        self.slow = slow


class TooLarge(Exception):  # noqa: N818 - as AttemptFailed: it becomes an error where it is caught
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
class DownloadContext:
    """The output host as all downloads of a session share it.

    Attributes:
        stream: opens a URL.
        renew: gives an output with its URL signed afresh.
        slots: bounds the streams.
        sleep: waits between attempts.
        max_elapsed: seconds without a new byte, after which a download gives up.
        slowest: bytes per second of one body, over ``window`` seconds; None: any speed will do.
        max_bytes: of one file; None: what its length makes plausible.
        close_idle: gives up connections that idle, when descriptors run short.
        received: bytes of bodies, since the start.
    """

    stream: Callable[..., "AbstractAsyncContextManager[Stream]"]
    renew: Callable[[Output], Awaitable[Output]]
    slots: anyio.CapacityLimiter
    sleep: Callable[[float], Awaitable[None]]
    max_elapsed: float = 300.0
    slowest: float | None = None
    window: float = 30.0
    max_bytes: int | None = None
    close_idle: Callable[[], None] = lambda: None
    clock: ServerClock = attrs.field(factory=ServerClock)
    received: int = 0


class OutputDownload:
    """One output as long as it is being saved: its URL, and how much patience is left.

    Attributes:
        output: with the URL signed last.
        target: where it is going, for messages.
        received: bytes of bodies, for this file.
    """

    def __init__(self, output: Output, *, target: str, context: DownloadContext) -> None:
        self.output = output
        self.received = 0
        self.target = target
        self._context = context
        self._refused = False
        self._furthest = 0
        self._end: int | None = None
        self._patience = DownloadBudget(context.max_elapsed)
        self._retry_after: float | None = None

    def __repr__(self) -> str:
        url = redact_url(self.output.url)
        return f"<OutputDownload {url} received={self.received} furthest={self._furthest} {self._patience!r}>"

    def record_progress(self, length: int) -> None:
        """Note how many bytes of the file are here; more than ever before is what counts as progress."""
        if length > self._furthest:
            self._furthest = length
            self._patience.gain()

    def reset(self) -> None:
        """Begin anew: what was here is not the file."""
        self._furthest = 0
        self._patience.renew()

    async def retry(self, ask: Callable[[], Mapping[str, str]], read: Callable[["Stream"], Awaitable[T]]) -> T:
        """Ask until ``read`` makes something of the answer; it raises ``AttemptFailed`` when it cannot.

        Raises:
            DownloadError: no new byte came for too long, or the file is larger than it may be.
            SoundpieceError: what ``renew`` or ``read`` raise.
        """
        shortage, stale = Shortage(f"{self.output.handle}"), False
        while True:
            async with self._context.slots:
                # inside the slot: a URL that lives for seconds must not wait in a queue of ours
                await self._renew_if_expiring()
                try:
                    return await self._attempt(ask(), read)
                except TooLarge as error:
                    raise self.error(str(error)) from None
                except (TransportError, AttemptFailed) as error:
                    failure = error
            stale = not stale and getattr(failure, "stale", False)
            if stale:  # one attempt without a pause: the connection was closed before the request came
                continue
            if getattr(failure, "passing", False):
                await shortage.wait(failure)
                continue
            delay = self._next_pause(failure)
            logger.info("%s: trying again in %.2f s: %s", self.output.handle, delay, failure)
            await self._context.sleep(delay)

    def ended_here_before(self, length: int) -> bool:
        """Return whether the last body without a known end ended there, too, and note that this one did."""
        again, self._end = self._end == length, length
        return again

    def open_body(self, stream: "Stream") -> "Body":
        """Return the body of an answer, which ends with a ``AttemptFailed`` when it is too slow."""
        speed = Speed(lowest=self._context.slowest, window=self._context.window)
        return Body(stream.blocks, download=self, speed=speed)

    def count_wait(self, seconds: float) -> None:
        """Count time spent waiting for the host."""
        self._patience.wait(seconds)

    def count_block(self, size: int, *, fast: bool | None) -> AttemptFailed | None:
        """Count a block of a body, new or not.

        Args:
            size: of it.
            fast: whether the window it ends was fast enough; None: it ends none.

        Returns:
            The reason to read no further, or None.
        """
        self.received += size
        self._context.received += size
        if fast is False:
            why = f"less than {self._context.slowest:.0f} bytes per second came over {self._context.window:.3g} s"
            return AttemptFailed(why, slow=True)
        if fast:
            self._patience.renew()
        return None

    def check_announced_size(self, size: int) -> None:
        """Check a size that the host announced; how long the audio is by its own header is not known yet.

        Raises:
            TooLarge: that is more than the file may have.
        """
        most = flac.LARGEST_FILE if self._context.max_bytes is None else self._context.max_bytes
        if size > most:
            raise TooLarge(f"it has {size} bytes, and {self._explain_max_size(most)}")

    def check_size(self, size: int, *, header: FlacHeader | None) -> None:
        """Check the number of bytes that came: a body may have no end.

        Raises:
            TooLarge: that is more than the file may have.
        """
        most = self.max_size(header)
        if size > most:
            raise TooLarge(f"it has {size} bytes or more, and {self._explain_max_size(most)}")

    def max_size(self, header: FlacHeader | None = None) -> int:
        """Return the bytes that the file may have, by the settings or else by its length."""
        if self._context.max_bytes is not None:
            return self._context.max_bytes
        return flac.largest_file(seconds=self.output.duration, header=header)

    def _explain_max_size(self, most: int) -> str:
        if self._context.max_bytes is not None:
            return f"Limits.max_bytes allows {most}"
        return f"no FLAC of its length has more than {most}; Limits(max_bytes=...) sets another bound"

    async def wait_for_resources(self, shortage: Shortage, error: OSError) -> None:
        """Wait, within a call for this file, until something is free again; connections that idle go first."""
        self._context.close_idle()
        await shortage.wait(error)

    def error(self, why: str, *, kind: type[DownloadError] = DownloadError) -> DownloadError:
        """Make the error that ends this download; ``why`` ends with what to do next."""
        url = redact_url(self.output.url)
        message = f"{self.output.handle}: {url} was not saved as {self.target}: {why}"
        return kind(message, url=url, path=self.target, received=self.received).about(self.output.handle)

    async def _attempt(self, headers: Mapping[str, str], read: Callable[["Stream"], Awaitable[T]]) -> T:
        """Ask once."""
        self._retry_after = None
        async with AsyncExitStack() as opened:
            begun = anyio.current_time()
            try:
                stream = await opened.enter_async_context(self._context.stream(self.output.url, headers=headers))
            finally:
                self._patience.wait(anyio.current_time() - begun)
            self._context.clock.read(stream.headers)
            if stream.status >= HTTPStatus.BAD_REQUEST:
                now = self._context.clock.now().timestamp()
                asked, date = stream.headers.get("retry-after"), stream.headers.get("date")
                self._retry_after = retry.retry_after(asked, date=date, now_epoch=now)
            return await read(stream)

    async def _renew_if_expiring(self) -> None:
        """Have the URL signed afresh when it was refused or will be soon; a fresh one is used whatever its life."""
        expires_at = self.output.expires_at
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=UTC)
        if self._refused or (expires_at is not None and expires_at - self._context.clock.now() < URL_RENEWAL_MARGIN):
            self.output = await self._context.renew(self.output)
            self._refused = False

    def _next_pause(self, failure: TransportError | AttemptFailed) -> float:
        """Count an attempt that did not bring the rest, and return the seconds to wait before the next."""
        self._refused = isinstance(failure, OutputRefused) or (isinstance(failure, AttemptFailed) and failure.refused)
        pause = self._patience.fail(
            refused=self._refused,
            slow=isinstance(failure, AttemptFailed) and failure.slow,
            retry_after=self._retry_after,
            jitter=random.random(),  # noqa: S311 - spreads requests, guards nothing
        )
        if isinstance(pause, int | float):
            return pause
        error = self.error(
            f"{failure}; {pause.why}; {self._furthest} bytes are here: download it again later to go on from them"
        )
        error.retry_after = self._retry_after
        raise error from (failure if isinstance(failure, TransportError) else None)


def log_warnings(warnings: Iterable[str], *, output: Output, target: object) -> None:
    """Log what is otherwise than announced about audio that is saved, or passed on, all the same."""
    for warning in warnings:
        logger.warning("%s: %s: %s; the audio is used as it is", output.handle, target, warning)


class Body:
    """The blocks of a body as they arrive, each counted and timed."""

    def __init__(self, blocks: AsyncGenerator[bytes], *, download: OutputDownload, speed: Speed) -> None:
        self._blocks = blocks
        self._failure: AttemptFailed | None = None
        self._download = download
        self._speed = speed

    def __repr__(self) -> str:
        return f"<Body {self._speed!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        begun, waited = anyio.current_time(), 0.0
        try:
            block = await anext(self._blocks)
        finally:
            waited = anyio.current_time() - begun
            self._download.count_wait(waited)
        self._failure = self._download.count_block(len(block), fast=self._speed.add(len(block), waited=waited))
        return block

    async def aclose(self) -> None:
        """Close the blocks here and now, not when they are collected."""
        await self._blocks.aclose()

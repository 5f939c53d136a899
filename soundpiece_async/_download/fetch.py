"""Fetches one output: retries failed attempts, and renews its signed URL.

Each retry resumes where the last attempt ended; no layer below retries. ``_core.retry`` decides when to give up.
"""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Self, TypeVar

import anyio
import attrs

from soundpiece_async._core import flac, retry
from soundpiece_async._core.errors import DownloadError, TransportError
from soundpiece_async._core.flac import FlacHeader
from soundpiece_async._core.hosts import OutputRefused
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.requests import URL_RENEWAL_MARGIN, Output
from soundpiece_async._core.retry import DownloadBudget, Speed
from soundpiece_async._core.server_clock import ServerClock
from soundpiece_async._descriptors import Shortage
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from soundpiece_async._http.client import Stream

T = TypeVar("T")

logger = get_logger("downloader")


class AttemptFailed(Exception):
    """A failed attempt. Internal to this package; after too many in a row it becomes a DownloadError.

    Args:
        why: the reason, for messages.
        rejected: the host rejected the URL, so a new one is needed.
        slow: the body arrived too slowly.
    """

    def __init__(self, why: str, *, rejected: bool = False, slow: bool = False) -> None:
        super().__init__(why)
        self.rejected = rejected
        self.slow = slow


class TooLarge(Exception):
    """The file is larger than allowed. Internal to this package; becomes a DownloadError without a retry."""


@attrs.define(eq=False, kw_only=True)
class DownloadContext:
    """Settings and state that all downloads of a session share.

    Attributes:
        stream: opens a URL.
        renew: returns an output with a newly signed URL.
        slots: limits the concurrent streams.
        sleep: waits between attempts.
        max_elapsed: seconds without a new byte, after which a download gives up.
        slowest: bytes per second that a body must reach, measured over ``window`` seconds; None: no minimum.
        max_bytes: largest size of a file; None: the largest that is plausible for its duration.
        close_idle: closes idle connections, to free descriptors.
        received: bytes of response bodies so far.
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

    def now(self) -> datetime:
        """Return the time of the output host, which decides whether a URL has expired."""
        return self.clock.now(wall=datetime.now(UTC), steady=monotonic())


class OutputDownload:
    """The download of one output: its current URL, its progress, and its retry budget.

    Attributes:
        output: with its latest URL.
        target: the destination, for messages; empty for a stream.
        received: bytes of response bodies for this output.
    """

    def __init__(self, output: Output, *, target: str, context: DownloadContext) -> None:
        self.output: Output = output
        self.received: int = 0
        self.target = target
        self._context = context
        self._rejected = False
        self._furthest = 0
        self._end: int | None = None
        self._patience = DownloadBudget(context.max_elapsed)
        self._retry_after: float | None = None

    def __repr__(self) -> str:
        url = redact_url(self.output.url)
        return f"<OutputDownload {url} received={self.received} furthest={self._furthest} {self._patience!r}>"

    def record_progress(self, length: int) -> None:
        """Record how many bytes of the file have arrived; only a new maximum counts as progress."""
        if length > self._furthest:
            self._furthest = length
            self._patience.record_progress()

    def reset(self) -> None:
        """Reset the progress, because the file is fetched again from the start."""
        self._furthest = 0
        self._patience.reset()

    async def retry(self, ask: Callable[[], Mapping[str, str]], read: Callable[["Stream"], Awaitable[T]]) -> T:
        """Send requests until ``read`` returns a result.

        Args:
            ask: returns the headers of the next request.
            read: reads a response; raises ``AttemptFailed`` when another attempt is needed.

        Raises:
            DownloadError: no new byte arrived for too long, or the file is larger than allowed.
            SoundpieceError: from ``renew`` or ``read``.
        """
        shortage, stale = Shortage(f"{self.output.handle}"), False
        while True:
            await self._acquire_slot()
            try:
                # with the slot in hand: a URL that is valid for seconds must not wait in our queue
                await self._renew_if_expiring()
                try:
                    return await self._attempt(ask(), read)
                except TooLarge as error:
                    raise self.error(str(error)) from None
                except (TransportError, AttemptFailed) as error:
                    failure = error
            finally:
                self._context.slots.release()
            stale = not stale and getattr(failure, "stale", False)
            if stale:  # retry once without a pause: the pooled connection had been closed
                continue
            if getattr(failure, "local_shortage", False):
                await shortage.wait(failure)
                continue
            delay = self._next_pause(failure)
            logger.info("%s: retrying in %.2f s: %s", self.output.handle, delay, failure)
            await self._context.sleep(delay)

    async def _acquire_slot(self) -> None:
        slots = self._context.slots
        try:
            slots.acquire_nowait()
        except anyio.WouldBlock:
            began = monotonic()
            await slots.acquire()
            waited = monotonic() - began
            logger.debug("%s: waited %.3f s for one of %d slots", self.output.handle, waited, slots.total_tokens)

    def ended_here_before(self, length: int) -> bool:
        """Return whether the previous body of unknown length ended at the same byte, and record this end."""
        again, self._end = self._end == length, length
        return again

    def open_body(self, stream: "Stream") -> "Body":
        """Return the body of a response; reading it raises ``AttemptFailed`` when it is too slow."""
        speed = Speed(lowest=self._context.slowest, window=self._context.window)
        return Body(stream.blocks, download=self, speed=speed)

    def count_wait(self, seconds: float) -> None:
        """Record seconds spent waiting for the host."""
        self._patience.charge(seconds)

    def count_block(self, size: int, *, fast: bool | None) -> AttemptFailed | None:
        """Count the bytes of a block, whether new or repeated.

        Args:
            size: of the block.
            fast: whether the measuring window that ends with it was fast enough; None: no window ends here.

        Returns:
            The reason to stop reading, or None.
        """
        self.received += size
        self._context.received += size
        if fast is False:
            why = f"fewer than {self._context.slowest:.0f} bytes per second arrived over {self._context.window:.3g} s"
            return AttemptFailed(why, slow=True)
        if fast:
            self._patience.reset()
        return None

    def check_announced_size(self, size: int) -> None:
        """Check the size that the host announced, before the duration in the file's own header is known.

        Raises:
            TooLarge: the size exceeds the limit.
        """
        most = flac.MAX_FILE_BYTES if self._context.max_bytes is None else self._context.max_bytes
        if size > most:
            raise TooLarge(f"it has {size} bytes, and {self._explain_max_size(most)}")

    def check_size(self, size: int, *, header: FlacHeader | None) -> None:
        """Check the number of bytes received: a body may be endless.

        Raises:
            TooLarge: the size exceeds the limit.
        """
        most = self.max_size(header)
        if size > most:
            raise TooLarge(f"it has {size} bytes or more, and {self._explain_max_size(most)}")

    def max_size(self, header: FlacHeader | None = None) -> int:
        """Return the largest allowed size in bytes, from the settings or else from the duration."""
        if self._context.max_bytes is not None:
            return self._context.max_bytes
        return flac.largest_file(seconds=self.output.duration, header=header)

    def _explain_max_size(self, most: int) -> str:
        if self._context.max_bytes is not None:
            return f"Limits.max_bytes allows {most}"
        return f"no FLAC of its length has more than {most}; Limits(max_bytes=...) sets another bound"

    async def wait_for_resources(self, shortage: Shortage, error: OSError) -> None:
        """Wait until the system has descriptors or memory again, after closing idle connections."""
        self._context.close_idle()
        await shortage.wait(error)

    def error(self, why: str, *, kind: type[DownloadError] = DownloadError) -> DownloadError:
        """Build the error that ends this download; ``why`` ends with what to do next."""
        output, url = self.output, redact_url(self.output.url)
        what = f"{self.target} was not saved" if self.target else "the stream broke off"
        message = f"{what}: {why} (output {output.index} of {output.handle}, {url.partition('?')[0]})"
        return kind(message, url=url, path=self.target, received=self.received).about(output.handle)

    async def _attempt(self, headers: Mapping[str, str], read: Callable[["Stream"], Awaitable[T]]) -> T:
        """Send one request, and read its response."""
        self._retry_after = None
        async with AsyncExitStack() as opened:
            begun = monotonic()
            try:
                stream = await opened.enter_async_context(self._context.stream(self.output.url, headers=headers))
            finally:
                self._patience.charge(monotonic() - begun)
            date, age = stream.headers.get("date"), stream.headers.get("age")
            self._context.clock.read(date, wall=datetime.now(UTC), steady=monotonic(), age=age)
            if stream.status >= HTTPStatus.BAD_REQUEST:
                asked, now = stream.headers.get("retry-after"), self._context.now().timestamp()
                self._retry_after = retry.retry_after(asked, date=date, now_epoch=now)
            return await read(stream)

    async def _renew_if_expiring(self) -> None:
        """Renew the URL if it was rejected or expires soon; a new one is used however soon it expires."""
        expires_at = self.output.expires_at
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=UTC)
        if self._rejected or (expires_at is not None and expires_at - self._context.now() < URL_RENEWAL_MARGIN):
            self.output = await self._context.renew(self.output)
            self._rejected = False

    def _next_pause(self, failure: TransportError | AttemptFailed) -> float:
        """Count a failed attempt, and return the seconds to wait before the next; raise if it was the last."""
        self._rejected = isinstance(failure, OutputRefused) or (isinstance(failure, AttemptFailed) and failure.rejected)
        pause = self._patience.record_failure(
            rejected=self._rejected,
            slow=isinstance(failure, AttemptFailed) and failure.slow,
            retry_after=self._retry_after,
            jitter=random.random(),
        )
        if isinstance(pause, int | float):
            return pause
        error = self.error(
            f"{failure}; {pause.why}; {self._furthest} bytes were kept: download it again later to resume"
        )
        error.retry_after = self._retry_after
        raise error from (failure if isinstance(failure, TransportError) else None)


def log_warnings(warnings: Iterable[str], *, output: Output, target: object) -> None:
    """Log how audio that is used differs from what was announced."""
    for warning in warnings:
        logger.warning("%s: %s: %s; the audio is used as it is", output.handle, target, warning)


class Body:
    """The blocks of a response body as they arrive, each counted and timed."""

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
        begun, waited = monotonic(), 0.0
        try:
            block = await anext(self._blocks)
        finally:
            waited = monotonic() - begun
            self._download.count_wait(waited)
        self._failure = self._download.count_block(len(block), fast=self._speed.add(len(block), waited=waited))
        return block

    async def aclose(self) -> None:
        """Close the blocks now, rather than when they are garbage-collected."""
        await self._blocks.aclose()

"""Streams one output to a consumer, such as the client of a web app: verified, in order, without storing it."""

from collections import deque
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

from soundpiece_async._core import ranges
from soundpiece_async._core.errors import SoundpieceError, copy_error
from soundpiece_async._core.requests import Output
from soundpiece_async._download.downloader import Downloader
from soundpiece_async._download.relay import RangeRelay, VerifiedRelay
from soundpiece_async._lifetime import Lifetime, run_shielded


class AudioStream:
    """The stream of an output, returned by ``Session.stream``: enter it, and iterate over blocks of bytes.

    Entering waits until the header was checked, so that an output that cannot be fetched raises there, before a web app
    has sent its response. Dropped connections and expired URLs are handled internally. If the file ends early, the
    iteration ends with an error: then the response that relays the bytes must not be completed normally.
    A stream occupies one slot of ``Limits.downloads`` until it is left, however slow its reader is.

    With the ``range`` of a request, ``status`` and ``headers`` are those of the response: 206 and the range, 416 when
    the file ends before it, or 200 and the whole file, where ``if_range`` names another version, or the host states no
    size. A range contains no header to check. One that breaks off is resumed only if the host sends ETags.

    Its background task is a child of the session's root task, as that of ``RunMany``: the stream may be entered, read
    and left by different tasks, and nothing yields inside a task group (PEP 789).
    """

    def __init__(
        self,
        output: Output,
        *,
        downloader: Downloader,
        life: Lifetime,
        wanted: str | None = None,
        if_range: str | None = None,
    ) -> None:
        self._output = output
        self._range = ranges.parse_range(wanted)
        self._if_range = if_range
        self._downloader = downloader
        self._life = life
        self._relay: VerifiedRelay | RangeRelay | None = None
        self._blocks: deque[bytes] = deque()
        self._fault: Exception | None = None
        self._task_ended: anyio.Event | None = None
        self._done = self._reading = False

    def __repr__(self) -> str:
        state = "new" if self._relay is None else "over" if self._done else "open"
        return f"<AudioStream {self._output.handle}#{self._output.index} {state} {self._relay!r}>"

    @property
    def status(self) -> int:
        """The status of the response that relays the stream: 200, or with a ``range`` also 206 or 416."""
        return self._require_entered().reply.status

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, or None if the host does not state them."""
        return self._require_entered().reply.size

    @property
    def content_type(self) -> str:
        """The media type: the service returns FLAC (docs/api.md#downloads), and its header was checked."""
        return "audio/flac"

    @property
    def duration(self) -> float | None:
        """Seconds, from the file's own header, or else as the service announced."""
        header = self._require_entered().header
        return self._output.duration if header is None or header.duration is None else header.duration

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response that relays the stream: the type and, if known, length, range and ETag."""
        return {"Content-Type": self.content_type, **self._require_entered().reply.headers}

    async def __aenter__(self) -> Self:
        if self._relay is not None:
            raise RuntimeError("an audio stream can be entered only once: call session.stream again")
        self._relay = self._downloader.open(self._output, emit=self._put, wanted=self._range, if_range=self._if_range)
        self._changed, self._demand, self._scope = anyio.Event(), anyio.Event(), anyio.CancelScope()
        await anyio.lowlevel.checkpoint_if_cancelled()
        try:
            with self._life.guarded():
                self._task_ended = self._life.start_child(self._run)
                await self._changed.wait()
            self._raise_fault()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next block.

        Raises:
            DownloadError: the rest cannot be fetched.
            SoundpieceError: another task reads the stream at the same time. It ends for both: neither has all of it.
            SessionClosed: the session was closed meanwhile.
        """
        self._require_entered()
        with self._life.guarded(), self._single_reader():
            while not self._blocks and not self._done:
                self._changed = anyio.Event()
                self._demand.set()
                await self._changed.wait()
        if self._blocks:
            return self._blocks.popleft()
        self._raise_fault()
        raise StopAsyncIteration

    @contextmanager
    def _single_reader(self) -> Generator[None]:
        if self._reading:
            fault = SoundpieceError(
                f"the stream of {self._output.handle} was read by two tasks at once, and each would receive only parts "
                "of it; open one stream per reader with session.stream"
            )
            self._fault = fault
            self._blocks.clear()
            self._scope.cancel()
            raise copy_error(fault)
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    def _require_entered(self) -> VerifiedRelay | RangeRelay:
        if self._relay is None:
            raise RuntimeError("use 'async with session.stream(output) as audio'")
        return self._relay

    def _raise_fault(self) -> None:
        if self._done and self._fault is not None:
            raise self._fault

    async def _put(self, blocks: list[bytes]) -> None:
        """Hand blocks to the reader, and wait until it asks for more."""
        self._blocks.extend(blocks)
        self._demand = anyio.Event()
        self._changed.set()
        await self._demand.wait()

    async def _run(self) -> None:
        """Relay the output; a child of the session's root task."""
        relay = self._require_entered()
        self._fault = relay.download.error("the stream was left, or the session closed, before the end")
        try:
            with self._scope:
                await relay.run()
                if not self._scope.cancel_called:
                    self._fault = None
        except Exception as fault:  # noqa: BLE001 - raised by the reader, errors of ours, too; the session continues
            self._fault = fault
        finally:
            self._done = True
            self._changed.set()

    async def _leave(self) -> None:
        self._scope.cancel()
        if self._task_ended is not None:
            with anyio.CancelScope(shield=True):  # the background task is cancelled, and ends by itself
                await run_shielded(self._task_ended.wait)
        self._blocks.clear()

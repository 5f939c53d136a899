"""One output passed on to somebody else, as a web app does it: verified, in order, with nothing kept."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from soundpiece_async._core import ranges
from soundpiece_async._core.errors import SoundpieceError, duplicate
from soundpiece_async._core.requests import Output
from soundpiece_async._download.relay import RangeRelay, VerifiedRelay
from soundpiece_async._lifetime import run_shielded


class AudioStream:
    """What ``Session.stream`` gives: enter it, and iterate over blocks of bytes.

    Entering waits until the header was checked, so that an output that cannot be had is an error there, before a web
    app has answered anything. Drops and expired URLs are mended out of sight. When the file does not come to its
    announced end, the iteration ends with an error: who passes the bytes on must not end his own answer well then.
    It takes one place of ``Limits.downloads`` until it is left, however slow its reader is.

    With the ``range`` of a request, ``status`` and ``headers`` are the answer to it: 206 and the part, 416 when the
    file ends before it, or 200 and all of it, where ``if_range`` names another version, or the host states no length.
    A part has no header to check; all else holds for it, too. One that breaks off goes on only if the host sends ETags.

    Its host task is a child of the session's root task, as that of ``RunMany``: it may be entered, read and left by
    different tasks, and nothing yields inside a task group (PEP 789).
    """

    def __init__(
        self,
        output: Output,
        *,
        wanted: str | None = None,
        if_range: str | None = None,
        open_relay: Callable[..., VerifiedRelay | RangeRelay],
        inside: Callable[[], AbstractContextManager[None]],
        start: Callable[[Callable[..., Coroutine[Any, Any, None]]], anyio.Event],
    ) -> None:
        self._output = output
        self._range = ranges.parse_range(wanted)
        self._if_range = if_range
        self._open_relay = open_relay
        self._inside = inside
        self._start = start
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
        """The status of an answer that passes the stream on: 200, or with a ``range`` also 206 or 416."""
        return self._require_entered().reply.status

    @property
    def size(self) -> int | None:
        """Bytes of the whole file, or None when the host does not say."""
        return self._require_entered().reply.size

    @property
    def content_type(self) -> str:
        """The media type: the service makes FLAC (docs/api.md#downloads), and its header was checked."""
        return "audio/flac"

    @property
    def duration(self) -> float | None:
        """Seconds, by the file's own header, else as the service announced."""
        header = self._require_entered().header
        return self._output.duration if header is None or header.duration is None else header.duration

    @property
    def headers(self) -> dict[str, str]:
        """Headers for an answer that passes the stream on: the type, and what is known of length, part and ETag."""
        return {"Content-Type": self.content_type, **self._require_entered().reply.headers}

    async def __aenter__(self) -> Self:
        if self._relay is not None:
            raise RuntimeError("an audio stream is entered once: call session.stream again")
        self._relay = self._open_relay(self._output, emit=self._put, wanted=self._range, if_range=self._if_range)
        self._changed, self._demand, self._scope = anyio.Event(), anyio.Event(), anyio.CancelScope()
        await anyio.lowlevel.checkpoint_if_cancelled()
        try:
            with self._inside():
                self._task_ended = self._start(self._run)
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
        """Give the next block.

        Raises:
            DownloadError: the rest cannot be fetched.
            SoundpieceError: another task reads it at the same time. It ends for both: neither has the whole of it.
            SessionClosed: the session was closed meanwhile.
        """
        self._require_entered()
        with self._inside(), self._single_reader():
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
                f"the stream of {self._output.handle} was read by two tasks at a time, and each would get parts "
                "of it; open one for each reader with session.stream"
            )
            self._fault = fault
            self._blocks.clear()
            self._scope.cancel()
            raise duplicate(fault)
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
        """Put blocks where the reader takes them, and wait until they are taken: one batch is here, one behind it."""
        self._blocks.extend(blocks)
        self._demand = anyio.Event()
        self._changed.set()
        await self._demand.wait()

    async def _run(self) -> None:
        """Bring the output through; a child of the session's root task."""
        relay = self._require_entered()
        self._fault = relay.download.error("the stream was left, or the session closed, before the end")
        try:
            with self._scope:
                await relay.run()
                self._fault = None
        except Exception as fault:  # noqa: BLE001 - a fault of ours too is the reader's to raise; the session goes on
            self._fault = fault
        finally:
            self._done = True
            self._changed.set()

    async def _leave(self) -> None:
        self._scope.cancel()
        if self._task_ended is not None:
            with anyio.CancelScope(shield=True):  # the host is cancelled, and ends by itself
                await run_shielded(self._task_ended.wait)
        self._blocks.clear()

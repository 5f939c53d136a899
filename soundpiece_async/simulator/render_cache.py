"""Audio rendered on the first request, in a worker thread, and cached within a size limit."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import anyio
import anyio.to_thread
import attrs

from soundpiece_async.simulator.tone import Score, encode


@attrs.frozen
class Render:
    """A FLAC file and its ETag, which follows from the bytes."""

    audio: bytes = attrs.field(repr=False)
    etag: str


@attrs.define(eq=False)
class RenderCache:
    """The files rendered last, at most `capacity` bytes of them; each is rendered once however many ask at a time.

    `change` is what becomes of a file before it is kept; it runs in the worker thread.
    """

    capacity: int
    change: Callable[[bytes], bytes] = attrs.field(default=bytes)
    size: int = attrs.field(default=0, init=False)
    rendered: int = attrs.field(default=0, init=False)
    _kept: OrderedDict[Score, Render] = attrs.field(factory=OrderedDict, init=False)
    _pending: dict[Score, anyio.Lock] = attrs.field(factory=dict, init=False)
    # one at a time: two and the event loop would spend as long again on handing each other the interpreter
    _threads: anyio.CapacityLimiter = attrs.field(factory=lambda: anyio.CapacityLimiter(1), init=False)

    def __repr__(self) -> str:
        """Show how many files and bytes are cached."""
        return f"<RenderCache {len(self._kept)} files, {self.size} of {self.capacity} bytes, {self.rendered} made>"

    async def get(self, score: Score) -> Render:
        """Return the file of a score, rendered if it is not cached."""
        kept = self._find(score)
        if kept is not None:
            return kept
        async with self._pending.setdefault(score, anyio.Lock()):
            # someone else may have rendered it while this one waited
            kept = self._find(score)
            if kept is None:
                kept = await anyio.to_thread.run_sync(self._render, score, limiter=self._threads)
                self._keep(score, kept)
            self._pending.pop(score, None)
            return kept

    def _find(self, score: Score) -> Render | None:
        if score in self._kept:
            self._kept.move_to_end(score)
        return self._kept.get(score)

    def _keep(self, score: Score, render: Render) -> None:
        self.rendered += 1
        self._kept[score] = render
        self.size += len(render.audio)
        while self.size > self.capacity and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self.size -= len(dropped.audio)

    def _render(self, score: Score) -> Render:
        audio = self.change(encode(score))
        return Render(audio, f'"{hashlib.blake2b(audio, digest_size=16).hexdigest()}"')

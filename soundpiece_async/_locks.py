"""A lock for each of many names; nothing is kept of a name that nobody wants."""

from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

import anyio
import attrs


@attrs.define(eq=False)
class Queue:
    """Tasks that want the same name, the one at work included.

    Attributes:
        outage: what the task before failed by, where it concerns those who waited for it as well.
    """

    lock: anyio.Lock = attrs.field(factory=lambda: anyio.Lock(fast_acquire=True))
    length: int = 0
    outage: Exception | None = None


class Locks:
    """Within one process and one event loop. Its length is the number of names that are wanted now."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, Queue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @asynccontextmanager
    async def hold(self, name: Hashable) -> AsyncGenerator[Queue]:
        """Wait until no other task holds this name; who came first goes first."""
        queue = self._queues.setdefault(name, Queue())
        queue.length += 1
        try:
            async with queue.lock:
                yield queue
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[name]

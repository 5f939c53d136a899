"""Locks within one event loop: a plain one, and one for each name in use."""

from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

import anyio
import attrs


class Lock:
    """A lock within one event loop, first come, first served. Only a task that has to wait makes an event for it.

    A lock of anyio takes longer to make, and to look up its task, than most of what is done under one.

    Attributes:
        locked: whether a task holds it; as long as any waits, one does.
    """

    __slots__ = ("_turns", "locked")

    def __init__(self) -> None:
        self.locked: bool = False
        self._turns: list[anyio.Event] = []

    def __repr__(self) -> str:
        return f"<Lock {'locked' if self.locked else 'free'}, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """Number of tasks that wait for it."""
        return len(self._turns)

    async def __aenter__(self) -> None:
        if not self.locked:
            self.locked = True
            return
        turn = anyio.Event()
        self._turns.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # cancelled as its turn came
                self._pass_on()
            else:
                self._turns.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        """Pass the lock to the task that has waited longest, or unlock it."""
        if self._turns:
            self._turns.pop(0).set()
        else:
            self.locked = False


@attrs.define(eq=False)
class LockQueue:
    """Tasks that use the same name, the one at work included.

    Attributes:
        last_error: the error of the previous task, if it concerns the waiting ones as well.
    """

    lock: Lock = attrs.field(factory=Lock)
    length: int = 0
    last_error: Exception | None = None


class KeyedLocks:
    """One lock for each name, within one event loop. Its length is the number of names in use."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, LockQueue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @asynccontextmanager
    async def acquire(self, name: Hashable) -> AsyncGenerator[LockQueue]:
        """Wait until no other task holds this name; first come, first served."""
        queue = self._queues.setdefault(name, LockQueue())
        queue.length += 1
        try:
            async with queue.lock:
                yield queue
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[name]

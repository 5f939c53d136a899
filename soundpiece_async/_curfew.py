"""Ends calls from outside, when their time is up or their session closes, by asyncio's own ``Task.cancel``.

Every submit has both ends. A scope of anyio for the one and a timer of aiohttp for the other took a fifth of its time,
so here is what ``asyncio.timeout`` does, but with one timer for all calls of the same length. It knows neither levels
nor shields: it is for calls that have nothing to do behind a shield.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Call:
    """A ``with`` around a call of the running task; ``cancel`` ends it by ``raising``, and nothing else of the task.

    Args:
        leave: called when it is over.
        raising: makes the error that stands for having been ended.
    """

    __slots__ = ("_before", "_leave", "_raising", "_task", "cancelled")

    def __init__(self, leave: "Callable[[Call], object]", raising: Callable[[], Exception]) -> None:
        self._leave, self._raising = leave, raising
        self.cancelled: bool = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for type checkers: whoever awaits is in a task
        self._task, self._before = task, task.cancelling()
        return self

    def cancel(self) -> None:
        """End it at what it awaits; twice is once."""
        if not self.cancelled:
            self.cancelled = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._leave(self)
        if self.cancelled and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise self._raising() from None  # its frames are aiohttp's


class Curfew:
    """Ends every call that takes longer than so many ``seconds``, by a TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: OrderedDict[Call, float] = OrderedDict()  # the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Curfew {self._seconds:g} s for {len(self._due)} calls>"

    def watch(self) -> Call:
        """Give the ``with`` for one call, whose time begins now."""
        loop = asyncio.get_running_loop()
        call = Call(self._leave, TimeoutError)
        self._due[call] = due = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(due, self._ring, loop)
        return call

    def _leave(self, call: Call) -> None:
        del self._due[call]
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for call, due in self._due.items():
            if due > loop.time():
                self._timer = loop.call_at(due, self._ring, loop)
                break
            call.cancel()


def call_later(seconds: float, call: Callable[[], object]) -> Callable[[], None]:
    """Call something after so many seconds, unless what is returned is called before."""
    return asyncio.get_running_loop().call_later(seconds, call).cancel

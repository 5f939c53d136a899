"""Handles Ctrl-C, SIGTERM and the SIGHUP of a closed terminal by cancelling the work.

Python turns Ctrl-C into an exception between any two instructions: during an import, or during the cleanup after the
first Ctrl-C. Here a signal cancels the work at one of its awaits, and later signals are ignored, because cleanup is
short. Work that can stop gracefully uses ``GracefulStop``: the first signal asks it to stop, the second cancels it.
"""

import signal
from contextvars import ContextVar

TYPE_CHECKING = False  # the module typing itself would take longer to load than all of this file
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType
    from typing import Any, Self

SIGNALS: "tuple[signal.Signals, ...]" = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)


class SignalHandler:
    """Receives signals inside its ``with`` block. Does nothing outside the main thread, which alone receives them.

    Args:
        last: the process ends after the block: ignore signals from then on.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.received: bool = False
        self._last = last
        self._cancel: Callable[[], object] = _do_nothing
        self.on_first: Callable[[], object] | None = None
        """Called by the first signal, instead of cancelling the work."""

    def __repr__(self) -> str:
        return f"<SignalHandler received={self.received}>"

    def __enter__(self) -> "Self":
        self._before: dict[signal.Signals, Any] = {}
        try:
            for number in SIGNALS:
                if not _ignored_by_nohup(number):
                    self._before[number] = signal.signal(number, self._receive)
        except ValueError:  # not the main thread; to ask for that would take an import
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # at exit the interpreter restores handlers, but leaves an ignored signal ignored
            signal.signal(number, signal.SIG_IGN if self._last else handler)

    async def run_until_signal(self, work: "Callable[[], Awaitable[int | None]]") -> "int | None":
        """Run the work until it ends, or until a signal, which may have come before.

        Returns:
            Its exit code; None: cancelled by a signal.
        """
        import asyncio  # slow imports, so only once signals are handled

        import anyio

        loop = asyncio.get_running_loop()  # anyio cannot call into the loop from a signal handler
        code = None
        with anyio.CancelScope() as scope:
            if self.received:
                scope.cancel()
            self._cancel = lambda: loop.call_soon_threadsafe(scope.cancel)
            token = _active.set(self)
            try:
                code = await work()
            finally:
                _active.reset(token)
                self._cancel = _do_nothing
        return None if scope.cancelled_caught else code or 0

    def _receive(self, _number: int, _frame: "FrameType | None") -> None:
        first = not self.received
        self.received = True
        (self.on_first if first and self.on_first else self._cancel)()


_active: "ContextVar[SignalHandler | None]" = ContextVar("active", default=None)
"""The handler of the running work."""


class GracefulStop:
    """In its ``with`` block the first signal calls ``stop`` in the event loop; the second one cancels the work."""

    def __init__(self, stop: "Callable[[], object]") -> None:
        self._stop = stop
        self._handler = _active.get()

    def __repr__(self) -> str:
        return f"<GracefulStop {self._stop!r}>"

    def __enter__(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        if self._handler is not None:
            self._handler.on_first = lambda: loop.call_soon_threadsafe(self._stop)

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            self._handler.on_first = None


def _ignored_by_nohup(number: signal.Signals) -> bool:
    """Return whether the process shall outlive its terminal: ``nohup`` starts it with SIGHUP ignored."""
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def _do_nothing() -> None:
    """Placeholder while there is no work to cancel."""

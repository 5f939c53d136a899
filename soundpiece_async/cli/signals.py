"""Ctrl-C, SIGTERM and the SIGHUP of a terminal that is closed, recorded and never raised.

By itself Python turns Ctrl-C into an exception between any two instructions: in the middle of an import, or of the
cleaning up after the first Ctrl-C. Here a signal only cancels the work, at one of its awaits; another one after that
changes nothing, because cleaning up is short. Work that can stop gracefully uses ``GracefulStop``: then the
first signal asks it to stop, and the second one cancels it.
"""

import signal

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
    """Catches the signals from its ``with`` on. In another thread than the main one, which gets none, it does nothing.

    Args:
        last: nothing comes after this but the end of the process: ignore them until then.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.received: bool = False
        self._last = last
        self._cancel: Callable[[], object] = _do_nothing
        self.ask: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<SignalHandler received={self.received}>"

    def __enter__(self) -> "Self":
        self._before: dict[signal.Signals, Any] = {}
        try:
            for number in SIGNALS:
                if not _ignored_by_nohup(number):
                    self._before[number] = signal.signal(number, self._note)
        except ValueError:  # another thread than the main one, of which nothing else tells without an import
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # the interpreter takes handlers back before its own end, but leaves an ignored signal ignored
            signal.signal(number, signal.SIG_IGN if self._last else handler)

    async def run_until_signal(self, work: "Callable[[], Awaitable[int | None]]") -> "int | None":
        """Do the work until it ends or a signal comes, also one that came earlier; its exit code, or then None."""
        import asyncio  # noqa: PLC0415 - both take their time, and by now the signals are in our hands

        import anyio  # noqa: PLC0415

        loop = asyncio.get_running_loop()  # anyio has no way to call into the loop from a signal handler
        code = None
        with anyio.CancelScope() as scope:
            if self.received:
                scope.cancel()
            self._cancel = lambda: loop.call_soon_threadsafe(scope.cancel)
            _guards.append(self)
            try:
                code = await work()
            finally:
                _guards.remove(self)
                self._cancel = _do_nothing
        return None if scope.cancelled_caught else code or 0

    def _note(self, _number: int, _frame: "FrameType | None") -> None:
        first = not self.received
        self.received = True
        (self.ask if first and self.ask else self._cancel)()


_guards: "list[SignalHandler]" = []
"""The one that guards the work going on."""


class GracefulStop:
    """Within this, the first signal only calls ``ask``, in the event loop; the second one cancels, as ever."""

    def __init__(self, ask: "Callable[[], object]") -> None:
        self._ask = ask

    def __repr__(self) -> str:
        return f"<GracefulStop {self._ask!r}>"

    def __enter__(self) -> None:
        import asyncio  # noqa: PLC0415 - as above

        loop = asyncio.get_running_loop()
        for handler in _guards:
            handler.ask = lambda: loop.call_soon_threadsafe(self._ask)

    def __exit__(self, *_: object) -> None:
        for handler in _guards:
            handler.ask = None


def _ignored_by_nohup(number: signal.Signals) -> bool:
    """Return whether this process is to outlive its terminal: ``nohup`` starts it with SIGHUP ignored."""
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def _do_nothing() -> None:
    """Stand in while there is no work to cancel."""

"""Ctrl-C and SIGTERM, noted and never thrown.

By itself Python turns Ctrl-C into an exception between any two instructions: in the middle of an import, or of the
cleaning up after the first Ctrl-C. Here a signal only cancels the work, at one of its awaits; a second one changes
nothing, because cleaning up is short.
"""

import signal

TYPE_CHECKING = False  # the module typing itself would take longer to load than all of this file
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType
    from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Catches the signals from its ``with`` on; use it in the main thread.

    Args:
        last: nothing comes after this but the end of the process: ignore them until then.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.noted: bool = False
        self._last = last
        self._cancel: Callable[[], object] = _do_nothing

    def __repr__(self) -> str:
        return f"<Interruption noted={self.noted}>"

    def __enter__(self) -> "Self":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # the interpreter takes handlers back before its own end, but leaves an ignored signal ignored
            signal.signal(number, signal.SIG_IGN if self._last else handler)

    async def guard(self, work: "Callable[[], Awaitable[None]]") -> bool:
        """Do the work until it ends or a signal comes, also one that came earlier; says whether one did."""
        import asyncio  # noqa: PLC0415 - both take their time, and by now the signals are in our hands

        import anyio  # noqa: PLC0415

        loop = asyncio.get_running_loop()  # anyio has no way to call into the loop from a signal handler
        with anyio.CancelScope() as scope:
            if self.noted:
                scope.cancel()
            self._cancel = lambda: loop.call_soon_threadsafe(scope.cancel)
            try:
                await work()
            finally:
                self._cancel = _do_nothing
        return scope.cancelled_caught

    def _note(self, _number: int, _frame: "FrameType | None") -> None:
        self.noted = True
        self._cancel()


def _do_nothing() -> None:
    """Stand in while there is no work to cancel."""

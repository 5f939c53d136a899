"""Ends the operations of the world in time, and wakes their waiters."""

from collections.abc import Callable

import anyio
import attrs

from soundpiece_async.simulator.operations import OperationError, ServerOperation
from soundpiece_async.simulator.world import World


@attrs.define(eq=False)
class Clock:
    """The clock of a world: one alarm for all operations, one bell for each that is waited for.

    `on_end` is called once for every operation that ends.
    """

    world: World
    on_end: Callable[[ServerOperation], None]
    _waiters: dict[str, anyio.Event] = attrs.field(factory=dict, init=False)
    _next_wakeup: float = attrs.field(default=0.0, init=False)
    _rescheduled: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def __repr__(self) -> str:
        """Show when the next operation ends, and how many operations are waited for."""
        return f"<Clock next at {self.world.next_due:.3f}, {len(self._waiters)} waited for>"

    async def run(self) -> None:
        """End operations in time, until cancelled."""
        while True:
            self._next_wakeup = self.world.next_due
            self._rescheduled = anyio.Event()
            with anyio.CancelScope(deadline=self._next_wakeup):
                await self._rescheduled.wait()
            self.catch_up()

    def catch_up(self) -> float:
        """End what is due, so that responses never lag behind the alarm; gives the time, in the loop's seconds."""
        now = anyio.current_time()
        for operation in self.world.advance(now):
            ended = self._waiters.pop(operation.id, None)
            if ended is not None:
                ended.set()
            self.on_end(operation)
        if self.world.next_due < self._next_wakeup:
            self._rescheduled.set()
        return now

    def finish(self, identity: str, *, failure: OperationError | None) -> None:
        """End an operation now; with a failure it fails."""
        self.world.finish(identity, now=anyio.current_time(), failure=failure)
        self.catch_up()

    async def wait(self, operation: ServerOperation, *, seconds: float) -> None:
        """Wait until the operation has ended, at most `seconds`."""
        ended = self._waiters.setdefault(operation.id, anyio.Event())
        with anyio.move_on_after(seconds):
            await ended.wait()

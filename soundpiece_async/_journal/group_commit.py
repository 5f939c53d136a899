"""Writes the steps of many callers at a time (rules 1 and 2 of ``store``).

1. While a group is written, what comes in is collected for the next. That one is written once the interval is over,
   which grows with the number of jobs at work: a job among a thousand takes many seconds anyway.
2. It is written at once when nothing would come in addition, because every job at work waits for it; or when half of
   the submits that may be on their way wait for it: each has a slot, and nothing else is sent meanwhile.
3. The last jobs of many are collected as long as the many were: the run has its end in view, and each of them would
   have a commit of its own.
"""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
import attrs

from soundpiece_async._lifetime import run_shielded
from soundpiece_async._locks import KeyedLocks

S = TypeVar("S")

INTERVAL = 300e-6
"""Seconds between the beginnings of two commits for each job at work, at most: a thousand jobs make three a second."""
REMEMBERED = 0.97
"""How much of the number of jobs at work counts at the next commit, if there are fewer by then (rule 3)."""


@attrs.define(eq=False)
class _Batch(Generic[S]):
    """What goes into one commit."""

    steps: list[S] = attrs.field(factory=list)
    durable: bool = False
    submits: int = 0
    due: anyio.Event = attrs.field(factory=anyio.Event)
    done: anyio.Event = attrs.field(factory=anyio.Event)
    results: list[Any] = attrs.field(factory=list)
    error: Exception | None = None


class GroupCommit(Generic[S]):
    """Writes groups of steps.

    Args:
        write: carries out a group of steps, and returns the result of each; ``durable``: on the disk.
        at_work: one lock for each job at work.

    Attributes:
        turn: held while a group is written.
    """

    def __init__(self, write: Callable[[list[S], bool], Awaitable[list[Any]]], at_work: KeyedLocks) -> None:
        self._write = write
        self._at_work = at_work
        self._batch: _Batch[S] = _Batch()
        self._begun = -math.inf
        self._crowd = 0.0
        self.turn = anyio.Lock(fast_acquire=True)

    def __repr__(self) -> str:
        return f"collected={len(self._batch.steps)} jobs at work={len(self._at_work)}"

    async def execute(self, step: S, *, durable: bool = False, submits: int = 0) -> Any:
        """Put a step into the next group, and wait for that; the first of a batch writes it for all.

        Args:
            step: of the caller.
            durable: whether the group has to be on the disk.
            submits: of a step before a submit, how many may be on their way (rule 2); else 0.
        """
        batch, position = self._batch, len(self._batch.steps)
        batch.steps.append(step)
        batch.durable |= durable
        batch.submits += submits > 0
        if position + 1 >= len(self._at_work) or (submits and 2 * batch.submits >= submits):
            batch.due.set()
        if position:
            await batch.done.wait()
        else:
            await run_shielded(partial(self._write_batch, batch))
        if batch.error is not None:
            raise batch.error
        return batch.results[position]

    async def _write_batch(self, batch: _Batch[S]) -> None:
        async with self.turn:
            self._crowd = max(len(self._at_work), REMEMBERED * self._crowd)
            pause = self._begun + INTERVAL * self._crowd - anyio.current_time()
            if pause > 0 and not batch.due.is_set():
                with anyio.move_on_after(pause):
                    await batch.due.wait()
            self._begun, self._batch = anyio.current_time(), _Batch()
            try:
                batch.results = await self._write(batch.steps, batch.durable)
            except Exception as error:  # noqa: BLE001 - raised again, by every caller
                batch.error = error
            finally:
                batch.done.set()

"""Runs the account gate: a request to the API goes on the wire only when the gate admits it."""

import logging
import random

import anyio

from soundpiece_async._core.pacing import Gate, Ticket, Turn

logger = logging.getLogger("soundpiece_async.pacer")


class Pacer:
    """One per session. ``take`` waits for a permit; ``run`` is the one timer that wakes those who wait.

    Args:
        ceiling: requests per second at most; None: unlimited until the service answers 429.
    """

    def __init__(self, *, ceiling: float | None) -> None:
        self.gate = Gate(ceiling=ceiling)
        self.sent = 0
        self._waiting: dict[Ticket, anyio.Event] = {}
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<Pacer sent={self.sent} waiting={len(self._waiting)} {self.gate!r}>"

    async def take(self, turn: Turn) -> Ticket:
        """Wait for a permit, to be ended by ``answered``, ``unanswered`` or ``give_back``; cancelled, none is left."""
        ticket = self.gate.join(turn, now=anyio.current_time())
        if not self._admit(ticket):
            event = self._waiting[ticket] = anyio.Event()
            self._changed.set()
            try:
                await event.wait()
            except BaseException:
                self._waiting.pop(ticket, None)
                self.give_back(ticket)
                raise
        self.sent += 1
        return ticket

    def answered(self, ticket: Ticket, *, status: int, retry_after: float | None) -> None:
        """Say what became of a request: the gate learns from a 429, and the retry quota from a 5xx."""
        limited = status == 429  # noqa: PLR2004 - too many requests (contract section 10)
        if limited and self.gate.limited_count == 0:
            logger.warning("the account's rate limit was met for the first time: requests are paced from here on")
        self.gate.answered(
            ticket,
            now=anyio.current_time(),
            limited=limited,
            retry_after=retry_after,
            jitter=_throw_dice(),
            usable=status < 500,  # noqa: PLR2004 - what 5xx means
        )
        self._admit()

    def unanswered(self, ticket: Ticket) -> None:
        """Say that no usable answer came."""
        self.gate.answered(ticket, now=anyio.current_time(), limited=False, usable=False, jitter=_throw_dice())
        self._admit()

    def give_back(self, ticket: Ticket, *, sent: bool = False) -> None:
        """Return a place in the queue, or a permit: unused, or used by a request that was cancelled once ``sent``."""
        self.gate.leave(ticket, now=anyio.current_time(), sent=sent)
        self._admit()

    async def run(self) -> None:
        """Wake those who wait, when their time has come, until cancelled."""
        while True:
            self._changed = anyio.Event()
            self._admit()
            now = anyio.current_time()
            wakes_at = self.gate.wakes_at(now=now)
            with anyio.move_on_after(None if wakes_at is None else max(0.0, wakes_at - now)):
                await self._changed.wait()

    def _admit(self, ticket: Ticket | None = None) -> bool:
        """Let those go whose turn it is, and say whether ``ticket`` is among them."""
        mine = False
        for admitted in self.gate.admit(now=anyio.current_time()):
            event = self._waiting.pop(admitted, None)
            if event is not None:
                event.set()
            mine = mine or admitted is ticket
        if self._waiting:
            self._changed.set()
        return mine


def _throw_dice() -> float:
    return random.random()  # noqa: S311 - spreads requests, guards nothing

"""Sends calls until they are answered: a slot, a permit, an attempt, and the budget of the trying.

Three clocks, each with its own owner. An *attempt* is bounded by ``Timeouts``, from connecting to the last byte. The
*budget* of a submit or a single read, ``RetryPolicy.submit_max_elapsed``, is what attempts without a usable answer
(connection faults, timeouts, 5xx, a 2xx that is no JSON) and the pauses between them use up, and waiting for a turn
while the service gives usable answers to nobody; a 429, or a queue of ours while the service is well, uses up neither.
The *deadline* is the caller's: what ``timeout=`` says, or cancelling. Polls have no budget: the scheduler repeats them
until the deadline.
"""

import math
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Self, TypeVar

import anyio
import attrs

from soundpiece_async._core.budget import Budget
from soundpiece_async._core.errors import ApiError, RateLimited, SoundpieceError, TransportError
from soundpiece_async._core.pacing import Ticket, Turn
from soundpiece_async._core.settings import Settings
from soundpiece_async._core.tracebacks import forget_arguments
from soundpiece_async._core.wire import Answer, Call
from soundpiece_async._descriptors import Shortage
from soundpiece_async._logs import get_logger
from soundpiece_async._network import Network
from soundpiece_async._pacer import OutOfPatience, Pacer, allow

if TYPE_CHECKING:
    from aiohttp import TraceConfig

T = TypeVar("T")

logger = get_logger("transport")


@attrs.define(eq=False)
class Attempts:
    """What became of the attempts at one call.

    Attributes:
        made: those that were begun.
        in_vain: how many of them certainly led to nothing: there was no connection, or a refusal came back, after which
            no work begins (contract section 7).
    """

    made: int = 0
    in_vain: int = 0

    @property
    def in_doubt(self) -> bool:
        """True when the service may have accepted the call all the same."""
        return self.made > self.in_vain

    def fail(self, error: SoundpieceError) -> None:
        """Note how one ended."""
        refused = isinstance(error, ApiError) and 400 <= error.status < 500  # noqa: PLR2004 - what 4xx means
        self.in_vain += refused or (isinstance(error, TransportError) and not error.sent)


class Transport:
    """Sends what ``wire`` describes, under the account's gate. Open it inside the event loop that uses it.

    Args:
        settings: origin, key, limits, timeouts and retry rules.
        trace_configs: passed through to aiohttp.
    """

    def __init__(self, settings: Settings, *, trace_configs: "Iterable[TraceConfig]" = ()) -> None:
        self.pacer = Pacer(ceiling=settings.limits.requests_per_second)
        self._network = Network(settings, trace_configs=trace_configs)
        self.stream = self._network.stream
        self.close_idle = self._network.close_idle
        self._settings = settings
        self._trouble = ""
        self._submits = anyio.CapacityLimiter(settings.limits.submits)
        self._reads = anyio.CapacityLimiter(settings.limits.submits)

    def __repr__(self) -> str:
        return f"<Transport {self._network!r} submits={self.active_submits} {self.pacer!r}>"

    @property
    def now(self) -> datetime:
        """The time by the service's clock; expiry is meant by that."""
        return self._network.now

    @property
    def active_submits(self) -> int:
        """PUTs holding a slot now."""
        return self._submits.borrowed_tokens

    @property
    def queued(self) -> int:
        """Requests waiting for a slot, or at the gate."""
        slots = self._submits.statistics().tasks_waiting + self._reads.statistics().tasks_waiting
        return slots + self.pacer.gate.waiting

    async def __aenter__(self) -> Self:
        """Open the network; nothing is sent."""
        await self._network.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._network.__aexit__()

    async def ask(
        self,
        call: Call,
        *,
        turn: Turn,
        read: Callable[[Answer, Call], T],
        check: Callable[[], None] = allow,
        announce: Callable[[], Awaitable[None]] | None = None,
        attempts: Attempts | None = None,
    ) -> T:
        """Send a call until it is answered for good: the one place where submits and single reads are tried again.

        The same bytes every time; the beginning of this file says what uses up ``RetryPolicy.submit_max_elapsed``.

        Args:
            call: what to send.
            turn: who goes first at the gate; submits have slots of their own.
            read: makes the result of an answer to the call, or raises what it stands for.
            check: called when it is this call's turn, and at ``Pacer.recheck``; may raise, and nothing is sent.
            announce: awaited before each attempt, in its slot and before the gate: a permit must not grow old.
            attempts: keeps count of them.

        Raises:
            SoundpieceError: what ``read`` makes of the answer; retryable ones only when the budget is used up.
        """
        slots = self._submits if turn is Turn.SUBMIT else self._reads
        budget, error, timeout = Budget(self._settings.retries.submit_max_elapsed), None, self._settings.timeouts.submit
        shortage, stale = Shortage(str(call)), False
        while True:
            silence = self.pacer.silence
            try:
                ticket = await self._line_up(slots, turn, announce, check, until=silence + budget.left)
            except OutOfPatience:
                raise self._give_up(call, error, budget) from None
            budget.wait(self.pacer.silence - silence)
            started = monotonic()
            try:
                return await self._exchange(call, ticket, read, check, timeout=timeout, attempts=attempts)
            except RateLimited:
                continue  # the gate is closed now, and waiting in it is the whole answer to a 429
            except SoundpieceError as failure:
                if not failure.retryable:
                    raise
                error, stale = failure, not stale and getattr(failure, "stale", False)
            finally:
                slots.release()
            # one attempt without a pause: the connection was closed before the request came
            pause = 0.0 if stale else self._choose_pause(call, error, budget, shortage, took=monotonic() - started)
            logger.info("%s: trying again in %.1f s: %s", call, pause, error)
            with self.pacer.patience(math.inf, check=check):
                await anyio.sleep(pause)

    async def _line_up(
        self,
        slots: "anyio.CapacityLimiter",
        turn: Turn,
        announce: Callable[[], Awaitable[None]] | None,
        check: Callable[[], None],
        *,
        until: float,
    ) -> Ticket:
        """Wait for a slot, then for a permit, unless patience is lost before."""
        try:
            slots.acquire_nowait()
        except anyio.WouldBlock:
            with self.pacer.patience(until, check=check):
                await slots.acquire()
        try:
            if announce is not None:
                await announce()
            return await self.pacer.take(turn, until=until, check=check)
        except BaseException:
            slots.release()
            raise

    def poll(self, call: Call, ticket: Ticket, *, read: Callable[[Answer, Call], T]) -> Awaitable[T]:
        """Send one poll with a permit already taken; a failure is the scheduler's to repeat. Raises as ``read``."""
        return self._exchange(call, ticket, read, allow, timeout=self._settings.timeouts.poll)

    async def _exchange(
        self,
        call: Call,
        ticket: Ticket,
        read: Callable[[Answer, Call], T],
        check: Callable[[], None],
        *,
        timeout: float,
        attempts: Attempts | None = None,
    ) -> T:
        """Make one attempt, and tell the gate what became of it: what an answer is good for, ``read`` finds out."""
        sent = False
        try:
            check()
            sent = True
            if attempts is not None:
                attempts.made += 1
            result = _read(read, await self._network.fetch(call, timeout=timeout), call)
        except BaseException as error:
            if sent and attempts is not None and isinstance(error, SoundpieceError):
                attempts.fail(error)
            match error:
                case TransportError(passing=True) | TransportError(stale=True) if sent:  # nothing about the service
                    self.pacer.give_back(ticket, sent=error.sent)
                case RateLimited() if sent:
                    self.pacer.limited(ticket, retry_after=error.retry_after)
                case SoundpieceError() if sent:
                    self._trouble = str(error)
                    self.pacer.answered(ticket, usable=not error.retryable)
                case _:  # cancelled, or refused by the check
                    self.pacer.give_back(ticket, sent=sent)
            raise
        self.pacer.answered(ticket, usable=True)
        return result

    def _choose_pause(
        self, call: Call, error: SoundpieceError, budget: Budget, shortage: Shortage, *, took: float
    ) -> float:
        """Return the seconds before the next attempt; raises when the budget is used up, which a shortage does not."""
        if isinstance(error, TransportError) and error.passing:
            return shortage.next_pause(error)
        pause = budget.fail(took=took, jitter=random.random())  # noqa: S311 - spreads requests, guards nothing
        if pause is None:
            raise self._give_up(call, error, budget)
        return pause

    def _give_up(self, call: Call, error: SoundpieceError | None, budget: Budget) -> SoundpieceError:
        if error is None:
            error = TransportError(
                f"{call}: not sent: the service gives no usable answers; the latest: {self._trouble}", sent=False
            )
        error.add_note(
            f"gave up after {budget.attempts} attempts; sent again, the same object (or key) is one piece of work"
        )
        return error


@forget_arguments
def _read(read: Callable[[Answer, Call], T], answer: Answer, call: Call) -> T:
    """Read an answer; of what is raised no frame holds parts of it, which may be signed URLs."""
    return read(answer, call)

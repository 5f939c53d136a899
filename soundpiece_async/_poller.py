"""Runs the scheduler: one poll serves any number of waiters, and every slot is given back."""

import logging
import math
import random
from collections import OrderedDict
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import anyio
import attrs

from soundpiece_async._core import attempts, completion, wire
from soundpiece_async._core.attempts import STREAK_SECONDS, Streak, Verdict, judge_read, unknown_error
from soundpiece_async._core.completion import Agreement
from soundpiece_async._core.errors import (
    ApiError,
    RateLimited,
    SoundpieceError,
    TransportError,
    WaitTimeout,
    copy_error,
)
from soundpiece_async._core.gate import Priority, Ticket
from soundpiece_async._core.operations import AnyOperation, Operation
from soundpiece_async._core.parsing import ParsedOperation, parse_operation
from soundpiece_async._core.requests import Handle, Request
from soundpiece_async._core.scheduler import CancelPoll, Outcome, Poll, Scheduler, WatchHistory
from soundpiece_async._core.settings import Settings
from soundpiece_async._lifetime import ChildTasks, make_waiter, wake
from soundpiece_async._logs import get_logger
from soundpiece_async._operations import Reader
from soundpiece_async._pacer import OutageTimeout
from soundpiece_async._transport import Transport
from soundpiece_async._watches import WaitState, Watch, make_watch

if TYPE_CHECKING:
    from soundpiece_async._shared.news import News

logger = get_logger("poller")

MAX_UNCLAIMED = 4096
"""Webhook deliveries kept for operations that have no waiter yet; the oldest is dropped first."""

LINGER_SECONDS = 5.0
"""Seconds for which an open poll outlives its last waiter: a client that waits in a loop is back by then."""

SINGLE_POLL_SECONDS = 30.0
"""Seconds for the single poll of ``wait(timeout=0)``, queues included; without those, ``Timeouts.poll`` ends a poll."""

MAX_STATES = 4096
"""Operations remembered after a wait, or because a webhook will report them; the oldest is dropped first."""

MAX_UNDECIDED = 4096
"""Operations remembered whose end a single response leaves open; the oldest is dropped first."""

_UNLIMITED = nullcontext()


class Poller:
    """One per session; ``run`` is a child of the session's root task.

    Args:
        transport: sends the polls.
        reader: numbers the outputs.
        settings: of the session, with limits fitted to this process.
        news: what other processes know, when the account is shared with some.
    """

    def __init__(self, transport: Transport, reader: Reader, *, settings: Settings, news: "News | None" = None) -> None:
        self.completed: int = 0
        self.detection_lag_sum: float = 0.0
        self.detection_lag_max: float = 0.0
        self._transport = transport
        self._reader = reader
        self._scheduler: Scheduler[Watch] = Scheduler(slots=settings.limits.polls, poll_cost=settings.poll_cost)
        self._rejection_seconds = min(STREAK_SECONDS, settings.retries.submit_max_elapsed)
        self._takes_long_polls = True
        self._rejections: set[object] = set()  # those that were warned of
        self._news = news
        self._watches: dict[Handle, Watch] = {}
        self._unclaimed: OrderedDict[Handle, AnyOperation] = OrderedDict()
        self._undecided: OrderedDict[Handle, Agreement] = OrderedDict()
        self._states: OrderedDict[Handle, WaitState] = OrderedDict()
        self._lingering: OrderedDict[Watch, float] = OrderedDict()  # those without a waiter, and until when
        self._changed = make_waiter()

    def __repr__(self) -> str:
        return f"<Poller waited for={self.in_flight} lingering={len(self._lingering)} {self._scheduler!r}>"

    @property
    def in_flight(self) -> int:
        """Operations with waiters."""
        return len(self._watches) - len(self._lingering)

    @property
    def active_polls(self) -> int:
        """Polls holding a slot now."""
        return self._scheduler.polls

    async def wait(self, handle: Handle, *, known: AnyOperation | None, timeout: float | None) -> AnyOperation:
        """Wait until an operation is final. Cancelling only detaches: an open poll lingers for ``LINGER_SECONDS``.

        Args:
            handle: the operation.
            known: the operation as it was last seen, if it was.
            timeout: seconds; None: no limit; 0: poll once.

        Raises:
            WaitTimeout: the timeout passed; nothing is lost.
            NotFound: for a minute, the service did not know the operation.
            SoundpieceError: the key or the account was rejected; or, for a minute, every read.
        """
        delivered = self._unclaimed.pop(handle, None) if self._unclaimed else None
        if delivered is not None:
            return delivered
        if timeout is not None and timeout <= 0:
            return await self._poll_once(handle, known)
        watch = self._start_watching(handle, known)
        watch.waiters[waiter := make_waiter()] = copy_context()
        try:
            with _UNLIMITED if timeout is None else anyio.move_on_after(timeout):  # a scope takes 600 bytes
                await waiter
        finally:
            del watch.waiters[waiter]
            if not watch.waiters and watch.result is None:
                self._leave(watch)
        match watch.result:
            case None:
                raise _too_late(handle, known, f"within {timeout} s", fault=watch.fault)
            case Operation() as operation:
                return operation
            case SoundpieceError() as error:
                raise copy_error(error).about(handle, operation=known)
            case fault:
                raise fault

    async def _poll_once(self, handle: Handle, known: AnyOperation | None) -> AnyOperation:
        """Poll once, and not at all while the gate is closed by a 429 or an outage."""
        result, watch = None, make_watch(handle, known, WaitState(), now=monotonic())
        with anyio.move_on_after(SINGLE_POLL_SECONDS):
            result = await self._request_once(watch, known)
        if result is None:
            raise _too_late(handle, known, "when it was asked for", fault=watch.fault)
        result = self._reader.with_stable_outputs(result)
        self._states.pop(handle, None)
        if (waited_for := self._watches.get(handle)) is not None:
            self._resolve(waited_for, result)
            self._unclaimed.pop(handle, None)
        return result

    async def _request_once(self, watch: Watch, known: AnyOperation | None) -> AnyOperation | None:
        handle, pacer = watch.handle, self._transport.pacer
        if pacer.paused_for:
            return None
        try:
            call = wire.poll_request(handle, wait=False)
            permit = await pacer.acquire(Priority.SUBMIT, what=call, until=pacer.outage_seconds)
            reading = await self._transport.poll(call, permit, parse=watch.read, is_not_outage=attempts.is_cut)
        except OutageTimeout:
            return None
        except SoundpieceError as error:
            if judge_read(error) is Verdict.RAISE:
                raise error.about(handle, operation=known) from None
            logger.info("%s: no response: %s", handle, error)
            watch.fault = str(error)
            return None
        return self._decide(watch, reading)[1]

    def expect_webhook(self, operation: AnyOperation) -> None:
        """Record that a webhook will report an operation, also for waiters by its handle."""
        self._update_state(operation.handle, operation)

    def deliver(self, operation: AnyOperation) -> None:
        """Deliver a final operation from a webhook; kept for a while without waiters."""
        self._publish(operation)
        self._finish_delivered(operation)

    def _publish(self, operation: AnyOperation) -> None:
        """Publish a final operation to the other processes."""
        if self._news is not None:
            self._news.publish(operation)

    def _finish_delivered(self, operation: AnyOperation) -> None:
        operation = self._reader.with_stable_outputs(operation)
        self._states.pop(operation.handle, None)
        watch = self._watches.get(operation.handle)
        if watch is not None:
            self._resolve(watch, operation)
            return
        self._keep(operation)

    def _keep(self, operation: AnyOperation) -> None:
        self._unclaimed[operation.handle] = operation
        if len(self._unclaimed) > MAX_UNCLAIMED:
            self._unclaimed.popitem(last=False)

    async def receive_news(self, news: "News") -> None:
        """Receive the results of other processes until cancelled; one without a final state is read first."""
        async with anyio.create_task_group() as confirming:
            while True:
                handle, found = await news.next()
                watch = self._watches.get(handle)
                if watch is None:
                    continue
                reading = parse_operation(found, handle, request=watch.request) if found else None
                if reading is not None and reading.over:
                    self._finish_delivered(reading.operation)
                else:
                    confirming.start_soon(self.confirm, handle, watch.request)

    async def confirm(self, handle: Handle, request: Request | None) -> None:
        """Read the state that a webhook announced, and use that; if it cannot be read, a poll finds it later."""
        try:
            read = await self._reader.read(handle, request=request)
        except SoundpieceError as error:
            logger.warning("operation %s: a webhook could not be confirmed: %s", handle, error)
        else:
            if completion.is_over(read):
                self.deliver(read)
                return
        self.expect_no_webhook(handle)

    def expect_no_webhook(self, handle: Handle) -> None:
        """Poll an operation whose webhook did not include its end as one without a callback: no other will come."""
        if handle in self._states:
            self._states[handle].webhook_expected = False
        watch = self._watches.get(handle)
        if watch is not None and watch.waiters:
            self._scheduler.watch(watch, route=handle.route, now=monotonic(), age=None, webhook_expected=False)
            self._wake()

    async def run(self) -> None:
        """Execute the scheduler's actions, until cancelled."""
        permit: Ticket | None = None
        async with ChildTasks() as polls:
            while True:
                self._changed = make_waiter()
                now = monotonic()
                linger_until = self._end_lingering(now)
                match self._scheduler.next_action(now, rate=self._transport.pacer.gate.rate):
                    case Poll() as poll:
                        permit = permit or self._transport.pacer.acquire_at_once(Priority.POLL)
                        if permit is None:  # by the time there is one, another poll may be worth more
                            permit = await self._transport.pacer.acquire(Priority.POLL, what="the next poll")
                            continue
                        self._start_poll(poll, permit, polls, now)
                        permit = None
                    case CancelPoll(key=held) as cancel:
                        logger.debug("%s: its long poll is cancelled: another needs its slot (rule 6, 11)", held.handle)
                        self._scheduler.begin(cancel, now=now)
                        held.poll.cancel()
                    case sleep:  # a Sleep
                        if permit is not None:
                            self._transport.pacer.release(permit)
                            permit = None
                        until = min(linger_until, math.inf if sleep.until is None else sleep.until)
                        with anyio.move_on_after(max(0.0, until - now)):
                            await self._changed

    def _wake(self) -> None:
        """Ask the scheduler again."""
        if not self._changed.done():
            self._changed.set_result(None)

    def _start_poll(self, poll: Poll[Watch], permit: Ticket, polls: ChildTasks, now: float) -> None:
        watch = poll.key
        # during an outage all wait for this response: it must not be held
        cut = poll.wait and (self._transport.pacer.gate.half_open or watch.state.long_polls.failed)
        if logger.isEnabledFor(logging.DEBUG):
            why = "short, in an outage or after a rejected long poll, instead of a " * cut
            why += self._scheduler.explain(poll, now=now)
            logger.debug("%s: %s", watch.handle, why)
        poll = attrs.evolve(poll, wait=False) if cut else poll
        self._scheduler.begin(poll, now=now)
        context = next(iter(watch.waiters.values()))  # so that a trace includes the polls of its wait
        watch.unused, work = permit, self._poll(watch, wait=poll.wait, permit=permit, started=now)
        watch.poll = context.run(partial(polls.start, work, self._end_poll, watch, permit))

    async def _poll(self, watch: Watch, *, wait: bool, permit: Ticket, started: float) -> None:
        """Poll an operation once, and release its slot, whatever happens."""
        watch.unused, outcome, retry_after = None, Outcome.CANCELLED, 0.0
        result: AnyOperation | Exception | None = None
        long = wait and self._takes_long_polls  # the scheduler still counts it as a long one
        try:
            call = wire.poll_request(watch.handle, wait=long)
            reading = await self._transport.poll(
                call, permit, parse=watch.read, is_not_outage=partial(self._is_cut, watch)
            )
            if watch.state.long_polls.succeed(long=long):
                self._stop_long_polls()
            outcome, result = self._decide(watch, reading)
        except Exception as error:  # noqa: BLE001 - its waiters get it, and the other polls go on
            outcome, result = self._handle_failure(watch, error, long=long)
            if isinstance(error, SoundpieceError) and not isinstance(error, RateLimited):  # for that the gate is closed
                retry_after = error.retry_after or 0.0
        finally:
            self._settle(watch, outcome, now=(now := monotonic()), pause=retry_after)
        if outcome in (Outcome.PROCESSING, Outcome.UNDECIDED):
            watch.seen, watch.fault = now, ""
            watch.state.streaks.clear()
        elif result is not None:
            # an immediate response was ready before the poll arrived: since when is unknown
            at_once = not wait or now - started < 2 * self._scheduler.round_trip
            self._resolve(watch, result, lag=now - watch.seen if at_once else 0.0)
            if isinstance(result, Operation):
                self._publish(result)

    def _is_cut(self, watch: Watch, error: SoundpieceError) -> bool:
        """Return whether a proxy ended a long poll that the service had held."""
        return attempts.is_cut(error) and self._scheduler.was_held(watch, now=monotonic())

    def _settle(self, watch: Watch, outcome: Outcome, *, now: float, pause: float = 0.0) -> None:
        """Release the slot of a poll; the next one waits for so many seconds at least."""
        history = self._scheduler.settle(watch, now=now, outcome=outcome, jitter=random.random(), retry_after=pause)
        self._wake()
        if (left := history.backoff_until - now) > 0:
            logger.debug("%s: not polled again for %.3f s: %s", watch.handle, left, outcome.value)
        if watch in self._lingering and outcome is not Outcome.FINISHED:  # no waiter came back
            self._forget(watch, history)

    def _end_poll(self, watch: Watch, permit: Ticket) -> None:
        """Release slot and permit of a poll that was cancelled before its first step: it could not do so itself."""
        if watch.unused is permit:
            self._transport.pacer.release(permit)
            self._settle(watch, Outcome.CANCELLED, now=monotonic())

    def _decide(self, watch: Watch, reading: ParsedOperation | None) -> tuple[Outcome, AnyOperation | None]:
        """Decide whether a response, or two that agree, are the end of an operation."""
        if reading is not None:
            self._reader.note(reading)
        if reading is None or not reading.undecided:
            if self._undecided:
                self._undecided.pop(watch.handle, None)
            return (Outcome.FINISHED, reading.operation) if reading and reading.over else (Outcome.PROCESSING, None)
        agreement = self._undecided.setdefault(watch.handle, Agreement())  # it outlives the waiter, who may return
        if agreement.add(reading.ending.status, reading.operation, now=monotonic()):
            del self._undecided[watch.handle]
            return Outcome.FINISHED, reading.settle()
        if len(self._undecided) > MAX_UNDECIDED:
            self._undecided.popitem(last=False)
        logger.info("operation %s is %s, which may not be final", watch.handle, reading.operation.status)
        return Outcome.UNDECIDED, None

    def _stop_long_polls(self) -> None:
        """Send short polls only for the rest of the session: the service rejects the parameter ``wait``."""
        if self._takes_long_polls:
            self._takes_long_polls = False
            self._scheduler.stop_holding()
            logger.warning("the service rejects long polls (wait=true): this session sends short polls from now on")

    def _handle_failure(self, watch: Watch, error: Exception, *, long: bool) -> tuple[Outcome, Exception | None]:
        """Return whether a failed poll is retried, or its error raised in the waiters."""
        now = monotonic()
        if isinstance(error, TransportError) and error.stale:
            return Outcome.CANCELLED, None  # polled again at once
        if isinstance(error, SoundpieceError):
            verdict = judge_read(error)
            if verdict is not Verdict.RATE_LIMITED:
                watch.state.long_polls.fail(error, long=long)
            if not self._is_final(watch, error, verdict, now):
                logger.info("%s: the poll is retried later: %s", watch.handle, error)
                watch.fault = str(error)
                return Outcome.CUT if attempts.is_cut(error) else Outcome.FAILED, None
            if verdict is Verdict.UNKNOWN and isinstance(error, ApiError):
                error = unknown_error(error, handle=watch.handle, streak=watch.state.streaks[verdict], now=now)
            elif verdict is Verdict.REJECTED:
                often = watch.state.streaks[verdict].describe(now)
                error.add_note(
                    f"this came {often}, without a usable response; the work is paid for: wait for it again later"
                )
            error.about(watch.handle)
            logger.info("%s: giving up: %s", watch.handle, error)
        else:
            logger.error("%s: an internal error", watch.handle, exc_info=error)
        self._scheduler.forget(watch, now=now)  # it did not finish: no duration is learned
        return Outcome.CANCELLED, error

    def _is_final(self, watch: Watch, error: SoundpieceError, verdict: Verdict, now: float) -> bool:
        """Return whether a failed poll ends the wait: by itself, or as the latest of a streak."""
        if verdict not in (Verdict.UNKNOWN, Verdict.REJECTED):
            return verdict is Verdict.RAISE
        about = (type(error), getattr(error, "status", 0))
        if verdict is Verdict.REJECTED and about not in self._rejections:
            self._rejections.add(about)
            logger.warning("%s: a poll was rejected, and is retried: %s (logged once)", watch.handle, error)
        return watch.state.streaks.setdefault(verdict, Streak()).add(now, seconds=self._rejection_seconds)

    def _start_watching(self, handle: Handle, known: AnyOperation | None) -> Watch:
        """Return the watch of an operation that is about to be waited for: a new one, or one whose poll lingers."""
        watch = self._watches.get(handle)
        if watch is not None and watch.waiters:
            return watch
        state, now = self._update_state(handle, known), monotonic()
        if watch is None:
            watch = self._watches[handle] = make_watch(handle, known, state, now=now)
            if self._news is not None:  # an operation submitted here has no result yet, unless by webhook
                submitted_here = known is not None and known.request is not None and known.request.callback_url is None
                self._news.subscribe(handle, read_first=not submitted_here)
        self._lingering.pop(watch, None)
        created_at = state.created_at
        age = max(0.0, (self._transport.now - created_at).total_seconds()) if created_at else None
        expected, history = state.webhook_expected, state.history
        self._scheduler.watch(watch, route=handle.route, now=now, age=age, webhook_expected=expected, history=history)
        self._wake()
        return watch

    def _update_state(self, handle: Handle, known: AnyOperation | None = None) -> WaitState:
        """Update the remembered state of an operation, and return it."""
        state = self._states.get(handle)
        if state is None:
            state = self._states[handle] = WaitState()
            if len(self._states) > MAX_STATES:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(handle)
        if known is not None:
            state.created_at = known.created_at or state.created_at
            state.webhook_expected |= known.request is not None and known.request.callback_url is not None
        return state

    def _leave(self, watch: Watch) -> None:
        """Stop watching an operation without waiters; an open poll lingers, in case a waiter returns."""
        now, history = monotonic(), self._scheduler.history(watch)
        if self._scheduler.forget(watch, now=now):
            self._lingering[watch] = now + LINGER_SECONDS
        else:
            self._forget(watch, history)
        self._wake()

    def _end_lingering(self, now: float) -> float:
        """Cancel lingering polls whose time is up; return the time of the next one."""
        while self._lingering:
            watch, until = next(iter(self._lingering.items()))
            if until > now:
                return until
            watch.poll.cancel()
            self._lingering[watch] = math.inf  # until it has ended
            self._lingering.move_to_end(watch)
        return math.inf

    def _forget(self, watch: Watch, history: WatchHistory | None = None) -> None:
        """Drop a watch; keep its ``history``, in case a waiter returns."""
        del self._watches[watch.handle]
        self._lingering.pop(watch, None)
        if self._news is not None:
            self._news.unsubscribe(watch.handle)
        if history is not None:
            self._states[watch.handle] = watch.state
            self._update_state(watch.handle).history = history

    def _unwatch(self, watch: Watch, *, finished: bool) -> None:
        """Stop watching an operation, and cancel its poll."""
        self._forget(watch)
        if self._scheduler.forget(watch, now=monotonic(), finished=finished):
            watch.poll.cancel()
        self._wake()

    def _resolve(self, watch: Watch, result: AnyOperation | Exception, *, lag: float = 0.0) -> None:
        if self._watches.get(watch.handle) is not watch:
            return  # without waiters by now, or resolved already
        if isinstance(result, Operation):
            result = self._reader.with_stable_outputs(result)
            logger.info("operation %s is %s", watch.handle, result.status)
            self.completed += 1
            self.detection_lag_sum += lag
            self.detection_lag_max = max(self.detection_lag_max, lag)
            self._states.pop(watch.handle, None)
            if not watch.waiters:
                self._keep(result)
        watch.result = result
        wake(watch.waiters)
        self._unwatch(watch, finished=isinstance(result, Operation))


def _too_late(handle: Handle, known: AnyOperation | None, when: str, *, fault: str) -> WaitTimeout:
    latest = f" (no usable response; the latest failure: {fault})" if fault else ""
    text = f"operation {handle} was not ready {when}{latest}; it is still running: wait for it again"
    return WaitTimeout(text, handle=handle, operation=known)

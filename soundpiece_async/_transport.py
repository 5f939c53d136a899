"""Sends API requests and retries them: a slot, a permit of the rate limiter, an attempt, and the retry deadline.

Three clocks, each with its own owner. The *attempt timeout* bounds one attempt, from connecting to the last byte
(``Timeouts``). The *retry deadline* of a submit or a single read, ``RetryPolicy.submit_max_elapsed``, is used up by
attempts without a usable response (connection faults, timeouts, 5xx, a 2xx that is not JSON), by the pauses between
them, ``Retry-After`` included, and by queues during an outage. A 429, or a queue while the service works, uses up
neither. *Your timeout* is the caller's: ``timeout=``, or cancelling. Polls have no retry deadline: the scheduler
repeats them until the caller's timeout.

Why does it sleep? A request waits in three places, and the log has the seconds of each, and why: for a slot
(``_acquire_turn``), for a permit (``Pacer.acquire``: an event, set by ``Pacer.run`` when the rate, the pause of a 429
or an outage allows), and between two attempts (``_pause``: backoff or ``Retry-After``, computed in ``_core/retry.py``;
while the system lacks descriptors, in ``_descriptors.py``). In its slot it may also wait for the renewal of a URL, or
for the journal (``before_attempt``).
"""

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Self, TypeVar

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core.attempts import (
    Attempts,
    Health,
    Verdict,
    judge_read,
    judge_submit,
    retry_bounds,
    uncertain_error,
)
from soundpiece_async._core.errors import ApiError, RateLimited, SoundpieceError, TransportError
from soundpiece_async._core.gate import Pace, Priority, Ticket
from soundpiece_async._core.redaction import forget_frames, redact_url
from soundpiece_async._core.retry import Budget
from soundpiece_async._core.settings import Settings
from soundpiece_async._core.wire import ApiRequest, ApiResponse
from soundpiece_async._descriptors import Shortage
from soundpiece_async._http.client import HttpClient, Stream
from soundpiece_async._lifetime import NEVER, StopSignal, call_later
from soundpiece_async._logs import get_logger
from soundpiece_async._pacer import OutageTimeout, Pacer

if TYPE_CHECKING:
    from aiohttp import TraceConfig

T = TypeVar("T")

logger = get_logger("transport")

LARGE_RESPONSE = 128 << 10
"""Bytes of a response that takes some milliseconds to parse: that of some hundred outputs."""


NO_RESPONSE_SECONDS, HOLD_SECONDS = 10.0, 20.0
"""Seconds without a response, as long as there never was one; a read may be a long poll, held for up to 20 s."""


def _never(_: SoundpieceError) -> bool:
    return False


@attrs.define(eq=False)
class _Sending:
    """The state of one ``send``; ``stale``: the latest attempt used a connection that was closed already."""

    call: ApiRequest
    budget: Budget
    attempts: Attempts | None
    shortage: Shortage | None = None
    stale: bool = False


class Transport:
    """Sends the calls of ``wire`` through the account's gate. Open it inside the event loop that uses it.

    Args:
        settings: origin, key, limits, timeouts and retry policy.
        trace_configs: passed through to aiohttp.
        pace: of the gate, when it is shared with other processes.
    """

    def __init__(
        self, settings: Settings, *, trace_configs: "Iterable[TraceConfig]" = (), pace: Pace | None = None
    ) -> None:
        self.pacer: Pacer = Pacer(ceiling=settings.limits.requests_per_second, pace=pace)
        self._http = HttpClient(settings, trace_configs=trace_configs)
        self.stream: Callable[..., AbstractAsyncContextManager[Stream]] = self._http.stream
        self.close_idle: Callable[[], None] = self._http.close_idle
        self.health: Health = Health()
        self._runs: set[StopSignal] = set()
        self._waiting: Counter[str] = Counter()  # attempts that wait for the first response of all, by method
        self._warnings: dict[str, Callable[[], None]] = {}  # what cancels the warning about them
        self._settings = settings
        self._submit_slots = anyio.CapacityLimiter(settings.limits.submits)
        self._read_slots = anyio.CapacityLimiter(settings.limits.submits)

    def __repr__(self) -> str:
        return f"<Transport {self._http!r} submits={self.active_submits} {self.pacer!r}>"

    @property
    def now(self) -> datetime:
        """The time by the service's clock, which expiry times refer to."""
        return self._http.now

    @property
    def base_url(self) -> str:
        """The API's base URL, which relative URLs of responses refer to."""
        return self._settings.base_url

    @property
    def active_submits(self) -> int:
        """PUTs and single reads holding a slot now."""
        return self._submit_slots.borrowed_tokens

    @property
    def queued(self) -> int:
        """Requests waiting for a slot, or at the gate."""
        slots = self._submit_slots.statistics().tasks_waiting + self._read_slots.statistics().tasks_waiting
        return slots + self.pacer.gate.waiting

    async def __aenter__(self) -> Self:
        """Open the HTTP client; nothing is sent."""
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._http.__aexit__()

    @contextmanager
    def stopping(self, run: StopSignal) -> Generator[None]:
        """Register a run: like every other one, it is stopped by the first error with ``stops_run``, such as a 402."""
        self._runs.add(run)
        try:
            yield
        finally:
            self._runs.discard(run)

    async def send(
        self,
        call: ApiRequest,
        *,
        priority: Priority,
        parse: Callable[[ApiResponse, ApiRequest], T],
        stop: StopSignal = NEVER,
        before_attempt: Callable[[], Awaitable[ApiRequest]] | None = None,
        attempts: Attempts | None = None,
        budget: Budget | None = None,
    ) -> T:
        """Send a call until there is a final response: here, and only here, submits and single reads are retried.

        Args:
            call: what to send.
            priority: at the gate; submits have slots of their own.
            parse: parses the response, or raises the error it stands for.
            stop: of the run that the call belongs to: once it is set, nothing more is sent.
            before_attempt: awaited before each attempt, in its slot and before the gate, because a permit must not grow
                old; returns the call to send. Awaited again if ``ApiRequest.renew_at`` of that call passes at the gate.
            attempts: of a submit, those made earlier included.
            budget: the remaining one; None: ``RetryPolicy.submit_max_elapsed``.

        Raises:
            SoundpieceError: of ``parse``, a retryable one once the budget is used up; or what stopped the run.
        """
        slots = self._submit_slots if priority is Priority.SUBMIT else self._read_slots
        state, error = _Sending(call, budget or self.make_budget(), attempts), None
        while True:
            outage = self.pacer.outage_seconds
            try:
                until = outage + state.budget.left
                permit, call = await self._acquire_turn(state, slots, priority, before_attempt, stop, until=until)
            except OutageTimeout:
                raise self._give_up(state, error) from None
            if (waited := self.pacer.outage_seconds - outage) > 0:
                state.budget.charge(waited)
            started = monotonic()
            try:
                return await self._attempt(call, permit, parse, stop, attempts=attempts)
            except SoundpieceError as failure:
                error = failure
            finally:
                slots.release_on_behalf_of(state)
            verdict = judge_read(error) if attempts is None else judge_submit(error, attempts=attempts)
            if verdict is Verdict.RATE_LIMITED:
                continue  # after a 429 the next attempt waits at the gate
            rejected = priority is Priority.RENEWAL and verdict in {Verdict.UNKNOWN, Verdict.REJECTED}
            if verdict is not Verdict.RETRY and not rejected:
                raise error
            await self._pause(state, error, took=monotonic() - started, stop=stop, rejected=rejected)

    async def _pause(
        self,
        state: _Sending,
        error: SoundpieceError,
        *,
        took: float,
        stop: StopSignal,
        rejected: bool = False,
    ) -> None:
        """Sleep until the next attempt; raise the final error if that would be too late."""
        stale = isinstance(error, TransportError) and error.stale
        if (
            stale and not state.stale
        ):  # one attempt without a pause: the connection was closed before the request arrived
            state.stale = True
            return
        state.stale = False
        if isinstance(error, TransportError) and error.local_shortage:
            state.shortage = state.shortage or Shortage(state.call)
            pause: float | None = state.shortage.next_pause(error)
        else:
            bounds, jitter = retry_bounds(error, connected=self.health.connected, rejected=rejected), random.random()
            pause = state.budget.record_failure(took=took, jitter=jitter, retry_after=error.retry_after, bounds=bounds)
        if pause is None:
            raise self._give_up(state, error)
        logger.info("%s: retrying in %.1f s: %s", state.call, pause, error)
        with self.pacer.outage_deadline(math.inf, stop=stop):
            await anyio.sleep(pause)

    async def _acquire_turn(
        self,
        state: _Sending,
        slots: "anyio.CapacityLimiter",
        priority: Priority,
        before_attempt: Callable[[], Awaitable[ApiRequest]] | None,
        stop: StopSignal,
        *,
        until: float,
    ) -> tuple[Ticket, ApiRequest]:
        """Wait for a slot, then for a permit; ``until`` limits the time in outages only (``Pacer.outage_seconds``).

        The slot is the call's, because looking up its task would take longer than all else here.
        """
        call = state.call
        try:
            slots.acquire_on_behalf_of_nowait(state)
        except anyio.WouldBlock:
            began = monotonic()
            with self.pacer.outage_deadline(until, stop=stop):
                await slots.acquire_on_behalf_of(state)
            logger.debug("%s: waited %.3f s for one of %d slots", call, monotonic() - began, slots.total_tokens)
        try:
            while True:
                if before_attempt is not None:
                    call = await before_attempt()
                ticket = self.pacer.acquire_at_once(priority)
                if ticket is None:
                    ticket = await self.pacer.acquire(priority, what=call, until=until, stop=stop)
                if call.renew_at is None or self.now < call.renew_at:
                    return ticket, call
                logger.debug("%s: not sent: the URL of its source is about to expire", call)
                self.pacer.release(ticket)  # a renewal needs a permit, too
        except BaseException:
            slots.release_on_behalf_of(state)
            raise

    def make_budget(self) -> Budget:
        """Return a new budget for one call."""
        return Budget(self._settings.retries.submit_max_elapsed)

    def poll(
        self,
        call: ApiRequest,
        permit: Ticket,
        *,
        parse: Callable[[ApiResponse, ApiRequest], T],
        is_not_outage: Callable[[SoundpieceError], bool],
    ) -> Awaitable[T]:
        """Send one poll with a permit already acquired; the scheduler retries failures. Raises as ``parse``.

        Errors that ``is_not_outage`` accepts do not count as an outage: a long poll that a proxy cut short.
        """
        return self._attempt(
            call, permit, parse, NEVER, timeout=self._settings.timeouts.poll, is_not_outage=is_not_outage
        )

    async def _attempt(
        self,
        call: ApiRequest,
        permit: Ticket,
        parse: Callable[[ApiResponse, ApiRequest], T],
        stop: StopSignal,
        *,
        timeout: float | None = None,
        attempts: Attempts | None = None,
        is_not_outage: Callable[[SoundpieceError], bool] = _never,
    ) -> T:
        """Send a call once, parse its response, and report the outcome to the gate."""
        sent = False
        silent = not self.health.got_response
        if silent:
            self._start_waiting(call)
        try:
            stop.check()
            sent = True
            if attempts is not None:
                attempts.started += 1
            response = await self._http.fetch(call, timeout=timeout or self._settings.timeouts.submit)
            if len(response.body) < LARGE_RESPONSE:
                result = _parse(parse, response, call)
            else:  # in a thread, or the event loop would stand still
                result = await anyio.to_thread.run_sync(_parse, parse, response, call)
        except BaseException as error:
            if sent and isinstance(error, SoundpieceError):
                self._fail(permit, error, attempts, excused=is_not_outage(error))
            else:  # cancelled, or of a run that was stopped
                self.pacer.release(permit, sent=sent)
            raise
        finally:
            if silent:
                self._stop_waiting(call.method)
        self.health.record_response()
        self.pacer.succeeded(permit)
        return result

    def _fail(self, permit: Ticket, error: SoundpieceError, attempts: Attempts | None, *, excused: bool) -> None:
        """Report a failed attempt; one that is ``excused`` says nothing of the service."""
        if attempts is not None:
            attempts.fail(error)
        self._record_failure(error)
        match error:
            case TransportError(local_shortage=True) | TransportError(stale=True):  # no fault of the service
                self.pacer.release(permit, sent=error.sent)
            case RateLimited():
                self.pacer.rate_limited(permit, retry_after=error.retry_after)
            case _ if excused:
                self.pacer.release(permit, sent=True)
            case SoundpieceError(retryable=True):
                self.pacer.failed(permit, retry_after=error.retry_after)
            case _:  # an answer, if not the one hoped for
                self.pacer.succeeded(permit)

    def _start_waiting(self, call: ApiRequest) -> None:
        """Schedule a WARNING that there is no response, as there never was one.

        One for all PUTs that wait, and one for all GETs: ten thousand would not say more.
        """
        method = call.method
        if not self._waiting[method]:
            seconds = NO_RESPONSE_SECONDS + (method == "GET") * HOLD_SECONDS
            self._warnings[method] = call_later(seconds, partial(self._warn_no_response, call, seconds))
        self._waiting[method] += 1

    def _stop_waiting(self, method: str) -> None:
        self._waiting[method] -= 1
        if not self._waiting[method]:
            self._warnings.pop(method)()

    def _warn_no_response(self, call: ApiRequest, seconds: float) -> None:
        if self.health.wait():
            base = redact_url(self._settings.base_url)
            logger.warning("no response from the service yet: %s: none from %s for %.0f s", call, base, seconds)

    def _record_failure(self, error: SoundpieceError) -> None:
        """Record a failure; log it once as a WARNING if it is new; stop all runs if it concerns them."""
        if self.health.fail(error):
            logger.warning("no response from the service yet, or no more: %s", error)
        self._stop_runs(error)

    def _stop_runs(self, error: SoundpieceError) -> None:
        if error.stops_run:
            for run in self._runs:
                run.set(error)

    def _give_up(self, state: _Sending, error: SoundpieceError | None) -> SoundpieceError:
        attempts = state.attempts
        if error is None:
            error = TransportError(
                f"{state.call}: not sent: no usable responses; the latest failure: {self.health.latest}",
                sent=False,
                kind="connect",
            )
        elif (
            isinstance(error, ApiError)
            and not error.retryable
            and attempts is not None
            and attempts.may_have_been_accepted
        ):
            error = uncertain_error(error)
        if not self.health.connected:  # other requests of a run would fail as well
            error.stops_run = True
            self._stop_runs(error)
        made = state.budget.attempts
        attempt = "attempt" if made == 1 else "attempts"
        error.add_note(
            f"gave up after {made} {attempt}; retrying the same request object is safe (same idempotency key)"
        )
        return error


def _parse(parse: Callable[[ApiResponse, ApiRequest], T], response: ApiResponse, call: ApiRequest) -> T:
    """Parse a response; no frame of an error keeps parts of it, which may be signed URLs."""
    try:
        return parse(response, call)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised, as ``forget_arguments`` does it
        failure = forget_frames(error)
    del parse, response, call
    raise failure

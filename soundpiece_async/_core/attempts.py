"""Classifies failed attempts: retry, wait at the gate, believe a rejection after a streak, or raise.

1. A submit is one operation for its key, so that repeating it is safe. After an attempt that *may have been accepted*
   (a drop, a timeout, a 5xx, a 408, a 2xx without an operation) a rejection of its repeat says nothing of that attempt
   (docs/api.md#rejected-repeats): only 401, 402 and 403, which are about the account, are final then.
2. A rejection of a read does not end the operation. A status that means "not now" is retried later, for as long as the
   caller waits. An operation is *unknown* only when the service has stated it ``STREAK_TIMES`` times over
   ``STREAK_SECONDS``; any other rejection, and a response without an operation or with another one, ends a wait only
   when as many have come over as long a time. Each of the two is counted by itself, until a usable response comes. A
   read that renews a URL, for which a download waits, is rejected after ``UNREADABLE_TIMES`` of them; any other, at
   once.
3. Nothing ends a read for the sake of the network. A submit ends early when no connection of the session has ever
   worked, because then a setting is wrong rather than the network (``RetryBounds``).
4. 401, 402 and a 403 of the API itself stop a run (``SoundpieceError.stops_run``); a 403 of something in between
   concerns one request, unless the first ``BLOCKED_AFTER`` responses of a session are nothing else.
5. A long poll that failed is followed by a short one. When a long poll is rejected and the short one answered,
   ``REJECTED_LONG_POLLS`` times for one operation, it is the parameter ``wait`` that the service does not take.
"""

import re
from enum import Enum
from http import HTTPStatus

import attrs

from soundpiece_async._core.errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    DecodeError,
    NotFound,
    RateLimited,
    ServerError,
    SoundpieceError,
    TransportError,
    ValidationError,
)
from soundpiece_async._core.requests import Handle
from soundpiece_async._core.retry import RetryBounds

ACCOUNT = frozenset({401, 402, 403})
PASSING = frozenset({408, 421, 423, 425, 499})
"""4xx that say "not now": a proxy's timeout, another connection, a lock, too early."""
OPEN = frozenset({408, 499})
"""Statuses after which the service may still have accepted the request."""
RESENDABLE = ACCOUNT | PASSING | {404, 405, 407, 429}
"""Rejections of a PUT that leave its job unchanged: account, base URL, proxy or rate are at fault, not the request."""
CUT = frozenset({408, 499, 504})
"""Statuses of a proxy whose idle timeout is shorter than a long poll."""

STREAK_TIMES, STREAK_SECONDS = 3, 60.0
REJECTED_LONG_POLLS = 2
UNREACHED_SECONDS = 30.0
"""Seconds of trying to connect, as long as no connection of the session has ever worked."""
UNREADABLE_TIMES = 3
"""Unreadable responses in a row, as of an encoding that is not installed, or without an operation; and rejections
in a row of a read that renews a URL."""
BLOCKED_AFTER = 10

_UNKNOWN = re.compile(r"not[ _-]?found|unknown|no such|(does not|doesn't|not) exist", re.IGNORECASE)


class Verdict(Enum):
    """What to do about a failed attempt."""

    RETRY = "retry"
    """Send the same bytes again, after a pause, within the budget; a poll is sent again later."""
    RATE_LIMITED = "rate limited"
    """Wait at the gate, which a 429 has closed; this uses no budget."""
    UNKNOWN = "unknown"
    """The service does not know the operation: believed after a ``Streak``."""
    REJECTED = "rejected"
    """A rejected or unreadable read: final for a wait after a ``Streak``, for a single read now."""
    RAISE = "raise"
    """Final for this call."""


@attrs.define(eq=False)
class Attempts:
    """The outcomes of the attempts with one key.

    Attributes:
        started: attempts begun.
        certainly_failed: attempts that certainly created nothing: there was no connection, or a rejection came back,
            after which no work begins (docs/api.md#http-errors).
        before: True when an attempt of an earlier process may have been accepted.
    """

    started: int = 0
    certainly_failed: int = 0
    before: bool = False

    @property
    def may_have_been_accepted(self) -> bool:
        """True when the service may have accepted one of them."""
        return self.before or self.started > self.certainly_failed

    def fail(self, error: SoundpieceError) -> None:
        """Record how an attempt ended."""
        match error:
            case TransportError(sent=sent):
                self.certainly_failed += not sent
            case ApiError(status=status):
                self.certainly_failed += 400 <= status < 500 and status not in OPEN


@attrs.define(eq=False)
class Health:
    """The state of the service as a session sees it from its attempts.

    Attributes:
        connected: whether a connection has ever worked.
        got_response: whether there was any response.
        latest: the latest failure, as text.
    """

    connected: bool = False
    got_response: bool = False
    latest: str = ""
    _responses: int = 0
    _blocked: int = 0
    _silent: int = 0

    def record_response(self) -> None:
        """Record a usable response."""
        self.connected = self.got_response = True
        self._responses += 1
        self._silent = 0

    def fail(self, error: SoundpieceError) -> bool:
        """Record a failed attempt; return True when it should be logged: the second in a row of its kind.

        Drops and timeouts are common, and count only as long as no response ever came: then it is the wrong port.
        If the first ``BLOCKED_AFTER`` responses are all such errors, the latest is marked: it stops runs (rule 4).
        """
        self.latest = str(error)
        if isinstance(error, TransportError) and error.local_shortage:
            return False  # of this machine
        if not isinstance(error, TransportError):
            blocked = isinstance(error, AuthenticationError) and not error.stops_run
            self.record_response()
            self._blocked += blocked
            if blocked and self._blocked == self._responses >= BLOCKED_AFTER:
                error.stops_run = True
            return False
        self.connected = self.connected or (error.sent and error.kind not in ("address", "response"))
        silent = not error.sent or error.kind in ("address", "response") or not self.got_response
        self._silent += silent
        return silent and self._silent == 2  # one may be chance

    def wait(self) -> bool:
        """Record an attempt that has waited long without a response; return True when it should be logged."""
        silent = not self.got_response and self._silent < 2
        self._silent = max(2, self._silent)
        return silent


@attrs.define(eq=False)
class Streak:
    """Consecutive reads of one operation with the same failure, without a usable response between them (rule 2)."""

    times: int = 0
    since: float = 0.0

    def add(self, now: float, *, seconds: float) -> bool:
        """Count one more at ``now``; return True when they are enough, over enough time, to be believed."""
        self.since = self.since if self.times else now
        self.times += 1
        return self.times >= STREAK_TIMES and now - self.since >= seconds

    def describe(self, now: float) -> str:
        """Return the number and the time, for messages."""
        return f"{self.times} times over {now - self.since:.0f} s"


@attrs.define(eq=False)
class LongPolls:
    """The outcomes of the long polls on one operation (rule 5).

    Attributes:
        failed: whether the latest one failed: then the next poll is short.
    """

    failed: bool = False
    _rejected: bool = False
    _rejections: int = 0

    def fail(self, error: SoundpieceError, *, long: bool) -> None:
        """Record a failed poll."""
        if long:
            self.failed, self._rejected = True, _is_rejection(error)

    def succeed(self, *, long: bool) -> bool:
        """Record a usable response; return True when the service has shown that it accepts short polls only."""
        self._rejections = 0 if long else self._rejections + self._rejected
        self.failed = self._rejected = False
        return self._rejections >= REJECTED_LONG_POLLS


def _is_rejection(error: SoundpieceError) -> bool:
    """Return whether a poll may have been rejected for one of its parameters."""
    match error:
        case RateLimited():
            return False
        case ApiError(status=status):
            return status not in CUT and (status < 500 or status == HTTPStatus.NOT_IMPLEMENTED)
    return False


def judge_submit(error: SoundpieceError, *, attempts: Attempts) -> Verdict:
    """Return what to do about a failed PUT.

    Args:
        error: how the attempt ended.
        attempts: all with the same key, this one included.
    """
    match error:
        case RateLimited():
            return Verdict.RATE_LIMITED
        case TransportError() | ServerError() | DecodeError(operation=None):
            return Verdict.RETRY
        case ApiError(status=status) if status in PASSING:
            return Verdict.RETRY
        case ApiError(status=status) if (
            attempts.may_have_been_accepted and 400 <= status < 500 and status not in ACCOUNT
        ):
            return Verdict.RETRY
    return Verdict.RAISE


def judge_read(error: SoundpieceError) -> Verdict:
    """Return what to do about a failed GET."""
    match error:
        case RateLimited():
            return Verdict.RATE_LIMITED
        case TransportError() | ServerError():
            return Verdict.RETRY
        case ApiError(status=status) if status in PASSING or status == HTTPStatus.CONFLICT:
            return Verdict.RETRY
        case ApiError() if _is_unknown(error):
            return Verdict.UNKNOWN
        case ApiError(stops_run=False) | DecodeError():
            return Verdict.REJECTED
    return Verdict.RAISE


def _is_unknown(error: ApiError) -> bool:
    """Return whether a response states that there is no such operation."""
    match error:
        case NotFound() | ApiError(status=HTTPStatus.GONE):
            return True
        case BadRequest(detail=detail) | ValidationError(detail=detail):
            return _UNKNOWN.search(str(detail)) is not None
    return False


def unknown_error(error: ApiError, *, handle: Handle, streak: Streak, now: float) -> NotFound:
    """Return the error for an operation that the service has not known for a minute."""
    return NotFound(
        f"operation {handle}: the service does not know it ({streak.describe(now)}; the latest: {error}); wait for it"
        " again later: it is submitted again only when you do that",
        status=error.status,
        detail=error.detail,
        body=error.body,
        headers=error.headers,
    ).about(handle)


def is_cut(error: SoundpieceError) -> bool:
    """Return whether a proxy may have ended a long poll, because its idle timeout is shorter than the hold."""
    match error:
        case TransportError(kind="drop"):
            return True
        case ApiError(status=status):
            return status in CUT
    return False


def is_rejected(error: SoundpieceError, *, in_doubt: bool) -> bool:
    """Return whether a rejected PUT ends its job for good: the same key cannot change that.

    One that names an operation does not: it may be that of the same key, and come in response to a later attempt.
    """
    return (
        isinstance(error, ApiError)
        and 400 <= error.status < 500
        and error.status not in RESENDABLE
        and error.handle is None
        and not in_doubt
    )


def retry_bounds(error: SoundpieceError, *, connected: bool, rejected: bool = False) -> RetryBounds:
    """Return the bounds on retrying a submit or single read after this failure, besides its budget.

    Args:
        error: how the latest attempt ended.
        connected: whether a connection of the session has ever worked.
        rejected: whether it rejects a read.
    """
    match error:
        case TransportError(kind="response") | DecodeError():
            return RetryBounds(unreadable=UNREADABLE_TIMES)
        case ApiError() if rejected:
            return RetryBounds(unreadable=UNREADABLE_TIMES)
        case TransportError(kind="address") if not connected:
            return RetryBounds(seconds=0.0)
        case TransportError(sent=False) if not connected:
            return RetryBounds(seconds=UNREACHED_SECONDS)
    return RetryBounds()


def uncertain_error(error: ApiError) -> TransportError:
    """Return the error for a submit that may have been accepted, and whose repeats are rejected."""
    failure = TransportError(
        f"{error}; but an earlier attempt with this key got no usable response and may have been accepted: send the"
        " same object (or key) again later, and no new one",
        kind="rejected",
        retry_after=error.retry_after,
    )
    failure.__cause__ = error
    return failure.about(error.handle)

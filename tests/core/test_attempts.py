from math import inf

import pytest

from soundpiece_async._core.attempts import (
    BLOCKED_AFTER,
    STREAK_SECONDS,
    UNREACHED_SECONDS,
    UNREADABLE_TIMES,
    Attempts,
    Health,
    LongPolls,
    Streak,
    Verdict,
    is_cut,
    is_rejected,
    judge_read,
    judge_submit,
    retry_bounds,
    uncertain_error,
    unknown_error,
)
from soundpiece_async._core.errors import (
    ApiError,
    AuthenticationError,
    DecodeError,
    FailureKind,
    InvalidRequest,
    NotFound,
    RateLimited,
    SoundpieceError,
    TransportError,
    detach,
)
from soundpiece_async._core.operations import Operation, Status
from soundpiece_async._core.requests import Handle
from soundpiece_async._core.retry import RetryBounds
from soundpiece_async._core.wire import ApiRequest, ApiResponse, error_from_response

HANDLE = Handle("create.new_fx", "op_1")
PUT = ApiRequest("PUT", "/v1/create.new_fx", b"{}", "k")
ALL_4XX = sorted({*range(400, 419), 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499})


def refusal(status: int, body: bytes = b'{"detail": "no"}', **headers: str) -> ApiError:
    return error_from_response(ApiResponse(status, headers, body), PUT)


def after(*errors: SoundpieceError, before: bool = False) -> Attempts:
    attempts = Attempts(before=before)
    for error in errors:
        attempts.started += 1
        attempts.fail(error)
    return attempts


@pytest.mark.parametrize(
    ("error", "doubt"),
    [
        (TransportError("dropped"), True),
        (TransportError("refused", sent=False), False),
        (refusal(500), True),
        (refusal(502), True),
        (refusal(408), True),
        (refusal(499), True),
        (refusal(302), True),
        (refusal(409), False),
        (refusal(422), False),
        (refusal(429), False),
        (DecodeError("no operation"), True),
    ],
)
def test_what_leaves_doubt(error: SoundpieceError, *, doubt: bool) -> None:
    """Only a refusal, and what never left, certainly led to nothing; one attempt in doubt is enough."""
    assert after(error).may_have_been_accepted is doubt
    assert after(refusal(409), error, refusal(422)).may_have_been_accepted is doubt
    assert after(refusal(409), before=True).may_have_been_accepted


def test_an_attempt_without_an_end_is_in_doubt() -> None:
    """A cancelled one may have been accepted."""
    assert Attempts(started=1).may_have_been_accepted
    assert not Attempts().may_have_been_accepted


@pytest.mark.parametrize("status", ALL_4XX)
def test_a_refused_repeat_is_asked_again(status: int) -> None:
    """After doubt every 4xx but those about the account; without doubt those that say "not now"."""
    error = refusal(status)
    fresh, repeat = after(error), after(refusal(502), error)
    expected = Verdict.RATE_LIMITED if status == 429 else Verdict.RAISE if status in (401, 402, 403) else Verdict.RETRY
    passing = status in (408, 421, 423, 425, 499)
    assert judge_submit(error, attempts=repeat) is expected
    assert judge_submit(error, attempts=fresh) is (
        Verdict.RATE_LIMITED if status == 429 else Verdict.RETRY if passing else Verdict.RAISE
    )
    assert not is_rejected(error, in_doubt=True)
    assert is_rejected(error, in_doubt=False) is (
        status not in {401, 402, 403, 404, 405, 407, 408, 421, 423, 425, 429, 499}
    )


@pytest.mark.parametrize("error", [TransportError("x"), refusal(500), refusal(504)])
def test_no_usable_answer_is_asked_again(error: SoundpieceError) -> None:
    """Submits and reads alike; it ends no job."""
    assert judge_submit(error, attempts=after(error)) is Verdict.RETRY
    assert judge_read(error) is Verdict.RETRY
    assert not is_rejected(error, in_doubt=False)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        *((refusal(status), Verdict.RETRY) for status in (408, 409, 421, 423, 425, 499)),
        (refusal(429), Verdict.RATE_LIMITED),
        (refusal(404), Verdict.UNKNOWN),
        (refusal(404, b"<html>"), Verdict.UNKNOWN),
        (refusal(410), Verdict.UNKNOWN),
        (refusal(422, b'{"detail": "Operation not found"}'), Verdict.UNKNOWN),
        (refusal(422, b'{"detail": [{"loc": ["query", "id"], "msg": "Unknown id", "type": "x"}]}'), Verdict.UNKNOWN),
        (refusal(422, b'{"detail": [{"type": "operation_not_found"}]}'), Verdict.UNKNOWN),
        (refusal(400, b'{"detail": "no such operation"}'), Verdict.UNKNOWN),
        (refusal(422, b'{"detail": [{"type": "string_pattern_mismatch"}]}'), Verdict.REJECTED),
        (refusal(403, b"<html>blocked</html>"), Verdict.REJECTED),
        *((refusal(status), Verdict.REJECTED) for status in (302, 400, 405, 407, 411, 418, 424, 431, 451)),
        (DecodeError("x"), Verdict.REJECTED),
        (refusal(401), Verdict.RAISE),
        (refusal(401, b"<html>"), Verdict.RAISE),
        (refusal(402), Verdict.RAISE),
        (refusal(403), Verdict.RAISE),
        (InvalidRequest("x", field="id"), Verdict.RAISE),
    ],
    ids=str,
)
def test_a_refused_read(error: SoundpieceError, verdict: Verdict) -> None:
    """What passes is a later turn, what may pass has to come often, and what is about the account is final."""
    assert judge_read(error) is verdict


def test_an_operation_is_unknown_when_it_is_said_for_a_minute() -> None:
    """Often is not long, and long is not often."""
    unknown = Streak()
    assert not any(unknown.add(now, seconds=STREAK_SECONDS) for now in (5.0, 10.0, 20.0, 64.9))
    assert unknown.add(65.0, seconds=STREAK_SECONDS)
    seldom = Streak()
    assert [seldom.add(now, seconds=1.0) for now in (0.0, 100.0, 200.0)] == [False, False, True]
    error = unknown_error(refusal(422, b'{"detail": "not found"}'), handle=HANDLE, streak=unknown, now=65.0)
    assert isinstance(error, NotFound)
    assert (error.handle, error.status, error.detail) == (HANDLE, 422, "not found")
    assert "operation create.new_fx/op_1: the service does not know it (5 times over 60 s" in str(error)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        *((refusal(status), True) for status in (302, 400, 403, 404, 405, 414, 422, 501)),
        *((refusal(status), False) for status in (408, 429, 499, 500, 502, 504)),
        (TransportError("x"), False),
        (DecodeError("x"), False),
    ],
    ids=str,
)
def test_a_service_that_refuses_long_polls(error: SoundpieceError, *, refused: bool) -> None:
    """A failed long poll is followed by a short one; two that were refused, and then answered short, are enough."""
    polls = LongPolls()
    polls.fail(error, long=False)
    assert not polls.failed
    answers = []
    for _ in range(2):
        polls.fail(error, long=True)
        polls.fail(error, long=False)
        assert polls.failed
        answers.append(polls.succeed(long=False))
        assert not polls.failed
        answers.append(polls.succeed(long=False))
    assert answers == [False, False, refused, refused]


def test_a_long_poll_that_is_answered_is_taken() -> None:
    """Refusals before it were about something else."""
    polls = LongPolls()
    for _ in range(5):
        polls.fail(refusal(400), long=True)
        assert not polls.succeed(long=False)
        assert not polls.succeed(long=True)


@pytest.mark.parametrize(
    ("error", "cut"),
    [
        (TransportError("x", kind="drop"), True),
        (TransportError("x", kind="timeout"), False),
        (TransportError("x", kind="connect", sent=False), False),
        (refusal(408), True),
        (refusal(499), True),
        (refusal(504), True),
        (refusal(502), False),
        (refusal(404), False),
        (DecodeError("x"), False),
    ],
)
def test_what_a_short_idle_timeout_looks_like(error: SoundpieceError, *, cut: bool) -> None:
    """A close, or a status that proxies answer then."""
    assert is_cut(error) is cut


@pytest.mark.parametrize(
    ("kind", "sent", "fresh", "later"),
    [
        ("address", False, RetryBounds(seconds=0.0), RetryBounds()),
        ("connect", False, RetryBounds(seconds=UNREACHED_SECONDS), RetryBounds()),
        ("drop", True, RetryBounds(), RetryBounds()),
        ("timeout", True, RetryBounds(), RetryBounds()),
        ("response", True, RetryBounds(unreadable=UNREADABLE_TIMES), RetryBounds(unreadable=UNREADABLE_TIMES)),
    ],
)
def test_how_long_a_call_is_tried(kind: FailureKind, *, sent: bool, fresh: RetryBounds, later: RetryBounds) -> None:
    """Until a connection has ever worked, a setting is likelier to be wrong than the network."""
    error = TransportError("x", kind=kind, sent=sent)
    assert retry_bounds(error, connected=False) == fresh
    assert retry_bounds(error, connected=True) == later
    assert retry_bounds(refusal(500), connected=False) == RetryBounds(inf, inf)
    assert retry_bounds(refusal(404), connected=True, rejected=True) == RetryBounds(unreadable=UNREADABLE_TIMES)


def test_a_session_has_reached_the_service_once_something_was_sent() -> None:
    """An answer that is no HTTP, or a certificate that nobody trusts, is another's."""
    health = Health()
    for kind in ("address", "connect"):
        health.fail(TransportError("x", kind=kind, sent=False))
    health.fail(TransportError("SSH", kind="response"))
    assert not health.connected
    for reaching in (TransportError("x", kind="drop"), TransportError("x", kind="timeout"), refusal(500)):
        health = Health()
        health.fail(reaching)
        assert health.connected
        assert health.latest == str(reaching)


def test_silence_is_told_once() -> None:
    """At the second failure in a row, and again when answers have come meanwhile; drops and timeouts are common."""
    health, silent = Health(), TransportError("x", kind="connect", sent=False)
    assert [health.fail(silent) for _ in range(5)] == [False, True, False, False, False]
    health.record_response()
    assert [health.fail(silent), health.fail(TransportError("x")), health.fail(silent)] == [False, False, True]
    health.fail(refusal(500))
    assert [health.fail(TransportError("x", kind="response")) for _ in range(2)] == [False, True]


def test_as_long_as_nothing_ever_answered_drops_and_timeouts_are_silence_too() -> None:
    """Something else listens on that port; once told, it is not told again."""
    for kinds in (("timeout", "drop"), ("drop", "drop"), ("timeout", "timeout")):
        health = Health()
        assert [health.fail(TransportError("x", kind=kind)) for kind in (*kinds, "drop")] == [False, True, False]
        assert not health.wait()
    health = Health()
    assert [health.wait(), health.wait(), health.fail(TransportError("x", kind="timeout"))] == [True, False, False]
    health.record_response()
    assert not health.wait()
    assert [health.fail(TransportError("x", kind="timeout")) for _ in range(3)] == [False] * 3


def test_a_firewall_that_lets_nothing_pass_stops_a_run() -> None:
    """The first ten answers of a session alike; one that is another shows that the rest may pass."""
    walled = [refusal(403, b"<html>blocked</html>") for _ in range(BLOCKED_AFTER + 2)]
    health = Health()
    for error in walled:
        health.fail(error)
    assert [error.stops_run for error in walled] == [False] * (BLOCKED_AFTER - 1) + [True] * 3
    health = Health()
    health.record_response()
    walled = [refusal(403, b'"blocked"') for _ in range(3 * BLOCKED_AFTER)]
    for error in walled:
        health.fail(error)
    assert not any(error.stops_run for error in walled)


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (refusal(401, b"<html>"), True),
        (refusal(402, b""), True),
        (refusal(403), True),
        (refusal(403, b'{"detail": null}'), True),
        (refusal(403, b'{"error": "no"}'), False),
        (refusal(403, b"<html>"), False),
        (refusal(403, b'["detail"]'), False),
        (refusal(404), False),
        (TransportError("x"), False),
        (AuthenticationError("x", status=403), False),
    ],
)
def test_what_stops_a_run(error: SoundpieceError, *, stops: bool) -> None:
    """What is about the account; a 403 is when it is the API's own."""
    assert error.stops_run is stops


def test_an_error_that_many_share_names_no_operation() -> None:
    """Each request of a stopped run is answered with it."""
    error = refusal(401).about(HANDLE)
    copy = detach(error)
    assert (type(copy), str(copy), copy.handle, copy.stops_run) == (AuthenticationError, str(error), None, True)
    assert error.handle == HANDLE


def test_a_refused_repeat_says_that_the_work_may_be_accepted() -> None:
    """With the key, and with what to do: it may go again, and nothing else may."""
    error = refusal(409, **{"retry-after": "7"})
    doubt = uncertain_error(error)
    assert (doubt.retryable, doubt.sent, doubt.kind, doubt.retry_after) == (True, True, "rejected", 7.0)
    assert doubt.__cause__ is error
    assert "idempotency key k" in str(doubt)
    assert "status 409" in str(doubt)
    assert "may have been accepted" in str(doubt)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 503, 301])
def test_retry_after_is_read_from_every_answer(status: int) -> None:
    """A response may say how long to wait, whatever its status (docs/api.md#retry-after)."""
    assert refusal(status, **{"retry-after": "12"}).retry_after == 12.0
    assert refusal(status).retry_after is None


def test_other_failures_are_final() -> None:
    """What is no failure of an attempt at all is raised as it is."""
    assert judge_submit(InvalidRequest("x", field="prompt"), attempts=Attempts(started=1)) is Verdict.RAISE
    assert RateLimited("x", status=429, retry_after=1.0).retry_after == 1.0


def test_a_submit_answered_without_an_operation() -> None:
    """It is sent a few times more, and may have been accepted; one that is another key's is final."""
    error, attempts = DecodeError("x"), Attempts(started=1)
    attempts.fail(error)
    operation = Operation(route="create.new_fx", id="op_1", status=Status.PROCESSING, request=None)

    assert attempts.may_have_been_accepted
    assert judge_submit(error, attempts=attempts) is Verdict.RETRY
    assert retry_bounds(error, connected=True) == RetryBounds(unreadable=UNREADABLE_TIMES)
    assert judge_submit(DecodeError("x", operation=operation), attempts=attempts) is Verdict.RAISE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.retry import MAX_RETRY_AFTER, backoff, exponential, retry_after

NOON = "Mon, 23 Nov 2026 12:00:00 GMT"
NOON_EPOCH = 1795435200.0


def test_backoff_doubles() -> None:
    """Full jitter spreads each wait over the doubled base, up to the cap."""
    assert [backoff(n, base=1, cap=10, jitter=0.5) for n in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert backoff(3, base=1, cap=10, jitter=0) == 0
    assert exponential(-1, base=1, cap=10) == 1


@given(st.integers(), st.floats(0, 1e300), st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_backoff_never_overflows(attempt: int, base: float, cap: float, jitter: float) -> None:
    """However many attempts failed, the wait stays between nothing and the cap."""
    assert 0 <= backoff(attempt, base=base, cap=cap, jitter=jitter) <= cap


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", 17),
        (" 2.5 ", 2.5),
        ("3.", 3),
        ("0", 0),
        ("9" * 400, MAX_RETRY_AFTER),
        (None, None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
        ("soon", None),
        ("٣", None),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30),
        ("Mon, 23 Nov 2026 13:00:30 +0100", 30),
        ("Mon, 23 Nov 2026 11:59:00 GMT", 0),
        ("Mon, 23 Nov 2099 12:00:00 GMT", MAX_RETRY_AFTER),
        ("Mon, 99 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds and HTTP dates are read; junk and negative numbers say nothing; nothing is longer than an hour."""
    assert retry_after(value, now_epoch=NOON_EPOCH) == seconds


def test_retry_after_by_the_servers_clock() -> None:
    """A date counts from the server's own Date; only without a readable one from ours, and without both not at all."""
    later = "Mon, 23 Nov 2026 12:00:20 GMT"

    assert retry_after(later, date=NOON, now_epoch=0) == 20
    assert retry_after(later, date=NOON) == 20
    assert retry_after(later, date="junk", now_epoch=NOON_EPOCH + 5) == 15
    assert retry_after(later) is None


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]?\w+"), st.text())
def test_retry_after_survives_anything(value: str, date: str) -> None:
    """Whatever a proxy writes there gives a pause in bounds, or none, and never an error."""
    seconds = retry_after(value, date=date, now_epoch=NOON_EPOCH)

    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


def test_a_moment_since_1970_is_no_pause_of_decades() -> None:
    """A number that large is compared with the clock, as a date is; without a clock it says nothing."""
    assert retry_after("1700000030", now_epoch=1_700_000_000) == 30
    assert retry_after("1700000030", date="Tue, 14 Nov 2023 22:13:20 GMT", now_epoch=0) == 30
    assert retry_after("1700000030", now_epoch=1_800_000_000) == 0
    assert retry_after("1700000030") is None
    assert retry_after("3600.5", now_epoch=0) == MAX_RETRY_AFTER

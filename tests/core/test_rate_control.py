import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.rate_control import LearnedRate
from soundpiece_async._core.retry import RetryQuota


def spend(rate: LearnedRate, *, seconds: float) -> None:
    """Use the full rate for so many seconds."""
    while seconds > 0 and rate.rate is not None:
        seconds -= 1 / rate.rate
        rate.on_permit(wanted=True)


def now_at(rate: LearnedRate) -> float:
    assert rate.rate is not None
    return rate.rate


def settle(rate: LearnedRate, *, at: float) -> None:
    """Run it through its ramp to a steady rate of about that many permits per second."""
    rate.on_rate_limited()
    while now_at(rate) < at / 0.54:
        rate.on_permit(wanted=True)
    rate.on_rate_limited()
    spend(rate, seconds=10)
    rate.on_rate_limited()


@pytest.mark.parametrize("ceiling", [0, -1, math.inf, math.nan])
def test_a_ceiling_is_a_number(ceiling: float) -> None:
    """A ceiling that allows nothing, or everything, is refused."""
    with pytest.raises(ValueError, match="requests per second"):
        LearnedRate(ceiling=ceiling)


def test_unlimited_stays_unlimited() -> None:
    """Without a 429 no number of permits makes a limit."""
    rate = LearnedRate()
    rate.on_permit(wanted=True)

    assert rate.rate is None
    assert repr(rate) == "<LearnedRate free unlimited>"


def test_the_ramp_finds_the_scale_in_ten_seconds() -> None:
    """From the first 429 on the same curve reaches 2.5/s in 4 s and 100/s in 10 s: a scale of 1 to 40."""
    rate = LearnedRate()
    rate.on_rate_limited()
    spend(rate, seconds=3)
    slow = now_at(rate)
    spend(rate, seconds=6.5)

    assert 2 < slow < 12
    assert now_at(rate) > 90
    assert repr(rate).startswith("<LearnedRate ramp ")


def test_sessions_that_begin_apart_end_their_ramps_alike() -> None:
    """One that began seconds earlier meets the burst of the next in its crawl, and begins again with it."""
    first, second = LearnedRate(), LearnedRate()
    first.on_rate_limited()
    spend(first, seconds=1)
    second.on_rate_limited()
    first.on_rate_limited()

    for rate in (first, second):
        spend(rate, seconds=7)
    assert now_at(first) == now_at(second) > 20


def test_a_ramp_does_not_crawl_for_ever() -> None:
    """An account too small for the crawl itself ends it after eight tries, and is then learned from below."""
    rate = LearnedRate()
    for _ in range(9):
        rate.on_rate_limited()
        assert now_at(rate) == 0.5
        assert "ramp" in repr(rate)
        rate.on_permit(wanted=True)

    rate.on_rate_limited()
    assert "settle" in repr(rate)
    for _ in range(6):
        rate.on_rate_limited()
    assert now_at(rate) < 0.3


def test_what_was_let_through_is_a_head_start() -> None:
    """The ramp begins there, at 4/s at most, and each restart halves it."""
    rate = LearnedRate()
    rate.on_rate_limited(let_through=300.0)
    assert now_at(rate) == 4
    for first in (2, 1, 0.5, 0.5):
        spend(rate, seconds=0.1)
        rate.on_rate_limited(let_through=300.0)
        assert now_at(rate) == first


def test_a_head_start_is_given_back() -> None:
    """Sessions that began their ramps at different rates are at the same rate after them."""
    after = []
    for let_through in (0.0, 2.0, 4.0):
        rate = LearnedRate()
        rate.on_rate_limited(let_through=let_through)
        spend(rate, seconds=6)
        rate.on_rate_limited()
        after.append(now_at(rate))

    assert after == pytest.approx([after[0]] * 3, rel=0.02)


def test_a_ramp_that_never_moved_is_not_begun_again() -> None:
    """A 429 to a session that nobody hurries tells of the limit: it is followed at once."""
    rate = LearnedRate()
    rate.on_rate_limited()
    rate.on_permit(wanted=False)
    rate.on_rate_limited()

    assert now_at(rate) == pytest.approx(0.3)


def test_the_ramp_ends_with_its_first_429() -> None:
    """Past its crawl: the overshoot is cut, early 429s cut on, and the first quiet stretch ends the settling."""
    rate = LearnedRate()
    rate.on_rate_limited()
    spend(rate, seconds=6)
    seen = [now_at(rate)]
    for quiet in (0, 0, 10):
        spend(rate, seconds=quiet)
        before = now_at(rate)
        rate.on_rate_limited()
        seen.append(now_at(rate) / before)

    assert seen[1:] == pytest.approx([0.6, 0.8, 0.9])
    assert "steady" in repr(rate)


def test_one_429_costs_little() -> None:
    """A steady session gives up a tenth to a sixth for a 429 that was due, and finer steps as it learns."""
    rate = LearnedRate()
    settle(rate, at=20)
    cuts = []
    for _ in range(5):
        spend(rate, seconds=10)
        before = now_at(rate)
        rate.on_rate_limited()
        cuts.append(now_at(rate) / before)

    assert cuts == sorted(cuts)
    assert cuts[0] == pytest.approx(math.exp(-0.16))
    assert cuts[-1] == pytest.approx(math.exp(-0.1))


def test_a_faster_session_grows_less() -> None:
    """In the same time, the slower of two grows by the larger factor, up to 3/s: that draws them together."""
    factors = []
    for at in (2, 2.5, 3):
        rate = LearnedRate()
        settle(rate, at=at)
        before = now_at(rate)
        spend(rate, seconds=8)
        factors.append(now_at(rate) / before)

    assert factors == sorted(factors, reverse=True)
    assert all(1 < factor < 1.5 for factor in factors)


def test_a_lower_limit_is_followed() -> None:
    """Four 429s almost in a row halve the rate; then it searches upwards, up to the next 429."""
    rate = LearnedRate()
    settle(rate, at=20)
    spend(rate, seconds=30)
    before = now_at(rate)
    for _ in range(4):
        rate.on_rate_limited()
    low = now_at(rate)
    assert 0.3 < low / before < 0.5
    assert "search" in repr(rate)

    spend(rate, seconds=8)
    assert 1.3 < now_at(rate) / low < 1.6
    rate.on_rate_limited()
    assert "steady" in repr(rate)


def test_a_higher_limit_is_found() -> None:
    """A session left alone by the others takes twice as much within some minutes."""
    rate = LearnedRate()
    settle(rate, at=20)
    before = now_at(rate)
    spend(rate, seconds=150)

    assert now_at(rate) > 2 * before


def test_growth_beyond_is_taken_back() -> None:
    """The longer it grew unrefused, the more a 429 takes back: at least half of it."""
    rate = LearnedRate()
    settle(rate, at=20)
    before = now_at(rate)
    spend(rate, seconds=150)
    peak = now_at(rate)
    rate.on_rate_limited()

    assert now_at(rate) == pytest.approx(math.sqrt(before * peak))


def test_permits_nobody_waited_for_teach_nothing() -> None:
    """An idle session keeps its rate: what was not needed was not tested."""
    rate = LearnedRate()
    settle(rate, at=20)
    before = now_at(rate)
    for _ in range(10_000):
        rate.on_permit(wanted=False)

    assert now_at(rate) == before


@given(st.floats(0.01, 500), st.lists(st.integers(0, 200), max_size=40))
def test_the_rate_stays_in_bounds(ceiling: float, history: list[int]) -> None:
    """Whatever happens, the rate is above nothing and never above the ceiling."""
    rate = LearnedRate(ceiling=ceiling)
    assert rate.rate == ceiling
    for permits in history:
        for _ in range(permits):
            rate.on_permit(wanted=True)
        rate.on_rate_limited()

        assert min(0.02, ceiling) <= now_at(rate) <= ceiling


def test_the_quota_comes_back_by_success() -> None:
    """Failures empty it, successes fill it one by one; from nothing, one success gives a quarter."""
    quota = RetryQuota(capacity=8)
    for _ in range(9):
        quota.record_failure()
    assert repr(quota) == "<RetryQuota 0 of 8>"

    quota.record_success()
    assert quota.left == 2
    for _ in range(9):
        quota.record_success()
    assert quota.left == 8

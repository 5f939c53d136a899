from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.server_clock import READ_EVERY, TOLERANCE, ServerClock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECONDS = st.floats(min_value=-1e9, max_value=1e9)


def told(date: datetime, *, wall: datetime = NOON, steady: float = 0.0) -> ServerClock:
    clock = ServerClock()
    clock.read(format_datetime(date, usegmt=True), wall=wall, steady=steady)
    return clock


def test_without_an_answer_it_is_our_wall_clock() -> None:
    """Nothing is known, so nothing is corrected."""
    clock = ServerClock()
    clock.read(None, wall=NOON, steady=0)
    assert clock.now(wall=NOON, steady=7) == NOON
    assert repr(clock) == "<ServerClock never read>"


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_a_wrong_wall_clock_is_corrected(hours: int) -> None:
    """What the service says is what counts, and both of our clocks carry it on."""
    clock = told(NOON + timedelta(hours=hours))
    assert clock.now(wall=NOON + timedelta(seconds=9), steady=9) == NOON + timedelta(hours=hours, seconds=9)
    assert repr(clock) == f"<ServerClock ahead by {hours * 3600} s>"


@pytest.mark.parametrize("seconds", [-2, -1, 0, 1, 2])
def test_a_small_difference_is_none(seconds: int) -> None:
    """A ``Date`` has whole seconds: to believe it to the second would make a good clock worse."""
    assert timedelta(seconds=abs(seconds)) <= TOLERANCE
    assert told(NOON + timedelta(seconds=seconds)).now(wall=NOON, steady=0) == NOON


@given(jump=SECONDS, passed=st.floats(min_value=0, max_value=1e6))
def test_no_jump_of_our_wall_clock_makes_it_earlier(jump: float, passed: float) -> None:
    """Set back, our wall clock is overruled by the steady one; set forward, a URL is renewed too early at worst."""
    clock = told(NOON)
    now = clock.now(wall=NOON + timedelta(seconds=jump), steady=passed)
    assert now == max(NOON + timedelta(seconds=jump), NOON + timedelta(seconds=passed))


def test_a_machine_that_slept_is_believed() -> None:
    """The steady clock stood still meanwhile; the wall clock did not."""
    later = NOON + timedelta(hours=8)
    assert told(NOON + timedelta(hours=1)).now(wall=later, steady=0.5) == later + timedelta(hours=1)


def test_it_looks_again_after_a_while() -> None:
    """Not at every answer, because that costs; but a clock set right, or wrong, is noticed."""
    clock = told(NOON + timedelta(hours=1))
    for steady, ahead in ((READ_EVERY - 1, 1), (READ_EVERY, 3)):
        assert clock.is_due(steady=steady) == (ahead == 3)
        wall = NOON + timedelta(seconds=steady)
        clock.read(format_datetime(wall + timedelta(hours=3), usegmt=True), wall=wall, steady=steady)
        assert clock.now(wall=wall, steady=steady) == wall + timedelta(hours=ahead)


@pytest.mark.parametrize("junk", ["", "yesterday", "Sun, 22 Nov 2026 10:00:00", "Sun, 22 Nov 99999 10:00:00 GMT", "0"])
def test_junk_is_ignored(junk: str) -> None:
    """A header that is no date, or one without a zone, changes nothing, and the next good one is read."""
    clock = ServerClock()
    clock.read(junk, wall=NOON, steady=0)
    assert clock.now(wall=NOON, steady=5) == NOON
    clock.read(format_datetime(NOON + timedelta(hours=1), usegmt=True), wall=NOON, steady=0)
    assert clock.now(wall=NOON, steady=0) == NOON + timedelta(hours=1)


def test_the_age_of_a_cached_response_belongs_to_its_date() -> None:
    """An invalid age is ignored, together with the date."""
    clock = ServerClock()
    clock.read("Mon, 23 Nov 2026 10:00:00 GMT", wall=NOON, steady=0.0, age="old")
    assert clock.now(wall=NOON, steady=0.0) == NOON

    clock.read("Mon, 23 Nov 2026 10:00:00 GMT", wall=NOON, steady=0.0, age="60")
    assert clock.now(wall=NOON, steady=0.0) == datetime(2026, 11, 23, 10, 1, tzinfo=UTC)

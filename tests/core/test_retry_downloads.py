import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.retry import MAX_URL_REJECTIONS, RETRY_AFTER_JITTER, DownloadBudget, Exhausted, Speed


def tries(patience: DownloadBudget, **how: float | bool) -> int:
    """Count attempts without a new byte until it ends."""
    count = 1
    while isinstance(patience.record_failure(jitter=0.5, **how), float):  # type: ignore[arg-type]
        count += 1
    return count


def test_time_without_a_byte_ends_it() -> None:
    """Pauses count as well as what the host takes, and the last attempt is made when all the time has passed."""
    patience = DownloadBudget(10.0)
    patience.charge(9.0)
    pauses = []
    while isinstance(pause := patience.record_failure(jitter=0.999), float):
        pauses.append(pause)

    assert sum(pauses) == pytest.approx(1.0)
    assert pause == Exhausted("no new byte came for 10 s (RetryPolicy.download_max_elapsed)")


def test_a_budget_of_nothing_is_one_attempt() -> None:
    """As that of a submit."""
    assert isinstance(DownloadBudget(0.0).record_failure(jitter=0.5), Exhausted)


def test_a_new_byte_begins_anew() -> None:
    """From the moment it came: what passed since then is the beginning of the next wait."""
    patience = DownloadBudget(10.0)
    for _ in range(100):
        patience.charge(9.0)
        patience.record_progress()
        patience.charge(6.0)
        assert isinstance(patience.record_failure(jitter=0.0), float)
    patience.charge(4.5)
    assert isinstance(patience.record_failure(jitter=0.0), Exhausted)


def test_what_comes_too_slowly_is_no_progress() -> None:
    """A host that trickles brings new bytes all the time, and is given up all the same."""
    patience = DownloadBudget(300.0)
    for _ in range(9):
        patience.charge(30.0)
        patience.record_progress()
        assert isinstance(patience.record_failure(slow=True, jitter=0.0), float)
    patience.charge(30.0)
    patience.record_progress()
    assert patience.record_failure(slow=True, jitter=0.0) == Exhausted(
        "it was no faster for 300 s (RetryPolicy.download_max_elapsed)"
    )


def test_a_window_that_is_fast_enough_forgives() -> None:
    """An hour of good speed before the trickle does not count against it."""
    patience = DownloadBudget(300.0)
    for _ in range(120):
        patience.charge(30.0)
        patience.reset()
    patience.charge(30.0)
    assert isinstance(patience.record_failure(slow=True, jitter=0.0), float)


def test_refusals_end_it_at_once() -> None:
    """Four in a row, however much time is left; a new byte between them forgives."""
    assert tries(DownloadBudget(1e6), rejected=True) == MAX_URL_REJECTIONS == 4

    patience = DownloadBudget(1e6)
    for _ in range(20):
        assert isinstance(patience.record_failure(rejected=True, jitter=0.0), float)
        assert isinstance(patience.record_failure(rejected=True, jitter=0.0), float)
        patience.record_progress()
        assert isinstance(patience.record_failure(jitter=0.0), float)


@pytest.mark.parametrize("rejected", [False, True])
def test_the_hosts_wish_is_heeded(rejected: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """Wherever it comes from, with some jitter behind it, and it counts."""
    patience = DownloadBudget(300.0)
    assert patience.record_failure(rejected=rejected, retry_after=10.0, jitter=0.5) == 10.0 + 0.5 * RETRY_AFTER_JITTER
    assert "289 s left" in repr(patience) or "290 s left" in repr(patience)


def test_a_wish_beyond_the_budget_ends_it() -> None:
    """With both numbers told; one of just what is left does not."""
    assert DownloadBudget(300.0).record_failure(retry_after=3600.0, jitter=0.5) == Exhausted(
        "it asks to wait for 3600 s (Retry-After), and 300 s are left of RetryPolicy.download_max_elapsed"
    )
    assert DownloadBudget(300.0).record_failure(retry_after=300.0, jitter=0.9) == 300.0


@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, 50),
            st.booleans(),
            st.none() | st.floats(0, 100),
            st.floats(0, 1, exclude_max=True),
            st.booleans(),
        )
    )
)
def test_no_pause_goes_beyond_the_budget(steps: list[tuple[float, bool, float | None, float, bool]]) -> None:
    """Whatever happens, without a new byte the pauses and the waits before them add up to the budget at most."""
    patience, spent = DownloadBudget(100.0), 0.0
    for waited, gained, retry_after, jitter, slow in steps:
        if gained:
            patience.record_progress()
            spent = 0.0 if not slow else spent
        patience.charge(waited)
        spent += waited
        pause = patience.record_failure(retry_after=retry_after, jitter=jitter, slow=slow)
        if isinstance(pause, Exhausted):
            return
        spent += pause
        assert spent <= 100.0 + 1e-6


def test_speed_is_measured_in_windows() -> None:
    """Only the time spent waiting counts; a window ends with the block that fills it."""
    speed = Speed(lowest=1000.0, window=30.0)
    assert speed.add(29_999, waited=29.9) is None
    assert speed.add(1, waited=0.1) is True
    assert speed.add(10_000, waited=15.0) is None
    assert speed.add(10_000, waited=15.0) is False
    assert repr(speed) == "<Speed 0 bytes in 0 s>"
    assert Speed(lowest=None, window=1.0).add(0, waited=2.0) is True

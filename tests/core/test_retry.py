import math

from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.retry import REQUEST_BACKOFF_BASE, REQUEST_BACKOFF_CAP, Budget, RetryBounds

JITTER = st.floats(min_value=0, max_value=1, exclude_max=True)
SECONDS = st.floats(min_value=0, max_value=1000)


def test_the_pauses_double_up_to_the_cap() -> None:
    """A service in trouble is asked ever less often."""
    budget = Budget(math.inf)
    pauses = [budget.record_failure(took=1, jitter=0.5) for _ in range(8)]
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    assert repr(budget) == "<Budget inf s left after 8 attempts>"


@given(seconds=SECONDS, tries=st.lists(st.tuples(SECONDS, JITTER), min_size=1))
def test_nothing_is_tried_after_the_budget(seconds: float, tries: list[tuple[float, float]]) -> None:
    """A pause is given only if the next attempt still begins in time, whatever attempts and pauses there were."""
    budget, spent = Budget(seconds), 0.0
    for took, jitter in tries:
        pause = budget.record_failure(took=took, jitter=jitter)
        spent += took + (pause or 0.0)
        if pause is None:
            widest = min(REQUEST_BACKOFF_CAP, REQUEST_BACKOFF_BASE * 2.0 ** (budget.attempts - 1))
            assert spent + jitter * widest >= seconds - 1e-6
            return
        assert spent <= seconds + 1e-6


def test_a_silent_service_uses_it_up_like_attempts() -> None:
    """Waiting for a turn while nobody gets an answer is trying, too."""
    budget = Budget(10)
    budget.charge(9.9)
    assert budget.record_failure(took=0.05, jitter=0) == 0
    assert budget.record_failure(took=0.1, jitter=0) is None


def test_no_budget_is_one_attempt() -> None:
    """With 0 seconds the first failure is the last."""
    assert Budget(0).record_failure(took=0.01, jitter=0.5) is None


def test_the_service_may_ask_for_a_longer_pause() -> None:
    """It counts, so that one longer than what is left ends the trying at once; a shorter one changes nothing."""
    budget = Budget(10)
    assert budget.record_failure(took=0, jitter=0.5, retry_after=4) == 4.25
    assert budget.record_failure(took=0, jitter=0.5, retry_after=0.1) == 0.5
    assert budget.record_failure(took=0, jitter=0, retry_after=6) is None


def test_other_bounds() -> None:
    """Seconds in all, and answers in a row that cannot be read."""
    assert Budget(300).record_failure(took=0.1, jitter=0, bounds=RetryBounds(seconds=0)) is None
    budget = Budget(300)
    assert budget.record_failure(took=20, jitter=0, bounds=RetryBounds(seconds=30)) is not None
    assert budget.record_failure(took=20, jitter=0, bounds=RetryBounds(seconds=30)) is None
    budget, unreadable = Budget(300), RetryBounds(unreadable=2)
    assert budget.record_failure(took=1, jitter=0, bounds=unreadable) is not None
    assert budget.record_failure(took=1, jitter=0) is not None
    assert budget.record_failure(took=1, jitter=0, bounds=unreadable) is not None
    assert budget.record_failure(took=1, jitter=0, bounds=unreadable) is None

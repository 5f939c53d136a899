import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.estimators import BINS, EDGES, MEMORY, Durations, bin_of

ages = st.floats(min_value=0, max_value=10_000)


def watch_one(durations: Durations, duration: float, *, every: float) -> None:
    """Look at one operation every so many seconds, until it is found finished."""
    seen = 0.0
    while seen < duration:
        durations.learn(seen, seen + every, finished=seen + every >= duration)
        seen += every


def hazard(durations: Durations, age: float) -> float:
    """The chance per second to finish at this age."""
    return durations.expected_finishes_and_hazard(age, age)[1]


def test_an_age_is_in_the_bin_between_its_edges() -> None:
    """Bins begin at zero, contain their lower edge, and the last one has no end."""
    assert [bin_of(0.0), bin_of(0.009), bin_of(0.01), bin_of(1e9)] == [0, 0, 1, BINS - 1]
    assert all(bin_of(edge) == index for index, edge in enumerate(EDGES))


def test_nothing_known_is_a_mild_guess() -> None:
    """Before the first finish an operation is believed to take about one and a half holds, at every age alike."""
    durations = Durations(hold=20)

    assert durations.rate == pytest.approx(1 / 30)
    assert hazard(durations, 0) == pytest.approx(hazard(durations, 500))
    assert durations.survival(30) == pytest.approx(math.exp(-1.3))


def test_the_first_finishes_replace_the_guess() -> None:
    """The guess is worth a tenth of a finish, so that a simulator at a hundred times the speed is believed at once."""
    durations = Durations(hold=20)
    for _ in range(10):
        watch_one(durations, 0.3, every=0.05)

    assert durations.rate == pytest.approx(1 / 0.3, rel=0.6)


@pytest.mark.parametrize("every", [0.5, 5.0, 20.0])
def test_the_modes_of_two_models_are_found(every: float) -> None:
    """Half around 8 s, half around 60 s: the hazard peaks at both, even when looks are rare; between is the floor."""
    rng, durations = random.Random(1), Durations()
    for _ in range(600):
        watch_one(durations, max(1.0, rng.gauss(8, 1) if rng.random() < 0.5 else rng.gauss(60, 6)), every=every)

    assert hazard(durations, 8) > 3 * hazard(durations, 25)
    assert hazard(durations, 62) > 3 * hazard(durations, 25)
    assert hazard(durations, 25) >= 0.3 * durations.rate
    assert durations.rate == pytest.approx(1 / 34, rel=0.1)


def test_a_constant_hazard_is_learned_as_constant() -> None:
    """Exponential durations of 10 s on average: about one in ten seconds, plus the floor, at every age that occurs."""
    rng, durations = random.Random(2), Durations()
    for _ in range(1500):
        watch_one(durations, rng.expovariate(0.1), every=2.0)

    for age in (1, 5, 10, 20):
        assert hazard(durations, age) == pytest.approx(0.13, rel=0.25)


def test_a_curve_is_trusted_when_it_is_more_than_chance() -> None:
    """A few dozen finishes draw peaks by chance; sixty are believed."""
    durations = Durations()
    trusted = []
    for _ in range(60):
        watch_one(durations, 10.0, every=1.0)
        trusted.append(durations.trusted)

    assert trusted[30] is False
    assert trusted[-1] is durations.trusted
    watch_one(durations, 100.0, every=10.0)
    assert durations.trusted is True


def test_operations_that_still_run_count() -> None:
    """A thousand seconds of running without a finish lower the hazard, though nothing has finished."""
    durations = Durations()
    for _ in range(100):
        durations.learn(0, 10, finished=False)

    assert durations.rate < 1 / 3000
    assert hazard(durations, 5) < hazard(Durations(), 5) / 2
    assert hazard(durations, 5) >= 0.2 / 20


def test_a_slower_service_is_believed_after_a_while() -> None:
    """Beyond the memory old finishes count half: durations that have doubled show."""
    durations = Durations()
    for _ in range(int(MEMORY) + 500):
        durations.learn(0, 10, finished=False)
        durations.learn(10, 10.1, finished=True)
    before = durations.rate
    for _ in range(int(MEMORY)):
        durations.learn(0, 20, finished=False)
        durations.learn(20, 20.1, finished=True)

    assert before == pytest.approx(1 / 10.1, rel=0.01)
    assert durations.rate < 0.65 * before


def test_a_finish_known_to_the_instant_counts_once() -> None:
    """A finish seen in no time at all is one finish, and no exposure."""
    durations = Durations()
    durations.learn(8, 8, finished=True)
    durations.learn(0, 8, finished=False)

    assert durations.rate == pytest.approx(1.1 / (8 + 3))
    assert repr(durations) == "<Durations from 1 finishes, one in 10 s>"


@given(st.lists(st.tuples(ages, ages, st.booleans()), max_size=30), ages, ages, ages)
def test_expected_finishes_add_up(looks: list[tuple[float, float, bool]], one: float, two: float, three: float) -> None:
    """Whatever was learned: the hazard is positive, and the finishes to expect are its integral."""
    durations = Durations()
    for first, second, finished in looks:
        durations.learn(min(first, second), max(first, second), finished=finished)
    low, middle, high = sorted((one, two, three))

    assert hazard(durations, middle) > 0
    assert durations.expected_finishes(low, high) >= 0
    assert durations.expected_finishes(low, high) == pytest.approx(
        durations.expected_finishes(low, middle) + durations.expected_finishes(middle, high), rel=1e-6, abs=1e-6
    )
    assert durations.survival(low) >= durations.survival(high)


@given(ages, ages)
def test_one_finish_is_one_event(one: float, two: float) -> None:
    """However wide the stretch a finish lies in, it is spread as one finish, and exposes no longer than the stretch."""
    durations = Durations()
    low, high = sorted((one, two))
    durations.learn(low, high, finished=True)

    assert sum(durations._events) == pytest.approx(1, rel=1e-6)
    assert all(share >= 0 for share in durations._events)
    assert 0 <= sum(durations._exposure) <= high - low + 1e-6


def test_a_finish_of_an_old_operation_is_spread_over_the_first_seconds() -> None:
    """It may have ended days ago: the curve says where, and ages that none has reached are left as they are."""
    durations = Durations()
    for _ in range(100):
        durations.learn(1.9, 2.0, finished=False)
        durations.learn(2.0, 2.1, finished=True)
    before = durations.survival(2.5)
    for _ in range(10):
        durations.learn(0.0, 10 * 86_400.0, finished=True)
    assert durations.survival(2.5) == pytest.approx(before, abs=0.2)

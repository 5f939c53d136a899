import pytest

from soundpiece_async._core.estimators import PollTiming


def test_the_round_trip_is_guessed_until_it_is_known() -> None:
    """Before any short poll was answered the round trip is a guess of a tenth of a second; then it is what was seen."""
    tempo = PollTiming(max_hold=20)
    assert (tempo.round_trip, tempo.measured) == (0.1, False)

    tempo.observe_short_poll(0.05)
    assert (tempo.round_trip, tempo.measured) == (0.05, True)

    tempo.observe_short_poll(0.13)
    assert tempo.round_trip == pytest.approx(0.06)
    assert repr(tempo) == "<PollTiming hold 20 s, round trip 0.06 s>"


def test_a_shorter_hold_is_learned() -> None:
    """A server that holds a hundredth of what is announced is believed within a few dozen polls, not after one."""
    tempo = PollTiming(max_hold=20)
    tempo.observe_long_poll(0.2)
    assert tempo.hold > 5

    for _ in range(40):
        tempo.observe_long_poll(0.2)
    assert tempo.hold == pytest.approx(0.2, rel=0.01)


def test_a_longer_hold_is_not_believed() -> None:
    """A round trip on top of the hold does not make the hold longer."""
    tempo = PollTiming(max_hold=20)
    tempo.observe_long_poll(20.05)

    assert tempo.hold == 20


@pytest.mark.parametrize(
    ("trip", "took", "suspect"),
    [
        (None, 0.9, True),  # may be a broken hold: a round trip is not known
        (None, 1.1, False),  # a second is a hold, whatever the network
        (0.05, 0.15, True),
        (0.05, 0.25, False),  # a short hold, five round trips
        (0.002, 0.2, False),  # a simulator at a hundred times the speed
        (0.9, 1.5, False),  # a slow network: the guard is a second, not four round trips
    ],
)
def test_what_comes_within_a_few_round_trips_was_not_held(trip: float | None, took: float, *, suspect: bool) -> None:
    """At once is within four of the shortest round trips, and never more than a second (docs/api.md#long-polls)."""
    tempo = PollTiming(max_hold=20)
    if trip is not None:
        tempo.observe_short_poll(trip)
        tempo.observe_short_poll(10 * trip)

    assert tempo.maybe_not_held(took) is suspect

import pytest

from soundpiece_async._core.estimators import Tempo


def test_the_round_trip_is_guessed_until_it_is_known() -> None:
    """Before any short poll was answered the round trip is a guess of a tenth of a second; then it is what was seen."""
    tempo = Tempo(announced=20)
    assert (tempo.trip, tempo.measured) == (0.1, False)

    tempo.take_look(0.05)
    assert (tempo.trip, tempo.measured) == (0.05, True)

    tempo.take_look(0.13)
    assert tempo.trip == pytest.approx(0.06)
    assert repr(tempo) == "<Tempo hold 20 s, round trip 0.06 s>"


def test_a_shorter_hold_is_learned() -> None:
    """A server that holds a hundredth of what is announced is believed within a few dozen polls, not after one."""
    tempo = Tempo(announced=20)
    tempo.take_hold(0.2)
    assert tempo.hold > 5

    for _ in range(40):
        tempo.take_hold(0.2)
    assert tempo.hold == pytest.approx(0.2, rel=0.01)


def test_a_longer_hold_is_not_believed() -> None:
    """A round trip on top of the hold does not make the hold longer."""
    tempo = Tempo(announced=20)
    tempo.take_hold(20.05)

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
    tempo = Tempo(announced=20)
    if trip is not None:
        tempo.take_look(trip)
        tempo.take_look(10 * trip)

    assert tempo.suspects(took) is suspect

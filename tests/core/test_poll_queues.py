import math

import pytest

from soundpiece_async._core.estimators import Durations
from soundpiece_async._core.poll_queues import Line, Out, Piece, Resting, Stage, Waiting


def make_piece(key: int, *, since: float = 0.0, born: float = 0.0, route: Durations | None = None) -> Piece:
    return Piece(key, route or Durations(), born, since, aged=True, pushed=False, since=since)


def weigh(piece: Piece, now: float) -> Line:
    line = Line()
    line.add(piece)
    line.weigh(now)
    return line


def learn_two_modes() -> Durations:
    """Half of the operations take 8 s, half 60 s."""
    durations = Durations()
    for _ in range(200):
        for duration in (8.0, 60.0):
            for second in range(int(duration)):
                durations.learn(second, second + 1, finished=second + 1 == duration)
    return durations


def test_a_look_is_worth_the_lateness_it_ends() -> None:
    """With a constant hazard h a look after tau seconds is worth h tau squared over two."""
    line = weigh(make_piece(1, since=0.0), 6.0)

    assert line.worth == pytest.approx(line.hazard * 6.0**2 / 2)


def test_behind_a_mode_a_look_is_worth_more_than_before_it() -> None:
    """The same time after the last look: when half may have finished and no more will, there is nothing to wait for."""
    route = learn_two_modes()
    before = weigh(make_piece(1, born=0, since=0, route=route), 6.0)
    behind = weigh(make_piece(2, born=-6, since=0, route=route), 6.0)

    assert behind.worth > 10 * before.worth


def test_the_head_of_a_line_has_waited_longest() -> None:
    """Who had a turn queues up behind; who has waited longer than all others (attached late) goes to the front."""
    line = Line()
    for key, since in ((1, 5.0), (2, 6.0), (3, 1.0)):
        line.add(make_piece(key, since=since))

    assert [piece.key for piece in line.pieces.values()] == [3, 1, 2]
    assert line.head.key == 3


def test_a_hold_begun_too_early_saves_less() -> None:
    """At one hazard and price: who is not due saves less than who is due, and who is overdue saves more."""
    line = Line(worth=1.0, hazard=0.1)
    due = line.saves(20, price=1.0)
    line.worth = 0.25
    early = line.saves(20, price=1.0)
    line.worth = 3.0
    overdue = line.saves(20, price=1.0)

    assert due == pytest.approx(20 * math.sqrt(0.2))
    assert early == pytest.approx(due - 0.25)
    assert overdue == pytest.approx(due + 2.0)


def test_a_look_pays_when_its_worth_reaches_the_price() -> None:
    """The time it takes until then, for a constant hazard, is exact."""
    piece = make_piece(1)
    wait = weigh(piece, 1.0).pays_in(0.3)

    assert weigh(piece, 1.0 + wait).worth == pytest.approx(0.3)


def test_a_piece_of_unknown_age_has_the_overall_rate() -> None:
    """What is not known of an age is not guessed, and nothing is learned from it."""
    piece = make_piece(1)
    piece.aged = False
    piece.learn(10.0, finished=True)

    assert piece.prospects(16.0) == (pytest.approx(6 * piece.route.rate), piece.route.rate)
    assert piece.route.rate == Durations().rate


def test_operations_alike_wait_in_one_line() -> None:
    """Ten thousand operations of one route and age are one candidate; another route, kind or age is another line."""
    waiting, route = Waiting(), Durations()
    for key in range(10_000):
        waiting.add(make_piece(key, route=route))
    assert repr(waiting) == "<Waiting 10000 in 1 lines>"

    unaged = Piece("b", route, 0, 0, aged=False, pushed=False, since=0)
    pushed = Piece("c", route, 0, 0, aged=True, pushed=True, since=0)
    for piece in (make_piece(-1), unaged, pushed, make_piece(-2, born=-30, route=route)):
        waiting.add(piece)
    assert repr(waiting) == "<Waiting 10004 in 5 lines>"
    assert (waiting.count, waiting.pushed, waiting.oldest()) == (10_004, 1, 0.0)


def test_weighing_is_for_a_while() -> None:
    """Between two weighings only lines with a new head are weighed; after the step, or many new heads, all are."""
    waiting = Waiting()
    pieces = [make_piece(key, since=float(key), born=-100.0 * key) for key in range(3)]
    for piece in pieces:
        waiting.add(piece)
    waiting.weigh(10.0, step=1.0)
    worth = waiting.best_look().worth
    assert waiting.best_look().head.key == 0

    waiting.weigh(10.5, step=1.0)
    assert waiting.best_look().worth == worth
    waiting.weigh(11.0, step=1.0)
    assert waiting.best_look().worth > worth

    worth = waiting.best_look().worth
    for _ in range(65):
        waiting.discard(pieces[2])
        waiting.add(pieces[2])
        waiting.weigh(11.5, step=1.0)
    assert waiting.best_look().worth > worth


def test_long_waits_are_weighed_less_often() -> None:
    """After an hour of waiting a second more changes nothing: the step grows with the longest wait."""
    waiting = Waiting()
    waiting.add(make_piece(1, since=0.0))
    waiting.weigh(3600.0, step=0.05)
    worth = waiting.best_look().worth

    waiting.weigh(3601.0, step=0.05)
    assert waiting.best_look().worth == worth
    waiting.weigh(3602.0, step=0.05)
    assert waiting.best_look().worth > worth


def test_a_line_that_lost_its_head_is_weighed_by_the_next() -> None:
    """After the head had its turn the line is worth what the next one is."""
    waiting, route = Waiting(), Durations()
    first, second = make_piece(1, since=0.001, route=route), make_piece(2, since=0.009, route=route)
    waiting.add(first)
    waiting.add(second)
    waiting.weigh(1.0, step=1.0)
    worth = waiting.best_look().worth
    waiting.discard(first)
    waiting.weigh(1.0, step=1.0)

    assert waiting.best_look().head is second
    assert waiting.best_look().worth < worth


def test_rests_end_in_order() -> None:
    """Who rests comes back when its rest is over, counting from then; who left meanwhile does not."""
    resting = Resting()
    late, soon, gone = make_piece(1, since=1.0), make_piece(2, since=2.0), make_piece(3, since=0.0)
    resting.add(late, until=9.0)
    resting.add(soon, until=5.0)
    resting.add(gone, until=4.0)
    gone.stage = Stage.LEFT

    assert (resting.next(), resting.oldest()) == (5.0, 1.0)
    assert repr(resting) == "<Resting until 5.000>"
    assert list(resting.wake(6.0)) == [soon]
    assert (soon.stage, soon.since, soon.seen) == (Stage.WAITING, 6.0, 2.0)
    assert list(resting.wake(9.0)) == [late]
    assert (resting.next(), resting.oldest()) == (math.inf, math.inf)


def test_the_weakest_hold_is_the_one_with_the_least_hazard() -> None:
    """It is sought anew when it has ended, when nobody wants it any more, or after a step; not before."""
    route = learn_two_modes()
    out = Out(Stage.HELD)
    assert out.weakest(0.0, step=1.0) is None

    quiet, hot, mild = (make_piece(key, born=-age, route=route) for key, age in enumerate((20.0, 6.0, 2.0)))
    for piece in (quiet, hot, mild):
        out.add(piece, now=0.0)
    assert out.weakest(0.0, step=1.0) is quiet
    quiet.gone = True
    assert out.weakest(0.0, step=1.0) is mild
    out.discard(mild)
    assert out.weakest(0.0, step=1.0) is hot
    quiet.gone = False
    assert out.weakest(0.5, step=1.0) is hot
    assert out.weakest(1.0, step=1.0) is quiet
    assert (len(out), repr(out)) == (2, "<Out 2 held>")

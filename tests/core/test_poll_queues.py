import math

import pytest

from soundpiece_async._core.estimators import Durations
from soundpiece_async._core.poll_queues import AgeBucket, BackoffQueue, PollsInFlight, ReadyQueue, Watched, WatchState


def make_watched(
    key: int, *, last_turn: float = 0.0, created_at: float = 0.0, route: Durations | None = None
) -> Watched:
    return Watched(
        key, route or Durations(), created_at, last_turn, age_known=True, webhook_expected=False, last_turn=last_turn
    )


def rescore(watched: Watched, now: float) -> AgeBucket:
    line = AgeBucket()
    line.add(watched)
    line.rescore(now)
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
    line = rescore(make_watched(1, last_turn=0.0), 6.0)

    assert line.gain == pytest.approx(line.hazard * 6.0**2 / 2)


def test_behind_a_mode_a_look_is_worth_more_than_before_it() -> None:
    """The same time after the last look: when half may have finished and no more will, there is nothing to wait for."""
    route = learn_two_modes()
    before = rescore(make_watched(1, created_at=0, last_turn=0, route=route), 6.0)
    behind = rescore(make_watched(2, created_at=-6, last_turn=0, route=route), 6.0)

    assert behind.gain > 10 * before.gain


def test_the_head_of_a_line_has_waited_longest() -> None:
    """Who had a turn queues up behind; who has waited longer than all others (attached late) goes to the front."""
    line = AgeBucket()
    for key, last_turn in ((1, 5.0), (2, 6.0), (3, 1.0)):
        line.add(make_watched(key, last_turn=last_turn))

    assert [watched.key for watched in line.queue.values()] == [3, 1, 2]
    assert line.head.key == 3


def test_a_hold_begun_too_early_saves_less() -> None:
    """At one hazard and price: who is not due saves less than who is due, and who is overdue saves more."""
    line = AgeBucket(gain=1.0, hazard=0.1)
    due = line.hold_gain(20, price=1.0)
    line.gain = 0.25
    early = line.hold_gain(20, price=1.0)
    line.gain = 3.0
    overdue = line.hold_gain(20, price=1.0)

    assert due == pytest.approx(20 * math.sqrt(0.2))
    assert early == pytest.approx(due - 0.25)
    assert overdue == pytest.approx(due + 2.0)


def test_a_look_pays_when_its_worth_reaches_the_price() -> None:
    """The time it takes until then, for a constant hazard, is exact."""
    watched = make_watched(1)
    wait = rescore(watched, 1.0).seconds_until_worthwhile(0.3)

    assert rescore(watched, 1.0 + wait).gain == pytest.approx(0.3)


def test_a_piece_of_unknown_age_has_the_overall_rate() -> None:
    """What is not known of an age is not guessed, and nothing is learned from it."""
    watched = make_watched(1)
    watched.age_known = False
    watched.learn(10.0, finished=True)

    assert watched.forecast(16.0) == (pytest.approx(6 * watched.route.rate), watched.route.rate)
    assert watched.route.rate == Durations().rate


def test_operations_alike_wait_in_one_line() -> None:
    """Ten thousand operations of one route and age are one candidate; another route, kind or age is another line."""
    waiting, route = ReadyQueue(), Durations()
    for key in range(10_000):
        waiting.add(make_watched(key, route=route))
    assert repr(waiting) == "<ReadyQueue 10000 in 1 buckets>"

    unaged = Watched("b", route, 0, 0, age_known=False, webhook_expected=False, last_turn=0)
    webhook_expected = Watched("c", route, 0, 0, age_known=True, webhook_expected=True, last_turn=0)
    for watched in (make_watched(-1), unaged, webhook_expected, make_watched(-2, created_at=-30, route=route)):
        waiting.add(watched)
    assert repr(waiting) == "<ReadyQueue 10004 in 5 buckets>"
    assert (waiting.count, waiting.webhook_expected, waiting.oldest()) == (10_004, 1, 0.0)


def test_weighing_is_for_a_while() -> None:
    """Between two weighings only lines with a new head are weighed; after the step, or many new heads, all are."""
    waiting = ReadyQueue()
    queue = [make_watched(key, last_turn=float(key), created_at=-100.0 * key) for key in range(3)]
    for watched in queue:
        waiting.add(watched)
    waiting.rescore(10.0, step=1.0)
    worth = waiting.best_short_poll().gain
    assert waiting.best_short_poll().head.key == 0

    waiting.rescore(10.5, step=1.0)
    assert waiting.best_short_poll().gain == worth
    waiting.rescore(11.0, step=1.0)
    assert waiting.best_short_poll().gain > worth

    worth = waiting.best_short_poll().gain
    for _ in range(65):
        waiting.discard(queue[2])
        waiting.add(queue[2])
        waiting.rescore(11.5, step=1.0)
    assert waiting.best_short_poll().gain > worth


def test_long_waits_are_weighed_less_often() -> None:
    """After an hour of waiting a second more changes nothing: the step grows with the longest wait."""
    waiting = ReadyQueue()
    waiting.add(make_watched(1, last_turn=0.0))
    waiting.rescore(3600.0, step=0.05)
    worth = waiting.best_short_poll().gain

    waiting.rescore(3601.0, step=0.05)
    assert waiting.best_short_poll().gain == worth
    waiting.rescore(3602.0, step=0.05)
    assert waiting.best_short_poll().gain > worth


def test_a_line_that_lost_its_head_is_weighed_by_the_next() -> None:
    """After the head had its turn the line is worth what the next one is."""
    waiting, route = ReadyQueue(), Durations()
    first, second = make_watched(1, last_turn=0.001, route=route), make_watched(2, last_turn=0.009, route=route)
    waiting.add(first)
    waiting.add(second)
    waiting.rescore(1.0, step=1.0)
    worth = waiting.best_short_poll().gain
    waiting.discard(first)
    waiting.rescore(1.0, step=1.0)

    assert waiting.best_short_poll().head is second
    assert waiting.best_short_poll().gain < worth


def test_rests_end_in_order() -> None:
    """Who rests comes back when its rest is over, counting from then; who left meanwhile does not."""
    resting = BackoffQueue()
    late, soon, gone = make_watched(1, last_turn=1.0), make_watched(2, last_turn=2.0), make_watched(3, last_turn=0.0)
    resting.add(late, until=9.0)
    resting.add(soon, until=5.0)
    resting.add(gone, until=4.0)
    gone.state = WatchState.REMOVED

    assert (resting.next(), resting.oldest()) == (5.0, 1.0)
    assert repr(resting) == "<BackoffQueue until 5.000>"
    assert resting.wake(6.0) == [soon]
    assert (soon.state, soon.last_turn, soon.last_seen) == (WatchState.READY, 6.0, 2.0)
    assert resting.wake(9.0) == [late]
    assert (resting.next(), resting.oldest()) == (math.inf, math.inf)


def test_the_weakest_hold_is_the_one_with_the_least_hazard() -> None:
    """It is sought anew when it has ended, when nobody wants it any more, or after a step; not before."""
    route = learn_two_modes()
    out = PollsInFlight(WatchState.LONG_POLL)
    assert out.least_hazard(0.0, step=1.0) is None

    quiet, hot, mild = (make_watched(key, created_at=-age, route=route) for key, age in enumerate((20.0, 6.0, 2.0)))
    for watched in (quiet, hot, mild):
        out.add(watched, now=0.0)
    assert out.least_hazard(0.0, step=1.0) is quiet
    quiet.forgotten = True
    assert out.least_hazard(0.0, step=1.0) is mild
    out.discard(mild)
    assert out.least_hazard(0.0, step=1.0) is hot
    quiet.forgotten = False
    assert out.least_hazard(0.5, step=1.0) is hot
    assert out.least_hazard(1.0, step=1.0) is quiet
    assert (len(out), repr(out)) == (2, "<PollsInFlight 2 long poll>")

import random
import tracemalloc
from collections.abc import Hashable, Iterable

import pytest

from soundpiece_async._core.scheduler import CancelPoll, Outcome, Poll, Scheduler, Sleep

ROUTE = "/v1/song"
PROCESSING, FINISHED, DROPPED = Outcome.PROCESSING, Outcome.FINISHED, Outcome.CANCELLED


def watch(scheduler: Scheduler, keys: Iterable[Hashable], *, now: float = 0.0, age: float | None = 0.0) -> None:
    for key in keys:
        scheduler.watch(key, route=ROUTE, now=now, age=age)


def begin_all(scheduler: Scheduler, *, now: float, rate: float | None = None) -> list[Poll]:
    """Do what it says until it says to sleep, with a permit always at hand."""
    begun = []
    while isinstance(action := scheduler.next_action(now, rate=rate), Poll):
        scheduler.begin(action, now=now)
        begun.append(action)
    return begun


def teach(scheduler: Scheduler, durations: Iterable[float], *, route: str = ROUTE) -> None:
    """Record operations that finished by their webhooks, before time zero."""
    for number, duration in enumerate(durations):
        key = ("taught", route, number)
        scheduler.watch(key, route=route, now=-1000.0)
        scheduler.begin(Poll(key, wait=False), now=-1000.0 + duration - 0.05)
        scheduler.settle(key, now=-1000.0 + duration, outcome=PROCESSING)
        scheduler.forget(key, now=-1000.0 + duration, finished=True)


def test_with_slots_for_all_everyone_is_held() -> None:
    """No more operations than slots: one long poll on each, and again as soon as it ends; nothing in between."""
    scheduler = Scheduler(slots=3)
    watch(scheduler, "abc")

    polls = begin_all(scheduler, now=0.0)
    assert polls == [Poll("a", wait=True), Poll("b", wait=True), Poll("c", wait=True)]
    assert scheduler.next_action(0.0) == Sleep(None)

    scheduler.settle("b", now=20.05, outcome=PROCESSING)
    assert scheduler.next_action(20.05) == Poll("b", wait=True)


def test_with_more_than_slots_some_hold_and_the_others_are_looked_at() -> None:
    """Slots are kept for as many looks as the rate allows in a round trip; the others hold."""
    scheduler = Scheduler(slots=32)
    watch(scheduler, range(1000))
    polls = begin_all(scheduler, now=3.0, rate=20)
    looks = [poll for poll in polls if not poll.wait]

    assert len(polls) == scheduler.polls == 32
    assert len(looks) == 3  # 20 per second x 0.1 s, the guess at a round trip, and a tenth to spare
    assert repr(scheduler).startswith("<Scheduler 32/32 slots (29 long), 968 ready, 0 backing off, <PollTiming")


def test_looks_that_are_cheap_take_more_slots() -> None:
    """Without a limit on the rate it is the price of a request that says how many looks there are."""
    scheduler = Scheduler(slots=32)
    watch(scheduler, range(1000))
    looks = [poll for poll in begin_all(scheduler, now=3.0) if not poll.wait]

    assert len(looks) == 32


def test_one_slot_for_many_looks_in_turn() -> None:
    """A single slot is never spent on holding one of many."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, "abc")
    seen = []
    for second in range(3):
        [poll] = begin_all(scheduler, now=10.0 + second)
        assert not poll.wait
        seen.append(poll.key)
        scheduler.settle(poll.key, now=10.05 + second, outcome=PROCESSING)

    assert sorted(seen) == ["a", "b", "c"]


def test_nobody_is_looked_at_under_the_price_of_a_request() -> None:
    """However free slots and permits are, a look has to be worth 50 ms of lateness; until then: sleep."""
    scheduler = Scheduler(slots=4)
    watch(scheduler, range(8))
    begin_all(scheduler, now=0.0)
    scheduler.settle(0, now=0.05, outcome=FINISHED)
    action = scheduler.next_action(0.05)

    assert isinstance(action, Sleep)
    assert action.until is not None
    assert 0.05 < action.until <= 0.55
    assert isinstance(scheduler.next_action(2.0), Poll)


def test_dearer_polls_are_fewer() -> None:
    """An operation is polled later by the square root of what a poll costs; long polls still have the other slots."""
    begun = {}
    for cost in (0.05, 0.2, 1_000.0):
        scheduler = Scheduler(slots=4, poll_cost=cost)
        watch(scheduler, range(8))
        assert sum(poll.wait for poll in begin_all(scheduler, now=0.0)) == 3
        times = (number / 100 for number in range(1_000))
        begun[cost] = next((now for now in times if isinstance(scheduler.next_action(now), Poll)), None)

    assert begun[0.2] == pytest.approx(2 * begun[0.05], abs=0.1)
    assert begun[1_000.0] is None


def test_asking_records_nothing() -> None:
    """Asked twice, it says the same twice."""
    scheduler = Scheduler(slots=4)
    watch(scheduler, range(9))
    for now in (0.0, 0.5, 3.0):
        assert scheduler.next_action(now) == scheduler.next_action(now)
        begin_all(scheduler, now=now)
        assert scheduler.next_action(now) == scheduler.next_action(now)


def test_a_permit_is_spent_on_whom_it_is_worth_most() -> None:
    """Of those who have waited equally long, the one at an age where its route finishes."""
    scheduler = Scheduler(slots=1)
    teach(scheduler, [8.0] * 50 + [60.0] * 50)
    watch(scheduler, ["young"], now=0.0)
    scheduler.watch("due", route=ROUTE, now=0.0, age=6.0)
    scheduler.watch("quiet", route=ROUTE, now=0.0, age=20.0)
    for key in ("young", "due", "quiet"):
        scheduler.begin(Poll(key, wait=False), now=0.0)
        scheduler.settle(key, now=0.05, outcome=PROCESSING)

    assert scheduler.next_action(2.0) == Poll("due", wait=False)


def test_a_hold_is_dropped_for_three_times_its_hazard() -> None:
    """In the quiet stretch between two modes a hold gives way to an operation inside one, and only one at a time."""
    scheduler = Scheduler(slots=4)
    teach(scheduler, [8.0] * 100 + [60.0] * 100)
    watch(scheduler, range(5), now=0.0)
    assert len(begin_all(scheduler, now=0.0)) == 3
    assert isinstance(scheduler.next_action(0.1), Sleep)

    watch(scheduler, ["hot"], now=11.0)
    scheduler.begin(Poll("hot", wait=False), now=17.0)
    scheduler.settle("hot", now=17.1, outcome=PROCESSING)
    action = scheduler.next_action(18.5)
    assert isinstance(action, CancelPoll)
    assert action == scheduler.next_action(18.5)
    scheduler.begin(action, now=18.5)
    assert isinstance(scheduler.next_action(18.5), Poll)  # the slot for looks is free

    scheduler.settle(action.key, now=18.5, outcome=DROPPED)
    assert scheduler.polls == 2
    assert scheduler.next_action(18.5) == Poll("hot", wait=True)


def test_no_hold_is_dropped_on_hearsay() -> None:
    """Peaks in a curve drawn from a few finishes are chance: they are not worth a connection."""
    scheduler = Scheduler(slots=4)
    teach(scheduler, [8.0] * 20 + [60.0] * 20)
    watch(scheduler, range(5), now=0.0)
    begin_all(scheduler, now=0.0)
    watch(scheduler, ["hot"], now=11.0)
    scheduler.begin(Poll("hot", wait=False), now=17.0)
    scheduler.settle("hot", now=17.1, outcome=PROCESSING)

    assert not isinstance(scheduler.next_action(18.5), CancelPoll)


def test_a_hold_is_dropped_when_holds_shut_all_others_out() -> None:
    """Holds begun in quieter times leave no slot for looks: one gives way once a look is worth an eighth of a hold."""
    scheduler = Scheduler(slots=2)
    watch(scheduler, "ab", now=0.0)
    begin_all(scheduler, now=0.0)
    watch(scheduler, "cdef", now=0.1)

    assert isinstance(scheduler.next_action(1.0), Sleep)
    assert isinstance(scheduler.next_action(16.0), CancelPoll)


def test_what_a_webhook_will_report_is_left_alone_until_it_is_late() -> None:
    """No poll as long as it is not late for its route, which takes 20 to 40 s; then a hold, as for any other."""
    scheduler = Scheduler(slots=4)
    teach(scheduler, [20.0 + step / 10 for step in range(200)])
    scheduler.watch("pushed", route=ROUTE, now=0.0, webhook_expected=True)
    now = 0.0
    while isinstance(action := scheduler.next_action(now), Sleep) and action.until is not None and now < 300.0:
        now = action.until

    assert action == Poll("pushed", wait=True)
    assert 25.0 < now < 40.0


def test_an_old_operation_is_looked_at_first() -> None:
    """One that was submitted again (its age is known), or attached by its handle (it is not), may long be finished."""
    for age in (40.0, None):
        scheduler = Scheduler(slots=1)
        watch(scheduler, range(5), now=0.0)
        scheduler.watch("old", route=ROUTE, now=3.0, age=age)

        assert scheduler.next_action(3.0) == Poll("old", wait=False)


def test_an_unknown_age_can_become_known() -> None:
    """Watching again tells more of an operation: its age, wherever it is; a known age stays."""
    scheduler = Scheduler(slots=2)
    watch(scheduler, ["waiting", "held", "known"], age=None)
    scheduler.begin(Poll("held", wait=True), now=0.0)
    for key, age in (("waiting", 30.0), ("held", 30.0), ("known", None)):
        scheduler.watch(key, route=ROUTE, now=1.0, age=age, webhook_expected=key == "known")

    queue = scheduler._watched
    assert [(queue[key].age_known, queue[key].created_at) for key in ("waiting", "held")] == [(True, -29.0)] * 2
    assert (queue["known"].age_known, queue["known"].webhook_expected, scheduler._ready.webhook_expected) == (
        False,
        True,
        1,
    )


def test_routes_are_learned_apart() -> None:
    """A route whose operations take seconds is looked at sooner than one whose operations take minutes."""
    scheduler = Scheduler(slots=1)
    teach(scheduler, [3.0] * 40, route="/v1/fx")
    teach(scheduler, [90.0] * 40, route=ROUTE)
    scheduler.watch("song", route=ROUTE, now=0.0)
    scheduler.watch("fx", route="/v1/fx", now=0.0)

    assert scheduler.next_action(2.5) == Poll("fx", wait=False)


def test_ten_thousand_operations_are_decided_without_quadratic_cost() -> None:
    """A decision looks at lines, not at operations: ten times the operations, about the same number of lines."""
    lines = []
    for many in (1000, 10_000):
        scheduler, rng, now = Scheduler(slots=16), random.Random(3), 0.0
        watch(scheduler, range(many))
        for _ in range(3000):
            now += 0.01
            action = scheduler.next_action(now, rate=100)
            if isinstance(action, Poll):
                scheduler.begin(action, now=now)
                outcome = FINISHED if rng.random() < 0.02 else PROCESSING
                scheduler.settle(action.key, now=now + 0.05, outcome=outcome)
        lines.append(len(scheduler._ready._buckets))

    assert max(lines) < 60


def test_a_waiting_operation_costs_less_than_two_kibibytes() -> None:
    """Ten thousand waiting operations are some ten megabytes, their keys not counted."""
    keys = list(range(10_000))
    tracemalloc.start()
    scheduler = Scheduler(slots=16)
    before = tracemalloc.get_traced_memory()[0]
    watch(scheduler, keys)
    cost = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert cost / len(keys) < 2048

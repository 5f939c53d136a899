from collections.abc import Iterable

import pytest

from soundpiece_async._core.completion import AGREE_AFTER
from soundpiece_async._core.scheduler import CancelPoll, Outcome, Poll, Scheduler, Sleep, WatchHistory

ROUTE = "/v1/song"
PROCESSING, UNDECIDED, FINISHED, FAILED, CUT, DROPPED = Outcome


def watch(scheduler: Scheduler, keys: Iterable[str], *, now: float = 0.0) -> None:
    for key in keys:
        scheduler.watch(key, route=ROUTE, now=now)


def test_a_drop_that_crossed_the_answer_is_no_harm() -> None:
    """The hold that was to be dropped may still finish: that settles it, and the next drop is free."""
    scheduler = Scheduler(slots=2)
    watch(scheduler, "ab", now=0.0)
    for key in "ab":
        scheduler.begin(Poll(key, wait=True), now=0.0)
    watch(scheduler, "cdef", now=0.1)
    action = scheduler.next_action(16.0)
    assert isinstance(action, CancelPoll)
    scheduler.begin(action, now=16.0)
    scheduler.settle(action.key, now=16.0, outcome=FINISHED)

    assert isinstance(scheduler.next_action(16.0), Poll)


def test_a_hold_that_nobody_wants_goes_first_when_its_slot_is_wanted() -> None:
    """It lingers for a new waiter, and is cancelled once, for an operation with waiters."""
    scheduler = Scheduler(slots=2)
    watch(scheduler, "ab", now=0.0)
    scheduler.begin(Poll("a", wait=True), now=0.0)
    scheduler.begin(Poll("b", wait=True), now=0.0)

    assert scheduler.forget("b", now=1.0) is True
    assert scheduler.next_action(1.0) == Sleep(None)  # nobody else waits
    watch(scheduler, "c", now=1.0)
    assert scheduler.next_action(1.0) == CancelPoll("b")
    scheduler.begin(CancelPoll("b"), now=1.0)
    assert isinstance(scheduler.next_action(1.0), Sleep)
    scheduler.settle("b", now=1.1, outcome=DROPPED)
    assert scheduler.next_action(1.1) == Poll("c", wait=True)


def test_a_hold_that_somebody_came_back_to_is_as_any_other() -> None:
    """It keeps its slot, and what comes of it counts."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, "a", now=0.0)
    scheduler.begin(Poll("a", wait=True), now=0.0)
    scheduler.forget("a", now=1.0)
    watch(scheduler, "ab", now=2.0)

    assert isinstance(scheduler.next_action(2.0), Sleep)
    scheduler.settle("a", now=3.0, outcome=Outcome.PROCESSING)
    assert isinstance(scheduler.next_action(4.0), Poll)


def test_who_comes_back_is_not_as_urgent_as_who_was_never_looked_at() -> None:
    """When it was last seen is remembered by the caller."""
    scheduler = Scheduler(slots=2)
    scheduler.watch("seen", route=ROUTE, now=100.0, age=60.0, history=WatchHistory(last_seen=99.0))
    scheduler.watch("new", route=ROUTE, now=100.0, age=30.0)

    assert scheduler.detection_lag(100.0) == 30.0
    action = scheduler.next_action(100.0)
    assert isinstance(action, Poll)
    assert action.key == "new"


def test_a_rest_is_not_cut_short_by_leaving_and_coming_back() -> None:
    """Nor are the failures before it forgotten, that make the next one longer."""
    scheduler = Scheduler(slots=2)
    watch(scheduler, ["a"])
    pasts = []
    for _ in range(3):
        action = scheduler.next_action(100.0)
        assert action == Poll("a", wait=True)
        scheduler.begin(action, now=100.0)
        scheduler.forget("a", now=100.0)
        pasts.append(scheduler.settle("a", now=100.0, outcome=FAILED))
        scheduler.watch("a", route=ROUTE, now=100.0, history=pasts[-1])
        assert scheduler.history("a").backoff_until == pasts[-1].backoff_until
        assert scheduler.next_action(100.0) == Sleep(pasts[-1].backoff_until)
        scheduler.forget("a", now=100.0)
        scheduler.watch("a", route=ROUTE, now=100.0, history=WatchHistory(failures=pasts[-1].failures))
    assert [past.backoff_until - 100.0 for past in pasts] == [0.75, 1.5, 3.0]


@pytest.mark.parametrize("wait", [False, True])
def test_what_is_undecided_backoff_until_a_second_answer_can_decide(*, wait: bool) -> None:
    """Sooner it would cost requests and say nothing; meanwhile the slot is free."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, ["a"])
    scheduler.begin(Poll("a", wait=wait), now=0.0)
    scheduler.settle("a", now=0.1, outcome=UNDECIDED)

    assert scheduler.polls == 0
    assert scheduler.next_action(0.1) == Sleep(0.1 + AGREE_AFTER)
    assert isinstance(scheduler.next_action(0.1 + AGREE_AFTER), Poll)


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_failed_polls_are_later_turns(jitter: float) -> None:
    """Rests double from half a second to a second up to 16 to 32 s, and never end; an answer forgets them."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, ["a"])
    now, rests = 0.0, []
    for _ in range(8):
        assert scheduler.next_action(now) == Poll("a", wait=True)
        scheduler.begin(Poll("a", wait=True), now=now)
        scheduler.settle("a", now=now, outcome=FAILED, jitter=jitter)
        action = scheduler.next_action(now)
        assert isinstance(action, Sleep)
        assert action.until is not None
        rests.append(action.until - now)
        now = action.until
    assert rests == pytest.approx([rest * (0.5 + jitter / 2) for rest in (1, 2, 4, 8, 16, 32, 32, 32)])

    assert scheduler.next_action(now) == Poll("a", wait=True)
    scheduler.begin(Poll("a", wait=True), now=now)
    scheduler.settle("a", now=now + 20, outcome=PROCESSING)
    scheduler.begin(Poll("a", wait=True), now=now + 20)
    scheduler.settle("a", now=now + 20, outcome=FAILED, jitter=1.0)
    assert scheduler.next_action(now + 20) == Sleep(pytest.approx(now + 21))


def test_who_rests_keeps_nobody_waiting() -> None:
    """One operation whose polls fail takes no turn from the others; it may leave while it rests."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, "ab")
    scheduler.begin(Poll("a", wait=False), now=5.0)
    scheduler.settle("a", now=5.0, outcome=FAILED)

    assert scheduler.next_action(5.0) == Poll("b", wait=True)
    assert repr(scheduler).startswith("<Scheduler 0/1 slots (0 long), 1 ready, 1 backing off")
    assert scheduler.forget("a", now=5.0) is False
    assert scheduler.forget("b", now=5.0) is False
    assert scheduler.next_action(60.0) == Sleep(None)


def test_a_broken_hold_is_no_tight_loop() -> None:
    """Long polls answered at once come once a second, after one short one for the round trip.

    See docs/api.md#long-polls.
    """
    scheduler = Scheduler(slots=1)
    watch(scheduler, ["a"])
    now, polls = 0.0, []
    while now < 10.0:
        match scheduler.next_action(now):
            case Poll() as poll:
                scheduler.begin(poll, now=now)
                polls.append((round(now, 3), poll.wait))
                now += 0.05
                scheduler.settle("a", now=now, outcome=PROCESSING)
            case Sleep(until=float() as until):
                now = until
            case action:
                pytest.fail(f"nothing to do: {action}")

    assert polls[:3] == [(0.0, True), (0.05, False), (0.1, True)]
    assert polls[3:] == [(pytest.approx(0.1 + second), True) for second in range(1, 10)]


def test_a_short_hold_is_no_broken_hold() -> None:
    """A server that really holds for a hundredth is polled again at once, and all else follows its pace."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, ["a"])
    now = 0.0
    for _ in range(60):
        action = scheduler.next_action(now)
        assert isinstance(action, Poll)
        scheduler.begin(action, now=now)
        now += 0.2 if action.wait else 0.002
        scheduler.settle("a", now=now, outcome=PROCESSING)
    scheduler.begin(Poll("a", wait=True), now=now)
    scheduler.settle("a", now=now, outcome=FAILED, jitter=1.0)

    assert scheduler.next_action(now) == Sleep(pytest.approx(now + 0.01, rel=0.01))
    assert scheduler.round_trip == pytest.approx(0.002)


def test_results_of_looks_tell_the_round_trip() -> None:
    """Any answer to a short poll does, a result too; a hold does not."""
    scheduler = Scheduler(slots=2)
    watch(scheduler, "ab")
    scheduler.begin(Poll("a", wait=True), now=0.0)
    scheduler.settle("a", now=7.0, outcome=FINISHED)
    assert scheduler.round_trip == 0.1
    scheduler.begin(Poll("b", wait=False), now=7.0)
    scheduler.settle("b", now=7.03, outcome=FINISHED)

    assert scheduler.round_trip == pytest.approx(0.03)


def test_webhooks_teach_durations_too() -> None:
    """News from elsewhere that an operation has finished is a finish at that age."""
    scheduler = Scheduler(slots=4)
    for number in range(50):
        scheduler.watch(number, route=ROUTE, now=0.0, webhook_expected=True)
        assert scheduler.forget(number, now=12.0, finished=True) is False

    assert scheduler._routes[ROUTE].rate == pytest.approx(1 / 12, rel=0.1)


def test_news_that_crossed_the_answer_counts_once() -> None:
    """A webhook and then the cancelled poll's answer are one finish."""
    scheduler = Scheduler(slots=4)
    watch(scheduler, "a")
    scheduler.begin(Poll("a", wait=True), now=0.0)
    assert scheduler.forget("a", now=9.0, finished=True) is True
    assert scheduler.forget("a", now=9.0, finished=True) is True
    scheduler.settle("a", now=9.0, outcome=FINISHED)

    assert sum(scheduler._routes[ROUTE]._events) == pytest.approx(1)
    assert scheduler.forget("a", now=9.0) is False


def test_a_result_during_a_hold_is_known_to_the_instant() -> None:
    """A hold that ends at 9 s with the result tells more than a look at 9 s: it ran until then."""
    held, looked = Scheduler(slots=1), Scheduler(slots=1)
    for scheduler, wait in ((held, True), (looked, False)):
        watch(scheduler, "a")
        scheduler.begin(Poll("a", wait=wait), now=0.0 if wait else 8.95)
        scheduler.settle("a", now=9.0, outcome=FINISHED)

    assert max(held._routes[ROUTE]._events) == pytest.approx(1)
    assert max(looked._routes[ROUTE]._events) < 0.5


def test_who_comes_back_while_the_poll_is_being_cancelled_keeps_its_place() -> None:
    """Forgotten and watched again before the cancelled poll has settled: still one poll at a time, and not lost."""
    scheduler = Scheduler(slots=2)
    watch(scheduler, ["a"])
    scheduler.begin(Poll("a", wait=True), now=0.0)
    assert scheduler.forget("a", now=1.0) is True
    watch(scheduler, ["a"], now=1.0)

    assert scheduler.next_action(1.0) == Sleep(None)
    scheduler.settle("a", now=1.0, outcome=DROPPED)
    assert scheduler.next_action(1.0) == Poll("a", wait=True)


def test_lag_is_the_time_since_somebody_was_last_seen() -> None:
    """At worst a result came right after the last answer; inside a hold none goes unnoticed, webhooks do not count."""
    scheduler = Scheduler(slots=2)
    assert scheduler.detection_lag(0.0) == 0.0
    scheduler.watch("pushed", route=ROUTE, now=0.0, webhook_expected=True)
    watch(scheduler, "abc", now=1.0)
    scheduler.begin(Poll("a", wait=True), now=1.0)
    assert scheduler.detection_lag(5.0) == 4.0

    scheduler.begin(Poll("b", wait=False), now=5.0)
    scheduler.settle("b", now=5.0, outcome=PROCESSING)
    scheduler.begin(Poll("c", wait=False), now=5.0)
    assert scheduler.detection_lag(6.0) == 5.0
    scheduler.settle("c", now=6.0, outcome=FAILED)
    assert scheduler.detection_lag(7.0) == 6.0


def test_a_hold_that_a_proxy_cuts_is_a_shorter_hold() -> None:
    """It is learned; the next poll is short, to see that the service is well, and after that one is held again."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, ["a"])
    now = 0.0
    for _ in range(40):
        action = scheduler.next_action(now)
        if isinstance(action, Sleep):
            assert action.until is not None
            now = action.until
            continue
        assert isinstance(action, Poll)
        scheduler.begin(action, now=now)
        assert scheduler.was_held("a", now=now + 5) is action.wait
        now += 5 if action.wait else 0.05
        scheduler.settle("a", now=now, outcome=CUT if action.wait else PROCESSING)
    assert scheduler._timing.hold == pytest.approx(5, rel=0.2)


def test_a_service_that_breaks_everything_off_is_asked_ever_less() -> None:
    """The short poll that follows a cut fails as well; and what breaks off at once was not held."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, ["a"])
    now, begun = 0.0, []
    while now < 600:
        action = scheduler.next_action(now)
        if isinstance(action, Sleep):
            assert action.until is not None
            now = action.until
            continue
        assert isinstance(action, Poll)
        begun.append(now)
        scheduler.begin(action, now=now)
        now += 2 if action.wait else 0.05
        scheduler.settle("a", now=now, outcome=CUT)
    assert len(begun) < 60
    assert begun[-1] - begun[-2] > 8


def test_a_rest_is_as_long_as_it_is_asked_for() -> None:
    """``Retry-After``, for this operation."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, ["a"])
    scheduler.begin(Poll("a", wait=False), now=0.0)
    scheduler.settle("a", now=0.1, outcome=FAILED, retry_after=30)
    assert scheduler.next_action(0.1) == Sleep(30.1)


def test_where_no_poll_is_held_a_late_answer_is_no_hold() -> None:
    """A busy network is not taken for a service that holds for an instant, and would be asked again as soon."""
    scheduler = Scheduler(slots=1)
    watch(scheduler, "a")
    scheduler.begin(Poll("a", wait=False), now=0.0)
    scheduler.settle("a", now=0.001, outcome=PROCESSING)
    scheduler.stop_holding()
    for now in (1.0, 2.5):
        scheduler.begin(Poll("a", wait=True), now=now)
        scheduler.settle("a", now=now + 0.1, outcome=PROCESSING)
        assert scheduler.next_action(now + 0.1) == Sleep(pytest.approx(now + 1.0))
        assert scheduler.next_action(now + 1.1) == Poll("a", wait=True)


def test_the_explanation_of_a_poll_names_every_rule_that_applies() -> None:
    """A failure before it and a late webhook, too; the gains of both kinds of poll are the ones that are compared."""
    scheduler = Scheduler(slots=1)
    for key in "ab":
        scheduler.watch(key, route=ROUTE, now=0.0, webhook_expected=key == "a")
    scheduler.begin(Poll("a", wait=True), now=0.0)
    scheduler.settle("a", now=1.0, outcome=FAILED)

    told = scheduler.explain(Poll("a", wait=True), now=90.0)
    assert told.startswith(
        "long poll (rule 2) after 1 failed in a row (rule 7); its webhook is late (rule 9): each has a slot; "
    )
    scheduler.watch("c", route=ROUTE, now=0.0)
    told = scheduler.explain(Poll("b", wait=False), now=90.0)
    assert told.startswith("short poll (rule 4): 2 can be polled; 90.0 s since its last poll, age 90.0 s, ")
    assert "(price of a request 0.05 s, going price 0.05 s)" in told

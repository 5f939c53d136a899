import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.estimators import MIN_LOSS, Durations, WebhookReliability
from soundpiece_async._core.scheduler import Outcome, Poll, Scheduler, Sleep

ROUTE = "create.new_fx"


def teach(silence: WebhookReliability, *, came: int, missed: int) -> WebhookReliability:
    """Record webhooks, then missed ones."""
    for _ in range(came):
        silence.record_delivery(0.0)
    for _ in range(missed):
        silence.record_miss()
    return silence


def run(scheduler: Scheduler, *, now: float, until: float) -> tuple[float, Poll] | None:
    """Do what the scheduler says until it polls; gives when, and what."""
    while now < until:
        match scheduler.next_action(now):
            case Poll() as poll:
                return now, poll
            case Sleep(until=wake):
                now = until if wake is None else wake
            case action:
                pytest.fail(f"nothing to drop: {action}")
    return None


def test_late_is_as_likely_lost_as_running() -> None:
    """Half of the usual time at first; a tenth of the operations take longer where webhooks come; all where none do."""
    assert WebhookReliability().late_survival == pytest.approx(0.5)
    assert teach(WebhookReliability(), came=50, missed=0).late_survival == pytest.approx(0.1)
    assert teach(WebhookReliability(), came=0, missed=3).late_survival > 1
    assert repr(teach(WebhookReliability(), came=2, missed=1)) == "<WebhookReliability 2 webhooks came, 1 were missed>"


@given(came=st.integers(0, 500), missed=st.integers(0, 500))
def test_the_share_lost_is_one(came: int, missed: int) -> None:
    """Whatever happened, it is a share, and never so small that a lost one is not looked for."""
    assert MIN_LOSS <= teach(WebhookReliability(), came=came, missed=missed).loss < 1


def test_what_was_is_forgotten() -> None:
    """A receiver that goes down after a thousand webhooks is found out by a few dozen."""
    assert teach(WebhookReliability(), came=1000, missed=60).loss > 1 / 2


def test_silence_means_something_only_while_webhooks_come() -> None:
    """For a quarter of a hold after the last one."""
    silence = WebhookReliability()
    assert not silence.webhooks_flowing(0.0, hold=20.0)
    silence.record_delivery(10.0)
    assert silence.webhooks_flowing(14.9, hold=20.0)
    assert not silence.webhooks_flowing(15.0, hold=20.0)


def test_the_silent_are_counted_now_and_then() -> None:
    """Once in a fortieth of a hold."""
    silence = WebhookReliability()
    assert [silence.is_due(now, hold=20.0) for now in (0.0, 0.4, 0.5, 0.6, 1.0)] == [True, False, True, False, True]


def test_who_runs_on_in_silence_is_exposed() -> None:
    """Ten of a hundred finished at 5 s, ninety are silent: most operations take longer, not next to none."""
    route = Durations()
    for _ in range(10):
        route.learn(0.0, 5.0, finished=False)
        route.learn(5.0, 5.0, finished=True)
    assert route.survival(6.0) < 0.3

    for _ in range(20):
        route.observe_silent([(0.0, 6.0)] * 90, loss=MIN_LOSS)
    heard = route.survival(6.0)
    assert heard > 0.7
    route.observe_silent([(4.0, 6.0)] * 90, loss=MIN_LOSS)  # of the first four seconds it is known already
    assert route.survival(6.0) < heard
    route.observe_silent([], loss=MIN_LOSS)
    assert route.survival(6.0) < 0.3


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 5000)), min_size=1, max_size=20))
def test_the_silent_are_exposed_as_long_as_they_are_silent(stretches: list[tuple[float, float]]) -> None:
    """If no webhook is ever lost, all of their time counts, each second in its bin."""
    route, looked = Durations(), Durations()
    ages = [(since, since + length) for since, length in stretches]
    route.observe_silent(ages, loss=0.0)
    for since, until in ages:
        looked.learn(since, until, finished=False)
    assert route._silent == pytest.approx(looked._exposure, abs=1e-6)


def test_a_webhook_that_comes_leaves_nothing_to_poll() -> None:
    """A hundred at once, the last after 20 s: as long as webhooks come three in four are never polled."""
    scheduler, polled, now = Scheduler(slots=100), set(), 0.0
    for number in range(100):
        scheduler.watch(number, route=ROUTE, now=0.0, webhook_expected=True)
    for number in range(100):
        end = 1.0 + number / 5
        while (found := run(scheduler, now=now, until=end)) is not None:
            now, poll = found
            scheduler.begin(poll, now=now)
            polled.add((poll.key, poll.wait))
        now = end
        if scheduler.forget(number, now=now, finished=True):
            scheduler.settle(number, now=now, outcome=Outcome.CANCELLED)

    assert len(polled) <= 25
    assert all(hold for _, hold in polled)


def test_a_receiver_that_is_down_is_found_out() -> None:
    """Where no webhook ever comes, the first piece is held when it should be done by half, the later ones at once."""
    scheduler = Scheduler(slots=4)
    found_at = []
    for number in range(3):
        start = 1000.0 * number
        scheduler.watch(number, route=ROUTE, now=start, webhook_expected=True)
        found = run(scheduler, now=start, until=start + 100)
        assert found is not None
        assert found[1] == Poll(number, wait=True)
        found_at.append(found[0] - start)
        scheduler.begin(found[1], now=found[0])
        scheduler.settle(number, now=found[0] + 0.05, outcome=Outcome.FINISHED)

    assert 10 < found_at[0] < 20
    assert found_at[1:] == [0.0, 0.0]


def test_a_receiver_that_goes_down_is_found_out() -> None:
    """After many webhooks there is silence: a quarter of a hold later it means nothing, and the late are polled."""
    scheduler, start = Scheduler(slots=4), 0.0
    for number in range(100):
        scheduler.watch(number, route=ROUTE, now=start, webhook_expected=True)
        start += 4 + number % 5
        scheduler.forget(number, now=start, finished=True)
    for number in range(100, 104):
        scheduler.watch(number, route=ROUTE, now=start, webhook_expected=True)
    found = run(scheduler, now=start, until=start + 100)

    assert found is not None
    assert found[1].wait
    assert 6 < found[0] - start < 14

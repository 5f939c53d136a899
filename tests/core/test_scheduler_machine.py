"""Random joins, leavings, answers, failures, permits and clock steps: what must hold whatever happens."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from soundpiece_async._core.scheduler import CancelPoll, Outcome, Poll, Scheduler, Sleep

SLOTS = 3
ROUTES = ("/v1/song", "/v1/fx")
PATIENCE = 400.0  # seconds within which everyone is looked at, once all goes well
ROUND_TRIP = 0.01  # seconds that a poll takes at least: of one that takes none, holds of microseconds would be learned


class World(RuleBasedStateMachine):
    """What the caller knows: who is watched, on whom a poll is out since when, and how many permits there are."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(slots=SLOTS)
        self.now = 0.0
        self.permits = 5
        self.sent = 0
        self.granted = 5
        self.watched: set[int] = set()
        self.out: dict[int, Poll] = {}
        self.dropping: set[int] = set()
        self.names = 0

    def act(self) -> Poll | CancelPoll | Sleep:
        """Do what it says once, if permits allow."""
        action = self.scheduler.next_action(self.now, rate=2.0)
        assert action == self.scheduler.next_action(self.now, rate=2.0)
        match action:
            case Poll(key=int() as key):
                assert key in self.watched, "a poll on somebody who left"
                assert key not in self.out, "two polls on one operation"
                if self.permits:
                    self.permits -= 1
                    self.sent += 1
                    self.out[key] = action
                    self.scheduler.begin(action, now=self.now)
            case CancelPoll(key=int() as key):
                assert self.out[key].wait, "only holds are dropped"
                assert not self.dropping, "one drop at a time"
                self.dropping.add(key)
                self.scheduler.begin(action, now=self.now)
            case Sleep(until=until):
                assert until is None or until > self.now, "a sleep that is over"
        return action

    def settle(self, key: int, outcome: Outcome, *, jitter: float = 0.5) -> None:
        """End a poll."""
        self.now += ROUND_TRIP
        del self.out[key]
        self.dropping.discard(key)
        self.scheduler.settle(key, now=self.now, outcome=outcome, jitter=jitter)
        if outcome is Outcome.FINISHED:
            self.watched.discard(key)

    @rule(
        route=st.sampled_from(ROUTES),
        age=st.one_of(st.none(), st.just(0.0), st.floats(0, 1000)),
        webhook_expected=st.booleans(),
        many=st.integers(1, 5),
    )
    def join(self, route: str, age: float | None, *, webhook_expected: bool, many: int) -> None:
        """Some operations are submitted, or attached."""
        for _ in range(many):
            self.names += 1
            self.watched.add(self.names)
            self.scheduler.watch(self.names, route=route, now=self.now, age=age, webhook_expected=webhook_expected)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), finished=st.booleans())
    def leave(self, data: st.DataObject, *, finished: bool) -> None:
        """Nobody waits for one any more, or a webhook came; it may have left before."""
        key = data.draw(st.integers(1, self.names))
        assert self.scheduler.forget(key, now=self.now, finished=finished) is (key in self.out)
        self.watched.discard(key)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), age=st.one_of(st.none(), st.floats(0, 1000)), webhook_expected=st.booleans())
    def rejoin(self, data: st.DataObject, age: float | None, *, webhook_expected: bool) -> None:
        """One is waited for again, perhaps while its last poll is being cancelled."""
        key = data.draw(st.integers(1, self.names))
        self.watched.add(key)
        self.scheduler.watch(key, route=ROUTES[0], now=self.now, age=age, webhook_expected=webhook_expected)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), jitter=st.floats(0, 1))
    def answer(self, data: st.DataObject, outcome: Outcome, jitter: float) -> None:
        """A poll ends."""
        self.settle(data.draw(st.sampled_from(sorted(self.out))), outcome, jitter=jitter)

    @rule(seconds=st.one_of(st.floats(0, 1), st.floats(0, 120)))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(many=st.integers(1, 5))
    def grant(self, many: int) -> None:
        """Permits come."""
        self.permits += many
        self.granted += many

    @rule(times=st.integers(1, 5))
    def ask(self, times: int) -> None:
        """The caller performs the instructions, so many times."""
        for _ in range(times):
            self.act()

    @invariant()
    def keep_the_budgets(self) -> None:
        """Polls out never exceed the slots, requests never the permits; and it knows what is out."""
        assert len(self.out) <= SLOTS
        assert self.sent <= self.granted
        assert self.scheduler.polls == len(self.out)
        assert self.scheduler.detection_lag(self.now) >= 0
        assert f"<Scheduler {len(self.out)}/{SLOTS} slots" in repr(self.scheduler)

    def teardown(self) -> None:
        """From whatever state: all are looked at within a bounded time, and when they have gone nothing is left."""
        hopeful = {key for key in self.watched if not self.scheduler._watched[key].webhook_expected}
        end = self.now + PATIENCE
        for key in list(self.out):
            self.settle(key, Outcome.PROCESSING if key in self.watched else Outcome.CANCELLED)
        while (hopeful & self.watched) and self.now < end:
            self.permits = 1
            action = self.act()
            if isinstance(action, Poll | CancelPoll):
                for key in list(self.out):
                    self.settle(key, Outcome.CANCELLED if key in self.dropping else Outcome.FINISHED)
            else:
                assert isinstance(action, Sleep)
                assert action.until is not None, "nobody is out, somebody waits: there is a time for it"
                self.now = action.until
        assert not hopeful & self.watched, "somebody was never looked at"
        for key in list(self.watched):
            assert self.scheduler.forget(key, now=self.now) is False
        assert self.scheduler.next_action(self.now) == Sleep(None)
        assert "0 ready, 0 backing off" in repr(self.scheduler)


TestWorld = pytest.mark.filterwarnings("error")(World.TestCase)
TestWorld.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""The pace of a process among several, and the account's gate that they meet at; numbers in, values out."""

import json
import math
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from soundpiece_async._core.gate import Gate, Priority, Ticket
from soundpiece_async._core.rate_control import LearnedRate
from soundpiece_async._core.shared_gate import (
    AWAY_SHARE,
    HEARTBEAT_SECONDS,
    MAX_PERMITS,
    NEWCOMER_RATE,
    PEER_SECONDS,
    AccountGate,
    Action,
    GateState,
    Heartbeat,
    Report,
    Reserve,
    SharedPace,
    Tune,
    make_tuning,
)


class Process:
    """A gate with a shared pace, beside a store that answers when it is asked to."""

    def __init__(self, store: AccountGate, name: str = "a", *, ceiling: float | None = None) -> None:
        self.store, self.name = store, name
        self.pace = SharedPace(ceiling=ceiling)
        self.gate = Gate(pace=self.pace)
        self.asked: list[Action] = []

    def ask(self, now: float) -> bool:
        """Carry out one question."""
        gate = self.gate
        action = self.pace.next_action(now, waiting=gate.waiting, since=gate.waiting_since)
        if action is None:
            return False
        self.asked.append(action)
        seen = self.store.perform(action, peer=self.name, now=now)
        self.pace.answer(action, seen, now=now, took=0.001)
        if seen.closed:
            gate.close(now + seen.closed)
        return True

    def sync(self, now: float) -> None:
        """Ask all there is to ask."""
        while self.ask(now):
            pass

    def send(self, now: float, count: int = 1, *, priority: Priority = Priority.SUBMIT) -> list[Ticket]:
        """Have requests, and return those that go now."""
        for _ in range(count):
            self.gate.enqueue(priority, now=now)
        self.sync(now)
        return self.gate.admit(now=now)

    def refuse(self, ticket: Ticket, now: float, *, retry_after: float = 1.0) -> None:
        """Answer one of them by a 429."""
        self.gate.limit(ticket, now=now, retry_after=retry_after)


def limited(store: AccountGate, process: Process, *, now: float = 0.0) -> None:
    """Report the first 429 of a process, which starts the ramp."""
    (ticket,) = process.send(now)
    process.refuse(ticket, now)
    process.sync(now)
    assert store.rate == 0.5


def seen(**changes: Any) -> GateState:
    facts = {"rate": None, "ceiling": None, "closed": 0.0, "epoch": 0, "version": 0, "spent": 0}
    return GateState(**{**facts, "learned": "", "peers": 1, **changes})  # type: ignore[arg-type]


def test_a_newcomer_takes_no_answer_for_no_limit() -> None:
    """Trap 1: before the first answer of the store a process goes at a low rate, however much it has to send."""
    process = Process(AccountGate())
    for _ in range(100):
        process.gate.enqueue(Priority.SUBMIT, now=0)
    sent = [now / 10 for now in range(100) for _ in process.gate.admit(now=now / 10)]

    assert len(sent) <= 10 * NEWCOMER_RATE + 2
    assert process.pace.rate == process.pace.account_rate == NEWCOMER_RATE
    assert process.pace.peers == 0
    assert "away" in repr(process.pace)
    assert SharedPace(ceiling=0.5).rate == 0.5


def test_without_a_limit_the_store_is_asked_once() -> None:
    """Before the first 429 there is one sign of life per beat, and no question per request."""
    process = Process(AccountGate())
    process.sync(0)

    assert len(process.send(0.1, 1_000, priority=Priority.POLL)) == 1_000
    assert process.asked == [Heartbeat(None)]
    assert (process.pace.rate, process.pace.due, process.pace.peers) == (None, -math.inf, 1)
    assert process.pace.next_wakeup(0.1) == HEARTBEAT_SECONDS
    assert "free" in repr(process.pace)

    process.sync(HEARTBEAT_SECONDS)
    assert process.asked == [Heartbeat(None)] * 2


def test_a_429_closes_for_all_and_is_one_cut() -> None:
    """Trap 2: of a burst of 429s, in several processes, one report lowers the rate; each closes the gate."""
    store = AccountGate()
    first, second = Process(store, "a"), Process(store, "b")
    first.sync(0), second.sync(0)
    bursts = [
        (process, ticket) for process in (first, second) for ticket in process.send(0, 20, priority=Priority.POLL)
    ]
    for process, ticket in bursts:
        process.refuse(ticket, 0.1, retry_after=3)
    for process in (first, second):
        process.sync(0.2)

    assert (store.epoch, store.rate, store.version) == (1, 0.5, 1)
    assert first.gate.closed_until == second.gate.closed_until == 3.1
    assert sum(isinstance(action, Tune) for action in first.asked + second.asked) == 1
    assert first.send(3.0) == []
    first.sync(3.1), second.sync(3.1)
    assert [first.gate.next_wakeup(now=3.1), first.pace.account_rate] != [None, None]


def test_an_answer_of_before_a_429_changes_nothing() -> None:
    """The process waits for the store to know the rate, whatever comes of what it had sent."""
    process = Process(AccountGate())
    process.sync(0)
    first, second = process.send(0, 2)
    process.refuse(first, 0.1)
    process.gate.succeed(second, now=0.2)

    assert process.pace.rate is None
    assert process.gate.in_flight == 0


def test_an_alarm_makes_permits_void() -> None:
    """What was reserved before another process's 429 is not used; the answer of a reservation that is out neither."""
    store = AccountGate(rate=1.0, learned=json.dumps(LearnedRate.settle_at(1.0).state))
    other, process = Process(store, "b"), Process(store)
    other.sync(0), process.sync(0)
    assert len(process.send(0, 3)) == 1
    process.sync(0)
    assert process.pace.due == 1.0

    assert process.pace.alarm() is None
    assert process.pace.due == math.inf
    action = process.pace.next_action(0.1, waiting=2, since=0)
    assert action == Heartbeat(None)
    process.pace.answer(action, store.perform(action, peer="a", now=0.1), now=0.1, took=0.0)
    take = process.pace.next_action(0.1, waiting=2, since=0)
    assert isinstance(take, Reserve)
    answer = store.perform(take, peer="a", now=0.1)
    process.pace.alarm()
    process.pace.answer(take, answer, now=0.1, took=0.0)
    assert process.pace.due == math.inf

    SharedPace().alarm()  # without an answer there is nothing to be alarmed about


def test_permits_go_round() -> None:
    """Two processes of any appetite get the same part, and a ceiling is that of the account."""
    store = AccountGate()
    processes = [Process(store, "a", ceiling=10), Process(store, "b", ceiling=4)]
    for process in processes:
        process.sync(0)
    processes[0].sync(HEARTBEAT_SECONDS)
    assert [process.pace.rate for process in processes] == [2, 2]
    assert [process.pace.account_rate for process in processes] == [4, 4]
    sent = [0, 0]
    for tick in range(200, 1_200):
        for number, process in enumerate(processes):
            wanted = 50 if process.gate.waiting < 50 else 0
            sent[number] += len(process.send(tick / 100, wanted))

    assert abs(sent[0] - sent[1]) <= 1
    assert 38 <= sum(sent) <= 46
    assert store.spent == 0 or store.rate is None  # nothing is learned of a ceiling


def test_who_goes_first_is_settled_inside() -> None:
    """A permit is anybody's: renewals pass submits, and those pass polls, also when it was reserved for a poll."""
    process = Process(AccountGate(rate=10.0))
    process.sync(0)
    process.send(0, 12)  # what was saved is used up
    for now in range(1, 40):
        process.send(now / 10, 0)
    polls = [process.gate.enqueue(Priority.POLL, now=4) for _ in range(15)]
    process.sync(4)
    submit, renewal = process.gate.enqueue(Priority.SUBMIT, now=4), process.gate.enqueue(Priority.RENEWAL, now=4)
    admitted = [ticket for now in range(40, 80) for ticket in process.send(now / 10, 0)]

    assert admitted.index(renewal) < admitted.index(submit) <= 3  # a poll may have had its permit, or its turn
    assert [ticket for ticket in admitted if ticket.priority is Priority.POLL] == polls


def test_a_slow_store_is_asked_for_several_at_once() -> None:
    """As many permits as would be used before the next answer, at most so many, and no more than there are requests."""
    pace = SharedPace()
    pace.answer(Heartbeat(None), seen(rate=1_000.0, peers=2), now=0, took=0.05)
    pace.next_action(0, waiting=0, since=math.inf)
    takes = [pace.next_action(0, waiting=waiting, since=-1.0) for waiting in (1, 5, 1_000)]
    assert takes == [Reserve(1, 1.0), Reserve(5, 1.0), Reserve(11, 1.0)]
    pace.answer(Reserve(11, 1.0), seen(rate=1_000.0, peers=1), now=0, took=9.0)
    pace.alarm()
    pace.next_action(0, waiting=0, since=math.inf)
    assert pace.next_action(0, waiting=1_000, since=0) == Reserve(MAX_PERMITS, 0.0)


def test_a_permit_not_used_is_kept_for_a_second() -> None:
    """One that is given back goes to the next; one that nobody uses is lost, and another is asked for."""
    process = Process(AccountGate(rate=10.0))
    process.sync(0)
    (ticket,) = process.send(0)
    process.gate.release(ticket, now=0.1)
    assert process.send(0.2) != []
    (late,) = process.send(1.0)
    process.pace.alarm()
    process.sync(1.0)
    process.gate.release(late, now=1.0)
    assert process.pace.due == 1.0

    assert not process.pace.is_ready(2.5)
    (old,) = process.send(2.5)[:1]
    process.pace.on_rate_limited(0, now=2.5, until=3.0)
    process.gate.release(old, now=2.5)
    assert process.pace.due == math.inf

    process.pace.lose(2.6, jitter=0)
    (alone,) = [process.gate.enqueue(Priority.SUBMIT, now=5)]
    assert process.gate.admit(now=5) == [alone]
    process.gate.release(alone, now=5)
    assert process.pace.is_ready(5)


def test_growth_is_that_of_the_law() -> None:
    """The store chooses one process at a time, whose tuning counts unless another one was faster."""
    store = AccountGate()
    process = Process(store)
    process.sync(0)
    limited(store, process)
    sent, now = [], 1.0
    while now < 6:
        now += 0.01
        sent += process.send(now, 1 if process.gate.waiting < 20 else 0)

    assert store.rate is not None
    assert 2 < store.rate < 12
    assert "ramp" in store.learned.lower()
    assert "metered" in repr(process.pace)
    version, spent = store.version, store.spent
    late = store.perform(Tune(version - 1, 1, 99.0, "{}"), peer="b", now=now)
    assert not late.chosen
    assert (store.version, store.spent) == (version, spent)


def test_a_cut_is_made_even_if_growth_was_faster() -> None:
    """A tuning that came between a 429 and its cut is not lost, and neither is the cut."""
    pace = SharedPace()
    pace.answer(Heartbeat(None), seen(), now=0, took=0)
    stale = make_tuning(seen(), lower=True)
    pace.answer(stale, seen(rate=8.0, version=3, closed=1.0), now=0, took=0)
    again = pace.next_action(0, waiting=0, since=math.inf)

    assert isinstance(again, Tune)
    assert (again.version, again.lower) == (3, True)
    assert again.rate < 8


@pytest.mark.parametrize(
    "learned",
    ["", "{}", "null", "[]", "{", '{"stage": "LATER"}', "[" * 5_000]
    + [
        json.dumps({**LearnedRate.settle_at(8.0).state, name: value})
        for name, value in {"rate": -1, "base": "x", "age": None, "steady_for": 1e999, "streak": []}.items()
    ],
)
def test_a_state_of_another_version_begins_at_its_rate(learned: str) -> None:
    """What cannot be read costs what the law has learned, and not the rate."""
    tuning = make_tuning(seen(rate=8.0, learned=learned, spent=3), lower=False)

    assert tuning.rate == pytest.approx(8.0, rel=0.1)
    assert LearnedRate.resume(json.loads(tuning.learned)).rate == tuning.rate


@given(st.lists(st.booleans(), max_size=60), st.none() | st.floats(0.5, 200))
def test_the_law_survives_its_json(events: list[bool], ceiling: float | None) -> None:
    """Stopped and resumed anywhere, it goes on as if nothing had been."""
    whole = LearnedRate(ceiling=ceiling)
    whole.on_rate_limited()
    parts = LearnedRate.resume(json.loads(json.dumps(whole.state)), ceiling=ceiling)
    for cut in events:
        for law in (whole, parts):
            law.on_rate_limited() if cut else law.on_permit(wanted=True)
        parts = LearnedRate.resume(json.loads(json.dumps(parts.state)), ceiling=ceiling)
        assert parts.state == whole.state


def test_a_store_that_is_away_stops_nobody() -> None:
    """A process goes on at a part of its share, and its own 429s lower that."""
    store = AccountGate(rate=20.0)
    process, other = Process(store), Process(store, "b")
    other.sync(0), process.sync(0)
    process.pace.lose(1.0, jitter=0)

    assert process.pace.rate == AWAY_SHARE * 20 / 2
    ticket, other_ticket = [process.gate.enqueue(Priority.SUBMIT, now=1) for _ in range(2)]
    assert process.gate.admit(now=1) == [ticket]  # nothing is saved
    process.gate.release(other_ticket, now=1)
    process.refuse(ticket, 1.0)
    assert process.pace.rate == 0.5
    process.pace.lose(1.5, jitter=0)
    assert process.pace.rate == 0.5

    process.sync(2.0)
    assert process.pace.account_rate == 20
    assert not process.pace.away


def test_processes_that_lose_the_store_together_do_not_send_in_step() -> None:
    """Each begins at a random moment of its first interval: sent in one burst, most of the first requests were 429s."""
    paces = []
    for number in range(8):
        pace = SharedPace()
        pace.answer(Heartbeat(None), seen(rate=5.0, peers=8), now=0, took=0)
        pace.lose(10.0, jitter=number / 8)
        paces.append(pace)

    interval = 1 / (AWAY_SHARE * 5 / 8)
    assert [pace.due for pace in paces] == pytest.approx([10 + interval * number / 8 for number in range(8)])
    for pace in paces:
        start = pace.due
        pace.spend(Ticket(Priority.SUBMIT, since=start), start)
        assert pace.due == pytest.approx(start + interval)


def test_a_store_that_knew_no_limit_may_go_away() -> None:
    """The process continues without a limit and learns it alone; then the store gets the learned rate."""
    store = AccountGate()
    process = Process(store)
    process.sync(0)
    process.pace.lose(1.0, jitter=0)
    first, second = [process.gate.enqueue(Priority.SUBMIT, now=1) for _ in range(2)]
    assert process.gate.admit(now=1) == [first, second]
    assert process.pace.rate is None
    process.refuse(first, 1.1)
    process.refuse(second, 1.1)
    assert process.pace.rate == 0.5

    process.sync(2.0)
    assert store.rate == 0.5
    assert process.pace.account_rate == 0.5


def test_a_429_that_could_not_be_reported_counts_alone() -> None:
    """The store goes away between the first 429 and its report: the process paces itself."""
    process = Process(AccountGate())
    process.sync(0)
    (ticket,) = process.send(0)
    process.refuse(ticket, 0.0)
    assert process.pace.epoch == 1
    process.pace.lose(0.1, jitter=0)

    assert process.pace.rate == 0.5
    assert process.pace.due == 1.0


def test_an_alarm_before_the_store_goes_away() -> None:
    """Another one's first 429 is known only as an alarm when the store goes: this process goes on without a limit."""
    process = Process(AccountGate())
    process.sync(0)
    process.pace.alarm()
    process.pace.lose(0.1, jitter=0)

    assert process.pace.rate is None


@pytest.mark.parametrize("flushed", [False, True])
def test_an_empty_store_is_told_the_rate(flushed: bool) -> None:  # noqa: FBT001 - a parameter
    """Trap 3: a store that comes back empty, or was emptied under an open connection, has a lower epoch."""
    store = AccountGate()
    process = Process(store)
    process.sync(0)
    for now in (0, 30, 60):
        process.send(now)
        (ticket,) = process.send(now + 5)[:1]
        process.refuse(ticket, now + 5)
        process.sync(now + 5)
    assert store.epoch == 3
    rate = store.rate
    if not flushed:
        process.pace.lose(66, jitter=0)
    process.store = store = AccountGate()

    process.send(66.5)
    process.sync(69)
    assert store.epoch == process.pace.epoch == 0
    assert store.rate == pytest.approx(rate)
    assert process.send(80) != []

    other = Process(store, "b")
    other.sync(80)
    assert other.pace.account_rate == store.rate


def test_a_seed_that_comes_too_late_is_dropped() -> None:
    """Of several processes that tell an empty store the rate, one counts; a lost seed is not forgotten."""
    pace = SharedPace()
    pace.answer(Heartbeat(None), seen(rate=8.0, epoch=4), now=0, took=0)
    pace.lose(1.0, jitter=0)
    pace.answer(Heartbeat(None), seen(), now=2, took=0)
    pace.lose(2.0, jitter=0)
    assert pace.rate == AWAY_SHARE * 8
    pace.answer(Heartbeat(None), seen(), now=3, took=0)
    seed = pace.next_action(3, waiting=0, since=math.inf)
    assert isinstance(seed, Tune)
    assert seed.rate == 8
    pace.answer(seed, seen(rate=7.5, version=1), now=3, took=0)

    assert pace.account_rate == 7.5
    assert isinstance(pace.next_action(3, waiting=0, since=math.inf), Heartbeat)


def test_a_clock_that_steps_back_stops_nobody() -> None:
    """Trap 5: what live processes cannot have reserved is reset, and so is a pause longer than it was asked for."""
    store = AccountGate(rate=10.0)
    store.perform(Heartbeat(None), peer="a", now=10_000)
    store.perform(Reserve(5, 0.0), peer="a", now=10_000)
    store.perform(Report(7, 3.0), peer="a", now=10_000)

    after = store.perform(Reserve(1, 0.0), peer="a", now=5_000)

    assert after.closed == 3
    assert after.wait == 3
    assert store.perform(Reserve(1, 0.0), peer="a", now=5_000).wait == pytest.approx(3.1)


def test_a_process_that_is_gone_counts_no_more() -> None:
    """One says so when it ends; another one's last sign of life grows old, and with it its ceiling."""
    store = AccountGate()
    for name, ceiling in (("a", None), ("b", 3.0), ("c", 2.0)):
        store.perform(Heartbeat(ceiling), peer=name, now=0)
    store.depart("c")
    assert store.perform(Heartbeat(None), peer="a", now=1).ceiling == 3
    assert store.perform(Heartbeat(None), peer="a", now=2).peers == 2
    late = store.perform(Heartbeat(None), peer="a", now=PEER_SECONDS + 1)
    assert (late.peers, late.ceiling) == (1, None)


def test_nobody_goes_before_the_first_rate_is_set() -> None:
    """The gate is closed, and the chosen process has not tuned yet: others ask again, and reserve nothing.

    If it never does, the account is as free as before when the pause ends.
    """
    store = AccountGate()
    process = Process(store)
    process.sync(0)
    store.perform(Report(0, 1.0), peer="b", now=0)
    process.pace.alarm()
    assert process.send(0.1) == []
    assert process.pace.rate is None
    assert process.pace.next_wakeup(0.1) == pytest.approx(0.2)
    process.sync(0.2)
    assert sum(isinstance(action, Reserve) for action in process.asked) == 2
    process.sync(1.3)
    assert process.gate.admit(now=1.3) != []


class Accounts(RuleBasedStateMachine):
    """Several processes, a store that forgets, vanishes or jumps in time, and requests that are refused at random."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.now, self.step = AccountGate(), 1_000.0, 0.0
        self.processes = [Process(self.store, name, ceiling=5.0 if name == "a" else None) for name in "abc"]
        self.out: list[tuple[Process, Ticket]] = []

    def run(self, process: Process) -> None:
        """Ask with the store's clock, which is another one."""
        gate = process.gate
        while (
            action := process.pace.next_action(self.now, waiting=gate.waiting, since=gate.waiting_since)
        ) is not None:
            answer = self.store.perform(action, peer=process.name, now=self.now + self.step)
            process.pace.answer(action, answer, now=self.now, took=0.001)
            if answer.closed:
                gate.close(self.now + answer.closed)
            if isinstance(action, Report) and answer.chosen:
                for other in self.processes:
                    if other is not process:
                        other.pace.alarm()
        self.out += [(process, ticket) for ticket in gate.admit(now=self.now)]

    @rule(number=st.integers(0, 2), count=st.integers(1, 5))
    def want(self, number: int, count: int) -> None:
        """A process has requests."""
        for _ in range(count):
            self.processes[number].gate.enqueue(Priority.SUBMIT, now=self.now)
        self.run(self.processes[number])

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        """Time goes by for all."""
        self.now += seconds
        for process in self.processes:
            self.run(process)

    @rule(refused=st.booleans(), pause=st.none() | st.floats(0.1, 20))
    def end(self, refused: bool, pause: float | None) -> None:  # noqa: FBT001 - a rule
        """Something is answered."""
        if self.out:
            process, ticket = self.out.pop()
            if refused:
                process.gate.limit(ticket, now=self.now, retry_after=pause)
            else:
                process.gate.succeed(ticket, now=self.now)
            self.run(process)

    @rule(number=st.integers(0, 2))
    def lose(self, number: int) -> None:
        """One process loses the store."""
        self.processes[number].pace.lose(self.now, jitter=0)

    @rule()
    def forget(self) -> None:
        """The store comes back empty."""
        self.store = AccountGate()

    @rule(step=st.floats(-500, 500))
    def jump(self, step: float) -> None:
        """The store's clock steps."""
        self.step += step

    @invariant()
    def holds(self) -> None:
        """The account's rate is a number above 0, and permits are of the future, or of the last second."""
        assert self.store.rate is None or 0 < self.store.rate < math.inf
        for process in self.processes:
            assert process.pace.rate is None or process.pace.rate > 0
            assert repr(process.pace)

    def teardown(self) -> None:
        """Whatever was before, everyone that waits is let in within two hours."""
        for _ in range(7_300):
            if not any(process.gate.waiting for process in self.processes):
                break
            self.wait(1.0)
            while self.out:
                self.end(refused=False, pause=None)
        assert not any(process.gate.waiting for process in self.processes)


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


def test_seen_is_plain() -> None:
    """The account's pace is the lower of what was learned and of the lowest ceiling."""
    assert attrs.evolve(seen(), rate=3.0).pace == 3
    assert seen(rate=3.0, ceiling=2.0).pace == 2
    assert seen().pace is None

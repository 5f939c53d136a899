"""The gate under random joins, leavings, answers and clock steps; and against accounts that tell it nothing."""

import heapq
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from soundpiece_async._core.gate import Gate, Priority, Ticket

CEILING = 7.0


class GateMachine(RuleBasedStateMachine):
    """What must hold whatever the order of events."""

    ceiling: float | None = CEILING

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(ceiling=self.ceiling, quota=5)
        self.now = 0.0
        self.queues: dict[Priority, deque[Ticket]] = {priority: deque() for priority in Priority}
        self.out: list[Ticket] = []
        self.admitted: list[float] = []
        self.refunded = 0
        self.closed_until = 0.0
        self.submits_past_polls = 0

    def take(self) -> list[Ticket]:
        """Admit, and check each one against the model."""
        before = self.gate.next_wakeup(now=self.now)
        admitted = self.gate.admit(now=self.now)
        assert bool(admitted) == (before is not None and before <= self.now)
        for ticket in admitted:
            assert self.now >= self.closed_until
            assert self.queues[ticket.priority].popleft() is ticket
            self.check_order(ticket.priority)
            self.admitted.append(self.now)
        self.out += admitted
        return admitted

    def check_order(self, priority: Priority) -> None:
        """Renewals pass all; at most three submits in a row pass a waiting poll."""
        if priority is not Priority.RENEWAL:
            assert not self.queues[Priority.RENEWAL]
        if priority is Priority.SUBMIT and self.queues[Priority.POLL]:
            self.submits_past_polls += 1
            assert self.submits_past_polls <= 3
        elif priority is not Priority.RENEWAL:
            self.submits_past_polls = 0

    @rule(priority=st.sampled_from(Priority), count=st.integers(1, 5))
    def join(self, priority: Priority, count: int) -> None:
        """Some join."""
        for _ in range(count):
            self.queues[priority].append(self.gate.enqueue(priority, now=self.now))

    @rule(priority=st.sampled_from(Priority))
    def try_at_once(self, priority: Priority) -> None:
        """One that is admitted at once passes nobody, and is admitted as one that has queued."""
        ticket = self.gate.admit_at_once(priority, now=self.now)
        if ticket is None:
            return
        assert self.now >= self.closed_until
        assert not any(self.queues.values())
        self.check_order(priority)
        self.admitted.append(self.now)
        self.out.append(ticket)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds
        self.take()

    @rule()
    def wait_as_told(self) -> None:
        """At the time it names, the gate lets somebody in."""
        next_wakeup = self.gate.next_wakeup(now=self.now)
        if next_wakeup is not None:
            self.now = next_wakeup
            assert self.take()

    @rule(data=st.data())
    def leave_queue(self, data: st.DataObject) -> None:
        """One that waits is cancelled."""
        waiting = [ticket for queue in self.queues.values() for ticket in queue]
        if waiting:
            ticket = data.draw(st.sampled_from(waiting))
            self.queues[ticket.priority].remove(ticket)
            self.gate.release(ticket, now=self.now)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), sent=st.booleans())
    def leave_wire(self, data: st.DataObject, *, sent: bool) -> None:
        """One that was admitted is cancelled, before or after it was sent."""
        ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.gate.release(ticket, now=self.now, sent=sent)
        self.refunded += not sent

    @precondition(lambda self: self.out)
    @rule(data=st.data(), kind=st.sampled_from(["good", "good", "bad", "429"]), wait=st.none() | st.floats(0, 5))
    def answer(self, data: st.DataObject, kind: str, wait: float | None) -> None:
        """An answer of any kind comes in."""
        ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if kind == "good":
            self.gate.succeed(ticket, now=self.now)
        elif kind == "bad":
            self.gate.fail(ticket, now=self.now, retry_after=wait, jitter=0.5)
        else:
            self.gate.limit(ticket, now=self.now, retry_after=wait, jitter=0.5)
            self.closed_until = max(self.closed_until, self.now + (wait or 0.0))

    @invariant()
    def counts_agree(self) -> None:
        """The gate counts as the model does."""
        assert self.gate.waiting == sum(map(len, self.queues.values()))
        assert self.gate.in_flight == len(self.out)

    @invariant()
    def bucket_holds(self) -> None:
        """Over any stretch of time: one second saved, one in hand, and those given back unused."""
        if self.ceiling is None:
            return
        for first, start in enumerate(self.admitted):
            count = len(self.admitted) - first
            assert count <= CEILING * (self.now - start + 1) + 1 + self.refunded + 1e-6

    def teardown(self) -> None:
        """With good answers from here on, everyone is admitted in the end."""
        for ticket in self.out:
            self.gate.succeed(ticket, now=self.now)
        self.out.clear()
        for _ in range(self.gate.waiting):
            if not self.gate.waiting:
                break
            next_wakeup = self.gate.next_wakeup(now=self.now)
            assert next_wakeup is not None
            self.now = next_wakeup
            for ticket in self.take():
                self.gate.succeed(ticket, now=self.now)
            self.out.clear()
        assert self.gate.waiting == 0


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class UnlimitedGateMachine(GateMachine):
    """The same without a ceiling: a window of submits at first, and a learned rate after a 429."""

    ceiling = None


TestUnlimitedGateMachine = UnlimitedGateMachine.TestCase
TestUnlimitedGateMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Bucket:
    """An account of `rate` requests per second that saves one second of them, or as many as `depth`."""

    def __init__(self, rate: float, *, depth: float | None = None) -> None:
        self.rate, self.depth, self.at = rate, depth or rate, 0.0
        self.level = self.depth

    def grants(self, now: float) -> bool:
        """Answer one request; False is a 429."""
        self.level = min(self.depth, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


def saturate(account: Bucket, gates: list[Gate], *, start: float, until: float) -> tuple[list[int], int]:
    """Run sessions with endless work on one account; return what each was granted, and the number of 429s."""
    granted, refused = [0] * len(gates), 0
    for gate in gates:
        while gate.waiting < 2:
            gate.enqueue(Priority.SUBMIT, now=start)
    while True:
        wakes = [gate.next_wakeup(now=start) for gate in gates]
        start, number = min((wake, number) for number, wake in enumerate(wakes) if wake is not None)
        if start >= until:
            return granted, refused
        gate = gates[number]
        for ticket in gate.admit(now=start)[:1]:
            good = account.grants(start)
            granted[number] += good
            refused += not good
            if good:
                gate.succeed(ticket, now=start)
            else:
                gate.limit(ticket, now=start, retry_after=1.0, jitter=(start * 997) % 1)
            gate.enqueue(Priority.SUBMIT, now=start)


@pytest.mark.parametrize("rate", [5.0, 20.0, 100.0])
def test_an_unknown_limit_is_learned(rate: float) -> None:
    """After ten seconds a lone session uses nine tenths of a limit nobody told it, at two 429s in a hundred or less."""
    account, gates = Bucket(rate), [Gate()]
    saturate(account, gates, start=0, until=10)
    [granted], refused = saturate(account, gates, start=10, until=130)

    assert granted >= 0.9 * rate * 120
    assert refused <= 0.02 * (granted + refused)


def test_a_halved_limit_is_followed() -> None:
    """Ten seconds after the first 429 of a lower limit the session is within a tenth of it, and uses most of it."""
    account, gates = Bucket(20), [Gate()]
    saturate(account, gates, start=0, until=60)
    account.rate = 10
    saturate(account, gates, start=60, until=72)
    [granted], refused = saturate(account, gates, start=72, until=102)

    assert granted >= 0.85 * 300
    assert granted + refused <= 1.1 * 300


def test_sessions_share_without_talking() -> None:
    """A session that comes to a limit another one has all to itself ends up with at least half as much as the other."""
    account, old, new = Bucket(8), Gate(), Gate()
    saturate(account, [old], start=0, until=60)
    saturate(account, [old, new], start=60, until=360)
    granted, refused = saturate(account, [old, new], start=360, until=660)

    assert min(granted) >= 0.5 * max(granted)
    assert sum(granted) >= 0.9 * 8 * 300
    assert refused <= 0.03 * sum(granted)


def submit(account: Bucket, gate: Gate, *, slots: int, round_trip: float, until: float) -> tuple[int, int]:
    """Submit without end through so many slots; return how many were granted, and how many refused."""
    granted, refused, now = 0, 0, 0.0
    responses: list[tuple[float, int, Ticket, bool]] = []
    for _ in range(slots):
        gate.enqueue(Priority.SUBMIT, now=now)
    while now < until:
        for ticket in gate.admit(now=now):
            good = account.grants(now + round_trip / 2)
            granted, refused = granted + good, refused + (not good)
            heapq.heappush(responses, (now + round_trip, granted + refused, ticket, good))
        wake = gate.next_wakeup(now=now)
        now = min(([] if wake is None else [wake]) + [when for when, *_ in responses[:1]])
        while responses and responses[0][0] <= now:
            _, number, ticket, good = heapq.heappop(responses)
            if good:
                gate.succeed(ticket, now=now)
            else:
                gate.limit(ticket, now=now, retry_after=1.0, jitter=(number * 0.618) % 1)
            gate.enqueue(Priority.SUBMIT, now=now)
    return granted, refused


def test_a_new_session_is_soon_at_an_unknown_limit() -> None:
    """Sixteen submits meet 25 requests a second and ten saved ones: of 25 s at least 75 % is used, 3 % is refused."""
    granted, refused = submit(Bucket(25, depth=10), Gate(), slots=16, round_trip=0.01, until=25)

    assert granted >= 0.75 * 25 * 25
    assert refused <= 0.03 * (granted + refused)

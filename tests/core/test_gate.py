import itertools
import math

import pytest

from soundpiece_async._core.gate import Gate, OwnPace, Priority, Ticket
from soundpiece_async._core.retry import MAX_RETRY_AFTER


def admit_one(gate: Gate, *, now: float, priority: Priority = Priority.SUBMIT) -> Ticket:
    ticket = gate.enqueue(priority, now=now)
    assert gate.admit(now=now) == [ticket]
    return ticket


def limit(gate: Gate, *, now: float, retry_after: float | None = 1.0, jitter: float = 0.0) -> None:
    gate.limit(admit_one(gate, now=now), now=now, retry_after=retry_after, jitter=jitter)


def fail(gate: Gate, *, now: float, jitter: float = 0.0) -> None:
    gate.fail(admit_one(gate, now=now), now=now, jitter=jitter)


def test_unlimited_until_told() -> None:
    """Before the first 429, ten thousand go at once, in the order of their turns."""
    gate = Gate()
    polls = [gate.enqueue(Priority.POLL, now=0) for _ in range(5_000)]
    renewals = [gate.enqueue(Priority.RENEWAL, now=0) for _ in range(5_000)]

    assert gate.next_wakeup(now=0) == 0
    assert gate.admit(now=0) == renewals + polls
    assert (gate.rate, gate.closed_until, gate.waiting, gate.in_flight) == (None, None, 0, 10_000)
    assert gate.next_wakeup(now=0) is None


def test_an_open_gate_admits_at_once() -> None:
    """Without a queue, as long as nobody waits, there is a permit, and no 429 has closed the gate."""
    gate = Gate(ceiling=1)
    ticket = gate.admit_at_once(Priority.SUBMIT, now=100)
    assert ticket is not None
    assert gate.in_flight == 1

    waiting = gate.enqueue(Priority.POLL, now=100)
    assert gate.admit_at_once(Priority.RENEWAL, now=100) is None
    gate.release(waiting, now=100)

    assert gate.admit_at_once(Priority.SUBMIT, now=100) is not None
    assert gate.admit_at_once(Priority.SUBMIT, now=100) is None  # without a permit
    gate.limit(ticket, now=100, retry_after=8)
    assert gate.admit_at_once(Priority.SUBMIT, now=104) is None  # closed
    fresh = Gate()
    assert all(fresh.admit_at_once(Priority.SUBMIT, now=100) for _ in range(4))
    assert fresh.admit_at_once(Priority.SUBMIT, now=100) is None  # the window of a new session is full
    assert fresh.admit_at_once(Priority.POLL, now=100) is not None


def test_a_new_session_submits_through_a_window() -> None:
    """At first four submits are in flight, one more for four responses, and sixteen more after a second; polls pass."""
    gate = Gate()
    submits = [gate.enqueue(Priority.SUBMIT, now=100) for _ in range(40)]
    poll = gate.enqueue(Priority.POLL, now=100)

    assert gate.admit(now=100) == [*submits[:3], poll, submits[3]]
    assert gate.next_wakeup(now=100) == 100.0625
    for ticket in submits[:4]:
        gate.succeed(ticket, now=100.01)
    assert gate.admit(now=100.01) == submits[4:9]
    gate.release(submits[4], now=100.01)
    assert gate.admit(now=100.01) == [submits[9]]
    assert gate.admit(now=101.01) == submits[10:26]
    gate.enqueue(Priority.POLL, now=101.01)
    assert gate.next_wakeup(now=101.01) == 101.01


def test_a_known_limit_has_no_window() -> None:
    """With a ceiling, or after a 429, permits alone decide."""
    gate = Gate(ceiling=8)
    for _ in range(40):
        gate.enqueue(Priority.SUBMIT, now=100)

    assert len(gate.admit(now=100)) == 9


@pytest.mark.parametrize(("requests", "first"), [(0, 0.5), (4, 2.0), (100, 4.0)])
def test_the_ramp_begins_where_requests_were_let_through(requests: int, first: float) -> None:
    """At the mean of the last two seconds: near a larger limit, and not at once above a small one."""
    gate = Gate()
    for _ in range(requests):
        gate.succeed(admit_one(gate, now=10), now=10)
    limit(gate, now=10)
    assert gate.rate == first


def test_requests_of_long_ago_do_not_speed_up_the_ramp() -> None:
    """After a minute of silence it begins at its lowest rate."""
    gate = Gate()
    for _ in range(100):
        gate.succeed(admit_one(gate, now=10), now=10)
    limit(gate, now=70)
    assert gate.rate == 0.5


def test_a_429_closes_for_all() -> None:
    """One 429 lets nobody in until Retry-After and its jitter have passed, and then one at a time."""
    gate = Gate()
    limit(gate, now=100, retry_after=8, jitter=0.5)
    waiting = [gate.enqueue(priority, now=100) for priority in Priority]

    assert gate.closed_until == 108.5
    assert gate.next_wakeup(now=100) == 108.5
    assert gate.admit(now=108.4) == []
    assert repr(gate) == "<Gate closed until 108.500, 0.5/s, 3 waiting, 0 in flight>"
    assert gate.admit(now=108.5) == [waiting[0]]
    assert gate.closed_until is None
    assert gate.next_wakeup(now=108.5) == 110.5
    assert repr(gate) == "<Gate open, 1.5/s, 2 waiting, 1 in flight>"


def test_a_burst_costs_one_decrease() -> None:
    """Twenty parallel 429s are one piece of news; a later one, sent after it was known, is another."""
    gate = Gate(ceiling=40)
    burst = [gate.enqueue(Priority.SUBMIT, now=0) for _ in range(20)]
    assert gate.admit(now=0) == burst
    for ticket in burst:
        gate.limit(ticket, now=0.1, retry_after=1)
    rate = gate.rate
    assert rate == 0.5
    assert gate.limited_count == 20
    assert gate.closed_until == 1.1

    limit(gate, now=2)

    assert gate.rate is not None
    assert gate.rate < rate


def test_a_pace_shows_its_rate() -> None:
    """As everything that lives through time does."""
    assert repr(OwnPace(ceiling=40)) == "<OwnPace 40/s>"


def test_the_longest_pause_counts() -> None:
    """A shorter Retry-After that comes later does not open the gate earlier."""
    gate = Gate()
    first, second = (admit_one(gate, now=0) for _ in range(2))
    gate.limit(first, now=0, retry_after=9)
    gate.limit(second, now=1, retry_after=2)

    assert gate.closed_until == 9


@pytest.mark.parametrize("wait", [None, 0.0, -1.0, math.nan])
def test_a_429_without_a_pause_doubles_ours(wait: float | None) -> None:
    """Without a usable Retry-After the pause doubles from 429 to 429, up to a minute, until something succeeds."""
    gate, now, pauses = Gate(), 0.0, []
    for _ in range(8):
        limit(gate, now=now, retry_after=wait)
        assert gate.closed_until is not None
        pauses.append(gate.closed_until - now)
        now += 100

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]

    gate.succeed(admit_one(gate, now=now), now=now)
    limit(gate, now=now + 100, retry_after=wait)
    assert gate.closed_until == now + 101


def test_an_old_success_does_not_end_the_doubling() -> None:
    """An answer to a request sent before the pause does not show that the pause was long enough."""
    gate = Gate()
    old = admit_one(gate, now=0)
    limit(gate, now=0, retry_after=None)
    gate.succeed(old, now=0.5)

    limit(gate, now=100, retry_after=None)

    assert gate.closed_until == 102


def test_an_absurd_pause_is_cut() -> None:
    """No answer closes the gate for more than an hour and a second."""
    gate = Gate()
    limit(gate, now=0, retry_after=math.inf, jitter=0.999)

    assert gate.closed_until == pytest.approx(MAX_RETRY_AFTER, abs=1)


def test_a_second_of_permits_is_saved() -> None:
    """After any rest, one second's worth of permits goes at once, and one more; then one per 1/rate seconds."""
    gate = Gate(ceiling=8)
    for _ in range(50):
        gate.enqueue(Priority.SUBMIT, now=1_000)

    assert len(gate.admit(now=1_000)) == 9
    assert gate.next_wakeup(now=1_000) == 1_000.125
    assert len(gate.admit(now=1_000.5)) == 4


def test_polls_keep_their_share() -> None:
    """While both wait every fourth goes to a poll, and a renewal passes them all."""
    gate = Gate(ceiling=20)
    for priority in (Priority.POLL, Priority.SUBMIT):
        for _ in range(8):
            gate.enqueue(priority, now=0)
    gate.enqueue(Priority.RENEWAL, now=0)

    order = "".join(ticket.priority.name[0] for ticket in gate.admit(now=0))

    assert order == "RSSSPSSSPSSPPPPPP"


def test_a_ticket_that_left_is_never_admitted() -> None:
    """A place given up in the queue is gone, however often it is given up, and those behind move up."""
    gate = Gate(ceiling=1)
    first, second, third = (gate.enqueue(Priority.SUBMIT, now=0) for _ in range(3))
    gate.release(first, now=0)
    gate.release(first, now=0)

    assert gate.waiting == 2
    assert gate.admit(now=0) == [second, third]


def test_an_unused_permit_goes_to_the_next() -> None:
    """A permit granted and given back lets the next one go at once; one that was used up does not."""
    gate = Gate(ceiling=1)
    spent = [admit_one(gate, now=0) for _ in range(2)]
    gate.enqueue(Priority.SUBMIT, now=0)
    assert gate.admit(now=0) == []

    gate.release(spent[0], now=0, sent=True)
    assert gate.admit(now=0) == []
    gate.release(spent[1], now=0)
    assert len(gate.admit(now=0)) == 1


def test_a_permit_from_before_a_pause_is_not_given_back() -> None:
    """The pause has wiped the permits: one returned in it would open the gate early."""
    gate = Gate()
    unused = admit_one(gate, now=0)
    limit(gate, now=0)
    gate.enqueue(Priority.SUBMIT, now=0)
    gate.release(unused, now=0)

    assert gate.next_wakeup(now=0) == 1


def test_an_answer_ends_a_ticket_once() -> None:
    """An answer for a ticket that was never admitted, or has ended, is a bug of the caller's, and said so."""
    gate = Gate()
    ticket = admit_one(gate, now=0)
    gate.succeed(ticket, now=0)

    with pytest.raises(ValueError, match="not in flight"):
        gate.succeed(ticket, now=0)


def test_a_dead_service_gets_one_request_at_a_time() -> None:
    """With the quota gone, one goes out at a time, ever more slowly, until one succeeds."""
    gate = Gate(quota=3)
    burst = [gate.enqueue(Priority.POLL, now=0) for _ in range(10)]
    gate.admit(now=0)
    waiting = [gate.enqueue(Priority.SUBMIT, now=0) for _ in range(4)]
    for ticket in burst[:3]:
        gate.fail(ticket, now=0)
        gate.enqueue(Priority.POLL, now=0)
    assert "one at a time" in repr(gate)

    tries = []
    for _ in range(9):
        next_wakeup = gate.next_wakeup(now=tries[-1] if tries else 0)
        assert next_wakeup is not None
        tries.append(next_wakeup)
        [probe] = gate.admit(now=next_wakeup)
        assert gate.admit(now=next_wakeup + 100) == []
        assert gate.next_wakeup(now=next_wakeup) is None
        gate.fail(probe, now=next_wakeup)
        gate.enqueue(Priority.SUBMIT, now=next_wakeup)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])

    gate.succeed(burst[3], now=100)
    assert len(gate.admit(now=100)) == gate.in_flight - 6 > 1
    assert waiting[0] not in gate.admit(now=200)


@pytest.mark.parametrize("end", ["leave", "429"])
def test_a_probe_that_ends_otherwise_makes_room(end: str) -> None:
    """The only request out may be cancelled, or meet a 429: then another goes, still alone."""
    gate = Gate(quota=1)
    fail(gate, now=0)
    probe = admit_one(gate, now=1)
    for _ in range(2):
        gate.enqueue(Priority.SUBMIT, now=1)

    if end == "leave":
        gate.release(probe, now=1, sent=True)
    else:
        gate.limit(probe, now=1, retry_after=1)

    assert len(gate.admit(now=10)) == 1


def test_429s_cost_no_quota() -> None:
    """A 429 says nothing of the service's health: any number of them leaves the quota as it was."""
    gate = Gate(quota=1)
    for n in range(5):
        limit(gate, now=100 * n)

    assert "one at a time" not in repr(gate)


def test_a_probe_waits_as_long_as_it_is_asked_to() -> None:
    """Requests that go one at a time heed ``Retry-After`` of an unusable response, too."""
    gate = Gate(quota=1)
    fail(gate, now=0)
    assert gate.half_open
    probe = admit_one(gate, now=10)
    gate.fail(probe, now=10, retry_after=60)
    gate.enqueue(Priority.SUBMIT, now=10)
    assert gate.next_wakeup(now=10) == 70
    assert gate.admit(now=69.9) == []
    assert len(gate.admit(now=70)) == 1


def test_a_probe_holds_up_nobody_once_others_have_succeeded() -> None:
    """When an older request ends the outage, those that wait go at once, though the probe is not answered yet."""
    gate = Gate(quota=1)
    first, second = admit_one(gate, now=0), admit_one(gate, now=0)
    gate.fail(first, now=0)
    assert gate.half_open
    gate.enqueue(Priority.SUBMIT, now=0)
    probe_at = gate.next_wakeup(now=0)
    assert probe_at is not None
    (probe,) = gate.admit(now=probe_at)
    waiting = gate.enqueue(Priority.SUBMIT, now=probe_at)
    assert gate.next_wakeup(now=probe_at) is None

    gate.succeed(second, now=probe_at)
    assert not gate.half_open
    assert gate.next_wakeup(now=probe_at) == probe_at
    assert gate.admit(now=probe_at) == [waiting]
    gate.succeed(probe, now=probe_at)

"""The shipped gate against an account whose limit it is not told, in virtual time.

    python benchmarks/pacing.py [--quick] [--seeds N]

Prints every scenario, two clients without a gate beside it, and a table 'figure, goal, measured, holds'. Only accounts
whose `Retry-After` is at most 2 s count: with longer pauses a single 429 costs more than any gate can save.
"""

import argparse
import itertools
import random
import statistics
import sys
from collections.abc import Callable, Iterable

import _figures
import attrs
from _account import Account, Client, FixedWindow, Gated, Sent, SharedGated, TokenBucket, Ungated, World

from soundpiece_async._core.shared_gate import AccountGate

START = 10.0  # seconds that do not count
FAIR_FROM, FAIR_UNTIL = 120.0, 420.0
SHARED_FROM, SHARED_UNTIL = 60.0, 180.0
HALVES_AT = 130.0
START_RATE, START_SAVED, START_ONE_WAY, START_SECONDS = 25.0, 10.0, 0.005, 25.0  # of a first start, without polls
RATES = (5.0, 20.0, 100.0)
SESSIONS = (1, 2, 8)
ACCOUNTS: dict[str, Callable[[float], Account]] = {
    "bucket 1 s": lambda rate: TokenBucket(rate, 1),
    "bucket 3 s": lambda rate: TokenBucket(rate, 3),
    "bucket 10 s": lambda rate: TokenBucket(rate, 10),
    "window 1 s": lambda rate: FixedWindow(rate, 1),
    "window 2 s": lambda rate: FixedWindow(rate, 2),
}


@attrs.frozen
class Scenario:
    """One account and how many sessions share it."""

    account: str
    rate: float
    sessions: int

    def __str__(self) -> str:
        return f"{self.rate:.0f}/s, {self.account}, {self.sessions} session{'s' * (self.sessions > 1)}"

    def play(
        self,
        make: Callable[[random.Random], Client],
        *,
        seed: int,
        seconds: float,
        halve: bool = False,
        stagger: float = 0.1,
    ) -> list[Sent]:
        """Run it; the sessions start `stagger` seconds after one another."""
        world = World(ACCOUNTS[self.account](self.rate), make, sessions=self.sessions, seed=seed)
        return world.run(seconds, stagger=stagger, halve_at=HALVES_AT if halve else seconds)


@attrs.frozen
class Outcome:
    """What the account saw between two moments."""

    used: float
    limited: float
    offered: float
    into_pause: int

    @classmethod
    def between(cls, start: float, end: float, log: Iterable[Sent], *, rate: float) -> "Outcome":
        """Count; all but the last are shares, of the limit or of the requests."""
        seen = [sent for sent in log if start <= sent.at < end]
        refused = sum(sent.limited for sent in seen)
        whole = rate * (end - start)
        return cls(
            used=(len(seen) - refused) / whole,
            limited=refused / max(1, len(seen)),
            offered=len(seen) / whole,
            into_pause=sum(sent.into_pause for sent in seen),
        )


@attrs.define
class Figure:
    """One row of the last table: the worst of all scenarios, and how many of them hold."""

    name: str
    goal: str
    holds: Callable[[float], bool]
    seen: list[tuple[float, str]] = attrs.field(factory=list)

    def add(self, value: float, where: object) -> None:
        """Note one run."""
        self.seen.append((value, str(where)))

    def row(self) -> str:
        """Write the row."""
        if not self.seen:
            return f"{self.name:46} {self.goal:>9} {'not run':>9}"
        kept = sum(self.holds(value) for value, _ in self.seen)
        failed = [pair for pair in self.seen if not self.holds(pair[0])]
        low = self.goal.startswith(">=")
        worst, where = (min if low else max)(failed or self.seen)
        middle = statistics.median(value for value, _ in self.seen)
        verdict = "yes" if kept == len(self.seen) else f"in {kept} of {len(self.seen)}"
        return f"{self.name:46} {self.goal:>9} {middle:9.3f} {worst:9.3f} {verdict:>12}  {where}"

    def sum_up(self) -> _figures.Figure:
        """Shorten the row to the worst."""
        kept = [self.holds(value) for value, _ in self.seen]
        worst = (min if self.goal.startswith(">=") else max)(value for value, _ in self.seen)
        name = f"{self.name}, worst" if all(kept) else f"{self.name}, worst ({sum(kept)} of {len(kept)} hold)"
        return _figures.Figure(name, self.goal, f"{worst:.3f}", all(kept))


class Report:
    """Collects the figures and prints them."""

    def __init__(self) -> None:
        self.used = Figure("share of the limit used after 10 s", ">= 0.90", lambda value: value >= 0.90)
        self.limited = Figure("share of requests answered 429 after 10 s", "<= 0.02", lambda value: value <= 0.02)
        self.into_pause = Figure("requests sent into a known pause", "= 0", lambda value: value == 0)
        self.unfair = Figure("8 sessions, R >= 20: worst distance from 1/8", "<= 0.20", lambda value: value <= 0.20)
        self.apart = Figure("the same, started 1 s after one another", "<= 0.20", lambda value: value <= 0.20)
        self.offered = Figure("limit halved: offered, 10 to 40 s after its 429", "<= 1.10", lambda value: value <= 1.10)
        self.start_used = Figure("start at 25/s, 10 saved: used of 25 s", ">= 0.75", lambda value: value >= 0.75)
        self.start_limited = Figure("start at 25/s, 10 saved: 429s", "<= 0.03", lambda value: value <= 0.03)
        self.shared = Figure("shared gate, 8: worst distance from 1/8", "<= 0.10", lambda value: value <= 0.10)
        self.shared_used = Figure("shared gate, 8, bucket: used after 60 s", ">= 0.95", lambda value: value >= 0.95)
        self.shared_limited = Figure("shared gate, 8: 429s after 60 s", "<= 0.015", lambda value: value <= 0.015)
        self.regained = Figure("limit halved: used, 10 to 40 s after its 429", ">= 0.90", lambda value: value >= 0.90)

    def steady(self, scenario: Scenario, log: list[Sent], *, seconds: float) -> str:
        """Measure a run with a constant limit, and describe it."""
        seen = Outcome.between(START, seconds, log, rate=scenario.rate)
        self.used.add(seen.used, scenario)
        self.limited.add(seen.limited, scenario)
        self.into_pause.add(seen.into_pause, scenario)
        line = f"{scenario!s:34} used {seen.used:.3f}  429s {seen.limited:.4f}"
        if scenario.sessions == max(SESSIONS) and scenario.rate >= 20 and seconds >= FAIR_UNTIL:
            distance = unfairness(log, scenario.sessions)
            self.unfair.add(distance, scenario)
            line += f"  furthest from an equal share {distance:.2f}"
        return line

    def started_apart(self, scenario: Scenario, log: list[Sent]) -> str:
        """Measure the shares of sessions that did not start together, and describe them."""
        distance = unfairness(log, scenario.sessions)
        self.apart.add(distance, scenario)
        return f"{scenario!s:34} started 1 s after one another: furthest from an equal share {distance:.2f}"

    def started(self, seed: int) -> str:
        """Measure the first seconds of a session that submits as fast as it can, and describe them."""
        account = TokenBucket(START_RATE, START_SAVED / START_RATE)
        world = World(account, Gated, sessions=1, seed=seed, one_way=START_ONE_WAY, polls=0)
        seen = Outcome.between(0.0, START_SECONDS, world.run(START_SECONDS), rate=START_RATE)
        self.start_used.add(seen.used, f"seed {seed}")
        self.start_limited.add(seen.limited, f"seed {seed}")
        return f"25/s, bucket of 10, the first 25 s: used {seen.used:.3f}  429s {seen.limited:.4f}"

    def together(self, scenario: Scenario, log: list[Sent]) -> str:
        """Measure sessions that share a gate, and describe them."""
        seen = Outcome.between(SHARED_FROM, SHARED_UNTIL, log, rate=scenario.rate)
        distance = unfairness(log, scenario.sessions, start=SHARED_FROM, end=SHARED_UNTIL)
        self.shared.add(distance, scenario)
        self.shared_limited.add(seen.limited, scenario)
        if scenario.account.startswith("bucket"):  # of a window nobody can use all without knowing where it begins
            self.shared_used.add(seen.used, scenario)
        told = f"used {seen.used:.3f}  429s {seen.limited:.4f}  furthest from an equal share {distance:.2f}"
        return f"{scenario!s:34} shared gate: {told}"

    def halved(self, scenario: Scenario, log: list[Sent]) -> str:
        """Measure a run whose limit halves, and describe it."""
        first = next((sent.at for sent in log if sent.limited and sent.at >= HALVES_AT), None)
        if first is None:
            return f"{scenario!s:34} the bucket hid the lower limit until the end"
        seen = Outcome.between(first + 10, first + 40, log, rate=scenario.rate / 2)
        self.offered.add(seen.offered, scenario)
        self.regained.add(seen.used, scenario)
        return f"{scenario!s:34} halved: used {seen.used:.3f}  429s {seen.limited:.4f}  offered {seen.offered:.3f}"

    def print(self) -> None:
        """Print the table."""
        print(f"\n{'figure':46} {'goal':>9} {'median':>9} {'worst':>9} {'holds':>12}  worst in")
        for figure in self.figures:
            print(figure.row())

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All of them."""
        alone = (self.used, self.limited, self.into_pause, self.unfair, self.apart, self.offered, self.regained)
        return *alone, self.start_used, self.start_limited, self.shared, self.shared_used, self.shared_limited


def unfairness(log: Iterable[Sent], sessions: int, *, start: float = FAIR_FROM, end: float = FAIR_UNTIL) -> float:
    """Return the largest distance of a session's share from the mean, as a part of the mean."""
    shares = [0] * sessions
    for sent in log:
        if start <= sent.at < end and not sent.limited:
            shares[sent.session] += 1
    mean = statistics.mean(shares)
    return max(abs(share / mean - 1) for share in shares)


def meet() -> Callable[[random.Random], Client]:
    """Make the sessions of one account, which meet in a store."""
    account, others = AccountGate(), list[SharedGated]()
    return lambda rng: SharedGated(rng, account, others)


def compare(scenario: Scenario, *, seconds: float) -> None:
    """Print what clients without a gate make of the same account."""
    clients: dict[str, Callable[[random.Random], Client]] = {
        "the gate": Gated,
        "no gate, each request obeys its Retry-After": Ungated,
        "no gate, fixed backoff of 2 s": lambda rng: Ungated(rng, pause=2.0),
    }
    print(f"\n{scenario}: beside it")
    for name, make in clients.items():
        log = scenario.play(make, seed=1, seconds=seconds)
        seen = Outcome.between(START, seconds, log, rate=scenario.rate)
        print(f"  {name:46} used {seen.used:.3f}  429s {seen.limited:.4f}  sent into a pause {seen.into_pause}")


def main() -> int:
    """Run the scenarios that were asked for; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _figures.add_options(parser, quick="one seed, three kinds of account")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each scenario (default 3)")
    asked = parser.parse_args()
    seeds = 1 if asked.quick else asked.seeds
    accounts = ("bucket 1 s", "bucket 10 s", "window 1 s") if asked.quick else tuple(ACCOUNTS)
    report = Report()
    for seed in range(1, seeds + 1):
        print(report.started(seed))
    for rate, account, sessions in itertools.product(RATES, accounts, SESSIONS):
        scenario = Scenario(account, rate, sessions)
        seconds = FAIR_UNTIL if sessions == max(SESSIONS) else 180.0
        for seed in range(1, seeds + 1):
            print(report.steady(scenario, scenario.play(Gated, seed=seed, seconds=seconds), seconds=seconds))
            if rate >= 20 and sessions == max(SESSIONS):
                print(report.started_apart(scenario, scenario.play(Gated, seed=seed, seconds=seconds, stagger=1.0)))
            if sessions == max(SESSIONS):
                log = scenario.play(meet(), seed=seed, seconds=SHARED_UNTIL, stagger=1.0)
                print(report.together(scenario, log))
            if rate >= 20:  # half of 5/s is no whole number of requests per window
                log = scenario.play(Gated, seed=seed, seconds=HALVES_AT + 80, halve=True)
                print(report.halved(scenario, log), flush=True)
    compare(Scenario("bucket 1 s", 20.0, 1), seconds=60.0)
    compare(Scenario("window 1 s", 20.0, 8), seconds=60.0)
    report.print()
    return _figures.write([figure.sum_up() for figure in report.figures if figure.seen], asked)


if __name__ == "__main__":
    sys.exit(main())

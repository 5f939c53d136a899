"""How late results are noticed, and at what cost: the shipped scheduler beside what people write, in virtual time.

    python benchmarks/scheduling.py --quick                 a few cells, some seconds
    python benchmarks/scheduling.py                         the whole grid, some minutes
    python benchmarks/scheduling.py -m 1000 -l 128 -r 100   the cells with these numbers
    python benchmarks/scheduling.py --quick --plot latency.png
    python benchmarks/scheduling.py --costs                 what one setting, the cost of a poll, makes of a stream

M operations are in flight, submitted at once or as a stream (Poisson arrivals, 4 M of them but 20,000 at most, counted
from the first submission to the last result); L polls may be out; R requests per second are allowed. One way takes
25 ms, which is the least latency there can be. "Permits used" is over the time in which more operations wait without a
slot than there are permits in two seconds. Stream cells are left out in which results alone need nine tenths of what R
or L allow: there everything queues.
"""

import argparse
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import _figures
import attrs
from _figures import Figure
from _policies import POLICIES, SIMPLE, Ours
from _virtual import DURATIONS, ONE_WAY, Policy, Work, World

WIDTHS = {"mean s": 8, "p95": 8, "p99": 8, "requests/op": 12, "cancels/op": 11, "permits used": 13, "us/decision": 12}
COSTS = (0.01, 0.02, 0.04, 0.05, 0.08, 0.16, 0.32)  # seconds of lateness that a poll has to save
HEAD = f"{'':20} " + " ".join(f"{name:>{width}}" for name, width in WIDTHS.items())


@attrs.frozen
class Cell:
    """One cell of the grid."""

    durations: str
    arrivals: str
    operations: int
    slots: int
    rate: float

    def __str__(self) -> str:
        rate = "unlimited" if math.isinf(self.rate) else f"{self.rate:g}/s"
        return f"{self.durations}, {self.arrivals}, M={self.operations}, L={self.slots}, R={rate}"

    @property
    def feasible(self) -> bool:
        """Whether results alone leave a tenth of the permits, and of the slots."""
        finishes = self.operations / DURATIONS[self.durations][1]
        return self.arrivals == "once" or finishes < 0.9 * min(self.rate, self.slots / (2 * ONE_WAY))

    def works(self, seed: int) -> list[Work]:
        """Return the operations, in order of submission."""
        rng = random.Random(seed)
        draw, mean = DURATIONS[self.durations]
        born, works = 0.0, []
        stream = self.arrivals == "stream"
        for name in range(max(600, min(4 * self.operations, 20_000)) if stream else self.operations):
            born += rng.expovariate(self.operations / mean) if stream else 0.0
            works.append(Work(name, born, born + draw(rng)))
        return works


@attrs.frozen
class Score:
    """How one policy did in one cell. Latencies in seconds, from finished to noticed."""

    mean: float
    p95: float
    p99: float
    requests: float
    cancels: float
    used: float
    decision: float

    def __str__(self) -> str:
        decision = f"{self.decision:12.1f}" if self.decision else f"{'':12}"
        used = f"{'-':>13}" if math.isnan(self.used) else f"{self.used:13.1%}"
        return (
            f"{self.mean:8.3f} {self.p95:8.2f} {self.p99:8.2f} {self.requests:12.2f} {self.cancels:11.3f} "
            f"{used} {decision}"
        )


def play(cell: Cell, policy: str, *, seed: int = 1, make: Callable[[World], Policy] | None = None) -> Score:
    """Play one cell with one policy; `make` it instead of the one with that name."""
    world = World(slots=cell.slots, rate=cell.rate)
    player = (make or POLICIES[policy])(world)
    works = cell.works(seed)
    world.run(player, works)
    lags = sorted(work.found - work.ready for work in works if work.found is not None)
    if len(lags) != len(works):
        raise RuntimeError(f"{policy} lost {len(works) - len(lags)} operations: {cell}")
    return Score(
        mean=sum(lags) / len(lags),
        p95=lags[int(0.95 * len(lags))],
        p99=lags[int(0.99 * len(lags))],
        requests=world.sent / len(works),
        cancels=world.cancelled / len(works),
        used=world.used / (world.used + world.wasted) if world.used else math.nan,
        decision=1e6 * player.seconds / player.decisions if isinstance(player, Ours) else 0.0,
    )


def play_all(cell: Cell) -> tuple[Cell, dict[str, Score]]:
    """Play one cell with every policy."""
    return cell, {policy: play(cell, policy) for policy in POLICIES}


def find_losses(scores: dict[str, Score]) -> Iterator[str]:
    """Return where a simple policy with no more requests than ours (and a tenth) is clearly better."""
    ours = scores["ours"]
    for policy in SIMPLE:
        theirs = scores[policy]
        if theirs.requests <= 1.1 * ours.requests:
            if ours.mean > 1.1 * theirs.mean:
                yield f"mean {ours.mean:.3f} s, {policy} {theirs.mean:.3f} s with {theirs.requests:.1f} requests"
            if ours.p99 > 1.25 * theirs.p99:
                yield f"p99 {ours.p99:.2f} s, {policy} {theirs.p99:.2f} s with {theirs.requests:.1f} requests"


@attrs.frozen
class Goal:
    """What one cell is measured against."""

    name: str
    limit: float
    value: float
    unit: str = ""
    least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value keeps to the limit."""
        return self.value >= self.limit if self.least else self.value <= self.limit

    @property
    def bound(self) -> str:
        """The limit in words."""
        return f"{'>=' if self.least else '<='} {self.limit:.4g}{self.unit}"

    @property
    def measured(self) -> str:
        """The value in words."""
        return f"{self.value:.3g}{self.unit}"

    def __str__(self) -> str:
        return f"{'reached' if self.reached else 'MISSED '}  {self.name}: {self.measured} {self.bound}"


def find_goals(cell: Cell, scores: dict[str, Score]) -> Iterator[Goal]:
    """Measure a cell against what we promise, as ratios within one run."""
    ours, fifo, short = scores["ours"], scores["FIFO long polls"], scores["short polls in turn"]
    stream = cell.arrivals == "stream"
    if cell.operations <= cell.slots and cell.operations <= 10 * cell.rate:
        yield Goal("M <= L: mean lateness over one way", 10, (ours.mean - ONE_WAY) * 1000, " ms")
        yield Goal(
            f"M <= L, {cell.durations}: requests per operation", 2 + DURATIONS[cell.durations][1] / 20, ours.requests
        )
    if cell.durations == "lognormal":
        yield Goal("lognormal: cancelled polls per operation", 0, ours.cancels)
    if stream and (cell.operations, cell.slots, cell.rate) == (1000, 128, 100):
        of_fifo, of_short = (0.27, 0.65) if cell.durations == "lognormal" else (0.08, 0.35)
        yield Goal(f"{cell.durations} stream, M=1000, L=128: mean / FIFO's", of_fifo, ours.mean / fifo.mean)
        yield Goal(f"{cell.durations} stream, M=1000, L=128: mean / short polls'", of_short, ours.mean / short.mean)
        yield Goal("streams, M=1000, L=128: requests / short polls'", 1, ours.requests / short.requests)
        yield Goal("streams, M=1000, L=128: cancelled polls per operation", 0.6, ours.cancels)
        yield Goal("streams, M=1000, L=128: permits used", 0.98, ours.used, least=True)
    if stream and (cell.operations, cell.slots, cell.rate) == (1000, 128, math.inf):
        yield Goal("streams, no limit, M=1000, L=128: mean lateness", 0.7, ours.mean, " s")
        yield Goal("streams, no limit, M=1000, L=128: requests per operation", 18, ours.requests)
    if stream and cell.durations == "lognormal" and (cell.operations, cell.slots, cell.rate) == (100, 8, 20):
        yield Goal("lognormal stream, M=100, L=8: mean / FIFO's", 0.12, ours.mean / fifo.mean)
        yield Goal("lognormal stream, M=100, L=8: mean / short polls'", 0.85, ours.mean / short.mean)
    if cell.durations == "bimodal" and cell.rate == 5:
        yield Goal("bimodal, R=5: 99th percentile / short polls'", 1, ours.p99 / short.p99)
    if cell.operations == 10_000:
        yield Goal("M=10,000: microseconds for a decision", 30, ours.decision)


def sum_up(goals: list[Goal], losses: list[str]) -> Iterator[Figure]:
    """Return one row per goal, with the worst of all cells that have it."""
    for name in dict.fromkeys(goal.name for goal in goals):
        same = [goal for goal in goals if goal.name == name]
        worst = (min if same[0].least else max)(same, key=lambda goal: goal.value)
        missed = sum(not goal.reached for goal in same)
        count = f" ({missed} of {len(same)} cells missed)" if missed else f" ({len(same)} cells)" * (len(same) > 1)
        yield Figure(f"{name}{count}", worst.bound, worst.measured, not missed)
    yield Figure("cells in which a simple policy with no more requests is better", "0", str(len(losses)), not losses)


def play_cost(cell: Cell, cost: float) -> Score:
    """Play one cell with the shipped scheduler, at another cost of a poll."""
    return play(cell, "ours", make=partial(Ours, poll_cost=cost))


def show_costs(cells: list[Cell]) -> None:
    """Print what the cost of a poll makes of each cell."""
    for cell in cells:
        print(f"\n{cell}\n{HEAD}")
        for cost in COSTS:
            print(f"{f'a poll at {1000 * cost:.0f} ms':20} {play_cost(cell, cost)}", flush=True)


def plot(results: list[tuple[Cell, dict[str, Score]]], path: Path) -> None:
    """Draw latency against requests per operation, one point per cell and policy."""
    import matplotlib.pyplot as plt  # only who wants a picture needs it

    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, durations in zip(axes, DURATIONS, strict=True):
        for policy in POLICIES:
            scores = [scores[policy] for cell, scores in results if cell.durations == durations]
            size = 36 if policy == "ours" else 14
            axis.scatter([score.requests for score in scores], [score.mean for score in scores], s=size, label=policy)
        axis.set(title=durations, xscale="log", yscale="log", xlabel="requests per operation")
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].set_ylabel("mean latency, s")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def choose(arguments: argparse.Namespace) -> list[Cell]:
    """Return the cells that were asked for."""
    if arguments.quick:
        sizes = [(100, 128, 20.0), (100, 8, 20.0), (100, 8, 5.0), (1000, 128, 100.0)]
        return [Cell(durations, "stream", *size) for durations in DURATIONS for size in sizes]
    axes = (DURATIONS, ("once", "stream"), arguments.m, arguments.l, arguments.r)
    return [cell for cell in itertools.starmap(Cell, itertools.product(*axes)) if cell.feasible]


def main() -> int:
    """Play the cells, print their tables, and say what was missed; 1 when something was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    _figures.add_options(parser, quick="a few cells, some seconds")
    parser.add_argument("-m", type=int, nargs="+", default=[100, 1000, 10_000], help="operations in flight")
    parser.add_argument("-l", type=int, nargs="+", default=[8, 32, 128], help="polls out at most")
    parser.add_argument("-r", type=float, nargs="+", default=[5, 20, 100, math.inf], help="requests per second, or inf")
    parser.add_argument("--jobs", type=int, default=1, help="processes; with more than one, us/decision is less exact")
    parser.add_argument("--costs", action="store_true", help="play only the cost of a poll, without a rate limit")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw latency against requests per operation")
    arguments = parser.parse_args()
    if arguments.costs:
        sizes = ((240, 12), (1000, 128))
        show_costs([Cell(durations, "stream", *size, math.inf) for size in sizes for durations in DURATIONS])
        return _figures.write([], arguments)
    results, goals, losses = [], [], []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for cell, scores in pool.map(play_all, choose(arguments)):
            results.append((cell, scores))
            print(f"\n{cell}\n{HEAD}")
            for policy, score in scores.items():
                print(f"{policy:20} {score}")
            for goal in find_goals(cell, scores):
                print(f"  {goal}")
                goals.append(goal)
            losses += [f"{cell}: {loss}" for loss in find_losses(scores)]
    print(f"\n{len(results)} cells, {len(losses)} times beaten", *losses, sep="\n  ")
    if arguments.plot:
        plot(results, arguments.plot)
    return _figures.report(sum_up(goals, losses), arguments)


if __name__ == "__main__":
    sys.exit(main())

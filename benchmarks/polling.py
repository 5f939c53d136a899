"""The poll scheduler on a real loop beside its simulation, and what ten thousand held polls cost.

    python benchmarks/polling.py                    every figure, about seven minutes
    python benchmarks/polling.py --quick            one short cell (a rough figure) and 1,000 polls, under 40 s
    python benchmarks/polling.py --only cells --seconds 30

A cell: M operations are submitted at once, then a Poisson stream keeps about M in flight for some real seconds; L polls
may be out, R requests per second are allowed (see `_real.py`). What counts is every operation that became ready in that
time; lateness is from ready on the server to noticed in the client. The very same operations, by the times that server
and client recorded, then go through `_virtual.py` with the same hold, the measured round trip, L and R.

A service at another speed keeps long polls shorter than announced. The scheduler learns that, from a handful of holds
that happen to end empty, so both worlds spend a while with whatever they believe so far, and differ by that: hence real
time, but for the cell in which holds are all there is, and for `--quick`.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator

import _figures
import _virtual
import attrs
from _figures import Figure
from _holding import CLIENTS, OURS, WAITING, hold, weigh_waiting
from _policies import Ours
from _real import DELAY, Cell, Diary, play
from _virtual import DURATIONS, Work, World

CELLS = [
    *(Cell(durations, *size) for size in ((200, 32, 40), (400, 64, 100)) for durations in DURATIONS),
    Cell("lognormal", 40, 64, 40, speed=4),
]
QUICK = [Cell("lognormal", 300, 64, 200, speed=4)]


@attrs.frozen
class Score:
    """How late results were noticed, in seconds; polls per operation noticed; polls sent in the last two thirds."""

    lags: tuple[float, ...]
    requests: float
    polls: int

    @property
    def mean(self) -> float:
        """The mean lateness."""
        return statistics.fmean(self.lags)

    def at(self, share: float) -> float:
        """The lateness that this share did not exceed."""
        return sorted(self.lags)[int(share * len(self.lags))]

    def __str__(self) -> str:
        return f"{self.mean:7.3f} {self.at(0.5):7.3f} {self.at(0.95):7.2f} {self.at(0.99):7.2f} {self.requests:9.2f}"


def score_real(diary: Diary, *, seconds: float) -> Score:
    """Score what happened."""
    counted = diary.ready_before(seconds)
    lags = tuple(diary.found[name] - diary.ready[name] for name in counted)
    return Score(lags, diary.polls[1] / len(counted), diary.polls[1] - diary.polls[0])


def score_virtual(cell: Cell, diary: Diary, *, seconds: float) -> Score:
    """Play the same operations in virtual time.

    There half of a round trip is on either way, here the delay is all on the way there. That is the same as half of it
    on either way to a server whose clock is set back by the other half.
    """
    _virtual.HOLD, _virtual.ONE_WAY = cell.hold, statistics.fmean(diary.trips) / 2
    world, back = World(slots=cell.slots, rate=cell.rate), DELAY / 2
    names = sorted(diary.watched, key=diary.watched.__getitem__)
    works = [
        Work(number, diary.watched[name] - diary.began, diary.ready[name] - diary.began - back)
        for number, name in enumerate(names)
    ]
    sent: list[int] = []
    for moment in (seconds / 3, seconds):
        world.at(moment, lambda: sent.append(world.sent))
    world.run(Ours(world), works)
    counted = [work for work in works if work.ready + back < seconds]
    lags = tuple((work.found or math.inf) - (work.ready + back) for work in counted)
    return Score(lags, sent[1] / len(counted), sent[1] - sent[0])


def compare(cell: Cell, *, seconds: float, seed: int) -> Iterator[Figure]:
    """Play one cell in both worlds, print them, and give the figures."""
    diary = play(cell, seconds=seconds, seed=seed)
    real, virtual = score_real(diary, seconds=seconds), score_virtual(cell, diary, seconds=seconds)
    trip, late = statistics.fmean(diary.trips), sorted(diary.late)[int(0.99 * len(diary.late))]
    noise = f"round trip {trip * 1000:.1f} ms, the loop late by {late * 1000:.1f} ms (p99)"
    print(f"\n{cell}: {len(real.lags)} operations in {seconds:.0f} s, {noise}")
    print(f"{'':10} {'mean s':>7} {'median':>7} {'p95':>7} {'p99':>7} {'polls/op':>9}")
    print(f"{'real':10} {real}\n{'simulated':10} {virtual}", flush=True)
    if cell.operations <= cell.slots:
        over = real.mean - (trip - DELAY) / 2
        yield Figure(f"{cell}: mean over one way", "<= 10 ms", f"{over * 1000:.1f} ms", over <= 0.01)
        return
    for name, ratio in (("mean", real.mean / virtual.mean), ("p95", real.at(0.95) / virtual.at(0.95))):
        yield Figure(f"{cell}: {name}, real / simulated", "1 +- 0.1", f"{ratio:.3f}", abs(ratio - 1) <= 0.1)
    used = real.polls / (cell.rate * seconds * 2 / 3)
    yield Figure(f"{cell}: permits used, after a third", ">= 98 %", f"{used:.1%}", used >= 0.98)


def weigh(count: int, *, idle: float) -> Iterator[Figure]:
    """Weigh operations that wait and such that are held, and give the figures."""
    each, task = weigh_waiting(count)
    print(f"\n{count} waiting: {each:.2f} KiB each in scheduler and poller, {task:.2f} for the task that waits")
    yield Figure(f"{count} waiting: KiB each", "<= 2", f"{each:.2f}", each <= 2)
    heads = ("KiB each", "us to open", "% of a core", "us to end", "ended to known", "p99", "max ms")
    print("\n{:20} {:>9} {:>11} {:>12} {:>10} {:>15} {:>6} {:>7}".format(f"{count} held", *heads))
    rows = {}
    for client in CLIENTS:
        rows[client] = hold(client, count, idle=idle)
        print(f"{client:20} {rows[client]}", flush=True)
    ours = rows[OURS]
    adds = ours.kib - rows[WAITING].kib
    yield Figure(f"{count} held: KiB each, with the task that waits", "<= 16", f"{ours.kib:.1f}", ours.kib <= 16)
    yield Figure(f"{count} held: KiB each, what holding adds to waiting", "<= 15", f"{adds:.1f}", adds <= 15)
    yield Figure(f"{count} held: share of a core", "< 1.5 %", f"{ours.core:.3%}", ours.core < 0.015)
    lag = ours.lag(0.99) * 1000
    yield Figure(f"{count} held: ended to known, p99", "<= 20 ms", f"{lag:.1f} ms", lag <= 20)


def main() -> int:
    """Run the chosen cells, and print the table; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="one short cell and 1,000 polls")
    parser.add_argument("--only", choices=["cells", "held"])
    parser.add_argument("--seconds", type=float, default=60.0, help="real seconds of a cell")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cells, seconds, count, idle = CELLS, options.seconds, 10_000, 12.0
    if options.quick:
        cells, seconds, count, idle = QUICK, 12.0, 1000, 2.0
    figures: list[Figure] = []
    if options.only != "held":
        for number, cell in enumerate(cells):
            figures += compare(cell, seconds=seconds, seed=options.seed + number)
    if options.only != "cells":
        figures += weigh(count, idle=idle)
    return _figures.report(figures, options)


if __name__ == "__main__":
    sys.exit(main())

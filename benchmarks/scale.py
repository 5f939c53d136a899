"""What work costs as it grows: 100 to 100,000 operations through one session by `run_many`.

    python benchmarks/scale.py            all four, some ten minutes
    python benchmarks/scale.py --quick    up to 10,000, under a minute

Each count runs in a fresh process, against the small server of `_fakes.py` in another, over loopback. Pieces take 1 to
4 s; at most 1,000 are in flight (the default) and each has a poll slot, so that none is asked for twice: how many polls
there are when slots are scarce depends on the account's rate, not on the library (`polling.py`). CPU is user and system
time of the client's process from the first operation to the last result, without its start and one warm-up operation.
Memory is what the process grew by until then, sampled twice a second; lag is how late a ticker of 5 ms wakes on the
session's own event loop.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import _figures
import attrs
from _fakes import OURS, SPAWN, Service, serve, weigh_process
from _figures import Figure

from soundpiece_async import Failed, Limits, NewFx, Session, Settings

IN_FLIGHT = 1000
SHORTEST, LONGEST = 1.0, 4.0
COUNTS = (100, 1000, 10_000, 100_000)
TICK, SAMPLE = 0.005, 0.5
LAG = 10.0  # ms
HEADS = ("operations", "seconds", "CPU ms", "requests", "grown MiB", "KiB each", "lag median", "p99", "max", "p99 own")
HEAD = "{:>9} {:>9} {:>8} {:>10} {:>11} {:>11} {:>12} {:>9} {:>9} {:>9}"


@attrs.frozen
class Seen:
    """One run: CPU ms and requests per operation, MiB grown at most, KiB per operation in flight, lag in ms.

    Of the lag, `own` is what this process worked meanwhile; the rest is the machine's.
    """

    count: int
    seconds: float
    cpu: float
    requests: float
    grown: float
    kib: float
    median: float
    p99: float
    worst: float
    own: float

    def __str__(self) -> str:
        forms = ("{}", "{:.1f}", "{:.3f}", "{:.2f}", "{:.1f}", "{:.1f}", "{:.2f}", "{:.2f}", "{:.1f}", "{:.2f}")
        cells = (form.format(value) for form, value in zip(forms, attrs.astuple(self), strict=True))
        return HEAD.format(*cells)


def make_requests(count: int) -> Iterator[NewFx]:
    """Make requests as they are asked for."""
    for number in range(count):
        yield NewFx(f"door {number}", duration=2.5)


async def tick(lags: list[float], own: list[float]) -> None:
    """Note how late the loop wakes, and how much of that this process worked: the rest is the machine's."""
    while True:
        due, worked = time.perf_counter() + TICK, time.process_time()
        await asyncio.sleep(TICK)
        lags.append(time.perf_counter() - due)
        own.append(min(lags[-1], time.process_time() - worked))


async def weigh(weights: list[float]) -> None:
    """Note what the process holds."""
    while True:
        weights.append(weigh_process())
        await asyncio.sleep(SAMPLE)


async def consume(session: Session, count: int) -> None:
    """Consume every result, and keep none."""
    async with session.run_many(make_requests(count)) as results:
        async for result in results:
            if isinstance(result, Failed):
                raise result.error


def run(count: int) -> Seen:
    """Run so many operations in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(_run, count).result()


def _run(count: int) -> Seen:
    with serve(OURS, shortest=SHORTEST, longest=LONGEST) as service:
        return asyncio.run(_measure(service, count))


async def _measure(service: Service, count: int) -> Seen:
    limits = Limits(polls=IN_FLIGHT, in_flight=IN_FLIGHT)
    lags: list[float] = []
    own: list[float] = []
    weights: list[float] = []
    async with Session(Settings(api_key="spk_benchmark", base_url=service.url, limits=limits)) as session:
        await consume(session, 1)
        service.begin()
        before, began, since = weigh_process(), time.process_time(), time.perf_counter()
        watchers = [asyncio.create_task(tick(lags, own)), asyncio.create_task(weigh(weights))]
        await consume(session, count)
        cpu, seconds = time.process_time() - began, time.perf_counter() - since
        for watcher in watchers:
            watcher.cancel()
    grown = max(weights) - before
    return Seen(
        count=count,
        seconds=seconds,
        cpu=cpu / count * 1000,
        requests=service.look()[0].requests / count,
        grown=grown / 1024,
        kib=grown / min(count, IN_FLIGHT),
        median=statistics.median(lags) * 1000,
        p99=find_share(lags, 0.99) * 1000,
        worst=max(lags) * 1000,
        own=find_share(own, 0.99) * 1000,
    )


def find_share(values: list[float], share: float) -> float:
    """Return what this share of them do not exceed."""
    return sorted(values)[int(share * len(values))]


def measure_goals(runs: dict[int, Seen]) -> Iterator[Figure]:
    """Compare with what is promised; with `--quick` the largest run is a smaller one."""
    largest, base = runs[max(runs)], runs[IN_FLIGHT]
    yield Figure.at_most(f"CPU per operation at {largest.count:,}, beside 1,000", 1.1, largest.cpu / base.cpu)
    if (previous := largest.count // 10) > IN_FLIGHT:
        ratio = largest.grown / runs[previous].grown
        yield Figure.at_most(f"memory at {largest.count:,}, beside {previous:,}", 1.1, ratio)
    late = max(runs.values(), key=lambda seen: seen.p99)
    yield Figure(f"loop lag p99, worst (at {late.count:,})", "< 10 ms", f"{late.p99:.1f} ms", late.p99 < LAG)
    own = max(seen.own for seen in runs.values())
    yield Figure("the same, what the process itself worked meanwhile", "< 10 ms", f"{own:.1f} ms", own < LAG)


def main() -> int:
    """Run the chosen sizes, and print the table; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="up to 10,000 operations")
    options = parser.parse_args()
    print(HEAD.format(*HEADS))
    runs = {}
    for count in COUNTS[:-1] if options.quick else COUNTS:
        runs[count] = run(count)
        print(runs[count], flush=True)
    return _figures.report(measure_goals(runs), options)


if __name__ == "__main__":
    sys.exit(main())

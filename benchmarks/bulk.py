"""What a recorded bulk run costs, stage by stage, and that its memory does not grow with the number of its lines.

    python benchmarks/bulk.py             10,000 operations, 100,000 lines planned: some ten minutes
    python benchmarks/bulk.py --quick     500 operations, 10,000 lines: under a minute on an idle machine

The simulator is a process of its own; so is every client, and only the client is measured. Pieces are half-second
effects, 1,000 in flight, from a service that makes each within milliseconds: files could hardly be smaller, nor polls
fewer, so the journal's share is the largest it can be. How the CPU is split: `_sampling.py`. The journal's share is
what is spent in its files and in its thread, and of the cost of handing over to threads as much as it has of all
hand-overs. A second measure knows of no stages: the same operations with and without a journal, in turns, by processes.

Lines are planned by a session whose every submit is refused as if there were no network: so each line is read, looked
up, recorded, and given up, and stays in the journal as planned. Memory is the process's peak (VmHWM).
"""

import argparse
import asyncio
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import _figures
import attrs
from _figures import Figure
from _sampling import LOOP, REST, SOCKETS, STAGES, THREADS, Sampling

from soundpiece_async import Failed, Journal, NewFx, Session, Settings, TransportError
from soundpiece_async.cli.report import write_report
from soundpiece_async.simulator import Simulator

T = TypeVar("T")

SPAWN = multiprocessing.get_context("spawn")
SPEED = 1000.0
MOST = 0.15  # of the CPU, for the journal
FLAT = 25.0  # MB: what the allocator keeps of a busy moment, which comes by chance, and 0.1 KB for each line


@attrs.frozen(kw_only=True)
class Run:
    """The cost of a run: seconds of the wall, and of CPU, also by stage, and jobs for threads by stage."""

    operations: int
    wall: float
    cpu: float
    commits: int
    used: dict[str, float]
    jobs: dict[str, int]

    @property
    def by_stage(self) -> dict[str, float]:
        """CPU by stage: its share of the loop's thread, its jobs in others, and its part of the hand-overs to them."""
        each = self.used[THREADS] / sum(self.jobs.values())
        stages = {
            stage: self.used.get(stage, 0.0) + self.used.get(f"{stage}, thread", 0.0) + each * self.jobs.get(stage, 0)
            for stage in (*STAGES, SOCKETS, REST)
        }
        return {**stages, LOOP: self.cpu - sum(stages.values())}


@contextmanager
def serve() -> Iterator[tuple[str, str]]:
    """Run the simulator in a process of its own, and give its address and key."""
    here, there = SPAWN.Pipe()
    service = SPAWN.Process(target=_be_service, args=(there,))
    service.start()
    try:
        yield here.recv()
    finally:
        here.send("close")
        service.join()


def _be_service(pipe: Connection) -> None:
    async def live() -> None:
        async with Simulator(speed=SPEED, seed=1) as service:
            pipe.send((service.url, service.api_key))
            await asyncio.to_thread(pipe.recv)

    asyncio.run(live())


def alone(call: Callable[..., T], *args: Any, **options: bool) -> T:
    """Call in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as process:
        return process.submit(call, *args, **options).result()


def run(address: tuple[str, str], operations: int, *, recorded: bool = True, sampled: bool = False) -> Run:
    """Run operations from nothing to files, with a journal or without, and with a look at the stages or without."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bulk-") as folder:
        return asyncio.run(_run(address, Path(folder), operations, recorded=recorded, sampled=sampled))


async def _run(address: tuple[str, str], folder: Path, operations: int, *, recorded: bool, sampled: bool) -> Run:
    url, key = address
    requests = (NewFx(f"door {number}", duration=0.5) for number in range(operations))
    async with Session(Settings(api_key=key, base_url=url)) as session, Journal.open(folder) as journal:
        wall, cpu = time.perf_counter(), time.process_time()
        with Sampling() if sampled else nullcontext() as sampling:
            async with session.run_many(requests, save_to=folder, journal=journal if recorded else None) as results:
                async for result in results:
                    if isinstance(result, Failed):
                        raise result.error
        return Run(
            operations=operations,
            wall=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            commits=journal.store.commits,
            used=dict(sampling.used) if sampling else {},
            jobs=dict(sampling.jobs) if sampling else {},
        )


def plan(marks: list[int]) -> tuple[list[float], float, float]:
    """Plan lines; gives the peak memory in MB at each mark, and after a report of all; and CPU seconds per line."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bulk-") as folder:
        return asyncio.run(_plan(Path(folder), marks))


async def _plan(folder: Path, marks: list[int]) -> tuple[list[float], float, float]:
    async def refuse(*_: object, **__: object) -> None:
        raise TransportError("this benchmark sends nothing")

    peaks = []
    requests = (NewFx(f"door {number}", duration=0.5) for number in range(marks[-1]))
    settings = Settings(api_key="spk_none", base_url="http://127.0.0.1:9")
    async with Session(settings) as session, Journal.open(folder) as journal:
        vars(session._engine)["submit"] = refuse  # noqa: SLF001 - what users cannot reach
        cpu, given = time.process_time(), 0
        async with session.run_many(requests, save_to=folder, journal=journal) as results:
            async for _ in results:
                given += 1
                if given in marks:
                    peaks.append(peak_memory())
        cpu = time.process_time() - cpu
        if await journal.count() != {"planned": marks[-1]}:
            raise SystemExit("not every line was planned")
        await write_report(journal)
    return peaks, peak_memory(), cpu / marks[-1]


def peak_memory() -> float:
    """Return the peak memory of this program, in MB; what rusage says includes the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("this needs /proc, as Linux has it")
    return int(found[1]) / 1024


def split(address: tuple[str, str], operations: int) -> Iterator[Figure]:
    """Run operations under observation, print where the CPU goes, and yield the figures."""
    seen = alone(run, address, operations, sampled=True)
    print(f"\n{operations} operations in {seen.wall:.0f} s, {seen.cpu:.1f} s of CPU\n")
    print(f"{'stage':20} {'us/operation':>9} {'share':>7} {'of it in threads':>17} {'jobs/operation':>11}")
    for stage, used in sorted(seen.by_stage.items(), key=lambda item: -item[1]):
        inside, jobs = seen.used.get(f"{stage}, thread", 0.0), seen.jobs.get(stage, 0)
        print(
            f"{stage:20} {used / operations * 1e6:9.0f} {used / seen.cpu:7.1%} {inside / operations * 1e6:17.0f} "
            f"{jobs / operations:11.2f}",
            flush=True,
        )
    share = seen.by_stage["journal"] / seen.cpu
    yield tell(
        f"{operations} operations: a second, with the service on the same machine", f"{operations / seen.wall:.0f}"
    )
    yield tell("CPU per operation", f"{seen.cpu / operations * 1e6:.0f} us")
    for stage in ("submit", "poll", "download", "journal"):
        yield tell(f"CPU per operation: {stage}", f"{seen.by_stage[stage] / operations * 1e6:.0f} us")
    yield tell("transactions per operation", f"{seen.commits / operations:.2f}")
    yield keep_share("the journal's share, by stages", share)


def tell(name: str, measured: str) -> Figure:
    """Make a figure nothing was promised of."""
    return Figure(name, "-", measured, None)


def keep_share(name: str, share: float) -> Figure:
    """Make the figure of the journal's share of the CPU."""
    return Figure(name, "<= 15 %", f"{share:.1%}", share <= MOST)


def compare(address: tuple[str, str], operations: int, *, rounds: int) -> Iterator[Figure]:
    """Run the same with and without a journal, in turns, and give what the journal takes."""
    shares = []
    for _ in range(rounds):
        bare, recorded = (alone(run, address, operations, recorded=recorded).cpu for recorded in (False, True))
        shares.append(1 - bare / recorded)
        print(f"{operations} operations: {bare:.2f} s of CPU without a journal, {recorded:.2f} s with one", flush=True)
    share = statistics.median(shares)
    yield keep_share(f"the journal's share, {rounds} pairs of runs of {operations}", share)


def weigh(marks: list[int]) -> Iterator[Figure]:
    """Plan lines, and give the memory."""
    peaks, reported, cpu = alone(plan, marks)
    print(f"\n{marks[-1]} lines planned, {cpu * 1e6:.0f} us of CPU each")
    yield tell(f"{marks[0]} lines planned: MB at most", f"{peaks[0]:.0f}")
    for lines, peak in zip(marks[1:], peaks[1:], strict=True):
        yield Figure.at_most(f"{lines} lines planned: MB more", FLAT, peak - peaks[0], form="{:.0f}")
    yield Figure.at_most(f"{marks[-1]} lines and their report: MB at most", 250, reported, form="{:.0f}")


def main() -> int:
    """Measure, and print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="500 operations, 10,000 lines")
    parser.add_argument("--only", choices=["split", "pairs", "memory"])
    parser.add_argument("--operations", type=int)
    options = parser.parse_args()
    operations, pair, rounds, marks = 10_000, 1000, 3, [1000, 10_000, 100_000]
    if options.quick:
        operations, pair, rounds, marks = 500, 250, 1, [1000, 10_000]
    operations = options.operations or operations
    figures: list[Figure] = []
    if options.only != "memory":
        with serve() as address:
            if options.only != "pairs":
                figures += split(address, operations)
            if options.only != "split":
                figures += compare(address, pair, rounds=rounds)
    if options.only in (None, "memory"):
        figures += weigh(marks)
    return _figures.report(figures, options)


if __name__ == "__main__":
    sys.exit(main())

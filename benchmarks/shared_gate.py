"""Eight processes of one account, without a shared gate and with one, against a limit they are not told.

Each has a real session, the service is the simulator, and the gate is in a real Redis or Postgres.

    python benchmarks/shared_gate.py [--quick] [--gates none redis postgres] [--rates 5 20 100] [--seconds 30]
                                      [--outage]

The processes start a second apart. What is counted begins when they have settled; with 5 requests a second, later.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _figures
import attrs

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers.database_servers import Server, serve_postgres, serve_redis

from soundpiece_async import Limits, NewFx, RetryPolicy, Session, Settings
from soundpiece_async._core.parsing import parse_operation
from soundpiece_async.simulator import Simulator

PROCESSES = 8
WAITING = 20  # requests that each process always has to send
BUSY = 0.5  # seconds without a turn of the service's event loop: worth measuring again
TOLD = 300  # webhooks
OUTAGE, BACK = 15.0, 5.0  # seconds
SETTLED = {5.0: 60.0, 20.0: 30.0, 100.0: 30.0}  # seconds after the last start


@attrs.frozen
class Outcome:
    """What eight processes made of one account."""

    used: float
    limited: float
    least: float
    most: float
    jain: float
    asked: float | None  # questions to Redis per request
    stalled: float  # seconds for which the service stood still at most: on a busy machine that makes 429s of its own

    def __str__(self) -> str:
        asked = "" if self.asked is None else f"  questions per request {self.asked:.2f}"
        share = f"share x {PROCESSES} {self.least:.2f} to {self.most:.2f}  Jain {self.jain:.3f}"
        stalled = f"  the service stood still for {self.stalled:.1f} s" if self.stalled > BUSY else ""
        return f"used {self.used:.3f}  429s {self.limited:.4f}  {share}{asked}{stalled}"


async def work(url: str, key: str, shared: str | None) -> None:
    """Be one process: send without end, and print twice a second what was sent and what was refused until then."""
    settings = Settings(
        api_key=key,
        base_url=url,
        shared=shared,
        limits=Limits(submits=WAITING),
        retries=RetryPolicy(submit_max_elapsed=3_600),
    )
    async with Session(settings) as session, asyncio.TaskGroup() as group:

        async def send() -> None:
            while True:
                await session.submit(NewFx("door", duration=0.5))

        for _ in range(WAITING):
            group.create_task(send())
        while True:
            await asyncio.sleep(0.5)
            now = session.statistics()
            print(json.dumps([time.time(), now.requests, now.rate_limited]), flush=True)


async def measure(
    rate: float, shared: str | None, *, settle: float, seconds: float, outage: Server | None = None
) -> list[Outcome]:
    """Count what the processes do between two moments; a busy machine starts them slowly.

    With an `outage` the store is killed for so long, and what is counted after it begins `BACK` seconds later.
    """
    async with Simulator(requests_per_second=rate, durations=lambda _: 1e9) as sim, asyncio.TaskGroup() as group:
        words = [sys.executable, __file__, "--work", sim.url, sim.api_key, shared or ""]
        workers, samples = [], []
        stalls: list[float] = []
        try:
            for _ in range(PROCESSES):
                workers.append(await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE))
                samples.append(list[list[float]]())
                group.create_task(read(workers[-1], samples[-1]))
                await asyncio.sleep(1)
            while not all(samples):  # noqa: ASYNC110 - looked at ten times a second, for some seconds
                await asyncio.sleep(0.1)
            start = time.time() + settle
            watching = group.create_task(watch(stalls))
            windows = [(start, start + seconds)]
            calls = [await ask(shared, at=start)]
            if outage is not None:
                outage.kill()
                await asyncio.sleep(start + seconds - time.time())
                outage.start()
                windows.append((start + seconds + BACK, start + 2 * seconds + BACK))
            calls.append(await ask(shared, at=windows[-1][1]))
            watching.cancel()
            await asyncio.sleep(1)
        finally:
            for worker in workers:
                worker.kill()
    asked = None if None in calls or outage else calls[1] - calls[0]
    return [count(samples, window, rate=rate, asked=asked, stalled=max(stalls, default=0.0)) for window in windows]


def count(
    samples: list[list[list[float]]], window: tuple[float, float], *, rate: float, asked: float | None, stalled: float
) -> Outcome:
    """Count what the processes did between two moments."""
    counted = [between(lines, *window) for lines in samples]
    sent, refused = (sum(one[part] for one in counted) for part in (0, 1))
    answered = [requests - limited for requests, limited in counted]
    mean = statistics.mean(answered)
    return Outcome(
        used=sum(answered) / (rate * (window[1] - window[0])),
        limited=refused / max(1, sent),
        least=min(answered) / mean,
        most=max(answered) / mean,
        jain=sum(answered) ** 2 / (PROCESSES * sum(one**2 for one in answered)),
        asked=None if asked is None else asked / max(1, sent),
        stalled=stalled,
    )


async def watch(stalls: list[float]) -> None:
    """Note how long this event loop stands still."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.02)
        stalls.append(time.monotonic() - before - 0.02)


async def tell(shared: str) -> list[float]:
    """Measure the seconds from a webhook at one session until `wait` returns at another one, in the same process."""
    late: list[float] = []
    async with Simulator(durations=lambda _: 1e9) as sim:
        settings = Settings(api_key=sim.api_key, base_url=sim.url, shared=shared)
        async with Session(settings) as first, Session(settings) as second:
            for _ in range(TOLD):
                request = NewFx("door", duration=0.5, callback_url="https://studio.example/hook")
                operation = await first.submit(request)
                waiting = asyncio.create_task(second.wait(operation))
                await asyncio.sleep(0.02)
                told = {**operation.raw, "status": "ready", "output": {"url": "https://cdn.example/a.flac"}}
                ready = parse_operation(told, operation.handle, request=request).operation
                started = time.monotonic()
                first.deliver(ready)
                await waiting
                late.append(time.monotonic() - started)
    return sorted(late)


async def read(worker: asyncio.subprocess.Process, lines: list[list[float]]) -> None:
    """Read what a process prints, until it ends; its last line may be cut."""
    stream: Any = worker.stdout
    while (line := await stream.readline()).endswith(b"]\n"):
        lines.append(json.loads(line))
    await worker.wait()


async def ask(shared: str | None, *, at: float) -> Any:
    """Wait for a moment, then count what Redis was asked until then; None: this is not Redis."""
    await asyncio.sleep(max(0.0, at - time.time()))
    if shared is None or not shared.startswith("redis"):
        return None
    from redis.asyncio import Redis  # an extra

    client: Any = Redis.from_url(shared)
    told = await client.info("commandstats")
    await client.aclose()
    return sum(told.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "hmget"))


def between(lines: list[list[float]], start: float, end: float) -> tuple[float, float]:
    """Count requests and refusals between two moments, as if they were spread evenly between two lines."""
    first, last = ([interpolate(lines, at, part) for part in (1, 2)] for at in (start, end))
    return last[0] - first[0], last[1] - first[1]


def interpolate(lines: list[list[float]], at: float, part: int) -> float:
    """Return a count at a moment."""
    before = max((line for line in lines if line[0] <= at), default=lines[0])
    after = min((line for line in lines if line[0] > at), default=lines[-1])
    share = 0.0 if after[0] == before[0] else (at - before[0]) / (after[0] - before[0])
    return before[part] + share * (after[part] - before[part])


@contextmanager
def serve(gate: str) -> Iterator[Server | None]:
    """Run the store of a gate."""
    if gate == "none":
        yield None
    elif gate == "redis":
        with serve_redis() as server:
            yield server
    else:
        with tempfile.TemporaryDirectory() as cache, serve_postgres(Path(cache)) as server:
            yield server


def judge(gate: str, rate: float, outcome: Outcome) -> Iterator[_figures.Figure]:
    """Compare with the goals; without a gate there are no goals."""
    least = 0.95 if rate >= 20 else 0.88
    even = outcome.least >= 0.9 and outcome.most <= 1.1
    rows = (
        ("of the limit used", f">= {least}", f"{outcome.used:.3f}", outcome.used >= least),
        ("429s", "<= 0.015", f"{outcome.limited:.4f}", outcome.limited <= 0.015),
        (f"share x {PROCESSES}", "+-10 %", f"{outcome.least:.2f}-{outcome.most:.2f}", even),
        ("Jain", ">= 0.99", f"{outcome.jain:.3f}", outcome.jain >= 0.99),
    )
    for name, goal, told, holds in rows:
        shared = gate != "none"
        yield _figures.Figure(f"{gate}, {rate:.0f}/s: {name}", goal if shared else "-", told, holds if shared else None)
    if outcome.asked is not None and rate >= 20:
        yield _figures.Figure.at_most(f"{gate}, {rate:.0f}/s: questions to the store per request", 1.4, outcome.asked)


def lose(gate: str, server: Server, *, rate: float) -> Iterator[_figures.Figure]:
    """Measure an outage of the store, and what comes after it."""
    outcomes = asyncio.run(measure(rate, server.url, settle=SETTLED[20.0], seconds=OUTAGE, outage=server))
    for name, least, one in zip(("away", f"{BACK:.0f} s after its return"), (0.75, 0.95), outcomes, strict=True):
        print(f"{gate:9} {rate:4.0f}/s  {name}: {one}", flush=True)
        where = f"{gate}, {rate:.0f}/s, {name}"
        yield _figures.Figure(f"{where}: of the limit used", f">= {least}", f"{one.used:.3f}", one.used >= least)
        yield _figures.Figure.at_most(f"{where}: 429s", 0.005, one.limited)


def main() -> int:
    """Run the chosen parts; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _figures.add_options(parser, quick="20 requests a second only, 10 s of it")
    parser.add_argument("--gates", nargs="+", default=["none", "redis", "postgres"], help="where the gate is")
    parser.add_argument("--rates", nargs="+", type=float, default=[5.0, 20.0, 100.0], help="limits, per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="what is counted (default 30)")
    parser.add_argument(
        "--outage", action="store_true", help="also kill each store for 15 s, at 20 requests a second and more"
    )
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        url, key, shared = asked.work
        asyncio.run(work(url, key, shared or None))
    figures: list[_figures.Figure] = []
    told: set[str] = set()
    for rate in [20.0] if asked.quick else asked.rates:
        for gate in asked.gates:
            with serve(gate) as server:
                shared = None if server is None else server.url
                settle, seconds = (20.0, 10.0) if asked.quick else (SETTLED.get(rate, 30.0), asked.seconds)
                (outcome,) = asyncio.run(measure(rate, shared, settle=settle, seconds=seconds))
                late = [] if shared is None or gate in told else asyncio.run(tell(shared))
                if server and asked.outage and rate >= 20:
                    figures += lose(gate, server, rate=rate)
            print(f"{gate:9} {rate:4.0f}/s  {outcome}", flush=True)
            figures += judge(gate, rate, outcome)
            if late:
                told.add(gate)
                for share, goal in ((0.5, 3.0), (0.99, 25.0)):
                    name = f"{gate}: webhook at one, told at another, ms, p{share * 100:.0f}"
                    figures.append(_figures.Figure.at_most(name, goal, late[int(share * len(late))] * 1e3))
    return _figures.report(figures, asked)


if __name__ == "__main__":
    sys.exit(main())

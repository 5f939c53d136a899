"""The record of a run in Postgres: planning, counting, what a worker pays for it, and the heir of a paused worker.

    python benchmarks/shared_record.py            1,000,000 jobs planned, 2,000 run five times: 15 minutes
    python benchmarks/shared_record.py --quick    50,000 planned, 1,000 run twice: under a minute on an idle machine

The server is a Postgres with its own defaults, started for this. Jobs are planned as a program does. Then statements
take four of five through the states of a run, page by page, and what `soundpiece status` asks is asked five times.

Workers are processes of their own, with 1,000 jobs in flight and a simulator that finishes each within a quarter of a
second; their CPU is counted from the first job to the last, in turns with a journal in a folder.

A paused worker is one that SIGSTOP stops in the middle of its jobs. Its heir is a new process that takes the same part:
the time is from its start until every job is saved. Then the first one goes on, and must end as "taken over".

On a busy machine all but CPU suffers, the number of commits too: a slow run has more of them.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import _figures
import attrs
import psycopg
from _figures import Figure

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers.database_servers import Server, serve_postgres

from soundpiece_async import Failed, JobState, Journal, JournalError, NewFx, Session, Settings
from soundpiece_async._journal.store import Overview, TakenOver
from soundpiece_async.simulator import Simulator

DEFAULTS = {"fsync": "on", "shared_buffers": "128MB", "autovacuum": "on"}
IN_FLIGHT = 1_000
FINISHED = 0.25  # seconds for each operation
PAGE = 5_000  # jobs that a statement takes to their next state
LISTED = 20
LOOKS = 5
HEIRLOOM = 100  # jobs of the worker that is paused

STEPS = {
    "state = 'sending', sent_at = 1e9, taken = 1": "< 16",
    "state = 'submitted', operation = 'op_' || number, created_at = '2026-01-01T00:00:00+00:00', submitted_at = 1e9": (
        "< 15"
    ),
    """
    state = 'ready', ready_at = 1e9 + mod(number, 60), title = 'op_' || number,
    outputs = '[{"index": 0, "kind": null, "duration": 2.5, "url": "https://out.example.com/' || number || '"}]'
    """: "< 14",
    """
    state = 'saved', done = true, verified = 'header', ended_at = 1e9 + mod(number, 3600),
    files = '[{"path": "op_' || number || '.flac", "bytes": 100000, "duration": 2.5, "verified": "header"}]'
    """: "< 13",
    """
    state = 'failed', done = true, ended_at = 1e9, error_kind = 'ApiError', error_code = '422',
    error_text = 'prompt ' || number || ' is refused'
    """: "= 13",
}  # what changes, and which of each twenty jobs


@attrs.frozen
class Cost:
    """What a worker, or a part of this script, has used."""

    jobs: int
    wall: float
    cpu: float
    other: float  # commits, or the CPU of the server

    @property
    def each(self) -> float:
        """Milliseconds of CPU for a job."""
        return self.cpu / self.jobs * 1e3


def used_by(server: Server) -> float:
    """Return the CPU seconds of a server, with those of its children, also of those that have ended."""
    ticks = 0
    for position, pid in enumerate(server.pids):
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, parts[11:13] if position else parts[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def plan(server: Server, run: str, jobs: int) -> Cost:
    """Plan so many jobs."""
    async with Journal.open(server.url, run=run) as journal:
        requests = (NewFx(f"a door that closes slowly, number {number}", duration=2.5) for number in range(jobs))
        wall, cpu, other = time.monotonic(), time.process_time(), used_by(server)
        if await journal.plan(requests) != jobs:
            raise SystemExit("jobs are missing")
        return Cost(jobs, time.monotonic() - wall, time.process_time() - cpu, used_by(server) - other)


def age(server: Server) -> None:
    """Move jobs to where those of a run in progress are: each step is one statement, as in a run."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        ((first, last),) = connection.execute("SELECT min(number), max(number) FROM soundpiece_job").fetchall()
        for start in range(first, last + 1, PAGE):
            for changes, which in STEPS.items():
                these = f"number BETWEEN %s AND %s AND mod(number, 20) {which}"
                statement = f"UPDATE soundpiece_job SET {changes} WHERE {these}"  # noqa: S608 - of constants
                connection.execute(statement, (start, start + PAGE - 1))


async def look(server: Server, run: str) -> tuple[Overview, float]:
    """Ask what `soundpiece status` asks; returns the seconds that it took, with the connection."""
    began = time.monotonic()
    async with Journal.open(server.url, run=run, read_only=True) as journal:
        await journal.store.load_run_info()
        overview = await journal.store.look_over(now=journal.store.now, since=journal.store.now - 300)
        if len(await journal.jobs(JobState.UNCERTAIN, limit=LISTED)) != LISTED:
            raise SystemExit("uncertain jobs are missing")
    return overview, time.monotonic() - began


async def work(words: list[str]) -> dict[str, float]:
    """Be a worker: run all that is left, and return what it took."""
    where, run, service, key, folder, in_flight = words
    settings = Settings(api_key=key, base_url=service)
    ends: list[bool] = []
    async with (
        Session(settings) as session,
        Journal.open(where, run=run) if run else Journal.open(where) as journal,
        session.run_many(
            journal.jobs(part=(1, 1)), save_to=folder, journal=journal, max_in_flight=int(in_flight)
        ) as results,
    ):
        cpu, commits, taken_over = time.process_time(), journal.store.commits, 0
        try:
            async for result in results:
                ends.append(isinstance(result, Failed))
                taken_over += isinstance(result, Failed) and isinstance(result.error, TakenOver)
        except JournalError as error:
            taken_over += isinstance(error, TakenOver)
        return {
            "jobs": len(ends),
            "failed": sum(ends),
            "taken_over": taken_over,
            "cpu": time.process_time() - cpu,
            "commits": journal.store.commits - commits,
        }


async def start_worker(*words: str) -> asyncio.subprocess.Process:
    """Start a worker."""
    return await asyncio.create_subprocess_exec(sys.executable, __file__, "--work", *words, stdout=subprocess.PIPE)


async def finish(worker: asyncio.subprocess.Process) -> dict[str, float]:
    """Wait for a worker, and return what it says."""
    told, _ = await worker.communicate()
    found: dict[str, float] = json.loads(told)
    return found


async def compare(server: Server, jobs: int, rounds: int) -> tuple[list[Cost], list[Cost]]:
    """Run the same jobs by workers with a journal in a folder, and in Postgres, in turns."""
    costs: dict[bool, list[Cost]] = {False: [], True: []}
    for number in range(2 * rounds):
        shared = number % 2 == 1
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="record-") as folder:
            async with Simulator(durations=lambda _: FINISHED) as sim:
                where, run = (server.url, f"round {number}") if shared else (folder, "")
                async with Journal.open(where, run=run) if run else Journal.open(where) as journal:
                    await journal.plan(NewFx(f"door {one}", duration=0.2) for one in range(jobs))
                wall = time.monotonic()
                told = await finish(await start_worker(where, run, sim.url, sim.api_key, folder, str(IN_FLIGHT)))
                if told["failed"] or told["jobs"] != jobs or len(sim.operations) != jobs:
                    raise SystemExit(f"not every job was saved once: {told}")
        costs[shared].append(Cost(jobs, time.monotonic() - wall, told["cpu"], told["commits"]))
    return costs[False], costs[True]


async def inherit(server: Server) -> float:
    """Pause a worker, and return the seconds in which its heir has done everything."""
    async with Simulator(durations=lambda _: FINISHED) as sim, Journal.open(server.url, run="heirloom") as journal:
        await journal.plan(NewFx(f"door {one}", duration=0.2) for one in range(HEIRLOOM))
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="record-") as folder:
            words = (server.url, "heirloom", sim.url, sim.api_key, folder, "10")
            paused = await start_worker(*words)
            while (await journal.count()).get(JobState.SAVED, 0) < HEIRLOOM / 5:  # noqa: ASYNC110 - for some seconds
                await asyncio.sleep(0.02)
            paused.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            heir = await finish(await start_worker(*words))
            took = time.monotonic() - began
            paused.send_signal(signal.SIGCONT)
            told = await finish(paused)
        if await journal.count() != {JobState.SAVED: HEIRLOOM} or len(sim.operations) != HEIRLOOM:
            raise SystemExit("jobs were lost, or paid for twice")
        if heir["failed"] or not told["taken_over"] or told["failed"] > told["taken_over"]:
            raise SystemExit(f"the paused worker did not end as taken over: {told}")
    return took


def judge(server: Server, jobs: int, run_jobs: int, rounds: int) -> Iterator[Figure]:
    """Measure, and compare with the goals."""
    planned = asyncio.run(plan(server, "many", jobs))
    rate = planned.jobs / planned.wall
    yield Figure(f"{jobs:,} jobs planned, per second", ">= 10000", f"{rate:,.0f}", rate >= 10_000)
    yield Figure("the same: us of CPU for each, of the planner", "-", f"{planned.each * 1e3:.0f}", holds=None)
    yield Figure("the same: of the server", "-", f"{planned.other / jobs * 1e6:.0f}", holds=None)
    age(server)
    before = used_by(server)
    looks = [asyncio.run(look(server, "many")) for _ in range(LOOKS)]
    used = (used_by(server) - before) / LOOKS
    states = looks[0][0].routes["create.new_fx"]
    if sum(states.values()) != jobs:
        raise SystemExit(f"jobs are missing: {states}")
    seconds = statistics.median(took for _, took in looks)
    yield Figure.at_most(f"status of {jobs:,} jobs, s", 2.0, seconds, form="{:.2f}")
    yield Figure("the same: s of CPU of the server", "-", f"{used:.2f}", holds=None)
    folder, shared = asyncio.run(compare(server, run_jobs, rounds))
    alone, over = (statistics.median(cost.each for cost in costs) for costs in (folder, shared))
    yield Figure(f"{IN_FLIGHT:,} in flight, journal in a folder: ms of CPU for a job", "-", f"{alone:.2f}", holds=None)
    yield Figure.at_most("the same in Postgres: more, ms", 0.6, over - alone, form="{:.2f}")
    commits = statistics.median(cost.other / cost.jobs for cost in shared)
    yield Figure.at_most("the same: commits for a job", 0.2, commits, form="{:.3f}")
    yield Figure.at_most("heir of a paused worker: all saved after, s", 10.0, asyncio.run(inherit(server)))


def main() -> int:
    """Measure; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _figures.add_options(parser, quick="50,000 jobs instead of 1,000,000, and fewer rounds")
    parser.add_argument("--jobs", type=int, help="jobs to plan (default 1,000,000)")
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(asyncio.run(work(options.work))))
        return 0
    jobs, run_jobs, rounds = (50_000, 1_000, 2) if options.quick else (1_000_000, 2_000, 5)
    figures = []
    with tempfile.TemporaryDirectory() as cache, serve_postgres(Path(cache), **DEFAULTS) as server:
        # workers start from bytecode, as those of an installed package, whatever this environment says
        os.environ["PYTHONPYCACHEPREFIX"] = cache
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        for figure in judge(server, options.jobs or jobs, run_jobs, rounds):
            print(figure, flush=True)
            figures.append(figure)
    return _figures.report(figures, options)


if __name__ == "__main__":
    sys.exit(main())

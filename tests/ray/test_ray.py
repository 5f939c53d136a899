"""Runs on a real Ray, by `nox -s ray`; its actors are processes of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest
import ray
from helpers.command_line import CLI
from helpers.database_servers import Server
from helpers.ports import reserved_port
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate
from helpers.tracebacks import find

from soundpiece_async import (
    InsufficientCredits,
    JobState,
    Journal,
    JournalError,
    Limits,
    Session,
    SettingsError,
    SoundpieceError,
    Succeeded,
)
from soundpiece_async._journal.store import TakenOver
from soundpiece_async.engines import ray as engine
from soundpiece_async.engines.ray import run_on_ray
from soundpiece_async.simulator import Simulator

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    # of a Ray that did not start in time, whose processes end with this one
    pytest.mark.filterwarnings("ignore:Exception ignored in. <function Popen.__del__"),
]

JOBS = 120
LIMITS = Limits(in_flight=10)


def start_ray() -> None:
    """Start Ray, which gives up after 30 s by itself: again, as a busy machine is faster the second time."""
    for left in reversed(range(4)):
        try:
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except Exception:
            if not left:
                raise
            ray.shutdown()
        else:
            return


@pytest.fixture(scope="module", autouse=True)
def port() -> Iterator[int]:
    """One Ray for all tests; its processes have the API key of every simulator here, and the address of one."""
    with pytest.MonkeyPatch.context() as changed, reserved_port() as port:
        changed.setenv("SOUNDPIECE_API_KEY", Simulator(seed=1).api_key)
        changed.setenv("SOUNDPIECE_BASE_URL", f"http://127.0.0.1:{port}")
        changed.setenv("RAY_USAGE_STATS_ENABLED", "0")
        changed.setenv("RAY_AUTH_MODE", "disabled")
        start_ray()
        yield port
        ray.shutdown()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PAUSE", 0.1)
    monkeypatch.setattr(engine, "REPORT_INTERVAL", 0.1)


@attrs.define
class Run:
    """A planned run, and how to work on it."""

    url: str
    folder: Path
    sim: Simulator
    name: str = attrs.field(factory=lambda: uuid4().hex)

    async def plan(self, jobs: int = JOBS) -> None:
        """Write the jobs down."""
        async with Journal.open(self.url, run=self.name) as journal:
            assert await journal.plan(fx(number) for number in range(jobs)) == jobs

    async def work(self, **options: Any) -> dict[JobState, int]:
        """Run them in an actor."""
        options = {"workers": 1, "settings": {"base_url": self.sim.url}} | options
        return await run_on_ray(self.url, run=self.name, save_to=self.folder, **options)

    async def finish(self, jobs: int = JOBS) -> None:
        """Finish the run in this process; every job was bought once, and every file is there."""
        async with Session(settings(self.sim)) as session, Journal.open(self.url, run=self.name) as journal:
            given = journal.jobs(part=(1, 1))
            async with session.run_many(given, save_to=self.folder, journal=journal) as results:
                assert [result async for result in results if not isinstance(result, Succeeded)] == []
            assert await journal.count() == {JobState.SAVED: jobs}
        keys = {request.key for request in self.sim.log if request.method == "PUT"}
        assert len(self.sim.operations) == len(keys) == len(list(self.folder.glob("*.flac"))) == jobs


@pytest.fixture
def url(journal_database: Server) -> str:
    return journal_database.url


async def reached(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, as long as processes take to start on a busy machine."""
    with anyio.fail_after(90):
        while not condition():
            await anyio.sleep(0.01)


def actors() -> list[int]:
    """Return the processes of actors among our descendants."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_bytes().startswith(b"ray::PartWorker"):
                found.append(int(path.name))
    return [pid for pid in found if parents.get(parents[pid]) == os.getpid()]


async def test_a_killed_actor_loses_nothing(url: str, tmp_path: Path) -> None:
    """Its part goes on in another process: operations, keys, jobs and files are equal in number."""
    seen: list[dict[JobState, int]] = []
    async with simulate(durations=lambda _: 200) as sim:
        run = Run(url, tmp_path, sim)
        await run.plan()

        async def kill() -> None:
            for least in (10, 70):
                await reached(lambda least=least: len(sim.operations) >= least)
                os.kill(actors()[0], signal.SIGKILL)

        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            assert await run.work(workers=2, on_progress=seen.append) == {JobState.SAVED: JOBS}
        await run.finish()
    assert all(sum(counts.values()) == JOBS for counts in seen)
    assert seen[0] == {JobState.PLANNED: JOBS}
    assert actors() == []


async def test_a_refusal_stops_all_parts(url: str, tmp_path: Path) -> None:
    """It is raised when what was in flight has ended; the next call goes on."""
    async with simulate(credits=30) as sim:
        run = Run(url, tmp_path, sim)
        await run.plan()
        with pytest.raises(InsufficientCredits) as caught:
            await run.work()
        assert find(caught.value, "sesame", ours=True) == []
        async with Journal.open(url, run=run.name, read_only=True) as journal:
            assert await journal.count() == {JobState.SAVED: 30, JobState.PLANNED: JOBS - 30}
        sim.top_up(JOBS)
        await run.finish()


async def test_it_stops_and_gives_up(url: str, tmp_path: Path) -> None:
    """``stop`` waits for what is in flight, as the first Ctrl-C; a cancellation does not, as the second one."""
    async with simulate(durations=never_finishes) as sim:
        run, stop, counts = Run(url, tmp_path, sim), anyio.Event(), {}
        await run.plan(600)
        with anyio.fail_after(90):
            async with anyio.create_task_group() as group:

                async def work() -> None:
                    counts.update(await run.work(stop=stop, settings={"base_url": sim.url, "limits": LIMITS}))

                group.start_soon(work)
                await reached(lambda: len(sim.operations) == 20)
                stop.set()
                assert counts == {}
                group.start_soon(finish_all, sim, lambda: bool(counts))
        bought = len(sim.operations)
        assert 20 <= bought < 600
        assert counts == {JobState.SAVED: bought, JobState.PLANNED: 600 - bought}
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(run.work)
                await reached(lambda: len(sim.operations) > bought)
                scope.cancel()
        await reached(lambda: actors() == [])
        done: list[bool] = []
        async with anyio.create_task_group() as group:
            group.start_soon(finish_all, sim, lambda: bool(done))
            await run.finish(600)
            done.append(True)


async def test_ctrl_c_once_and_twice(url: str, tmp_path: Path, port: int) -> None:
    """Of the command: the first one waits for what is in flight, the second one kills the actors; both end with 130."""
    lines = [{"route": "create.new_fx", "prompt": f"door {number}", "duration": 0.1} for number in range(600)]
    (tmp_path / "jobs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    cluster = ray.get_runtime_context().gcs_address
    async with simulate(durations=never_finishes, port=port) as sim:
        run = Run(url, tmp_path / "out", sim)
        words = [
            "bulk",
            "jobs.jsonl",
            "out",
            "--run",
            run.name,
            "--ray",
            cluster,
            "--workers",
            "1",
            "--in-flight",
            "10",
        ]
        environ = {**os.environ, "SOUNDPIECE_JOURNAL": url}

        async def interrupt(times: int, *, least: int) -> str:
            """Run the command until so many operations exist, interrupt it, and return what it has printed."""
            printed = b""
            async with await anyio.open_process(
                [sys.executable, *CLI, *words], env=environ, cwd=tmp_path, stderr=subprocess.STDOUT
            ) as command:
                await reached(lambda: len(sim.operations) >= least)
                assert command.stdout is not None
                async with anyio.create_task_group() as group:
                    for left in reversed(range(times)):
                        command.send_signal(signal.SIGINT)
                        while b"interrupted: no more jobs are submitted" not in printed:
                            printed += await command.stdout.receive()
                        if not left and times == 1:
                            group.start_soon(finish_all, sim, lambda: command.returncode is not None)
                    async for block in command.stdout:
                        printed += block
                    assert await command.wait() == 130
            return printed.decode()

        with anyio.fail_after(200):
            told = await interrupt(1, least=20)
            bought = len(sim.operations)
            assert f"{bought} saved" in told
            async with Journal.open(url, run=run.name, read_only=True) as journal:
                assert await journal.count() == {JobState.SAVED: bought, JobState.PLANNED: 600 - bought}
            await interrupt(2, least=bought + 10)
            await reached(lambda: actors() == [])
            done: list[bool] = []
            async with anyio.create_task_group() as group:
                group.start_soon(finish_all, sim, lambda: bool(done))
                await run.finish(600)
                done.append(True)


async def finish_all(sim: Simulator, ended: Callable[[], bool]) -> None:
    """Finish every operation once it exists."""
    done: set[str] = set()
    while not ended():
        for operation in set(sim.operations) - done:
            done.add(operation)
            sim.finish(operation)
        await anyio.sleep(0.01)


async def test_a_run_that_was_taken_over_is_left_to_its_heir(url: str, tmp_path: Path) -> None:
    """No part of it is repeated."""
    async with simulate(durations=never_finishes) as sim, Journal.open(url, run="heir") as heir:
        run = Run(url, tmp_path, sim, "heir")
        await run.plan(100)

        async def take_over() -> None:
            await reached(lambda: len(sim.operations) == 100)
            while await heir.count() != {JobState.SUBMITTED: 100}:
                await anyio.sleep(0.01)
            await heir.store.take_part(0, 1, failed=False)
            for operation in sim.operations:
                sim.finish(operation)

        async with anyio.create_task_group() as group:
            group.start_soon(take_over)
            with pytest.raises(TakenOver):
                await run.work()
        assert await heir.count() == {JobState.SUBMITTED: 100}
        await run.finish(100)


async def test_what_cannot_work_ends_at_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing run, settings that an actor refuses, secrets, and a part that always kills its actor."""
    async with simulate() as sim:
        run = Run(url, tmp_path, sim)
        with pytest.raises(JournalError, match=r"has no (run called|journal)"):
            await run.work()
        await run.plan()
        with pytest.raises(SettingsError, match="base_url must be https"):
            await run.work(settings={"base_url": "http://example.com"})
        for name in ("api_key", "shared", "proxy"):
            with pytest.raises(SettingsError, match=f"SOUNDPIECE_{name.upper()}"):
                await run.work(settings={name: "secret"})
        monkeypatch.setattr(engine, "MAX_LOSSES", 1)
        with pytest.raises(SoundpieceError, match="was lost with its actor") as caught:
            await run.work(settings={"base_url": sim.url, "timeouts": Deadly()})
        assert find(caught.value, "sesame", ours=True) == []
        assert sim.operations == {}


class Deadly:
    """A setting that ends the process that receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


async def test_a_database_that_comes_back_loses_nothing(postgres: Server, tmp_path: Path) -> None:
    """The parts wait for it, longer each time."""
    async with simulate(durations=lambda _: 200) as sim:
        run = Run(postgres.url, tmp_path, sim)
        await run.plan()

        async def crash() -> None:
            await reached(lambda: len(sim.operations) >= 20)
            await anyio.to_thread.run_sync(postgres.kill)
            await anyio.to_thread.run_sync(postgres.start)

        async with anyio.create_task_group() as group:
            group.start_soon(crash)
            assert await run.work(on_progress=lambda _: None) == {JobState.SAVED: JOBS}
        await run.finish()

"""Killed with SIGKILL at every state change and at every request, a run goes on: nothing lost, nothing bought twice."""

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import soundfile
from helpers.bulk_process import SOURCE, TAKEN_OVER, lines
from helpers.database_servers import Server
from helpers.journals import database_of, open_journal
from helpers.killable import KillableRuns, StopAt, is_paused, killable_runs
from helpers.object_stores import BUCKET, serve_bucket
from helpers.simulation import settings, simulate

from soundpiece_async import Journal, Session, Succeeded
from soundpiece_async._core.job_records import JobState
from soundpiece_async.simulator import Simulator
from soundpiece_async.simulator.request_log import ReceivedRequest

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def victim() -> Iterator[KillableRuns]:
    with killable_runs() as runs:
        yield runs


async def run(victim: KillableRuns, sim: Simulator, folder: Path, *, count: int = 3, **command: Any) -> int:
    """Run one bulk run of so many jobs; return its exit status."""
    command |= {"url": sim.url, "api_key": sim.api_key, "folder": str(folder), "count": count, **database_of(folder)}
    with anyio.fail_after(60):
        return await anyio.to_thread.run_sync(partial(victim.run, **command), abandon_on_cancel=True)


async def check(sim: Simulator, folder: Path, *, count: int = 3) -> None:
    """Resume the run, and check that every job was submitted once and every file is complete."""
    async with Session(settings(sim)) as session, open_journal(folder) as journal:
        async with session.run_many(lines()[:count], save_to=folder, journal=journal) as results:
            done = [result async for result in results]
        assert await journal.count() == {JobState.SAVED: count}
    assert all(isinstance(result, Succeeded) for result in done), done
    files = [file for result in done if isinstance(result, Succeeded) for file in result.files]
    assert len(sim.operations) == count
    assert len(files) == 3 + count
    bodies = {(request.key, request.body) for request in sim.log if request.method == "PUT"}
    assert len(bodies) == count  # a key is always sent with the same bytes
    journal_files = {"journal.sqlite3", "journal.lock"}
    assert {path.name for path in folder.iterdir()} - journal_files == {file.path.name for file in files}
    for file in files:
        assert file.path.stat().st_size == file.bytes
        assert len(soundfile.read(file.path)[0]) == round(file.duration * file.sample_rate)


@pytest.mark.parametrize(
    ("journals", "host", "method", "kept"),
    [
        ("sqlite", "api", "PUT", True),
        ("sqlite", "api", "PUT", False),
        ("sqlite", "api", "GET", True),
        ("sqlite", "output", "GET", True),
        ("postgres", "api", "PUT", True),
    ],
    indirect=["journals"],
)
@pytest.mark.usefixtures("journals")
async def test_killed_at_every_request(
    victim: KillableRuns, tmp_path: Path, host: str, method: str, *, kept: bool
) -> None:
    """Whether the service still processed the request or not; for every n, as long as there is an n-th request."""
    step, status = 0, KILLED
    while status == KILLED:
        step += 1
        kill = StopAt(victim, host, method, [step], kept=kept)
        async with simulate(speed=2000, track_seconds=(0.1, 0.1), on_request=kill) as sim:
            folder = tmp_path / str(step)
            status = await run(victim, sim, folder, count=2)
            await check(sim, folder, count=2)
    assert status == 0
    assert step > 2


async def test_killed_at_every_state_change(victim: KillableRuns, tmp_path: Path) -> None:
    """Just before a transaction is committed, and right after."""
    step, status = 0, KILLED
    while status == KILLED:
        step += 1
        async with simulate(speed=2000, track_seconds=(0.1, 0.1)) as sim:
            folder = tmp_path / str(step)
            status = await run(victim, sim, folder, count=1, die_at=step)
            await check(sim, folder, count=1)
    assert status == 0
    assert step == 10  # planned, sending, submitted, ready, before and after; before saved; after it there is nothing


async def test_killed_again_and_again(victim: KillableRuns, tmp_path: Path) -> None:
    """A run that never gets further than a few state changes still comes to its end."""
    async with simulate(speed=2000, track_seconds=(0.1, 0.1)) as sim:
        deaths = 0
        while await run(victim, sim, tmp_path, die_at=8) == KILLED:
            deaths += 1
            assert deaths < 30
        assert deaths > 1
        await check(sim, tmp_path)


@pytest.mark.parametrize(("host", "method", "step"), [("api", "PUT", 4), ("api", "GET", 3), ("output", "GET", 2)])
async def test_the_command_is_killed(victim: KillableRuns, tmp_path: Path, host: str, method: str, step: int) -> None:
    """The same command goes on: as many pieces as lines, none bought twice, each file whole, and status says so."""
    jobs, folder = tmp_path / "jobs.csv", tmp_path / "out"
    jobs.write_text(
        "route,prompt,source,duration,name\n"
        + "create.new_fx,door,,0.1,same\n" * 3
        + f"adapt.separate_stems,,{SOURCE},,same\n" * 2
    )
    kill = StopAt(victim, host, method, [step])
    async with simulate(speed=2000, track_seconds=(0.1, 0.1), on_request=kill) as sim:
        command = ["bulk", str(jobs), str(folder)]
        assert await run(victim, sim, folder, arguments=command) == KILLED
        assert await run(victim, sim, folder, arguments=command) == 0
        sent = len(sim.log)
        assert await run(victim, sim, folder, arguments=["resume", str(folder)]) == 0
        assert await run(victim, sim, folder, arguments=["status", str(folder), "--json"]) == 0
        assert (len(sim.operations), len(sim.log)) == (5, sent)
    (told,) = (json.loads(line) for line in folder.with_suffix(".printed").read_text().splitlines() if line[0] == "{")
    assert {state: number for state, number in told["states"].items() if number} == {"saved": 5}
    assert (told["unread"], told["worked_on_by"]) == (0, None)
    files = sorted(path.name for path in folder.glob("*.flac*"))
    names = {"same.flac", "same-2.flac", "same-3.flac"}
    assert {name for name in files if "vocals" not in name and "drums" not in name} >= names
    assert len(files) == 3 + 2 * 4
    assert all(len(soundfile.read(folder / name)[0]) for name in files)


PIPELINES: dict[str, tuple[int, list[str]]] = {
    "jobs": (7, ["bed-1.flac", *(f"cut-{kind}.flac" for kind in ("bass", "drums", "other", "vocals")), "short.flac"]),
    "folder_stems": (3, [f"{name}-{kind}.flac" for name in ("first", "second", "twin") for kind in ("bass", "drums")]),
    "pipeline": (12, [f"{track}-{kind}.flac" for track in "ab" for kind in ("bass", "drums", "other", "vocals")]),
    "best_take": (
        4,
        ["one-remix.flac", "takes/one-1.flac", "takes/one-2.flac", "takes/two-1.flac", "takes/two-2.flac"],
    ),
}
"""Of a jobs file, and of each example that is a pipeline: how many operations there are at the end, and some files."""
JOBS = [
    {"route": "adapt.auto_cut_down", "target_duration": 0.05, "source": {"job": "bed", "output": 1}, "name": "short"},
    {"id": "bed", "route": "create.new_instrumental", "prompt": "ambient, slow", "name": "bed"},
    {"id": "stems", "route": "adapt.separate_stems", "source": {"job": "bed"}},
    {
        "route": "adapt.auto_cut_down",
        "target_duration": 0.05,
        "source": {"job": "stems", "output": "*"},
        "name": "cut",
    },
]


@pytest.mark.parametrize("example", PIPELINES)
async def test_a_pipeline_is_killed_in_the_middle(victim: KillableRuns, tmp_path: Path, example: str) -> None:
    """The same command goes on: nothing is bought twice in any of the stages, and every file is whole."""
    lyrics, mixes, out, jobs = (tmp_path / name for name in ("lyrics", "mixes", "out", "jobs.jsonl"))
    jobs.write_text("".join(f"{json.dumps(line)}\n" for line in JOBS))
    lyrics.mkdir()
    mixes.mkdir()
    for name in ("first", "second", "twin"):
        (mixes / f"{name}.wav").write_bytes(name[:5].encode() * 1000)
    (mixes / "notes.txt").write_text("no audio")
    for name in ("one", "two"):
        (lyrics / f"{name}.txt").write_text(f"[Verse]\nThe song {name}")
    commands: dict[str, dict[str, Any]] = {
        "jobs": {"arguments": ["bulk", str(jobs), str(out)]},
        "pipeline": {"example": "pipeline", "arguments": [str(out), "a", "b"]},
        "best_take": {"example": "best_take", "arguments": [str(lyrics), str(out)]},
        "folder_stems": {"example": "folder_stems", "arguments": [str(mixes), f"s3://{BUCKET}/inbox", str(out)]},
    }
    operations, files = PIPELINES[example]
    kill = StopAt(victim, "api", "PUT", (2, 4, operations))
    with serve_bucket() as bucket:
        commands["folder_stems"]["environ"] = bucket.environ
        async with simulate(speed=2000, track_seconds=(0.1, 0.1), on_request=kill) as sim:
            deaths = 0
            while (status := await run(victim, sim, out, **commands[example])) == KILLED:
                deaths += 1
            assert (status, deaths >= 2) == (0, True)
            assert len(sim.operations) == operations
            assert len({(request.key, request.body) for request in sim.log if request.method == "PUT"}) == operations
    assert {str(path.relative_to(out)) for path in out.rglob("*.flac")} >= set(files)
    for path in out.rglob("*.flac"):
        assert len(soundfile.read(path)[0]) > 0


async def test_after_a_kill_status_promises_no_more_than_is_known(victim: KillableRuns, tmp_path: Path) -> None:
    """A line that is one job per output may have more jobs; the lines that were not started are counted as lines."""
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    lines = [*JOBS, {"route": "create.new_fx", "prompt": "door", "duration": 0.1}]
    jobs.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    async def kill(request: ReceivedRequest) -> None:
        if request.method == "PUT" and len(sim.operations) == 5:  # two of the four cuts are there
            os.kill(victim.child, signal.SIGKILL)

    async with simulate(speed=2000, track_seconds=(0.1, 0.1), on_request=kill) as sim:
        command = ["bulk", str(jobs), str(out), "--in-flight", "1"]
        assert await run(victim, sim, out, arguments=command) == KILLED
        assert await run(victim, sim, out, arguments=["status", str(out)]) == 0
        assert await run(victim, sim, out, arguments=["status", str(out), "--json"]) == 0
        assert await run(victim, sim, out, arguments=command) == 0
        assert await run(victim, sim, out, arguments=["status", str(out), "--json"]) == 0
        assert len(sim.operations) == 8
    printed = out.with_suffix(".printed").read_text()
    assert (
        "at least 1 line of the jobs file not started, and lines that are one job per output may have more" in printed
    )
    killed, done = (json.loads(line) for line in printed.splitlines() if line[0] == "{")
    assert (sum(killed["states"].values()), killed["unread"], killed["unread_is_minimum"]) == (6, 1, True)
    assert (sum(done["states"].values()), done["unread"], done["unread_is_minimum"]) == (8, 0, False)


async def test_paused_at_every_statement(
    victim: KillableRuns, journal_database: Server, tmp_path: Path, *, thorough: bool
) -> None:
    """An heir waits for nothing and finishes the run; when the paused process wakes, what it writes is refused.

    Killed there, it would leave the same behind.
    """
    statuses: list[int] = []
    step, paused = 1, True
    while paused:
        status, paused = await be_paused(victim, journal_database.url, tmp_path / str(step), step=step)
        statuses.append(status)
        step += 1 if thorough else 3
    assert set(statuses) == {0, TAKEN_OVER}  # 0: it had no job yet that was not done, or none any more
    assert step > 12  # the part, what is looked up, sending, submitted, ready, saved: before and after


async def be_paused(victim: KillableRuns, url: str, folder: Path, *, step: int) -> tuple[int, bool]:
    """Pause a worker at a statement until its heir has finished the run.

    Returns:
        The exit status of the worker, and whether there is such a statement.
    """
    ended: list[int] = []

    async def work() -> None:
        command = {"database": url, "run": str(folder), "part": True, "pause_at": step}
        ended.append(await run(victim, sim, folder, **command))

    async with (
        simulate(speed=2000, track_seconds=(0.1, 0.1)) as sim,
        Session(settings(sim)) as session,
        Journal.open(url, run=str(folder)) as journal,
        anyio.create_task_group() as group,
    ):
        await journal.plan(lines()[:1])
        victim.child = 0
        group.start_soon(work)
        while not ended and not is_paused(victim.child):
            await anyio.sleep(0.002)
        paused = not ended
        try:
            async with session.run_many(journal.jobs(part=(1, 1)), save_to=folder, journal=journal) as results:
                assert [result async for result in results if not isinstance(result, Succeeded)] == []
            before = await journal.jobs()
        finally:
            if paused:
                os.kill(victim.child, signal.SIGCONT)
        while not ended:
            await anyio.sleep(0.002)
        assert await journal.jobs() == before
        assert [job.state for job in before] == [JobState.SAVED]
        assert len(sim.operations) == len({(one.key, one.body) for one in sim.log if one.method == "PUT"}) == 1
    files = {file.path for job in before for file in job.files}
    assert {path.name for path in folder.iterdir()} == files
    assert all(len(soundfile.read(folder / name)[0]) for name in files)
    return ended[0], paused

"""The command line with a journal in Postgres: one run, many processes."""

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import anyio
import anyio.to_thread
import psycopg
import pytest
import soundfile
from helpers.database_servers import PASSWORD, Server
from helpers.killable import KillableRuns, StopAt, killable_runs
from helpers.object_stores import BUCKET, Bucket, serve_bucket
from helpers.simulation import Serve, never_finishes, puts, simulate

from soundpiece_async import JobState, Journal
from soundpiece_async._journal import journal as journals
from soundpiece_async._journal.store import Part, TakenOver
from soundpiece_async.cli import main
from soundpiece_async.cli.blocked_jobs import BlockedJobs
from soundpiece_async.simulator import Simulator
from soundpiece_async.simulator.request_log import ReceivedRequest

pytestmark = pytest.mark.timeout(120)

Streams = pytest.CaptureFixture[str]

FAST: dict[str, Any] = {"speed": 2000.0, "track_seconds": (0.1, 0.2)}
FX = {"route": "create.new_fx", "prompt": "door", "duration": 0.1, "name": "door"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(journal_database: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a run of the test's own, in the database that the environment names."""
    monkeypatch.setenv("SOUNDPIECE_JOURNAL", journal_database.url)
    return uuid4().hex


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket that the environment leads to."""
    with serve_bucket() as opened:
        for name, value in opened.environ.items():
            monkeypatch.setenv(name, value)
        yield opened


@pytest.fixture(scope="module")
def workers() -> Iterator[list[KillableRuns]]:
    """Processes that run one command at a time."""
    with ExitStack() as stack:
        yield [stack.enter_context(killable_runs()) for _ in range(2)]


KILLED = -signal.SIGKILL


async def call(worker: KillableRuns, sim: Simulator, *words: str) -> int:
    """Run a command in a process of its own; return its exit code."""
    environ = {name: os.environ[name] for name in os.environ if name.startswith(("AWS_", "SOUNDPIECE_JOURNAL"))}
    folder = words[1].rpartition("/")[2]  # beside it is what the command prints
    command = {"arguments": words, "url": sim.url, "api_key": sim.api_key, "folder": folder, "environ": environ}
    command["cwd"] = str(Path.cwd())
    with anyio.fail_after(60):
        return await anyio.to_thread.run_sync(partial(worker.run, **command), abandon_on_cancel=True)


async def read_status(worker: KillableRuns, sim: Simulator, *words: str) -> dict[str, Any]:
    """Return what ``status --json`` prints."""
    printed = Path(words[0].rpartition("/")[2]).absolute().with_suffix(".printed")
    assert await call(worker, sim, "status", *words, "--json") == 0
    return dict(json.loads(printed.read_text().splitlines()[-1]))


def check_bought_once(sim: Simulator, jobs: int) -> None:
    """Check that operations, keys and jobs are as many, and that each key was sent with the same bytes."""
    assert len(sim.operations) == len({key for key, _ in puts(sim)}) == len(set(puts(sim))) == jobs


def write(*lines: dict[str, Any], name: str = "jobs.jsonl") -> str:
    Path(name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return name


def test_a_run_is_planned_and_worked_on_in_parts(serve: Serve, run: str, bucket: Bucket, capsys: Streams) -> None:
    """Workers need no jobs file and no folder of their own; planning again adds nothing; equal lines are jobs, too."""
    simulator = serve(**FAST)
    write(*(FX,) * 3, *({**FX, "prompt": f"door {number}", "metadata": number} for number in range(7)))
    out = f"s3://{BUCKET}/run"
    assert main(["bulk", "jobs.jsonl", out, "--run", run, "--plan"]) == 0
    assert main(["bulk", "jobs.jsonl", out, "--run", run, "--plan", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"plan": {"lines": 10, "new": 0}}
    assert "10 jobs in jobs.jsonl, 10 new; nothing was sent" in told.err
    assert f"soundpiece work {out} --run {run} --part K/N" in told.err
    assert simulator.log == []
    Path("jobs.jsonl").unlink()
    assert main(["work", out, "--run", run, "--part", "1/2", "--json"]) == 0
    *results, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert last["summary"]["saved"] == len(results) == 5
    assert all(result["line"] and (result["metadata"] is None or result["metadata"] < 7) for result in results)
    assert main(["work", out, "--run", run, "--part", "2/3"]) == 0
    assert main(["work", out, "--run", run]) == 0
    printed = capsys.readouterr()
    assert len(bucket.objects) == len(simulator.operations) == len(puts(simulator)) == 10
    assert {f"run/{path.rpartition('/')[2]}" for path in printed.out.split()} < set(bucket.objects)
    assert main(["work", out, "--run", run]) == 0
    assert "0 jobs in part 1/1" in capsys.readouterr().err
    assert PASSWORD not in told.err + printed.err
    assert main(["status", out, "--run", run, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert {state: number for state, number in status["states"].items() if number} == {"saved": 10}
    assert (status["unread"], status["lines"], status["refused"]) == (0, 10, None)
    assert main(["verify", out, "--run", run]) == 0
    assert main(["report", "page", "--run", run]) == 0
    assert json.loads(Path("page/report.json").read_text())["summary"]["counts"] == {"saved": 10}
    assert f"<title>{run}: bulk run" in Path("page/report.html").read_text()


STEPS = [("api", "PUT", 3), ("api", "GET", 2), ("output", "GET", 2)]


@pytest.mark.anyio
@pytest.mark.parametrize(("host", "method", "step"), STEPS)
async def test_a_worker_is_killed(
    workers: list[KillableRuns], run: str, bucket: Bucket, host: str, method: str, step: int
) -> None:
    """Any other one continues, by another split."""
    write(*(FX,) * 2, *({**FX, "prompt": f"door {number}"} for number in range(4)))
    worker, out = workers[0], f"s3://{BUCKET}/run"
    kill = StopAt(worker, host, method, [step])
    async with simulate(**FAST, on_request=kill) as sim:
        assert await call(worker, sim, "bulk", "jobs.jsonl", out, "--run", run, "--plan") == 0
        assert await call(worker, sim, "work", out, "--run", run, "--part", "1/1") == KILLED
        assert await call(worker, sim, "work", out, "--run", run, "--part", "1/2") == 0
        assert await call(worker, sim, "resume", out, "--run", run) == 0
        async with Journal.open(os.environ["SOUNDPIECE_JOURNAL"], run=run, read_only=True) as journal:
            assert await journal.count() == {JobState.SAVED: 6}
        check_bought_once(sim, 6)
    assert len(bucket.objects) == 6
    assert all(data.startswith(b"fLaC") for data in bucket.objects.values())


@pytest.mark.anyio
@pytest.mark.parametrize(("host", "method", "step"), STEPS)
@pytest.mark.usefixtures("bucket")
async def test_a_paused_worker_has_an_heir(
    workers: list[KillableRuns], run: str, host: str, method: str, step: int
) -> None:
    """Its part is done while it sleeps; when it wakes it writes nothing, and ends with exit code 4.

    In a folder that both share, too, where it has locked the file that it downloads.
    """
    write(*(FX,) * 4)
    paused, heir = workers
    out = f"s3://{BUCKET}/out" if method == "PUT" else "out"
    pause = StopAt(paused, host, method, [step], by=signal.SIGSTOP)
    async with simulate(**FAST, on_request=pause) as sim:
        assert await call(heir, sim, "bulk", "jobs.jsonl", out, "--run", run, "--plan") == 0
        codes: list[int] = []

        async def work() -> None:
            codes.append(await call(paused, sim, "work", out, "--run", run, "--part", "1/1"))

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await pause.stopped.wait()
            try:
                assert await call(heir, sim, "work", out, "--run", run, "--part", "1/1") == 0
            finally:
                os.kill(paused.child, signal.SIGCONT)
        assert codes == [4]
        assert "taken over by another process" in Path("out.printed").read_text()
        assert (await read_status(heir, sim, out, "--run", run))["states"]["saved"] == 4
        assert await call(heir, sim, "verify", out, "--run", run, "--full") == 0
        check_bought_once(sim, 4)
    names = sorted(path.name for path in Path("out").glob("*"))
    assert names == ["door-2.flac", "door-3.flac", "door-4.flac", "door.flac"] * (out == "out")
    assert all(len(soundfile.read(path)[0]) for path in Path("out").glob("*.flac"))


@pytest.mark.anyio
async def test_two_workers_on_one_part(workers: list[KillableRuns], run: str, journal_database: Server) -> None:
    """The later one has it; the earlier one ends by exit code 4, and its engine starts it no more."""
    write(*(FX,) * 3)
    async with (
        simulate(**FAST, durations=never_finishes) as sim,
        Journal.open(journal_database.url, run=run) as journal,
        anyio.create_task_group() as group,
    ):
        codes: dict[int, int] = {}

        async def work(number: int) -> None:
            codes[number] = await call(workers[number], sim, "work", "out", "--run", run)

        assert await call(workers[1], sim, "bulk", "jobs.jsonl", "out", "--run", run, "--plan") == 0
        group.start_soon(work, 0)
        while await journal.count() != {JobState.SUBMITTED: 3}:
            await anyio.sleep(0.01)
        before = (await journal.jobs())[0].taken
        group.start_soon(work, 1)
        while {job.taken for job in await journal.jobs()} == {before}:
            await anyio.sleep(0.01)
        for operation in sim.operations:
            sim.finish(operation)
        while len(codes) < 2:
            await anyio.sleep(0.01)
        assert codes == {0: 4, 1: 0}
        assert await journal.count() == {JobState.SAVED: 3}
        check_bought_once(sim, 3)


@pytest.mark.anyio
async def test_an_empty_account_stops_all_workers(workers: list[KillableRuns], run: str) -> None:
    """Exit code 3 of each, and status says why; topped up, resume sends the others, and the flag is gone."""
    write(*(FX,) * 10)
    async with simulate(**FAST, credits=4) as sim:
        assert await call(workers[0], sim, "bulk", "jobs.jsonl", "out", "--run", run, "--plan") == 0
        codes: list[int] = []

        async def work(number: int) -> None:
            part = f"{number + 1}/2"
            codes.append(await call(workers[number], sim, "work", "out", "--run", run, "--part", part))

        async with anyio.create_task_group() as group:
            group.start_soon(work, 0)
            group.start_soon(work, 1)
        assert codes == [3, 3]
        told = await read_status(workers[0], sim, "out", "--run", run)
        assert (told["states"]["saved"], told["states"]["planned"], told["refused"]) == (4, 6, 402)
        sim.top_up(6)
        assert await call(workers[1], sim, "resume", "out", "--run", run) == 0
        told = await read_status(workers[0], sim, "out", "--run", run)
        assert (told["states"]["saved"], told["refused"]) == (10, None)
        check_bought_once(sim, 10)
        assert "top up the account" in Path("out.printed").read_text()


BED = {"id": "bed", "route": "create.new_instrumental", "prompt": "ambient", "name": "bed"}
STEMS = {"id": "stems", "route": "adapt.separate_stems", "source": {"job": "bed", "output": 1}, "name": "stems"}
CUT = {
    "route": "adapt.auto_cut_down",
    "target_duration": 0.05,
    "source": {"job": "stems", "kind": "drums"},
    "name": "cut",
}


@pytest.mark.anyio
async def test_jobs_that_depend_on_others_stay_together(workers: list[KillableRuns], run: str) -> None:
    """Each worker reads the file and runs its trees; equal lines of two parts are two jobs; killed, it goes on."""
    write(BED, FX, STEMS, FX, FX, CUT, {**BED, "id": "other"}, {**STEMS, "id": "more", "source": {"job": "other"}})
    worker, kill = workers[0], StopAt(workers[0], "api", "PUT", [2])
    command = ("bulk", "jobs.jsonl", "out", "--run", run)
    async with simulate(**FAST, on_request=kill) as sim:
        assert await call(worker, sim, *command, "--plan") == 2
        assert "3 of 8 lines cannot be planned" in Path("jobs.printed").read_text()
        assert await call(worker, sim, *command, "--part", "1/2") == KILLED
        assert await call(worker, sim, *command, "--part", "1/2") == 0
        first = len(sim.operations)
        assert 0 < first < 8
        assert await call(worker, sim, *command, "--part", "1/2") == 0
        assert len(sim.operations) == first
        assert await call(worker, sim, *command, "--part", "2/2") == 0
        check_bought_once(sim, 8)
        sent = len(sim.log)
        assert await call(worker, sim, *command, "--dry-run", "--json") == 0
        told = json.loads(Path("jobs.printed").read_text().splitlines()[-1])
        assert told["dry_run"]["at_most"] == 0
        assert await call(worker, sim, "resume", "out", "--run", run) == 0
        assert await call(worker, sim, "work", "out", "--run", run) == 0
        assert len(sim.log) == sent
        told = await read_status(worker, sim, "out", "--run", run)
        assert (told["states"]["saved"], told["dependents"]["lines"]) == (8, 3)


def test_each_part_records_the_jobs_that_are_blocked(serve: Serve, run: str, capsys: Streams) -> None:
    """Status and report of any process show those of all parts, and of the latest split only."""
    simulator = serve(**FAST)
    nothing = {**CUT, "source": {"job": "bed", "output": 7}, "name": None}
    others = [{**nothing, "source": {"job": "other", "output": output}} for output in (7, 8)]
    write(BED, {**BED, "id": "other"}, nothing, *others)
    command = ["bulk", "jobs.jsonl", "out", "--run", run]

    def count_blocked() -> dict[int, int]:
        capsys.readouterr()
        assert main(["status", "out", "--run", run, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        counts: dict[int, int] = {}
        for one in told["blocked"]:
            line = one["blocked_by"]["line"]
            counts[line] = counts.get(line, 0) + one["jobs"]
        return {**counts, 0: told["unread"]}

    assert main([*command, "--part", "1/2"]) == 1
    assert count_blocked() == {1: 1, 0: 3}
    assert main([*command, "--part", "2/2"]) == 1
    assert count_blocked() == {1: 1, 2: 2, 0: 0}
    assert main([*command, "--part", "1/3"]) == 1
    assert count_blocked() == {1: 1, 0: 2}
    assert main(command) == 1
    assert count_blocked() == {1: 1, 2: 2, 0: 0}
    assert main(["report", "page", "--run", run]) == 0
    jobs = json.loads(Path("page/report.json").read_text())["jobs"]
    assert sorted(job["line"] for job in jobs if job["state"] == "blocked") == [3, 4, 5]
    assert len(simulator.operations) == 2


@pytest.mark.anyio
async def test_a_crash_of_the_database(
    workers: list[KillableRuns], postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker sends nothing more, and ends with exit code 1; started again, it finishes what was paid for."""
    monkeypatch.setenv("SOUNDPIECE_JOURNAL", postgres.url)
    write(*(FX,) * 6)
    words, puts_seen = ("out", "--run", "crash"), 0

    async def crash(request: ReceivedRequest) -> None:
        nonlocal puts_seen
        puts_seen += request.method == "PUT"
        if puts_seen == 3 and request.method == "PUT":
            postgres.kill()

    async with simulate(**FAST, on_request=crash) as sim:
        assert await call(workers[0], sim, "bulk", "jobs.jsonl", *words, "--plan") == 0
        assert await call(workers[0], sim, "work", *words, "--in-flight", "2") == 1
        assert "see to the database, then run the same again" in Path("out.printed").read_text()
        assert 3 <= len(sim.operations) < 6
        await anyio.to_thread.run_sync(postgres.start)
        assert await call(workers[1], sim, "work", *words) == 0
        assert (await read_status(workers[0], sim, *words))["states"]["saved"] == 6
        assert await call(workers[0], sim, "verify", *words, "--full") == 0
        check_bought_once(sim, 6)
    assert len(list(Path("out").iterdir())) == 6


@pytest.mark.parametrize("command", ["work", "resume", "verify"])
def test_a_command_that_writes_migrates_the_tables(
    command: str, serve: Serve, journal_database: Server, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that reads says so; a wrong name makes no run."""
    simulator, name = serve(**FAST), f"older_{uuid4().hex}"
    with psycopg.connect(journal_database.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = journal_database.url.replace("/postgres", f"/{name}")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((Path(__file__).parent / "data" / "journal-postgres-1.sql").read_bytes())
    monkeypatch.setenv("SOUNDPIECE_JOURNAL", url)
    for reading in ("status", "report"):
        assert main([reading, "out", "--run", "album"]) == 2
        assert "must be migrated first" in capsys.readouterr().err
    assert main([command, "out", "--run", "albun"]) == 2
    assert "has no run called 'albun'" in capsys.readouterr().err
    assert main([command, "out", "--run", "album"]) == (command == "verify")  # two files are not there
    assert len(simulator.operations) == (0 if command == "verify" else 2)
    assert main(["status", "out", "--run", "album"]) == 0


COMMANDS = [
    *(["bulk", "jobs.jsonl", "out", *more] for more in ([], ["--plan"], ["--dry-run"], ["--ray", "local"])),
    *([command, "out"] for command in ("work", "resume", "status", "verify", "report")),
]


def test_without_the_extra_the_message_names_it(
    serve: Serve, run: str, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of usage: to repeat the command does not help."""
    simulator, spec = serve(**FAST), importlib.util.find_spec
    write(FX)
    monkeypatch.setattr(journals, "find_spec", lambda name: None if name == "psycopg" else spec(name))
    for words in COMMANDS:
        assert main([*words, "--run", run]) == 2, words
        assert "python -m pip install 'soundpiece-async[postgres]'" in capsys.readouterr().err
    assert simulator.log == []


def test_a_pipeline_is_run_in_parts(serve: Serve, run: str, bucket: Bucket, capsys: Streams) -> None:
    """Each part has whole trees, local files included; blocked jobs are named, and a dry run counts all."""
    simulator = serve(**FAST)
    Path("mix.wav").write_bytes(bytes(1000))
    mix = {"id": "mix", "route": "adapt.separate_stems", "source": {"file": "mix.wav"}, "name": "mix"}
    write(BED, STEMS, CUT, mix, {**CUT, "source": {"job": "mix", "kind": "drum"}, "name": "none"}, FX)
    command = ["bulk", "jobs.jsonl", "out", "--run", run, "--via", f"s3://{BUCKET}/inbox"]
    assert main([*command, "--plan"]) == 2
    assert "4 of 6 lines cannot be planned" in capsys.readouterr().err
    assert main([*command, "--part", "1/2"]) == 0
    assert "3 jobs in part 1/2 of jobs.jsonl, saving to out" in capsys.readouterr().err
    assert len(bucket.objects) == 0
    assert main([*command, "--part", "2/2"]) == 1
    assert "blocked by line 4: no output of kind 'drum'" in capsys.readouterr().err
    assert len(bucket.objects) == 1
    assert len(simulator.operations) == 5
    assert main([*command, "--dry-run", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["dry_run"]
    assert counted["routes"]["adapt.auto_cut_down"] == {"lines": 2, "saved": 1, "blocked": 1, "to_do": 0}
    assert counted["at_most"] == 0
    assert main(["report", "page", "--run", run]) == 0
    assert capsys.readouterr().out == f"{Path('page/report.html')}\n"
    assert main(["verify", "out", "--run", run]) == 0
    assert main(["verify", f"s3://{BUCKET}/out", "--run", run]) == 2
    assert f"s3://{BUCKET}/out is not a local folder" in capsys.readouterr().err
    assert repr(BlockedJobs(cast("Any", None), part=(1, 2))) == "<BlockedJobs 1/2 pages=0 pending=0>"


def test_a_run_whose_jobs_are_taken_over(serve: Serve, run: str, journal_database: Server, capsys: Streams) -> None:
    """It ends by exit code 4, and none of its jobs has failed; the next process finishes them."""
    heirs: list[Part] = []

    async def take_over(request: ReceivedRequest) -> None:
        if request.method == "GET" and not heirs:
            async with Journal.open(journal_database.url, run=run) as heir:
                heirs.append(await heir.take_part(1, 1))

    simulator = serve(**FAST, on_request=take_over)
    write(*(FX,) * 3)
    assert main(["bulk", "jobs.jsonl", "out", "--run", run, "--plan"]) == 0
    assert main(["work", "out", "--run", run]) == 4
    told = capsys.readouterr().err
    assert "3 jobs taken over by another process, which continues: do not start this one again" in told
    assert "0 saved, 0 failed, 0 unfinished, 0 uncertain, 3 taken over" in told
    assert main(["work", "out", "--run", run]) == 0
    check_bought_once(simulator, 3)


def test_status_tells_of_an_empty_account(serve: Serve, run: str, capsys: Streams) -> None:
    """As long as no process has been accepted since."""
    simulator = serve(**FAST, credits=1)
    write(*(FX,) * 2)
    assert main(["bulk", "jobs.jsonl", "out", "--run", run]) == 3
    assert main(["status", "out", "--run", run]) == 0
    told = "stopped by the account: status 402; one job is sent first by the next process"
    assert told in capsys.readouterr().out
    simulator.top_up(1)
    assert main(["work", "out", "--run", run]) == 0
    assert main(["status", "out", "--run", run]) == 0
    assert told not in capsys.readouterr().out
    check_bought_once(simulator, 2)


URL = "postgresql://soundpiece:hidden-one@127.0.0.1:1/postgres"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["work", "out"], 2, "soundpiece work needs a journal in Postgres"),
        (["work", "out", "--journal", "folder"], 2, "needs a journal in Postgres"),
        (["bulk", "jobs.jsonl", "out", "--plan"], 2, "--plan needs a journal in Postgres"),
        (["bulk", "jobs.jsonl", "out", "--part", "1/2"], 2, "--part needs a journal in Postgres"),
        (["work", "out", "--run", "a"], 2, "--run a needs the URL of a Postgres database, and name it"),
        (["work", "out", "--run", "a", "--journal", "folder"], 2, "needs the URL of a Postgres database"),
        (["status", "out", "--journal", URL], 2, "--journal postgresql://127.0.0.1:1/postgres: add --run NAME"),
        (["work", "out", "--run", " ", "--journal", URL], 2, "The name of the run is empty"),
        *(
            (["work", "out", "--run", "a", "--part", part], 2, "K/N")
            for part in ("0/3", "4/3", "3", "a/b", "1/0", "1/")
        ),
        (["verify", "s3://songs/x"], 2, "s3://songs/x is not a local folder, and the journal needs one"),
        (["status", "out", "--run", "a", "--journal", URL, URL], 2, "postgresql://127.0.0.1:1/postgres"),
        (
            ["status", "out", "--run", "a", "--journal", URL],
            1,
            "the journal 'a' failed: postgresql://127.0.0.1:1/postgres",
        ),
        (["work", "out", "--run", "a", "--journal", URL], 1, "nothing more is sent"),
        (["bulk", "jobs.jsonl", "out", "--run", "a", "--journal", URL], 1, "see to the database"),
    ],
)
def test_wrong_usage(words: list[str], code: int, says: str, serve: Serve, capsys: Streams) -> None:
    """One line that says what to do, without the password; nothing is sent. A database may be back: exit code 1."""
    simulator = serve(**FAST)
    write(FX)
    assert main(words) == code
    told = capsys.readouterr()
    assert says in " ".join(told.err.split())
    assert "hidden-one" not in told.err + told.out
    assert simulator.log == []


def test_a_run_that_was_not_planned(serve: Serve, run: str, capsys: Streams) -> None:
    """No worker makes one; neither does one that has no jobs; a dry run of a file sees that all is new."""
    simulator = serve(**FAST)
    write(FX)
    assert main(["bulk", "jobs.jsonl", "out", "--run", run, "--dry-run"]) == 0
    for command in ("work", "status", "verify", "resume", "report"):
        assert main([command, "out", "--run", run]) == 2
        assert f"has no run called {run!r}" in (err := capsys.readouterr().err) or "has no journal" in err
    write()
    assert main(["bulk", "jobs.jsonl", "out", "--run", run, "--plan"]) == 0
    assert main(["work", "out", "--run", run]) == 2
    assert "has no jobs: record them with soundpiece bulk JOBS out --run" in capsys.readouterr().err
    write(FX)
    assert main(["bulk", "jobs.jsonl", "out", "--run", run, "--plan"]) == 0
    assert main(["work", "out", "--run", run, "--dry-run"]) == 2
    assert "to see what is left: soundpiece status out" in capsys.readouterr().err
    assert main(["report", "s3://songs/x", "--run", run]) == 2
    assert main(["status", "out", "--run", run]) == 0
    assert "0 ended in the last 5 min" in capsys.readouterr().out
    Path("file").write_text("")
    assert main(["report", "file", "--run", run]) == 2
    assert "cannot write the report" in capsys.readouterr().err
    assert simulator.log == []


def test_standard_input_is_planned(
    serve: Serve, run: str, journal_database: Server, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy is kept: the jobs are in the journal; a file with dependents has to come again."""
    simulator = serve(**FAST)
    write(FX, {**FX, "name": None})
    with Path("jobs.jsonl").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["bulk", "-", "out", "--run", run, "--journal", journal_database.url]) == 0
    assert "2 jobs in standard input, saving to out" in capsys.readouterr().err
    assert main(["resume", "out", "--run", run]) == 0
    write(BED, STEMS)
    with Path("jobs.jsonl").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["bulk", "-", "out", "--run", run]) == 0
    assert main(["resume", "out", "--run", run]) == 2
    assert f"the run {run!r} in postgresql://127.0.0.1:" in (err := capsys.readouterr().err)
    assert PASSWORD not in err
    assert len(simulator.operations) == 4


@pytest.mark.parametrize(("outcome", "code"), [("saved", 0), ("planned", 1), ("taken over", 4)])
def test_ray_runs_what_was_planned(
    serve: Serve, run: str, capsys: Streams, monkeypatch: pytest.MonkeyPatch, outcome: str, code: int
) -> None:
    """The engine gets the run and the limits; its counts, or its error, are the exit code. Ray itself: tests/ray."""
    serve(**FAST)
    given: dict[str, Any] = {}

    async def run_on_ray(url: str, **options: Any) -> dict[JobState, int]:
        given.update(options, url=url)
        if outcome == "taken over":
            raise TakenOver("job 1 was taken over")
        return {JobState(outcome): 1}

    monkeypatch.setattr("soundpiece_async.engines.ray.run_on_ray", run_on_ray)
    words = ["bulk", write(FX), "out", "--run", run, "--ray", "local", "--workers", "2", "--polls", "7"]
    assert main([*words, "--verify", "full"]) == code
    assert (given["address"], given["workers"], given["run"], given["save_to"]) == ("local", 2, run, Path("out"))
    assert (given["settings"]["limits"].polls, given["settings"]["verify"]) == (7, "full")
    told = capsys.readouterr().err
    assert f"1 {outcome}" in told or code == 4
    assert PASSWORD not in told
    for wrong in ("--plan", "--part=1/2", "--fail-fast"):
        assert main([*words, wrong]) == 2
    write(BED, STEMS)
    assert main(words) == 2
    assert f"Let each process read the file: soundpiece bulk JOBS out --run {run} --part K/N" in capsys.readouterr().err
    assert main(["bulk", "jobs.jsonl", "out", "--ray", "auto"]) == 2


def test_ctrl_c_stops_the_run_on_ray(serve: Serve, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one sets what the engine looks at."""
    serve(**FAST)

    async def run_on_ray(_: str, *, stop: Any, **__: Any) -> dict[JobState, int]:
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        return {JobState.PLANNED: 1}

    monkeypatch.setattr("soundpiece_async.engines.ray.run_on_ray", run_on_ray)
    assert main(["bulk", write(FX), "out", "--run", run, "--ray", "auto"]) == 130

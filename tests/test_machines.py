"""The recipes for many machines: manifests that are parsed, queries and a queue that run, and workers at one rate."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import psycopg
import pytest
import yaml
from helpers.database_servers import Server
from helpers.documents import ROOT, read_blocks
from helpers.idle import until
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate

from soundpiece_async import JobState, Journal, Session
from soundpiece_async._journal.postgres_schema import VERSION
from soundpiece_async.cli.commands import parse_command

pytestmark = pytest.mark.anyio

MACHINES = ROOT / "examples" / "machines"
TABLES = ROOT / "docs" / "tables.md"


def read_part(words: list[str]) -> tuple[int, int]:
    """Return the part of a command line of ours that its parser understands."""
    assert words[0] == "soundpiece"
    assert parse_command(words[1:]) is not None
    number, parts = words[words.index("--part") + 1].split("/")
    return int(number), int(parts)


def expand(script: str, **environ: str) -> list[str]:
    """Return the command line that a shell would run in place of ``exec``."""
    shell = shutil.which("bash") or "bash"
    script = script.replace("exec soundpiece", "printf '%s\\0' soundpiece")
    done = subprocess.run([shell, "-c", script], env=environ, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return done.stdout.split("\0")[:-1]


def test_the_kubernetes_job() -> None:
    """Each index runs its part, counted from 1; what was taken over is not started again, what was killed is."""
    (job,) = yaml.safe_load_all((MACHINES / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # else the policy for failures is refused
    assert "backoffLimitPerIndex" in spec  # else FailIndex is
    (container,) = pod["containers"]
    shell, option, script = container["command"]
    assert (shell, option) == ("sh", "-c")
    parts = [read_part(expand(script, JOB_COMPLETION_INDEX=str(index))) for index in range(spec["completions"])]
    assert parts == [(number, len(parts)) for number in range(1, len(parts) + 1)]
    actions = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            assert rule["onExitCodes"]["operator"] == "In"
            actions |= dict.fromkeys(rule["onExitCodes"]["values"], rule["action"])
        else:
            assert rule["action"] == "Ignore"
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert actions == {4: "FailIndex", 2: "FailJob", 3: "FailJob"}  # 1 and 137, the kill, are repeated


def test_the_slurm_array(tmp_path: Path) -> None:
    """Each task runs its part, also alone; the script is one that bash understands."""
    path = MACHINES / "slurm.sbatch"
    script = path.read_text()
    subprocess.run([shutil.which("bash") or "bash", "-n", str(path)], check=True)  # noqa: S603 - our own
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script, re.MULTILINE))
    first, last = map(int, options["array"].split("-"))
    (tmp_path / ".soundpiece.env").write_text("SOUNDPIECE_API_KEY=spk_1\n")
    home = {"HOME": str(tmp_path), "SLURM_ARRAY_TASK_COUNT": "1"}
    numbers = range(first, last + 1)
    parts = [read_part(expand(script, SLURM_ARRAY_TASK_ID=str(number), **home)) for number in numbers]
    assert parts == [(number, len(parts)) for number in range(1, len(parts) + 1)]
    assert "exec soundpiece work" in script  # or the signal does not arrive
    assert options["signal"].startswith("B:TERM@")
    assert {"requeue"} <= options.keys()


def test_the_compose_file() -> None:
    """One service plans, four work on its parts, and all have one journal and one rate."""
    file = yaml.safe_load((MACHINES / "compose.yaml").read_text())
    services = file["services"]
    ours = {name: one for name, one in services.items() if one.get("command", [""])[0] == "soundpiece"}
    plan = ours.pop("plan")
    assert parse_command(plan["command"][1:]) is not None
    assert "--plan" in plan["command"]
    assert [read_part(service["command"]) for service in ours.values()] == [(number, 4) for number in range(1, 5)]
    stores = services.keys() - ours.keys() - {"plan"}
    assert stores == {"postgres", "valkey"}
    for service in (plan, *ours.values()):
        environ = service["environment"]
        assert environ["SOUNDPIECE_SHARED"].startswith("redis://valkey/")
        assert "@postgres/" in environ["SOUNDPIECE_JOURNAL"]
        runs = [service["command"][service["command"].index(word) + 1] for word in ("--run",)]
        assert runs == ["laptop"]
        assert "out" in service["command"]
        assert service["depends_on"].keys() <= services.keys()
    assert {service["depends_on"]["plan"]["condition"] for service in ours.values()} == {
        "service_completed_successfully"
    }


QUERIES = [block.code.strip().rstrip(";") for block in read_blocks(TABLES) if block.language == "sql"]


async def test_the_tables_can_be_read(journal_database: Server, tmp_path: Path) -> None:
    """Every query of the page returns rows, and the page has every column that it names, and every state."""
    async with (
        simulate(durations=never_finishes) as sim,
        Session(settings(sim)) as session,
        Journal.open(journal_database.url, run="album7") as journal,
        await psycopg.AsyncConnection.connect(journal_database.url, autocommit=True) as connection,
    ):
        await journal.plan((fx(number), f"take-{number}") for number in range(5))
        async with session.run_many(journal.jobs(part=(1, 1)), save_to=tmp_path, journal=journal) as results:
            await until(lambda: len(sim.operations) == 5)
            for number, operation in enumerate(sim.operations):
                sim.finish(operation, failure="no_audio" if number == 2 else None)
            assert sorted([type(result).__name__ async for result in results]) == ["Failed", *["Succeeded"] * 4]
        found = {query: await (await connection.execute(query.encode())).fetchall() for query in QUERIES}
        assert all(found.values()), found
        states, files, failures, _, maker = list(found.values())[1:]
        assert states == [("failed", 1), ("saved", 4)]
        assert {path for _, _, path, _ in files} == {path.name for path in tmp_path.glob("*.flac")}
        assert [(code, count) for _, code, count, _ in failures] == [("no_audio", 1)]
        assert [name for _, name, *_ in maker] == ["take-3"]
        sections = re.split(r"^\*\*`(soundpiece_\w+)`\*\*", TABLES.read_text(), flags=re.MULTILINE)
        columns = await connection.execute(
            "SELECT table_name, array_agg(column_name::text) FROM information_schema.columns "
            "WHERE table_name LIKE 'soundpiece_%' GROUP BY 1"
        )
        known = dict(await columns.fetchall())
        for table, text in zip(sections[1::2], sections[2::2], strict=True):
            rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
            named = set(re.findall(r"`(\w+)`", rows or text.partition("\n")[0]))
            assert named <= set(known[table]), table
    text = TABLES.read_text()
    assert [state for state in JobState if f"`{state}`" not in text] == []
    assert f"version {VERSION}." in text


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, journal_database: Server) -> Any:
    """The example with procrastinate, whose environment is a database."""
    monkeypatch.setenv("SOUNDPIECE_JOURNAL", journal_database.url)
    monkeypatch.syspath_prepend(str(MACHINES))
    monkeypatch.delitem(sys.modules, "queue_tasks", raising=False)
    return importlib.import_module("queue_tasks")


async def test_a_queue_repeats_the_parts_of_a_killed_worker(
    queue: Any, journal_database: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tasks in the same Postgres: operations, keys, jobs and files are equal in number."""
    jobs, url, run = 30, journal_database.url, uuid4().hex
    async with (
        simulate(durations=lambda _: 200) as sim,
        Journal.open(url, run=run) as journal,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
    ):
        for name, value in sim.environ.items():
            monkeypatch.setenv(name, value)
        await journal.plan(fx(number) for number in range(jobs))
        async with queue.app.open_async():
            await queue.app.schema_manager.apply_schema_async()
        for _ in range(2):
            await queue.defer_all(run, str(tmp_path), 3)
        words = [sys.executable, "-m", "procrastinate", "--app=queue_tasks.app", "worker", "--concurrency=2"]
        environ = {**os.environ, "PYTHONPATH": str(MACHINES)}
        async with await anyio.open_process(words, env=environ, stdout=None, stderr=None) as worker:
            with anyio.fail_after(60):
                while JobState.SUBMITTED not in await journal.count():
                    await anyio.sleep(0.02)
            os.kill(worker.pid, signal.SIGKILL)
        await connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute'")
        assert await queue.repeat_lost() == 2
        async with queue.app.open_async():
            await queue.app.run_worker_async(wait=False, concurrency=3, install_signal_handlers=False)
        statuses = await connection.execute("SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY 1")
        assert await statuses.fetchall() == [("succeeded", 3)]
        assert await journal.count() == {JobState.SAVED: jobs}
        keys = {request.key for request in sim.log if request.method == "PUT"}
        assert len(sim.operations) == len(keys) == len(list(tmp_path.glob("*.flac"))) == jobs


RATE, WORKERS = 30.0, 3


async def test_the_workers_of_a_run_keep_one_rate(redis: Server, journal_database: Server, tmp_path: Path) -> None:
    """Three processes with one ceiling send as many requests together as one may, as the service counts them."""
    jobs, run = 30 * WORKERS, uuid4().hex
    async with simulate(durations=lambda _: 20) as sim, Journal.open(journal_database.url, run=run) as journal:
        await journal.plan(fx(number) for number in range(jobs))
        stores = {"SOUNDPIECE_JOURNAL": journal_database.url, "SOUNDPIECE_SHARED": f"{redis.url}?account={run}"}
        environ = {**os.environ, **sim.environ, **stores}

        async def work(number: int) -> None:
            words = ["work", str(tmp_path), "--run", run, "--part", f"{number}/{WORKERS}"]
            words += ["--requests-per-second", str(RATE)]
            await anyio.run_process([sys.executable, "-m", "soundpiece_async", *words], env=environ)

        async with anyio.create_task_group() as group:
            for number in range(1, WORKERS + 1):
                group.start_soon(work, number)
        assert await journal.count() == {JobState.SAVED: jobs}
        assert len(sim.operations) == jobs
        times = [request.arrived for request in sim.log if request.host == "api"]
        assert len(times) >= 2 * jobs
        assert len(times) <= RATE * (max(times) - min(times)) * 1.1 + RATE

"""The command line with a journal in Postgres: one run, many processes."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from helpers.database_servers import PASSWORD, Server
from helpers.object_stores import BUCKET, Bucket, serve_bucket
from helpers.simulation import Serve, puts

from soundpiece_async.cli import main

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

"""``soundpiece bulk``, ``resume``, ``status`` and ``verify`` in this process: output, requests and exit codes."""

import hashlib
import json
import os
import pty
import re
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import attrs
import pytest
import soundfile
from helpers.idle import until
from helpers.object_stores import BUCKET, serve_bucket
from helpers.simulation import Serve, never_finishes, puts, settings
from obstore.store import LocalStore

from soundpiece_async import (
    Journal,
    NewFx,
    SavedFile,
    Session,
    SettingsError,
    SoundpieceError,
    Succeeded,
    TransportError,
)
from soundpiece_async._core import completion
from soundpiece_async._core.job_records import KEY_LIFETIME, JobState
from soundpiece_async._journal.folder_lock import LOCK, FolderLock
from soundpiece_async.cli import main
from soundpiece_async.cli.bulk_options import BulkOptions, JobsFile, LoadOptions, RunPolicy
from soundpiece_async.cli.bulk_progress import shutdown_notice
from soundpiece_async.cli.bulk_run import BulkCommand, _stop_advice
from soundpiece_async.cli.console import format_verify_levels
from soundpiece_async.cli.dependents import Dependents
from soundpiece_async.cli.job_reader import JobReader
from soundpiece_async.cli.job_sources import read_file
from soundpiece_async.cli.journal_options import JournalOptions
from soundpiece_async.cli.results import ResultCounts
from soundpiece_async.cli.signals import GracefulStop
from soundpiece_async.cli.status import read_run_status, to_json
from soundpiece_async.cli.verify import ObjectChecker, Verification
from soundpiece_async.simulator import Fault, Simulator
from soundpiece_async.simulator.request_log import ReceivedRequest

Streams = pytest.CaptureFixture[str]

HERE = JournalOptions().locate(Path("out"))
FAST: dict[str, Any] = {"speed": 2000.0, "track_seconds": (0.1, 0.2)}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with ``jobs.jsonl`` and ``out``."""
    monkeypatch.chdir(tmp_path)


def job_line(number: int, **members: Any) -> dict[str, Any]:
    return {"route": "create.new_fx", "prompt": f"door {number}", "duration": 0.1, **members}


def write(lines: Iterable[object], name: str = "jobs.jsonl") -> str:
    Path(name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return name


def bulk(*flags: str) -> int:
    return main(["bulk", "jobs.jsonl", "out", *flags])


def count() -> dict[JobState, int]:
    async def look() -> dict[JobState, int]:
        async with Journal.open("out", read_only=True) as journal:
            return await journal.count()

    return anyio.run(look)


def edit(statement: str, *values: object) -> None:
    async def change() -> None:
        async with Journal.open("out") as journal:
            await journal.store._execute(lambda connection: connection.execute(statement, values))

    anyio.run(change)


@pytest.mark.parametrize("lines", [20, 3])
def test_a_removed_folder_ends_the_run(serve: Serve, capsys: Streams, lines: int) -> None:
    """The message says that the journal is gone, and does not promise a resume; also after the last line."""

    def remove(request: ReceivedRequest) -> None:
        if len(puts(simulator)) == 3 and request.method == "PUT" and Path("out").exists():
            Path("out").rename("gone")

    simulator = serve(on_request=remove, **FAST)
    write([job_line(number) for number in range(lines)])
    assert bulk("--in-flight", "2") == 1
    err = capsys.readouterr().err
    assert "out/journal.sqlite3 was moved, removed or replaced" in err
    assert "nothing is paid for twice" not in err
    assert len(puts(simulator)) < 7


def test_every_line_is_saved(serve: Serve, capsys: Streams) -> None:
    """The paths are printed; the second run sends nothing and prints them with --all only (E9)."""
    simulator = serve(**FAST)
    write(
        [
            job_line(1, name="same"),
            job_line(1, name="same"),
            job_line(2, metadata=["kept"]),
            {
                "route": "adapt.separate_stems",
                "source": {"url": "https://media.example.com/a.wav"},
                "name": "../../mix",
            },
        ]
    )
    assert bulk() == 0
    out, err = capsys.readouterr()
    paths = sorted(out.splitlines())
    names = {Path(path).name for path in paths}
    assert {"same.flac", "same-2.flac", "_.._mix-vocals.flac"} <= names
    assert len(paths) == len(names) == 7
    assert {Path(path).parent for path in paths} == {Path("out")}
    assert all(len(soundfile.read(path)[0]) for path in paths)
    assert "4 lines: 4 saved, 0 failed, 0 unfinished, 0 uncertain, 0 left; 7 files" in err
    sent = len(simulator.log)
    assert bulk() == 0
    out, err = capsys.readouterr()
    assert (out, "0 new; 4 results of earlier runs not printed (use --all)" in err) == ("", True)
    assert main(["resume", "out", "--all"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == paths
    assert len(simulator.log) == sent
    assert len(simulator.operations) == 4
    assert simulator.api_key not in out + err
    assert count() == {JobState.SAVED: 4}


def test_json_is_one_line_for_each_result(serve: Serve, capsys: Streams) -> None:
    """With line, name, metadata and files; the last line is the summary."""
    serve(**FAST).inject(Fault.FAIL, code="too_loud")
    write([job_line(1, name="one", metadata={"n": 1})])
    assert bulk("--json") == 1
    failed, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (failed["line"], failed["name"], failed["metadata"], failed["status"]) == (1, "one", {"n": 1}, "failed")
    assert failed["error"]["kind"] == "OperationFailed"
    assert "too_loud" in failed["error"]["text"]
    assert failed["files"] == []
    assert (summary["summary"]["lines"], summary["summary"]["failed"]) == (1, 1)
    assert bulk("--json", "--retry-failed") == 0
    saved, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert saved["id"] != failed["id"]
    assert saved["idempotency_key"] != failed["idempotency_key"]
    (file,) = saved["files"]
    assert (file["path"], file["bytes"]) == ("out/one.flac", Path("out/one.flac").stat().st_size)
    assert (summary["summary"]["saved"], summary["summary"]["files"]) == (1, 1)


def test_invalid_lines_are_printed_before_anything_is_sent(serve: Serve, capsys: Streams) -> None:
    """The first twenty and their number; nothing is created, not even the folder."""
    simulator = serve(**FAST)
    write([job_line(0), *(job_line(number, prompt="x" * 2000) for number in range(25))])
    assert bulk() == 2
    out, err = capsys.readouterr()
    *printed, last = err.splitlines()
    assert out == ""
    assert len(printed) == 20
    assert printed[0] == "jobs.jsonl:2: prompt: has 2000 characters, and must have 1 to 1024"
    assert "jobs.jsonl: 25 of 26 lines invalid (the first 20 are printed above); nothing was sent" in last
    write([job_line(0), job_line(1, colour="red")])
    assert bulk("--dry-run") == 2
    assert "jobs.jsonl: 1 of 2 lines invalid; nothing was sent" in capsys.readouterr().err
    assert simulator.log == []
    assert not Path("out").exists()


def test_an_invalid_line_at_the_end_of_fifty_megabytes(serve: Serve, capsys: Streams) -> None:
    """It is found before the first line is sent."""
    simulator = serve(**FAST)
    line = json.dumps(job_line(1, metadata="x" * 100_000)) + "\n"
    with Path("jobs.jsonl").open("w") as file:
        file.writelines([line] * 500)
        file.write('{"route": "create.new_fx", "prompt": "", "duration": 1}')
    assert Path("jobs.jsonl").stat().st_size > 50e6
    assert bulk() == 2
    assert capsys.readouterr().err.startswith("jobs.jsonl:501: prompt: has 0 characters")
    assert simulator.log == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bulk", "nowhere.jsonl", "out"], "nowhere.jsonl cannot be read: No such file"),
        (["bulk", ".", "out"], ". is not a regular file"),
        (["bulk", "jobs.jsonl", "jobs.jsonl"], "cannot hold a journal"),
        (["bulk", "jobs.jsonl", "out", "--polls", "0"], "--polls"),
        (["bulk", "jobs.jsonl", "out", "--max-failures", "0"], "--max-failures"),
        (["bulk", "jobs.jsonl", "out", "--verify", "hard"], "--verify"),
        (["bulk", "jobs.jsonl", "out", "--requests-per-second", "0"], "--requests-per-second"),
        (["resume", "out"], "check that it is there"),
        (["status", "out"], "check that it is there"),
        (["verify", "out"], "check that it is there"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, serve: Serve, capsys: Streams) -> None:
    """One line, exit code 2, and nothing is sent."""
    simulator = serve(**FAST)
    write([job_line(1)])
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("soundpiece: ")
    assert simulator.log == []


def test_a_missing_key_is_a_usage_error(serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    """It is found before a long file is validated; a dry run needs no key."""
    serve(**FAST)
    monkeypatch.delenv("SOUNDPIECE_API_KEY")
    write([job_line(1)])
    assert bulk() == 2
    assert "SOUNDPIECE_API_KEY" in capsys.readouterr().err
    assert bulk("--dry-run") == 0
    assert not Path("out").exists()


def test_an_empty_account_stops_the_run(serve: Serve, capsys: Streams) -> None:
    """Exit code 3 with advice; after topping up, the same command resumes with the same keys, at no extra cost."""
    simulator = serve(credits=3, **FAST)
    write(job_line(number) for number in range(40))
    assert bulk("--in-flight", "4") == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "40 lines: 3 saved, 0 failed, 0 unfinished, 0 uncertain, 37 left" in err
    assert "stopped by an account error: " in err
    assert (
        "top up the account in the dashboard; then run the same command again, or soundpiece resume out; keys are kept"
        in err
    )
    assert len(puts(simulator)) < 12
    assert main(["status", "out"]) == 0
    assert "lines of the jobs file not started" in capsys.readouterr().out
    simulator.top_up(40)
    assert bulk("--in-flight", "4") == 0
    assert len(capsys.readouterr().out.splitlines()) == 37
    assert len(simulator.operations) == len(dict(puts(simulator))) == 40
    bodies = Counter(puts(simulator))
    assert len(bodies) == 40


def test_after_402_submitted_jobs_are_still_awaited(serve: Serve) -> None:
    """Wherever their lines are now; nothing is sent for them."""
    simulator = serve(credits=1, **{**FAST, "durations": never_finishes})
    write([job_line(0)])
    assert bulk("--job-timeout", "0.05") == 1
    assert count() == {JobState.SUBMITTED: 1}
    for operation in simulator.operations:
        simulator.finish(operation)
    write(job_line(number) for number in reversed(range(500)))
    assert bulk("--in-flight", "2") == 3
    assert count()[JobState.SAVED] == 1
    assert len(puts(simulator)) < 20


def test_a_rejected_key_stops_the_run(serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    """Exit code 3 after few requests, whatever the number of lines."""
    simulator = serve(**FAST)
    monkeypatch.setenv("SOUNDPIECE_API_KEY", "spk_wrong")
    write(job_line(number) for number in range(500))
    assert bulk("--in-flight", "20") == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "check SOUNDPIECE_API_KEY" in err
    assert "spk_wrong" not in err
    assert len(simulator.log) <= 20


@pytest.mark.parametrize(("flags", "most"), [(["--fail-fast"], 1), (["--max-failures", "3"], 3)])
def test_failures_may_stop_the_run(serve: Serve, capsys: Streams, flags: list[str], most: int) -> None:
    """Failures of this run only: those of earlier runs stop nothing and are not retried."""
    simulator = serve(**FAST)
    simulator.inject(Fault.FAIL, times=2 * most)
    write(job_line(number) for number in range(20))
    for run in range(1, 3):
        assert bulk("--in-flight", "1", *flags) == 1
        assert count()[JobState.FAILED] == run * most
    assert bulk(*flags) == 1
    assert count() == {JobState.FAILED: 2 * most, JobState.SAVED: 20 - 2 * most}
    assert "not all jobs are done" in capsys.readouterr().err
    assert len(simulator.operations) == 20


def test_many_failures_are_abridged(serve: Serve, capsys: Streams) -> None:
    """Twenty are printed, and the command that lists the reasons of all."""
    serve(**FAST).inject(Fault.FAIL, times=23)
    write(job_line(number) for number in range(23))
    assert bulk() == 1
    err = capsys.readouterr().err
    assert len(re.findall(r"^jobs.jsonl:\d+: failed: ", err, re.MULTILINE)) == 20
    assert "the first 20 failures are printed above; for all reasons: soundpiece status out" in err
    assert "--retry-failed" in err


def test_a_file_that_changes_during_the_run_is_an_error(
    serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs in flight are finished; exit code 2."""
    simulator = serve(**FAST)
    write([job_line(1), job_line(2, prompt="")])

    async def overlook(*_: object) -> tuple[int, Dependents]:
        return 2, Dependents()

    monkeypatch.setattr("soundpiece_async.cli.bulk.validate_file", overlook)
    for flags in ((), ("--dry-run",)):
        assert bulk(*flags) == 2
        assert "jobs.jsonl was changed during the run; jobs.jsonl:2: prompt: has 0 char" in capsys.readouterr().err
    assert len(simulator.operations) == 1


@pytest.mark.anyio
async def test_a_run_shows_its_state(sim: Simulator) -> None:
    """The repr of every long-lived object shows its state."""
    file = JobsFile(path=Path(write([job_line(1)])))
    options = BulkOptions(location=HERE, load=LoadOptions(), policy=RunPolicy())
    async with Session(settings(sim)) as session, Journal.open("out") as journal:
        totals, none = ResultCounts(1), Dependents()
        reader = JobReader(read_file(file, none, journal), none, journal=journal, totals=totals)
        run = BulkCommand(options, file=file, reader=reader, totals=totals, journal=journal, session=session)
        assert repr(run).startswith("<BulkCommand <JobReader in_flight=0 awaited=0> ResultCounts(lines=1")
        await run.run()
        looked = Verification(journal, HERE, inspect=None, set_aside=False, as_json=False)
        await looked.run()
        assert repr(looked).startswith("<Verification {'whole': 1")
    assert run.finish() == looked.finish() == 0
    assert repr(GracefulStop(print)).startswith("<GracefulStop ")


@pytest.mark.anyio
async def test_a_long_verification_prints_its_progress(monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    """Every few seconds, on standard error."""
    monkeypatch.setattr("soundpiece_async.cli.verify.INTERVAL", 0.001)
    async with Journal.open("out") as journal:
        looked = Verification(journal, HERE, inspect=None, set_aside=False, as_json=False)
        async with anyio.create_task_group() as group:
            group.start_soon(looked._print_progress)
            await until(lambda: "0 files, 0 B\n" in capsys.readouterr().err)
            group.cancel_scope.cancel()


def test_a_dry_run_prints_the_work(serve: Serve, capsys: Streams) -> None:
    """Counts by route, and an estimate of the time from finished jobs; nothing is sent."""
    simulator = serve(**FAST)
    song = {"route": "create.new_song", "lyrics": "la", "prompt": "pop", "idempotency_key": str(UUID(int=7))}
    write([job_line(1), job_line(1), job_line(2), song])
    assert bulk("--dry-run") == 0
    out = capsys.readouterr().out
    assert "estimated time unknown" in out
    assert re.search(r"create.new_fx +3 +0 +0 +0 +0 +3 *\n", out)
    simulator.inject(Fault.FAIL, route="create.new_song")
    assert bulk() == 1
    sent = len(simulator.log)
    write([job_line(1), job_line(1), job_line(2), job_line(3), job_line(1), song])
    capsys.readouterr()
    assert bulk("--dry-run") == 0
    out = capsys.readouterr().out
    assert re.search(r"create.new_fx +5 +3 +0 +0 +0 +2 *\n", out)
    assert re.search(r"create.new_song +1 +0 +0 +1 +0 +0 *\n", out)
    assert re.search(r"all +6 +3 +0 +1 +0 +2 *\n", out)
    assert "from 3 jobs so far" in out
    assert main(["resume", "out", "--dry-run", "--json", "--retry-failed", "--requests-per-second", "0.5"]) == 0
    plan = json.loads(capsys.readouterr().out)["dry_run"]
    assert plan["routes"]["create.new_fx"] == {"lines": 5, "saved": 3, "new": 2, "to_do": 2}
    assert plan["routes"]["create.new_song"] == {"lines": 1, "failed": 1, "to_do": 1}
    assert plan["seconds"] > 2 * 3 / 0.5
    assert len(simulator.log) == sent
    write([job_line(1)])
    assert bulk("--dry-run") == 0
    assert "nothing left to do" in capsys.readouterr().out
    Path("out/journal.sqlite3").write_bytes(b"RIFF" * 1000)
    assert bulk("--dry-run") == 2
    assert "is damaged" in capsys.readouterr().err


def test_resume_remembers_the_file_and_the_options(
    serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder; new options win; new lines are run; the jobs file and the folder may have moved."""
    serve(**FAST)
    write([job_line(1)])
    assert bulk("--verify", "full", "--polls", "7", "--job-timeout", "9.5") == 0
    write([job_line(1), job_line(2)])
    Path("moved").mkdir()
    monkeypatch.chdir("moved")
    assert main(["resume", "../out", "--polls", "8"]) == 0
    out, err = capsys.readouterr()
    assert "jobs.jsonl has changed since the last run" in err
    assert len({Path(path).name for path in out.splitlines()}) == 2
    monkeypatch.chdir("..")
    for name in ("jobs.jsonl", "out"):
        Path(name).rename(Path("moved", name))
    assert main(["resume", "moved/out"]) == 0
    assert "has changed" not in capsys.readouterr().err

    async def look() -> dict[str, Any]:
        async with Journal.open("moved/out", read_only=True) as journal:
            return await journal.store.load_run_info()

    kept = anyio.run(look)
    assert kept["options"] == {"verify": "full", "polls": 8, "job_timeout": 9.5}
    assert (kept["jobs"], kept["lines"]) == (str(Path("moved/jobs.jsonl").absolute()), 2)
    Path("moved/jobs.jsonl").unlink()
    assert main(["resume", "moved/out"]) == 2
    assert "jobs.jsonl cannot be read" in capsys.readouterr().err


def test_resume_needs_a_run_of_bulk(capsys: Streams) -> None:
    """The journal of a program has no jobs file; invalid options in a journal are ignored or rejected."""

    async def make(**members: Any) -> None:
        async with Journal.open("out") as journal:
            await journal.store.save_run_info(**members)

    anyio.run(make)
    assert main(["resume", "out"]) == 2
    assert "has no bulk run. Start one with: soundpiece bulk JOBS out" in capsys.readouterr().err
    write([])
    anyio.run(partial(make, jobs="jobs.jsonl", options=["junk"]))
    assert main(["resume", "out", "--dry-run"]) == 0
    anyio.run(partial(make, options={"polls": "many", "colour": "red"}))
    assert main(["resume", "out", "--dry-run"]) == 2
    assert "polls must be a whole number" in capsys.readouterr().err


def test_a_folder_has_one_run(serve: Serve, capsys: Streams) -> None:
    """A second run ends at once with exit code 2 and names the first; status works."""
    serve(**FAST)
    write([job_line(1)])
    assert bulk() == 0
    lock = FolderLock(Path("out", "journal.lock"))
    assert lock.holder() is None
    lock.acquire(now=datetime.now(UTC))
    capsys.readouterr()
    assert bulk() == 2
    assert f"out is locked by process {os.getpid()} on " in capsys.readouterr().err
    assert main(["status", "out"]) == 0
    assert f"running: process {os.getpid()} on " in capsys.readouterr().out
    lock.release()
    assert main(["status", "out"]) == 0
    assert "not running" in capsys.readouterr().out
    assert FolderLock(Path("nowhere", "journal.lock")).holder() is None


def test_status_counts_jobs_by_state(serve: Serve, capsys: Streams) -> None:
    """While the run is active and afterwards, with reasons of failures and uncertain jobs."""
    seen: list[dict[str, Any]] = []

    async def look(request: ReceivedRequest) -> None:
        if request.host == "output" and not seen:
            seen.append(to_json(await read_run_status(HERE)))

    simulator = serve(on_request=look, **FAST)
    simulator.inject(Fault.FAIL, route="create.new_sample", code="too_loud", times=2)
    sample = {"route": "create.new_sample", "prompt": "kick", "duration": 0.1}
    write([sample, sample, *(job_line(number) for number in range(5))])
    assert bulk("--in-flight", "1") == 1
    capsys.readouterr()
    (meanwhile,) = seen
    assert (meanwhile["states"]["failed"], meanwhile["states"]["ready"], meanwhile["unread"]) == (2, 1, 4)
    assert f"process {os.getpid()} on" in meanwhile["worked_on_by"]
    assert meanwhile["seconds_left"] > 0
    edit("UPDATE job SET state = 'sending', sent_at = sent_at - ? WHERE number = 7", KEY_LIFETIME)
    assert main(["status", "out"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"create.new_fx +0 +0 +0 +0 +4 +0 +1 *\n", out)
    assert re.search(r"all +0 +0 +0 +0 +4 +2 +1 *\n", out)
    assert "2 failed: OperationFailed too_loud, for example: " in out
    assert "--resubmit-uncertain sends uncertain jobs again" in out
    assert main(["status", "out", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert (after["lines"], after["unread"], after["seconds_left"], after["worked_on_by"]) == (7, 0, None, None)
    assert [(reason["code"], reason["number"]) for reason in after["reasons"]] == [("too_loud", 2)]
    assert [job["route"] for job in after["uncertain"]] == ["create.new_fx"]
    edit("UPDATE job SET operation = NULL, outputs = NULL WHERE number = 7")
    edit("UPDATE job SET error_kind = 'DownloadError', error_code = '' WHERE number = 1")
    assert main(["status", "out"]) == 0
    assert "1 failed: DownloadError, for example: " in capsys.readouterr().out
    edit("UPDATE job SET error_kind = 'OperationFailed', error_code = 'too_loud' WHERE number = 1")
    assert bulk() == 1
    assert "0 unfinished, 1 uncertain, 0 left" in capsys.readouterr().err
    assert bulk("--resubmit-uncertain") == 1
    assert count() == {JobState.SAVED: 5, JobState.FAILED: 2}
    assert len(simulator.operations) == 7


def test_verify_finds_changed_files(serve: Serve, capsys: Streams) -> None:
    """Missing, truncated, changed at the same size, or with another MD5 than in its header."""
    serve(**FAST)
    write(job_line(number, name=f"f{number}") for number in range(5))
    assert bulk() == 0
    capsys.readouterr()
    assert main(["verify", "out", "--full"]) == 0
    printed = capsys.readouterr().err
    assert re.fullmatch(r"5 files, \d+ kB: 0 bad\nchecks passed: 5 full \(every frame decoded\)\n", printed)
    Path("out/f0.flac").unlink()
    with Path("out/f1.flac").open("ab") as file:
        file.write(b"x")
    changed = Path("out/f2.flac").read_bytes()[:-1] + b"\0"
    Path("out/f2.flac").write_bytes(changed)
    digest = hashlib.sha256(changed).hexdigest()
    edit("UPDATE job SET files = json_set(files, '$[0].url', 'memory:///f4.flac') WHERE name = 'f4'")
    assert main(["verify", "out"]) == 1
    out, err = capsys.readouterr()
    assert sorted(line.partition(":")[0] for line in out.splitlines()) == [f"out/f{number}.flac" for number in range(3)]
    assert "cannot be read: No such file" in out
    assert "bytes instead of" in out
    assert "sha256 differs from that of the saved file" in out
    assert "4 files" in err
    assert "3 bad; 1 object not checked" in err
    edit("UPDATE job SET files = json_set(files, '$[0].sha256', ?) WHERE name = 'f2'", digest)
    assert main(["verify", "out", "--json"]) == 1
    capsys.readouterr()
    assert main(["verify", "out", "--json", "--full"]) == 1
    *bad, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert {line["path"] for line in bad} == {f"out/f{number}.flac" for number in range(3)}
    assert summary == {"summary": {"files": 4, "bad": 3, "not_checked": 1, "verified": {"full": 1}}}


def test_the_checks_that_files_have_passed_are_printed(serve: Serve, capsys: Streams) -> None:
    """By verify, status and the report, with the command for the full check; results are recorded."""
    serve(**FAST)
    write(job_line(number, name=f"f{number}") for number in range(3))
    assert bulk() == 0
    header = "checks passed: 3 header (size and FLAC header checked, audio not decoded)"
    advice = "soundpiece verify out --full decodes every frame"
    capsys.readouterr()
    assert main(["verify", "out"]) == 0
    assert capsys.readouterr().err.splitlines()[1:] == [header, advice]
    assert main(["status", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [header, advice]
    assert json.loads(Path("out/report.json").read_text())["summary"]["verified"] == {"header": 3}

    forget = "UPDATE job SET files = json_remove(files, '$[0].verified') WHERE name = 'f2'"
    edit(forget)  # as earlier versions wrote it
    assert main(shlex.split(advice)[1:4]) == 0
    capsys.readouterr()
    assert main(["status", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] == {"full": 3}
    assert main(["status", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "checks passed: 3 full (every frame decoded)"

    edit(forget)
    assert main(["verify", "out"]) == 0
    assert "2 full (every frame decoded); 1 unknown (saved by an earlier version)" in capsys.readouterr().err


def test_no_checks_are_printed_without_files() -> None:
    """The run has saved none yet."""
    assert format_verify_levels({}, arguments="out") == []


def test_verify_during_a_run(serve: Serve, capsys: Streams) -> None:
    """The results are not recorded, and a message says so."""
    serve(**FAST)
    write([job_line(1)])
    assert bulk() == 0
    lock = FolderLock(Path("out", LOCK))
    lock.acquire(now=datetime.now(UTC))
    try:
        assert main(["verify", "out", "--full"]) == 0
    finally:
        lock.release()
    assert "the results were not recorded: " in capsys.readouterr().err
    assert main(["status", "out"]) == 0
    assert "checks passed: 1 header" in capsys.readouterr().out


def test_damaged_files_are_set_aside_and_downloaded_again(serve: Serve, capsys: Streams) -> None:
    """Nothing is submitted, and the damaged file is kept."""
    simulator = serve(**FAST)
    write(job_line(number, name=f"f{number}") for number in range(3))
    assert bulk() == 0
    whole = Path("out/f1.flac").read_bytes()
    Path("out/f1.flac").write_bytes(whole[:-1] + b"\0")
    Path("out/f2.flac").unlink()
    capsys.readouterr()
    assert main(["verify", "out", "--set-aside"]) == 1
    printed = sorted(capsys.readouterr().out.splitlines())
    assert printed[0] == ("out/f1.flac: sha256 differs from that of the saved file; renamed to out/f1.flac.damaged")
    assert printed[1].startswith("out/f2.flac: cannot be read")
    assert "renamed" not in printed[1]
    assert main(["resume", "out"]) == 0
    assert main(["verify", "out", "--full"]) == 0
    assert Path("out/f1.flac").read_bytes() == whole
    assert Path("out/f1.flac.damaged").read_bytes() == whole[:-1] + b"\0"
    assert not Path("out/f2.flac.damaged").exists()
    assert len(puts(simulator)) == 3


def slow(seconds: float) -> dict[str, Any]:
    """Make operations take so many seconds of real time."""
    return {**FAST, "durations": {"create.new_fx": seconds * FAST["speed"]}}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_jobs_in_flight(serve: Serve, capsys: Streams, number: signal.Signals) -> None:
    """No more jobs are submitted, the time is estimated, the exit code is 130, and the same command resumes."""
    arrived: Counter[str] = Counter()

    def interrupt(request: ReceivedRequest) -> None:
        arrived[request.method] += 1
        if request.method == "PUT" and arrived["PUT"] == 6:
            os.kill(os.getpid(), number)

    simulator = serve(on_request=interrupt, **slow(0.15))
    write(job_line(number) for number in range(30))
    assert bulk("--in-flight", "3") == 130
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(simulator.operations) <= 9
    printed = r"interrupted: no more jobs are submitted; [0-3] jobs? in flight will finish"
    assert re.search(rf"{printed}( in at most about| [(]time unknown[)]|[.] Interrupt again)", err)
    assert err.splitlines()[-1] == "interrupted"
    assert set(count()) <= {JobState.SAVED, JobState.PLANNED}  # one that was about to be sent stays planned
    assert count()[JobState.SAVED] == len(simulator.operations)
    assert bulk() == 0
    assert len(simulator.operations) == 30


@pytest.mark.parametrize(
    ("jobs", "longest", "paused_for", "printed"),
    [
        (0, None, 3600, "0 jobs in flight will finish. Interrupt"),
        (1, None, 0.2, "1 job in flight will finish (time unknown). Interrupt"),
        (2, 40, 0, "2 jobs in flight will finish in at most about 40 s. Interrupt"),
        (2, 40, 3600, "at most about 40 s, after the pause of 60 min that the service asked for. Interrupt"),
    ],
)
def test_the_notice_after_a_signal_estimates_the_time(
    jobs: int, longest: float | None, paused_for: float, printed: str
) -> None:
    assert printed in shutdown_notice(jobs, longest=longest, paused_for=paused_for)


def test_one_signal_is_enough_while_the_gate_is_closed(serve: Serve, capsys: Streams) -> None:
    """Jobs that wait for the pause of a 429 were not sent, and are not waited for."""
    simulator = serve(on_request=lambda _: os.kill(os.getpid(), signal.SIGINT), **FAST)
    simulator.inject(Fault.RATE_LIMITED, seconds=3600)
    write(job_line(number) for number in range(30))
    assert bulk("--in-flight", "1") == 130
    assert "30 lines: 0 saved, 0 failed, 0 unfinished, 0 uncertain, 30 left" in capsys.readouterr().err
    assert count() == {JobState.PLANNED: 1}


def test_a_second_signal_stops_at_once(serve: Serve, capsys: Streams) -> None:
    """Even if nothing in flight would ever finish; and nothing is lost."""
    puts_seen = 0

    def interrupt(request: ReceivedRequest) -> None:
        nonlocal puts_seen
        puts_seen += request.method == "PUT"
        if (request.method == "PUT" and puts_seen == 3) or (request.method == "GET" and puts_seen >= 3):
            os.kill(os.getpid(), signal.SIGINT)

    simulator = serve(on_request=interrupt, **{**FAST, "durations": never_finishes})
    write(job_line(number) for number in range(10))
    assert bulk("--in-flight", "3") == 130
    assert count() == {JobState.SUBMITTED: 3}
    err = capsys.readouterr().err
    assert "0 saved" not in err
    assert re.search(r"stopped with [0-3] jobs? in flight; the journal .*: soundpiece resume out\n", err)
    assert len(simulator.operations) == 3


@pytest.mark.parametrize(
    ("stop_error", "printed"),
    [
        (TransportError("no response"), "check SOUNDPIECE_BASE_URL and the network; then "),
        (SettingsError("no space"), ""),
    ],
)
def test_advice_after_a_stop(stop_error: SoundpieceError, printed: str) -> None:
    """The message of a SettingsError contains its own."""
    assert _stop_advice(stop_error) == printed


def test_the_notice_counts_unanswered_requests() -> None:
    """They may have been accepted, and are not counted as jobs in flight."""
    printed = shutdown_notice(0, longest=None, paused_for=0, unanswered=2)
    assert "2 requests without a response may have been accepted" in printed


def test_a_signal_before_the_first_request_is_not_lost(serve: Serve, capsys: Streams) -> None:
    """While the file is validated nothing is in flight: the command ends at once."""
    simulator = serve(**FAST)
    write(job_line(number) for number in range(20_000))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    assert bulk() == 130
    timer.join()
    assert len(simulator.operations) < 20_000
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_a_name_that_cannot_be_saved_costs_nothing(serve: Serve, capsys: Streams) -> None:
    """Another file is in the way: every advice of the message helps, and nothing is paid for twice (B5)."""
    simulator = serve(**FAST)
    write([job_line(0, name="door"), job_line(1, name="gate"), job_line(2)])
    Path("out").mkdir()
    for name in ("door", "gate"):
        Path("out", f"{name}.flac").write_bytes(b"foreign")
    assert bulk() == 1
    said = capsys.readouterr().err
    assert (
        said.count(
            "it already exists with different content; choose another name or folder, or remove it (output 0 of "
        )
        == 2
    )
    assert "overwrite" not in said
    assert "--retry-failed" not in said
    assert "are downloaded by the next run at no cost" in said

    write([job_line(0, name="bell"), job_line(1, name="gate"), job_line(2)])
    Path("out/gate.flac").unlink()
    assert bulk() == 0
    assert {path.name for path in Path("out").glob("*.flac")} >= {"bell.flac", "door.flac", "gate.flac"}
    assert Path("out/door.flac").read_bytes() == b"foreign"
    assert len(simulator.operations) == 3


def test_a_removed_line_frees_its_name(serve: Serve, capsys: Streams) -> None:
    """Another line gets it; while both lines exist, the second one gets a number."""
    serve(**FAST)
    write([job_line(0, name="door"), job_line(1, name="door")])
    Path("out").mkdir()
    Path("out/door.flac").write_bytes(b"foreign")
    assert bulk("--in-flight", "1") == 1
    assert Path("out/door-2.flac").exists()

    Path("out/door.flac").unlink()
    write([job_line(1, name="door"), job_line(2, name="door")])
    assert bulk() == 0
    assert {path.name for path in Path("out").glob("*.flac")} == {"door.flac", "door-2.flac"}
    capsys.readouterr()


def test_echo_differences_are_counted_and_no_failure(serve: Serve, capsys: Streams) -> None:
    """Lyrics that end in a newline are generated; summary, ``status`` and report count the differences."""
    simulator = serve(**FAST, variations=["echo=strip"])
    write([job_line(number, prompt=f"door {number}\n") for number in range(3)] + [job_line(4)])

    assert bulk("--json") == 0
    *lines, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert sorted(line["echo_differences"] for line in lines) == [[], ["prompt"], ["prompt"], ["prompt"]]
    assert summary["summary"]["echo_differences"] == {"prompt": 3}
    assert bulk() == 0  # out of the journal
    assert "fields echoed by the service with different values: prompt (3); not a failure" in capsys.readouterr().err
    assert main(["status", "out"]) == 0
    assert "with different values: prompt (3)" in capsys.readouterr().out
    assert main(["status", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["echo_differences"] == {"prompt": 3}
    report = json.loads(Path("out/report.json").read_text())
    assert report["summary"]["echo_differences"] == {"prompt": 3}
    assert [job["echo_differences"] for job in report["jobs"]].count(["prompt"]) == 3
    assert len(simulator.operations) == 4


def test_ready_without_outputs_is_unfinished(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """By exit code and summary; the next run polls again and submits nothing."""
    monkeypatch.setattr(completion, "AGREE_AFTER", 0.05)
    simulator = serve(**FAST, variations=["outputs=null"])
    write([job_line(1)])

    for _ in range(2):
        assert bulk() == 1
        printed = capsys.readouterr()
        assert "0 saved, 0 failed, 1 unfinished" in printed.err
        assert "has no outputs; it is paid for" in printed.err
        assert printed.out == ""
        assert count() == {JobState.SUBMITTED: 1}
    assert len(simulator.operations) == 1


async def save_into(simulator: Simulator, to: Any, number: int = 1) -> SavedFile:
    """Run one request as a program would, with a journal in ``out``."""
    async with (
        Session(settings(simulator)) as session,
        Journal.open("out") as journal,
        session.run_many([NewFx(f"door {number}", duration=0.1)], save_to=to, journal=journal) as results,
    ):
        (result,) = [result async for result in results]
    assert isinstance(result, Succeeded)
    return result.files[0]


def test_verify_checks_objects(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted and overwritten objects are found, and downloaded again by the next run at no cost (F12)."""
    simulator = serve(**FAST)
    with serve_bucket() as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        saved = anyio.run(save_into, simulator, f"s3://{BUCKET}/x")
        (key,) = bucket.objects
        assert main(["verify", "out"]) == 0
        assert "1 file, " in capsys.readouterr().err

        for damage, fault in (
            (bucket.objects.clear, "is missing"),
            (partial(bucket.objects.update, {key: b"x"}), "has 1 bytes"),
        ):
            damage()
            assert main(["verify", "out", "--set-aside"]) == 1
            assert f"{saved.url}: {fault}" in capsys.readouterr().out
            again = anyio.run(save_into, simulator, f"s3://{BUCKET}/x")
            assert attrs.evolve(again, output=saved.output) == saved  # its URL was signed anew
            assert len(bucket.objects[key]) == saved.bytes
            assert main(["verify", "out"]) == 0
        assert len(simulator.operations) == 1

        anyio.run(save_into, simulator, f"s3://{BUCKET}/x", 2)
        bucket.rights = {"put"}
        capsys.readouterr()
        assert main(["verify", "out", "--json"]) == 0
        out, err = capsys.readouterr()
        assert '"not_checked": 2' in out
        assert err.count("not checked: s3://songs/x/ cannot be read: ") == 1
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert main(["verify", "out"]) == 0
        assert f"is at {bucket.url}, but the environment selects http://127.0.0.1:9" in capsys.readouterr().err


def test_an_object_checker_shows_its_state() -> None:
    """The number of concurrent requests."""
    assert repr(ObjectChecker()) == "<ObjectChecker <Destinations stores=[]> asking=0>"


def test_verify_checks_a_store_that_is_a_folder(serve: Serve, capsys: Streams, tmp_path: Path) -> None:
    """As a folder: a truncated file is found."""
    simulator = serve(**FAST)
    saved = anyio.run(save_into, simulator, LocalStore(tmp_path / "store", mkdir=True))
    assert saved.path is not None
    saved.path.write_bytes(b"fLaC")
    assert main(["verify", "out"]) == 1
    assert "has 4 bytes instead of" in capsys.readouterr().out


def test_a_wrong_address_is_explained(nowhere: str, monkeypatch: pytest.MonkeyPatch, capsys: Streams) -> None:
    """Cause and advice at once, whatever the number of lines, without a traceback; nothing is lost."""
    monkeypatch.setenv("SOUNDPIECE_API_KEY", "spk_for_tests")
    monkeypatch.setenv("SOUNDPIECE_BASE_URL", nowhere)
    monkeypatch.setitem(sys.modules, "uvloop", None)  # it asks the system's resolver by itself
    write(map(job_line, range(300)))
    assert bulk() == 1
    printed = capsys.readouterr().err
    assert "stopped: PUT /v1/create.new_fx" in printed
    assert "cannot connect to nobody.invalid:443: name not found" in printed
    assert "check SOUNDPIECE_BASE_URL and the network; then run the same command" in printed
    assert "300 left" in printed
    assert "Traceback" not in printed
    assert count() == {JobState.PLANNED: sum(count().values())}
    assert main(["run", "create.new_fx", "--prompt", "door", "--duration", "1"]) == 1
    printed = capsys.readouterr().err
    assert "name not found" in printed
    assert "Traceback" not in printed


def from_pipe(text: str) -> int:
    """Run ``bulk -`` with what a pipe brings."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, pytest.MonkeyPatch.context() as changed:
        with os.fdopen(writing, "w") as pipe:
            pipe.write(text)
        changed.setattr(sys, "stdin", stdin)
        return main(["bulk", "-", "out"])


def test_jobs_from_standard_input(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept beside the journal: the same lines are the same jobs, and resume reads them."""
    simulator = serve(**FAST)
    assert from_pipe('{"route": "create.new_fx"}\n') == 2
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "standard input:1: missing field: prompt; missing field: duration"
    assert not Path("out").exists()
    lines = "route,prompt,duration\ncreate.new_fx,door,0.1\ncreate.new_fx,rain,0.1\n"
    assert from_pipe(lines) == 0
    assert "2 jobs in out/standard-input.txt, saving to out" in capsys.readouterr().err
    assert Path("out/standard-input.txt").read_text() == lines
    Path("jobs.csv").write_text(lines + "create.new_fx,wind,0.1\n")
    with Path("jobs.csv").open() as file:  # a file is read to its end, too
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["bulk", "-", "out"]) == 0
    Path("out").rename("moved")
    assert main(["resume", "moved"]) == 0
    assert "has changed" not in capsys.readouterr().err
    assert len(simulator.operations) == 3
    Path("moved/standard-input.txt").unlink()
    assert main(["resume", "moved"]) == 2


def test_jobs_that_are_typed(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a hint says what is read, and Ctrl-D ends it."""
    serve(**FAST)
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "wb", buffering=0) as keys, os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        keys.write(json.dumps(job_line(1)).encode() + b"\n\x04")
        assert main(["bulk", "-", "out"]) == 0
    assert capsys.readouterr().err.startswith("reading jobs from standard input (end with Ctrl-D)\n")


@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_tables_are_never_truncated(
    columns: str, serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pipe a row is one line, however wide; on a narrow terminal it wraps (E7)."""
    serve(**FAST)
    monkeypatch.setenv("COLUMNS", columns)
    write([{"route": "create.remix_instrumental", "source": "https://media.example.com/a.wav"}, job_line(1)])
    assert bulk("--dry-run") == 0
    assert re.search(r"^ create\.remix_instrumental +1 +0 +0 +0 +0 +1 $", capsys.readouterr().out, re.MULTILINE)
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0) as screen, os.fdopen(terminal, "w") as stdout:
        with monkeypatch.context() as changed:
            changed.setenv("TERM", "xterm")
            changed.delenv("NO_COLOR", raising=False)
            changed.setattr(sys, "stdout", stdout)
            assert bulk("--dry-run") == 0
        shown = ""
        while "estimated time" not in shown:  # a terminal gives what it has by now, not all that was written
            shown += re.sub(r"\x1b\[[0-9;]*m", "", screen.read(10_000).decode()).replace("\r", "")
    shown = shown.partition("estimated time")[0]
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= int(columns)
    assert "create.remix_instrumental" in re.sub(r"\s", "", shown)
    assert ("route" in shown) == (columns == "80")
    if columns == "40":
        assert "create.new_fx: 1 lines, 0 saved, 0 in \nflight, 0 failed, 0 uncertain, 1 to do\n" in shown

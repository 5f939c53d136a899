"""File systems that cannot lock, or share memory: all is saved, each is paid once, and all is known before."""

import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import libc_shim
from helpers.command_line import CLI, commands
from helpers.simulation import Serve

from soundpiece_async import _filelocks
from soundpiece_async._filelocks import Holder
from soundpiece_async.cli import main


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return libc_shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.jsonl"
    lines = [{"route": "create.new_fx", "prompt": f"door {number}", "duration": 0.5} for number in range(6)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


CODES = {
    "flock": ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EIO"),
    "mmap": ("ENODEV", "EINVAL", "EACCES"),
    "fcntl": ("ENOSYS", "EOPNOTSUPP", "ENOLCK"),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("refused", [["flock"], ["mmap"], ["fcntl"], ["flock", "fcntl", "mmap"]], ids="+".join)
def test_a_bulk_run_on_a_poor_file_system(
    refused: list[str], library: Path, jobs: Path, serve: Serve, tmp_path: Path, *, thorough: bool
) -> None:
    """It saves everything, goes on, and can be looked at, also from where nothing is refused."""
    for number in range(max(len(CODES[name]) for name in refused) if thorough else 1):
        codes = {name: CODES[name][number % len(CODES[name])] for name in refused}
        simulator, out = serve(), tmp_path / f"out {number}"
        bulk = ["bulk", str(jobs), str(out)]
        done = libc_shim.run(library, out, commands(bulk, bulk, ["status", str(out), "--json"]), **codes)
        assert done.returncode == 0, done.stderr
        assert len(simulator.operations) == 6
        assert len(list(out.glob("*.flac"))) == 6
        assert not list(out.glob("*.held")) + list(out.glob("*.part"))
        assert json.loads(done.stdout.splitlines()[-1])["states"]["saved"] == 6, done.stdout
        assert main(["verify", str(out)]) == 0


def test_a_journal_that_was_begun_elsewhere_goes_on_without_shared_memory(
    library: Path, jobs: Path, serve: Serve, tmp_path: Path
) -> None:
    """What a killed process left in its write-ahead log is read, and nothing bought again."""
    simulator, out = serve(), tmp_path / "out"
    program = """
import os, signal, sys
from soundpiece_async._journal import database
from soundpiece_async.cli import main
database.Database.close = lambda self: os.kill(os.getpid(), signal.SIGKILL)
main(["bulk", *sys.argv[1:]])
"""
    killed = subprocess.run([sys.executable, "-c", program, str(jobs), str(out)], check=False, capture_output=True)  # noqa: S603 - our own
    assert killed.returncode == -signal.SIGKILL
    assert (out / "journal.sqlite3-wal").stat().st_size
    done = libc_shim.run(library, out, [*CLI, "bulk", str(jobs), str(out)], mmap="ENODEV")
    assert done.returncode == 0, done.stderr
    assert "its file system lacks" in done.stderr
    assert len(simulator.operations) == 6
    with closing(sqlite3.connect(out / "journal.sqlite3")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"


@pytest.mark.parametrize("code", ["ENOSYS", "EIO"])
def test_one_request_is_saved_without_locks(code: str, library: Path, serve: Serve, tmp_path: Path) -> None:
    """`run` pays, and saves."""
    simulator, out = serve(), tmp_path / "out"
    words = ["run", "create.new_fx", "--prompt", "door", "--duration", "1", "--save-to", str(out)]
    done = libc_shim.run(library, out, [*CLI, *words], flock=code)
    assert done.returncode == 0, done.stderr
    assert len(simulator.operations) == len(list(out.iterdir())) == 1


HOLD = """
import sys, io
from pathlib import Path
from soundpiece_async import _filelocks
path = Path(sys.argv[1])
path.touch()
with io.FileIO(path, "r+") as file:
    release = _filelocks.acquire(file, path)
    print("mine" if release else "taken", flush=True)
    sys.stdin.read()
    if release:
        release()
"""


def hold(library: Path, path: Path) -> subprocess.Popen[str]:
    """Start a process that takes a lock where there is no flock, and keeps it until its input ends."""
    environ = {**os.environ, "LD_PRELOAD": str(library), "SHIM_FOLDER": str(path.parent), "SHIM_FLOCK": "38"}
    words = [sys.executable, "-c", HOLD, str(path)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)  # noqa: S603 - our own


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_file_keeps_others_out_until_its_process_ends(library: Path, tmp_path: Path) -> None:
    """One at a time; given back, it is gone; and of a process that was killed it is stale."""
    path = tmp_path / "x.part"
    with hold(library, path) as first, hold(library, path) as second:
        assert sorted([said(first), said(second)]) == ["mine", "taken"]
        for process in (first, second):
            process.communicate("")
    assert not _filelocks.held_path(path).exists()
    with hold(library, path) as first:
        assert said(first) == "mine"
        first.kill()
        first.communicate()
    assert _filelocks.held_path(path).exists()
    with hold(library, path) as second:
        assert said(second) == "mine"
        second.communicate("")


def write(held: Path, **changes: Any) -> None:
    members = {"host": socket.gethostname(), "process": os.getpid(), "born": "", "since": "now", **changes}
    held.write_text(json.dumps(members))


def test_who_holds_a_lock_file_is_judged_as_far_as_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine by number and birth; of another machine not at all."""
    held = tmp_path / "x.held"
    write(held)
    assert _filelocks._acquire_by_file(held) is None  # a process that is there, of unknown birth
    write(held, host="elsewhere", process=1)
    assert _filelocks._acquire_by_file(held) is None
    write(held, born="another boot:1")  # the same number, and another process
    release = _filelocks._acquire_by_file(held)
    assert release is not None
    assert str(_filelocks.read_holder(held)).startswith(f"process {os.getpid()} on {socket.gethostname()}, since 2")
    release()
    release()
    held.write_text("")  # its maker may be about to write it
    assert _filelocks._acquire_by_file(held) is None
    os.utime(held, (1, 1))
    assert _filelocks._acquire_by_file(held) is not None
    monkeypatch.setattr(os, "name", "strange")
    assert _filelocks._may_live(4_000_000)
    monkeypatch.undo()
    assert not _filelocks._may_live(4_000_000)
    assert _filelocks._may_live(1)


def test_a_bulk_run_names_the_lock_file_of_another_machine(
    library: Path, jobs: Path, serve: Serve, tmp_path: Path
) -> None:
    """It may be stale, which cannot be seen from here; the advice helps."""
    simulator, out = serve(), tmp_path / "out"
    out.mkdir()
    write(out / "journal.lock.held", host="elsewhere")
    words = [*CLI, "bulk", str(jobs), str(out)]
    done = libc_shim.run(library, out, words, flock="ENOSYS")
    assert done.returncode == 2
    assert f"remove {out / 'journal.lock.held'}" in done.stderr
    assert not simulator.operations
    (out / "journal.lock.held").unlink()
    assert libc_shim.run(library, out, words, flock="ENOSYS").returncode == 0


def test_a_holder_that_is_another_one_by_now_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a stale lock file and its removal another process may have taken its place."""
    held = tmp_path / "x.held"
    write(held, born="another boot:1")

    def look(_: Holder) -> bool:
        write(held, since="later")
        return True

    monkeypatch.setattr(Holder, "is_gone", property(look))
    assert _filelocks._acquire_by_file(held) is None
    assert json.loads(held.read_text())["since"] == "later"
    assert list(tmp_path.iterdir()) == [held]


def test_the_journal_may_be_on_another_file_system(
    jobs: Path, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files are where they are wanted, journal and report where `--journal` says; every command finds them."""
    simulator, out, record = serve(), tmp_path / "out", tmp_path / "a record"
    elsewhere = ["--journal", str(record)]
    assert main(["bulk", str(jobs), str(out), *elsewhere]) == 0
    assert {path.suffix for path in out.iterdir()} == {".flac"}
    assert {"journal.sqlite3", "journal.lock", "report.html"} <= {path.name for path in record.iterdir()}
    for page in json.loads((record / "report.json").read_text())["jobs"]:
        assert all((record / file["path"]).exists() for file in page["files"])
    assert main(["resume", str(out), *elsewhere]) == 0
    assert main(["bulk", str(jobs), str(out), *elsewhere, "--dry-run"]) == 0
    assert len(simulator.operations) == 6
    capsys.readouterr()
    assert main(["status", str(out), *elsewhere, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["states"]["saved"] == 6
    assert main(["verify", str(out), *elsewhere]) == 0
    damaged = next(out.glob("*.flac"))
    damaged.write_bytes(b"")
    assert main(["verify", str(out), *elsewhere]) == 1
    assert f"{damaged}: has 0 bytes" in capsys.readouterr().out
    assert main(["resume", str(out)]) == 2


def test_the_way_on_names_the_journal(
    jobs: Path, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run that was stopped advises is followed here, word for word."""
    simulator, out, record = serve(credits=2), tmp_path / "out", tmp_path / "a record"
    assert main(["bulk", str(jobs), str(out), "--journal", str(record)]) == 3
    advice = capsys.readouterr().err.partition("or soundpiece ")[2].partition("; keys")[0]
    simulator.top_up(4)
    assert main(shlex.split(advice)) == 0
    assert len(simulator.operations) == 6

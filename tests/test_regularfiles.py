"""What is no regular file, in the place of one of ours: it is refused at once, named, and left as it is."""

import json
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from helpers.simulation import Serve

from soundpiece_async import Journal, JournalError, _filelocks
from soundpiece_async._journal.folder_lock import LOCK
from soundpiece_async._journal.journal import JOURNAL
from soundpiece_async._regularfiles import NO_LINK, demand_regular, open_regular
from soundpiece_async.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no FIFOs with names")


def make_socket(path: Path) -> None:
    """Make a socket; by a short name, as the system wants it."""
    with socket.socket(socket.AF_UNIX) as listener, inside(path.parent):
        listener.bind(path.name)


def make_device(path: Path) -> None:
    """Link to a device, which not everybody may make."""
    path.symlink_to("/dev/zero")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a moment."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


STRANGERS: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    "a device": make_device,
    "a directory": os.mkdir,
}
NAMES = (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", f"{JOURNAL}-journal", LOCK)


@pytest.mark.parametrize("kind", STRANGERS)
def test_no_way_of_opening_waits_for_what_is_no_file(tmp_path: Path, kind: str) -> None:
    """Neither for reading nor for writing; and no descriptor stays open."""
    path = tmp_path / "x"
    STRANGERS[kind](path)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
        with pytest.raises(FileExistsError, match=f"{kind} is there instead of a regular file"):
            open_regular(path, flags)
    with pytest.raises(FileExistsError, match=kind):
        demand_regular(path)
    assert not stat.S_ISREG(path.stat().st_mode)


def test_a_link_leads_nowhere_that_is_written(tmp_path: Path) -> None:
    """It may be read through, as of somebody who keeps a file elsewhere; what is missing is missing."""
    path, target = tmp_path / "x", tmp_path / "precious"
    target.write_text("precious")
    path.symlink_to(target)
    os.close(open_regular(path))
    with pytest.raises(FileExistsError, match="a symbolic link is there"):
        open_regular(path, os.O_RDWR | os.O_CREAT | NO_LINK)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "y")
    demand_regular(tmp_path / "y")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("name", NAMES)
async def test_a_journal_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    """A run ends before anything is done; so does a look, but for the lock, which it does not need."""
    found = "a symbolic link" if (name, kind) == (LOCK, "a device") else kind
    async with Journal.open(tmp_path):
        pass
    (tmp_path / name).unlink(missing_ok=True)
    STRANGERS[kind](tmp_path / name)
    for read_only in [False] if name == LOCK else [False, True]:
        with anyio.fail_after(60), pytest.raises(JournalError, match=f"{found} is there instead of a regular file"):
            await Journal.open(tmp_path, read_only=read_only)
    assert not stat.S_ISREG((tmp_path / name).stat().st_mode)


@pytest.mark.anyio
async def test_a_lock_file_that_is_a_link_is_no_way_to_another_file(tmp_path: Path) -> None:
    """Taking the lock empties its file."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / LOCK).symlink_to(precious)
    with pytest.raises(JournalError, match="a symbolic link is there"):
        await Journal.open(tmp_path)
    assert precious.read_text() == "precious"


def test_a_lock_file_of_file_systems_without_locks_is_not_waited_for(tmp_path: Path) -> None:
    """It is not taken for a stale one, however old."""
    held = tmp_path / "x.held"
    os.mkfifo(held)
    os.utime(held, (1, 1))
    with pytest.raises(FileExistsError, match="a FIFO"):
        _filelocks._acquire_by_file(held)
    assert _filelocks.read_holder(held) is None
    assert held.is_fifo()


@pytest.fixture
def words(serve: Serve, tmp_path: Path) -> list[str]:
    """A bulk run that has ended."""
    serve()
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps({"route": "create.new_fx", "prompt": "door", "duration": 0.5, "name": "door"}))
    words = ["bulk", str(jobs), str(tmp_path / "out")]
    assert main(words) == 0
    return words


@pytest.mark.parametrize("name", [JOURNAL, f"{JOURNAL}-wal", LOCK])
def test_no_command_hangs_over_a_journal(
    words: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each ends with exit code 2, and names what is in the way."""
    out = tmp_path / "out"
    (out / name).unlink(missing_ok=True)
    os.mkfifo(out / name)
    for command in (["status", str(out)], ["verify", str(out)], ["resume", str(out)], words):
        capsys.readouterr()
        code = main(command)
        if command[0] == "verify" and name == LOCK:
            continue  # it works without
        assert code == 2, command
        assert f"a FIFO is there instead of a regular file: move it away: '{out / name}'" in capsys.readouterr().err


def test_no_command_hangs_over_files_and_reports(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A FIFO in place of a file is a file that cannot be read; one in place of a report is a report that is missing."""
    out = tmp_path / "out"
    saved = (out / "door.flac").read_bytes()
    (out / "door.flac").unlink()
    os.mkfifo(out / "door.flac")
    assert main(["verify", str(out)]) == 1
    assert "door.flac: cannot be read: a FIFO is there" in capsys.readouterr().out
    (out / "door.flac").unlink()
    (out / "door.flac").write_bytes(saved)
    os.mkfifo(out / ".report.json.part")
    assert main(words) == 1
    assert "cannot write the report: [Errno 17] a FIFO is there" in capsys.readouterr().err

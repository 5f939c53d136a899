"""In this process: what lacks a descriptor waits for one, and what cannot be locked by the system is by a file."""

import errno
import fcntl
import io
import logging
import os
import resource
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.simulation import settings

from soundpiece_async import DownloadError, Journal, JournalError, NewFx, Session, _filelocks
from soundpiece_async._download import partfile
from soundpiece_async._download.partfile import Claim, PartFile
from soundpiece_async._journal import database
from soundpiece_async._journal.folder_lock import FolderLock
from soundpiece_async._transport import Transport
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio


class Descriptors(logging.Handler):
    """Prevents this process from opening files, until something waits for a descriptor."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.told: list[str] = []

    def take(self) -> None:
        """Exhaust the descriptors."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, self.limits[1]))

    def emit(self, record: logging.LogRecord) -> None:
        """Release the descriptors, and record the waiters."""
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        self.told.append(record.getMessage())


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    handler, logger = Descriptors(), logging.getLogger("soundpiece_async.descriptors")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, handler.limits)
        logger.removeHandler(handler)


async def test_each_stage_waits_for_a_descriptor(
    sim: Simulator, tmp_path: Path, descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit, a file, and a stream: each once; nothing is sent twice, and connections that idle are closed."""
    claim = PartFile.claim

    def claim_and_take(part: PartFile, *, overwrite: bool) -> Claim:
        claimed = claim(part, overwrite=overwrite)
        descriptors.take()
        return claimed

    async with Session(settings(sim)) as session:
        descriptors.take()
        operation = await session.submit(NewFx("door", duration=0.1))
        assert "PUT" in descriptors.told[0]
        operation = await session.wait(operation)
        descriptors.take()
        monkeypatch.setattr(PartFile, "claim", claim_and_take)
        (file,) = await session.download(operation, tmp_path)
    assert ".part" in descriptors.told[1]
    assert "GET" in descriptors.told[2]
    assert file.path is not None
    assert file.path.exists()
    assert [request.method for request in sim.log].count("PUT") == len(sim.operations) == 1


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.usefixtures("no_flock")
async def test_files_and_folders_are_locked_by_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writer, one run; the journal does without SQLite's locks; all is removed at the end."""
    part, other = (PartFile(tmp_path / "x.flac", source="s") for _ in range(2))
    assert part.claim(overwrite=False) is Claim.ACQUIRED
    assert other.claim(overwrite=False) is Claim.LOCKED
    part.close()
    assert list(tmp_path.iterdir()) == []
    async with Journal.open(tmp_path) as journal:
        assert not journal._lock.has_record_locks
        with pytest.raises(JournalError, match=r"locked by process .* remove .*journal\.lock\.held"):
            await Journal.open(tmp_path)
        assert (FolderLock(tmp_path / "journal.lock").holder() or "").startswith("process")
        assert await journal.count() == {}
        async with Journal.open(tmp_path, read_only=True) as reader:
            assert await reader.count() == {}
    assert FolderLock(tmp_path / "journal.lock").holder() is None
    assert not (tmp_path / "journal.lock.held").exists()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    lock = FolderLock(tmp_path / "journal.lock")
    lock.acquire(now=datetime.now(UTC))
    assert (lock.has_record_locks, (tmp_path / "journal.lock.held").exists()) == (True, True)
    lock.release()


def test_a_fault_of_the_lock_is_not_taken_for_a_lack_of_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that cannot be written is not left behind; nor is a part, when its note cannot be read, thrown away."""
    path, held = tmp_path / "x", tmp_path / "x.held"
    path.touch()

    def fail(*_: object) -> None:
        raise OSError(errno.EBADF, "bad file descriptor")

    with monkeypatch.context() as patched, io.FileIO(path, "r+") as file:
        patched.setattr(fcntl, "flock", fail)
        with pytest.raises(OSError, match="bad file descriptor"):
            _filelocks.acquire(file, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            _filelocks._acquire_by_file(held)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not held.exists()
    (tmp_path / "y.flac.part").write_bytes(b"kept")
    (tmp_path / "y.flac.part.json").mkdir()
    part = PartFile(tmp_path / "y.flac", source="s")
    with pytest.raises(FileExistsError, match="a directory is there"):
        part.claim(overwrite=False)
    part.close()
    assert (tmp_path / "y.flac.part").read_bytes() == b"kept"


def test_a_lock_file_is_judged_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number alone; and who is too late for a stale one, again and again, does not have it."""
    held = tmp_path / "x.held"
    assert _filelocks._remove_stale(held)
    monkeypatch.setattr(_filelocks, "PROC", tmp_path)
    assert _filelocks._find_birth(os.getpid()) == ""
    assert _filelocks._find_birth(4_000_000) is None

    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", refuse)
        assert _filelocks._find_birth(1) == ""
    held.touch()
    monkeypatch.setattr(_filelocks, "_remove_stale", lambda _: True)
    assert _filelocks._acquire_by_file(held) is None


@pytest.mark.parametrize("refusal", [OSError(errno.EILSEQ, "no"), UnicodeEncodeError("ascii", "\u2013", 0, 1, "no")])
async def test_a_refused_name_is_changed(
    refusal: Exception, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a fault that has nothing to do with the name is not."""
    operation = await session.wait(await session.submit(NewFx("door", duration=0.1)))
    opened = partfile.open_regular

    def refuse(path: Path, *how: int) -> int:
        if not path.name.isascii():
            raise refusal
        return opened(path, *how)

    monkeypatch.setattr(partfile, "open_regular", refuse)
    (file,) = await session.download(operation, tmp_path, name="Regen \u2013 laut")
    assert file.path is not None
    assert file.path.name == "Regen _ laut-21f25dc2.flac"
    assert "rejects its own name" in file.warnings[-1]
    (tmp_path / "folder").write_bytes(b"")
    with pytest.raises(DownloadError) as caught:
        await session._engine.downloader.save_in(operation.outputs[0], tmp_path / "folder" / "below", "x.flac")
    assert not caught.value.path.endswith("x-7a0a9a9c.flac")


async def test_a_journal_on_a_file_system_that_shares_no_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a rollback log, says so once, and every commit waits for the disk."""
    prepare = database.Database._prepare

    def refuse_wal(self: database.Database, manner: Any, migrations: Any) -> None:
        if manner.log == "WAL":
            error = database.sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = database.sqlite3.SQLITE_IOERR
            raise error
        prepare(self, manner, migrations)

    with monkeypatch.context() as patched:
        patched.setattr(database.Database, "_prepare", refuse_wal)
        async with Journal.open(tmp_path) as journal:
            await journal.store.save_run_info(a=1)
            full = await journal.store._execute(
                lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]
            )
            assert full == 2
    assert caplog.text.count("its file system lacks") == 1
    async with Journal.open(tmp_path) as journal:
        assert await journal.store.load_run_info() == {"a": 1}


async def test_a_transaction_waits_for_a_descriptor(
    tmp_path: Path, descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shared memory each of them opens a file."""
    whole = database._choose_manners(tmp_path / "j", read_only=False, locked=False)
    monkeypatch.setattr(database, "_choose_manners", lambda *_, **__: whole)
    async with Journal.open(tmp_path) as journal:
        (tmp_path / "journal.sqlite3-journal").unlink(missing_ok=True)
        descriptors.take()
        await journal.store.save_run_info(a=1)
        assert await journal.store.load_run_info() == {"a": 1}
    assert "unable to open database file" in descriptors.told[0]


async def test_a_decoding_fault_at_the_opening_is_a_journal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sqlite3` raises what its decoders do."""

    def fail(*_: object) -> None:
        raise IndexError

    monkeypatch.setattr(database, "_shape", fail)
    async with Journal.open(tmp_path):
        pass
    with pytest.raises(JournalError, match="is damaged"):
        await Journal.open(tmp_path)


def test_a_part_that_was_renamed_meanwhile_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is given back."""
    part = PartFile(tmp_path / "x.flac", source="s")
    with monkeypatch.context() as patched:
        patched.setattr(partfile, "_same_inode", lambda *_: False)
        assert part.claim(overwrite=False) is Claim.LOCKED
    assert part.claim(overwrite=False) is Claim.ACQUIRED
    part.close()


async def test_a_session_that_is_not_open_has_no_idle_connections(sim: Simulator) -> None:
    """To give them up is no error."""
    Transport(settings(sim)).close_idle()

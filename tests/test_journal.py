import asyncio
import gc
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from operator import methodcaller
from pathlib import Path

import anyio
import attrs
import pytest
from helpers.journals import edit_journal, open_journal
from helpers.open_folder import make_open_folder

from soundpiece_async import InvalidRequest, JournalError, NewFx
from soundpiece_async._core.job_records import (
    EXPIRED,
    KEY_LIFETIME,
    Annotation,
    Failure,
    FileRecord,
    JobIdentity,
    JobRecord,
    JobState,
    write_files,
    write_outputs,
)
from soundpiece_async._core.operations import Operation, Status
from soundpiece_async._core.requests import Handle, Output
from soundpiece_async._core.results import SavedFile
from soundpiece_async._journal.database import MIGRATIONS, Database
from soundpiece_async._journal.folder_lock import FolderLock
from soundpiece_async._journal.recorded_run import SavedFiles
from soundpiece_async._journal.store import FailureGroup, JobStore, Overview, WaitStats

pytestmark = pytest.mark.anyio
BOTH = pytest.mark.usefixtures("journals")

NOBODY = 65534
HANDLE = Handle("create.new_fx", "op_1")
OUTPUT = Output(url="https://out.example.com/a?sig=1", duration=2.5, kind="bass", handle=HANDLE, index=3)
OPERATION = Operation(
    route="create.new_fx",
    id="op_1",
    status=Status.READY,
    created_at=datetime(2026, 11, 23, tzinfo=UTC),
    request=None,
    outputs=(OUTPUT,),
)
FILE = FileRecord(path="a.flac", bytes=9, sha256="ab", duration=2.5, sample_rate=44100, channels=2, index=3)


def name(number: int) -> JobIdentity:
    return JobIdentity(digest=number.to_bytes(16, "big"), occurrence=1)


async def plan(store: JobStore, number: int = 1) -> JobRecord:
    piece = await store.insert(name(number), key=f"key {number}", route="create.new_fx", body=b"{}")
    assert piece is not None
    return piece


@BOTH
async def test_a_piece_is_written_down_step_by_step(tmp_path: Path) -> None:
    """Each state is there when the call returns, with all that the next run needs to go on."""
    async with open_journal(tmp_path) as journal:
        store = journal.store
        assert await store.find(name(1)) is None
        piece = await plan(store)
        assert piece == JobRecord(
            number=piece.number,
            digest=name(1).digest,
            key="key 1",
            route="create.new_fx",
            body=b"{}",
            state=JobState.PLANNED,
            taken=piece.taken,
        )
        await store.mark_sending(piece, now=100.0)
        await store.mark_sending(piece, now=200.0)
        expected = attrs.evolve(piece, state=JobState.SENDING, sent_at=100.0)
        assert await store.find(name(1)) == expected
        await store.mark_submitted(piece, OPERATION, now=300.0)
        expected = attrs.evolve(
            expected, state=JobState.SUBMITTED, operation="op_1", created_at=OPERATION.created_at, submitted_at=300.0
        )
        assert await store.find(name(1)) == expected
        assert await store.mark_ready(piece, OPERATION, now=400.0) == "op_1"
        expected = attrs.evolve(expected, state=JobState.READY, outputs=(OUTPUT,), title="op_1", ready_at=400.0)
        assert await store.find(name(1)) == expected
        failure = Failure("CorruptAudio", "", "half a pair: \ud800", retryable=True)
        await store.mark_failed(piece, failure, now=500.0)
        told = attrs.evolve(failure, text="half a pair: ?")
        assert await store.find(name(1)) == attrs.evolve(expected, state=JobState.FAILED, failure=told, ended_at=500.0)
        await store.mark_saved(piece, OPERATION, (FILE,), now=600.0)
    async with open_journal(tmp_path) as journal:
        bare = attrs.evolve(OUTPUT, url="https://out.example.com/a?…", expires_at=EXPIRED)
        saved = attrs.evolve(expected, state=JobState.SAVED, outputs=(bare,), files=(FILE,), ended_at=600.0)
        assert await journal.store.find(name(1)) == saved
        assert await journal.store.find(JobIdentity(digest=b"other", key="key 1")) is not None
        assert await journal.store.find(JobIdentity(digest=b"other", key="\ud800")) is None


@BOTH
async def test_what_is_said_of_a_file_outlives_its_run(tmp_path: Path) -> None:
    """Its warnings and the checks it has passed; those that it passes later, unless it was saved again meanwhile."""
    (tmp_path / "a.flac").write_bytes(bytes(9))
    saved_files = SavedFiles(tmp_path, wanted_in=tmp_path)
    file = SavedFile(
        path=tmp_path / "a.flac",
        bytes=9,
        sha256="ab",
        duration=2.5,
        sample_rate=48_000,
        channels=2,
        output=OUTPUT,
        warnings=("the sample rate is 48000 Hz, where 44100 Hz is documented",),
        verified="header",
    )
    async with open_journal(tmp_path) as journal:
        piece = await plan(journal.store)
        await journal.store.mark_submitted(piece, OPERATION, now=300.0)
        await journal.store.mark_ready(piece, OPERATION, now=400.0)
        await journal.store.mark_saved(piece, OPERATION, saved_files.to_records((file,)), now=600.0)
    async with open_journal(tmp_path) as journal:
        (job,) = await journal.jobs()
        file = attrs.evolve(file, output=job.outputs[0])
        assert saved_files.check(job).complete == (file,)
        (record,) = job.files
        passed = (attrs.evolve(record, verified="full"),)
        await journal.store.mark_verified(job.number, passed, ended_at=599.0)
        assert await journal.jobs() == [job]
        await journal.store.mark_verified(job.number, passed, ended_at=600.0)
        (job,) = await journal.jobs()
        assert saved_files.check(job).complete == (attrs.evolve(file, verified="full"),)


@BOTH
async def test_a_run_is_summed_up(tmp_path: Path) -> None:
    """How many jobs of each route are in each state, how long they took, why some failed, what files passed."""
    async with open_journal(tmp_path) as journal:
        store = journal.store
        sent, saved, *failed = [await plan(store, number) for number in range(1, 6)]
        await store.mark_sending(sent, now=store.now - KEY_LIFETIME - 1)
        await store.mark_submitted(saved, attrs.evolve(OPERATION, echo_differences=("prompt",)), now=300.0)
        await store.mark_ready(saved, OPERATION, now=302.0)
        await store.mark_saved(saved, OPERATION, (FILE, attrs.evolve(FILE, verified="full")), now=303.0)
        for number, job in enumerate(failed):
            failure = Failure("CorruptAudio", "x" if number else "", f"no FLAC {number}", retryable=True)
            await store.mark_failed(job, failure, now=304.0)
        states = {JobState.UNCERTAIN: 1, JobState.SAVED: 1, JobState.FAILED: 3}
        assert await store.measure_waits() == {"create.new_fx": WaitStats(1, 2.0, 2.0)}
        overview = await store.look_over(now=store.now, since=303.5)
        assert overview == Overview(
            routes={"create.new_fx": states},
            dependents={},
            failures=(
                FailureGroup("CorruptAudio", "x", "no FLAC 1", 2),
                FailureGroup("CorruptAudio", "", "no FLAC 0", 1),
            ),
            verified={"": 1, "full": 1},
            echo_differences={"prompt": 1},
            ended=3,
        )
        assert (await store.look_over(now=store.now, since=302.0)).ended == 4
        identities = [name(1), name(9), JobIdentity(digest=b"", key="key 2")]
        assert await store.find_states(identities, now=store.now) == [JobState.UNCERTAIN, None, JobState.SAVED]
        assert await store.run_in_thread(lambda: 7) == 7


@BOTH
async def test_a_refused_piece_is_planned_again(tmp_path: Path) -> None:
    """Nothing came of its PUT, so the day after which it would be uncertain has not begun."""
    async with open_journal(tmp_path) as journal:
        piece = await plan(journal.store)
        await journal.store.mark_sending(piece, now=100.0)
        await journal.store.mark_unsent(piece)
        assert await journal.store.find(name(1)) == piece


@BOTH
async def test_a_key_stands_for_one_piece(tmp_path: Path) -> None:
    """The second piece with a key is not recorded."""
    async with open_journal(tmp_path) as journal:
        await plan(journal.store)
        assert await journal.store.insert(name(2), key="key 1", route="create.new_fx", body=b"{}") is None
        assert await journal.count() == {JobState.PLANNED: 1}


@BOTH
async def test_pieces_are_counted_and_listed_by_state(tmp_path: Path) -> None:
    """What was sent a day ago and never answered is uncertain, and counted as nothing else."""
    async with open_journal(tmp_path) as journal:
        made = [await plan(journal.store, number) for number in range(1, 8)]
        for piece in made[:4]:
            await journal.store.mark_sending(piece, now=time.time() - KEY_LIFETIME - 1)
        await journal.store.mark_sending(made[4], now=time.time())
        await journal.store.mark_submitted(made[0], OPERATION, now=1.0)
        assert await journal.count() == {
            JobState.PLANNED: 2,
            JobState.SENDING: 1,
            JobState.SUBMITTED: 1,
            JobState.UNCERTAIN: 3,
        }
        first, second = await journal.jobs("uncertain", limit=2)
        (third,) = await journal.jobs(JobState.UNCERTAIN, after=second.number)
        assert [first.key, second.key, third.key] == ["key 2", "key 3", "key 4"]
        assert [piece.key for piece in await journal.jobs("sending")] == ["key 5"]


@BOTH
async def test_many_callers_share_a_transaction(tmp_path: Path) -> None:
    """A thousand changes at once cost a few commits, and every caller gets its own answer."""
    async with open_journal(tmp_path) as journal:
        made: dict[int, JobRecord] = {}

        async def write(number: int) -> None:
            made[number] = await plan(journal.store, number)

        before = journal.store.commits
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(write, number)
        assert journal.store.commits - before <= 3
        assert all(piece.key == f"key {number}" for number, piece in made.items())
        assert await journal.count() == {JobState.PLANNED: 1000}


async def test_a_transaction_waits_for_the_disk_when_one_of_its_jobs_must(tmp_path: Path) -> None:
    """Before a PUT leaves, its key is on the disk; what can be found out again costs no such wait."""
    seen = []

    async with open_journal(tmp_path) as journal:
        store = journal.store
        piece = await plan(store)

        async def look() -> None:
            seen.append(await store._execute(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]))

        await look()
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            group.start_soon(partial(store.mark_sending, piece, now=1.0))
        await look()
    assert seen == [1, 2, 1]  # NORMAL, FULL, NORMAL


@BOTH
@pytest.mark.parametrize("native", [False, True])
async def test_a_cancelled_writer_does_not_take_the_others_with_it(tmp_path: Path, *, native: bool) -> None:
    """The first of a batch writes for all; cancelled, by anyio or by asyncio, it still sees that through."""
    async with open_journal(tmp_path) as journal:
        await journal.store._group.turn.acquire()  # so that a batch collects
        async with anyio.create_task_group() as group:
            if native:
                first = asyncio.create_task(plan(journal.store, 1))
                await anyio.sleep(0.01)
                first.cancel()
            else:
                scope = anyio.CancelScope()

                async def leave() -> None:
                    with scope:
                        await plan(journal.store, 1)

                group.start_soon(leave)
                await anyio.sleep(0.01)
                scope.cancel()
            group.start_soon(plan, journal.store, 2)
            await anyio.sleep(0.01)
            journal.store._group.turn.release()
        if native:
            with pytest.raises(asyncio.CancelledError):
                await first
        assert await journal.count() == {JobState.PLANNED: 2}


async def test_a_failing_transaction_is_every_callers_error_and_nobodys_change(tmp_path: Path) -> None:
    """All of a transaction or nothing: with one bad job the others get the error, and the next one works."""
    async with open_journal(tmp_path) as journal:
        store = journal.store
        errors = []

        async def attempt(work: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(JournalError, match="no such table") as caught:
                await work()
            errors.append(caught.value)

        await store._group.turn.acquire()  # so that they come into one transaction
        async with anyio.create_task_group() as group:
            group.start_soon(attempt, partial(plan, store, 1))
            group.start_soon(attempt, partial(store.query, "SELECT * FROM nowhere", {}))
            group.start_soon(attempt, partial(plan, store, 2))
            await anyio.sleep(0.01)
            store._group.turn.release()
        assert len(errors) == 3
        with pytest.raises(ZeroDivisionError):
            await store.run_in_thread(lambda: 1 // 0)
        await plan(store, 1)
        assert await journal.count() == {JobState.PLANNED: 1}


@BOTH
async def test_one_task_at_a_time_works_on_a_piece(tmp_path: Path) -> None:
    """A second one waits; tasks of other pieces do not; a given key is one piece whatever else the request says."""
    async with open_journal(tmp_path) as journal:
        store = journal.store
        order = []

        async def work(identity: JobIdentity, label: str) -> None:
            async with store.lock(identity):
                order.append(label)
                await anyio.sleep(0.02)
                order.append(label)

        async with anyio.create_task_group() as group:
            group.start_soon(work, JobIdentity(digest=b"1", key="k"), "a")
            group.start_soon(work, JobIdentity(digest=b"2", key="k"), "b")
            group.start_soon(work, name(1), "c")
        assert "".join(order).replace("c", "") == "aabb"
        assert order.index("c") == 1
        assert "jobs at work=0" in repr(store)


async def test_a_folder_has_one_run(tmp_path: Path) -> None:
    """The second one ends at once, with an error that names the first."""
    async with open_journal(tmp_path) as journal:
        with pytest.raises(JournalError, match=rf"process {os.getpid()} on .+, since \d{{4}}-"):
            await open_journal(tmp_path)
        assert "open" in repr(journal)
        assert "held" in repr(journal._lock)
    async with await open_journal(tmp_path) as journal:
        assert await journal.count() == {}


async def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    """Another process holds the folder, is named, and is killed: there is no stale lock."""
    code = (
        "import asyncio, sys, soundpiece_async as s\n"
        "async def main():\n"
        "    async with s.Journal.open(sys.argv[1]):\n"
        "        print('open', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(  # noqa: S603, ASYNC220 - our own code
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match=f"process {first.pid} on"):
            await open_journal(tmp_path)
        first.send_signal(signal.SIGKILL)
    async with open_journal(tmp_path) as journal:
        assert await journal.count() == {}


def test_who_looks_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """To find out who has the lock is to hold it for an instant: who wants to keep it tries a little longer."""
    lock, other = FolderLock(tmp_path / "lock"), FolderLock(tmp_path / "lock")
    other.acquire(now=datetime.now(UTC))
    assert (lock.holder() or "").startswith(f"process {os.getpid()} on ")
    timer = threading.Timer(0.01, other.release)
    timer.start()
    lock.acquire(now=datetime.now(UTC))
    timer.join()
    lock.release()
    assert lock.holder() is None


async def test_a_lock_file_without_a_name_still_locks(tmp_path: Path) -> None:
    """Who holds it may not have written its name yet."""
    async with open_journal(tmp_path):
        (tmp_path / "journal.lock").write_text("")
        with pytest.raises(JournalError, match="another process"):
            await open_journal(tmp_path)


@BOTH
async def test_a_reader_disturbs_nobody_and_changes_nothing(tmp_path: Path) -> None:
    """A journal can be looked at while a run is writing it."""
    async with open_journal(tmp_path) as journal:
        await plan(journal.store)
        async with open_journal(tmp_path, read_only=True) as reader:
            assert await reader.count() == {JobState.PLANNED: 1}
            assert "read-only" in repr(reader)
            with pytest.raises(JournalError, match=r"is not writable|read-only"):
                await plan(reader.store, 2)
        await plan(journal.store, 2)
    with pytest.raises(JournalError, match=r"check (that it is there|its name)"):
        await open_journal(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


async def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """Bodies and outputs hold signed URLs, which are secrets for as long as they are valid."""
    async with open_journal(tmp_path / "a" / "b") as journal:
        await plan(journal.store)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b").iterdir()}
    assert {name for name, mode in modes.items() if mode != 0o600} == set()
    assert {"journal.sqlite3", "journal.sqlite3-wal", "journal.lock"} <= set(modes)


async def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    """Closing twice is fine; using or entering it afterwards is a clear error."""
    journal = open_journal(tmp_path)
    with pytest.raises(JournalError, match="is not open"):
        _ = journal.store
    assert "not open" in repr(journal)
    await journal
    store = journal.store
    await journal.aclose()
    await journal.aclose()
    assert "closed" in repr(journal)
    assert "free" in repr(journal._lock)
    with pytest.raises(JournalError, match="is not open"):
        await journal.count()
    with pytest.raises(JournalError, match="is closed"):
        await plan(store)
    with pytest.raises(JournalError, match="was closed"):
        await journal


async def test_a_forgotten_close_gives_a_warning(tmp_path: Path) -> None:
    """As with a session."""
    forgotten = [await open_journal(tmp_path)]
    database, lock = forgotten[0].store._database, forgotten[0]._lock

    def forget() -> None:
        forgotten.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="journal was not closed"):
        forget()
    database.close()
    lock.release()


async def test_opening_can_be_cancelled_anywhere(tmp_path: Path) -> None:
    """Whenever it happens, nobody holds the folder afterwards."""
    for delay in (0.0, 0.001, 0.003, 0.01):
        task = asyncio.create_task(open_journal(tmp_path).__aenter__())
        await anyio.sleep(delay)
        task.cancel()
        try:
            journal = await task
        except asyncio.CancelledError:
            continue
        await journal.aclose()
    async with open_journal(tmp_path) as journal:
        assert await journal.count() == {}


async def test_a_cancelled_run_leaves_the_folder(tmp_path: Path) -> None:
    """Its journal is closed, and the next one may come in, although a cancellation is on its way through."""
    with anyio.CancelScope() as scope:
        async with open_journal(tmp_path) as journal:
            await plan(journal.store)
            scope.cancel()
            await anyio.sleep_forever()
    assert "free" in repr(journal._lock)
    async with open_journal(tmp_path) as journal:
        assert await journal.count() == {JobState.PLANNED: 1}


def test_a_file_system_that_carries_no_manner_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way of opening is tried once; the first error is raised."""
    tried: list[object] = []

    def fail(_: Database, manner: object, *__: object) -> None:
        tried.append(manner)
        error = sqlite3.OperationalError(f"disk I/O error {len(tried)}")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr(Database, "_try", fail)
    with pytest.raises(JournalError, match="disk I/O error 1"):
        Database(tmp_path / "journal.sqlite3")
    assert len(tried) == 2


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    """A journal of a later version cannot be understood, and is not changed."""
    path, newer = tmp_path / "journal.sqlite3", len(MIGRATIONS) + 1
    Database(path, migrations=(*MIGRATIONS, ["CREATE TABLE later (number)"])).close()
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(JournalError, match=rf"newer version.*schema {newer}, this one knows {newer - 1}"):
            Database(path, read_only=read_only)
    assert path.read_bytes() == before


def test_an_older_schema_is_migrated_whole_or_not_at_all(tmp_path: Path) -> None:
    """Each step is one transaction with its version number, and what was written stays."""
    path = tmp_path / "journal.sqlite3"
    old = Database(path)
    insert = "INSERT INTO job (digest, key, route, body, state) VALUES (x'00', 'k', 'r', '{}', 'planned')"
    old.commit([lambda connection: connection.execute(insert)], durable=True)
    old.close()
    steps = [*MIGRATIONS, ["ALTER TABLE job ADD COLUMN note TEXT", "UPDATE job SET note = 'kept'"]]
    with pytest.raises(JournalError, match="must be migrated first"):
        Database(path, read_only=True, migrations=steps)
    with pytest.raises(JournalError, match="syntax error"):
        Database(path, migrations=[*MIGRATIONS, [*steps[-1], "NONSENSE"]])
    new = Database(path, migrations=steps)
    assert new.commit([lambda connection: connection.execute("SELECT key, note FROM job").fetchall()], durable=False)
    assert new._ask("PRAGMA user_version") == len(steps)
    new.close()


async def test_a_journal_of_the_first_schema_goes_on(tmp_path: Path) -> None:
    """Every piece comes through the migration as it was; what it had no place for is not known."""
    rows = [
        ("planned", None, None, None),
        ("sending", None, None, None),
        ("submitted", "op_3", None, None),
        ("ready", "op_4", write_outputs((OUTPUT,)), None),
        ("saved", "op_5", write_outputs((OUTPUT,)), write_files((FILE,))),
    ]
    insert = (
        "INSERT INTO piece (digest, occurrence, key, route, body, state, operation, outputs, files)"
        "VALUES (?, 1, 'key ' || ?, 'create.new_fx', x'7b7d', ?, ?, ?, ?)"
    )
    old = Database(tmp_path / "journal.sqlite3", migrations=MIGRATIONS[:1])
    for number, row in enumerate(rows, start=1):
        old.commit([methodcaller("execute", insert, (name(number).digest, number, *row))], durable=True)
    old.close()
    async with open_journal(tmp_path) as journal:
        found = [await journal.store.find(name(number)) for number in range(1, 6)]
        assert [piece and piece.state for piece in found] == [row[0] for row in rows]
        for piece in found:
            assert piece is not None
            assert (piece.name, piece.metadata, piece.title) == (None, None, None)
            assert (piece.submitted_at, piece.ready_at, piece.ended_at) == (None, None, None)
        ready, saved = found[3:]
        assert ready is not None
        assert saved is not None
        assert (ready.outputs, saved.files) == (
            (attrs.evolve(OUTPUT, handle=Handle("create.new_fx", "op_4")),),
            (FILE,),
        )
        assert await journal.store.mark_ready(ready, attrs.evolve(OPERATION, id="op_4"), now=5.0) == "op_4"
        assert await journal.store.load_run_info() == {}


@BOTH
async def test_names_are_given_once(tmp_path: Path) -> None:
    """Who asks for a name that others have, in whatever case, gets a number, and keeps it; ten thousand do as well."""
    async with open_journal(tmp_path) as journal:
        store = journal.store
        wanted = ["Take", "take", "take-2", None, "../con", "\ud800", "take"]
        titles = []
        for number, text in enumerate(wanted):
            piece = await store.insert(name(number), key=f"{number}", route="r", body=b"", annotation=Annotation(text))
            assert piece is not None
            titles.append(await store.mark_ready(piece, OPERATION, now=1.0))
            assert await store.mark_ready(piece, OPERATION, now=1.0) == titles[-1]
        assert titles == ["Take", "take-2", "take-2-2", "op_1", "_con", "_", "take-3"]
        made = Annotation("take", source="create.new_fx/op_1#0")
        piece = await store.insert(name(9), key="9", route="r", body=b"", annotation=made)
        assert piece is not None
        assert await store.mark_ready(piece, OPERATION, now=1.0, named=False) is None  # its files are not wanted
        assert (await store.look_over(now=9.0, since=0.0)).dependents == {JobState.READY: 1}
        assert await store.mark_ready(piece, OPERATION, now=1.0) == "take-4"
        found = await store.find(name(9))
        assert found is not None
        assert (found.source, found.title) == (made.source, "take-4")


@BOTH
async def test_what_comes_in_pieces_is_told_apart_file_by_file(tmp_path: Path) -> None:
    """Two outputs called x are x-1 and x-2, so a single one that is to be called x-1 gets another name."""
    two = attrs.evolve(OPERATION, outputs=tuple(attrs.evolve(OUTPUT, kind=None, index=index) for index in (0, 1)))
    one = attrs.evolve(OPERATION, outputs=two.outputs[:1])
    async with open_journal(tmp_path) as journal:
        pieces = [
            await journal.store.insert(name(number), key=f"{number}", route="r", body=b"", annotation=Annotation(text))
            for number, text in enumerate(["x", "x-1", "x"])
        ]
        assert all(pieces)
        titles = [
            await journal.store.mark_ready(piece, operation, now=1.0)
            for piece, operation in zip(pieces, [two, one, one], strict=True)
            if piece is not None
        ]
        assert titles == ["x", "x-1-2", "x"]


@BOTH
async def test_a_label_may_change(tmp_path: Path) -> None:
    """Name and metadata are the user's: what was said last counts, until the files have a title."""
    async with open_journal(tmp_path) as journal:
        store = journal.store
        label = Annotation("one", {"album": ["ä", 1]}, line=3)
        piece = await store.insert(name(1), key="k", route="r", body=b"", annotation=label)
        assert piece is not None
        assert (piece.name, piece.metadata, piece.line) == ("one", {"album": ["ä", 1]}, 3)
        piece = await store.annotate(piece, Annotation("two"))
        assert await store.find(name(1)) == piece
        assert (piece.name, piece.metadata) == ("two", None)
        assert await store.mark_ready(piece, OPERATION, now=1.0) == "two"
        with pytest.raises(InvalidRequest, match="cannot be encoded as JSON"):
            journal.annotate(NewFx("door", duration=1), metadata=float("nan"))


@BOTH
async def test_what_the_next_run_has_to_know_is_kept(tmp_path: Path) -> None:
    """Any JSON under a name, the last one; an edited one is a clear error."""
    async with open_journal(tmp_path) as journal:
        await journal.store.save_run_info(jobs="a.jsonl", options={"polls": 6})
        await journal.store.save_run_info(jobs="b.jsonl")
    async with open_journal(tmp_path) as journal:
        assert await journal.store.load_run_info() == {"jobs": "b.jsonl", "options": {"polls": 6}}
        assert await journal.store.load_run_info("jobs", "unknown") == {"jobs": "b.jsonl"}
        assert await journal.store.count_lines() == 0
    await edit_journal(tmp_path, "UPDATE run SET value = 'x'")
    async with open_journal(tmp_path) as journal:
        with pytest.raises(JournalError, match="cannot be read"):
            await journal.store.load_run_info()


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    """A file or a database of somebody else is not written into."""
    path = tmp_path / "journal.sqlite3"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (number)")
    other.close()
    with pytest.raises(JournalError, match="not a journal of this library"):
        Database(path)
    path.write_bytes(b"RIFF" * 1000)
    with pytest.raises(JournalError, match="damaged, or not a journal"):
        Database(path)
    assert path.read_bytes() == b"RIFF" * 1000


async def test_a_damaged_journal_is_seen_at_once(tmp_path: Path) -> None:
    """Not after hours of work, when the damaged page is read; and it is not made worse."""
    async with open_journal(tmp_path) as journal:
        async with anyio.create_task_group() as group:
            for number in range(500):
                group.start_soon(plan, journal.store, number)
    path = tmp_path / "journal.sqlite3"
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + bytes(8192) + whole[16384:])
    damaged = path.read_bytes()
    with pytest.raises(JournalError, match="damaged"):
        await open_journal(tmp_path)
    assert path.read_bytes() == damaged
    path.write_bytes(whole)
    async with open_journal(tmp_path) as journal:
        assert await journal.count() == {JobState.PLANNED: 500}


async def test_a_row_edited_into_nonsense_is_named(tmp_path: Path) -> None:
    """The file may be opened with any tool, so it may be broken with any tool."""
    async with open_journal(tmp_path) as journal:
        piece = await plan(journal.store)
        await journal.store._change(piece, "outputs = 'x'")
        with pytest.raises(JournalError, match="job 1 of the journal cannot be read"):
            await journal.store.find(name(1))
        await journal.store._change(piece, "state = 'lost'")
        with pytest.raises(JournalError, match="lost"):
            await journal.count()


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Make a folder read-only for this process; root switches to another user meanwhile."""
    folder.chmod(0o555)
    try:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
            try:
                yield
            finally:
                os.seteuid(0)
        else:
            yield
    finally:
        folder.chmod(0o755)


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder in which we may not write."""
    with make_open_folder() as made, unwritable(made):
        yield made


async def test_a_journal_is_looked_at_where_nothing_may_be_written() -> None:
    """As on a medium that is kept for later; SQLite by itself wants to write beside it."""
    with make_open_folder() as made:
        async with open_journal(made) as journal:
            await plan(journal.store, 1)
        (made / "journal.sqlite3").chmod(0o644)
        with unwritable(made):
            async with open_journal(made, read_only=True) as journal:
                assert await journal.count() == {JobState.PLANNED: 1}


async def test_a_read_only_folder_is_a_clear_error(read_only_folder: Path) -> None:
    """Whether the folder is there or would have to be made."""
    for folder in (read_only_folder, read_only_folder / "out"):
        with pytest.raises(JournalError, match=r"cannot hold a journal.*choose a folder"):
            await open_journal(folder)
    assert list(read_only_folder.iterdir()) == []


async def test_a_folder_that_lies_too_deep_is_a_clear_error(tmp_path: Path) -> None:
    """Python creates folders recursively: thousands of levels are reported as an error."""
    with pytest.raises(JournalError, match=r"cannot hold a journal.*recursion"):
        await open_journal(tmp_path / ("d/" * 1900))
    assert list(tmp_path.iterdir()) == []


async def test_a_journal_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """As when something else has its name; the lock is given back."""
    (tmp_path / "journal.sqlite3").mkdir()
    with pytest.raises(JournalError, match="cannot be opened"):
        await open_journal(tmp_path)
    (tmp_path / "journal.sqlite3").rmdir()
    async with open_journal(tmp_path) as journal:
        assert await journal.count() == {}


async def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """Committed data stays, the rest is an error, and with free space the same journal continues."""
    async with open_journal(tmp_path) as journal:
        store = journal.store
        await plan(store)
        pages = await store._execute(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
        await store._execute(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        with pytest.raises(JournalError, match=r"the disk is full: free some space.*nothing is lost"):
            await store.insert(name(2), key="key 2", route="create.new_fx", body=bytes(100_000))
        assert await journal.count() == {JobState.PLANNED: 1}
        await store._execute(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
        await store.insert(name(2), key="key 2", route="create.new_fx", body=bytes(100_000))
    async with open_journal(tmp_path) as journal:
        assert await journal.count() == {JobState.PLANNED: 2}


async def test_a_file_that_may_grow_no_further_loses_nothing(tmp_path: Path) -> None:
    """A quota: the system itself refuses the write, in the middle of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with open_journal(tmp_path) as journal:
        await plan(journal.store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(JournalError, match="nothing is lost"):
                await journal.store.insert(name(2), key="key 2", route="create.new_fx", body=bytes(200_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await plan(journal.store, 3)
    async with open_journal(tmp_path) as journal:
        assert sorted(piece.key for piece in await journal.jobs("planned")) == ["key 1", "key 3"]

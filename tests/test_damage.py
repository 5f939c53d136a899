"""Single damaged bits of a journal: each is an error that says so, or does no harm, and none is ever paid for."""

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio
import attrs
import pytest
from helpers.simulation import settings, simulate

from soundpiece_async import Failed, Journal, JournalError, NewFx, Request, SeparateStems, Session
from soundpiece_async._core import job_records
from soundpiece_async._core.job_records import JobIdentity
from soundpiece_async._journal.wal import find_damage
from soundpiece_async.simulator import Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]

FLIPS, SAMPLE = 3000, 60
NAMES = ("journal.sqlite3", "journal.sqlite3-wal")


def wishes() -> list[Request]:
    """Equal to those of any other call: the journal knows them by what they say."""
    stems = [SeparateStems(f"https://media.example.com/{number}.wav") for number in range(3)]
    return [*(NewFx(f"door {number}", duration=0.1) for number in range(7)), *stems]


@attrs.frozen(kw_only=True)
class Damaged:
    """A journal to damage: its folder, its files as they were, and who answers."""

    folder: Path
    files: dict[str, bytes]
    sim: Simulator
    session: Session

    @classmethod
    def take(cls, folder: Path, sim: Simulator, session: Session) -> "Damaged":
        """Copy the files of a journal, which may be open: as a process leaves them that is killed."""
        files = {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}
        return cls(folder=folder, files=files, sim=sim, session=session)

    def flip(self, bit: int) -> str:
        """Put the files back, but for one bit."""
        place, found = bit // 8, ""
        for name in NAMES:
            data = bytearray(self.files.get(name, b""))
            if 0 <= place < len(data):
                data[place] ^= 1 << bit % 8
                found = f"bit {bit % 8} of byte {place} of {name}"
            place -= len(data)
            (self.folder / name).write_bytes(data)
        (self.folder / "journal.sqlite3-shm").unlink(missing_ok=True)
        return found

    async def look(self) -> str:
        """Read all that is read of a journal without writing it."""
        try:
            async with Journal.open(self.folder, read_only=True) as journal:
                await journal.count()
                await journal.jobs()
                await journal.store.load_run_info()
                await journal.store.look_over(now=1.0, since=1.0)
                await journal.store.measure_waits()
        except JournalError:
            return "refused"
        return "read"

    async def run(self) -> str:
        """Run the same again: all saved, or a JournalError; every other error is raised."""
        try:
            async with Journal.open(self.folder) as journal:
                async with self.session.run_many(wishes(), save_to=self.folder, journal=journal, timeout=60) as results:
                    async for result in results:
                        if isinstance(result, Failed):
                            raise result.error
        except JournalError:
            return "refused"
        return "saved"


@pytest.fixture
async def interrupted(tmp_path: Path) -> AsyncIterator[Damaged]:
    """A journal of a run that was killed: five saved, three submitted, one sending, one planned."""
    async with simulate(durations=lambda route: 1e9 if "stems" in route else 1.0) as sim:
        async with Session(settings(sim)) as session:
            async with Journal.open(tmp_path) as journal:
                some = [*wishes()[:5], *wishes()[7:]]
                async with session.run_many(some, save_to=tmp_path, journal=journal) as results:
                    for _ in range(5):
                        await anext(results)
                    while len(results.pending) < 3:
                        await anyio.sleep(0.01)
                for number, request in enumerate(wishes()[5:7]):
                    identity = JobIdentity(digest=job_records.digest(request), occurrence=1)
                    body = await session._engine.prepare(request)
                    job = await journal.store.insert(
                        identity, key=request.idempotency_key, route=request.route, body=body
                    )
                    assert job is not None
                    if number:
                        await journal.store.mark_sending(job, now=2e9)
                taken = Damaged.take(tmp_path, sim, session)
            for operation in tuple(sim.operations.values()):
                if "stems" in operation.route.name:
                    sim.finish(operation.id)
            yield taken


@pytest.fixture
async def finished(interrupted: Damaged) -> Damaged:
    """A journal of a run that came to its end."""
    interrupted.flip(-1)
    assert await interrupted.run() == "saved"
    return Damaged.take(interrupted.folder, interrupted.sim, interrupted.session)


async def damage(journal: Damaged, *, number: int) -> dict[str, int]:
    """Flip bits, one at a time, and count what came of it."""
    size = 8 * sum(map(len, journal.files.values()))
    outcomes = {"saved": 0, "refused": 0}
    for bit in random.Random(17).sample(range(size), number):
        flipped = journal.flip(bit)
        try:
            await journal.look()
            outcomes[await journal.run()] += 1
        except BaseException as error:
            error.add_note(flipped)
            raise
        assert len(journal.sim.operations) <= 10, f"paid for {flipped}"
    return outcomes


async def test_a_damaged_bit_of_a_finished_journal(finished: Damaged, *, thorough: bool) -> None:
    """Nothing is bought again, and nothing foreign is raised."""
    outcomes = await damage(finished, number=FLIPS if thorough else SAMPLE)
    assert outcomes["saved"]
    assert outcomes["refused"]


async def test_a_damaged_bit_of_an_interrupted_journal(interrupted: Damaged, *, thorough: bool) -> None:
    """The same, where keys were sent, and most of it is in the write-ahead log."""
    assert len(interrupted.files["journal.sqlite3-wal"]) > 10_000
    outcomes = await damage(interrupted, number=FLIPS if thorough else SAMPLE)
    assert outcomes["refused"]


def edit(folder: Path, *statements: str) -> None:
    """Change rows as a damaged bit would, in places that SQLite itself does not compare."""
    with closing(sqlite3.connect(folder / "journal.sqlite3", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    "damage",
    [
        "key = replace(key, '-', '.')",
        "route = 'create.new_fy'",
        "body = cast(replace(cast(body AS TEXT), 'door', 'doos') AS BLOB)",
        "digest = x'00'",
        "operation = upper(operation)",
        "body = cast(body AS TEXT)",
        "sent_at = 'yesterday'",
        "outputs = '[{\"index\": {}}]'",
        "outputs = replace(outputs, '\"index\": 0', '\"index\": 1')",
    ],
)
async def test_what_no_index_holds_twice_has_a_checksum(finished: Damaged, damage: str) -> None:
    """Key, body, route, operation and outputs: a run ends before anything is sent under a damaged one."""
    edit(finished.folder, f"UPDATE job SET {damage} WHERE number = 1")  # noqa: S608 - our own
    assert await finished.look() == "refused"
    edit(finished.folder, "UPDATE job SET state = 'sending' WHERE number = 1")
    with pytest.raises(JournalError, match="cannot be read"):
        async with Journal.open(finished.folder) as journal:
            await journal.jobs()
    assert len(finished.sim.operations) == 10


async def test_the_key_of_a_row_without_a_checksum_is_held_against_its_body(finished: Damaged) -> None:
    """As rows are that an earlier version wrote."""
    edit(finished.folder, "UPDATE job SET seal = NULL, operation_seal = NULL, outputs_seal = NULL")
    assert await finished.run() == "saved"
    edit(finished.folder, "UPDATE job SET key = replace(key, '-', '.') WHERE number = 1")
    assert await finished.run() == "refused"


@pytest.mark.parametrize("damaged", ["DROP INDEX job_content", "ALTER TABLE job RENAME COLUMN seal TO seam"])
async def test_a_damaged_schema_is_noticed(finished: Damaged, damaged: str) -> None:
    """Also where SQLite finds nothing wrong with it; what somebody added is theirs."""
    edit(finished.folder, "CREATE VIEW theirs AS SELECT key FROM job", "CREATE INDEX mine ON job (route)")
    assert await finished.run() == "saved"
    edit(finished.folder, damaged)
    assert (await finished.look(), await finished.run()) == ("refused", "refused")


async def test_a_damaged_index_is_noticed(finished: Damaged) -> None:
    """An index by which no key is found would have all of it bought again."""
    data = (finished.folder / "journal.sqlite3").read_bytes()
    operation = next(iter(finished.sim.log)).key
    assert operation is not None
    places = [place for place in range(len(data)) if data.startswith(operation.encode(), place)]
    assert len(places) >= 3  # the row, its body, the index
    for place in places:
        finished.flip(8 * (place + 5))
        assert await finished.run() == "refused"


async def test_a_damaged_log_is_noticed_and_a_torn_one_is_not(interrupted: Damaged) -> None:
    """SQLite forgets all behind a damaged frame; only the last frame may be torn, by the death of the process."""
    name = "journal.sqlite3-wal"
    log = interrupted.files[name]
    path = interrupted.folder / name
    for place, expected in ((0, "header"), (40, "frame 1"), (len(log) // 2, "more follow")):
        path.write_bytes(log[:place] + bytes([log[place] ^ 1]) + log[place + 1 :])
        assert expected in (find_damage(path) or "")
    for torn in (log[:-1], log[:-4000], log[:40], b"", log[:-1] + b"\0"):
        path.write_bytes(torn)
        assert find_damage(path) is None
    path.unlink()
    assert find_damage(path) is None

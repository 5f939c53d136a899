import errno
import threading
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs
import obstore
import pytest
from helpers.simulation import never_finishes, settings, simulate
from obstore.store import LocalStore, MemoryStore

from soundpiece_async import (
    CorruptAudio,
    DownloadError,
    Failed,
    InvalidRequest,
    Journal,
    Limits,
    NewFx,
    NotReady,
    SavedFile,
    SeparateStems,
    Session,
    SessionClosed,
    Settings,
    SettingsError,
    Succeeded,
)
from soundpiece_async._download import partfile
from soundpiece_async._download.downloader import THREADS
from soundpiece_async._engine import RunFiles
from soundpiece_async.simulator import Fault, Simulator

pytestmark = pytest.mark.anyio


async def names(store: MemoryStore) -> list[str]:
    return sorted([entry["path"] async for page in obstore.list(store) for entry in page])


async def test_files_go_to_a_store(session: Session) -> None:
    """``run`` and ``download`` take a store where they take a folder, with the same names."""
    store = MemoryStore()

    done = await session.run(NewFx("door slams", duration=2.5), save_to=store)
    stems = await session.run(SeparateStems(done.operation.outputs[0]), save_to=store)
    bass = next(output for output in stems.operation.outputs if output.kind == "bass")
    again = await session.download(bass, store, name="mine")

    assert done.files[0].url == f"memory:///{done.operation.id}.flac"
    assert again.name == "mine-bass.flac"
    assert await names(store) == sorted(file.name for file in (*done.files, *stems.files, again))


async def test_many_pieces_go_to_a_store(session: Session) -> None:
    """As to a folder."""
    store = MemoryStore()

    async with session.run_many((NewFx(f"take {n}", duration=1) for n in range(5)), save_to=store) as results:
        urls = [result.files[0].url async for result in results if isinstance(result, Succeeded)]

    assert len(urls) == 5
    assert [f"memory:///{name}" for name in await names(store)] == sorted(map(str, urls))


async def test_a_journal_knows_objects(session: Session, sim: Simulator, tmp_path: Path) -> None:
    """A second run gives out what is in the store without a request."""
    place = LocalStore(tmp_path / "songs", mkdir=True)
    found, sent = [], []
    for _ in range(2):
        requests = [NewFx(f"take {n}", duration=1) for n in range(3)]
        async with (
            Journal.open(tmp_path) as journal,
            session.run_many(requests, save_to=place, journal=journal) as results,
        ):
            found.append({result.files[0].url async for result in results if isinstance(result, Succeeded)})
        sent.append(len(sim.log))

    assert found[0] == found[1]
    assert len(found[0]) == 3
    assert sent[0] == sent[1]


@pytest.mark.parametrize("to", ["ftp://host/x", Path("s3://songs")])
async def test_a_place_is_refused_before_anything_is_paid(session: Session, sim: Simulator, to: str | Path) -> None:
    """What can be saved nowhere is not made."""
    with pytest.raises(InvalidRequest):
        await session.run(NewFx("door slams", duration=1), save_to=to)
    with pytest.raises(InvalidRequest):
        session.run_many([], save_to=to)
    assert len(sim.log) == 0


async def test_a_full_check_refuses_a_store_before_anything_is_paid(sim: Simulator) -> None:
    """A check that cannot be made is not left out unsaid."""
    async with Session(settings(sim, verify="full")) as session:
        with pytest.raises(SettingsError, match="decodes local files"):
            await session.run(NewFx("door slams", duration=1), save_to=MemoryStore())
        assert len(sim.log) == 0


async def test_an_output_is_passed_on(session: Session, tmp_path: Path) -> None:
    """What the stream gives is what a file would hold."""
    done = await session.run(NewFx("door slams", duration=1), save_to=tmp_path)

    async with session.stream(done.operation.outputs[0]) as audio:
        data = b"".join([block async for block in audio])
        assert audio.headers["Content-Length"] == str(len(data))

    assert data == done.files[0].path.read_bytes()


async def test_an_expired_url_does_not_show_in_a_stream() -> None:
    """It is signed afresh through the session."""
    async with simulate(url_lifetime=1) as sim, Session(settings(sim)) as session:
        done = await session.run(NewFx("door slams", duration=1))
        async with session.stream(done.operation.outputs[0]) as audio:
            assert b"".join([block async for block in audio]).startswith(b"fLaC")


async def test_a_stream_needs_an_open_session(sim: Simulator) -> None:
    """As everything does."""
    session = Session(settings(sim))
    async with session:
        done = await session.run(NewFx("door slams", duration=1))
    with pytest.raises(SessionClosed):
        session.stream(done.operation.outputs[0])
    with pytest.raises(SessionClosed):
        Session(Settings(api_key="spk_x")).stream(done.operation.outputs[0])


async def test_the_settings_reach_the_downloader(sim: Simulator, tmp_path: Path) -> None:
    """``max_bytes`` bounds files, objects and streams; ``keep_corrupt`` keeps what was no audio."""
    async with Session(settings(sim, limits=Limits(max_bytes=100))) as session:
        done = await session.run(NewFx("door slams", duration=1))
        for place in (tmp_path, MemoryStore()):
            with pytest.raises(DownloadError, match="max_bytes"):
                await session.download(done.operation, place)
        with pytest.raises(DownloadError, match="max_bytes"):
            async with session.stream(done.operation.outputs[0]):
                pytest.fail("it was entered")
    async with Session(settings(sim, keep_corrupt=True)) as session:
        sim.inject(Fault.CORRUPT, host="output", at=0, times=9)
        with pytest.raises(CorruptAudio, match="kept as"):
            await session.download(done.operation, tmp_path)

    assert [path.suffix for path in tmp_path.iterdir()] == [".corrupt"]


async def test_an_output_the_operation_does_not_have_is_refused(session: Session, tmp_path: Path) -> None:
    """Its name is unknown, and so is what it would be."""
    done = await session.run(NewFx("door slams", duration=1))

    with pytest.raises(DownloadError, match="has no output 7"):
        await session.download(attrs.evolve(done.operation.outputs[0], index=7), tmp_path)


async def test_what_is_not_ready_is_refused(tmp_path: Path) -> None:
    """An operation that still runs has no files yet."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(NewFx("door slams", duration=1))
        for what in (operation, operation.handle):
            with pytest.raises(NotReady, match="wait for it before downloading") as caught:
                await session.download(what, tmp_path)
            assert caught.value.handle == operation.handle


async def test_what_names_no_file_is_refused(session: Session, tmp_path: Path) -> None:
    """NUL and lone surrogates in a path are an InvalidRequest before anything is paid for; a name goes without them."""
    done = await session.run(NewFx("door slams", duration=1))
    for wrong in ("songs\0", tmp_path / "\ud800"):
        for call in (session.download(done.operation, wrong), session.run(NewFx("door", duration=1), save_to=wrong)):
            with pytest.raises(InvalidRequest, match="cannot be a path"):
                await call
    with pytest.raises(TypeError, match="name must be text"):
        await session.download(done.operation, tmp_path, name=7)  # type: ignore[call-overload] # a mistake
    files = await session.download(done.operation, tmp_path, name="do\0or\ud800")

    assert [file.name for file in files] == ["door.flac"]
    assert session.statistics().submitted == 1


@pytest.mark.parametrize("downloads", [1, 4])
async def test_a_full_disk_stops_the_downloads_of_a_run(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, downloads: int
) -> None:
    """In-flight and later requests of the same run end with that error, with their operation; other runs continue."""
    written: list[int] = []

    def fill_up(*_: object) -> None:
        written.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    async with Session(settings(sim, limits=Limits(downloads=downloads))) as session:
        with monkeypatch.context() as patch:
            patch.setattr(partfile, "_write_all", fill_up)
            requests = [NewFx(f"door {number}", duration=1) for number in range(12)]
            async with session.run_many(requests, save_to=tmp_path, max_in_flight=8) as results:
                failed = [result async for result in results]
        assert len(written) <= 8  # those in flight: a small file is written when its slot is free again
        for result in failed:
            assert isinstance(result, Failed)
            assert isinstance(result.error, DownloadError)
            assert "the disk" in str(result.error)
            assert isinstance(result.error.__cause__, OSError)
        assert not list(tmp_path.glob("*.flac"))
        async with session.run_many(requests, save_to=tmp_path) as results:
            assert {type(result) async for result in results} == {Succeeded}


async def test_a_slow_disk_slows_downloads_only(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While writes hang in every thread that downloads have, work is submitted and awaited as ever."""
    hanging, go_on = threading.Semaphore(0), threading.Event()
    write = partfile._write_all

    def crawl(file: Any, blocks: Any) -> None:
        hanging.release()
        assert go_on.wait(8)
        write(file, blocks)

    monkeypatch.setattr(partfile, "_write_all", crawl)
    done = await session.run(NewFx("door slams", duration=1))
    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(partial(session.download, done.operation, tmp_path, name=f"door {number}"))
        for _ in range(THREADS):
            await anyio.to_thread.run_sync(hanging.acquire)
        other = await session.run(NewFx("it creaks", duration=1))
        assert not list(tmp_path.glob("*.flac"))
        go_on.set()

    assert other.operation.id != done.operation.id
    assert len(list(tmp_path.glob("*.flac"))) == 8


async def test_a_full_disk_ends_the_downloads_of_a_run(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those under way end with that error, and those that would follow do not begin."""
    operation = await session.submit(NewFx("door slams", duration=1))
    begun: list[str] = []
    ended: list[str] = []

    async def download(_: object, __: object, *, name: str, overwrite: bool) -> list[SavedFile]:
        begun.append(name)
        if name == "full":
            raise DownloadError("no", url="", path="") from OSError(errno.ENOSPC, "no space")
        await anyio.sleep_forever()
        raise AssertionError(overwrite)

    monkeypatch.setattr(session._engine, "download", download)
    files = RunFiles(session._engine, tmp_path)

    async def call(name: str) -> None:
        with pytest.raises(DownloadError) as caught:
            await files.save(operation, name=name)
        ended.append(str(caught.value))

    async with anyio.create_task_group() as group:
        group.start_soon(call, "other")
        await anyio.wait_all_tasks_blocked()
        assert repr(files) == "<RunFiles running=1 full=False>"
        await call("full")
    await call("late")
    assert begun == ["other", "full"]
    assert ended[0] == "no"
    assert all("found the disk full" in text for text in ended[1:])
    assert repr(files) == "<RunFiles running=0 full=True>"

import errno
import hashlib
import io
import os
import resource
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from helpers.download_bench import KEPT, PATH, SONG, bench, flac_like, leave
from helpers.raw_output_host import ScriptedResponse

from soundpiece_async._core.errors import DownloadError
from soundpiece_async._core.ranges import RemoteFile
from soundpiece_async._download import partfile
from soundpiece_async._download.partfile import STALLED_SECONDS, Claim, LockWatch, PartFile, Superseded
from soundpiece_async._download.transfer import BATCH

pytestmark = pytest.mark.anyio


async def test_what_arrived_is_kept_for_the_next_process(tmp_path: Path) -> None:
    """Given up with bytes in hand, a ``.part`` and its note stay, and another downloader goes on from them."""
    async with bench(tmp_path, ScriptedResponse(cut=200_000), default=ScriptedResponse(status=500), max_elapsed=2) as b:
        with pytest.raises(DownloadError):
            await b.save()
        assert b.left() == KEPT

    async with bench(tmp_path) as b:
        assert await b.save() == SONG
        assert b.server.ranges == ["bytes=200000-"]
        assert b.downloader.received == 100_000


@pytest.mark.parametrize(
    ("data", "changes", "ranges"),
    [
        (SONG[:5_000], {}, ["bytes=5000-"]),
        (SONG[:5_000], {"size": None}, ["bytes=5000-"]),
        (SONG, {}, ["bytes=299999-"]),
        (SONG, {"size": None}, ["bytes=300000-"]),
        (SONG + b"more", {}, [None]),
        (SONG + b"more", {"size": None}, ["bytes=300004-", None]),
        (SONG[:5_000], {"size": 400_000}, ["bytes=5000-", None]),
        (SONG[:5_000], {"etag": '"old"'}, ["bytes=5000-"]),
        (SONG[:5_000], {"source": "another"}, [None]),
        (SONG[:5_000], {"note": "{}"}, [None]),
        (SONG[:5_000], {"note": '{"source": '}, [None]),
        (SONG[:5_000], {"note": "[]"}, [None]),
        (SONG[:1], {"size": 1}, [None]),
    ],
)
async def test_a_part_is_used_when_its_note_says_so(
    tmp_path: Path, data: bytes, changes: dict[str, Any], ranges: list[str | None]
) -> None:
    """What a dead process left is gone on with under its ETag, size and source, else thrown away."""
    async with bench(tmp_path) as b:
        leave(b, data, **changes)

        assert await b.save() == SONG
        assert b.server.ranges == ranges


async def test_a_part_without_a_note_is_thrown_away(tmp_path: Path) -> None:
    """Bytes that nothing describes are not used."""
    async with bench(tmp_path) as b:
        leave(b, SONG[:5_000])
        b.target.with_name("song.flac.part.json").unlink()

        assert await b.save() == SONG
        assert b.server.ranges == [None]


async def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    """Nothing is written outside the folder."""
    async with bench(tmp_path) as b:
        b.target.parent.mkdir()
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        b.target.with_name("song.flac.part").symlink_to(victim)

        with pytest.raises(DownloadError, match="file system"):
            await b.save()
        assert victim.read_bytes() == b"precious"


async def test_processes_wait_for_each_other(tmp_path: Path) -> None:
    """While another holder of the ``.part`` works, nothing is asked; its file is then taken as it is."""
    async with bench(tmp_path) as b, anyio.create_task_group() as group:
        b.target.parent.mkdir()
        other = PartFile(b.target, source="another process")
        assert other.claim(overwrite=False) is Claim.ACQUIRED
        other.append([SONG])

        group.start_soon(b.save)
        await anyio.sleep(0.15)
        assert not b.server.requests
        other.publish()
        await anyio.sleep(0.15)
        assert not b.left()[1:]
        other.close()

    assert b.server.ranges == ["bytes=0-41"]


async def test_a_holder_that_gives_up_is_followed(tmp_path: Path) -> None:
    """The lock of a process that failed passes on, though its ``.part`` was removed meanwhile."""
    async with bench(tmp_path) as b, anyio.create_task_group() as group:
        b.target.parent.mkdir()
        other = PartFile(b.target, source="another process")
        assert other.claim(overwrite=False) is Claim.ACQUIRED

        group.start_soon(b.save)
        await anyio.sleep(0.15)
        other.close()

    assert b.target.read_bytes() == SONG


@pytest.mark.parametrize("wakes", [True, False])
async def test_nobody_waits_for_a_paused_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, wakes: bool
) -> None:
    """Its file has stopped growing: another one is written beside it; nothing is left but the file itself."""
    monkeypatch.setattr(partfile, "STALLED_SECONDS", 0.05)
    async with bench(tmp_path) as b:
        b.target.parent.mkdir()
        paused, heir = (PartFile(b.target, source="s", number=number) for number in (1, 2))
        for part in (paused, heir):
            assert part.claim(overwrite=False) is Claim.ACQUIRED
            part.restart(RemoteFile(etag='"1"', size=len(SONG)))
            part.append([SONG[:5_000]])
        dead = PartFile(b.target, source="s", number=4)
        assert dead.claim(overwrite=False) is Claim.ACQUIRED
        dead.close()
        dead.path.write_bytes(b"left by one that was killed")

        assert await b.save() == SONG
        assert b.server.ranges == [None]
        for part in (paused, heir):
            if wakes:
                part.append([SONG[5_000:]])
                with pytest.raises(Superseded):
                    part.publish()
                with pytest.raises(Superseded):
                    part.keep_corrupt()
            part.close()
        assert b.left() == ["song.flac"]


async def test_a_paused_process_wakes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the file that another one has saved meanwhile, and takes that as its own."""
    async with bench(tmp_path) as b:
        publish = PartFile.publish

        def be_late(part: PartFile) -> None:
            monkeypatch.setattr(PartFile, "publish", publish)
            other = PartFile(b.target, source="another process", number=2)
            assert other.claim(overwrite=False) is Claim.ACQUIRED
            other.append([SONG])
            other.publish()
            publish(part)

        monkeypatch.setattr(PartFile, "publish", be_late)
        assert await b.save() == SONG
        assert b.server.ranges == [None, "bytes=0-41"]
        assert b.downloader.saved == 0


def test_a_process_that_is_paused_in_the_middle_of_its_rename_publishes_no_file_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile one process has published, and a third has begun again: its incomplete file goes back to it."""
    target, replace = tmp_path / "song.flac", Path.replace
    late, heir, third = (PartFile(target, source="s", number=number) for number in (1, 2, 1))

    def pause(path: Path, to: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        assert heir.claim(overwrite=False) is Claim.ACQUIRED
        heir.append([SONG])
        heir.publish()
        target.unlink()
        assert third.claim(overwrite=False) is Claim.ACQUIRED
        third.append([SONG[:5_000]])
        return replace(path, to)

    assert late.claim(overwrite=False) is Claim.ACQUIRED
    late.append([SONG])
    monkeypatch.setattr(Path, "replace", pause)
    with pytest.raises(Superseded):
        late.publish()
    late.close()
    assert not target.exists()
    third.append([SONG[5_000:]])
    third.publish()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [SONG]


def test_a_locked_file_is_waited_for_as_long_as_it_grows() -> None:
    """One that has had the same size for long is followed by another one."""
    watch = LockWatch()
    for size, now in ((5, 0.0), (6, STALLED_SECONDS), (6, 2 * STALLED_SECONDS - 1)):
        watch.note(size, now=now)
        assert watch.number == 1
    watch.note(6, now=2 * STALLED_SECONDS)
    assert watch.number == 2


def test_a_lock_belongs_to_the_file_that_is_there(tmp_path: Path) -> None:
    """One claim at a time; a closed one is never made again, and using it is a mistake of ours."""
    one, two = (PartFile(tmp_path / "x.flac", source="s") for _ in range(2))

    assert repr(one) == f"<PartFile {tmp_path / 'x.flac.part'} new length=0 {RemoteFile()}>"
    assert one.find_size() == 0
    assert one.claim(overwrite=False) is Claim.ACQUIRED
    assert "open" in repr(one)
    assert two.claim(overwrite=False) is Claim.LOCKED
    one.close()
    one.close()
    assert "closed" in repr(one)
    assert one.claim(overwrite=False) is Claim.LOCKED
    assert two.claim(overwrite=False) is Claim.ACQUIRED
    two.close()
    with pytest.raises(RuntimeError, match="after it was closed"):
        two.head()
    assert not list(tmp_path.iterdir())


class LatePath(type(Path())):  # the concrete class of this system
    """A target that is published between the first look and the lock."""

    looks = 0

    def exists(self) -> bool:
        """Lie once."""
        LatePath.looks += 1
        return LatePath.looks > 1


def test_a_target_published_before_the_lock_was_had_is_seen(tmp_path: Path) -> None:
    """After the lock is had, the target is looked for once more, and the empty ``.part`` goes away."""
    LatePath.looks = 0
    part = PartFile(LatePath(tmp_path / "x.flac"), source="s")

    assert part.claim(overwrite=False) is Claim.EXISTS
    assert not list(tmp_path.iterdir())
    assert part.claim(overwrite=True) is Claim.ACQUIRED
    part.close()


def test_the_note_of_one_killed_while_it_published_goes_away(tmp_path: Path) -> None:
    """Killed between the rename and the removal of its note: the next look at the file removes it, and nothing else."""
    target = tmp_path / "x.flac"
    target.write_bytes(SONG)
    (tmp_path / "x.flac.part.json").write_text("{}")

    assert PartFile(target, source="s").claim(overwrite=False) is Claim.EXISTS
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == SONG


@pytest.mark.parametrize("renames", [True, False])
def test_a_rename_that_fails_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, renames: bool
) -> None:
    """A folder is in the place of the target: once it is gone, only the last byte is fetched again."""
    monkeypatch.setattr(partfile, "RENAMES_OPEN_FILES", renames)
    target = tmp_path / "x.flac"
    part = PartFile(target, source="s")
    assert part.claim(overwrite=False) is Claim.ACQUIRED
    part.restart(RemoteFile(etag='"1"', size=len(SONG)))
    part.append([SONG])
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        part.publish()
    part.close()
    target.rmdir()

    again = PartFile(target, source="s")
    assert again.claim(overwrite=False) is Claim.ACQUIRED
    assert (again.length, again.known.size) == (len(SONG) - 1, len(SONG))
    again.close()


@pytest.mark.parametrize("etag", ['"1"', None])
def test_a_system_that_renames_no_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etag: str | None) -> None:
    """It is closed before it gets its name, or is set aside; both end the part."""
    monkeypatch.setattr(partfile, "RENAMES_OPEN_FILES", False)
    for end, name in ((PartFile.publish, "x.flac"), (PartFile.keep_corrupt, "x.flac.corrupt")):
        part = PartFile(tmp_path / "x.flac", source="s")
        assert part.claim(overwrite=True) is Claim.ACQUIRED
        part.restart(RemoteFile(etag=etag, size=len(SONG)))
        part.append([SONG])
        end(part)
        part.close()
        assert part.closed
        assert (tmp_path / name).read_bytes() == SONG
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.flac", "x.flac.corrupt"]


def test_a_lock_that_cannot_be_had_leaves_no_handle(tmp_path: Path) -> None:
    """What is in the place of the ``.part`` and is no file is an error, and nothing stays open."""
    (tmp_path / "x.flac.part").mkdir()

    with pytest.raises(FileExistsError, match="a directory is there"):
        PartFile(tmp_path / "x.flac", source="s").claim(overwrite=False)


def test_a_sidecar_that_cannot_be_written_is_removed(tmp_path: Path) -> None:
    """Nor are the bytes written that it would have described; once there is room, both are."""
    part = PartFile(tmp_path / "x.flac", source="s")
    part.claim(overwrite=False)
    part.restart(RemoteFile(etag='"1"', size=len(SONG)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            part.append([SONG[:5_000]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("x.flac.part", 0)]
    part.append([SONG[:5_000]])
    part.close()

    again = PartFile(tmp_path / "x.flac", source="s")
    assert again.claim(overwrite=False) is Claim.ACQUIRED
    assert again.length == 5_000
    again.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
async def test_the_last_visit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """For want of a descriptor it is repeated, and writes nothing twice; any other fault leaves no file behind."""
    sync, faults = os.fsync, [OSError(number, os.strerror(number))]

    def fail_once(descriptor: int) -> None:
        if faults:
            raise faults.pop()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_once)
    async with bench(tmp_path) as b:
        if number == errno.EMFILE:
            assert await b.save() == SONG
        else:
            with pytest.raises(DownloadError, match="Input/output"):
                await b.save()
            assert b.left() == []
        assert b.server.ranges == [None]


def test_any_number_of_blocks_is_written_at_once(tmp_path: Path) -> None:
    """Blocks may be many and small, and the hash is of what is on disk."""
    blocks = [bytes([number % 251]) * (number % 7) for number in range(5_000)]
    part = PartFile(tmp_path / "x.flac", source="s")
    part.claim(overwrite=False)
    part.append(blocks)
    part.append([])

    assert part.path.read_bytes() == b"".join(blocks)
    assert (part.length, part.sha256()) == (len(b"".join(blocks)), hashlib.sha256(b"".join(blocks)).hexdigest())
    part.close()


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that went to a thread, and the files that were opened there."""
    seen: list[str] = []
    run, opened = anyio.to_thread.run_sync, partfile.open_regular

    def visit(*args: Any, **options: Any) -> Any:
        seen.append("visit")
        return run(*args, **options)

    def open_file(path: Path, *how: int) -> int:
        seen.append(path.name)
        return opened(path, *how)

    monkeypatch.setattr(anyio.to_thread, "run_sync", visit)
    monkeypatch.setattr(partfile, "open_regular", open_file)
    return seen


@pytest.mark.parametrize("size", [40_000, BATCH])
async def test_a_file_in_one_piece_takes_two_visits_to_a_thread(tmp_path: Path, visits: list[str], size: int) -> None:
    """One to claim it, one to write, check and publish it; no sidecar is written for a moment, nor looked for."""
    body = flac_like(size)
    async with bench(tmp_path, files={PATH: body}) as b:
        assert await b.save() == body  # the first file makes the folder and the verifier
        b.target = b.target.with_name("another.flac")
        visits.clear()
        await b.downloader.save(b.output(), b.target)
        assert b.target.read_bytes() == body
    assert visits == ["visit", "another.flac.part", "visit"]


async def test_a_part_that_was_removed_meanwhile_is_not_the_one_that_is_open(tmp_path: Path) -> None:
    """Who had the lock before may have saved or thrown away what this process opened."""
    path = tmp_path / "song.flac.part"
    path.write_bytes(SONG)
    with io.FileIO(path, "r+") as file:
        assert partfile._same_inode(file, path)
        path.unlink()
        assert not partfile._same_inode(file, path)

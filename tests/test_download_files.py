import hashlib
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from helpers.download_bench import OTHER, PATH, SHORT, SONG, bench, flac_like
from helpers.raw_output_host import ScriptedResponse

from soundpiece_async._core.errors import CorruptAudio, DownloadError
from soundpiece_async._core.requests import Output
from soundpiece_async._core.results import SavedFile
from soundpiece_async._download.downloader import MAX_PARALLEL_FILES

pytestmark = pytest.mark.anyio


async def test_an_output_becomes_a_file(tmp_path: Path) -> None:
    """One GET, without a Range, gives the file under its name and what its header says; folders are made."""
    async with bench(tmp_path) as b:
        saved = await b.downloader.save(b.output(), b.target)

        assert b.target.read_bytes() == SONG
        assert (saved.duration, saved.sample_rate, saved.channels) == (1.0, 44_100, 2)
        assert saved.sha256 == hashlib.sha256(SONG).hexdigest()
        assert saved.output == b.output(expires_at=saved.output.expires_at)
        assert b.left() == ["song.flac"]
        assert b.server.ranges == [None]
        assert b.server.requests[0].target == f"{PATH}?sig=secret"
        assert "authorization" not in b.server.requests[0].headers
        assert (b.downloader.saved, b.downloader.received) == (1, len(SONG))
        assert not b.renewed
        assert repr(b.downloader) == "<Downloader streams=0/8 targets=0 saved=1 received=300000 verify=header>"


async def test_two_saves_of_one_target_fetch_it_once(tmp_path: Path) -> None:
    """In one process the second waits for the first and takes its file after a look at 42 bytes."""
    async with bench(tmp_path, default=ScriptedResponse(pause=0.001)) as b:
        found: list[bytes] = []

        async def save() -> None:
            found.append(await b.save())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(save)

        assert found == [SONG] * 3
        assert b.server.ranges == [None, "bytes=0-41", "bytes=0-41"]


@pytest.mark.parametrize(
    "act",
    [
        ScriptedResponse(),
        ScriptedResponse(ranges=False),
        ScriptedResponse(ranges=False, framing="chunked"),
        ScriptedResponse(framing="chunked"),
        ScriptedResponse(etag=None),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
async def test_the_same_file_is_not_fetched_again(tmp_path: Path, act: ScriptedResponse, overwrite: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """42 bytes and the size tell that a file is the same, with ``overwrite`` too."""
    async with bench(tmp_path) as b:
        b.target.parent.mkdir()
        b.target.write_bytes(SONG)
        before = b.target.stat()
        b.server.default = act

        assert await b.save(overwrite=overwrite) == SONG
        assert b.server.ranges == ["bytes=0-41"]
        assert b.target.stat() == before or b.target.stat().st_mtime_ns == before.st_mtime_ns
        assert b.downloader.saved == 0


@pytest.mark.parametrize(
    ("there", "act", "reason"),
    [
        (OTHER, ScriptedResponse(), "different content"),
        (SONG[:-1], ScriptedResponse(), "different content"),
        (SONG + b"x", ScriptedResponse(), "different content"),
        (SONG[:10], ScriptedResponse(), "different content"),
        (b"", ScriptedResponse(), "different content"),
        (SONG, ScriptedResponse(total=False), "states no size"),
    ],
)
async def test_a_different_file_is_not_touched(
    tmp_path: Path, there: bytes, act: ScriptedResponse, reason: str
) -> None:
    """What is in the way stays as it is, unless ``overwrite``."""
    async with bench(tmp_path, default=act) as b:
        b.target.parent.mkdir()
        b.target.write_bytes(there)

        with pytest.raises(DownloadError, match=reason):
            await b.save()
        assert b.target.read_bytes() == there
        assert b.left() == ["song.flac"]
        assert await b.save(overwrite=True) == SONG


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
@pytest.mark.parametrize("name", ["song.flac", "song.flac.part", "song.flac.part.json"])
@pytest.mark.parametrize("make", [os.mkfifo, partial(os.symlink, "/dev/zero"), os.mkdir])
async def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """Reading a pipe never begins, and reading a device may never end: a thread would be lost to either."""
    async with bench(tmp_path) as b:
        b.target.parent.mkdir()
        make(b.target.with_name(name))
        with anyio.fail_after(30), pytest.raises(DownloadError, match="the file system said"):
            await b.save()
        assert set(b.left()) <= {name, "song.flac.part"}


async def test_a_look_is_repeated_as_a_download_is(tmp_path: Path) -> None:
    """Drops, refusals and short bodies of the comparison use up the same patience."""
    async with bench(
        tmp_path, ScriptedResponse(cut=10), ScriptedResponse(cut=10, framing="close"), ScriptedResponse(status=403)
    ) as b:
        b.target.parent.mkdir()
        b.target.write_bytes(SONG)

        assert await b.save() == SONG
        assert len(b.server.requests) == 4
        assert len(b.renewed) == 1


async def test_a_folder_that_lies_too_deep_is_an_error(tmp_path: Path) -> None:
    """Python creates folders recursively: thousands of levels are reported as an error."""
    async with bench(tmp_path) as b:
        with pytest.raises(DownloadError, match="too deep"):
            await b.downloader.save(b.output(), tmp_path / ("d/" * 1900) / "song.flac")
        assert list(tmp_path.iterdir()) == []


async def test_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    """What cannot be read or replaced is a DownloadError that repeats what the system says."""
    async with bench(tmp_path) as b:
        b.target.mkdir(parents=True)

        with pytest.raises(DownloadError, match="directory"):
            await b.save()


WRONG = [
    (b"<Error>AccessDenied</Error>" + bytes(100), "magic: it seems to be XML or HTML"),
    (b"RIFF\0\0\0\0WAVE" + bytes(100), "magic: it seems to be WAV"),
    (b"ID3\x04\0\0\0\0\0\x05" + b"title\xff\xfb" + bytes(100), "behind its ID3 tag of 15 bytes: it seems to be MP3"),
    (b"ID3\x04\0\0\0\0\x02\0" + b"title", "ends after 15 bytes, inside its ID3 tag"),
    (b"", "magic"),
    (b"fLaC\x80", "ends after 5 bytes"),
]


@pytest.mark.parametrize(("body", "reason"), WRONG)
async def test_what_is_not_the_audio_is_fetched_anew_once(tmp_path: Path, body: bytes, reason: str) -> None:
    """A file that fails its check is fetched again, and is CorruptAudio when it fails again; nothing is left of it."""
    async with bench(tmp_path, ScriptedResponse(body=body)) as b:
        assert await b.save() == SONG
        assert b.server.ranges == [None, None]

    async with bench(tmp_path / "again", files={PATH: body}) as b:
        with pytest.raises(CorruptAudio, match=reason):
            await b.save()
        assert len(b.server.requests) == 2
        assert b.left() == []


@pytest.mark.parametrize(("body", "facts"), [(SHORT, (1.0, 44_100, 2)), (WRONG[0][0], (1.0, 0, 0))])
async def test_none_checks_the_size_only(tmp_path: Path, body: bytes, facts: tuple[float, int, int]) -> None:
    """With verify="none" anything whole is taken; its numbers come from its header, if it has one."""
    async with bench(tmp_path, ScriptedResponse(cut=50), files={PATH: body}, verify="none") as b:
        for _ in range(2):
            saved = await b.downloader.save(b.output(), b.target)
            assert (saved.duration, saved.sample_rate, saved.channels) == facts

        assert b.target.read_bytes() == body


async def test_streams_are_bounded(tmp_path: Path) -> None:
    """Never more streams than the limit, seen from the host's side."""
    async with bench(tmp_path, default=ScriptedResponse(pause=0.001), limit=3) as b, anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(b.downloader.save, b.output(), b.target.with_name(f"{number}.flac"))
        with anyio.fail_after(30):
            while b.downloader.active_streams < 3:
                await anyio.sleep(0.001)

    assert b.server.most_open == 3


async def test_no_file_is_touched_on_the_event_loop(tmp_path: Path) -> None:
    """Whatever Python reports of opening, locking, renaming and removing files, a worker thread does it."""
    calls: list[tuple[str, bool]] | None = []
    loop_thread = threading.get_ident()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if calls is not None and (event == "fcntl.flock" or str(tmp_path) in str(arguments)):
            calls.append((event, threading.get_ident() == loop_thread))

    sys.addaudithook(watch)
    async with bench(tmp_path, ScriptedResponse(cut=100_000)) as b:
        for _ in range(2):
            await b.downloader.save(b.output(), b.target)
        seen, calls = calls, None  # the hook stays for good, and keeps still

    assert {"open", "os.mkdir", "os.rename", "os.remove", "fcntl.flock"} <= {event for event, _ in seen}
    assert not [event for event, on_loop in seen if on_loop]


async def test_all_outputs_are_saved_under_their_names(tmp_path: Path) -> None:
    """Several outputs are fetched at once, and given back in their order."""
    async with bench(tmp_path, files={"/a": SONG, "/b": OTHER}) as b:
        outputs = [b.output("/a", index=0), b.output("/b", index=1)]
        files = await b.downloader.save_all(outputs, tmp_path, "take")

        assert [(file.path.name, file.output.index) for file in files] == [("take-1.flac", 0), ("take-2.flac", 1)]
        assert (tmp_path / "take-2.flac").read_bytes() == OTHER


async def test_of_thousands_of_outputs_only_some_are_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop would stand still while it begins them all; they are given back in their order all the same."""
    async with bench(tmp_path, files={"/a": SONG}) as b:
        outputs = [b.output("/a", index=index) for index in range(500)]
        begun = most = 0

        async def counted(output: Output, *_: object, **__: object) -> SavedFile:
            nonlocal begun, most
            begun += 1
            most = max(most, begun)
            await anyio.lowlevel.checkpoint()
            begun -= 1
            return cast("SavedFile", output.index)

        monkeypatch.setattr(b.downloader, "save_in", counted)
        files = await b.downloader.save_all(outputs, tmp_path, "take")
        assert most == MAX_PARALLEL_FILES
        assert files == list(range(500))


async def test_one_bad_output_does_not_stop_the_others(tmp_path: Path) -> None:
    """The first error comes out bare, after the others are saved; further ones are its notes."""
    async with bench(tmp_path, files={"/a": SONG}) as b:
        outputs = [b.output(path, index=index) for index, path in enumerate(["/gone", "/a", "/lost"])]
        with pytest.raises(DownloadError) as caught:
            await b.downloader.save_all(outputs, tmp_path, "take")

        assert [path.name for path in tmp_path.iterdir()] == ["take-2.flac"]
        assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize("keep", [False, True])
async def test_bad_bytes_are_kept_only_when_asked_for(tmp_path: Path, keep: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """With ``keep_corrupt`` what failed its check twice stays beside its place, and the message says where."""
    body = WRONG[0][0]
    async with bench(tmp_path, files={PATH: body}, keep_corrupt=keep) as b:
        for _ in range(2):
            with pytest.raises(CorruptAudio, match="kept as .*song.flac.corrupt; it was" if keep else "HTML; it was"):
                await b.save()
            assert b.left() == (["song.flac.corrupt"] if keep else [])

        assert not keep or b.target.with_name("song.flac.corrupt").read_bytes() == body


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        ([ScriptedResponse()], 1),
        ([ScriptedResponse(framing="chunked")], 1),
        ([ScriptedResponse(framing="close")], 1),
        ([ScriptedResponse(cut=100_000, framing="chunked"), ScriptedResponse()], 2),
    ],
)
async def test_a_file_that_is_too_large_is_given_up_at_once(
    tmp_path: Path, script: list[ScriptedResponse], requests: int
) -> None:
    """As soon as the host says, or shows, that it is longer than ``max_bytes``; nothing is kept of it."""
    async with bench(tmp_path, *script, files={PATH: flac_like(5_000_000)}, max_bytes=250_000) as b:
        with pytest.raises(DownloadError, match=r"Limits.max_bytes allows 250000") as caught:
            await b.save()

        assert len(b.server.requests) == requests
        assert caught.value.received < 2_000_000
        assert b.left() == []
        assert b.downloader.active_streams == 0


async def test_a_file_of_just_the_size_is_not_too_large(tmp_path: Path) -> None:
    """The limit is what may be."""
    async with bench(tmp_path, max_bytes=len(SONG)) as b:
        assert await b.save() == SONG


async def test_a_fault_of_ours_comes_out_bare(tmp_path: Path) -> None:
    """Whatever is raised where several files are saved, no group is put around it, and the others are saved."""
    async with bench(tmp_path, files={"/a": SONG}) as b:
        outputs = [b.output("/b", index=0, expires_at="soon"), b.output("/a", index=1)]
        with pytest.raises(AttributeError):
            await b.downloader.save_all(outputs, tmp_path, "take")

        assert [path.name for path in tmp_path.iterdir()] == ["take-2.flac"]

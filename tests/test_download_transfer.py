import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from helpers.download_bench import OTHER, PATH, SONG, bench, flac_like
from helpers.raw_output_host import ScriptedResponse

from soundpiece_async._core.errors import DownloadError
from soundpiece_async._core.ranges import RemoteFile
from soundpiece_async._download.fetch import OutputDownload
from soundpiece_async._download.file_sink import FileSink, FileWorker
from soundpiece_async._download.partfile import PartFile
from soundpiece_async._download.transfer import download_into

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([ScriptedResponse(cut=100_000)], [None, "bytes=100000-"]),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(cut=50_000), ScriptedResponse(cut=1)],
            [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"],
        ),
        ([ScriptedResponse(cut=0)], [None, None]),
        ([ScriptedResponse(cut=100_000, reset=True)], None),
        ([ScriptedResponse(cut=100_000, framing="chunked")], [None, "bytes=100000-"]),
        ([ScriptedResponse(framing="chunked")], [None]),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(framing="chunked")], [None, "bytes=100000-"]),
        ([ScriptedResponse(framing="close")], [None, "bytes=300000-"]),
        ([ScriptedResponse(framing="close", cut=100_000)], [None, "bytes=100000-"]),
        ([ScriptedResponse(framing="close", etag=None)], [None, "bytes=300000-"]),
        ([ScriptedResponse(framing="close", etag=None, cut=100_000)], [None, "bytes=100000-", None]),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(shift=1)], [None, "bytes=100000-", None]),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(shift=-1)], [None, "bytes=100000-", None]),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(ranges=False)], [None, "bytes=100000-"]),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(ranges=False, cut=1_000)],
            [None, "bytes=100000-", "bytes=1000-"],
        ),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(most=50_000)], [None, "bytes=100000-", "bytes=150000-"]),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(status=416)], [None, "bytes=100000-", None]),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(status=416, headers={"Content-Range": "bytes */7"})],
            [None, "bytes=100000-", None],
        ),
        ([ScriptedResponse(cut=100_000, etag=None)], [None, None]),
        ([ScriptedResponse(cut=100_000, etag='W/"weak"')], [None, None]),
        ([ScriptedResponse(cut=100_000, etag='"another"')], [None, "bytes=100000-"]),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(etag='"another"', ranges=False, cut=10)],
            [None, "bytes=100000-", "bytes=10-"],
        ),
        ([ScriptedResponse(excess=b"junk")], [None]),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(framing="chunked", excess=b"junk")],
            [None, "bytes=100000-", None],
        ),
        ([ScriptedResponse(announce=5)], [None, "bytes=300000-", None]),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(announce=5)], [None, "bytes=100000-", None]),
        (
            [ScriptedResponse(cut=100_000, framing="chunked"), ScriptedResponse(total=False)],
            [None, "bytes=100000-", "bytes=300000-"],
        ),
        (
            [
                ScriptedResponse(status=503),
                ScriptedResponse(status=429),
                ScriptedResponse(status=500),
                ScriptedResponse(status=302),
            ],
            [None] * 5,
        ),
        ([ScriptedResponse(headers={"Content-Encoding": "gzip"})], [None]),
        ([ScriptedResponse(body=b"", framing="close")], [None, None]),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(body=OTHER, ranges=False, cut=99_000)],
            [None, "bytes=100000-", "bytes=99000-"],
        ),
    ],
)
async def test_no_fault_tears_a_file(
    tmp_path: Path, script: list[ScriptedResponse], ranges: list[str | None] | None
) -> None:
    """After each fault the download goes on where proof allows it, and from the beginning where it does not."""
    async with bench(tmp_path, *script) as b:
        assert await b.save() == SONG
        assert ranges is None or b.server.ranges == ranges


async def test_slow_streams_are_written_before_they_are_long(tmp_path: Path) -> None:
    """A stream slower than a batch a quarter second reaches the disk all the same."""
    async with bench(tmp_path, default=ScriptedResponse(pause=0.06)) as b, anyio.create_task_group() as group:
        group.start_soon(b.save)
        part = b.target.with_name("song.flac.part")
        while not (part.exists() and part.stat().st_size):
            await anyio.sleep(0.01)
        assert part.stat().st_size < len(SONG)


class _SlowToBegin:
    """A sink that needs a while before it takes the first byte."""

    def __init__(self) -> None:
        self.known = RemoteFile()
        self.data = b""

    @property
    def length(self) -> int:
        return len(self.data)

    async def restart(self, known: RemoteFile) -> None:
        await anyio.sleep(0.1)
        self.known, self.data = known, b""

    async def append(self, blocks: list[bytes]) -> None:
        self.data += b"".join(blocks)


async def test_nothing_is_lost_while_a_sink_begins(tmp_path: Path) -> None:
    """What arrives meanwhile is read, so that a stream that breaks then is gone on with behind it."""
    async with bench(tmp_path, ScriptedResponse(cut=100_000)) as b:
        sink = _SlowToBegin()
        await download_into(sink, download=OutputDownload(b.output(), target="here", context=b.downloader._context))

        assert sink.data == SONG
        assert b.server.ranges == [None, "bytes=100000-"]


async def test_large_files_go_by_in_batches(tmp_path: Path) -> None:
    """More than a few batches keep their order and their hash."""
    body = flac_like(5_000_000)
    async with bench(tmp_path, ScriptedResponse(cut=3_000_000), files={PATH: body}) as b:
        assert await b.save() == body


async def test_a_fault_of_the_last_step_is_told(tmp_path: Path) -> None:
    """What goes wrong in closing comes out as any other fault of the disk, not in a group."""
    async with bench(tmp_path) as b:
        worker = FileWorker(
            OutputDownload(b.output(), target="song.flac", context=b.downloader._context),
            threads=anyio.CapacityLimiter(1),
        )
        with pytest.raises(DownloadError, match="file system"):
            await worker.finish(tmp_path.unlink)


class FullPart(PartFile):
    """A part on a full disk."""

    error = 28

    def append(self, blocks: Any) -> None:  # noqa: ARG002 - none is written
        """Fail."""
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(
    ("number", "reason"), [(28, "the disk is full"), (122, "the disk is full"), (5, "Input/output")]
)
@pytest.mark.parametrize("act", [ScriptedResponse(pause=0.02), ScriptedResponse(cut=10)])
async def test_a_full_disk_ends_a_download_at_once(
    tmp_path: Path, number: int, reason: str, act: ScriptedResponse
) -> None:
    """ENOSPC and EDQUOT say so, other faults say theirs; nothing is tried again, also when the stream broke as well."""
    async with bench(tmp_path, default=act) as b:
        download = OutputDownload(b.output(), target="song.flac", context=b.downloader._context)
        worker = FileWorker(download, threads=anyio.CapacityLimiter(1))
        part = FullPart(tmp_path / "song.flac", source="s")
        part.error = number
        assert "FileSink <PartFile" in repr(FileSink(part, worker=worker))
        part.claim(overwrite=False)
        try:
            with pytest.raises(DownloadError, match=reason):
                await download_into(FileSink(part, worker=worker), download=download)
        finally:
            part.close()

        assert len(b.server.requests) == 1
        assert repr(download).startswith("<OutputDownload http://127.0.0.1:")
        assert "secret" not in repr(download)


class BrokenPart(PartFile):
    """A part with a bug."""

    def append(self, blocks: Any) -> None:  # noqa: ARG002 - none is written
        """Fail."""
        raise ZeroDivisionError


def count_wrongly(_: int, **__: object) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize("side", ["writing", "reading"])
async def test_a_fault_of_ours_comes_out_bare(tmp_path: Path, side: str) -> None:
    """Whatever it is, and on whichever side of the two: no caller has to look into a group."""
    async with bench(tmp_path) as b:
        download = OutputDownload(b.output(), target="song.flac", context=b.downloader._context)
        worker = FileWorker(download, threads=anyio.CapacityLimiter(1))
        part = (BrokenPart if side == "writing" else PartFile)(tmp_path / "song.flac", source="s")
        b.server.default = ScriptedResponse(framing="chunked")  # of unknown size: no block is known to be the last
        if side == "reading":
            download.count_block = count_wrongly  # type: ignore[method-assign]  # a bug
        part.claim(overwrite=False)
        try:
            with pytest.raises(ZeroDivisionError):
                await download_into(FileSink(part, worker=worker), download=download)
        finally:
            part.close()


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit files of this process to 100,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
async def test_a_real_limit_of_the_system_is_met(tmp_path: Path) -> None:
    """A write the system refuses ends the download at once; a batch that does not fit is thrown away."""
    async with bench(tmp_path) as b:
        with pytest.raises(DownloadError, match="File too large"):
            await b.save()

        assert len(b.server.requests) == 1
        assert b.left() == []

import asyncio
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from downloading import OTHER, PATH, SHORT, SONG, CancelAt, bench, flac_like, lifetime, read_all, stream
from rawserver import Act

from soundpiece_async._core.errors import (
    CorruptAudio,
    DownloadError,
    SessionClosed,
    SettingsError,
    SoundpieceError,
    TransportError,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([], [None]),
        ([Act(cut=100_000)], [None, "bytes=100000-"]),
        ([Act(cut=10), Act(cut=20), Act(cut=70_000)], [None, "bytes=10-", "bytes=30-", "bytes=70030-"]),
        ([Act(cut=10), Act(ranges=False)], [None, "bytes=10-"]),
        ([Act(cut=100_000), Act(ranges=False, cut=50_000)], [None, "bytes=100000-", "bytes=50000-"]),
        ([Act(cut=100_000), Act(ranges=False, cut=100_000)], [None, "bytes=100000-", "bytes=100000-"]),
        ([Act(cut=100_000, etag=None), Act(framing="chunked", etag=None)], [None, None]),
        ([Act(framing="close"), Act(status=416)], [None, "bytes=300000-", None]),
        ([Act(cut=100_000), Act(excess=b"junk", ranges=False)], [None, "bytes=100000-"]),
        ([Act(status=403), Act(status=503), Act(cut=0)], [None] * 4),
        ([Act(body=b"<Error/>" + bytes(90))], [None, None]),
    ],
)
async def test_faults_do_not_show(tmp_path: Path, script: list[Act], ranges: list[str | None]) -> None:
    """Each byte comes once and in order, whatever the host makes of it; nothing is written."""
    async with bench(tmp_path, *script) as b, lifetime() as life:
        assert await read_all(b, life) == SONG
        assert b.server.ranges == ranges
        assert b.left() == []


async def test_what_an_answer_needs_is_known_when_it_is_entered(tmp_path: Path) -> None:
    """Size, type and length stand before the first block is asked for; the end may be asked for again."""
    async with bench(tmp_path) as b, lifetime() as life:
        audio = stream(b, life)
        with pytest.raises(RuntimeError, match="async with"):
            _ = audio.headers
        assert repr(audio).endswith("#0 new None>")
        async with audio:
            assert audio.headers == {"Content-Type": "audio/flac", "Content-Length": "300000"}
            assert (audio.size, audio.content_type, audio.duration) == (300_000, "audio/flac", 1.0)
            assert "open <Passage <Source http" in repr(audio)
            assert "secret" not in repr(audio)
            assert [block async for block in audio]
            assert [block async for block in audio] == []
            assert " over " in repr(audio)
        with pytest.raises(RuntimeError, match="entered once"):
            async with audio:
                pass


async def test_a_host_may_not_know_the_size(tmp_path: Path) -> None:
    """Then no length is announced; and without a header, the length in seconds is the announced one."""
    junk = Act(body=b"no flac at all" * 9, framing="chunked")
    async with bench(tmp_path, junk, verify="none") as b, lifetime() as life:
        async with stream(b, life, duration=7.5) as audio:
            assert audio.headers == {"Content-Type": "audio/flac"}
            assert audio.duration == 7.5


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ([Act(body=b"OggS" + bytes(5_000))] * 2, CorruptAudio, "seems to be Ogg"),
        ([Act(body=b"fLaC")] * 2, CorruptAudio, "ends after 4 bytes"),
        ([Act(status=403)] * 4, DownloadError, "refused the URL"),
    ],
)
async def test_what_cannot_be_had_is_an_error_on_entering(
    tmp_path: Path, script: list[Act], error: type[Exception], reason: str
) -> None:
    """Before anything was answered."""
    async with bench(tmp_path, *script) as b, lifetime() as life:
        with pytest.raises(error, match=reason):
            async with stream(b, life):
                pytest.fail("it was entered")
        assert b.downloader.streams_out == 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([Act(cut=200_000), Act(body=OTHER)], "other bytes than the first 200000"),
        ([Act(cut=200_000), Act(body=SONG[:250_000])], "other bytes"),
        ([Act(cut=200_000, framing="chunked"), Act(body=SONG[:100_000], framing="chunked")], "other bytes"),
        ([Act(cut=200_000), Act(body=SONG[:250_000], framing="chunked")], "other bytes"),
        ([Act(cut=200_000), *[Act(status=500)] * 300], "no new byte came for"),
    ],
)
async def test_a_stream_that_is_cut_ends_with_an_error(tmp_path: Path, script: list[Act], reason: str) -> None:
    """What was passed on stays a beginning, and who asks on gets the error again: never a good end."""
    async with bench(tmp_path, *script) as b, lifetime() as life, stream(b, life) as audio:
        got = b""
        with pytest.raises(DownloadError, match=reason):
            async for block in audio:
                got += block
        assert SONG.startswith(got)
        assert len(got) >= 200_000
        for _ in range(2):
            with pytest.raises(DownloadError, match=reason):
                await anext(audio)


async def test_a_slow_reader_slows_the_host(tmp_path: Path) -> None:
    """Two batches are here at most; the rest waits at the host."""
    async with bench(tmp_path, files={PATH: flac_like(30_000_000)}) as b, lifetime() as life:
        async with stream(b, life) as audio:
            await anext(audio)
            await anyio.sleep(0.3)
            assert b.downloader.received < 4_000_000
            assert b.downloader.streams_out == 1
        assert b.downloader.streams_out == 0


async def test_left_early_it_lets_go(tmp_path: Path) -> None:
    """Leaving ends the stream at the host; read on, it is an error, not an end."""
    async with bench(tmp_path, default=Act(pause=0.01)) as b, lifetime() as life:
        async with stream(b, life) as audio:
            await anext(audio)
        assert b.downloader.streams_out == 0
        with pytest.raises(DownloadError, match="the stream was left"):
            await anext(audio)


async def test_errors_of_the_reader_come_out_bare(tmp_path: Path) -> None:
    """No group is put around what happens inside the block."""
    async with bench(tmp_path) as b, lifetime() as life:
        with pytest.raises(ZeroDivisionError):
            async with stream(b, life):
                _ = 1 / 0


async def test_it_is_read_by_any_task(tmp_path: Path) -> None:
    """Entered here, read there, left elsewhere: web frameworks do that."""
    async with bench(tmp_path) as b, lifetime() as life:
        audio = await asyncio.create_task(stream(b, life).__aenter__())

        async def read() -> bytes:
            return b"".join([block async for block in audio])

        assert await asyncio.create_task(read()) == SONG
        await asyncio.create_task(audio.__aexit__(None, None, None))


async def test_two_readers_are_told(tmp_path: Path) -> None:
    """Each would get parts of the file, and one wait for ever: it ends for both, with what to do, which helps (F6)."""
    async with bench(tmp_path) as b, lifetime() as life:
        b.server.default = Act(pause=0.002)
        errors: list[SoundpieceError] = []
        async with stream(b, life) as audio:

            async def read() -> None:
                with pytest.raises(SoundpieceError, match=r"by two tasks at a time.*session\.stream") as caught:
                    async for _ in audio:
                        await anyio.lowlevel.checkpoint()
                errors.append(caught.value)

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                group.start_soon(read)
        assert len({id(error) for error in errors}) == 2
        assert b.downloader.streams_out == 0
        b.server.default = Act()
        assert await read_all(b, life) == SONG


async def test_cancelled_anywhere_it_holds_nothing(tmp_path: Path) -> None:
    """Cancelled at any wait of its reader, it gives back slot, thread and connection."""
    turn, finished = 0, False
    async with lifetime() as life:
        while not finished:
            turn += 1
            async with bench(tmp_path, Act(cut=10_000), Act(status=403), files={PATH: SHORT}) as b:
                with anyio.CancelScope() as scope:
                    await CancelAt(read_all(b, life), turn=turn, cancel=scope.cancel)
                finished = not scope.cancel_called
                assert b.downloader.streams_out == b.downloader._threads.borrowed_tokens == 0
    assert turn > 3


async def test_a_closed_session_ends_it(tmp_path: Path) -> None:
    """Closing wakes a reader with SessionClosed, whose bytes are not taken for the whole; entering is refused then."""
    async with bench(tmp_path, default=Act(pause=0.01)) as b, lifetime() as life:
        async with stream(b, life) as audio, anyio.create_task_group() as group:
            await anext(audio)
            group.start_soon(life.close)
            with pytest.raises(SessionClosed):
                async for _ in audio:
                    pass
        with pytest.raises(SessionClosed):
            async with stream(b, life):
                pytest.fail("it was entered")


async def test_a_fault_of_ours_ends_the_stream_and_not_the_session(tmp_path: Path) -> None:
    """Whatever is raised in the background is the reader's."""
    refusal = TransportError("the API is down")

    async def renew(_: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        raise refusal

    async with bench(tmp_path, Act(status=403)) as b, lifetime() as life:
        b.downloader._host.renew = renew
        with pytest.raises(TransportError) as caught:
            await read_all(b, life)
        assert caught.value is refusal
        assert await read_all(b, life) == SONG


async def test_full_checks_are_not_left_out_unsaid(tmp_path: Path) -> None:
    """With verify="full" nothing is passed on unchecked."""
    async with bench(tmp_path, verify="full") as b, lifetime() as life:
        with pytest.raises(SettingsError, match="decodes files"):
            await read_all(b, life)

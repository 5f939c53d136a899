import asyncio
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from helpers.download_bench import OTHER, PATH, SHORT, SONG, CancelAt, bench, flac_like, lifetime, read_all, stream
from helpers.raw_output_host import ScriptedResponse

from soundpiece_async._core.errors import (
    CorruptAudio,
    DownloadError,
    SessionClosed,
    SettingsError,
    SoundpieceError,
    TransportError,
)

pytestmark = pytest.mark.anyio

ETAG = f'"{hashlib.sha256(SONG).hexdigest()[:16]}"'
END = "bytes=200000-299999"


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([], [None]),
        ([ScriptedResponse(cut=100_000)], [None, "bytes=100000-"]),
        (
            [ScriptedResponse(cut=10), ScriptedResponse(cut=20), ScriptedResponse(cut=70_000)],
            [None, "bytes=10-", "bytes=30-", "bytes=70030-"],
        ),
        ([ScriptedResponse(cut=10), ScriptedResponse(ranges=False)], [None, "bytes=10-"]),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(ranges=False, cut=50_000)],
            [None, "bytes=100000-", "bytes=50000-"],
        ),
        (
            [ScriptedResponse(cut=100_000), ScriptedResponse(ranges=False, cut=100_000)],
            [None, "bytes=100000-", "bytes=100000-"],
        ),
        ([ScriptedResponse(cut=100_000, etag=None), ScriptedResponse(framing="chunked", etag=None)], [None, None]),
        ([ScriptedResponse(framing="close"), ScriptedResponse(status=416)], [None, "bytes=300000-", None]),
        ([ScriptedResponse(cut=100_000), ScriptedResponse(excess=b"junk", ranges=False)], [None, "bytes=100000-"]),
        ([ScriptedResponse(status=403), ScriptedResponse(status=503), ScriptedResponse(cut=0)], [None] * 4),
        ([ScriptedResponse(body=b"<Error/>" + bytes(90))], [None, None]),
    ],
)
async def test_faults_do_not_show(tmp_path: Path, script: list[ScriptedResponse], ranges: list[str | None]) -> None:
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
            assert audio.headers == {
                "Content-Type": "audio/flac",
                "Content-Length": "300000",
                "Accept-Ranges": "bytes",
                "ETag": ETAG,
            }
            assert audio.status == 200
            assert (audio.size, audio.content_type, audio.duration) == (300_000, "audio/flac", 1.0)
            assert "open <VerifiedRelay <OutputDownload http" in repr(audio)
            assert "secret" not in repr(audio)
            assert [block async for block in audio]
            assert [block async for block in audio] == []
            assert " over " in repr(audio)
        with pytest.raises(RuntimeError, match="entered only once"):
            async with audio:
                pass


async def test_a_host_may_not_know_the_size(tmp_path: Path) -> None:
    """Then no length is announced; and without a header, the length in seconds is the announced one."""
    junk = ScriptedResponse(body=b"no flac at all" * 9, framing="chunked")
    async with bench(tmp_path, junk, verify="none") as b, lifetime() as life:
        async with stream(b, life, duration=7.5) as audio:
            assert audio.headers.keys() == {"Content-Type", "ETag"}
            assert audio.duration == 7.5


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ([ScriptedResponse(body=b"OggS" + bytes(5_000))] * 2, CorruptAudio, "seems to be Ogg"),
        ([ScriptedResponse(body=b"fLaC")] * 2, CorruptAudio, "ends after 4 bytes"),
        ([ScriptedResponse(status=403)] * 4, DownloadError, "rejected the URL"),
    ],
)
async def test_what_cannot_be_had_is_an_error_on_entering(
    tmp_path: Path, script: list[ScriptedResponse], error: type[Exception], reason: str
) -> None:
    """Before anything was answered."""
    async with bench(tmp_path, *script) as b, lifetime() as life:
        with pytest.raises(error, match=reason):
            async with stream(b, life):
                pytest.fail("it was entered")
        assert b.downloader.active_streams == 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([ScriptedResponse(cut=200_000), ScriptedResponse(body=OTHER)], "its first 200000 bytes differ"),
        ([ScriptedResponse(cut=200_000), ScriptedResponse(body=SONG[:250_000])], "bytes differ"),
        (
            [
                ScriptedResponse(cut=200_000, framing="chunked"),
                ScriptedResponse(body=SONG[:100_000], framing="chunked"),
            ],
            "bytes differ",
        ),
        ([ScriptedResponse(cut=200_000), ScriptedResponse(body=SONG[:250_000], framing="chunked")], "bytes differ"),
        ([ScriptedResponse(cut=200_000), *[ScriptedResponse(status=500)] * 300], "no new byte came for"),
    ],
)
async def test_a_stream_that_is_cut_ends_with_an_error(
    tmp_path: Path, script: list[ScriptedResponse], reason: str
) -> None:
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
            assert b.downloader.active_streams == 1
        assert b.downloader.active_streams == 0


async def test_a_reader_may_take_longer_than_the_host_may(tmp_path: Path) -> None:
    """``Timeouts.read`` is for the host: what its bytes wait for a reader does not count."""
    async with bench(tmp_path, files={PATH: flac_like(6_000_000)}, read=0.2) as b, lifetime() as life:
        got = 0
        async with stream(b, life) as audio:
            async for block in audio:
                got += len(block)
                await anyio.sleep(0.3 if got < 3_000_000 else 0)
        assert got == 6_000_000


async def test_left_early_it_lets_go(tmp_path: Path) -> None:
    """Leaving ends the stream at the host; read on, it is an error, not an end."""
    async with bench(tmp_path, default=ScriptedResponse(pause=0.01)) as b, lifetime() as life:
        async with stream(b, life) as audio:
            await anext(audio)
        assert b.downloader.active_streams == 0
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
        b.server.default = ScriptedResponse(pause=0.002)
        errors: list[SoundpieceError] = []
        async with stream(b, life) as audio:

            async def read() -> None:
                with pytest.raises(SoundpieceError, match=r"by two tasks at once.*session\.stream") as caught:
                    async for _ in audio:
                        await anyio.lowlevel.checkpoint()
                errors.append(caught.value)

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                group.start_soon(read)
        assert len({id(error) for error in errors}) == 2
        assert b.downloader.active_streams == 0
        b.server.default = ScriptedResponse()
        assert await read_all(b, life) == SONG


async def test_cancelled_anywhere_it_holds_nothing(tmp_path: Path) -> None:
    """Cancelled at any wait of its reader, it gives back slot, thread and connection."""
    turn, finished = 0, False
    async with lifetime() as life:
        while not finished:
            turn += 1
            async with bench(
                tmp_path, ScriptedResponse(cut=10_000), ScriptedResponse(status=403), files={PATH: SHORT}
            ) as b:
                with anyio.CancelScope() as scope:
                    await CancelAt(read_all(b, life), turn=turn, cancel=scope.cancel)
                finished = not scope.cancel_called
                assert b.downloader.active_streams == b.downloader._threads.borrowed_tokens == 0
    assert turn > 3


async def test_a_closed_session_ends_it(tmp_path: Path) -> None:
    """Closing wakes a reader with SessionClosed, whose bytes are not taken for the whole; entering is refused then."""
    async with bench(tmp_path, default=ScriptedResponse(pause=0.01)) as b, lifetime() as life:
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

    async with bench(tmp_path, ScriptedResponse(status=403)) as b, lifetime() as life:
        b.downloader._context.renew = renew
        with pytest.raises(TransportError) as caught:
            await read_all(b, life)
        assert caught.value is refusal
        assert await read_all(b, life) == SONG


async def test_full_checks_are_not_left_out_unsaid(tmp_path: Path) -> None:
    """With verify="full" nothing is passed on unchecked."""
    async with bench(tmp_path, verify="full") as b, lifetime() as life:
        with pytest.raises(SettingsError, match="decodes local files"):
            await read_all(b, life)


@pytest.mark.parametrize(
    ("wanted", "status", "span", "asked"),
    [
        ("bytes=0-", 206, range(300_000), [None]),
        ("bytes=200000-", 206, range(200_000, 300_000), ["bytes=200000-"]),
        ("bytes=-100000", 206, range(200_000, 300_000), ["bytes=-100000"]),
        ("bytes=0-1", 206, range(2), ["bytes=0-1"]),
        ("bytes=299999-999999", 206, range(299_999, 300_000), ["bytes=299999-999999"]),
        ("bytes=300000-", 416, range(0), ["bytes=300000-"]),
        ("bytes=-0", 416, range(0), ["bytes=-0"]),
        ("bytes=0-1,5-6", 200, None, [None]),
        ("lines=0-", 200, None, [None]),
        ("bytes=9-3", 200, None, [None]),
        (None, 200, None, [None]),
    ],
)
@pytest.mark.parametrize("act", [ScriptedResponse(), ScriptedResponse(ranges=False)], ids=["ranges", "no ranges"])
async def test_a_range_is_answered(
    tmp_path: Path, act: ScriptedResponse, wanted: str | None, status: int, span: range | None, asked: list[str | None]
) -> None:
    """Status, headers and bytes are those of RFC 9110, also before a host that knows no ranges."""
    async with bench(tmp_path, default=act) as b, lifetime() as life:
        async with stream(b, life, wanted=wanted) as audio:
            got = b"".join([block async for block in audio])
            assert (audio.status, audio.size) == (status, 300_000)
            headers = audio.headers
        assert got == (SONG if span is None else SONG[span.start : span.stop])
        assert headers["Content-Length"] == str(len(got))
        assert headers["Accept-Ranges"] == "bytes"
        part = {206: span and f"bytes {span.start}-{span.stop - 1}/300000", 416: "bytes */300000"}
        assert headers.get("Content-Range") == part.get(status)
        assert b.server.ranges == asked
        assert b.downloader.active_streams == 0


@pytest.mark.parametrize(
    ("wanted", "if_range", "status"),
    [
        ("bytes=0-", ETAG, 206),
        ("bytes=0-", '"other"', 200),
        (END, ETAG, 206),
        (END, '"other"', 200),
        (END, f"W/{ETAG}", 200),
        (END, "Mon, 30 Nov 2026 20:00:00 GMT", 200),
        (None, '"other"', 200),
    ],
)
async def test_a_player_that_knows_another_version_gets_all_of_this_one(
    tmp_path: Path, wanted: str | None, if_range: str, status: int
) -> None:
    """If-Range names the strong ETag that the answers have; nothing else lets parts be joined."""
    async with bench(tmp_path) as b, lifetime() as life:
        async with stream(b, life, wanted=wanted, if_range=if_range) as audio:
            got = b"".join([block async for block in audio])
            assert audio.status == status
            assert audio.headers["ETag"] == ETAG
        assert got == (SONG[200_000:] if status == 206 and wanted == END else SONG)


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        ([ScriptedResponse(cut=60_000)], [END, "bytes=260000-299999"]),
        ([ScriptedResponse(cut=60_000), ScriptedResponse(ranges=False)], [END, "bytes=260000-299999"]),
        ([ScriptedResponse(ranges=False, cut=100_000)], [END, END]),
        ([ScriptedResponse(status=403), ScriptedResponse(status=503), ScriptedResponse(status=404)], [END] * 4),
        ([ScriptedResponse(shift=5), ScriptedResponse(most=7)], [END] * 3),
        (
            [ScriptedResponse(content_range="bytes of yours"), ScriptedResponse(content_range="bytes 9-3/300000")],
            [END] * 3,
        ),
        ([ScriptedResponse(total=False)], [END]),
        ([ScriptedResponse(cut=60_000, framing="close", total=False)], [END, "bytes=260000-299999"]),
        ([ScriptedResponse(framing="chunked")], [END]),
        ([ScriptedResponse(excess=b"junk", framing="close")], [END]),
    ],
)
async def test_faults_do_not_show_in_a_part(tmp_path: Path, script: list[ScriptedResponse], asked: list[str]) -> None:
    """A part goes on over drops, with a URL that was signed afresh where the old one is refused."""
    async with bench(tmp_path, *script) as b, lifetime() as life:
        async with stream(b, life, wanted=END) as audio:
            assert b"".join([block async for block in audio]) == SONG[200_000:]
            assert audio.status == 206
        assert b.server.ranges == asked
        assert len(b.renewed) == sum(act.status in {403, 404} for act in script)


async def test_an_expired_url_is_renewed_before_a_part_is_asked_for(tmp_path: Path) -> None:
    """Its page may have been open for hours."""
    async with bench(tmp_path) as b, lifetime() as life:
        b.life = timedelta(seconds=-5)
        output = b.output()
        b.life = timedelta(minutes=15)
        async with stream(b, life, wanted=END, expires_at=output.expires_at) as audio:
            assert b"".join([block async for block in audio]) == SONG[200_000:]
        assert len(b.renewed) == 1


@pytest.mark.parametrize(
    "script",
    [
        [ScriptedResponse(cut=60_000, etag=None), ScriptedResponse(etag=None)],
        [ScriptedResponse(cut=60_000), ScriptedResponse(body=OTHER, etag='"other"')],
        [ScriptedResponse(cut=60_000), ScriptedResponse(body=SONG[:100_000])],
        [ScriptedResponse(cut=60_000), ScriptedResponse(body=OTHER + SONG)],
    ],
)
async def test_a_part_of_two_versions_is_an_error(tmp_path: Path, script: list[ScriptedResponse]) -> None:
    """What was passed on is a beginning of the part, and the end is no good one."""
    async with bench(tmp_path, *script) as b, lifetime() as life, stream(b, life, wanted=END) as audio:
        got = b""
        with pytest.raises(DownloadError, match="request the rest again"):
            async for block in audio:
                got += block
        assert got == SONG[200_000:260_000]
        assert "RangeRelay bytes=200000-299999" in repr(audio)


@pytest.mark.parametrize(
    "act",
    [ScriptedResponse(framing="chunked", ranges=False), ScriptedResponse(headers={"Content-Encoding": "gzip"})],
)
async def test_a_part_that_cannot_be_cut_is_all_of_the_file(tmp_path: Path, act: ScriptedResponse) -> None:
    """A host that states no length, or says that what it sends is encoded, gives no part of what players know."""
    async with bench(tmp_path, default=act) as b, lifetime() as life:
        async with stream(b, life, wanted=END, duration=7.5) as audio:
            assert b"".join([block async for block in audio]) == SONG
            assert audio.status == 200
            assert audio.duration == 1.0


async def test_a_suffix_of_a_file_of_unknown_size_is_a_part_of_unknown_size(tmp_path: Path) -> None:
    """What the host says is passed on as it says it."""
    async with bench(tmp_path, default=ScriptedResponse(total=False)) as b, lifetime() as life:
        async with stream(b, life, wanted="bytes=-100000", duration=7.5) as audio:
            assert b"".join([block async for block in audio]) == SONG[200_000:]
            assert audio.headers["Content-Range"] == "bytes 200000-299999/*"
            assert (audio.size, audio.duration) == (None, 7.5)

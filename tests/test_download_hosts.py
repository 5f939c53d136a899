"""Output hosts as they may be: what they say of the audio is less than the audio itself."""

import gzip
import hashlib
import logging
import socket
import traceback
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from helpers.download_bench import HANDLE, PATH, SHORT, SONG, bench, encode, flac_like, lifetime, read_all, transport
from helpers.raw_output_host import RawServer, ScriptedResponse
from obstore.store import MemoryStore

from soundpiece_async import Limits, Output, Session, Settings, Timeouts
from soundpiece_async._core.errors import CorruptAudio, DownloadError
from soundpiece_async._core.hosts import OutputRefused
from soundpiece_async._download.content_encoding import Plain
from soundpiece_async._download.destinations import open_folder
from soundpiece_async._download.downloader import Downloader
from soundpiece_async._download.fetch import OutputDownload
from soundpiece_async._http import client
from soundpiece_async._http.client import Stream
from soundpiece_async._http.output_guard import OutputGuard
from soundpiece_async._transport import Transport

pytestmark = pytest.mark.anyio

REAL = encode()
TAG = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)


@pytest.mark.parametrize(
    ("body", "warnings", "facts"),
    [
        (flac_like(5_000, rate=48_000, samples=48_000), ["the sample rate is 48000 Hz"], (1.0, 48_000)),
        (flac_like(5_000, samples=70_560), ["it lasts 1.60 s, where 1.00 s was announced"], (1.6, 44_100)),
        (TAG + SHORT, ["an ID3 tag of 266 bytes"], (1.0, 44_100)),
        (TAG + flac_like(5_000, rate=96_000), ["96000 Hz", "lasts 0.46 s", "ID3"], (44_100 / 96_000, 96_000)),
        (SHORT[:8] + b"\0\x01" + SHORT[10:], [], (1.0, 44_100)),
    ],
)
@pytest.mark.parametrize("verify", ["header", "full"])
async def test_audio_is_not_withheld_for_a_detail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes, warnings: list[str], facts: Any, verify: str
) -> None:
    """Another rate or length, or a tag before the header: saved, with a WARNING that the file carries too."""
    if verify == "full":
        body, facts = (body[: body.index(b"fLaC")] if b"ID3" in body else b"") + REAL, None
        warnings = ["ID3"] if body.startswith(TAG) else []
    async with bench(tmp_path, files={PATH: body}, verify=verify) as b:  # type: ignore[arg-type]
        for _ in range(2):  # the second time it is there already
            output = b.output() if facts else b.output(duration=0.5)
            saved = await b.downloader.save(output, b.target)
            assert b.target.read_bytes() == body
            assert len(saved.warnings) == len(warnings)
            assert all(text in warning for text, warning in zip(warnings, saved.warnings, strict=True))
            assert facts in (None, (saved.duration, saved.sample_rate))
        logged = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(logged) == len(warnings)


async def test_a_tag_is_no_hindrance_to_a_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However large: nothing is passed on before the header behind it was checked."""
    body = TAG + b"ID3\x04\0\0\0\x10\0\0" + bytes(0x10 << 14) + SHORT
    async with bench(tmp_path, ScriptedResponse(cut=100_000), files={PATH: body}) as b, lifetime() as life:
        assert await read_all(b, life) == body
    assert "an ID3 tag of 262420 bytes" in caplog.text


async def test_two_recordings_with_one_tag_are_told_apart(tmp_path: Path) -> None:
    """What is compared with a file that is there is its header, wherever that is."""
    async with bench(tmp_path, files={PATH: TAG + SHORT}) as b:
        await b.save()
        b.server.files[PATH] = TAG + flac_like(len(SHORT), seed=1)
        with pytest.raises(DownloadError, match="different content"):
            await b.save()
        assert b.server.ranges[1:] == [f"bytes=0-{len(TAG) + 41}"]


def packed(encoding: str, body: bytes, **how: Any) -> ScriptedResponse:
    return ScriptedResponse(body=body, headers={"Content-Encoding": encoding}, **how)


@pytest.mark.parametrize(
    "label", ["", "aws-chunked", "UTF-8", "binary", "none", "identity, identity", "gzip", "br", "deflate, zstd", "junk"]
)
@pytest.mark.parametrize("verify", ["header", "none"])
async def test_a_label_on_the_bytes_is_no_encoding(tmp_path: Path, label: str, verify: Any) -> None:
    """Whatever a host claims of a body that begins as FLAC: it is FLAC, and goes on where it broke."""
    default = ScriptedResponse(headers={"Content-Encoding": label})
    async with bench(tmp_path, packed(label, SONG, cut=100_000), default=default, verify=verify) as b:
        assert await b.save() == SONG
        assert b.server.ranges == [None, "bytes=100000-"]
        assert await b.save() == SONG  # it is there


@pytest.mark.parametrize("body", [b"", b"f", b"fLaC"])
async def test_a_label_on_next_to_nothing(tmp_path: Path, body: bytes) -> None:
    """A body that ends before it can be recognized is kept as it is."""
    act = packed("gzip", body, framing="chunked", piece=1)
    async with bench(tmp_path, act, act, max_elapsed=5) as b:
        with pytest.raises(CorruptAudio, match=r"FLAC magic|inside its header"):
            await b.save()


async def test_an_object_with_a_tag_is_compared_as_a_file_is(tmp_path: Path) -> None:
    """By the header behind the tag."""
    store = open_folder(MemoryStore(), stores={})
    async with bench(tmp_path, files={PATH: TAG + TAG + SHORT}) as b:
        for _ in range(2):
            saved = await b.downloader.save(b.output(), store.name("song.flac"))
            assert len(saved.warnings) == 1
            assert saved.verified == "header"
        assert b.downloader.saved == 1
        b.server.files[PATH] = TAG + TAG + flac_like(len(SHORT), seed=1)
        with pytest.raises(DownloadError, match="different content"):
            await b.downloader.save(b.output(), store.name("song.flac"))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(SONG)),
        ("x-gzip", gzip.compress(SONG[:9]) + gzip.compress(SONG[9:])),
        ("deflate", zlib.compress(SONG)),
        ("deflate, gzip, identity", gzip.compress(zlib.compress(SONG))),
    ],
    ids=["gzip", "members", "deflate", "nested"],  # a body is no name: gzip writes the time into it
)
@pytest.mark.parametrize("how", [{}, {"framing": "chunked"}, {"framing": "close"}])
async def test_a_real_encoding_is_undone(tmp_path: Path, encoding: str, body: bytes, how: dict[str, Any]) -> None:
    """And never continued: its lengths are those of what was packed. A file that is there is found to be the same."""
    default = packed(encoding, body, **how)
    async with bench(tmp_path, packed(encoding, body, cut=50_000), default=default) as b:
        assert await b.save() == SONG
        assert b.server.ranges == [None, None]
        assert await b.save() == SONG
        assert b.downloader.saved == 1
    async with bench(tmp_path, packed(encoding, body, cut=50_000), default=default) as b, lifetime() as life:
        assert await read_all(b, life) == SONG


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (packed("br", b"\x0b\x02\x80\x00" * 9), "the body is encoded (br)"),
        (packed("gzip", gzip.compress(SHORT)[:-1] + b"x"), "not encoded as its header says, or is damaged"),
        (packed("gzip", gzip.compress(SHORT)[:-9]), "ended inside its encoding"),
        (packed("gzip, gzip, gzip, gzip", gzip.compress(b"x")), "encoded 4 times over"),
    ],
)
async def test_an_encoding_that_cannot_be_undone_is_told(tmp_path: Path, act: ScriptedResponse, reason: str) -> None:
    """In an error that repeats none of its bytes; nothing is left."""
    async with bench(tmp_path, default=act, max_elapsed=5) as b:
        with pytest.raises(DownloadError) as caught:
            await b.save()
        assert reason in str(caught.value)
        assert b.left() == []


async def test_a_bomb_is_defused(tmp_path: Path) -> None:
    """A small body that unpacks without end is given up at the bound of its size."""
    bomb = gzip.compress(flac_like(50_000, samples=0) + bytes(64 << 20))
    async with bench(tmp_path, default=packed("gzip", bomb)) as b:
        with pytest.raises(DownloadError, match="no FLAC of its length has more than"):
            await b.save()
        assert len(b.server.requests) == 1
        assert b.left() == []


@pytest.mark.parametrize("verify", ["header", "none"])
async def test_203_is_a_file_as_well(tmp_path: Path, verify: Any) -> None:
    """A proxy on the way may say that the answer is not the origin's own."""
    async with bench(tmp_path, default=ScriptedResponse(status_of_file=203), verify=verify) as b:
        assert await b.save() == SONG
        assert await b.save() == SONG


MIDDLE, SONGS_TAG = SONG[100_000:], f'"{hashlib.sha256(SONG).hexdigest()[:16]}"'
ODD = [
    ScriptedResponse(
        body=MIDDLE, ranges=False, content_range="bytes 100000-299999/300000"
    ),  # a 206 in all but the number
    ScriptedResponse(body=MIDDLE, ranges=False),  # the rest, called the whole
    ScriptedResponse(body=MIDDLE, ranges=False, etag=SONGS_TAG),
    ScriptedResponse(body=SONG[100_001:], ranges=False, etag=SONGS_TAG),
    ScriptedResponse(body=MIDDLE, ranges=False, content_range="bytes 100000-299999/300000", etag=None),
    ScriptedResponse(body=SONG[100_001:], ranges=False, content_range="bytes 100001-299999/300000"),
    ScriptedResponse(body=MIDDLE, ranges=False, content_range="junk"),
    ScriptedResponse(body=MIDDLE, ranges=False, content_range="bytes 100000-299999/300000", etag='"another"'),
    ScriptedResponse(body=MIDDLE, ranges=False, content_range="bytes 100000-299999/300000", status_of_file=203),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("verify", ["header", "none"])
@pytest.mark.parametrize("way", ["file", "stream"])
async def test_an_odd_answer_to_a_range_tears_nothing(
    tmp_path: Path, odd: ScriptedResponse, verify: Any, way: str
) -> None:
    """A part that is called the whole is joined where it belongs, or fetched anew; no file begins in its middle."""
    async with bench(tmp_path, ScriptedResponse(cut=100_000), odd, verify=verify) as b, lifetime() as life:
        assert await (b.save() if way == "file" else read_all(b, life)) == SONG
        assert len(b.server.requests) <= 3


BARE = {"ranges": False, "framing": "close", "etag": None}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("body", [REAL, TAG + REAL, REAL + b"TAG" + bytes(125)])
@pytest.mark.parametrize("way", ["file", "stream"])
async def test_a_whole_flac_needs_no_length(tmp_path: Path, version: str, body: bytes, way: str) -> None:
    """A body that ends with its connection is whole when its last frame is: it is fetched once."""
    default = ScriptedResponse(**BARE, version=version)
    async with bench(tmp_path, default=default, files={PATH: body}) as b, lifetime() as life:
        assert await (b.save() if way == "file" else read_all(b, life)) == body
        assert len(b.server.requests) == 1


@pytest.mark.parametrize("cut", [len(REAL) - 1, len(REAL) // 2, 43])
@pytest.mark.parametrize("way", ["file", "stream"])
async def test_a_cut_that_nobody_announced_is_noticed(tmp_path: Path, cut: int, way: str) -> None:
    """The last frame tells, and it is fetched anew."""
    script, default = ScriptedResponse(**BARE, cut=cut), ScriptedResponse(**BARE)
    async with bench(tmp_path, script, default=default, files={PATH: REAL}) as b, lifetime() as life:
        assert await (b.save() if way == "file" else read_all(b, life)) == REAL
        assert len(b.server.requests) == 2


async def test_a_cut_at_the_same_byte_each_time_is_corrupt(tmp_path: Path) -> None:
    """It is not fetched for five minutes; verify="none" takes it as it is."""
    files = {PATH: REAL[:-1]}
    async with bench(tmp_path, default=ScriptedResponse(**BARE), files=files) as b:
        with pytest.raises(CorruptAudio, match="which is not the end of its last frame"):
            await b.save()
        assert len(b.server.requests) == 3
        assert b.left() == []
    async with bench(tmp_path / "none", default=ScriptedResponse(**BARE), files=files, verify="none") as b:
        assert await b.save() == REAL[:-1]
    async with bench(tmp_path, default=ScriptedResponse(**BARE), files=files) as b, lifetime() as life:
        with pytest.raises(DownloadError, match="which is not the end of its last frame"):
            await read_all(b, life)


@pytest.mark.parametrize("way", ["file", "stream"])
async def test_what_has_no_frames_is_fetched_twice(tmp_path: Path, way: str) -> None:
    """With verify="none" anything is taken that ends at the same byte twice."""
    body = b"no flac at all" * 9999
    async with (
        bench(tmp_path, default=ScriptedResponse(**BARE), files={PATH: body}, verify="none") as b,
        lifetime() as life,
    ):
        assert await (b.save() if way == "file" else read_all(b, life)) == body
        assert len(b.server.requests) == 2


async def test_an_empty_body_without_a_length_is_no_file(tmp_path: Path) -> None:
    """Twice nothing is nothing, and no FLAC."""
    async with bench(tmp_path, default=ScriptedResponse(**BARE), files={PATH: b""}) as b, lifetime() as life:
        with pytest.raises(CorruptAudio, match="FLAC magic"):
            await read_all(b, life)


async def test_a_long_body_without_a_length_keeps_its_end_only(tmp_path: Path) -> None:
    """A stream remembers no more than a frame takes."""
    body = encode(seconds=8)
    async with bench(tmp_path, default=ScriptedResponse(**BARE), files={PATH: body}) as b, lifetime() as life:
        assert await read_all(b, life) == body
        assert len(b.server.requests) == 1


@pytest.mark.parametrize("status", [403, 429, 500, 503])
@pytest.mark.parametrize("wish", ["10", "Mon, 23 Nov 2026 10:00:10 GMT"])
async def test_the_wish_of_a_busy_host_is_heeded(tmp_path: Path, status: int, wish: str) -> None:
    """``Retry-After`` counts on every answer; 40 downloads that meet a pause of ten seconds all come through."""
    pauses: list[float] = []
    all_pause = anyio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 40:
            all_pause.set()
        await all_pause.wait()

    busy = ScriptedResponse(status=status, headers={"Retry-After": wish, "Date": "Mon, 23 Nov 2026 10:00:00 GMT"})
    async with bench(tmp_path, *[busy] * 40, sleep=sleep, limit=40) as b, anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(b.downloader.save, b.output(), b.target.with_name(f"{number}.flac"))

    assert b.downloader.saved == 40
    assert len(pauses) == 40
    assert all(10.0 <= pause <= 11.0 for pause in pauses)


async def test_a_wish_beyond_the_budget_ends_a_download(tmp_path: Path) -> None:
    """With the wish on the error; what came before it is kept, and gone on with."""
    busy = ScriptedResponse(status=503, headers={"Retry-After": "600"})
    async with bench(tmp_path, ScriptedResponse(cut=100_000), busy) as b:
        with pytest.raises(DownloadError, match=r"asks to wait for 600 s .* 300 s are left .* 100000 bytes") as caught:
            await b.save()
        assert caught.value.retry_after == 600.0
        assert caught.value.handle == b.output().handle
        assert await b.save() == SONG
        assert b.server.ranges[2:] == ["bytes=100000-"]


def trickle(**how: Any) -> ScriptedResponse:
    return ScriptedResponse(pause=0.05, piece=1, **how)


async def test_a_trickle_gives_its_slot_back(tmp_path: Path) -> None:
    """Eight outputs that trickle hold nobody up; they are begun anew from where they stand, and come through."""
    async with bench(tmp_path, *[trickle()] * 8, slowest=1000.0, window=0.2, limit=8) as b:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for number in range(9):
                    group.start_soon(b.downloader.save, b.output(), b.target.with_name(f"{number}.flac"))
        assert b.downloader.saved == 9
        assert sum(range_ is not None for range_ in b.server.ranges) == 8
        assert b.downloader.received == 9 * len(SONG)


@pytest.mark.parametrize("way", ["file", "stream", "comparison"])
async def test_a_trickle_is_given_up(tmp_path: Path, way: str) -> None:
    """New bytes all the time are no progress when they come too slowly; what came is kept."""
    default = trickle(headers={"X": "y"})
    options: dict[str, Any] = {"slowest": 1000.0, "window": 0.2, "max_elapsed": 0.5}
    async with bench(tmp_path, default=default, **options) as b, lifetime() as life:
        if way == "comparison":
            b.target.parent.mkdir()
            b.target.write_bytes(SONG)
        with pytest.raises(
            DownloadError, match=r"fewer than 1000 bytes per second arrived over 0.2 s; it was no faster"
        ):
            await (read_all(b, life) if way == "stream" else b.save())
        assert len(b.left()) == {"file": 2, "stream": 0, "comparison": 1}[way]
        assert b.downloader.active_streams == 0


async def test_a_slow_host_may_be_allowed(tmp_path: Path) -> None:
    """With no lowest speed everything moves on."""
    async with bench(
        tmp_path, default=ScriptedResponse(pause=0.01, piece=1), files={PATH: flac_like(50)}, slowest=None, window=0.05
    ) as b:
        assert await b.save() == flac_like(50)
        assert len(b.server.requests) == 1


async def test_a_slow_reader_is_not_a_slow_host(tmp_path: Path) -> None:
    """Only waiting for the host counts, so a window never ends while the reader takes its time."""

    async def blocks() -> AsyncGenerator[bytes]:
        for _ in range(10):
            yield b"x"

    async with bench(tmp_path, slowest=1e12, window=0.5) as b:
        download = OutputDownload(b.output(), target="here", context=b.downloader._context)
        body = download.open_body(Stream(200, {}, blocks()))
        assert repr(body) == "<Body <Speed 0 bytes in 0 s>>"
        async for _ in body:
            await anyio.sleep(0.06)
        await body.aclose()
        assert download.received == 10
        assert repr(Plain([], body)).startswith("<Plain <Body")


@pytest.mark.parametrize("way", ["file", "stream"])
@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_body_without_an_end_fills_no_disk(tmp_path: Path, way: str, framing: Any) -> None:
    """It is given up at a bound that its length sets; nothing is left, and the next run meets the same bound."""
    act = ScriptedResponse(framing=framing, endless=bytes(1 << 20), etag=None)
    async with bench(tmp_path, default=act) as b, lifetime() as life:
        b.target.parent.mkdir(exist_ok=True)
        for run in range(1, 3):
            with pytest.raises(
                DownloadError, match=r"no FLAC of its length has more than \d+; Limits\(max_bytes=...\)"
            ):
                await (b.save() if way == "file" else read_all(b, life))
            assert len(b.server.requests) == run
            assert b.left() == []
            assert b.downloader.received < run * 24_000_000


async def test_a_body_without_an_end_is_compared_with_no_file(tmp_path: Path) -> None:
    """What is there is left alone, and the reading ends."""
    act = ScriptedResponse(framing="chunked", endless=bytes(1 << 20), etag=None, ranges=False)
    async with bench(tmp_path, default=act, files={PATH: SHORT}) as b:
        b.target.parent.mkdir()
        b.target.write_bytes(SHORT)
        with pytest.raises(DownloadError, match="states no size"):
            await b.save()
        assert b.downloader.received < 24_000_000


async def test_a_file_longer_than_announced_is_no_body_without_an_end(tmp_path: Path) -> None:
    """Its own header says so, and that the service announced less is no reason to withhold it."""
    body = flac_like(22_000_000, samples=44_100 * 300)
    async with bench(tmp_path, files={PATH: body}, default=ScriptedResponse(framing="chunked")) as b:
        saved = await b.downloader.save(b.output(), b.target)
        assert saved.bytes == len(body)
        assert saved.warnings == ("it lasts 300.00 s, where 1.00 s was announced",)


async def test_a_size_that_nobody_has_is_refused_at_once(tmp_path: Path) -> None:
    """Before any of it is written."""
    async with bench(tmp_path, default=ScriptedResponse(announce=1 << 40)) as b:
        with pytest.raises(DownloadError, match="no FLAC of its length"):
            await b.save()
        assert b.left() == []


@pytest.mark.parametrize("target", ["/my song.flac", "/m\udcfcde.flac", "/müde.flac", "/100%.flac"])
async def test_illegal_characters_are_sent_encoded(tmp_path: Path, target: str) -> None:
    """In the URL of an output and in a redirect; what is legal stays as it was signed."""
    location = {"Location": f"{target}?sig=a%2Fb c".encode("utf-8", "surrogateescape").decode("latin-1")}
    files = {PATH: SONG, "/my%20song.flac": SONG, "/m%FCde.flac": SONG, "/m%C3%BCde.flac": SONG, "/100%25.flac": SONG}
    async with bench(tmp_path, ScriptedResponse(status=302, headers=location), files=files) as b:
        await b.save()
        direct = b.output(url=b.server.url(target, "sig=a%2Fb c"))
        await b.downloader.save(direct, b.target.with_name("direct.flac"))

        _, followed, asked = (request.target for request in b.server.requests)
        assert followed == asked
        assert followed.endswith(".flac?sig=a%2Fb%20c")


def far_settings(**changes: Any) -> Settings:
    """Settings for an API that is not on this machine; nobody asks it."""
    return Settings(**{"api_key": "spk_none", "base_url": "https://api.example", **changes})


async def refuse(settings: Settings, url: str, tmp_path: Path) -> str:
    """Download from a URL; return the error."""
    renewed = []

    async def renew(output: Output) -> Output:
        await anyio.lowlevel.checkpoint()
        renewed.append(output)
        return output

    async def sleep(_: float) -> None:
        await anyio.lowlevel.checkpoint()

    async with Transport(settings) as network:
        downloader = Downloader(stream=network.stream, renew=renew, limit=1, sleep=sleep)
        with pytest.raises(DownloadError) as caught:
            await downloader.save(Output(url=url, handle=HANDLE), tmp_path / "song.flac")
    assert len(renewed) == 3
    assert isinstance(caught.value.__cause__, OutputRefused)  # the service's fault: a recorded job is tried again
    return str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "localhost",
            "localhost.",
        ),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "0.0.0.0", "0", "169.254.169.254", "[fe80::1]"),  # noqa: S104 - nothing is bound to it
        *("①②⑦.0.0.1", "[64:ff9b::7f00:1]", "100.100.100.200", "[fd00:ec2::254]"),
    ],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_no_output_comes_from_this_machine(tmp_path: Path, host: str, scheme: str) -> None:
    """In no spelling; nothing is connected to, and no byte of what listens there is repeated."""
    async with RawServer({PATH: b"secret of this machine"}) as server:
        port = server.url().split(":")[2].partition("/")[0]
        told = await refuse(far_settings(), f"{scheme}://{host}:{port}{PATH}?sig=secret", tmp_path)

        assert "Settings(allow_private_outputs=True) allows it" in told
        assert "secret" not in told
        assert server.requests == []


async def test_a_name_is_judged_by_the_address_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was resolved, for the very connection: a name server that changes its mind gains nothing."""
    answers = iter(["93.184.215.14"])
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "outputs.example":
            return real(next(answers, "127.0.0.1"), port, *args, **kwargs)
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert socket.getaddrinfo("outputs.example", 443)[0][4][0] == "93.184.215.14"
    async with RawServer({PATH: SONG}) as server:
        url = server.url().replace("http://127.0.0.1", "https://outputs.example")
        assert "its host is this machine" in await refuse(far_settings(), url, tmp_path)
        assert server.requests == []


class OnlyTheFirst(OutputGuard):
    """A guard that lets one address of this machine through, as if it were elsewhere."""

    def __init__(self, settings: Settings, first: str) -> None:
        super().__init__(settings)
        self.first = first

    def check(self, url: str, what: str) -> None:
        """Raise, but for the first."""
        if not url.startswith(self.first):
            super().check(url, what)

    def open_to_output(self, address: Any) -> socket.socket:
        """Raise, but for the first."""
        if address[4][1] == int(self.first.rsplit(":", 1)[1]):
            return socket.socket(*address[:3])
        return super().open_to_output(address)


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1", "https://127.0.0.1", "https://localhost", "https://0x7f.1", "ftp://x"]
)
async def test_a_redirect_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Every hop is checked as the first one is."""
    async with RawServer({PATH: SONG}) as inner:
        port = inner.url().split(":")[2].partition("/")[0]
        redirect = ScriptedResponse(status=302, headers={"Location": f"{host}:{port}{PATH}?sig=secret"})
        async with RawServer({}, default=redirect) as outer:
            first = outer.url().partition(PATH)[0]
            monkeypatch.setattr(client, "OutputGuard", lambda settings: OnlyTheFirst(settings, first))
            told = await refuse(far_settings(), outer.url(), tmp_path)

            assert "refus" in told
            assert "secret" not in told
            assert len(outer.requests) == 4
            assert inner.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-s3cr3t\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ns3cr3t\r\n",
        b"HTTP/1.1 200 OK\r\ns3cr3t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ns3cr3t",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08s3cr3t",
        b"HTTP/1.1 206 OK\r\nContent-Length: 6\r\nContent-Range: s3cr3t\r\n\r\ns3cr3t",
    ],
)
async def test_no_byte_of_a_stranger_is_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    """What answers may be another service than the one that was meant."""
    caplog.set_level(logging.DEBUG)
    async with bench(tmp_path, max_elapsed=3) as b, await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:

        async def serve(connection: SocketStream) -> None:
            async with connection:
                await connection.receive()
                await connection.send(answer)

        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - a listener of anyio, not a query
            with pytest.raises(DownloadError) as caught:
                await b.downloader.save(b.output(url=f"http://127.0.0.1:{port}/x"), b.target)
            group.cancel_scope.cancel()

    told = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in told + repr(caught.value) + caplog.text


@pytest.mark.parametrize("how", ["the API is here", "it is allowed"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1"])
async def test_outputs_of_this_machine_may_be_allowed(how: str, host: str) -> None:
    """As those of a simulator, or by the settings, which lift https as well."""
    settings = far_settings(allow_private_outputs=True)
    async with RawServer({PATH: SONG}) as server:
        network = transport(read=5) if how == "the API is here" else Transport(settings)
        async with network, network.stream(server.url().replace("127.0.0.1", host)) as stream:
            assert b"".join([block async for block in stream.blocks]) == SONG


def test_an_api_that_resolves_to_this_machine_is_on_it() -> None:
    """Its name does not show that; the connection to it does."""
    guard = OutputGuard(far_settings())
    assert repr(guard) == "<OutputGuard secure=True local=False>"
    guard.open_to_api((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("93.184.215.14", 443))).close()
    assert repr(guard) == "<OutputGuard secure=True local=False>"
    guard.open_to_api((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 443))).close()
    assert repr(guard) == "<OutputGuard secure=True local=True>"
    guard.open_to_output((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 443))).close()

    proxied = OutputGuard(far_settings(proxy="http://127.0.0.1:3128"))
    proxied.open_to_api((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 3128))).close()
    assert repr(proxied) == "<OutputGuard secure=True local=False>"  # that was the proxy
    proxied.open_to_output((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 3128))).close()
    with pytest.raises(OutputRefused, match="this machine"):
        proxied.check("https://127.0.0.1/x", "GET")


async def test_the_settings_reach_the_downloader() -> None:
    """The lowest speed and its window are those of the session."""
    settings = far_settings(limits=Limits(min_bytes_per_second=5), timeouts=Timeouts(read=7))
    async with Session(settings) as session:
        host = session._engine.downloader._context
        assert (host.slowest, host.window, host.max_elapsed) == (5, 7, 300)

import asyncio
import hashlib
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import obstore
import pytest
from helpers.download_bench import OTHER, PATH, SONG, CancelAt, bench, damage, flac_like
from helpers.object_stores import BUCKET, StoreUnderTest, credentials, open_store, serve_s3
from helpers.raw_output_host import ScriptedResponse
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from soundpiece_async import upload_source
from soundpiece_async._core.errors import CorruptAudio, DownloadError, SettingsError, TransportError
from soundpiece_async._download.destinations import open_folder
from soundpiece_async._download.stores import Body, StoreError, Target, locate

pytestmark = pytest.mark.anyio

LONG = flac_like(6_000_000)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """One S3 server for all tests of this file: it takes half a second to start."""
    with serve_s3() as url:
        yield url


@pytest.fixture(params=["memory", "local", "s3"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> StoreUnderTest:
    """Yield each kind of store, empty."""
    return open_store(request.param, folder=tmp_path, s3=s3)


async def test_an_output_becomes_an_object(tmp_path: Path, shop: StoreUnderTest) -> None:
    """One GET gives the object, described as a file would be; nothing is written on this machine."""
    async with bench(tmp_path) as b:
        target = shop.target()
        saved = await b.downloader.save(b.output(), target)

        assert await shop.read() == SONG
        assert (saved.url, saved.name, saved.path, saved.bytes) == (target.url, "song.flac", target.path, len(SONG))
        assert (saved.duration, saved.sample_rate, saved.channels) == (1.0, 44_100, 2)
        assert saved.sha256 == hashlib.sha256(SONG).hexdigest()
        assert b.server.ranges == [None]
        assert b.downloader.saved == 1
        assert b.left() == []
        assert await shop.names() == ["song.flac"]


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([ScriptedResponse(cut=5_500_000)], [None, "bytes=5500000-"]),
        (
            [ScriptedResponse(cut=20), ScriptedResponse(status=503), ScriptedResponse(cut=5_300_000)],
            [None, "bytes=20-", "bytes=20-", "bytes=5300020-"],
        ),
        ([ScriptedResponse(cut=5_500_000), ScriptedResponse(ranges=False)], [None, "bytes=5500000-"]),
        ([ScriptedResponse(cut=5_500_000, etag=None), ScriptedResponse(cut=5_800_000)], [None, None, "bytes=5800000-"]),
        ([ScriptedResponse(framing="close")], [None, "bytes=6000000-"]),
        ([ScriptedResponse(cut=5_500_000), ScriptedResponse(status=403)], [None, "bytes=5500000-", "bytes=5500000-"]),
    ],
)
async def test_drops_do_not_show_in_an_upload(
    tmp_path: Path, s3: str, script: list[ScriptedResponse], ranges: list[str | None]
) -> None:
    """The same upload goes on from the byte reached; where the host begins again, what it repeats is not sent twice."""
    shop = open_store("s3", folder=tmp_path, s3=s3)
    async with bench(tmp_path, *script, files={PATH: LONG}) as b:
        saved = await b.downloader.save(b.output(), shop.target())

        assert await shop.read() == LONG
        assert saved.sha256 == hashlib.sha256(LONG).hexdigest()
        assert [first_byte(asked) is None for asked in b.server.ranges] == [asked is None for asked in ranges]
        for asked, dropped in zip(b.server.ranges, ranges, strict=True):  # what is not read when it drops is lost
            assert (first_byte(dropped) or 0) - 2**20 <= (first_byte(asked) or 0) <= (first_byte(dropped) or 0)
        assert await shop.pending() == 0


def first_byte(header: str | None) -> int | None:
    return None if header is None else int(header.removeprefix("bytes=").removesuffix("-"))


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ([ScriptedResponse(cut=200_000), ScriptedResponse(body=OTHER)], DownloadError, "bytes differ"),
        (
            [ScriptedResponse(cut=200_000, etag=None), ScriptedResponse(body=OTHER[:100_000])],
            DownloadError,
            "bytes differ",
        ),
        (
            [
                ScriptedResponse(cut=200_000, framing="chunked", etag=None),
                ScriptedResponse(body=SONG[:100], framing="chunked"),
            ],
            DownloadError,
            "bytes differ",
        ),
        ([ScriptedResponse(cut=200_000)] + [ScriptedResponse(status=500)] * 300, DownloadError, "no new byte came"),
        ([ScriptedResponse(body=b"<Error/>")] * 2, CorruptAudio, "magic"),
        ([ScriptedResponse(body=b"RIFF" + bytes(5_000))] * 2, CorruptAudio, "seems to be WAV"),
    ],
)
async def test_what_is_not_whole_is_not_published(
    tmp_path: Path, shop: StoreUnderTest, script: list[ScriptedResponse], error: type[Exception], reason: str
) -> None:
    """When the file does not come to its end, or is not what it should be, the upload is taken back."""
    async with bench(tmp_path, *script) as b:
        with pytest.raises(error, match=reason) as caught:
            await b.downloader.save(b.output(), shop.target())

        assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, TransportError)
        assert await shop.names() == []
        assert await shop.pending() == 0
        assert b.downloader.saved == b.downloader._threads.borrowed_tokens == 0


async def test_a_wrong_header_is_fetched_anew_once(tmp_path: Path, shop: StoreUnderTest) -> None:
    """Before anything was passed on, a second try costs nothing."""
    async with bench(tmp_path, ScriptedResponse(body=b"<Error>" + bytes(100))) as b:
        await b.downloader.save(b.output(), shop.target())

        assert await shop.read() == SONG


@pytest.mark.parametrize("body", [b"", b"short", b"<Error>" + bytes(100_000)])
async def test_none_takes_any_bytes(tmp_path: Path, shop: StoreUnderTest, body: bytes) -> None:
    """With verify="none" whatever is whole is published, and found again (but of nothing no host sends a range)."""
    async with bench(tmp_path, files={PATH: body}, verify="none") as b:
        for _ in range(2 if body else 1):
            saved = await b.downloader.save(b.output(), shop.target())
            assert (saved.bytes, saved.sample_rate, saved.duration) == (len(body), 0, 1.0)
            assert saved.sha256 == hashlib.sha256(body).hexdigest()

        assert await shop.read() == body
        assert b.downloader.saved == 1


@pytest.mark.parametrize("overwrite", [False, True])
async def test_the_same_object_is_not_fetched_again(tmp_path: Path, shop: StoreUnderTest, overwrite: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """42 bytes and the size tell; two saves at once fetch it once."""
    async with bench(tmp_path) as b:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: b.downloader.save(b.output(), shop.target(), overwrite=overwrite))

        assert b.server.ranges == [None, "bytes=0-41"]
        assert b.downloader.saved == 1


@pytest.mark.parametrize("there", [OTHER, SONG[:-1], b""])
async def test_a_different_object_is_not_touched(tmp_path: Path, shop: StoreUnderTest, there: bytes) -> None:
    """What is in the way stays as it is, unless ``overwrite``."""
    async with bench(tmp_path) as b:
        await obstore.put_async(shop.store, "song.flac", there)

        with pytest.raises(DownloadError, match="different content"):
            await b.downloader.save(b.output(), shop.target())
        assert await shop.read() == there
        await b.downloader.save(b.output(), shop.target(), overwrite=True)
        assert await shop.read() == SONG


async def test_a_damaged_object_is_told(tmp_path: Path, shop: StoreUnderTest) -> None:
    """An object that is what the host has, and no audio, is CorruptAudio."""
    bad = damage(SONG, 0, b"RIFF")
    async with bench(tmp_path, files={PATH: bad}) as b:
        await obstore.put_async(shop.store, "song.flac", bad)

        with pytest.raises(CorruptAudio, match="already exists, and is damaged"):
            await b.downloader.save(b.output(), shop.target())


async def test_cancelled_anywhere_an_upload_is_taken_back(tmp_path: Path) -> None:
    """Cancelled at any of its waits, it leaves the whole object or none, and holds nothing."""
    turn, finished = 0, False
    while not finished:
        turn += 1
        shop = open_store("memory", folder=tmp_path, s3="")
        async with bench(tmp_path, ScriptedResponse(cut=100_000), ScriptedResponse(status=403)) as b:
            with anyio.CancelScope() as scope:
                await CancelAt(b.downloader.save(b.output(), shop.target()), turn=turn, cancel=scope.cancel)
            finished = not scope.cancel_called
            assert await shop.names() == [] or await shop.read() == SONG
            assert b.downloader.active_streams == b.downloader._threads.borrowed_tokens == 0
            assert not b.downloader._targets
    assert turn > 5


@pytest.mark.parametrize("sent", [1_000_000, 5_600_000])
async def test_cancelled_uploads_leave_no_parts(tmp_path: Path, s3: str, sent: int) -> None:
    """Parts that were sent are removed before the cancellation goes on: S3 would keep, and charge for, them."""
    shop = open_store("s3", folder=tmp_path, s3=s3)
    async with bench(tmp_path, default=ScriptedResponse(pause=0.001), files={PATH: LONG}) as b:
        task = asyncio.create_task(b.downloader.save(b.output(), shop.target()))
        while b.server.sent < sent:
            await anyio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await shop.names() == []
        assert await shop.pending() == 0


async def test_what_the_store_says_ends_a_download(tmp_path: Path, s3: str) -> None:
    """No bucket, no network: one line, without the object's name; nothing is retried."""
    store = S3Store("nobody", **credentials(s3))
    unreachable = S3Store("nobody", **credentials("http://127.0.0.1:9"))
    async with bench(tmp_path, default=ScriptedResponse(pause=0.002), files={PATH: LONG}) as b:
        with pytest.raises(SettingsError, match=r"the object store said: .*404 Not Found \(NoSuchBucket\);") as refused:
            await b.downloader.save(b.output(), open_folder(store, stores={}).name("song.flac"))
        with pytest.raises(DownloadError, match=r"the object store said: .*sending request") as caught:
            await b.downloader.save(b.output(), open_folder(unreachable, stores={}).name("song.flac"))
        assert isinstance(caught.value.__cause__, TransportError)
        assert caught.value.path == "s3://nobody/song.flac"
        for error in (str(refused.value), str(caught.value)):
            assert "\n" not in error
            assert "uploads=" not in error

        assert len(b.server.requests) <= 1
        assert b.downloader.active_streams == 0


async def test_full_checks_are_not_left_out_unsaid(tmp_path: Path) -> None:
    """Frames are decoded from files: with verify="full" an object is refused before anything is fetched."""
    async with bench(tmp_path, verify="full") as b:
        with pytest.raises(SettingsError, match="decodes local files"):
            await b.downloader.save(b.output(), open_store("memory", folder=tmp_path, s3="").target())

        assert not b.server.requests


class SlowTarget(Target):
    """A store that takes one block and then nothing, and never gives up."""

    async def read_size(self) -> int | None:
        """Find nothing."""
        await anyio.lowlevel.checkpoint()

    async def write(self, blocks: AsyncIterable[bytes], **_: Any) -> None:
        """Hang."""
        async for _ in blocks:
            await anyio.sleep_forever()


async def test_a_slow_store_slows_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store does not take is not read, so memory is bounded; and one that hangs is not waited for for long."""
    monkeypatch.setattr("soundpiece_async._download.stores.ABORT_TIMEOUT", 0.05)
    async with bench(tmp_path, files={PATH: flac_like(40_000_000)}) as b:
        target = SlowTarget(store=None, key="song.flac", url="memory:///song.flac")  # type: ignore[arg-type] # asks none
        with anyio.move_on_after(0.5) as scope:
            await b.downloader.save(b.output(), target)

        assert scope.cancelled_caught
        assert b.downloader.received < 5_000_000
        assert b.downloader.active_streams == 0


class BrokenTarget(SlowTarget):
    """A store with a bug."""

    async def write(self, blocks: AsyncIterable[bytes], **_: Any) -> None:
        """Fail."""
        async for _ in blocks:
            raise ZeroDivisionError


async def test_a_fault_of_ours_comes_out_bare(tmp_path: Path) -> None:
    """Whatever it is, on either side: no caller has to look into a group."""

    async def stumble(_: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with bench(tmp_path, ScriptedResponse(), ScriptedResponse(status=403)) as b:
        b.downloader._context.renew = stumble
        for kind in (BrokenTarget, SlowTarget):
            target = kind(store=None, key="song.flac", url="memory:///song.flac")  # type: ignore[arg-type] # asks none
            with pytest.raises(ZeroDivisionError):
                await b.downloader.save(b.output(), target)


async def test_errors_of_a_renewal_come_out_bare(tmp_path: Path, shop: StoreUnderTest) -> None:
    """When the API cannot sign afresh, its error is the answer, and the upload is taken back."""
    refusal = TransportError("the API is down")

    async def renew(_: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        raise refusal

    async with bench(tmp_path, ScriptedResponse(cut=100_000), ScriptedResponse(status=403)) as b:
        b.downloader._context.renew = renew
        with pytest.raises(TransportError) as caught:
            await b.downloader.save(b.output(), shop.target())

        assert caught.value is refusal
        assert await shop.names() == []


async def test_urls_and_stores_name_the_same_places(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL finds its store in the environment, and keeps it; its keys are taken letter by letter."""
    for name, value in credentials(s3).items():
        if isinstance(value, str):
            monkeypatch.setenv(f"AWS_{name.upper()}", value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    async with bench(tmp_path) as b:
        outputs = [b.output(index=0), b.output(index=1)]
        files = await b.downloader.save_all(outputs, f"S3://{BUCKET}//a b/ü%20", "take")

        assert [file.url for file in files] == [f"s3://{BUCKET}/a b/ü%20/take-{n}.flac" for n in (1, 2)]
        store = S3Store(BUCKET, prefix="a b/ü%20", **credentials(s3))
        assert await StoreUnderTest(store).read("take-2.flac") == SONG
        assert locate(store) == f"s3://{BUCKET}/a b/ü%20/"
        assert repr(b.downloader._destinations) == f"<Destinations stores=['s3://{BUCKET}/']>"


async def test_a_file_url_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    """Its percent signs are decoded, and the path of what was saved there is the very file."""
    async with bench(tmp_path) as b:
        saved = await b.downloader.save_in(b.output(), (tmp_path / "my songs").as_uri(), "take.flac")

        assert saved.path == tmp_path / "my songs" / "take.flac"
        assert saved.path.read_bytes() == SONG


def test_stores_say_where_they_are(tmp_path: Path) -> None:
    """As far as they can: the URL of a store that was made by hand."""
    key = {"account_name": "me", "account_key": "a2V5"}

    assert locate(GCSStore("b", prefix="p/")) == "gs://b/p/"
    assert locate(AzureStore("c", **key)) == "az://c/"
    assert locate(open_store("local", folder=tmp_path, s3="").store) == f"file://{tmp_path}/shop/"
    assert locate(open_store("memory", folder=tmp_path, s3="").store) == "memory:///"
    assert locate(HTTPStore.from_url("https://example.com/x")) == "http:///"


async def test_a_store_that_cannot_be_asked_is_no_missing_object() -> None:
    """Only "not found" means that there is no object."""
    with pytest.raises(StoreError, match="sending request"):
        await open_folder(S3Store("x", **credentials("http://127.0.0.1:9")), stores={}).name("y").read_size()


async def test_a_body_ends_well_only_when_it_is_finished() -> None:
    """What obstore reads raises at its end, unless it was declared whole."""
    body = Body()
    assert "whole=False" in repr(body)
    body.finish()
    body.abort()
    assert [block async for block in body] == []
    body.close()


async def test_a_large_source_goes_in_parts(tmp_path: Path, s3: str) -> None:
    """One whose upload is cancelled on the way leaves neither an object nor parts."""
    path = tmp_path / "long.flac"
    path.write_bytes(LONG)
    store = open_store("s3", folder=tmp_path, s3=s3)
    source = await upload_source(path, store.store)
    assert await store.read(f"{source.sha256}.flac") == LONG

    async def use() -> None:
        async with upload_source(path, store.store):
            raise AssertionError

    with anyio.CancelScope() as scope:
        await CancelAt(use(), turn=15, cancel=scope.cancel)
    assert scope.cancelled_caught
    assert await store.names() == [f"{source.sha256}.flac"]
    assert await store.pending() == 0

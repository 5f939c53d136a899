"""Where files are to go is found out before anything is sent and paid, and what is there is not written over."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import obstore
import pytest
from helpers.download_bench import OTHER, PATH, SONG, bench, flac_like
from helpers.object_stores import BUCKET, Bucket, open_store, serve_bucket, serve_s3
from helpers.raw_output_host import ScriptedResponse
from helpers.sample_requests import fx
from helpers.simulation import settings
from obstore.store import HTTPStore, LocalStore, MemoryStore

from soundpiece_async import DownloadError, Failed, NewFx, Session, SettingsError, Succeeded
from soundpiece_async._download import destinations, store_downloads
from soundpiece_async._download.destinations import open_folder
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio

LARGE = flac_like(6_000_000)
"""More than a part of an object in parts."""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """One S3 server that takes objects in parts."""
    with serve_s3() as url:
        yield url


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """An S3 server whose rights can be chosen."""
    with serve_bucket() as opened:
        yield opened


def takes(count: int = 30) -> list[NewFx]:
    return [fx(number) for number in range(count)]


async def demand_nothing_paid(session: Session, sim: Simulator, to: Any, reason: str) -> None:
    """A run, and many at once, end before anything is sent, with this reason."""
    with pytest.raises(SettingsError, match=reason):
        await session.run(fx(), save_to=to)
    with pytest.raises(SettingsError, match=reason):
        async with session.run_many(takes(), save_to=to):
            pass
    assert len(sim.log) == 0


@pytest.mark.parametrize("error", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "NoSuchBucket"])
async def test_a_store_that_refuses_is_found_out_before_paying(
    session: Session, sim: Simulator, bucket: Bucket, error: str
) -> None:
    """By one request, whose answer is in the message (F4)."""
    bucket.error = error
    await demand_nothing_paid(session, sim, bucket.store(), rf"s3://{BUCKET}/: nothing can be saved there: .*{error}")
    assert len(bucket.asked) == 2
    done = await session.run(fx())
    with pytest.raises(SettingsError, match=error):
        await session.download(done.operation, bucket.store())
    bucket.error = None
    (file,) = await session.download(done.operation, bucket.store())
    assert [f"s3://{BUCKET}/{key}" for key in bucket.objects] == [file.url]


@pytest.mark.parametrize("to", ["az://songs/x", "file:///proc/nowhere"])
async def test_no_settings_and_no_folder_are_found_out_before_paying(session: Session, sim: Simulator, to: str) -> None:
    """What cannot even be opened (F4)."""
    await demand_nothing_paid(session, sim, to, r"is not writable|cannot be")


async def test_silence_is_found_out_before_paying(
    session: Session, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off the cloud the machine's role is asked for at an address that never answers: that ends soon (F11).

    A hundred that ask at once wait once.
    """
    monkeypatch.setattr(destinations, "CHECK_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        await demand_nothing_paid(session, sim, f"s3://{BUCKET}/x", "no response within 0.5 s: check")

        errors: list[SettingsError] = []
        started = time.monotonic()

        async def run() -> None:
            with pytest.raises(SettingsError, match="no response within") as caught:
                await session.run(fx(), save_to=f"s3://{BUCKET}/y")
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(run)
        assert time.monotonic() - started < 100 * 0.5
        assert len({id(error) for error in errors}) == 100


async def test_a_store_is_tried_once(session: Session, bucket: Bucket) -> None:
    """What has answered is not asked again, by whatever client."""
    for _ in range(3):
        await session.run(fx(), save_to=bucket.store(prefix="x"))
    assert bucket.asked.count(("GET", "x/.soundpiece-trial")) == 1
    assert len(bucket.objects) == 3


async def test_put_alone_is_right_enough(session: Session, bucket: Bucket) -> None:
    """Without the right to list, S3 answers 403 for a missing object; without the one to read, always (F10)."""
    for rights in ({"get", "put"}, {"put"}):
        bucket.rights = rights
        async with session.run_many(takes(5), save_to=bucket.store()) as results:
            done = [result async for result in results]
        assert all(isinstance(result, Succeeded) for result in done)
    assert len(bucket.objects) == 10


async def test_without_rights_to_read_nothing_is_written_over(tmp_path: Path, bucket: Bucket) -> None:
    """The store itself refuses; and that it cannot be compared is said."""
    bucket.rights = {"put"}
    bucket.objects["song.flac"] = OTHER
    async with bench(tmp_path) as b:
        target = open_folder(bucket.store(), stores={}).name("song.flac")
        with pytest.raises(DownloadError, match="cannot be compared; choose another name or folder"):
            await b.downloader.save(b.output(), target)
        assert bucket.objects["song.flac"] == OTHER
        await b.downloader.save(b.output(), target, overwrite=True)
        assert bucket.objects["song.flac"] == SONG


async def test_after_a_destination_has_failed_nothing_more_is_sent(sim: Simulator, bucket: Bucket) -> None:
    """One that takes no files is found out by the first file, and the rest is not paid for (F4)."""
    bucket.rights = {"list", "get"}
    async with (
        Session(settings(sim)) as session,
        session.run_many(takes(), save_to=bucket.store(), max_in_flight=4) as results,
    ):
        done = [result async for result in results]

    assert len(done) == 30
    for result in done:
        assert isinstance(result, Failed)
        assert isinstance(result.error, SettingsError)
        assert "AccessDenied" in str(result.error)
        assert result.operation is None or result.operation.request is result.request
    paid = [result for result in done if result.operation is not None]
    assert len(paid) == sum(request.method == "PUT" for request in sim.log) <= 8


@pytest.mark.parametrize("kind", ["memory", "local", "s3"])
@pytest.mark.parametrize("body", [SONG, LARGE], ids=["small", "large"])
async def test_two_who_save_under_one_name_lose_nothing(
    tmp_path: Path, s3: str, kind: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is refused, says why, and leaves nothing (F5)."""
    shop = open_store(kind, folder=tmp_path, s3=s3)
    assert len(LARGE) < store_downloads.MAX_SINGLE_PUT == 32 << 20
    monkeypatch.setattr(store_downloads, "MAX_SINGLE_PUT", len(LARGE) - 1)
    saved_meanwhile = asyncio.Event()
    async with bench(tmp_path, ScriptedResponse(until=saved_meanwhile), files={PATH: body}) as b:
        errors: list[DownloadError] = []

        async def save() -> None:
            with pytest.raises(DownloadError, match="already exists with different content") as caught:
                await b.downloader.save(b.output(), shop.target())
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            group.start_soon(save)
            while not b.downloader.received:
                await anyio.sleep(0.001)
            await obstore.put_async(shop.store, "song.flac", OTHER)
            saved_meanwhile.set()

        assert len(errors) == 1
        assert await shop.read() == OTHER
        assert await shop.pending() == 0
        await b.downloader.save(b.output(), shop.target(), overwrite=True)
        assert await shop.read() == body


async def test_the_same_file_from_elsewhere_is_taken(tmp_path: Path, bucket: Bucket) -> None:
    """Two sessions that save the same output under one name both have it."""

    def save_meanwhile(method: str, key: str) -> None:
        if method == "PUT":
            bucket.objects[key] = SONG

    bucket.react = save_meanwhile
    async with bench(tmp_path) as b:
        saved = await b.downloader.save(b.output(), open_folder(bucket.store(), stores={}).name("song.flac"))
        assert (saved.bytes, saved.url) == (len(SONG), f"s3://{BUCKET}/song.flac")
        assert b.downloader.saved == 0


async def test_a_store_without_conditions_is_looked_at_again(tmp_path: Path, bucket: Bucket) -> None:
    """Where the settings say that it knows none."""
    store = bucket.store(conditional_put="disabled")
    async with bench(tmp_path) as b:
        await b.downloader.save(b.output(), open_folder(store, stores={}).name("song.flac"))

    assert [method for method, _ in bucket.asked] == ["HEAD", "HEAD", "PUT"]


async def test_what_an_account_may_not_know_is_not_there(bucket: Bucket) -> None:
    """Without rights to read, a name counts as free, as the store will refuse it; without an answer nothing does."""
    folder = open_folder(bucket.store(), stores={})
    bucket.objects["x"] = b"1"
    assert await folder.has("x")
    assert await folder.compare("x", size=1) is None
    bucket.rights = {"put"}
    assert not await folder.has("x")
    elsewhere = open_folder(bucket.store(endpoint="http://127.0.0.1:9"), stores={})
    with pytest.raises(SettingsError, match=rf"s3://{BUCKET}/x cannot be checked: .*sending request"):
        await elsewhere.has("x")


def test_which_stores_create() -> None:
    """All but those that cannot, or are set not to."""
    for store in (MemoryStore(), LocalStore()):
        assert open_folder(store, stores={}).name("x").can_create
    assert not open_folder(HTTPStore.from_url("http://127.0.0.1:9"), stores={}).name("x").can_create

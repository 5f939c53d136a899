import hashlib
import json
import os
import pickle
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from helpers.download_bench import CancelAt
from helpers.object_stores import BUCKET, Bucket, credentials, serve_bucket
from helpers.tracebacks import find
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store

from soundpiece_async import (
    AudioSource,
    InvalidRequest,
    SeparateStems,
    SettingsError,
    SoundpieceError,
    TransportError,
    upload_source,
)
from soundpiece_async._core import job_records
from soundpiece_async._download import store_sources
from soundpiece_async._download.stores import Target
from soundpiece_async._download.upload import digest_file

pytestmark = pytest.mark.anyio

MIX = os.urandom(3_000_000)
NAME = hashlib.sha256(MIX).hexdigest()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """One bucket, to which ``s3://songs`` leads."""
    with serve_bucket() as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        yield bucket


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    path = tmp_path / "Mix (final).WAV"
    path.write_bytes(MIX)
    return path


async def fetch(url: str) -> bytes:
    def get() -> bytes:
        with urllib.request.urlopen(url) as response:  # noqa: S310 - our own server
            data: bytes = response.read()
            return data

    return await anyio.to_thread.run_sync(get)


async def test_a_file_is_uploaded_once(bucket: Bucket, mix: Path) -> None:
    """Its name is its content, so the next upload of an equal file sends nothing; its URL serves the file."""
    before = datetime.now(UTC)
    source = await upload_source(mix, f"s3://{BUCKET}/inbox", expires=7200)
    again = await upload_source(str(mix), bucket.store())  # the root of the bucket, so another object

    assert bucket.objects == {f"inbox/{NAME}.wav": MIX, f"{NAME}.wav": MIX}
    assert (source.sha256, again.sha256) == (NAME, NAME)
    assert source.expires_at is not None
    assert timedelta(seconds=7195) < source.expires_at - before < timedelta(seconds=7300)
    assert await fetch(source.url) == MIX
    await upload_source(mix, f"s3://{BUCKET}/inbox")
    assert [method for method, _ in bucket.asked].count("PUT") == 2


async def test_no_secret_is_shown(bucket: Bucket, mix: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by a source, nor by its URL, an upload, or the log."""
    caplog.set_level("DEBUG", logger="soundpiece_async")
    source = await upload_source(mix, f"s3://{BUCKET}/inbox")

    assert "X-Amz-Signature=" in source.url
    for shown in (repr(source), repr([source.url]), repr(SeparateStems(source))):
        assert "Signature" not in shown
        assert "inbox" in shown
    assert repr(upload_source(mix, f"s3://{BUCKET}/inbox")).endswith(f"WAV to=s3://{BUCKET}/inbox expires=3600>")
    assert "Bucket" not in repr(upload_source(mix, bucket.store()))
    assert f"uploaded as s3://{BUCKET}/inbox/{NAME}.wav, 3000000 bytes" in caplog.text
    assert "Signature" not in caplog.text


async def test_a_temporary_object_is_deleted(bucket: Bucket, mix: Path) -> None:
    """At the exit, also after an error; no other upload of the same file loses its object."""
    async with upload_source(mix, f"s3://{BUCKET}") as one:
        with pytest.raises(ZeroDivisionError):
            async with upload_source(mix, f"s3://{BUCKET}") as two:
                assert len(bucket.objects) == 2
                assert one.sha256 == two.sha256 == NAME
                raise ZeroDivisionError
        assert await fetch(one.url) == MIX
        assert len(bucket.objects) == 1
    assert bucket.objects == {}

    upload = upload_source(mix, f"s3://{BUCKET}")
    async with upload:
        bucket.objects.clear()  # deleted by somebody else
    with pytest.raises(RuntimeError, match="entered only once"):
        await upload.__aenter__()


async def test_cancellation_leaves_nothing(bucket: Bucket, mix: Path) -> None:
    """Wherever an upload is cancelled: no object, no thread that goes on, and the file is closed."""
    for turn in range(1, 200):
        with anyio.CancelScope() as scope:

            async def use() -> None:
                async with upload_source(mix, bucket.store()):
                    await anyio.lowlevel.checkpoint()

            await CancelAt(use(), turn=turn, cancel=scope.cancel)
        assert bucket.objects == {}
        if not scope.cancel_called:
            break
    else:
        raise AssertionError("it never ended")
    assert turn > 10


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"expires": True}, TypeError, "a number of seconds, not bool"),
        ({"expires": "3600"}, TypeError, "not str"),
        ({"expires": 59}, ValueError, "from 60 to 604800 seconds"),
        ({"expires": 604_801}, ValueError, "7 days"),
        ({"expires": float("nan")}, ValueError, "not nan"),
        ({"to": "inbox"}, InvalidRequest, "name a folder in a bucket"),
        ({"to": "file:///inbox"}, InvalidRequest, "cannot be read by the service"),
        ({"to": "https://host/x"}, InvalidRequest, "unsupported destination URL"),
        ({"path": 7}, TypeError, "int"),
    ],
)
def test_wrong_arguments_are_refused_at_once(changes: Any, error: type[Exception], reason: str) -> None:
    """Before anything is awaited."""
    with pytest.raises(error, match=reason):
        upload_source(**{"path": "mix.wav", "to": f"s3://{BUCKET}/x", **changes})


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'soundpiece-async\[obstore\]'"):
        upload_source("mix.wav", f"s3://{BUCKET}/x")


@pytest.mark.parametrize(
    "store", [MemoryStore(), AzureStore("songs", account_name="a", skip_signature=True)], ids=["memory", "azure"]
)
async def test_a_store_that_cannot_sign_is_refused(store: Any, mix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the file is sent."""
    monkeypatch.setattr("soundpiece_async._download.stores.Folder.check_access", lambda _: anyio.lowlevel.checkpoint())
    with pytest.raises(SettingsError, match="URLs of its objects cannot be signed: ") as caught:
        await upload_source(mix, store)
    assert isinstance(store, AzureStore) or "S3, Google Cloud Storage and Azure can" in str(caught.value)


def make_google_store() -> GCSStore:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    how = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {"type": "service_account", "client_email": "a@b.example.com", "client_id": "1", "private_key_id": "1"}
    key = json.dumps(account | {"private_key": private.private_bytes(*how).decode()})
    return GCSStore("songs", service_account_key=key)


def make_azure_store() -> AzureStore:
    return AzureStore("songs", account_name="account", account_key="a2V5")


@pytest.mark.parametrize(
    ("make", "start"),
    [
        (make_google_store, "https://storage.googleapis.com/songs/a/mix.wav?X-Goog-Algorithm="),
        (make_azure_store, "https://account.blob.core.windows.net/songs/a/mix.wav?"),
    ],
)
async def test_google_and_azure_sign(make: Callable[[], Any], start: str) -> None:
    """With the key of the account, without a request."""
    url = await Target(make(), "a/mix.wav", "x://songs/a/mix.wav").sign(3600)
    assert url.startswith(start)
    assert repr(url).endswith("/mix.wav?…'")


async def test_an_object_that_is_gone_needs_no_deletion(tmp_path: Path) -> None:
    """Some stores say that it is missing, and others do not."""
    await Target(LocalStore(tmp_path), "x.wav", "file:///x.wav").delete()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda _: None, FileNotFoundError),
        (os.mkfifo, FileExistsError),
        (os.mkdir, FileExistsError),
    ],
)
async def test_only_regular_files_are_read(
    make: Callable[[Path], None], error: type[OSError], tmp_path: Path, bucket: Bucket
) -> None:
    """A FIFO is not waited for."""
    make(tmp_path / "mix.wav")
    with anyio.fail_after(60), pytest.raises(error):
        await upload_source(tmp_path / "mix.wav", bucket.store())
    with pytest.raises(error):
        digest_file(tmp_path / "mix.wav")


async def test_a_file_that_changes_is_not_uploaded(bucket: Bucket, mix: Path) -> None:
    """Its name would lie."""

    def change(method: str, _: str) -> None:
        if method == "HEAD":
            mix.write_bytes(MIX[::-1])

    bucket.react = change
    with pytest.raises(SoundpieceError, match="it changed meanwhile"):
        await upload_source(mix, bucket.store())
    assert bucket.objects == {}
    assert digest_file(mix) == hashlib.sha256(MIX[::-1]).hexdigest()


@pytest.mark.parametrize("rights", [{"put", "delete"}, {"list", "get"}, {"list", "put"}])
async def test_rights(rights: set[str], bucket: Bucket, mix: Path, caplog: pytest.LogCaptureFixture) -> None:
    """To read is not needed; to write is; to delete only for temporary objects, where its lack is logged."""
    bucket.rights = rights
    if "put" not in rights:
        with pytest.raises(SettingsError, match=r"was not uploaded to s3://.*; check its credentials and rights"):
            await upload_source(mix, bucket.store())
        return
    async with upload_source(mix, bucket.store()):
        assert len(bucket.objects) == 1
    assert len(bucket.objects) == ("delete" not in rights)
    assert ("the temporary object was not deleted: " in caplog.text) == ("delete" not in rights)
    await upload_source(mix, bucket.store())
    assert f"{NAME}.wav" in bucket.objects


async def test_a_store_that_fails(
    bucket: Bucket, mix: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault that may pass is a TransportError; and a deletion that hangs is given up."""
    monkeypatch.setattr(Bucket, "answer", lambda *_: (500, b"<Error><Code>InternalError</Code></Error>"))
    monkeypatch.setattr("soundpiece_async._download.stores.Folder.check_access", lambda _: anyio.lowlevel.checkpoint())
    with pytest.raises(
        TransportError, match=r"Mix \(final\).WAV was not uploaded to s3://.*; upload it again"
    ) as caught:
        await upload_source(mix, bucket.store())
    assert find(caught.value, "Signature") == find(caught.value, "secret") == []

    monkeypatch.setattr(store_sources, "DELETE_TIMEOUT", 0.05)
    released = threading.Event()
    monkeypatch.setattr(Bucket, "answer", lambda *_: (released.wait(30), (200, b"<DeleteResult/>"))[1])
    store = S3Store(BUCKET, **credentials(bucket.url))
    await store_sources._delete(Target(store, "x.wav", f"s3://{BUCKET}/x.wav"))
    released.set()
    assert "s3://songs/x.wav: the temporary object was not deleted: no response within 0.05 s" in caplog.text


@pytest.mark.usefixtures("bucket")
async def test_a_source_is_known_by_its_content(mix: Path) -> None:
    """However its URL is signed, wherever the object is; so that a run with a journal resumes it."""
    one = await upload_source(mix, f"s3://{BUCKET}/inbox")
    assert one.renew is not None
    two = await one.renew()
    other = AudioSource(one.url)

    assert two.sha256 == one.sha256
    digests = [job_records.digest(SeparateStems(source)) for source in (one, two, AudioSource("x", sha256=NAME), other)]
    assert len(set(digests[:3])) == 1
    assert digests[3] != digests[0]
    assert pickle.loads(pickle.dumps(AudioSource(one.url, sha256=NAME))).url == one.url  # noqa: S301 - our own

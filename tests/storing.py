"""Object stores to save to: in memory, in a folder, and an S3 server in this process."""

import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import attrs
import obstore
from obstore.store import LocalStore, MemoryStore, S3Store

from soundpiece_async._download.objects import Target, open_folder

BUCKET = "songs"


@attrs.define
class Shop:
    """A store, and what can be seen in it from outside."""

    store: Any
    s3: str | None = None

    def target(self, name: str = "song.flac") -> Target:
        """Where a file goes."""
        return open_folder(self.store, stores={}).name(name)

    async def read(self, name: str = "song.flac") -> bytes:
        """Read an object."""
        return bytes(await (await obstore.get_async(self.store, name)).bytes_async())

    async def names(self) -> list[str]:
        """All objects, and, of a store that is a folder, all files."""
        if isinstance(self.store, LocalStore):
            return sorted(path.name for path in Path(str(self.store.prefix)).iterdir())
        return sorted([entry["path"] async for page in obstore.list(self.store) for entry in page])

    async def pending(self) -> int:
        """Uploads that were begun and neither finished nor taken back."""
        return 0 if self.s3 is None else await anyio.to_thread.run_sync(count_pending, self.s3)


def count_pending(url: str) -> int:
    with urllib.request.urlopen(f"{url}/{BUCKET}?uploads") as answer:  # noqa: S310 - our own server
        return len(re.findall("<UploadId>", answer.read().decode()))


@contextmanager
def serve_s3() -> Iterator[str]:
    """Run an S3 server with one bucket; gives its URL."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer  # noqa: PLC0415 - takes two seconds

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).close()  # noqa: S310 - our own server
    yield url
    server.stop()


def open_shop(kind: str, *, folder: Path, s3: str) -> Shop:
    """Make an empty store of a kind."""
    if kind == "memory":
        return Shop(MemoryStore())
    if kind == "local":
        return Shop(LocalStore(folder / "shop", mkdir=True))
    prefix = os.urandom(4).hex()
    return Shop(S3Store(BUCKET, prefix=prefix, **credentials(s3)), s3)


def credentials(s3: str) -> dict[str, Any]:
    return {
        "endpoint": s3,
        "access_key_id": "key",
        "secret_access_key": "secret",
        "region": "us-east-1",
        "client_options": {"allow_http": True},
        "retry_config": {"max_retries": 0},
    }

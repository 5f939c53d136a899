"""Object stores for tests: in memory, in a folder, and an S3 server in this process."""

import os
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio.to_thread
import attrs
import obstore
from obstore.store import LocalStore, MemoryStore, S3Store

from soundpiece_async._download.destinations import open_folder
from soundpiece_async._download.stores import Target

BUCKET = "songs"
_RIGHTS = {"PUT": "put", "POST": "delete"}


@attrs.define
class StoreUnderTest:
    """A store, and direct access to its objects."""

    store: Any
    s3: str | None = None

    def target(self, name: str = "song.flac") -> Target:
        """Return the target of a file."""
        return open_folder(self.store, stores={}).name(name)

    async def read(self, name: str = "song.flac") -> bytes:
        """Read an object."""
        return bytes(await (await obstore.get_async(self.store, name)).bytes_async())

    async def names(self) -> list[str]:
        """Return the names of all objects; of a store in a folder, of all files."""
        if isinstance(self.store, LocalStore):
            return sorted(path.name for path in Path(str(self.store.prefix)).iterdir())
        return sorted([entry["path"] async for page in obstore.list(self.store) for entry in page])

    async def pending(self) -> int:
        """Return the number of multipart uploads that are neither completed nor aborted."""
        return 0 if self.s3 is None else await anyio.to_thread.run_sync(count_pending, self.s3)


def count_pending(url: str) -> int:
    with urllib.request.urlopen(f"{url}/{BUCKET}?uploads") as answer:  # noqa: S310 - our own server
        return len(re.findall("<UploadId>", answer.read().decode()))


@contextmanager
def serve_s3() -> Iterator[str]:
    """Run an S3 server with one bucket; gives its URL."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer  # takes two seconds

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).close()  # noqa: S310 - our own server
    yield url
    server.stop()


@attrs.define
class Bucket:
    """An S3 server for one bucket, whose rights and manners can be chosen; it keeps whole objects only.

    Attributes:
        url: of the server.
        rights: what is allowed: without ``list`` a missing object is a 403, as S3 has it.
        conditional: whether it heeds ``If-None-Match``.
        error: the code it answers everything with.
        objects: what is in it.
        asked: methods and keys.
        react: called with method and key before a request is answered.
    """

    url: str
    rights: set[str] = attrs.field(factory=lambda: {"list", "get", "put", "delete"})
    conditional: bool = True
    error: str | None = None
    objects: dict[str, bytes] = attrs.field(factory=dict)
    asked: list[tuple[str, str]] = attrs.field(factory=list)
    react: Callable[[str, str], None] = lambda _method, _key: None

    @property
    def environ(self) -> dict[str, str]:
        """What leads a URL to it."""
        names = {"endpoint": "AWS_ENDPOINT_URL", "access_key_id": "AWS_ACCESS_KEY_ID"}
        names |= {"secret_access_key": "AWS_SECRET_ACCESS_KEY", "region": "AWS_REGION"}
        return {name: credentials(self.url)[member] for member, name in names.items()} | {"AWS_ALLOW_HTTP": "true"}

    def store(self, **how: Any) -> S3Store:
        """Make a client of it."""
        return S3Store(BUCKET, **{**credentials(self.url), **how})

    def answer(self, method: str, key: str, body: bytes, condition: str | None) -> tuple[int, bytes]:  # noqa: PLR0911 - a protocol
        """Answer one request."""
        self.asked.append((method, key))
        self.react(method, key)
        if self.error:
            return 403, _explain(self.error)
        if _RIGHTS.get(method, "get") not in self.rights:
            return 403, _explain("AccessDenied")
        if method == "POST":  # obstore deletes that way
            names = re.findall("<Key>(.*?)</Key>", body.decode())
            gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names if self.objects.pop(name, name))
            return 200, f"<DeleteResult>{gone}</DeleteResult>".encode()
        if method == "PUT":
            if self.conditional and key in self.objects and condition == "*":
                return 412, _explain("PreconditionFailed")
            self.objects[key] = body
            return 200, b""
        if key not in self.objects:
            return (404, _explain("NoSuchKey")) if "list" in self.rights else (403, _explain("AccessDenied"))
        return 200, self.objects[key]


def _explain(code: str) -> bytes:
    return f"<Error><Code>{code}</Code></Error>".encode()


@contextmanager
def serve_bucket(**manners: Any) -> Iterator[Bucket]:
    """Run an S3 server of bare sockets."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            key = unquote(self.path.partition("?")[0]).removeprefix(f"/{BUCKET}/")
            status, data = bucket.answer(self.command, key, body, self.headers["If-None-Match"])
            headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            if status == 200 and (asked := self.headers["Range"]):
                total = len(data)
                start, end = map(int, asked.removeprefix("bytes=").split("-"))
                status, data = 206, data[start : end + 1]
                headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{total}"
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = answer  # noqa: N815 - the names of the standard library

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        bucket = Bucket(f"http://127.0.0.1:{server.server_port}", **manners)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield bucket
        finally:
            server.shutdown()
            thread.join()


def open_store(kind: str, *, folder: Path, s3: str) -> StoreUnderTest:
    """Make an empty store of a kind."""
    if kind == "memory":
        return StoreUnderTest(MemoryStore())
    if kind == "local":
        return StoreUnderTest(LocalStore(folder / "shop", mkdir=True))
    prefix = os.urandom(4).hex()
    return StoreUnderTest(S3Store(BUCKET, prefix=prefix, **credentials(s3)), s3)


def credentials(s3: str) -> dict[str, Any]:
    return {
        "endpoint": s3,
        "access_key_id": "key",
        "secret_access_key": "secret",
        "region": "us-east-1",
        "client_options": {"allow_http": True},
        "retry_config": {"max_retries": 0},
    }

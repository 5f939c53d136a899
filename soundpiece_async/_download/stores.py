"""Objects in a store, by obstore (extra ``obstore``).

An object appears when it is whole, or not at all: its parts are joined by the last request. Where a URL names the
store, obstore finds credentials and endpoint where the provider's own tools do: in ``AWS_…``, ``GOOGLE_…`` or
``AZURE_…``, in files, or in the machine's role.

1. An object is published when its bytes are complete: only then does the body that obstore reads come to an end. In
   every other case the body raises, and obstore aborts the upload.
2. So an upload is aborted, never cancelled: the parts of a cancelled one stay in the bucket, unseen and paid for.
"""

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import anyio
import attrs
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, S3Store, from_url

from soundpiece_async._core.errors import SettingsError
from soundpiece_async._core.redaction import redact_url, signed_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

ABORT_TIMEOUT = 10.0
"""Seconds in which an aborted upload must remove its parts; later that is left to the bucket's lifecycle rules."""
PART_SIZE = 5 << 20
"""Bytes of a part: the minimum of S3 for all but the last."""
MAX_PARALLEL_PARTS = 2
"""Parts of one object sent at once; more cost memory, and the output host is no faster."""

PROBE_NAME = ".soundpiece-trial"
"""Name of the object, which does not exist, that is requested to check a store."""

_UNUSABLE = frozenset(
    {
        *("NoSuchBucket", "ContainerNotFound", "ResourceNotFound"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidSecurity", "AuthenticationFailed", "InvalidAuthenticationInfo", "RequestTimeTooSkewed"),
    }
)
"""Codes of S3 and Azure for a missing bucket, and for refusing the account rather than one request."""
_CODE = re.compile(r"<Code>(\w+)</Code>")
_QUERY = re.compile(r"\?[^\s\"'`]+")


Kind: TypeAlias = Literal["missing", "exists", "denied", "unusable", "other"]


class StoreError(Exception):
    """The error of a store, in one line, without the signed queries of its URLs.

    Attributes:
        kind: ``missing``: the object does not exist; ``exists``: it does already; ``denied``: the account lacks the
            right; ``unusable``: no such bucket or account, so that every object would fail; or ``other``.
    """

    def __init__(self, why: str, *, kind: Kind = "other") -> None:
        super().__init__(why)
        self.kind = kind


@attrs.frozen
class Target:
    """An object, which may not exist yet."""

    store: "ObjectStore" = attrs.field(repr=False)
    key: str
    url: str

    @property
    def path(self) -> Path | None:
        """The file, if the store is a local folder."""
        return Path(self.url.removeprefix("file://")) if self.url.startswith("file://") else None

    @property
    def can_create(self) -> bool:
        """Whether the store itself can refuse to overwrite an object."""
        config: Any = getattr(self.store, "config", {})
        return not isinstance(self.store, HTTPStore) and config.get("conditional_put", "etag") != "disabled"

    async def exists(self) -> bool:
        """Return whether the object exists; False, too, if the account may not know.

        Raises:
            StoreError: the request failed.
        """
        try:
            return await self.read_size() is not None
        except StoreError as error:
            if error.kind == "denied":
                return False
            raise

    async def read_size(self) -> int | None:
        """Return the size of the object, or None if it does not exist.

        Raises:
            StoreError: the request failed; ``denied`` may also mean that it does not exist, without the right to list.
        """
        try:
            with _to_store_error():
                return (await obstore.head_async(self.store, self.key))["size"]
        except StoreError as error:
            if error.kind == "missing":
                return None
            raise

    async def read(self, start: int, end: int) -> bytes:
        """Read a byte range of the object."""
        with _to_store_error():
            return bytes(await obstore.get_range_async(self.store, self.key, start=start, end=end))

    async def write(
        self,
        blocks: AsyncIterable[bytes],
        *,
        whole: bool = False,
        create: bool = False,
        content_type: str = "audio/flac",
    ) -> None:
        """Write the object; if ``blocks`` raises, the store is unchanged.

        When this is cancelled, invisible parts stay in the bucket and are paid for: let ``blocks`` raise instead.

        Args:
            blocks: its bytes.
            whole: hold all of them in memory, and send them by one request; otherwise in parts.
            create: fail if the object exists, as the store decides; not possible in parts. Otherwise overwrite.
            content_type: media type of the object.

        Raises:
            StoreError: not written; of the kind ``exists`` if the object exists.
        """
        with _to_store_error():
            await obstore.put_async(
                self.store,
                self.key,
                blocks,
                attributes=None if isinstance(self.store, LocalStore) else {"Content-Type": content_type},
                mode="create" if create else "overwrite",
                use_multipart=not whole,
                chunk_size=PART_SIZE,
                max_concurrency=MAX_PARALLEL_PARTS,
            )

    async def sign(self, expires: float) -> str:
        """Return a URL from which anyone can read the object, for so many seconds; its repr does not sign it.

        Raises:
            StoreError: the store cannot sign URLs, or not with these credentials.
        """
        if not isinstance(self.store, S3Store | GCSStore | AzureStore):
            raise StoreError("this store cannot sign URLs; S3, Google Cloud Storage and Azure can", kind="unusable")
        with _to_store_error():
            return signed_url(await obstore.sign_async(self.store, "GET", self.key, timedelta(seconds=expires)))

    async def delete(self) -> None:
        """Delete the object; it may be missing.

        Raises:
            StoreError: the request failed.
        """
        try:
            with _to_store_error():
                await obstore.delete_async(self.store, self.key)
        except StoreError as error:
            if error.kind != "missing":
                raise


@attrs.frozen
class Folder:
    """A folder in a store."""

    store: "ObjectStore" = attrs.field(repr=False)
    prefix: str
    url: str

    @property
    def identity(self) -> tuple[str, int]:
        """The identity of the folder: its URL, and the settings of the store."""
        config: dict[str, Any] = getattr(self.store, "config", {})
        return self.url, hash(repr(sorted(config.items())))

    async def check_access(self) -> str | None:
        """Request an object that does not exist; return None, or why nothing can be saved.

        Accounts often may write, but not list or read, so a 403 for this request is no reason.
        """
        try:
            await self.name(PROBE_NAME).read(0, 1)
        except StoreError as error:
            if error.kind not in ("missing", "denied"):
                return str(error)
        return None

    async def has(self, name: str) -> bool:
        """Return whether an object exists, as far as this account may know.

        Raises:
            SettingsError: the request failed.
        """
        try:
            return await self.name(name).exists()
        except StoreError as error:
            raise SettingsError(f"{self.url}{name} cannot be checked: {error}") from None

    async def compare(self, name: str, *, size: int) -> str | None:
        """Return how an object differs from the one that was saved with this size, or None.

        Raises:
            SettingsError: the request failed.
        """
        try:
            found = await self.name(name).read_size()
        except StoreError as error:
            raise SettingsError(f"{self.url} cannot be read: {error}") from None
        if found is None:
            return "is missing"
        return None if found == size else f"has {found} bytes, and had {size} when it was saved"

    def name(self, name: str) -> Target:
        """Return the object of a file in this folder."""
        return Target(self.store, f"{self.prefix}{name}", f"{self.url}{name}")


def open_url(root: str, prefix: str, *, stores: "dict[str, ObjectStore]") -> Folder:
    """Open a folder by its URL; the store is made once for each bucket. Blocks.

    Args:
        root: of the store, as ``s3://bucket/``.
        prefix: of the folder, empty or ending with a slash.
        stores: those already made, by root.

    Raises:
        SettingsError: the store cannot be made with the environment's configuration.
    """
    if root not in stores:
        try:
            stores[root] = from_url(root)
        except (BaseError, ValueError) as error:
            raise SettingsError(f"{redact_url(root)} cannot be used: {_shorten(error)}") from error
    return Folder(stores[root], prefix, f"{root}{prefix}")


def open_store(store: "ObjectStore") -> Folder:
    """Open a store object, whose prefix is the folder."""
    return Folder(store, "", locate(store))


def locate(store: "ObjectStore") -> str:
    """Return the URL of a store object, as far as it states it."""
    match store:
        case S3Store(config={"bucket": bucket}):
            root = f"s3://{bucket}/"
        case GCSStore(config={"bucket": bucket}):
            root = f"gs://{bucket}/"
        case AzureStore(config={"container_name": container}):
            root = f"az://{container}/"
        case LocalStore():
            root = "file:///"
        case _:
            return f"{type(store).__name__.removesuffix('Store').lower()}:///"
    prefix = str(store.prefix or "").strip("/")
    return f"{root}{prefix}/" if prefix else root


@contextmanager
def _to_store_error() -> Generator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise StoreError(_shorten(error), kind=_classify(error)) from None


def _classify(error: Exception) -> Kind:
    code = _CODE.search(str(error))
    if isinstance(error, UnauthenticatedError) or (code and code[1] in _UNUSABLE):
        return "unusable"
    kinds: dict[type[Exception], Kind] = {
        FileNotFoundError: "missing",
        AlreadyExistsError: "exists",
        PermissionDeniedError: "denied",
    }
    return kinds.get(type(error), "other")


def _shorten(error: Exception) -> str:
    """Return the readable line and the provider's code from an error of obstore; the rest may contain signed URLs."""
    line = str(error).partition("\n")[0].partition(" <?xml")[0].strip(" :")
    code = _CODE.search(str(error))
    return _QUERY.sub("?…", f"{line} ({code[1]})" if code else line)


class UploadAbortedError(Exception):
    """Raised to obstore in place of the remaining bytes."""


class Body:
    """The body that obstore reads, in tasks of its own; it ends without an error only after ``finish`` (rule 1)."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        """Set when there are bytes to read, or the body ended."""
        self._whole = False
        self._send, self._receive = anyio.create_memory_object_stream[bytes](0)

    def __repr__(self) -> str:
        return f"<Body whole={self._whole} {self._receive.statistics()}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            if self._whole:
                raise StopAsyncIteration from None
            raise UploadAbortedError from None

    async def write(self, blocks: list[bytes]) -> None:
        """Hand blocks over; returns when they are read."""
        self.begun.set()
        await self._send.send(b"".join(blocks))

    def finish(self) -> None:
        """Declare that the bytes written are the whole file."""
        self._whole = True
        self.abort()

    def abort(self) -> None:
        """End the body with an error, unless it is finished."""
        self.begun.set()
        self._send.close()

    def close(self) -> None:
        """Close both ends; nothing reads the body any more."""
        self._send.close()
        self._receive.close()


async def write_from(
    produce: Callable[[], Awaitable[None]], *, body: Body, write: Callable[[], Awaitable[None]]
) -> None:
    """Write an object while its bytes are produced; an error on either side ends both (rules 1 and 2).

    Args:
        produce: writes all bytes to the body; may be cancelled.
        body: connects the two.
        write: writes the object from the body (``Target.write``); called once the first bytes are there.

    Raises:
        StoreError: not written.
        Exception: from ``produce``; nothing was written.
    """
    faults: list[Exception] = []
    producing, writing, written = anyio.CancelScope(), anyio.CancelScope(shield=True), anyio.Event()

    async def consume() -> None:
        with writing:
            try:
                await body.begun.wait()
                await write()
            except UploadAbortedError:
                return
            except Exception as error:  # noqa: BLE001 - raised below: an error of ours, too, must leave without a group
                faults.append(error)
                producing.cancel()
            written.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            try:
                with producing:
                    await produce()
                    body.finish()
                    await written.wait()
            except Exception as error:  # noqa: BLE001 - the same
                faults.append(error)
            finally:
                body.abort()
                writing.deadline = anyio.current_time() + ABORT_TIMEOUT
    finally:
        body.close()
    if faults:
        raise faults[0]

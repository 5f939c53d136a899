"""Objects in a store, by obstore, and the saving of outputs there without a local copy (extra ``obstore``).

An object appears when it is whole, or not at all: its parts are joined by the last request. Where a URL names the
store, obstore finds credentials and endpoint where the provider's own tools do: in ``AWS_…``, ``GOOGLE_…`` or
``AZURE_…``, in files, or in the machine's role.

1. An object is published when the file is whole and its header is what it should be: only then does the body that
   obstore reads come to an end. In every other case the body raises, and obstore aborts the upload.
2. So an upload is aborted, never cancelled: the parts of a cancelled one stay in the bucket, unseen and paid for.
3. An object that exists is compared by size and first bytes, and not fetched again when it is the same.
4. Two sessions that save under one name do not lose one of the two: the store itself refuses the second, where it can,
   which is for objects up to ``MAX_SINGLE_PUT``; otherwise the name is checked right before the upload is completed.
"""

import hashlib
import re
from collections.abc import AsyncIterable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import anyio
import anyio.to_thread
import attrs
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, S3Store, from_url

from soundpiece_async._core import flac
from soundpiece_async._core.errors import CorruptAudio, DownloadError, SettingsError, TransportError
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.results import SavedFile
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.fetch import OutputDownload
from soundpiece_async._download.relay import VerifiedRelay
from soundpiece_async._download.transfer import FileHead, compare_with_existing
from soundpiece_async._download.verify import check_header, make_saved_file, require_header_check
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART = 5 << 20
"""Bytes of a part: the least S3 takes for all but the last."""
MAX_PARALLEL_PARTS = 2
"""Parts of one object on their way at once; more cost memory, and the output host is no faster."""

TRIAL = ".soundpiece-trial"
"""The name that is asked for to try a store; nothing has it."""

_USELESS = frozenset(
    {
        *("NoSuchBucket", "ContainerNotFound", "ResourceNotFound"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidSecurity", "AuthenticationFailed", "InvalidAuthenticationInfo", "RequestTimeTooSkewed"),
    }
)
"""What S3 and Azure call a missing bucket, and a refusal of the account rather than of one request."""
_CODE = re.compile(r"<Code>(\w+)</Code>")
_QUERY = re.compile(r"\?[^\s\"'`]+")


Kind: TypeAlias = Literal["missing", "taken", "refused", "useless", "other"]


class StoreError(Exception):
    """What a store answered, in one line, without the queries that sign its URLs.

    Attributes:
        kind: ``missing``: there is no such object; ``taken``: there is one already; ``refused``: this account may not
            do that; ``useless``: no bucket, or no such account, so that every object would meet the same; or ``other``.
    """

    def __init__(self, why: str, *, kind: Kind = "other") -> None:
        super().__init__(why)
        self.kind = kind


@attrs.frozen
class Target:
    """One object, which may not be there yet."""

    store: "ObjectStore" = attrs.field(repr=False)
    key: str
    url: str

    @property
    def path(self) -> Path | None:
        """The file, when the store is a folder of this machine."""
        return Path(self.url.removeprefix("file://")) if self.url.startswith("file://") else None

    @property
    def creates(self) -> bool:
        """True when the store itself refuses to write over an object, asked to."""
        config: Any = getattr(self.store, "config", {})
        return not isinstance(self.store, HTTPStore) and config.get("conditional_put", "etag") != "disabled"

    async def is_there(self) -> bool:
        """Return whether there is such an object; not knowing it, for lack of rights, counts as no.

        Raises:
            StoreError: the store cannot be asked.
        """
        try:
            return await self.measure() is not None
        except StoreError as error:
            if error.kind == "refused":
                return False
            raise

    async def measure(self) -> int | None:
        """Return the size of the object, or None if there is none.

        Raises:
            StoreError: it cannot be known; ``refused`` may also mean that there is none, without the right to list.
        """
        try:
            with _translating_errors():
                return (await obstore.head_async(self.store, self.key))["size"]
        except StoreError as error:
            if error.kind == "missing":
                return None
            raise

    async def read(self, start: int, end: int) -> bytes:
        """Read a part of the object."""
        with _translating_errors():
            return bytes(await obstore.get_range_async(self.store, self.key, start=start, end=end))

    async def write(self, blocks: AsyncIterable[bytes], *, whole: bool = False, create: bool = False) -> None:
        """Write the object; what ``blocks`` raises leaves the store as it was.

        Cancelled, it leaves parts that nobody sees and somebody pays for: let ``blocks`` raise instead.

        Args:
            blocks: its bytes.
            whole: hold all of it in memory, and send it by one request; otherwise in parts.
            create: only if there is none, which the store itself decides, and no store of what comes in parts.
                Otherwise it takes the place of one that is there.

        Raises:
            StoreError: it was not written; its kind is ``taken`` when another one is there.
        """
        with _translating_errors():
            await obstore.put_async(
                self.store,
                self.key,
                blocks,
                attributes=None if isinstance(self.store, LocalStore) else {"Content-Type": "audio/flac"},
                mode="create" if create else "overwrite",
                use_multipart=not whole,
                chunk_size=PART,
                max_concurrency=MAX_PARALLEL_PARTS,
            )


@attrs.frozen
class Folder:
    """A place in a store."""

    store: "ObjectStore" = attrs.field(repr=False)
    prefix: str
    url: str

    @property
    def identity(self) -> tuple[str, int]:
        """What tells it from other folders: the URL, and the settings of the store."""
        config: dict[str, Any] = getattr(self.store, "config", {})
        return self.url, hash(repr(sorted(config.items())))

    async def find_fault(self) -> str | None:
        """Ask the store for an object that is not there; return None, or why nothing can be saved.

        Rights to write without those to list or read are usual: a refusal of this one request says nothing.
        """
        try:
            await self.name(TRIAL).read(0, 1)
        except StoreError as error:
            if error.kind not in ("missing", "refused"):
                return str(error)
        return None

    async def has(self, name: str) -> bool:
        """Return whether there is such an object, as far as this account may know.

        Raises:
            SettingsError: the store cannot be asked.
        """
        try:
            return await self.name(name).is_there()
        except StoreError as error:
            raise SettingsError(f"{self.url}{name} cannot be looked for: {error}") from None

    async def compare(self, name: str, *, size: int) -> str | None:
        """Return how an object differs from one that was saved with this size, or None.

        Raises:
            SettingsError: the store cannot be asked.
        """
        try:
            found = await self.name(name).measure()
        except StoreError as error:
            raise SettingsError(f"{self.url} cannot be looked into: {error}") from None
        if found is None:
            return "is not there"
        return None if found == size else f"has {found} bytes, and had {size} when it was saved"

    def name(self, name: str) -> Target:
        """Give the target of a file in this folder."""
        return Target(self.store, f"{self.prefix}{name}", f"{self.url}{name}")


def open_url(root: str, prefix: str, *, stores: "dict[str, ObjectStore]") -> Folder:
    """Open a folder in the store of a URL, which is made once for each bucket. Blocks.

    Args:
        root: of the store, as ``s3://bucket/``.
        prefix: of the folder, empty or ending with a slash.
        stores: those that were made, by root.

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
    """Open a store of the user's, whose prefix is the folder."""
    return Folder(store, "", locate(store))


def locate(store: "ObjectStore") -> str:
    """Say where a store of the user's is, as far as it tells."""
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
def _translating_errors() -> Generator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise StoreError(_shorten(error), kind=_sort(error)) from None


def _sort(error: Exception) -> Kind:
    code = _CODE.search(str(error))
    if isinstance(error, UnauthenticatedError) or (code and code[1] in _USELESS):
        return "useless"
    kinds: dict[type[Exception], Kind] = {
        FileNotFoundError: "missing",
        AlreadyExistsError: "taken",
        PermissionDeniedError: "refused",
    }
    return kinds.get(type(error), "other")


def _shorten(error: Exception) -> str:
    """Take the line for people, and the provider's code, out of what obstore says; the rest may hold signed URLs."""
    line = str(error).partition("\n")[0].partition(" <?xml")[0].strip(" :")
    code = _CODE.search(str(error))
    return _QUERY.sub("?…", f"{line} ({code[1]})" if code else line)


logger = get_logger("downloader")

READ_SIZE = 8 << 20
"""Bytes of an object that are read by one request."""
MAX_SINGLE_PUT = 32 << 20
"""Bytes up to which an object is sent by one request, from memory: stores put no condition on what comes in parts."""
ABORT_TIMEOUT = 10.0
"""Seconds an upload that was broken off has to take itself back; later it is left to the bucket's own rules."""


class UploadAbortedError(Exception):
    """Tells obstore that the rest will not come."""


class Body:
    """A file as obstore reads it, in tasks of its own making; it ends well only once it is declared whole (rule 1)."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        """Set once there is something to read, or an end."""
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
        """Pass blocks on; returns when they are taken."""
        self.begun.set()
        await self._send.send(b"".join(blocks))

    def finish(self) -> None:
        """Declare what was written to be the whole file."""
        self._whole = True
        self.abort()

    def abort(self) -> None:
        """Let it end badly, unless it is finished."""
        self.begun.set()
        self._send.close()

    def close(self) -> None:
        """Give both ends back; nobody reads any more."""
        self._send.close()
        self._receive.close()


async def upload(
    target: Target, *, download: OutputDownload, verify: Verify, threads: anyio.CapacityLimiter, overwrite: bool
) -> tuple[SavedFile, bool]:
    """Bring an output to its object; also returns whether it had to be fetched.

    Raises:
        CorruptAudio: what the host has is not the FLAC it should be; it was fetched twice.
        DownloadError: it cannot be fetched or written, or another object is there and ``overwrite`` is false.
        SettingsError: ``verify="full"``; or the store lets nothing be saved there.
        SoundpieceError: what renewing the URL raises.
    """
    require_header_check(verify)
    with _failing(target, download):
        found = await _look(target, download=download, verify=verify, threads=threads)
    if found is None or (overwrite and not isinstance(found, SavedFile)):
        body = Body()
        relay = VerifiedRelay(download, emit=body.write, verify=verify, threads=threads)
        try:
            await _send(target, body, relay, overwrite=overwrite)
        except StoreError as error:
            with _failing(target, download):
                if error.kind != "taken":
                    raise
                found = await _look(target, download=download, verify=verify, threads=threads)
            found = found or download.error(
                "an object of its name is there, and cannot be compared with it; choose another name or folder, or "
                "pass overwrite=True"
            )
        else:
            logger.info("%s: saved as %s, %d bytes", download.output.handle, target.url, relay.emitted)
            return _make_saved_object(target, relay), True
    if isinstance(found, SavedFile):
        return found, False
    raise found


def _make_saved_object(target: Target, relay: VerifiedRelay) -> SavedFile:
    return make_saved_file(
        target.path,
        size=relay.emitted,
        sha256=relay.sha256(),
        found=relay.found,
        output=relay.download.output,
        url=target.url,
    )


async def _send(target: Target, body: Body, relay: VerifiedRelay, *, overwrite: bool) -> None:
    """Write while the file arrives; whichever of the two fails ends the other.

    Raises:
        StoreError: it was not written.
    """
    faults: list[Exception] = []
    fetching, writing, written = anyio.CancelScope(), anyio.CancelScope(shield=True), anyio.Event()

    def whole() -> bool:  # known once the host has answered
        return relay.size is not None and relay.size <= MAX_SINGLE_PUT

    def creates() -> bool:
        return whole() and target.creates and not overwrite

    async def write() -> None:
        with writing:
            try:
                await body.begun.wait()
                await target.write(body, whole=whole(), create=creates())
            except UploadAbortedError:
                return
            except Exception as error:  # noqa: BLE001 - raised below: a fault of ours too comes out bare
                faults.append(error)
                fetching.cancel()
            written.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            try:
                with fetching:
                    await relay.run()
                    if not overwrite and not creates():
                        await _require_absent(target)
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


async def _require_absent(target: Target) -> None:
    """Look once more, before an object is finished that the store itself would write over another one (rule 4)."""
    if await target.is_there():
        raise StoreError("it is there meanwhile", kind="taken")


async def _look(
    target: Target, *, download: OutputDownload, verify: Verify, threads: anyio.CapacityLimiter
) -> SavedFile | DownloadError | None:
    """Return the object that is there, or the reason not to take it; None: there is none, or it cannot be known."""
    try:
        size = await target.measure()
    except StoreError as error:
        if error.kind != "refused":
            raise
        return None
    return None if size is None else await _compare(target, size, download=download, verify=verify, threads=threads)


async def _compare(
    target: Target, size: int, *, download: OutputDownload, verify: Verify, threads: anyio.CapacityLimiter
) -> SavedFile | DownloadError:
    """Return the object that is there, or the reason not to take it (rule 3)."""
    head = await target.read(0, min(size, flac.HEADER_BYTES)) if size else b""
    while len(head) < (needed := min(size, flac.measure_head(head))):  # a tag stands before the header
        head += await target.read(len(head), needed)
    difference = await compare_with_existing(FileHead(head, size), download=download)
    if difference is not None:
        return difference
    found = check_header(head, download.output.duration, verify=verify)
    if found.fault is not None:
        return download.error(
            f"the object that is there is damaged: {found.fault}; remove it, or pass overwrite=True",
            kind=CorruptAudio,
        )
    digest = hashlib.sha256()
    for start in range(0, size, READ_SIZE):
        block = await target.read(start, min(size, start + READ_SIZE))
        await anyio.to_thread.run_sync(digest.update, block, limiter=threads)
    return make_saved_file(
        target.path, size=size, sha256=digest.hexdigest(), found=found, output=download.output, url=target.url
    )


@contextmanager
def _failing(target: Target, download: OutputDownload) -> Generator[None]:
    try:
        yield
    except StoreError as error:
        if error.kind in ("refused", "useless"):  # so would it be for the next one
            raise SettingsError(
                f"{target.url}: nothing can be saved there: the object store said: {error}; {download.output.handle} "
                "can be downloaded once that is put right"
            ) from None
        # the cause says that not the file is at fault
        raise download.error(f"the object store said: {error}") from TransportError(str(error))

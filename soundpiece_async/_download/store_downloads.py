"""Saves outputs to objects in a store, without a local copy (extra ``obstore``).

1. An object is published when the file is whole and its header is valid (``stores``, rule 1).
2. An object that exists is compared by size and first bytes, and not fetched again when it is the same.
3. Two sessions that save under one name do not lose one of the two: the store itself refuses the second, where it can,
   which is for objects up to ``MAX_SINGLE_PUT``; otherwise the name is checked right before the upload is completed.
"""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import anyio
import anyio.to_thread

from soundpiece_async._core import flac
from soundpiece_async._core.errors import CorruptAudio, DownloadError, SettingsError, TransportError
from soundpiece_async._core.results import SavedFile
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.fetch import OutputDownload
from soundpiece_async._download.relay import VerifiedRelay
from soundpiece_async._download.stores import Body, StoreError, Target, write_from
from soundpiece_async._download.transfer import FileHead, compare_with_existing
from soundpiece_async._download.verify import check_header, make_saved_file, require_header_check
from soundpiece_async._logs import get_logger

logger = get_logger("downloader")

READ_SIZE = 8 << 20
"""Bytes of an object read by one request."""
MAX_SINGLE_PUT = 32 << 20
"""Bytes up to which an object is sent from memory by one request, because stores take no condition with parts."""


async def save_object(
    target: Target, *, download: OutputDownload, verify: Verify, threads: anyio.CapacityLimiter, overwrite: bool
) -> tuple[SavedFile, bool]:
    """Save an output to its object; also return whether it was fetched.

    Raises:
        CorruptAudio: the host's file is not valid FLAC; it was fetched twice.
        DownloadError: it cannot be fetched or written, or another object exists and ``overwrite`` is false.
        SettingsError: ``verify="full"``; or the store refuses the bucket or the account.
        SoundpieceError: the URL cannot be renewed.
    """
    require_header_check(verify)
    with _to_download_error(target, download):
        found = await _find_existing(target, download=download, verify=verify, threads=threads)
    if found is None or (overwrite and not isinstance(found, SavedFile)):
        body = Body()
        relay = VerifiedRelay(download, emit=body.write, verify=verify, threads=threads)
        try:
            await _transfer(relay, body, target, overwrite=overwrite)
        except StoreError as error:
            with _to_download_error(target, download):
                if error.kind != "exists":
                    raise
                found = await _find_existing(target, download=download, verify=verify, threads=threads)
            found = found or download.error(
                "it already exists, and cannot be compared; choose another name or folder, or pass overwrite=True"
            )
        else:
            logger.info("%s: saved as %s, %d bytes", download.output.handle, target.url, relay.emitted)
            return _make_saved_object(target, relay), True
    if isinstance(found, SavedFile):
        return found, False
    raise found


async def _transfer(relay: VerifiedRelay, body: Body, target: Target, *, overwrite: bool) -> None:
    """Fetch the output and write the object at the same time.

    Raises:
        StoreError: not written.
    """

    def whole() -> bool:  # known once the host has answered
        return relay.size is not None and relay.size <= MAX_SINGLE_PUT

    def create() -> bool:
        return whole() and target.can_create and not overwrite

    async def write() -> None:
        await target.write(body, whole=whole(), create=create())

    async def fetch() -> None:
        await relay.run()
        if not overwrite and not create():
            await _require_absent(target)

    await write_from(fetch, body=body, write=write)


def _make_saved_object(target: Target, relay: VerifiedRelay) -> SavedFile:
    return make_saved_file(
        target.path,
        size=relay.emitted,
        sha256=relay.sha256(),
        found=relay.found,
        output=relay.download.output,
        url=target.url,
    )


async def _require_absent(target: Target) -> None:
    """Check once more, right before completing an upload that could overwrite another object (rule 3)."""
    if await target.exists():
        raise StoreError("another object was written meanwhile", kind="exists")


async def _find_existing(
    target: Target, *, download: OutputDownload, verify: Verify, threads: anyio.CapacityLimiter
) -> SavedFile | DownloadError | None:
    """Return the existing object, or the reason not to use it; None: it does not exist, or cannot be read."""
    try:
        size = await target.read_size()
    except StoreError as error:
        if error.kind != "denied":
            raise
        return None
    return None if size is None else await _compare(target, size, download=download, verify=verify, threads=threads)


async def _compare(
    target: Target, size: int, *, download: OutputDownload, verify: Verify, threads: anyio.CapacityLimiter
) -> SavedFile | DownloadError:
    """Return the existing object, or the reason not to use it (rule 2)."""
    head = await target.read(0, min(size, flac.HEADER_BYTES)) if size else b""
    while len(head) < (needed := min(size, flac.measure_head(head))):  # a tag comes before the header
        head += await target.read(len(head), needed)
    difference = await compare_with_existing(FileHead(head, size), download=download)
    if difference is not None:
        return difference
    found = check_header(head, download.output.duration, verify=verify)
    if found.fault is not None:
        return download.error(
            f"it already exists, and is damaged: {found.fault}; remove it, or pass overwrite=True",
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
def _to_download_error(target: Target, download: OutputDownload) -> Generator[None]:
    try:
        yield
    except StoreError as error:
        if error.kind in ("denied", "unusable"):  # the next object would fail, too
            raise SettingsError(
                f"{target.url}: nothing can be saved there: the object store said: {error}; fix that, then download "
                f"{download.output.handle} again"
            ) from None
        # the cause tells that the store failed, not the file
        raise download.error(f"the object store said: {error}") from TransportError(str(error))

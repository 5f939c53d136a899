"""Local files as objects in a store, with signed URLs; imported when one is uploaded (extra ``obstore``).

1. The name of an object is the SHA-256 of its content and the suffix of the file: equal files are one object, which is
   uploaded once.
2. A temporary object has a random part in its name, so that its deletion affects no other upload.
3. The file is read twice, first for its digest. If it changes in between, nothing is uploaded.
"""

import hashlib
import io
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.to_thread

from soundpiece_async._core.errors import SettingsError, SoundpieceError, TransportError
from soundpiece_async._core.requests import AudioSource
from soundpiece_async._download.stores import PART_SIZE, Body, Folder, StoreError, Target, write_from
from soundpiece_async._lifetime import run_shielded
from soundpiece_async._logs import get_logger
from soundpiece_async._regularfiles import open_regular

logger = get_logger("upload")

BLOCK = 1 << 20
"""Bytes read at a time."""
DELETE_TIMEOUT = 10.0
"""Seconds that the deletion of a temporary object may take."""

_MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
}
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


async def put(
    path: Path, folder: Folder, *, keep: bool, expires: float
) -> tuple[AudioSource, Callable[[], Awaitable[None]]]:
    """Upload a file; return the source, and the function that deletes its object.

    Args:
        path: a regular file.
        folder: where the object goes.
        keep: use the object of equal content, if it exists (rule 1); otherwise make a temporary one (rule 2).
        expires: seconds for which its URL is signed.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        SettingsError: the store refuses access, or cannot sign URLs.
        TransportError: the store failed.
        SoundpieceError: the file changed meanwhile (rule 3).
    """
    await _sign(folder.name("trial"), expires)  # a store that cannot is refused before anything is sent
    with io.FileIO(await anyio.to_thread.run_sync(open_regular, path)) as file:
        size, digest = await _digest(file)
        target = folder.name(_make_name(path, digest, keep=keep))
        delete = partial(_delete, target)
        try:
            with _translating_errors(path, target):
                if not keep or await _read_size(target) != size:
                    await _send(file, target, path=path, size=size, digest=digest)
                    logger.info("%s: uploaded as %s, %d bytes", path, target.url, size)
            return await _make_source(target, digest=digest, expires=expires), delete
        except BaseException:
            if not keep:
                await run_shielded(delete)
            raise


def _make_name(path: Path, digest: str, *, keep: bool) -> str:
    """Return the name of the object (rules 1 and 2)."""
    suffix = path.suffix.lower()
    unique = "" if keep else f"-{uuid4().hex[:8]}"
    return f"{digest}{unique}{suffix if _SUFFIX.fullmatch(suffix) else ''}"


async def _digest(file: io.FileIO) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file, in steps that can be cancelled in between."""
    digest, size = hashlib.sha256(), 0
    while block := await anyio.to_thread.run_sync(_read_block, file, digest):
        size += len(block)
    return size, digest.hexdigest()


def _read_block(file: io.FileIO, digest: "hashlib._Hash") -> bytes:
    block = file.read(BLOCK)
    digest.update(block)
    return block


async def _send(file: io.FileIO, target: Target, *, path: Path, size: int, digest: str) -> None:
    """Write the object, in parts if it is large, so that memory is bounded."""
    body = Body()

    async def read() -> None:
        again = hashlib.sha256()
        file.seek(0)
        while block := await anyio.to_thread.run_sync(_read_block, file, again):
            await body.write([block])
        if again.hexdigest() != digest:
            raise SoundpieceError(f"{path} was not uploaded: it changed meanwhile; upload it again")

    media_type = _MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream")
    write = partial(target.write, body, whole=size <= PART_SIZE, content_type=media_type)
    await write_from(read, body=body, write=write)


async def _read_size(target: Target) -> int | None:
    """Return the size of an object; None, too, if the account may not know."""
    try:
        return await target.read_size()
    except StoreError as error:
        if error.kind != "denied":
            raise
        return None


async def _make_source(target: Target, *, digest: str, expires: float) -> AudioSource:
    """Return the source, with a URL that is signed now."""
    expires_at = datetime.now(UTC) + timedelta(seconds=expires)
    renew = partial(_make_source, target, digest=digest, expires=expires)
    return AudioSource(await _sign(target, expires), expires_at=expires_at, sha256=digest, renew=renew)


async def _sign(target: Target, expires: float) -> str:
    try:
        return await target.sign(expires)
    except StoreError as error:
        folder = target.url.rpartition("/")[0]
        raise SettingsError(f"{folder}/: URLs of its objects cannot be signed: {error}") from None


async def _delete(target: Target) -> None:
    """Delete a temporary object; a failure is logged, because the work that it was for is done."""
    why = f"no response within {DELETE_TIMEOUT:g} s"
    with anyio.move_on_after(DELETE_TIMEOUT):
        try:
            await target.delete()
        except StoreError as error:
            why = str(error)
        else:
            return
    logger.warning("%s: the temporary object was not deleted: %s; delete it yourself", target.url, why)


@contextmanager
def _translating_errors(path: Path, target: Target) -> Generator[None]:
    try:
        yield
    except StoreError as error:
        message = f"{path} was not uploaded to {target.url}: the object store said: {error}"
        if error.kind in ("denied", "unusable"):
            raise SettingsError(f"{message}; check its credentials and rights") from None
        raise TransportError(f"{message}; upload it again") from None

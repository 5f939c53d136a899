"""Uploads of local files as sources of requests, because the API takes URLs only (extra ``obstore``)."""

import hashlib
import io
import os
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio

from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.requests import AudioSource
from soundpiece_async._download.destinations import (
    Destination,
    Destinations,
    check_destination,
    expand_home,
    parse_destination,
)
from soundpiece_async._lifetime import run_shielded
from soundpiece_async._regularfiles import open_regular

MIN_EXPIRES, MAX_EXPIRES = 60, 604_800
"""Seconds for which a URL may be signed: the service fetches it after the submit; S3 and GCS allow 7 days at most."""


def upload_source(path: str | os.PathLike[str], to: Destination, *, expires: float = 3600.0) -> "SourceUpload":
    """Upload a local file to a bucket of yours, for use as ``source`` or ``reference``: the API takes URLs only.

    ``source = await upload_source(...)`` keeps the object; ``async with upload_source(...) as source`` deletes it at
    the exit. The service fetches the URL after the submit, so leave the block when the operation is ready. The name of
    a kept object is the SHA-256 of its content: the same file is uploaded only once.

    Args:
        path: a regular file.
        to: the URL of a folder in a bucket (``s3://bucket/inbox``, ``gs://…``, ``az://…``), or a store of obstore.
        expires: seconds for which the URL is valid, from 60 to 604800 (7 days). A request that waits longer for its
            submission gets a new URL.

    Returns:
        What is awaited or entered, for an ``AudioSource``. It raises:

        - OSError: the file cannot be read, or is not a regular file (``FileExistsError``).
        - SettingsError: the store refuses access, or cannot sign URLs.
        - TransportError: the store failed; upload the file again.
        - SoundpieceError: the file changed while it was uploaded.

    Raises:
        InvalidRequest: ``to`` is not in an object store, or ``path`` is in the home folder of an unknown user.
        SettingsError: the extra ``obstore`` is missing.
        TypeError, ValueError: ``path`` or ``expires`` is invalid.
    """
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise TypeError(f"expires must be a number of seconds, not {type(expires).__name__}")
    if not MIN_EXPIRES <= expires <= MAX_EXPIRES:
        raise ValueError(f"expires must be from {MIN_EXPIRES} to {MAX_EXPIRES} seconds (7 days), not {expires}")
    file = expand_home(path, field="path") if isinstance(path, str) else Path(path)
    if isinstance(parse_destination(to), Path):
        raise InvalidRequest(
            "a local folder cannot be read by the service; name a folder in a bucket, as s3://bucket/inbox", field="to"
        )
    check_destination(to, verify="header")
    return SourceUpload(file, to, expires=float(expires))


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a regular file, as hex: what identifies it as a source, whatever its path. Blocks.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with io.FileIO(open_regular(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SourceUpload:
    """The upload of a file, returned by ``upload_source``: await it or enter it, for an ``AudioSource``."""

    def __init__(self, path: Path, to: Destination, *, expires: float) -> None:
        self._path = path
        self._to = to
        self._expires = expires
        self._entered = False

    def __repr__(self) -> str:
        to = redact_url(self._to) if isinstance(self._to, str) else repr(self._to)
        return f"<SourceUpload {self._path} to={to} expires={self._expires:.0f}>"

    def __await__(self) -> Generator[Any, Any, AudioSource]:
        return self._keep().__await__()

    async def __aenter__(self) -> AudioSource:
        if self._entered:
            raise RuntimeError("an upload can be entered only once: call upload_source again")
        self._entered = True
        source, self._delete = await self._upload(keep=False)
        return source

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_shielded(self._delete)

    async def _keep(self) -> AudioSource:
        source, _ = await self._upload(keep=True)
        return source

    async def _upload(self, *, keep: bool) -> tuple[AudioSource, Callable[[], Awaitable[None]]]:
        folder = await Destinations(anyio.CapacityLimiter(1)).open(self._to)  # imports obstore, in a thread
        from soundpiece_async._download import store_sources  # it needs obstore

        assert not isinstance(folder, Path)  # noqa: S101 - upload_source refuses local folders
        return await store_sources.put(self._path, folder, keep=keep, expires=self._expires)

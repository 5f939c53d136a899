"""Which files an operation has, what they are called, and the way of them to where they are wanted."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from soundpiece_async._core import endings, wire
from soundpiece_async._core.errors import DownloadError, NotReady, SoundpieceError
from soundpiece_async._core.models import Operation, SavedFile
from soundpiece_async._core.names import file_names
from soundpiece_async._core.outputs import Handle, Output
from soundpiece_async._core.validation import demand_output
from soundpiece_async._download.disk import is_full
from soundpiece_async._download.downloader import Downloader
from soundpiece_async._download.places import Destination
from soundpiece_async._reader import Reader


async def deliver(
    what: Operation[Any] | Handle | Output,
    to: Destination,
    *,
    name: str | None,
    overwrite: bool,
    reader: Reader,
    downloader: Downloader,
) -> list[SavedFile] | SavedFile:
    """Save the files of a ready operation, or one of them; as ``Session.download``, which says the rest.

    Raises:
        NotReady: the operation has no outputs yet.
        InvalidRequest: there is no such place.
        TypeError: ``name`` is not text.
        OperationFailed: it never will be ready.
        SoundpieceError: as ``Downloader.save``.
    """
    if not isinstance(name, str | None):
        raise TypeError(f"name must be text, not {type(name).__name__}")
    if isinstance(what, Output):
        demand_output(what)
        siblings = reader.recall(what.handle) or (await reader.refresh(what.handle)).outputs
        titles = file_names(name or what.handle.id, siblings)
        files = {sibling.index: title for sibling, title in zip(siblings, titles, strict=True)}
        if what.index not in files:
            raise DownloadError(
                f"operation {what.handle} lists no output {what.index}", url=what.url, path=str(to)
            ).about(what.handle)
        return await downloader.save_in(what, to, files[what.index], overwrite=overwrite)
    operation = what if isinstance(what, Operation) and endings.is_over(what) else await reader.refresh(what)
    if not operation.status.final:
        raise NotReady(f"operation {operation.handle} is {operation.status}: wait for it before downloading").about(
            operation=operation
        )
    outputs = wire.demand_ready(operation).outputs
    try:
        return await downloader.save_all(outputs, to, name or operation.id, overwrite=overwrite)
    except SoundpieceError as error:
        error.about(operation=operation)
        raise


class UntilFull:
    """The downloads of one run: once the disk is full, those under way and all that would follow end with that error.

    Else each of ten thousand would begin a file, and leave its beginning on a disk without room.

    Args:
        download: as ``Session.download``.
    """

    def __init__(self, download: Callable[..., Awaitable[list[SavedFile]]]) -> None:
        self._download = download
        self._running: set[anyio.CancelScope] = set()
        self._full: DownloadError | None = None

    def __repr__(self) -> str:
        return f"<UntilFull running={len(self._running)} full={self._full is not None}>"

    async def __call__(
        self, operation: Operation[Any], to: Destination, *, name: str, overwrite: bool
    ) -> list[SavedFile]:
        """Download the files of one operation.

        Raises:
            SoundpieceError: as ``Session.download``, or because the disk is full.
        """
        if self._full is None:
            with anyio.CancelScope() as scope:
                self._running.add(scope)
                try:
                    return await self._download(operation, to, name=name, overwrite=overwrite)
                except DownloadError as error:
                    if is_full(error):
                        self._full = error
                        for other in self._running:
                            other.cancel()
                    raise
                finally:
                    self._running.discard(scope)
        raise DownloadError(
            f"{operation.handle}: its files were not saved: another piece of this run found the disk full; free some "
            "space, then download it again",
            url="",
            path=str(to),
        ) from (self._full and self._full.__cause__)

"""The work on a part file, in threads; its errors are those of the download.

A ``PartFile`` blocks. Whatever calls it from the event loop does so through a ``FileWorker``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

import aiofiles.os
import anyio
import anyio.to_thread

from soundpiece_async._core import flac, os_errors
from soundpiece_async._core.flac import FlacHeader, HeaderError
from soundpiece_async._core.ranges import RemoteFile
from soundpiece_async._descriptors import Shortage
from soundpiece_async._download.fetch import OutputDownload
from soundpiece_async._download.partfile import PartFile
from soundpiece_async._lifetime import run_shielded

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class FileWorker:
    """Runs the blocking file work of one download in threads; errors there become a DownloadError."""

    def __init__(self, download: OutputDownload, *, threads: anyio.CapacityLimiter) -> None:
        self._download = download
        self._threads = threads

    async def run(self, call: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Call a function in a thread, and wait for its end."""
        with self._translating_errors():
            return await self._attempt(partial(call, *args))

    async def run_in(self, folder: Path, call: Callable[[], T]) -> T:
        """Call a function in a thread; if its folder is missing, make that with its parents, and call again."""
        with self._translating_errors():
            try:
                return await self._attempt(call)
            except FileNotFoundError:
                await aiofiles.os.makedirs(folder, exist_ok=True)
                return await self._attempt(call)

    async def _attempt(self, call: Callable[[], T]) -> T:
        """Call a repeatable function in a thread, again while the system lacks descriptors or memory."""
        shortage = Shortage(str(self._download.output.handle))
        while True:
            try:
                return await anyio.to_thread.run_sync(call, limiter=self._threads)
            except OSError as error:
                if not os_errors.is_transient(error.errno):
                    raise
                await self._download.wait_for_resources(shortage, error)

    async def finish(self, call: Callable[[], None]) -> None:
        """Call a function in a thread, and wait for its end even when cancelled."""
        await run_shielded(partial(self.run, call))

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if os_errors.is_out_of_space(error.errno):
                why = f"the disk is full ({error.strerror}); free some space, then download it again"
            else:
                why = f"the file system said: {error}"
            raise self._download.error(why) from error
        except UnicodeError as error:
            why = f"the file system's encoding lacks some of its characters: {error}"
            raise self._download.error(why) from error
        except RecursionError as error:  # making a folder calls itself for each one above it
            raise self._download.error("its folder is nested too deeply; choose another one") from error


class FileSink:
    """The ``Sink`` of a part file: its blocking calls run in threads.

    The last blocks are kept in memory until ``flush``: they are written in the thread that publishes the file, and a
    file that comes in one piece never has a sidecar.

    Args:
        part: an acquired one.
        worker: runs its calls.
    """

    def __init__(self, part: PartFile, *, worker: FileWorker) -> None:
        self._part = part
        self._worker = worker
        self._last: list[bytes] = []

    def __repr__(self) -> str:
        return f"<FileSink {self._part!r}>"

    @property
    def length(self) -> int:
        """Bytes received."""
        return self._part.length + sum(map(len, self._last))

    @property
    def known(self) -> RemoteFile:
        """What the host said about the file."""
        return self._part.known

    @known.setter
    def known(self, known: RemoteFile) -> None:
        self._part.known = known

    async def restart(self, known: RemoteFile) -> None:
        """Discard the bytes; the next ones belong to the version ``known``."""
        self._last = []
        if self._part.empty:
            self._part.restart(known)
        else:
            await self._worker.run(self._part.restart, known)

    async def read_header(self) -> FlacHeader | None:
        """Read the header; None if it is incomplete or invalid."""
        return await self._worker.run(self._read_header)

    async def ends_whole(self, duration: float | None) -> bool | None:
        """Return whether the file ends with its last frame; None if that cannot be determined."""

        def check() -> bool | None:
            header = self._read_header()
            if header is None:
                return None
            return flac.is_whole(header, self._part.tail(flac.longest_tail(header)), duration=duration)

        return await self._worker.run(check)

    def _read_header(self) -> FlacHeader | None:
        try:
            return flac.read_header(self._part.head())
        except HeaderError:
            return None

    async def append(self, blocks: Sequence[bytes]) -> None:
        """Append blocks; the last ones later, in ``flush``. Without any, no thread is used."""
        blocks, self._last = [*self._last, *blocks], []
        if self._part.length + sum(map(len, blocks)) == self.known.size:
            self._last = blocks
        elif blocks:
            await self._worker.run(self._part.append, blocks)

    def flush(self) -> None:
        """Write the last blocks. Blocks; may be called again when it failed."""
        if self._last:
            self._part.append(self._last, last=True)
            self._last = []

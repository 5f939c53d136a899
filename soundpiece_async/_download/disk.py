"""The blocking work of one save, done in worker threads: file work, and the hashing of what passes by."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

import aiofiles.os
import anyio
import anyio.to_thread

from soundpiece_async._core import errnos, flac, frames
from soundpiece_async._core.errnos import Kind
from soundpiece_async._core.errors import DownloadError, SoundpieceError
from soundpiece_async._core.flac import FlacHeader, HeaderError
from soundpiece_async._core.resuming import Known
from soundpiece_async._descriptors import Shortage
from soundpiece_async._download.fetching import Source
from soundpiece_async._download.partfile import PartFile
from soundpiece_async._shielding import see_through

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def is_full(error: SoundpieceError) -> bool:
    """Tell whether a download failed for what the next file would meet as well: no room, as a rule."""
    cause = error.__cause__
    return isinstance(error, DownloadError) and isinstance(cause, OSError) and errnos.sort(cause.errno) is Kind.FULL


def refuses_name(error: DownloadError) -> bool:
    """Tell whether a download failed because the file system, or its encoding, may not have the name of the file."""
    cause = error.__cause__
    return isinstance(cause, UnicodeError) or (isinstance(cause, OSError) and errnos.refuses_name(cause.errno))


class Disk:
    """Runs the blocking file work of one save in worker threads; what goes wrong there is a DownloadError, at once."""

    def __init__(self, source: Source, *, threads: anyio.CapacityLimiter) -> None:
        self._source = source
        self._threads = threads

    async def run(self, call: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Call in a thread, and wait for its end."""
        with self._explained():
            return await self._attempt(partial(call, *args))

    async def run_in(self, folder: Path, call: Callable[[], T]) -> T:
        """Call in a thread something that needs a folder; it is made, with those above it, only if it is missing."""
        with self._explained():
            try:
                return await self._attempt(call)
            except FileNotFoundError:
                await aiofiles.os.makedirs(folder, exist_ok=True)
                return await self._attempt(call)

    async def _attempt(self, call: Callable[[], T]) -> T:
        """Call in a thread until the system is no longer short of what it takes; what is called may be called again."""
        shortage = Shortage(str(self._source.output.handle))
        while True:
            try:
                return await anyio.to_thread.run_sync(call, limiter=self._threads)
            except OSError as error:
                if not errnos.is_passing(error.errno):
                    raise
                await self._source.relieve(shortage, error)

    async def finish(self, call: Callable[[], None]) -> None:
        """Call in a thread and see it through, whoever cancels."""
        await see_through(partial(self.run, call))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if errnos.is_out_of_space(error.errno):
                why = f"the disk is full ({error.strerror}); free some space, then download it again"
            else:
                why = f"the file system said: {error}"
            raise self._source.fail(why) from error
        except UnicodeError as error:
            why = f"the file system's encoding has not all of its characters: {error}"
            raise self._source.fail(why) from error
        except RecursionError as error:  # making a folder calls itself for each one above it
            raise self._source.fail("its folder lies too deep, below too many others; choose another one") from error


class OnDisk:
    """A part file as ``fill`` fills it: what blocks goes to a thread.

    Args:
        part: claimed, and open.
        disk: runs its work.
    """

    def __init__(self, part: PartFile, *, disk: Disk) -> None:
        self._part = part
        self._disk = disk

    def __repr__(self) -> str:
        return f"<OnDisk {self._part!r}>"

    @property
    def length(self) -> int:
        """Bytes written."""
        return self._part.length

    @property
    def known(self) -> Known:
        """What the host has said of the file."""
        return self._part.known

    @known.setter
    def known(self, known: Known) -> None:
        self._part.known = known

    async def restart(self, known: Known) -> None:
        """Throw the bytes away; the next ones belong to ``known``."""
        await self._disk.run(self._part.restart, known)

    async def read_header(self) -> FlacHeader | None:
        """Read the header of what is there, if it is one."""
        return await self._disk.run(self._read_header)

    async def ends_whole(self, duration: float | None) -> bool | None:
        """Return whether the file ends with its last frame; None if that cannot be told."""

        def check() -> bool | None:
            header = self._read_header()
            if header is None:
                return None
            return frames.is_whole(header, self._part.tail(frames.longest_tail(header)), duration=duration)

        return await self._disk.run(check)

    def _read_header(self) -> FlacHeader | None:
        try:
            return flac.read_header(self._part.head())
        except HeaderError:
            return None

    async def append(self, blocks: Sequence[bytes]) -> None:
        """Write blocks behind what is there; for none of them no thread is woken."""
        if blocks:
            await self._disk.run(self._part.append, blocks)

"""The file a download grows in, ``<name>.part``, with its sidecar ``<name>.part.json``; and its work in threads.

1. The process that holds the lock on the ``.part`` may touch it, its sidecar and the target. The lock ends with its
   process (`_filelocks`). It is held until the file has its final name.
2. The sidecar never describes other bytes than those in the ``.part``: that is emptied before a new sidecar is written.
3. A ``PartFile`` blocks and runs in worker threads, one call at a time: a task that is cancelled leaves its thread
   working, and nothing may close the file under it. Once closed, a ``PartFile`` stays closed.
"""

import hashlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

import aiofiles.os
import anyio
import anyio.to_thread
import attrs

from soundpiece_async import _filelocks
from soundpiece_async._core import flac, os_errors
from soundpiece_async._core.errors import DownloadError, SoundpieceError
from soundpiece_async._core.flac import FlacHeader, HeaderError, read_head
from soundpiece_async._core.os_errors import Kind
from soundpiece_async._core.ranges import RemoteFile, is_strong
from soundpiece_async._descriptors import Shortage
from soundpiece_async._download.fetch import OutputDownload
from soundpiece_async._lifetime import run_shielded
from soundpiece_async._regularfiles import NO_LINK, open_regular

RENAMES_OPEN_FILES = sys.platform != "win32"
"""Whether this system renames a file that is open."""
_MAX_BLOCKS = 1024
"""What ``writev`` takes on Linux and macOS (IOV_MAX)."""


class Claim(Enum):
    """What became of the wish to write a target."""

    ACQUIRED = auto()
    LOCKED = auto()
    """Another process, or another spelling of the same path, is writing it."""
    EXISTS = auto()
    """The target is there, and may not be overwritten."""


class PartFile:
    """The only writer of one target. Every method but ``repr`` blocks, and may raise OSError.

    Args:
        target: the final path.
        source: names what is downloaded; bytes of another source are not gone on with.

    Attributes:
        length: bytes written and, in ``digest``, counted.
        known: what the host has said of the file.
        closed: there is nothing left to do.
    """

    def __init__(self, target: Path, *, source: str) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.length = 0
        self.known = RemoteFile()
        self._sidecar = target.with_name(f"{target.name}.part.json")
        self._source = source
        self._digest = hashlib.sha256()
        self._file: io.FileIO | None = None
        self._unlock: Callable[[], None] = _do_nothing
        self.closed = False
        self._one_at_a_time = threading.Lock()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "new" if self._file is None else "open"
        return f"<PartFile {self.path} {state} length={self.length} {self.known}>"

    def claim(self, *, overwrite: bool) -> Claim:
        """Try to become the only writer, and take over what may be gone on with; never waits. The folder must exist."""
        with self._one_at_a_time:
            if self.target.exists() and not overwrite and not self._sidecar.exists():
                return Claim.EXISTS
            locked = None if self.closed else _open_locked(self.path)
            if locked is None:
                return Claim.LOCKED
            self._file, self._unlock = file, _ = locked
            try:
                if self.target.exists() and not overwrite:  # published meanwhile, or by one killed before its note went
                    self._release()
                    return Claim.EXISTS
                self._resume(file)
            except OSError:  # nothing is known of the bytes that are there: they stay
                self._drop(file)
                raise
            return Claim.ACQUIRED

    def restart(self, known: RemoteFile) -> None:
        """Throw the bytes away, and note what the next ones belong to (rule 2)."""
        with self._one_at_a_time:
            self._restart(self._open_file(), known)

    def append(self, blocks: Sequence[bytes]) -> None:
        """Write blocks behind what is there, and hash them."""
        with self._one_at_a_time:
            file = self._open_file()
            file.seek(self.length)  # behind what counts: an attempt that failed may have written some of it
            _write_all(file, blocks)
            for block in blocks:
                self._digest.update(block)
                self.length += len(block)

    def head(self) -> bytes:
        """Read the bytes a FLAC header takes, with the tag before it."""
        with self._one_at_a_time:
            file = self._open_file()
            file.seek(0)
            data = read_head(file.read)
            file.seek(self.length)
            return data

    def tail(self, size: int) -> bytes:
        """Read so many of the last bytes, or all."""
        with self._one_at_a_time:
            file = self._open_file()
            file.seek(max(0, self.length - size))
            return file.read(size)

    def sha256(self) -> str:
        """Give the hash of all bytes, as hex, without reading them again."""
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Give the file its final name, so that it survives a power cut right after, and close it."""
        with self._one_at_a_time:
            file = self._open_file()
            os.fsync(file.fileno())
            if not RENAMES_OPEN_FILES:
                file.close()
            self.path.replace(self.target)
            self._sidecar.unlink(missing_ok=True)
            _sync_folder(self.target.parent)
            self.closed = True
            self._drop(file)

    def keep_corrupt(self) -> Path:
        """Rename the file to ``<name>.corrupt``, in place of an earlier one, for whoever asks what it was."""
        with self._one_at_a_time:
            file = self._open_file()
            if not RENAMES_OPEN_FILES:
                file.close()
            self._sidecar.unlink(missing_ok=True)
            return self.path.replace(self.target.with_name(f"{self.target.name}.corrupt"))

    def close(self) -> None:
        """Give the lock back, and remove what nobody could go on with. Closing twice is no error."""
        with self._one_at_a_time:
            self._close()

    def _close(self) -> None:
        self.closed = True
        self._release()

    def _release(self) -> None:
        if self._file is None:
            return
        file = self._file
        try:
            resumable = self.length and self.known.etag is not None
            if not resumable and not file.closed and _same_inode(file, self.path):
                self.path.unlink()
                self._sidecar.unlink(missing_ok=True)
        finally:
            self._drop(file)

    def _drop(self, file: io.FileIO) -> None:
        """Close the file, and give its lock back."""
        unlock, self._file, self._unlock = self._unlock, None, _do_nothing
        file.close()
        unlock()

    def _open_file(self) -> io.FileIO:
        if self._file is None:
            raise RuntimeError(f"{self.path} was used before it was claimed, or after it was closed")
        return self._file

    def _resume(self, file: io.FileIO) -> None:
        """Take over the bytes of an earlier process when its note says that they may be gone on with."""
        known = self._read_sidecar()
        held = os.fstat(file.fileno()).st_size
        if known is None or (known.size is not None and held > known.size):
            self._restart(file, RemoteFile())
            return
        # of a whole file the last byte is fetched again: the host's word that it is still this file
        self.length = held - 1 if held and held == known.size else held
        self.known = known
        file.truncate(self.length)
        file.seek(0)
        self._digest = hashlib.file_digest(file, "sha256")  # leaves the position at the end

    def _restart(self, file: io.FileIO, known: RemoteFile) -> None:
        file.seek(0)
        file.truncate()
        self.length, self.known, self._digest = 0, known, hashlib.sha256()
        if known.etag is None:
            self._sidecar.unlink(missing_ok=True)
        else:
            note = json.dumps({"source": self._source, "etag": known.etag, "size": known.size})
            with io.FileIO(
                open_regular(self._sidecar, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK), "w"
            ) as written:
                written.write(note.encode())

    def _read_sidecar(self) -> RemoteFile | None:
        """Read what the note says, or None when it says nothing about these bytes and this source."""
        try:
            with io.FileIO(open_regular(self._sidecar)) as file:
                note = json.loads(file.read().decode())
        except (FileNotFoundError, ValueError):
            return None
        match note:
            case {"source": self._source, "etag": str(etag), "size": int() | None as size} if is_strong(etag):
                return RemoteFile(etag=etag, size=size)
        return None


@attrs.frozen(kw_only=True)
class FileInfo:
    """What is to be known of a whole file on disk."""

    head: bytes
    size: int
    sha256: str


def read_file_info(path: Path) -> FileInfo:
    """Read a file once, from beginning to end. Blocks."""
    with io.FileIO(open_regular(path)) as file:
        head = read_head(file.read)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        return FileInfo(head=head, size=file.tell(), sha256=digest.hexdigest())


def _write_all(file: io.FileIO, blocks: Sequence[bytes]) -> None:
    """Write blocks, as a rule by one call to the system: no copy, and one wait for the interpreter's lock."""
    written = os.writev(file.fileno(), blocks[:_MAX_BLOCKS]) if hasattr(os, "writev") else 0
    if written < sum(map(len, blocks)):
        rest = memoryview(b"".join(blocks))[written:]
        while rest:
            rest = rest[file.write(rest) :]


def _open_locked(path: Path) -> tuple[io.FileIO, Callable[[], None]] | None:
    """Open a file and take its lock, which is returned, too; or leave everything as it was (rule 1)."""
    with ExitStack() as undo:
        file = undo.enter_context(io.FileIO(open_regular(path, os.O_RDWR | os.O_CREAT | NO_LINK), "r+"))
        unlock = _filelocks.take(file, path)
        if unlock is not None:
            undo.callback(unlock)
            if _same_inode(file, path):
                undo.pop_all()
                return file, unlock
    return None


def _do_nothing() -> None:
    """Give no lock back: none was taken."""


def _same_inode(file: io.FileIO, path: Path) -> bool:
    """Tell whether a path still leads to an open file: who held the lock before may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can; elsewhere the file itself is whole and synced all the same."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def is_full(error: SoundpieceError) -> bool:
    """Tell whether a download failed for what the next file would meet as well: no room, as a rule."""
    cause = error.__cause__
    return isinstance(error, DownloadError) and isinstance(cause, OSError) and os_errors.sort(cause.errno) is Kind.FULL


def refuses_name(error: DownloadError) -> bool:
    """Tell whether a download failed because the file system, or its encoding, may not have the name of the file."""
    cause = error.__cause__
    return isinstance(cause, UnicodeError) or (isinstance(cause, OSError) and os_errors.refuses_name(cause.errno))


class FileWorker:
    """Runs the blocking file work of one save in worker threads; what goes wrong there is a DownloadError, at once."""

    def __init__(self, download: OutputDownload, *, threads: anyio.CapacityLimiter) -> None:
        self._download = download
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
        shortage = Shortage(str(self._download.output.handle))
        while True:
            try:
                return await anyio.to_thread.run_sync(call, limiter=self._threads)
            except OSError as error:
                if not os_errors.is_passing(error.errno):
                    raise
                await self._download.wait_for_resources(shortage, error)

    async def finish(self, call: Callable[[], None]) -> None:
        """Call in a thread and see it through, whoever cancels."""
        await run_shielded(partial(self.run, call))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if os_errors.is_out_of_space(error.errno):
                why = f"the disk is full ({error.strerror}); free some space, then download it again"
            else:
                why = f"the file system said: {error}"
            raise self._download.error(why) from error
        except UnicodeError as error:
            why = f"the file system's encoding has not all of its characters: {error}"
            raise self._download.error(why) from error
        except RecursionError as error:  # making a folder calls itself for each one above it
            raise self._download.error("its folder lies too deep, below too many others; choose another one") from error


class FileSink:
    """A part file as ``download_into`` fills it: what blocks goes to a thread.

    Args:
        part: claimed, and open.
        worker: runs its work.
    """

    def __init__(self, part: PartFile, *, worker: FileWorker) -> None:
        self._part = part
        self._worker = worker

    def __repr__(self) -> str:
        return f"<FileSink {self._part!r}>"

    @property
    def length(self) -> int:
        """Bytes written."""
        return self._part.length

    @property
    def known(self) -> RemoteFile:
        """What the host has said of the file."""
        return self._part.known

    @known.setter
    def known(self, known: RemoteFile) -> None:
        self._part.known = known

    async def restart(self, known: RemoteFile) -> None:
        """Throw the bytes away; the next ones belong to ``known``."""
        await self._worker.run(self._part.restart, known)

    async def read_header(self) -> FlacHeader | None:
        """Read the header of what is there, if it is one."""
        return await self._worker.run(self._read_header)

    async def ends_whole(self, duration: float | None) -> bool | None:
        """Return whether the file ends with its last frame; None if that cannot be told."""

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
        """Write blocks behind what is there; for none of them no thread is woken."""
        if blocks:
            await self._worker.run(self._part.append, blocks)

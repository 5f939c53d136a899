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
from soundpiece_async._core.os_errors import OsErrorKind
from soundpiece_async._core.ranges import RemoteFile, is_strong
from soundpiece_async._descriptors import Shortage
from soundpiece_async._download.fetch import OutputDownload
from soundpiece_async._lifetime import run_shielded
from soundpiece_async._regularfiles import NO_LINK, open_regular

RENAMES_OPEN_FILES = sys.platform != "win32"
"""Whether this system renames a file that is open."""
_MAX_BLOCKS = 1024
"""Blocks that ``writev`` takes on Linux and macOS (IOV_MAX)."""


class Claim(Enum):
    """Result of an attempt to become the writer of a target."""

    ACQUIRED = auto()
    LOCKED = auto()
    """Another process is writing it, or this one under another spelling of its path."""
    EXISTS = auto()
    """The target exists, and may not be overwritten."""


class PartFile:
    """The only writer of one target. Every method but ``repr`` blocks, and may raise OSError.

    Args:
        target: the final path.
        source: identifies the output; a ``.part`` of another one is not resumed.

    Attributes:
        length: bytes written and hashed.
        known: what the host said about the file.
        closed: published, or given up.
    """

    def __init__(self, target: Path, *, source: str) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.length = 0
        self.known = RemoteFile()
        self._sidecar = target.with_name(f"{target.name}.part.json")
        self._source = source
        self._digest = hashlib.sha256()
        self._extent = 0  # of the file: bytes of a failed write do not count in ``length``
        self._noted = True  # a sidecar exists, or may exist
        self._file: io.FileIO | None = None
        self._unlock: Callable[[], None] = _do_nothing
        self.closed = False
        self._call_lock = threading.Lock()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "new" if self._file is None else "open"
        return f"<PartFile {self.path} {state} length={self.length} {self.known}>"

    def claim(self, *, overwrite: bool) -> Claim:
        """Try to become the only writer, and load bytes that can be resumed. Does not wait. The folder must exist."""
        with self._call_lock:
            if self.target.exists() and not overwrite and not self._sidecar.exists():
                return Claim.EXISTS
            locked = None if self.closed else _open_locked(self.path)
            if locked is None:
                return Claim.LOCKED
            self._file, self._unlock = file, _ = locked
            try:
                # published meanwhile, or by a process that was killed before it removed the sidecar
                if self.target.exists() and not overwrite:
                    self._release()
                    return Claim.EXISTS
                self._resume(file)
            except OSError:  # the bytes in the file are of unknown value: keep them
                self._drop(file)
                raise
            return Claim.ACQUIRED

    @property
    def empty(self) -> bool:
        """Whether there are neither bytes nor a sidecar: then ``restart`` does not touch the disk."""
        return not self._extent and not self._noted

    def restart(self, known: RemoteFile) -> None:
        """Discard the bytes; the next ones belong to the version ``known``."""
        with self._call_lock:
            self._restart(self._open_file(), known)

    def append(self, blocks: Sequence[bytes], *, last: bool = False) -> None:
        """Append blocks, and hash them.

        Args:
            blocks: the next bytes.
            last: the file is complete with them, and is published next: a sidecar is not worth writing any more.
        """
        with self._call_lock:
            file = self._open_file()
            if not last and not self._noted and self.known.etag is not None:
                self._write_sidecar(self.known.etag)
            file.seek(self.length)
            self._extent = max(self._extent, self.length + sum(map(len, blocks)))
            _write_all(file, blocks)
            for block in blocks:
                self._digest.update(block)
                self.length += len(block)

    def head(self) -> bytes:
        """Read the FLAC header, and the tag before it."""
        with self._call_lock:
            file = self._open_file()
            file.seek(0)
            data = read_head(file.read)
            file.seek(self.length)
            return data

    def tail(self, size: int) -> bytes:
        """Read the last ``size`` bytes, or all."""
        with self._call_lock:
            file = self._open_file()
            file.seek(max(0, self.length - size))
            return file.read(size)

    def sha256(self) -> str:
        """Return the SHA-256 of all bytes, as hex, without reading them again."""
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Sync the file, rename it to its final name, and close it; it survives a power cut right after."""
        with self._call_lock:
            file = self._open_file()
            os.fsync(file.fileno())
            if not RENAMES_OPEN_FILES:
                file.close()
            self.path.replace(self.target)
            self._remove_sidecar()
            _sync_folder(self.target.parent)
            self.closed = True
            self._drop(file)

    def keep_corrupt(self) -> Path:
        """Rename the file to ``<name>.corrupt``, replacing an earlier one, for inspection."""
        with self._call_lock:
            file = self._open_file()
            if not RENAMES_OPEN_FILES:
                file.close()
            self._remove_sidecar()
            return self.path.replace(self.target.with_name(f"{self.target.name}.corrupt"))

    def close(self) -> None:
        """Release the lock, and remove the file if it cannot be resumed. May be called twice."""
        with self._call_lock:
            self._close()

    def _close(self) -> None:
        self.closed = True
        self._release()

    def _release(self) -> None:
        if self._file is None:
            return
        file = self._file
        try:
            resumable = self.length and self._noted and self.known.etag is not None
            if not resumable and not file.closed and _same_inode(file, self.path):
                self.path.unlink()
                self._remove_sidecar()
        finally:
            self._drop(file)

    def _drop(self, file: io.FileIO) -> None:
        """Close the file, and release its lock."""
        unlock, self._file, self._unlock = self._unlock, None, _do_nothing
        file.close()
        unlock()

    def _open_file(self) -> io.FileIO:
        if self._file is None:
            raise RuntimeError(f"{self.path} was used before it was claimed, or after it was closed")
        return self._file

    def _resume(self, file: io.FileIO) -> None:
        """Load the bytes of an earlier process if the sidecar allows to resume them."""
        self._noted = self._sidecar.exists()
        known = self._read_sidecar() if self._noted else None
        self._extent = held = os.fstat(file.fileno()).st_size
        if known is None or (known.size is not None and held > known.size):
            self._restart(file, RemoteFile())
            return
        # of a complete file the last byte is fetched again, so that the host confirms its version
        self.length = held - 1 if held and held == known.size else held
        self.known = known
        file.truncate(self.length)
        file.seek(0)
        self._digest = hashlib.file_digest(file, "sha256")  # leaves the position at the end

    def _restart(self, file: io.FileIO, known: RemoteFile) -> None:
        if self._extent:
            file.truncate(0)
        self._remove_sidecar()
        self.length, self.known, self._digest, self._extent = 0, known, hashlib.sha256(), 0

    def _write_sidecar(self, etag: str) -> None:
        """Record the version of the bytes that follow (rule 2)."""
        text = json.dumps({"source": self._source, "etag": etag, "size": self.known.size})
        descriptor = open_regular(self._sidecar, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK)
        try:
            with io.FileIO(descriptor, "w") as written:
                written.write(text.encode())
        except OSError:
            self._sidecar.unlink()
            raise
        self._noted = True

    def _remove_sidecar(self) -> None:
        if self._noted:
            self._sidecar.unlink(missing_ok=True)
            self._noted = False

    def _read_sidecar(self) -> RemoteFile | None:
        """Return the version recorded in the sidecar for this source, or None."""
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
    """Header bytes, size and SHA-256 of a complete file."""

    head: bytes
    size: int
    sha256: str


def read_file_info(path: Path) -> FileInfo:
    """Read a whole file once. Blocks."""
    with io.FileIO(open_regular(path)) as file:
        head = read_head(file.read)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        return FileInfo(head=head, size=file.tell(), sha256=digest.hexdigest())


def _write_all(file: io.FileIO, blocks: Sequence[bytes]) -> None:
    """Write blocks, usually by one system call: no copy, and the interpreter's lock is taken once."""
    written = os.writev(file.fileno(), blocks[:_MAX_BLOCKS]) if hasattr(os, "writev") else 0
    if written < sum(map(len, blocks)):
        rest = memoryview(b"".join(blocks))[written:]
        while rest:
            rest = rest[file.write(rest) :]


def _open_locked(path: Path) -> tuple[io.FileIO, Callable[[], None]] | None:
    """Open and lock a file; return it and its unlock function, or None if another process has the lock (rule 1)."""
    with ExitStack() as undo:
        file = undo.enter_context(io.FileIO(open_regular(path, os.O_RDWR | os.O_CREAT | NO_LINK), "r+"))
        unlock = _filelocks.acquire(file, path)
        if unlock is not None:
            undo.callback(unlock)
            if _same_inode(file, path):
                undo.pop_all()
                return file, unlock
    return None


def _do_nothing() -> None:
    """Do nothing: no lock was taken."""


def _same_inode(file: io.FileIO, path: Path) -> bool:
    """Return whether a path still leads to an open file: the previous lock holder may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can; elsewhere the file itself is synced all the same."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def is_full(error: SoundpieceError) -> bool:
    """Return whether a download failed because the disk or a quota is full, so that the next one would fail, too."""
    cause = error.__cause__
    return (
        isinstance(error, DownloadError)
        and isinstance(cause, OSError)
        and os_errors.classify(cause.errno) is OsErrorKind.FULL
    )


def refuses_name(error: DownloadError) -> bool:
    """Return whether a download failed because the file system, or its encoding, rejects the file's name."""
    cause = error.__cause__
    return isinstance(cause, UnicodeError) or (isinstance(cause, OSError) and os_errors.refuses_name(cause.errno))


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

"""The file a download grows in, ``<name>.part``, with its sidecar ``<name>.part.json``.

1. The process that holds the lock on the ``.part`` may touch it, its sidecar and the target. The lock ends with its
   process (`_filelocks`). It is held until the file has its final name.
2. The sidecar never describes other bytes than those in the ``.part``: that is emptied before a new sidecar is written.
3. A ``PartFile`` blocks and runs in worker threads, one call at a time: a task that is cancelled leaves its thread
   working, and nothing may close the file under it. Once closed, a ``PartFile`` stays closed.
4. A process that is paused keeps its lock. When a locked file has stopped growing, another process downloads into the
   next one, ``<name>.2.part``, and so on. Who publishes first removes those of the others; they notice when they are
   about to publish, because the path does not lead to their file any more.
"""

import hashlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from enum import Enum, auto
from pathlib import Path

import attrs

from soundpiece_async import _filelocks
from soundpiece_async._core import os_errors
from soundpiece_async._core.errors import DownloadError, SoundpieceError
from soundpiece_async._core.flac import read_head
from soundpiece_async._core.os_errors import OsErrorKind
from soundpiece_async._core.ranges import RemoteFile, is_strong
from soundpiece_async._regularfiles import NO_LINK, open_regular

RENAMES_OPEN_FILES = sys.platform != "win32"
"""Whether this system renames a file that is open."""
_MAX_BLOCKS = 1024
"""Blocks that ``writev`` takes on Linux and macOS (IOV_MAX)."""
STALLED_SECONDS = 3.0
"""Seconds after which the process that has locked a file counts as paused if the file has not grown (rule 4)."""


class Claim(Enum):
    """Result of an attempt to become the writer of a target."""

    ACQUIRED = auto()
    LOCKED = auto()
    """Another process is writing it, or this one under another spelling of its path."""
    EXISTS = auto()
    """The target exists, and may not be overwritten."""


class Superseded(Exception):
    """Another process has published the target, and removed this file (rule 4)."""


class PartFile:
    """The only writer of one target. Every method but ``repr`` blocks, and may raise OSError.

    Args:
        target: the final path.
        source: identifies the output; a ``.part`` of another one is not resumed.
        number: of the file: from 2 where paused processes have locked the others (rule 4).

    Attributes:
        length: bytes written and hashed.
        known: what the host said about the file.
        closed: published, or given up.
    """

    def __init__(self, target: Path, *, source: str, number: int = 1) -> None:
        self.target = target
        self.path, self._sidecar = _paths(target, number)
        self.length = 0
        self.known = RemoteFile()
        self._source = source
        self._number = number
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

    def find_size(self) -> int:
        """Return the size of the file, which another process may have locked; 0 without a file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

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
        """Sync the file, rename it to its final name, and close it; it survives a power cut right after.

        Raises:
            Superseded: another process has published the target.
        """
        with self._call_lock:
            file = self._open_file()
            os.fsync(file.fileno())
            self._require_path(file)
            if not RENAMES_OPEN_FILES:
                file.close()
            self.path.replace(self.target)
            if RENAMES_OPEN_FILES and not _same_inode(file, self.target):
                self.target.replace(self.path)  # paused since the check, it renamed what a third process writes there
                raise Superseded(self.path)
            self._remove_sidecar()
            self._remove_others()
            _sync_folder(self.target.parent)
            self.closed = True
            self._drop(file)

    def keep_corrupt(self) -> Path:
        """Rename the file to ``<name>.corrupt``, replacing an earlier one, for inspection; raises as ``publish``."""
        with self._call_lock:
            file = self._open_file()
            self._require_path(file)
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

    def _require_path(self, file: io.FileIO) -> None:
        if not _same_inode(file, self.path):
            self._remove_sidecar()
            raise Superseded(self.path)

    def _remove_others(self) -> None:
        """Remove what paused processes have locked, and what those left that ended while they were (rule 4)."""
        number = 1
        while number <= self._number or _paths(self.target, number)[0].exists():
            path, sidecar = _paths(self.target, number)
            for left in (path, sidecar, _filelocks.held_path(path)) if number != self._number else ():
                with suppress(OSError):  # it is in nobody's way; some systems remove no open file
                    left.unlink()
            number += 1

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


def _paths(target: Path, number: int) -> tuple[Path, Path]:
    """Return the paths of a part file and of its sidecar."""
    path = target.with_name(f"{target.name}{f'.{number}' if number > 1 else ''}.part")
    return path, path.with_name(f"{path.name}.json")


@attrs.define
class LockWatch:
    """Watches a part file that another process has locked (rule 4).

    Attributes:
        number: of the part file to claim.
    """

    number: int = 1
    _size: int = -1
    _since: float = 0.0

    def note(self, size: int, *, now: float) -> None:
        """Go on to the next file if this one has had that size for long; ``now`` in seconds."""
        if size != self._size:
            self._size, self._since = size, now
        elif now - self._since >= STALLED_SECONDS:
            self.number, self._size = self.number + 1, -1


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

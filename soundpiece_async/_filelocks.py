"""Locks a file for one process: with a lock of the operating system or, where a file system has none, a lock file.

1. The system's lock (flock) ends with its process, so it is never stale. It is used wherever it works.
2. Elsewhere (some network and FUSE file systems, and systems without flock) the lock is a file beside the other,
   ``<name>.held``, which only one process can create (O_EXCL). It names that process.
3. A lock file is stale when its process has ended: no process of this machine has that number and start time. The lock
   file of another machine cannot be checked from here: it is valid until a person removes it.
4. A stale lock file is renamed before it is removed, and read again under its new name: so no process removes a lock
   file that another one created meanwhile.

Everything here blocks.
"""

import io
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import attrs

from soundpiece_async._core import os_errors
from soundpiece_async._regularfiles import open_regular

PROC = Path("/proc")
UNWRITTEN = 10.0
"""Seconds after which an empty lock file is stale: its process ended before writing it."""


@attrs.frozen
class Holder:
    """The process that holds a lock file.

    Attributes:
        host, process: the machine's name, and the process id there.
        born: start time of the process, as the system reports it; empty where it does not.
        since: when the lock was acquired.
    """

    host: str
    process: int
    born: str
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"

    @property
    def is_gone(self) -> bool:
        """True when it is certain that the process has ended (rule 3)."""
        if self.host != socket.gethostname():
            return False
        birth = _find_birth(self.process)
        return birth is None or bool(birth and self.born and birth != self.born)


def acquire(file: io.FileIO, path: Path) -> Callable[[], None] | None:
    """Lock an open file; return the function that unlocks it, or None if another process has the lock.

    Raises:
        OSError: neither kind of lock works here.
    """
    locked = _flock(file)
    if locked is None:
        return _acquire_by_file(held_path(path))
    return file.close if locked else None


def held_path(path: Path) -> Path:
    """Return the path of the lock file of a file (rule 2)."""
    return path.with_name(f"{path.name}.held")


def read_holder(path: Path) -> Holder | None:
    """Return the holder of a lock file; None if it does not exist or cannot be read."""
    try:
        return Holder(**json.loads(_read(path)))
    except (OSError, ValueError, TypeError):
        return None


def has_record_locks(file: io.FileIO) -> bool:
    """Return whether record locks (fcntl), which SQLite uses, work for a file."""
    try:
        import fcntl  # only POSIX systems have it
    except ImportError:
        return True  # SQLite uses other locks there
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not os_errors.lacks_locks(error.errno)
    return True


def _flock(file: io.FileIO) -> bool | None:
    """Lock a file with flock; False: another process has the lock; None: flock does not work here."""
    try:
        import fcntl  # only POSIX systems have it
    except ImportError:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if os_errors.lacks_locks(error.errno):
            return None
        raise
    return True


def _acquire_by_file(held: Path) -> Callable[[], None] | None:
    """Create a lock file, unless a valid one exists."""
    process = os.getpid()
    since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S %z}"
    holder = Holder(host=socket.gethostname(), process=process, born=_find_birth(process) or "", since=since)
    text = json.dumps(attrs.asdict(holder)).encode()
    for _ in range(2):
        try:
            descriptor = os.open(held, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if _remove_stale(held):
                continue
            return None
        try:
            with io.FileIO(descriptor, "w") as file:
                file.write(text)
        except OSError:
            held.unlink()
            raise
        return partial(_release, held, text)
    return None


def _release(held: Path, text: bytes) -> None:
    """Remove a lock file if it is still ours; may be called twice."""
    with suppress(OSError):
        if _read(held) == text:
            held.unlink()


def _remove_stale(held: Path) -> bool:
    """Remove a stale lock file; return whether it is gone (rules 3 and 4)."""
    aside = held.with_name(f"{held.name}.{os.getpid()}")
    try:
        text = _read(held)
        holder = read_holder(held)
        if not (holder.is_gone if holder else time.time() - held.stat().st_mtime > UNWRITTEN):
            return False
        held.replace(aside)
        if _read(aside) != text:  # another process was faster, and this is its lock file
            aside.replace(held)
            return False
        aside.unlink()
    except FileNotFoundError:
        pass
    return True


def _read(path: Path) -> bytes:
    with io.FileIO(open_regular(path)) as file:
        return file.readall()


def _find_birth(process: int) -> str | None:
    """Return the start time of a process, empty where it is unknown; None: no such process."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        line = (PROC / f"{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "" if _may_live(process) else None
    return f"{boot}:{line.rpartition(')')[2].split()[19]}"


def _may_live(process: int) -> bool:
    """Return whether a process may exist; True, too, on systems that cannot be asked safely."""
    if os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # a process of another user
            return True
    return True

"""One process at a time for one file: by a lock of the operating system, or where a file system has none, by a file.

1. The system's lock (flock) dies with its process, so it is never stale. It is the one that is used where it works.
2. Elsewhere (some network and FUSE file systems, and systems without flock) the lock is a file beside the other,
   ``<name>.held``, made by who holds it, and by nobody if it is there (O_EXCL). It says which process that is.
3. Such a file is stale when its process is gone: a process of this machine of that number and that moment of birth is
   not there any more. A file of another machine may not be judged from here: it holds until somebody removes it.
4. A stale file is renamed before it is removed, and read again under its new name: who sees it at the same time finds
   it gone, and nobody removes the lock that the first one made meanwhile.

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
"""Seconds in which a lock file without a text may still get one; after that its maker died in between."""


@attrs.frozen
class Holder:
    """Who made a lock file.

    Attributes:
        host, process: the machine's name, and the number there.
        born: when that process began, as the system tells it; empty where it does not.
        since: when the lock was taken.
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


def take(file: io.FileIO, path: Path) -> Callable[[], None] | None:
    """Take the lock of an open file, or return None: somebody else has it. What is returned gives it back.

    Raises:
        OSError: it cannot be locked, in neither way.
    """
    locked = _flock(file)
    if locked is None:
        return _take_by_file(held_path(path))
    return file.close if locked else None


def held_path(path: Path) -> Path:
    """Return where the lock file of a file is (rule 2)."""
    return path.with_name(f"{path.name}.held")


def read_holder(path: Path) -> Holder | None:
    """Return who made a lock file; None: there is none, or it cannot be read."""
    try:
        return Holder(**json.loads(_read(path)))
    except (OSError, ValueError, TypeError):
        return None


def has_record_locks(file: io.FileIO) -> bool:
    """Return whether files can be locked in the older way, too (fcntl), which is SQLite's."""
    try:
        import fcntl  # noqa: PLC0415 - only POSIX systems have it
    except ImportError:
        return True  # SQLite has other means there
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not os_errors.lacks_locks(error.errno)
    return True


def _flock(file: io.FileIO) -> bool | None:
    """Lock a file by the system; False: somebody else has it; None: there are no such locks here."""
    try:
        import fcntl  # noqa: PLC0415 - only POSIX systems have it
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


def _take_by_file(held: Path) -> Callable[[], None] | None:
    """Make a lock file, unless there is one that may be valid."""
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
        return partial(_give_back, held, text)
    return None


def _give_back(held: Path, text: bytes) -> None:
    """Remove a lock file, if it is still the one that was made; twice is no error."""
    with suppress(OSError):
        if _read(held) == text:
            held.unlink()


def _remove_stale(held: Path) -> bool:
    """Remove a lock file that nobody holds any more; returns whether it is gone (rules 3 and 4)."""
    aside = held.with_name(f"{held.name}.{os.getpid()}")
    try:
        text = _read(held)
        holder = read_holder(held)
        if not (holder.is_gone if holder else time.time() - held.stat().st_mtime > UNWRITTEN):
            return False
        held.replace(aside)
        if _read(aside) != text:  # another process was quicker, and this is its new one
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
    """Return the moment in which a process began, empty where nobody knows it; None: there is no such process."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        line = (PROC / f"{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "" if _may_live(process) else None
    return f"{boot}:{line.rpartition(')')[2].split()[19]}"


def _may_live(process: int) -> bool:
    """Return whether a process may be there; on a system that cannot be asked without harm, it may."""
    if os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is another user's
            return True
    return True

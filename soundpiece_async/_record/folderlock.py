"""One run per folder, at most: a lock of the operating system, which dies with its process.

So no lock is ever stale, however its holder ended. The file itself stays, because removing it would let two processes
lock two files of one name; its text says who holds the lock, and means nothing while nobody does.
"""

import io
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

from soundpiece_async._core.errors import JournalError

if sys.platform == "win32":  # pragma: no cover - no lock between processes there
    _lock: Callable[[int], bool] = bool
else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Take the lock of an open file, or say that somebody else has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


PATIENCE = 3
"""Times to try again."""
INSTANT = 0.02
"""Seconds between them."""


class FolderLock:
    """The right to work in a folder. Every method but ``repr`` blocks.

    Args:
        path: of the lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None

    def __repr__(self) -> str:
        return f"<FolderLock {self._path} {'free' if self._file is None else 'held'}>"

    def take(self, *, now: datetime) -> None:
        """Take the lock; waits for nobody who means to keep it.

        Raises:
            JournalError: somebody else has it; the message says who.
            OSError: the file cannot be opened, written or locked.
        """
        with ExitStack() as undo:
            file = undo.enter_context(io.FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+"))
            if not _lock(file.fileno()) and not _insist(file.fileno()):
                raise JournalError(
                    f"{self._path.parent} is being worked on by {_read_holder(file)}; nothing was done: let it end, or "
                    "end it, first"
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now:%Y-%m-%d %H:%M:%S %z}\n".encode())
            undo.pop_all()
        self._file = file

    def find_holder(self) -> str | None:
        """Say who has the lock; None: nobody, and perhaps there is no such file. It is held for an instant, by this."""
        with suppress(OSError), io.FileIO(self._path, "r") as file:
            return None if _lock(file.fileno()) else _read_holder(file)
        return None

    def give_back(self) -> None:
        """Let the next one in. Giving it back twice is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _insist(descriptor: int) -> bool:
    """Try a little longer: somebody may only be looking who has the lock (``find_holder``)."""
    for _ in range(PATIENCE):
        time.sleep(INSTANT)
        if _lock(descriptor):
            return True
    return False


def _read_holder(file: io.FileIO) -> str:
    return file.read().decode("utf-8", "replace").strip() or "another process"

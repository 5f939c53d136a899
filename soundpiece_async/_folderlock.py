"""One run per folder, at most: a lock of the operating system, which dies with its process.

So no lock is ever stale, however its holder ended. The file itself stays, because removing it would let two processes
lock two files of one name; its text says who holds the lock, and means nothing while nobody does.
"""

import io
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
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
        """Take the lock; never waits.

        Raises:
            JournalError: somebody else has it; the message says who.
            OSError: the file cannot be opened, written or locked.
        """
        with ExitStack() as undo:
            file = undo.enter_context(io.FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+"))
            if not _lock(file.fileno()):
                first = file.read().decode("utf-8", "replace").strip() or "another process"
                raise JournalError(
                    f"{self._path.parent} is being worked on by {first}; nothing was done: let it end, or end it, first"
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now:%Y-%m-%d %H:%M:%S %z}\n".encode())
            undo.pop_all()
        self._file = file

    def give_back(self) -> None:
        """Let the next one in. Giving it back twice is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None

"""One run per folder, at most: a lock that ends with its process (`_filelocks`).

The lock file itself stays, because removing it would let two processes lock two files of one name; its text says who
holds the lock, and means nothing while nobody does.
"""

import io
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

from soundpiece_async import _filelocks
from soundpiece_async._core.errors import JournalError
from soundpiece_async._regularfiles import NO_LINK, open_regular

LOCK = "journal.lock"
LOCK_RETRIES = 3
"""Times to try again."""
RETRY_DELAY = 0.02
"""Seconds between them."""


class FolderLock:
    """The right to work in a folder. Every method but ``repr`` blocks.

    Args:
        path: of the lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._release: Callable[[], None] | None = None
        self.has_record_locks = True
        """Once taken: whether the file system has the kind of locks that SQLite takes, too."""

    def __repr__(self) -> str:
        return f"<FolderLock {self._path} {'free' if self._file is None else 'held'}>"

    def acquire(self, *, now: datetime) -> None:
        """Acquire the lock; does not wait for a process that keeps it.

        Raises:
            JournalError: somebody else has it; the message says who.
            OSError: the file cannot be opened, written or locked.
        """
        with ExitStack() as undo:
            file = undo.enter_context(
                io.FileIO(open_regular(self._path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o600), "r+")
            )
            release = _filelocks.acquire(file, self._path) or self._retry_lock(file)
            if release is None:
                raise JournalError(
                    f"{self._path.parent} is locked by {_read_holder(file)}; nothing was done. Wait for it to finish "
                    f"or stop it{self._advise()}"
                )
            undo.callback(release)
            self.has_record_locks = _filelocks.has_record_locks(file)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now:%Y-%m-%d %H:%M:%S %z}\n".encode())
            undo.pop_all()
        self._file, self._release = file, release

    def holder(self) -> str | None:
        """Return who has the lock; None: nobody, or nobody can say. It is held for an instant, by this.

        Raises:
            JournalError: something else is in the place of the lock file.
        """
        with suppress(OSError):
            try:
                descriptor = open_regular(self._path)
            except FileExistsError as error:
                raise JournalError(f"{self._path.parent} cannot be read: {error}") from error
            with io.FileIO(descriptor) as file:
                release = _filelocks.acquire(file, self._path)
                if release is None:
                    return _read_holder(file)
                release()
        return None

    def release(self) -> None:
        """Release the lock. Releasing it twice is no error."""
        if self._file is not None and self._release is not None:
            self._release()
            self._file.close()
            self._file = self._release = None

    def _retry_lock(self, file: io.FileIO) -> Callable[[], None] | None:
        """Try a little longer: somebody may only be looking who has the lock (``holder``)."""
        for _ in range(LOCK_RETRIES):
            time.sleep(RETRY_DELAY)
            release = _filelocks.acquire(file, self._path)
            if release is not None:
                return release
        return None

    def _advise(self) -> str:
        """Return what to do about a lock file that cannot be judged from here."""
        held = _filelocks.held_path(self._path)
        return f". If there is no such process any more, remove {held}" if held.exists() else ""


def _read_holder(file: io.FileIO) -> str:
    return file.read().decode("utf-8", "replace").strip() or "another process"

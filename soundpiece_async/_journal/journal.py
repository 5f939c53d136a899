"""The durable record of a bulk run: opened, locked, counted, closed. What is written in it is ``sqlite_store``'s.

One run per folder, at most: a lock that ends with its process (`_filelocks`). The lock file itself stays, because
removing it would let two processes lock two files of one name; its text says who holds the lock, and means nothing
while nobody does.
"""

import io
import os
import socket
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio.to_thread

from soundpiece_async import _filelocks
from soundpiece_async._core.errors import InvalidRequest, JournalError
from soundpiece_async._core.job_records import JobRecord, JobState, Label
from soundpiece_async._core.requests import Request
from soundpiece_async._core.tracebacks import forget_arguments
from soundpiece_async._download.destinations import parse_folder
from soundpiece_async._journal.database import Database
from soundpiece_async._journal.sqlite_store import SqliteStore
from soundpiece_async._journal.store import JobStore
from soundpiece_async._lifetime import run_shielded
from soundpiece_async._regularfiles import NO_LINK, open_regular

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
        """Take the lock; waits for nobody who means to keep it.

        Raises:
            JournalError: somebody else has it; the message says who.
            OSError: the file cannot be opened, written or locked.
        """
        with ExitStack() as undo:
            file = undo.enter_context(
                io.FileIO(open_regular(self._path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o600), "r+")
            )
            release = _filelocks.take(file, self._path) or self._retry_lock(file)
            if release is None:
                raise JournalError(
                    f"{self._path.parent} is being worked on by {_read_holder(file)}; nothing was done: let it end, or "
                    f"end it, first{self._advise()}"
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
                raise JournalError(f"{self._path.parent} cannot be looked at: {error}") from error
            with io.FileIO(descriptor) as file:
                release = _filelocks.take(file, self._path)
                if release is None:
                    return _read_holder(file)
                release()
        return None

    def release(self) -> None:
        """Let the next one in. Giving it back twice is no error."""
        if self._file is not None and self._release is not None:
            self._release()
            self._file.close()
            self._file = self._release = None

    def _retry_lock(self, file: io.FileIO) -> Callable[[], None] | None:
        """Try a little longer: somebody may only be looking who has the lock (``holder``)."""
        for _ in range(LOCK_RETRIES):
            time.sleep(RETRY_DELAY)
            release = _filelocks.take(file, self._path)
            if release is not None:
                return release
        return None

    def _advise(self) -> str:
        """Return what to do about a lock file that cannot be judged from here."""
        held = _filelocks.held_path(self._path)
        return f". If there is no such process any more, remove {held}" if held.exists() else ""


def _read_holder(file: io.FileIO) -> str:
    return file.read().decode("utf-8", "replace").strip() or "another process"


JOURNAL = "journal.sqlite3"
LOCK = "journal.lock"


class Journal:
    """The record of a bulk run, for ``Session.run_many(..., journal=journal)``: with it, the same run goes on.

    Use it as ``async with Journal.open(folder) as journal``; where it is opened and closed in different places, as
    ``journal = await Journal.open(folder)`` and ``await journal.aclose()``. It holds every job's key and body before
    they are sent, its operation, its outputs and its files, and never the API key. Bodies hold signed URLs, and so do
    outputs until their files are saved: the journal can be read by its owner only.
    """

    _store: JobStore | None = None

    def __init__(
        self, folder: str | os.PathLike[str], *, resubmit_uncertain: bool, retry_failed: bool, read_only: bool
    ) -> None:
        self.folder: Path = parse_folder(folder, field="folder").absolute()
        self.resubmit_uncertain = resubmit_uncertain
        self.retry_failed = retry_failed
        self.read_only = read_only
        self._lock = FolderLock(self.folder / LOCK)
        self._annotations: dict[str, Label] = {}
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not open" if self._store is None else "open"
        return f"<Journal {self.folder} {state} {self._store!r}>"

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        resubmit_uncertain: bool = False,
        retry_failed: bool = False,
        read_only: bool = False,
    ) -> "Journal":
        """Open the journal of a folder, best the one the files go to; both are made if they are missing.

        Args:
            folder: holds the journal, ``journal.sqlite3``: a path, or a ``file:`` URL. It may be moved, with the files
                in it.
            resubmit_uncertain: send jobs again that were sent more than a day ago and never answered. The service may
                have forgotten their keys by now, and make, and charge for, them once more.
            retry_failed: buy jobs that failed for good anew, with new keys, once in each run. Nothing else ever makes
                a new key; files that could not be had are tried again by every run, with the one they have.
            read_only: look at a journal that another process may be writing, without locking it; not for ``run_many``.

        Raises:
            InvalidRequest: at once: it is not a folder of this machine.
            JournalError: when it is entered or awaited. Another process works in the folder (the message says which);
                or the journal is damaged, written by a newer version, or cannot be had. Nothing was changed.
        """
        return cls(folder, resubmit_uncertain=resubmit_uncertain, retry_failed=retry_failed, read_only=read_only)

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise JournalError(f"the journal of {self.folder} was closed: open it again with Journal.open")
        if self._store is None:
            try:
                await run_shielded(self._open)
            except BaseException:
                await self.aclose()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_store", None) is not None and not self._closed:  # one whose making failed has none
            warnings.warn("a soundpiece journal was not closed", ResourceWarning, source=self, stacklevel=1)

    async def aclose(self) -> None:
        """Close the journal, and let the next process in; what was begun is written first. Twice is fine."""
        self._closed = True
        try:
            if self._store is not None:
                await self._store.close()
        finally:  # a cancellation comes out of there, once all is written
            self._lock.release()

    async def count(self) -> dict[JobState, int]:
        """Count the jobs in each state; states without jobs are left out."""
        return await self.store.count(now=self.store.now)

    async def jobs(self, state: JobState | str | None = None, *, after: int = 0, limit: int = 1000) -> list[JobRecord]:
        """Give the jobs in a state, such as ``uncertain``, in the order they were planned.

        Args:
            state: one of ``count``'s; None: any.
            after: the ``number`` of the job to go on behind.
            limit: jobs at most.
        """
        wanted = None if state is None else JobState(state)
        return await self.store.jobs(wanted, now=self.store.now, after=after, limit=limit)

    @forget_arguments
    def annotate(
        self, request: Request, *, name: str | None = None, metadata: Any = None, line: int | None = None
    ) -> None:
        """Say what to call the files of a request that is about to be given to ``run_many``, and what to keep with it.

        None of it counts for which job it is; what was said last counts. Files that are saved keep their names.

        Args:
            request: the very object that will be given.
            name: the stem of its files; made safe, and numbered where several jobs want the same.
            metadata: any JSON value; ``jobs`` gives it back, as ``JobRecord.metadata``.
            line: of the file that it was read from; the report shows it.

        Raises:
            InvalidRequest: the metadata has no JSON form.
            TypeError: the name is no text.
        """
        if not isinstance(name, str | None):
            raise TypeError(f"name must be text, or None, not {type(name).__name__}")
        annotation = Label(name, metadata, line)
        try:
            annotation.as_row()
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidRequest(f"metadata has no JSON form: {error}", field="metadata") from error
        self._annotations[request.idempotency_key] = annotation

    def pop_annotation(self, request: Request) -> Label | None:
        """Give what was said of a request, once."""
        return self._annotations.pop(request.idempotency_key, None)

    @property
    def store(self) -> JobStore:
        """What ``run_many`` reads and writes.

        Raises:
            JournalError: the journal is not open.
        """
        if self._store is None or self._closed:
            raise JournalError(
                f"the journal of {self.folder} is not open: use 'async with Journal.open(folder) as journal'"
            )
        return self._store

    async def _open(self) -> None:
        database = await anyio.to_thread.run_sync(self._open_files)
        self._store = store = SqliteStore(database)
        if not self.read_only:
            await store.free_titles()

    def _open_files(self) -> Database:
        """Take the lock, then open the database. Blocks."""
        if not self.read_only:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(now=datetime.now(UTC))
            except (OSError, RecursionError) as error:  # this one for a folder below hundreds that are missing
                raise JournalError(
                    f"{self.folder} cannot hold a journal: {error}; choose a folder that can be written"
                ) from error
        locked = self._lock.has_record_locks
        return Database(self.folder / JOURNAL, read_only=self.read_only, locked=locked)

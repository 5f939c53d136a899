"""The durable record of a bulk run: opened, locked, counted, closed. What is written in it is ``sqlite_store``'s."""

import json
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload
from uuid import uuid4

import anyio.to_thread
import attrs

from soundpiece_async._core import checks, codec, job_records
from soundpiece_async._core.errors import InvalidRequest, JournalError
from soundpiece_async._core.job_records import NO_ANNOTATION, Annotation, JobIdentity, JobRecord, JobState
from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.redaction import Secret, forget_arguments, redact_url
from soundpiece_async._core.requests import SOURCE_FIELDS, Request
from soundpiece_async._download.destinations import parse_folder
from soundpiece_async._inputs import Named, Requests, open_requests, split_name
from soundpiece_async._journal.database import Database
from soundpiece_async._journal.folder_lock import LOCK, FolderLock
from soundpiece_async._journal.occurrences import RequestIdentifier
from soundpiece_async._journal.sqlite_store import SqliteStore
from soundpiece_async._journal.store import ExtraMissing, JobStore, Part, PlannedJob, TakenOver
from soundpiece_async._lifetime import overlap, run_shielded

PAGE = 500
"""Jobs that are planned, or read, at a time."""
JOURNAL = "journal.sqlite3"


class Journal:
    """The record of a bulk run, for ``Session.run_many(..., journal=journal)``: with it, a run can be resumed.

    It is a SQLite file in a folder, written by one process; or tables in Postgres, written by any number of them.

    Use it as ``async with Journal.open(folder) as journal``; where it is opened and closed in different places, as
    ``journal = await Journal.open(folder)`` and ``await journal.aclose()``. It holds every job's key and body before
    they are sent, its operation, its outputs and its files, and never the API key. Bodies hold signed URLs, and so do
    outputs until their files are saved: the journal can be read by its owner only.
    """

    _store: JobStore | None = None

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        run: str | None,
        resubmit_uncertain: bool,
        retry_failed: bool,
        read_only: bool,
    ) -> None:
        self.run = run
        self.resubmit_uncertain = resubmit_uncertain
        self.retry_failed = retry_failed
        self.read_only = read_only
        self._url: Secret | None = None
        self._lock: FolderLock | None = None
        if isinstance(where, str) and is_database(where):
            self._url = Secret(where, redact_url(where))
            check_run(run)
            self.where: str = f"{redact_url(where)} {run!r}"
            """Where it is, without a password: the folder, or the database and the run."""
        else:
            self._folder = parse_folder(where, field="folder").absolute()
            if run is not None:
                raise InvalidRequest(
                    f"{where}: run={run!r} names a run of a database, and this is a folder", field="run"
                )
            self.where = str(self._folder)
            self._lock = FolderLock(self._folder / LOCK)
        self._annotations: dict[str, Annotation] = {}
        self._listeners: dict[str, Callable[[AnyOperation], None]] = {}
        self._identities: dict[str, JobIdentity] = {}
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not open" if self._store is None else "open"
        return f"<Journal {self.where} {state} {self._store!r}>"

    @property
    def folder(self) -> Path:
        """The folder of a journal that is a file.

        Raises:
            JournalError: it is in a database.
        """
        if self.run is not None:
            raise JournalError(f"the journal {self.where} is in no folder")
        return self._folder

    @classmethod
    @forget_arguments
    def open(
        cls,
        where: str | os.PathLike[str],
        *,
        run: str | None = None,
        resubmit_uncertain: bool = False,
        retry_failed: bool = False,
        read_only: bool = False,
    ) -> "Journal":
        """Open the journal of a folder, best that of the files, or of a run in a database; it is created if missing.

        Args:
            where: a folder, as a path or a ``file:`` URL: it holds the journal, ``journal.sqlite3``, and may be moved,
                with the files in it. Or the URL of a Postgres database, ``postgresql://user:password@host/name``, with
                the extra ``postgres``: then many processes may work on one run, each job in one of them. It has to be a
                direct connection, not one of a pooler that changes it with each transaction.
            run: the name of the run, in a database; the tables are made if they are missing.
            resubmit_uncertain: send jobs again that were sent more than a day ago and never answered. The service may
                have forgotten their keys by now, and charge for them again.
            retry_failed: send jobs that failed permanently again, with new keys, once in each run: they are paid for
                again. Nothing else generates a new key; every run retries failed downloads.
            read_only: read a journal that another process may be writing, without locking it; not for ``run_many``.

        Raises:
            InvalidRequest: at once: it is neither a folder of this machine nor a database, or the run has no name.
            JournalError: when it is entered or awaited. Another process works in the folder (the message says which);
                or the journal is damaged, written by a newer version, or cannot be opened or reached. Nothing was
                changed.
        """
        return cls(
            where, run=run, resubmit_uncertain=resubmit_uncertain, retry_failed=retry_failed, read_only=read_only
        )

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise JournalError(f"the journal of {self.where} was closed: open it again with Journal.open")
        if self._store is None:
            try:
                await (self._open_database(self._url) if self._url is not None else run_shielded(self._open_folder))
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
        """Write pending changes, close the journal and release its lock. Closing twice is allowed."""
        self._closed = True
        try:
            if self._store is not None:
                await self._store.close()
        finally:  # a cancellation comes out of there, once all is written
            if self._lock is not None:
                self._lock.release()

    async def count(self) -> dict[JobState, int]:
        """Count the jobs in each state; states without jobs are omitted."""
        return await self.store.count(now=self.store.now)

    @overload
    def jobs(
        self, state: JobState | str | None = None, *, after: int = 0, limit: int = 1000
    ) -> Coroutine[Any, Any, list[JobRecord]]: ...

    @overload
    def jobs(self, *, part: tuple[int, int]) -> AsyncGenerator[tuple[Request, str | None]]: ...

    def jobs(
        self,
        state: JobState | str | None = None,
        *,
        part: tuple[int, int] | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> Coroutine[Any, Any, list[JobRecord]] | AsyncGenerator[tuple[Request, str | None]]:
        """Return jobs in a state, such as ``uncertain``, in the order they were planned: ``await journal.jobs()``.

        Or, with ``part``, take jobs over, and return their requests, each with the name of its files, for ``run_many``:
        ``journal.jobs(part=(3, 16))``.

        Args:
            state: one of ``count``'s; None: any.
            part: ``(k, n)``, k from 1 to n: the k-th of n equal parts of the jobs that are not finished (with
                ``retry_failed``, of those that failed as well). From now on they are this process's: another one that
                works on them is refused what it writes, and ends each by ``JournalError``; for those that it has not
                begun, its ``jobs`` raise one at their end. Every split is possible at any time.
            after: the ``number`` of the job to begin behind.
            limit: jobs at most.

        Raises:
            ValueError: there is no such part.
        """
        if part is not None:
            number, parts = part
            if not 1 <= number <= parts:
                raise ValueError(f"part must be (k, n) with k from 1 to n, not {part!r}")
            return self._run_part(number, parts)
        wanted = None if state is None else JobState(state)
        return self._list_jobs(wanted, after=after, limit=limit)

    async def _list_jobs(self, state: JobState | None, *, after: int, limit: int) -> list[JobRecord]:
        return await self.store.jobs(state, now=self.store.now, after=after, limit=limit)

    async def _run_part(self, number: int, parts: int) -> AsyncGenerator[tuple[Request, str | None]]:
        part = await self.take_part(number, parts)
        async with aclosing(self.read_part(part)) as jobs:
            async for request, job in jobs:
                yield request, job.name

    async def take_part(self, number: int, parts: int) -> Part:
        """Claim a part of the unfinished jobs: the n-th of so many, from 1."""
        return await self.store.take_part(number % parts, parts, failed=self.retry_failed)

    async def read_part(self, part: Part) -> AsyncGenerator[tuple[Request, JobRecord]]:
        """Yield the jobs of a part that was taken over, each with its request.

        Raises:
            TakenOver: at the end, when another process has taken over jobs that were not yielded.
        """
        after = read = 0
        while jobs := await self.store.read_part(part, after=after, limit=PAGE):
            for job in jobs:
                after = job.number
                request = make_request(job)
                self.identify(request, JobIdentity(digest=job.digest, key=job.key))
                yield request, job
            read += len(jobs)
        if read < part.jobs and await self.store.was_taken_over(part):
            raise TakenOver(
                f"{part.jobs - read} jobs of {self.where} were taken over by another process before they were begun, "
                "which continues them; nothing is left to do here"
            )

    async def plan(self, requests: Requests[Request], *, validate: bool = True) -> int:
        """Record the jobs of many requests before anything is sent, in their order; ``jobs(part=...)`` runs them.

        Any process may plan the same requests, at any time: what is recorded already stays as it is, but for
        names, metadata and lines (``annotate``).

        Args:
            requests: any iterable or async iterable, of requests or of pairs of a request and the name of its files; it
                is read as its jobs are written.
            validate: check each request first, as ``Settings.validate`` does when it is sent.

        Returns:
            How many jobs are new.

        Raises:
            InvalidRequest: a request is invalid, or its key stands for a job of another route; those before it are
                planned.
            JournalError: the journal is not open, or cannot be written.
        """
        store, new = self.store, 0
        jobs: list[PlannedJob] = []
        async with aclosing(self._prepare(requests, validate=validate)) as pages:
            while True:  # the next page is made while one is written
                added, following = await overlap(partial(store.plan, jobs), partial(anext, pages, None))
                new += added
                if following is None:
                    return new
                jobs = following

    async def _prepare(self, requests: Requests[Request], *, validate: bool) -> AsyncGenerator[list[PlannedJob]]:
        """Yield the jobs of requests, many at a time, also those in front of an invalid one."""
        identifier = RequestIdentifier()
        async with open_requests(requests) as each, aclosing(_pages(each)) as pages:
            async for page in pages:
                prepare = partial(self._prepare_page, page, identifier, validate=validate)
                jobs, fault = await anyio.to_thread.run_sync(prepare)
                yield jobs
                if fault is not None:
                    raise fault

    def _prepare_page(
        self, page: list[Named[Request]], identifier: RequestIdentifier, *, validate: bool
    ) -> tuple[list[PlannedJob], InvalidRequest | None]:
        """Make the keys and bodies of jobs, up to the first invalid request. Blocks."""
        jobs: list[PlannedJob] = []
        try:
            jobs.extend(self._prepare_one(item, identifier, validate=validate) for item in page)
        except InvalidRequest as fault:
            return jobs, fault
        return jobs, None

    def _prepare_one(self, item: Named[Request], identifier: RequestIdentifier, *, validate: bool) -> PlannedJob:
        request, name = split_name(item)
        checks.check_request(request)
        if validate:
            checks.validate(request)
        identity = self.pop_identity(request) or identifier.identify(request)
        given, source = self.pop_annotation(request) or NO_ANNOTATION, job_records.describe_source(request)
        annotation = Annotation(name, given.metadata, given.line, source)
        key = request.idempotency_key
        if identity.key is None:
            key = str(self.store.make_key(identity) or uuid4())
        body = codec.encode_request(request, key=key)
        return PlannedJob(identity=identity, key=key, route=request.route, body=body, annotation=annotation)

    @forget_arguments
    def annotate(self, request: Request, *, metadata: JsonValue = None, line: int | None = None) -> None:
        """Store metadata with the job of a request that will be passed to ``run_many``.

        It is not part of the job's identity, and a later annotation replaces it.

        Args:
            request: the object that will be passed.
            metadata: any JSON value; ``jobs`` returns it as ``JobRecord.metadata``.
            line: of the file that it was read from; the report shows it.

        Raises:
            InvalidRequest: the metadata cannot be encoded as JSON.
        """
        annotation = Annotation(None, metadata, line)
        try:
            annotation.as_row()
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidRequest(f"metadata cannot be encoded as JSON: {error}", field="metadata") from error
        self._annotations[request.idempotency_key] = annotation

    def identify(self, request: Request, identity: JobIdentity) -> None:
        """Set which job a request is that will be passed to ``run_many`` or ``plan``."""
        self._identities[request.idempotency_key] = identity

    def pop_identity(self, request: Request) -> JobIdentity | None:
        """Return which job a request is, once; None: it was not set, so the run or the plan has to find out."""
        return self._identities.pop(request.idempotency_key, None)

    def listen(self, request: Request, call: Callable[[AnyOperation], None]) -> None:
        """Add a callback for when the outputs of a request, which will be passed to ``run_many``, are recorded."""
        self._listeners[request.idempotency_key] = call

    def forget_listener(self, request: Request) -> None:
        """Remove the callback: the request has ended without outputs."""
        self._listeners.pop(request.idempotency_key, None)

    def notify_ready(self, operation: AnyOperation) -> None:
        """Call the callback for the outputs of an operation, which are recorded now, once."""
        call = self._listeners.pop(operation.request.idempotency_key, None)
        if call is not None:
            call(operation)

    def pop_annotation(self, request: Request) -> Annotation | None:
        """Return the annotation of a request, once."""
        return self._annotations.pop(request.idempotency_key, None)

    @property
    def store(self) -> JobStore:
        """What ``run_many`` reads and writes.

        Raises:
            JournalError: the journal is not open.
        """
        if self._store is None or self._closed:
            raise JournalError(
                f"the journal of {self.where} is not open: use 'async with Journal.open(...) as journal'"
            )
        return self._store

    async def _open_database(self, url: Secret) -> None:
        if find_spec("psycopg") is None:
            raise ExtraMissing(
                f"the journal {self.where} needs the extra 'postgres', which is not installed: python -m pip install "
                "'soundpiece-async[postgres]'; nothing was sent"
            )
        from soundpiece_async._journal.postgres_store import PostgresJobStore  # it needs the extra

        self._store = store = PostgresJobStore(url, run=self.run or "", read_only=self.read_only)
        await store.open()

    async def _open_folder(self) -> None:
        database = await anyio.to_thread.run_sync(self._open_files)
        self._store = store = SqliteStore(database)
        if not self.read_only:
            await store.free_titles()

    def _open_files(self) -> Database:
        """Acquire the lock, then open the database. Blocks."""
        lock = FolderLock(self.folder / LOCK) if self._lock is None else self._lock
        if not self.read_only:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(now=datetime.now(UTC))
            except (OSError, RecursionError) as error:  # this one for a folder below hundreds that are missing
                raise JournalError(
                    f"{self.folder} cannot hold a journal: {error}; choose a folder that can be written"
                ) from error
        return Database(self.folder / JOURNAL, read_only=self.read_only, locked=lock.has_record_locks)


def is_database(where: str) -> bool:
    """Return whether a journal's place is the URL of a database."""
    return where.partition(":")[0].lower() in ("postgresql", "postgres") and "://" in where


def check_run(run: object) -> None:
    """Refuse what is not the name of a run.

    Raises:
        InvalidRequest: it is missing, or not text.
    """
    if not isinstance(run, str) or not run:
        raise InvalidRequest("a journal in a database needs the name of its run: run='album7'", field="run")


def make_request(job: JobRecord) -> Request:
    """Make the request of a job of its body; its key is the job's, and an output as its source can be renewed.

    Raises:
        JournalError: the body cannot be read.
    """
    members = json.loads(job.body)
    request = codec.request_from_echo({**members, "idempotency_key": job.key}, route=job.route)
    if request is None:
        raise JournalError(f"job {job.key} of the journal cannot be sent: its body is not a request of {job.route}")
    output = job_records.restore_source(job, request)
    changes: dict[str, JsonValue] = {name: output for name in SOURCE_FIELDS if getattr(request, name, None)}
    return request if output is None else attrs.evolve(request, **changes)


async def _pages(requests: AsyncIterator[Named[Request]]) -> AsyncGenerator[list[Named[Request]]]:
    """Yield requests, many at a time."""
    page: list[Named[Request]] = []
    async for item in requests:
        page.append(item)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page

"""A run with a journal: each step of a job is recorded before the next one begins.

1. Key and body are committed before the PUT leaves, the operation's id before anything waits, the numbers of the
   outputs before anything is downloaded, the files before the result is given out. So a run that is killed anywhere
   can be resumed, and nothing is paid for twice. What is lost after kill -9: no operation, because one whose id was not
   recorded yet is returned by the repeat of its PUT; no file; of each running download the batches in memory, and of
   an upload to an object store all.
2. What the journal knows is not asked for again: finished jobs are returned from it without a request.
3. The recorded body is the body that is sent (docs/api.md#idempotency), whatever the request says by now.
4. An exception: the body is rebuilt, with a new key, if no attempt can have been accepted and the URL of a source in it
   expires in less than a minute. A key that was given stays.
"""

import hashlib
import os
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

import anyio
import attrs

from soundpiece_async._core import checks, completion, job_records
from soundpiece_async._core.attempts import Attempts
from soundpiece_async._core.errors import (
    ApiError,
    AuthenticationError,
    InsufficientCredits,
    JournalError,
    NotFound,
    SoundpieceError,
    TransportError,
    copy_error,
)
from soundpiece_async._core.job_records import Annotation, FileRecord, JobIdentity, JobRecord, JobState
from soundpiece_async._core.operations import Operation
from soundpiece_async._core.requests import GeneratedKey, Output, Request, explicit_key
from soundpiece_async._core.results import Failed, SavedFile, Succeeded
from soundpiece_async._download.destinations import (
    Destination,
    StoreLocation,
    locate,
    parse_destination,
    path_of_file_url,
)
from soundpiece_async._engine import Engine, InFlight, RunFiles
from soundpiece_async._journal.journal import Journal
from soundpiece_async._journal.occurrences import RequestIdentifier
from soundpiece_async._journal.store import Refusal, check_route
from soundpiece_async._lifetime import StopSignal
from soundpiece_async._logs import get_logger
from soundpiece_async._operations import PreparedSubmit


@attrs.frozen
class FileCheck:
    """The result of checking the files of a job.

    Attributes:
        complete: all files, if nothing more has to be fetched; None: something has.
        replaceable: whether what is in their place was saved by a recorded run, and so may be replaced.
    """

    complete: tuple[SavedFile, ...] | None
    replaceable: bool = False


class SavedFiles:
    """Files as a run wants them, beside files as the journal has recorded them.

    Args:
        folder: the journal's, which recorded paths are relative to; None: they are relative to ``wanted_in``, which
            may be another path of the same folder on each machine.
        wanted_in: where this run wants the files; None: it wants none.
    """

    def __init__(self, folder: Path | None, *, wanted_in: Destination | None) -> None:
        self._wanted = None if wanted_in is None else parse_destination(wanted_in)
        self._base = self._wanted if folder is None and isinstance(self._wanted, Path) else folder

    def __repr__(self) -> str:
        return f"<SavedFiles {self._base} wanted in={self._wanted!r}>"

    def check(self, job: JobRecord) -> FileCheck:
        """Look for the files of a job; an object in a store is believed to be there. Blocks.

        To ask for each would cost a request; ``soundpiece verify`` does, and records what is missing.
        """
        wanted = self._wanted
        if wanted is None:
            return FileCheck(() if job.outputs else None)
        where = StoreLocation(_normalize(wanted), None) if isinstance(wanted, Path) else locate(wanted)
        if not job.files or any(self._locate(file) != where for file in job.files):
            return FileCheck(None)
        numbers = {output.index for output in job.outputs}
        if not all(file.index in numbers and self._is_whole(file) for file in job.files):
            return FileCheck(None, replaceable=True)
        folder = wanted if isinstance(wanted, Path) else None
        return FileCheck(tuple(_restore(job, file, folder=folder) for file in job.files), replaceable=True)

    def to_records(self, files: tuple[SavedFile, ...]) -> tuple[FileRecord, ...]:
        """Return what is recorded of saved files."""
        endpoint = None if self._wanted is None or isinstance(self._wanted, Path) else locate(self._wanted).endpoint
        return tuple(
            FileRecord(
                path=file.name if file.path is None or self._base is None else os.path.relpath(file.path, self._base),
                bytes=file.bytes,
                sha256=file.sha256,
                duration=file.duration,
                sample_rate=file.sample_rate,
                channels=file.channels,
                index=file.output.index,
                url=file.url,
                endpoint=endpoint,
                warnings=file.warnings,
                verified=file.verified,
            )
            for file in files
        )

    def _locate(self, file: FileRecord) -> StoreLocation | None:
        """Return in which folder, or store, a recorded file is; None: in a folder, where a store is wanted."""
        if file.url is not None:
            return StoreLocation(f"{file.url.rpartition('/')[0]}/", file.endpoint)
        return None if self._base is None else StoreLocation(_normalize((self._base / file.path).parent), None)

    def _is_whole(self, file: FileRecord) -> bool:
        if file.url is None:
            return _size(Path(self._base or "", file.path)) == file.bytes
        if file.url.startswith("file:///"):
            return _size(path_of_file_url(file.url)) == file.bytes
        # without a bucket it was this process's memory, or its place is unknown
        return not file.missing and ":///" not in file.url


def _normalize(folder: Path) -> str:
    return os.path.normpath(folder.absolute())


def _restore(job: JobRecord, file: FileRecord, *, folder: Path | None) -> SavedFile:
    name = Path(file.path).name
    (output,) = (output for output in job.outputs if output.index == file.index)
    return SavedFile(
        path=_local_path(file) if folder is None else folder / name,
        bytes=file.bytes,
        sha256=file.sha256,
        duration=file.duration,
        sample_rate=file.sample_rate,
        channels=file.channels,
        output=output,
        warnings=file.warnings,
        verified=file.verified or "none",
        url=file.url,
    )


def _local_path(file: FileRecord) -> Path | None:
    """Return the path of an object in a store that is a folder of this machine."""
    return path_of_file_url(file.url) if file.url and file.url.startswith("file://") else None


def _size(path: Path) -> int | None:
    """Return the size of a file, or None if it does not exist. Blocks."""
    try:
        return path.stat().st_size
    except OSError:
        return None


R = TypeVar("R", bound=Request)

logger = get_logger("journal")


class RecordedRun(Generic[R]):
    """One per run: it counts which occurrence of its content a request is.

    Args:
        journal: open, and not read-only.
        engine: of the session.
        stop: of the run.
        files: of the run.
        timeout: seconds to wait for each operation; None: as long as it takes.

    Raises:
        JournalError: the journal is not open, or cannot be written.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        engine: Engine,
        stop: StopSignal,
        files: RunFiles,
        timeout: float | None,
    ) -> None:
        if journal.read_only:
            raise JournalError(f"the journal of {journal.where} was opened to be read only")
        self._store = journal.store
        self._store.submits = engine.settings.limits.submits
        self._pop_annotation = journal.pop_annotation
        self._pop_identity = journal.pop_identity
        self._notify_ready = journal.notify_ready
        self._resubmit_uncertain = journal.resubmit_uncertain
        self._retry_failed = journal.retry_failed
        self._engine = engine
        self._stop = stop
        self._files = files
        self._timeout = timeout
        self._saved_files = SavedFiles(None if journal.run else journal.folder, wanted_in=files.to)
        self._identifier = RequestIdentifier()
        self._rebuilt: set[int] = set()
        key = hashlib.sha256(f"{journal.where}\n{engine.settings.api_key}".encode())
        self._key = key.hexdigest()[:16]
        self._refusal = self._find_refusal()  # an earlier run's 401, 402 or 403; one job tests it
        self._probe = anyio.Lock()

    def __repr__(self) -> str:
        return f"<RecordedRun {self._store!r} {self._identifier!r}>"

    async def run(self, in_flight: InFlight[R]) -> Succeeded[R] | Failed[R]:
        """Resume a job from its state in the journal."""
        request = in_flight.request
        identity, annotation = self._identify(request), self._pop_annotation(request)
        async with self._store.lock(identity) as waiters:
            if waiters.last_error is not None:  # or each waiter would try the same object for a whole retry deadline
                raise waiters.last_error
            job = await self._find_and_annotate(in_flight, identity, annotation)
            if self._retry_failed and job.ended and job.number not in self._rebuilt:
                job = await self._rebuild_failed(job, request, identity)
            operation = None if job.operation is None else job_records.restore_operation(job, request)
            self._store.progress[JobState.SUBMITTED] += operation is not None
            self._store.progress[JobState.READY] += bool(job.outputs)
            if job.failure is not None and job.ended:
                error = job_records.restore_error(job.failure, operation=operation)
                return Failed(request=request, operation=operation, error=error, from_journal=True)
            if operation is None and job.is_uncertain(now=self._store.now) and not self._resubmit_uncertain:
                return Failed(request=request, operation=None, error=_uncertain_error(job), from_journal=True)
            if operation is None:
                try:
                    operation = await self._submit_fresh(job, request, identity)
                except (TransportError, ApiError) as error:
                    waiters.last_error = copy_error(error)
                    raise
                in_flight.operation = operation
                return await self._complete(job, operation)
            in_flight.operation = operation
            self._engine.reader.adopt(operation)
            found = await self._store.run_in_thread(partial(self._saved_files.check, job))
            if found.complete is not None:
                self._notify_ready(operation)
                return Succeeded(request=request, operation=operation, files=found.complete, from_journal=True)
            self._stop.check(reading=True)
            return await self._resume(job, in_flight, operation, overwrite=found.replaceable)

    async def _resume(
        self, job: JobRecord, in_flight: InFlight[R], operation: Operation[R], *, overwrite: bool
    ) -> Succeeded[R]:
        """Finish what an earlier run submitted.

        What that left uncertain is asked for once more, and sent again, with its key, when the user said so.
        """
        try:
            return await self._complete(job, operation, overwrite=overwrite)
        except NotFound:
            if job.state is not JobState.UNCERTAIN or not self._resubmit_uncertain:
                raise
        operation = in_flight.operation = await self._submit(job, operation.request)
        return await self._complete(job, operation, overwrite=overwrite)

    def _identify(self, request: R) -> JobIdentity:
        """Return which job a request is."""
        checks.check_request(request)
        return self._pop_identity(request) or self._identifier.identify(request)

    async def _find_and_annotate(
        self, in_flight: InFlight[R], identity: JobIdentity, annotation: Annotation | None
    ) -> JobRecord:
        """Find a job or record it, and update its annotation where there is a newer one."""
        name, source = in_flight.name, job_records.describe_source(in_flight.request)
        latest = None if annotation is None else attrs.evolve(annotation, name=name, source=source)
        job = await self._find_or_insert(
            in_flight.request, identity, annotation=latest or Annotation(name, source=source)
        )
        known = Annotation.of(job)
        if latest is None:
            latest = attrs.evolve(known, name=name or known.name, source=source or known.source)
        return job if latest == known else await self._store.annotate(job, latest)

    async def _find_or_insert(self, request: R, identity: JobIdentity, *, annotation: Annotation) -> JobRecord:
        """Find a job, or record it with the key and the body it will always have."""
        while (job := await self._store.find(identity)) is None:
            self._stop.check()
            new_key = None if identity.key is not None else self._store.make_key(identity)
            if new_key is not None:
                request = attrs.evolve(request, idempotency_key=GeneratedKey(new_key))
            body = await self._engine.prepare(request)
            key = request.idempotency_key
            job = await self._store.insert(identity, key=key, route=request.route, body=body, annotation=annotation)
            if job is not None:
                return job
            if identity.key is None:  # another job has its key: as one made of this request by attrs.evolve
                request = attrs.evolve(request, idempotency_key=GeneratedKey(uuid4()))
        check_route(job.key, wanted=request.route, known=job.route)
        if job.digest != identity.digest:
            logger.warning("%s: the key stands for another request in the journal, which is used", job.key)
        return job

    async def _rebuild_failed(self, job: JobRecord, request: R, identity: JobIdentity) -> JobRecord:
        """Rebuild the body of a failed job with a new key, by which it is paid for again; once in a run."""
        key = GeneratedKey(self._store.make_key(identity, attempt=job.attempt + 1) or uuid4())
        rebuilt = await self._rebuild(job, request, identity, key=key)
        self._rebuilt.add(job.number)
        return rebuilt

    async def _rebuild(self, job: JobRecord, request: R, identity: JobIdentity, *, key: str) -> JobRecord:
        """Build the body of a job again, and store it with its key."""
        self._stop.check()
        body = await self._engine.prepare(attrs.evolve(request, idempotency_key=key), anew=True)
        return await self._store.replan_with_new_key(job, digest=identity.digest, key=key, body=body)

    async def _submit_fresh(self, job: JobRecord, request: R, identity: JobIdentity) -> Operation[R]:
        """Submit a job; rebuild its body if nothing was created and the URL of its source expires (rule 4)."""
        check_expiry = True
        while True:
            try:
                return await self._submit(job, request, check_expiry=check_expiry)
            except _SourceExpired:
                key = identity.key or GeneratedKey(self._store.make_key(identity, attempt=job.attempt + 1) or uuid4())
                job = await self._rebuild(job, request, identity, key=key)
                renewal = self._find_renewal(request, job.body)
                check_expiry = renewal is None or renewal > self._now  # a service may sign for less than a minute

    def _find_refusal(self) -> Refusal | None:
        """Return what the service refused to another process, if this one would be refused, too."""
        refusal = self._store.refusal
        return refusal if refusal is not None and refusal.concerns(self._key) else None

    async def _submit(self, job: JobRecord, request: R, *, check_expiry: bool = False) -> Operation[R]:
        """Send a job; one alone, as long as the service may still refuse what it refused to an earlier process."""
        if self._refusal is not None:
            async with self._probe:
                if self._refusal is not None:
                    operation = await self._send(job, request, check_expiry=check_expiry)
                    await self._store.set_refusal(None)
                    self._refusal = None
                    return operation
        return await self._send(job, request, check_expiry=check_expiry)

    async def _send(self, job: JobRecord, request: R, *, check_expiry: bool) -> Operation[R]:
        """Send a job, and record what is known of it, whatever comes back.

        Raises:
            _SourceExpired: where ``check_expiry``, before anything was sent that may have been accepted.
        """

        async def before_attempt() -> datetime | None:
            unused = check_expiry and not prepared.attempts.may_have_been_accepted
            renewal = self._find_renewal(request, job.body) if unused else None
            if renewal is not None and renewal <= self._now:
                raise _SourceExpired(f"job {job.key}: the URL of its source has expired; its request is built again")
            if not prepared.attempts.started:
                await self._store.mark_sending(job, now=self._store.now)
                refusal = self._find_refusal()
                if refusal is not None and refusal != self._refusal:
                    raise _refused_elsewhere(refusal)
            return renewal

        self._stop.check()
        prepared = PreparedSubmit(job.body, before_attempt, Attempts(before=job.state is not JobState.PLANNED))
        keyed = request
        if job.key != request.idempotency_key:
            key = GeneratedKey(job.key) if explicit_key(request) is None else job.key
            keyed = attrs.evolve(request, idempotency_key=key)
        try:
            operation = await self._engine.submit(keyed, stop=self._stop, prepared=prepared)
        except BaseException as error:  # a cancellation, too: it may have been waiting for its turn all the time
            await self._record_unanswered(job, error, prepared.attempts)
            raise
        await self._store.mark_submitted(job, operation, now=self._store.now)
        self._store.progress[JobState.SUBMITTED] += 1
        return attrs.evolve(operation, request=request)

    @property
    def _now(self) -> datetime:
        """The time by the service's clock."""
        return self._engine.transport.now

    def _find_renewal(self, request: R, body: bytes) -> datetime | None:
        source = job_records.find_source(request)
        outputs = self._engine.reader.cached_outputs(source.handle) if isinstance(source, Output) else ()
        return job_records.find_renewal(request, body, outputs=outputs, now=self._now)

    async def _record_unanswered(self, job: JobRecord, error: BaseException, attempts: Attempts) -> None:
        """Record what is known of a job whose submission ended by an error, or was cancelled."""
        in_doubt = attempts.may_have_been_accepted
        failure = None
        if isinstance(error, SoundpieceError):
            failure = job_records.classify_failure(error, submitted=False, in_doubt=in_doubt)
        if failure is not None:
            await self._store.mark_failed(job, failure, now=self._store.now)
        elif not in_doubt:
            await self._store.mark_unsent(job)
        if attempts.started:
            await self._record_refusal(error)

    async def _record_refusal(self, error: BaseException) -> None:
        """Record what the service would refuse to other processes as well, be it a PUT or a GET: they stop sending.

        What they have sent they ask for until that is refused, too: it costs nothing.
        """
        if isinstance(error, ApiError) and error.stops_run:
            await self._store.set_refusal(Refusal(error.status, self._key, self._store.now))

    async def _complete(self, job: JobRecord, operation: Operation[R], *, overwrite: bool = False) -> Succeeded[R]:
        """Wait and download, as far as that is not done."""
        title = job.title
        if not completion.is_over(operation):
            operation = await self._wait(job, operation)
        try:
            wanted = self._files.to is not None
            if not job.outputs or (wanted and title is None):
                title = await self._store.mark_ready(job, operation, now=self._store.now, named=wanted)
            self._notify_ready(operation)
            files = () if title is None else await self._files.save(operation, name=title, overwrite=overwrite)
        except SoundpieceError as error:
            await self._fail(job, error)
            raise
        if files:
            await self._store.mark_saved(job, operation, self._saved_files.to_records(files), now=self._store.now)
        return Succeeded(request=operation.request, operation=operation, files=files)

    async def _wait(self, job: JobRecord, operation: Operation[R]) -> Operation[R]:
        try:
            ready = await self._engine.wait(operation, timeout=self._timeout)
        except NotFound as error:
            await self._store.mark_uncertain(job, job_records.unknown_failure(error))
            raise
        except SoundpieceError as error:
            await self._fail(job, error)
            raise
        self._store.progress[JobState.READY] += 1
        return ready

    async def _fail(self, job: JobRecord, error: SoundpieceError) -> None:
        """Record an error that ends a job with an operation for good, if it does."""
        failure = job_records.classify_failure(error, submitted=True)
        if failure is not None:
            await self._store.mark_failed(job, failure, now=self._store.now)
        await self._record_refusal(error)


class _SourceExpired(SoundpieceError):
    """The body of a job that created nothing cannot be used any more."""


def _refused_elsewhere(refusal: Refusal) -> ApiError:
    told = f"another process of this run was refused: status {refusal.status}"
    if refusal.status == HTTPStatus.PAYMENT_REQUIRED:
        return InsufficientCredits(f"{told}; top up the account, then run the same again", status=refusal.status)
    return AuthenticationError(
        f"{told}; check the API key, then run the same again", status=refusal.status, body={"detail": told}
    )


def _uncertain_error(job: JobRecord) -> JournalError:
    sent = datetime.fromtimestamp(job.sent_at or 0.0, UTC)
    return JournalError(
        f"job {job.key} is uncertain: it was sent at {sent:%Y-%m-%d %H:%M:%S} UTC and never answered, and it is "
        "not known whether the service still knows its key; Journal.open(..., resubmit_uncertain=True) sends it again, "
        "at the risk of paying for it twice"
    )

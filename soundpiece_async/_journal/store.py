"""What ``run_many`` reads and writes of a journal, whichever database holds it; and what the two stores share.

1. A call returns when what it wrote is committed. While one group of writes is on its way, what comes in is collected
   for the next (``group_commit``): alone, a caller waits for nobody; a thousand cost one commit.
2. Once begun, a group is written to its end, also when a caller is cancelled, because it contains other callers' jobs.
3. One task at a time works on a job.
4. Times are seconds since 1970 by the store's own clock (``now``).
5. A job that another process has taken over is that process's: every write of it raises ``TakenOver``.
"""

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any, Protocol, TypeVar
from uuid import UUID

import attrs

from soundpiece_async._core import job_records
from soundpiece_async._core.errors import InvalidRequest, JournalError
from soundpiece_async._core.job_records import (
    NO_ANNOTATION,
    Annotation,
    Failure,
    FileRecord,
    JobIdentity,
    JobRecord,
    JobState,
)
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.redaction import redact_message
from soundpiece_async._core.requests import Handle
from soundpiece_async._locks import LockQueue

T = TypeVar("T")


class NoSuchRun(JournalError):
    """The database holds no run of that name: nothing was planned there."""


class Outdated(JournalError):
    """The journal is of an earlier version, and only to be read: opening it to write migrates it."""


class ExtraMissing(JournalError):
    """A package is not installed without which the database cannot be used."""


class TakenOver(JournalError):
    """Another process works on the job now; whatever happened to it here is that process's to find out."""

    ends_run = False


@attrs.frozen
class WaitStats:
    """How long the operations of a route took from their submission until they were seen ready, in seconds."""

    number: int
    mean: float
    longest: float


@attrs.frozen
class FailureGroup:
    """Why jobs failed: the error's class, the service's code, one of the texts, and how many there are of them."""

    kind: str
    code: str
    text: str
    number: int


@attrs.frozen(kw_only=True)
class Overview:
    """Where the jobs of a run are.

    Attributes:
        routes: how many jobs of each route are in each state.
        dependents: how many jobs that are made from outputs of other operations are in each state.
        failures: the reasons for failures, the commonest first.
        verified: how many saved files have passed each level of checks; ``""``: an earlier version did not record it.
        echo_differences: how many jobs had a member echoed otherwise than it was sent, for each member.
        ended: how many jobs were saved, or failed, since the moment that was asked for.
    """

    routes: Mapping[str, Mapping[JobState, int]]
    dependents: Mapping[JobState, int]
    failures: tuple[FailureGroup, ...]
    verified: Mapping[str, int]
    echo_differences: Mapping[str, int]
    ended: int


@attrs.frozen
class Refusal:
    """What the service refused to one of the processes that work on a run, and would refuse to others (401, 402, 403).

    Attributes:
        status: of the HTTP response.
        key: a digest of the API key.
        at: when, by the store's clock.
    """

    status: int
    key: str
    at: float

    def concerns(self, key: str) -> bool:
        """Return whether a process with that key would be refused, too: credits are the account's, whatever the key."""
        return key == self.key or self.status == HTTPStatus.PAYMENT_REQUIRED


@attrs.frozen(kw_only=True)
class PlannedJob:
    """A job that is to be recorded before anything of it is sent."""

    identity: JobIdentity
    key: str
    route: str
    body: bytes = attrs.field(repr=False)
    annotation: Annotation = NO_ANNOTATION


@attrs.frozen(kw_only=True)
class Part:
    """A part of the unfinished jobs of a run, which this process has taken over.

    Attributes:
        part, parts: it has the jobs whose number modulo ``parts`` is ``part``.
        failed: whether jobs that failed are in it.
        claim: the mark of this process on the jobs.
        jobs: how many there were.
    """

    part: int
    parts: int
    failed: bool
    claim: int
    jobs: int


class JobStore(Protocol):
    """The jobs of one run. Every method that reads or writes raises ``JournalError`` when the database fails."""

    progress: Counter[JobState]
    """How many jobs of this process's runs have an operation, and outputs, whenever they came to them."""
    refusal: Refusal | None
    """What the service refused to another process, as of the latest write; None: nothing."""
    submits: int
    """Submits of this process that may be on their way at a time: half of them that wait for a commit wait no more."""

    @property
    @abstractmethod
    def commits(self) -> int:
        """Commits so far."""
        ...

    @property
    @abstractmethod
    def now(self) -> float:
        """The store's clock (rule 4)."""
        ...

    @abstractmethod
    def make_key(self, identity: JobIdentity, *, attempt: int = 0) -> UUID | None:
        """Return the key of a job, where it follows from what the job is; None: any new key will do."""
        ...

    @abstractmethod
    def lock(self, identity: JobIdentity) -> AbstractAsyncContextManager[LockQueue]:
        """Wait until no other task works on this job (rule 3)."""
        ...

    @abstractmethod
    async def find(self, identity: JobIdentity) -> JobRecord | None:
        """Look a job up, to work on it; a key that was given wins over everything else the request says."""
        ...

    @abstractmethod
    async def find_states(self, identities: Sequence[JobIdentity], *, now: float) -> list[JobState | None]:
        """Return the state of each of many jobs, or None where there is no such job."""
        ...

    @abstractmethod
    async def insert(
        self, identity: JobIdentity, *, key: str, route: str, body: bytes, annotation: Annotation = NO_ANNOTATION
    ) -> JobRecord | None:
        """Write a new job down, or return None if another one has this key."""
        ...

    @abstractmethod
    async def plan(self, jobs: Sequence[PlannedJob]) -> int:
        """Record those of many jobs that are new, in their order, and the annotations of the others.

        Returns:
            How many are new.

        Raises:
            InvalidRequest: a given key stands for a job of another route.
        """
        ...

    @abstractmethod
    async def take_part(self, part: int, parts: int, *, failed: bool) -> Part:
        """Claim every unfinished job whose number modulo ``parts`` is ``part``; failed ones on demand."""
        ...

    @abstractmethod
    async def read_part(self, part: Part, *, after: int, limit: int) -> list[JobRecord]:
        """Return jobs of a part that was taken over, in their order, as far as they still belong to this process."""
        ...

    @abstractmethod
    async def was_taken_over(self, part: Part) -> bool:
        """Return whether another process has taken over jobs of a part that this one had claimed."""
        ...

    @abstractmethod
    async def annotate(self, job: JobRecord, annotation: Annotation) -> JobRecord:
        """Record another name, line or other metadata; a name that no file was saved under yet is free again."""
        ...

    @abstractmethod
    async def replan_with_new_key(self, job: JobRecord, *, digest: bytes, key: str, body: bytes) -> JobRecord:
        """Plan a job that failed anew, with a new key; the old one still finds it."""
        ...

    @abstractmethod
    async def mark_sending(self, job: JobRecord, *, now: float) -> None:
        """Record that a PUT is about to leave, so that whatever happens its key is known.

        The time of the first one stays: since then the service may have been remembering the key, or forgetting it.

        Raises:
            JournalError: the next run would not find it, so nothing may be sent; it stops the run.
        """
        ...

    @abstractmethod
    async def mark_unsent(self, job: JobRecord) -> None:
        """Record that nothing came of the PUT, for certain: every one was refused, or none has left."""
        ...

    @abstractmethod
    async def mark_submitted(self, job: JobRecord, operation: AnyOperation, *, now: float) -> None:
        """Record which operation a job became; from now on nothing is submitted for it."""
        ...

    @abstractmethod
    async def mark_ready(
        self, job: JobRecord, operation: AnyOperation, *, now: float, named: bool = True
    ) -> str | None:
        """Record the outputs, with the numbers they have from now on; returns the title of their files.

        It is the name that was asked for, or the operation's id; with a number where another job's files have that. Not
        ``named``: this run does not want the files, so they take no title from others.
        """
        ...

    @abstractmethod
    async def mark_saved(
        self, job: JobRecord, operation: AnyOperation, files: tuple[FileRecord, ...], *, now: float
    ) -> None:
        """Record the files, and the outputs without what signs their URLs: nothing needs it any more."""
        ...

    @abstractmethod
    async def mark_verified(self, number: int, files: tuple[FileRecord, ...], *, ended_at: float | None) -> None:
        """Record the checks that the files of a job have passed, unless others were saved after ``ended_at``."""
        ...

    @abstractmethod
    async def mark_failed(self, job: JobRecord, failure: Failure, *, now: float) -> None:
        """Record why a job failed for good."""
        ...

    @abstractmethod
    async def mark_uncertain(self, job: JobRecord, failure: Failure) -> None:
        """Record that the service knows no such operation (rule 4 of ``job_records``); its id stays."""
        ...

    @abstractmethod
    async def set_refusal(self, refusal: Refusal | None) -> None:
        """Record what the service refused, for all processes of the run to see; None: it accepts jobs again."""
        ...

    @abstractmethod
    async def find_loss(self) -> JournalError | None:
        """Return why the next run will not find this record, or None: it will."""
        ...

    @abstractmethod
    async def save_run_info(self, **members: JsonValue) -> None:
        """Record what the next run has to know of this one, as JSON; what has that name goes."""
        ...

    @abstractmethod
    async def load_run_info(self, *names: str) -> JsonObject:
        """Return what ``save_run_info`` wrote: the members of these names, or all."""
        ...

    @abstractmethod
    async def count(self, *, now: float) -> dict[JobState, int]:
        """Count the jobs in each state."""
        ...

    @abstractmethod
    async def jobs(self, state: JobState | None, *, now: float, after: int, limit: int) -> list[JobRecord]:
        """Return jobs in a state, or in any, in the order they were planned, those behind the number ``after``."""
        ...

    @abstractmethod
    async def count_lines(self) -> int:
        """Count the lines of the jobs file that jobs were made of."""
        ...

    @abstractmethod
    async def measure_waits(self) -> dict[str, WaitStats]:
        """Return how long the operations of each route took, as far as any are known."""
        ...

    @abstractmethod
    async def look_over(self, *, now: float, since: float) -> Overview:
        """Count the jobs of the run; ``ended``: since a moment."""
        ...

    @abstractmethod
    async def run_in_thread(self, call: Callable[[], T]) -> T:
        """Call something quick that blocks, off the event loop."""
        ...

    @abstractmethod
    async def close(self) -> None:
        """Close the store, once what was begun is written."""
        ...


def lock_of(identity: JobIdentity) -> JobIdentity:
    """Return the name of the lock of a job: a given key is the whole identity."""
    return identity if identity.key is None else attrs.evolve(identity, digest=b"")


def check_route(key: str, *, wanted: str, known: str) -> None:
    """Refuse a request whose key stands for a job of another route.

    Raises:
        InvalidRequest: it does.
    """
    if wanted != known:
        raise InvalidRequest(
            f"{wanted}: idempotency key {key} stands for a job of {known} in the journal; use a fresh one",
            field="idempotency_key",
        )


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON may contain and no database stores."""
    return text.encode(errors="replace").decode()


def read_job(row: Any, *, check: Callable[[Any], None] | None = None, **more: Any) -> JobRecord:
    """Make a job of its row; what is in the database may have been edited, or damaged.

    Args:
        row: gives values by the names of columns.
        check: refuses a row by a ValueError or TypeError.
        more: members that not every store has a column for.

    Raises:
        JournalError: it cannot be understood, or is not what was written.
    """
    try:
        if check is not None:
            check(row)
        operation = row["operation"]
        outputs, files, kind, metadata = row["outputs"], row["files"], row["error_kind"], row["metadata"]
        return JobRecord(
            number=row["number"],
            digest=row["digest"],
            key=row["key"],
            route=row["route"],
            body=row["body"],
            state=JobState(row["state"]),
            sent_at=row["sent_at"],
            operation=operation,
            created_at=job_records.read_time(row["created_at"]),
            echo_differences=tuple(map(str, json.loads(row["echo_differences"] or "[]"))),
            outputs=job_records.read_outputs(outputs, handle=Handle(row["route"], operation)) if outputs else (),
            files=job_records.read_files(files) if files else (),
            failure=Failure(kind, row["error_code"], row["error_text"], bool(row["retryable"])) if kind else None,
            metadata=None if metadata is None else json.loads(metadata),
            **{name: row[name] for name in ("name", "line", "source", "title", "submitted_at", "ready_at", "ended_at")},
            **more,
        )
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise JournalError(f"job {row['number']} of the journal cannot be read: {error!r}") from error


def make_group(kind: str, code: str, text: str, number: int) -> FailureGroup:
    """Make a group of recorded failures; its texts are foreign."""
    return FailureGroup(kind, redact_message(code), redact_message(text), number)


def read_counts(rows: Sequence[tuple[Any, Any]]) -> dict[JobState, int]:
    """Make counts of rows of a state and a number.

    Raises:
        JournalError: there is another state.
    """
    try:
        return {JobState(state): number for state, number in rows}
    except ValueError as error:
        raise JournalError(f"the journal cannot be read: {error}") from error


def read_members(rows: Sequence[tuple[Any, Any]]) -> JsonObject:
    """Make members of rows of a name and a JSON text.

    Raises:
        JournalError: one is no JSON.
    """
    try:
        return {name: json.loads(value) for name, value in rows}
    except ValueError as error:
        raise JournalError(f"the journal cannot be read: {error}") from error

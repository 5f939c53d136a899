"""The journal of a run in Postgres, which any number of processes write at the same time.

The rules are those of ``store`` and of ``postgres_statements``, and:

1. The key of a job follows from the run's random id, the job's identity and its attempt, so it is the same in every
   process.
2. Only the server's clock counts (``now``).
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from uuid import UUID, uuid4, uuid5

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core import job_records
from soundpiece_async._core.errors import JournalError
from soundpiece_async._core.filenames import file_names, first_free, numbered, safe_stem
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
from soundpiece_async._core.redaction import Secret, SecretBytes
from soundpiece_async._journal.group_commit import GroupCommit
from soundpiece_async._journal.postgres_connection import PostgresConnection, Row
from soundpiece_async._journal.postgres_rows import (
    failure_values,
    files_values,
    identity_values,
    new_values,
    read_overview,
    read_record,
    read_refusal,
    storable,
)
from soundpiece_async._journal.postgres_schema import FIND_TABLES, FIND_VERSION, MIGRATE, VERSION
from soundpiece_async._journal.postgres_statements import (
    ARE_TAKEN,
    CLAIM,
    CREATE_RUN,
    FIND,
    FIND_HEIR,
    FIND_STATES,
    FREE_NAMES,
    IDENTITY_TYPES,
    INSERT,
    KINDS,
    LOOK_OVER,
    LOOK_UP,
    NAMES,
    NEW_TYPES,
    OPEN_RUN,
    PLAN,
    PLAN_NEW,
    READ_PART,
    READER_SETTINGS,
    REPLAN,
    SETTINGS,
    STATE,
    TAKE_PART,
    arrays,
)
from soundpiece_async._journal.store import (
    NoSuchRun,
    Outdated,
    Overview,
    Part,
    PlannedJob,
    Refusal,
    TakenOver,
    WaitStats,
    check_route,
    lock_of,
    read_counts,
    read_members,
)
from soundpiece_async._lifetime import run_shielded
from soundpiece_async._locks import KeyedLocks, LockQueue

T = TypeVar("T")

MIGRATION_SECONDS = 3600.0
"""Seconds that the server has to change the tables of an earlier version, or to wait for another process to."""


@attrs.frozen
class _Step:
    """One write of one caller: its kind, and its values."""

    kind: str
    values: Mapping[str, JsonValue] = attrs.field(repr=False)
    names: tuple[str, ...] = ()
    """File names that the job must have for it."""


class PostgresJobStore:
    """A ``JobStore`` in Postgres, with one connection.

    Args:
        url: of the database; it may hold a password.
        run: the name of the run.
        read_only: make and claim nothing.
    """

    def __init__(self, url: Secret, *, run: str, read_only: bool) -> None:
        self.progress: Counter[JobState] = Counter()
        self.refusal: Refusal | None = None
        self.submits = 1
        self.commits = 0
        self._name = storable(run)
        self._database = PostgresConnection(url, title=f"journal {self._name!r}")
        self._read_only = read_only
        self._at_work = KeyedLocks()
        self._group: GroupCommit[_Step] = GroupCommit(self._write, self._at_work)
        self._run = UUID(int=0)
        self._claim = 0
        self._claims: list[int] = []
        self._clock = 0.0
        self._plans_new = True  # as far as the latest plan shows

    def __repr__(self) -> str:
        state = "read-only " if self._read_only else ""
        return f"<PostgresJobStore {self._database!r} {self._name!r} {state}claim={self._claim} {self._group!r}>"

    async def open(self) -> None:
        """Connect, make or migrate the tables, make the run if it is missing, and draw a claim.

        Raises:
            JournalError: the server cannot be reached or refuses; there is nothing to read; or the tables are of
                another version.
        """
        await self._database.open()
        if self._read_only:
            await self._fetch(READER_SETTINGS)
        else:
            await self._fetch(SETTINGS)
            await self._database.fetch(MIGRATE, {}, seconds=MIGRATION_SECONDS)
        version = await self._find_version()
        if not self._read_only:
            await self._fetch(CREATE_RUN, name=self._name, run=uuid4())
        await self._open_run()
        if version < VERSION:
            raise Outdated(
                f"the journals in {self._database.address} must be migrated first: open one to write once, as "
                "soundpiece resume does"
            )

    async def _find_version(self) -> int:
        """Return the version of the tables; refuse those that are missing, or newer."""
        where = self._database.address
        (found,) = await self._fetch(FIND_TABLES)
        if not found["made"]:
            raise NoSuchRun(f"{where} has no journal: check the address, or start a run in it")
        version = int((await self._fetch(FIND_VERSION))[0]["version"]) if found["versioned"] else 1
        if version > VERSION:
            raise JournalError(
                f"the journals in {where} were written by a newer version of soundpiece_async (schema {version}, this "
                f"one knows {VERSION}): update; nothing was changed"
            )
        return version

    async def _open_run(self) -> None:
        rows = await self._fetch(OPEN_RUN, name=self._name)
        if not rows:
            raise NoSuchRun(f"{self._database.address} has no run called {self._name!r}: check its name, or start it")
        (row,) = rows
        self.refusal = read_refusal(row["refusal"])
        self._run, self._claim, self._clock = row["run"], row["claims"], row["now"] - time.monotonic()
        if not self._read_only:
            self._claim = (await self._fetch(CLAIM))[0]["claims"]

    async def close(self) -> None:
        """Close the connection, once what was begun is written."""
        await run_shielded(self._wait_and_close)

    async def _wait_and_close(self) -> None:
        async with self._group.turn:
            await self._database.close()

    @property
    def now(self) -> float:
        """The server's clock, as it was read when the journal was opened (rule 2)."""
        return time.monotonic() + self._clock

    def make_key(self, identity: JobIdentity, *, attempt: int = 0) -> UUID:
        """Return the key of a job (rule 1)."""
        return uuid5(self._run, f"{identity.digest.hex()} {identity.occurrence} {attempt} {identity.key}")

    def lock(self, identity: JobIdentity) -> AbstractAsyncContextManager[LockQueue]:
        """Wait until no other task of this process works on this job."""
        return self._at_work.acquire(lock_of(identity))

    async def find(self, identity: JobIdentity) -> JobRecord | None:
        """Look a job up, and take it over unless it is done, or the journal is only read.

        Raises:
            TakenOver: it belongs to a process that came later (rule 2 of ``postgres_statements``).
        """
        if self._read_only:
            match = arrays("match", IDENTITY_TYPES, [{**identity_values(identity), "position": 0}])
            return next(map(read_record, await self._fetch(LOOK_UP, **match)), None)
        row = await self._group.execute(_Step("find", identity_values(identity)))
        if row is None:
            return None
        if row["taken"] > self._claim and not row["done"]:
            raise self._taken_over(row["key"])
        return read_record(row)

    async def find_states(self, identities: Sequence[JobIdentity], *, now: float) -> list[JobState | None]:
        """Return the state of each of many jobs, or None where there is no such job."""
        rows = [{**identity_values(identity), "position": position} for position, identity in enumerate(identities)]
        found = await self._fetch(FIND_STATES, now=now, **arrays("match", IDENTITY_TYPES, rows))
        states = {row["position"]: JobState(row["state"]) for row in found}
        return [states.get(position) for position in range(len(identities))]

    async def insert(
        self, identity: JobIdentity, *, key: str, route: str, body: bytes, annotation: Annotation = NO_ANNOTATION
    ) -> JobRecord | None:
        """Write a new job down, or return None if another process has done so, or another job has this key."""
        job = PlannedJob(identity=identity, key=key, route=route, body=body, annotation=annotation)
        row = await self._group.execute(_Step("insert", new_values(job)))
        return None if row is None else read_record(row)

    async def plan(self, jobs: Sequence[PlannedJob]) -> int:
        """Record many jobs by one statement, or by another one if some of them are known already."""
        if not jobs:
            return 0
        rows = [{**new_values(job), "position": position} for position, job in enumerate(jobs)]
        values, new = arrays("match", NEW_TYPES, rows), 0
        if self._plans_new and all(job.identity.key is None for job in jobs):
            new = (await self._fetch(PLAN_NEW, **values))[0]["new"]
        if new < len(jobs):
            counted, *others = await self._fetch(PLAN, **values)
            for other in others:
                job = jobs[other["position"]]
                check_route(job.key, wanted=job.route, known=other["known"])
            new += counted["new"]
        self._plans_new = new == len(jobs)
        return int(new)

    async def take_part(self, part: int, parts: int, *, failed: bool) -> Part:
        """Draw a new claim, and put it on every unfinished job of the part."""
        (row,) = await self._fetch(TAKE_PART, part=part, parts=parts, failed=failed)
        self._claim = row["claims"]
        self._claims.append(self._claim)
        return Part(part=part, parts=parts, failed=failed, claim=self._claim, jobs=row["jobs"])

    async def read_part(self, part: Part, *, after: int, limit: int) -> list[JobRecord]:
        """Return jobs of a part that bear its claim."""
        rows = await self._fetch(READ_PART, **attrs.asdict(part), after=after, limit=limit)
        return [read_record(row) for row in rows]

    async def was_taken_over(self, part: Part) -> bool:
        """Return whether jobs of a part bear a claim that is higher, and none of this process."""
        return bool(await self._fetch(FIND_HEIR, **attrs.asdict(part), own=self._claims))

    async def annotate(self, job: JobRecord, annotation: Annotation) -> JobRecord:
        """Record another name, line or other metadata; a name that no file was saved under yet is free again."""
        titled = bool(job.files) or annotation.name == job.name
        name, metadata, line, source = annotation.as_row()
        await self._change("annotated", job, name=name, metadata=metadata, line=line, source=source, titled=titled)
        return annotation.put_on(job, title=job.title if titled else None)

    async def replan_with_new_key(self, job: JobRecord, *, digest: bytes, key: str, body: bytes) -> JobRecord:
        """Plan a job that failed anew, with a new key; the old one still finds it."""
        rows = await self._fetch(
            REPLAN, number=job.number, taken=job.taken, digest=digest, key=key, body=SecretBytes(body)
        )
        if not rows:
            raise self._taken_over(job.key)
        return read_record(rows[0])

    async def mark_sending(self, job: JobRecord, *, now: float) -> None:
        """Record that a PUT is about to leave; the time of the first one stays."""
        await self._change("sending", job, now=now)

    async def mark_unsent(self, job: JobRecord) -> None:
        """Record that nothing came of the PUT, for certain."""
        await self._change("unsent", job)

    async def mark_submitted(self, job: JobRecord, operation: AnyOperation, *, now: float) -> None:
        """Record which operation a job became."""
        created = operation.created_at.isoformat() if operation.created_at else None
        echoes = json.dumps(operation.echo_differences) if operation.echo_differences else None
        await self._change("submitted", job, operation=operation.id, created_at=created, echoes=echoes, now=now)

    async def mark_ready(
        self, job: JobRecord, operation: AnyOperation, *, now: float, named: bool = True
    ) -> str | None:
        """Record the outputs, and the title, whose names are the job's from now on."""
        stem = safe_stem(job.name or operation.id)
        outputs = Secret(job_records.write_outputs(operation.outputs))  # no frame shows the signed URLs
        if not named:
            await self._change("ready", job, outputs=outputs, title=job.title, now=now)
            return job.title
        number = 1
        while True:
            title = numbered(stem, number)
            names = tuple(name.casefold() for name in file_names(title, operation.outputs))
            if await self._change("ready", job, names=names, outputs=outputs, title=title, now=now):
                return title
            number = await self._find_number(job, operation, stem)

    async def mark_saved(
        self, job: JobRecord, operation: AnyOperation, files: tuple[FileRecord, ...], *, now: float
    ) -> None:
        """Record the files."""
        outputs = job_records.unsign_outputs(job_records.write_outputs(operation.outputs))
        await self._change("saved", job, outputs=outputs, **files_values(files), now=now)

    async def mark_verified(self, number: int, files: tuple[FileRecord, ...], *, ended_at: float | None) -> None:
        """Record the checks that files have passed; a job with a missing file is unfinished again."""
        whole = not any(file.missing for file in files)
        values = {**files_values(files), "whole": whole, "ended_at": ended_at}
        await self._group.execute(_Step("verified", {"number": number, "taken": 0, **values}))

    async def mark_failed(self, job: JobRecord, failure: Failure, *, now: float) -> None:
        """Record why a job failed for good."""
        await self._change("failed", job, **failure_values(failure), now=now)

    async def mark_uncertain(self, job: JobRecord, failure: Failure) -> None:
        """Record that the service knows no such operation; its id stays."""
        await self._change("uncertain", job, **failure_values(failure))

    async def set_refusal(self, refusal: Refusal | None) -> None:
        """Record what the service refused, or that it accepts jobs again, unless something was refused since."""
        text = None if refusal is None else f"{refusal.status} {refusal.key} {refusal.at!r}"
        known = None if self.refusal is None else f"{self.refusal.status} {self.refusal.key} {self.refusal.at!r}"
        statement = (
            "UPDATE soundpiece_run SET refusal = %(text)s "
            "WHERE run = %(run)s AND (%(text)s::text IS NOT NULL OR refusal = %(known)s)"
        )
        await self._fetch(statement, text=text, known=known)
        self.refusal = refusal

    async def find_loss(self) -> JournalError | None:
        """Return the error that ended the connection, or None."""
        return self._database.fault

    async def save_run_info(self, **members: JsonValue) -> None:
        """Record what the next run has to know of this one, as JSON; what has that name goes."""
        statement = (
            "INSERT INTO soundpiece_run_info SELECT %(run)s, * FROM unnest(%(names)s::text[], %(values)s::text[]) "
            "ON CONFLICT (run, member) DO UPDATE SET value = excluded.value"
        )
        await self._fetch(statement, names=list(members), values=[json.dumps(value) for value in members.values()])

    async def load_run_info(self, *names: str) -> JsonObject:
        """Return what ``save_run_info`` wrote: the members of these names, or all."""
        statement = (
            "SELECT member, value FROM soundpiece_run_info WHERE run = %(run)s "
            "AND (%(names)s::text[] = '{}' OR member = ANY(%(names)s))"
        )
        rows = await self._fetch(statement, names=list(names))
        return read_members([(row["member"], row["value"]) for row in rows])

    async def count(self, *, now: float) -> dict[JobState, int]:
        """Count the jobs in each state."""
        statement = f"SELECT {STATE} AS state, count(*) FROM soundpiece_job AS j WHERE run = %(run)s GROUP BY 1"
        return read_counts([(row["state"], row["count"]) for row in await self._fetch(statement, now=now)])

    async def jobs(self, state: JobState | None, *, now: float, after: int, limit: int) -> list[JobRecord]:
        """Return jobs in a state, or in any, in the order they were planned, those behind the number ``after``."""
        statement = (
            "SELECT * FROM soundpiece_job AS j WHERE run = %(run)s AND number > %(after)s "
            f"AND (%(state)s::text IS NULL OR {STATE} = %(state)s) ORDER BY number LIMIT %(limit)s"
        )
        name = None if state is None else state.value
        rows = await self._fetch(statement, state=name, now=now, after=after, limit=limit)
        return [read_record(row) for row in rows]

    async def count_lines(self) -> int:
        """Count the lines of the jobs file that jobs were made of."""
        (row,) = await self._fetch("SELECT count(DISTINCT line) FROM soundpiece_job WHERE run = %(run)s")
        return int(row["count"])

    async def measure_waits(self) -> dict[str, WaitStats]:
        """Return how long the operations of each route took, as far as any are known."""
        rows = await self._fetch(
            "SELECT route, count(*), avg(ready_at - submitted_at), max(ready_at - submitted_at) FROM soundpiece_job "
            "WHERE run = %(run)s AND ready_at > submitted_at GROUP BY route"
        )
        return {row["route"]: WaitStats(row["count"], row["avg"], row["max"]) for row in rows}

    async def look_over(self, *, now: float, since: float) -> Overview:
        """Count the jobs of the run in one pass over them."""
        return read_overview(await self._fetch(LOOK_OVER, now=now, since=since))

    async def run_in_thread(self, call: Callable[[], T]) -> T:
        """Call something quick that blocks, off the event loop."""
        return await anyio.to_thread.run_sync(call)

    async def _change(self, kind: str, job: JobRecord, *, names: tuple[str, ...] = (), **values: Any) -> bool:
        """Change a job; returns False if it did not get the names.

        Raises:
            TakenOver: it belongs to another process.
        """
        step = _Step(kind, {"number": job.number, "taken": job.taken, **values}, names)
        outcome = await self._group.execute(step, submits=self.submits if kind == "sending" else 0)
        if outcome is None:
            raise self._taken_over(job.key)
        return bool(outcome == kind)

    async def _find_number(self, job: JobRecord, operation: AnyOperation, stem: str) -> int:
        """Find a number of a title whose names are free; another job may be quicker to take them."""
        taken: dict[int, bool] = {}

        def is_free(number: int) -> bool:
            if number not in taken:
                raise LookupError(number)
            return not taken[number]

        while True:
            try:
                return first_free(is_free)
            except LookupError as missing:
                (number,) = missing.args
                names = [name.casefold() for name in file_names(numbered(stem, number), operation.outputs)]
            taken[number] = bool(await self._fetch(ARE_TAKEN, names=names, job=job.number))

    async def _write(self, steps: list[_Step], _: bool) -> list[Any]:  # noqa: FBT001 - as a group is written
        """Write a group: what is looked up, what is new and what changes is one statement each."""
        kinds: defaultdict[str, list[int]] = defaultdict(list)
        for position, step in enumerate(steps):
            kinds[step.kind].append(position)
        results: list[Any] = [None] * len(steps)
        if finds := kinds.pop("find", None):
            rows = [{**steps[position].values, "position": position} for position in finds]
            for row in await self._fetch(FIND, **arrays("match", IDENTITY_TYPES, rows)):
                results[row["position"]] = row
        if inserts := kinds.pop("insert", None):
            rows = [{**steps[position].values, "position": position} for position in inserts]
            new = {row["key"]: row for row in await self._fetch(INSERT, **arrays("match", NEW_TYPES, rows))}
            self.commits += 1
            for position in inserts:
                results[position] = new.pop(steps[position].values["new_key"], None)
        if kinds:
            changed = await self._write_changes({kind: [steps[one] for one in kinds[kind]] for kind in sorted(kinds)})
            for kind, positions in kinds.items():
                for position in positions:
                    results[position] = changed.get((kind, steps[position].values["number"]))
        return results

    async def _write_changes(self, kinds: Mapping[str, list[_Step]]) -> dict[tuple[str, int], str]:
        """Change many jobs by one statement; returns by kind and number which were, or that names were refused."""
        parts: list[str] = []
        values: JsonObject = {}
        for kind, steps in kinds.items():
            rows = sorted((step.values for step in steps), key=lambda row: row["number"])  # as others lock them
            values |= arrays(kind, KINDS[kind].all_types, rows)
            parts.append(KINDS[kind].part(kind))
        selects = [f"SELECT '{kind}' AS kind, '{kind}' AS outcome, number FROM {kind}" for kind in kinds]
        if "ready" in kinds:
            pairs = [(step.values["number"], name) for step in kinds["ready"] for name in step.names]
            values |= {"names_job": [job for job, _ in pairs], "names_name": [name for _, name in pairs]}
            parts.insert(0, NAMES)
            selects.append("SELECT 'ready', 'refused', job FROM refused")
        selects.append("SELECT 'refusal', refusal, 0 FROM soundpiece_run WHERE run = %(run)s")
        if "annotated" in kinds:
            parts.append(FREE_NAMES)
        changed = await self._fetch(f"WITH {', '.join(parts)} {' UNION ALL '.join(selects)}", **values)
        self.commits += 1
        outcomes = {(row["kind"], row["number"]): row["outcome"] for row in changed}
        self.refusal = read_refusal(outcomes.pop(("refusal", 0)))
        return outcomes

    async def _fetch(self, statement: str, **values: Any) -> list[Row]:
        """Execute a statement for this run, and return its rows; raises as ``PostgresConnection.fetch``."""
        return await self._database.fetch(statement, {"run": self._run, "claim": self._claim, **values})

    def _taken_over(self, key: str) -> TakenOver:
        return TakenOver(
            f"job {key} of the run {self._name!r} was taken over by another process, which continues it; nothing is "
            "left to do here"
        )

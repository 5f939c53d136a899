"""Validates a jobs file before anything is sent, and estimates the work for ``--dry-run``."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from itertools import islice
from typing import Literal, TypeAlias

import anyio
import anyio.to_thread

from soundpiece_async import Journal
from soundpiece_async._core import job_records
from soundpiece_async._core.job_records import JobIdentity, JobRecord, JobState
from soundpiece_async._core.requests import explicit_key
from soundpiece_async._journal.occurrences import OccurrenceCounter
from soundpiece_async._journal.store import WaitStats
from soundpiece_async.cli.bulk_options import BulkOptions, JobsFile, RunPolicy
from soundpiece_async.cli.console import UsageError, format_duration, pluralize, print_result, print_status
from soundpiece_async.cli.dependents import Blocked, Dependents
from soundpiece_async.cli.jobs_file import CHUNK_LINES, InvalidLine, Job, iterate_in_thread, require_valid
from soundpiece_async.cli.local_sources import LocalSources
from soundpiece_async.cli.rich_output import print_table

MAX_PRINTED_LINES = 20
"""Invalid lines that are printed one by one."""

States: TypeAlias = Counter[JobState | Literal["blocked"] | None]
"""Number of jobs by state; None: not in the journal."""
StateCounts: TypeAlias = dict[str, States]
"""The same for each route."""

IN_FLIGHT = (JobState.SENDING, JobState.SUBMITTED, JobState.READY)


async def validate_file(jobs: JobsFile, options: BulkOptions) -> tuple[int, Dependents]:
    """Validate every line, print the invalid ones, and return the number of lines and the dependent jobs.

    Raises:
        UsageError: some lines are invalid.
    """
    lines = wrong = 0
    local = LocalSources(jobs.sources or jobs.path.parent, options.load.via)
    local.check()
    dependents = Dependents(local)
    for number, check in enumerate((dependents.read_all(jobs.path), dependents.check())):
        async with aclosing(iterate_in_thread(check)) as chunks:
            async for chunk in chunks:
                for job in chunk:
                    lines += not number
                    if isinstance(job, InvalidLine):
                        wrong += 1
                        if wrong <= MAX_PRINTED_LINES:
                            print_status(f"{jobs}:{job.line}: {job.fault}")
    if wrong:
        shown = f" (the first {MAX_PRINTED_LINES} are printed above)" if wrong > MAX_PRINTED_LINES else ""
        total = pluralize(lines, "line")
        raise UsageError(f"{jobs}: {wrong} of {total} invalid{shown}; nothing was sent")
    return lines, dependents


async def dry_run(jobs: JobsFile, options: BulkOptions, dependents: Dependents) -> None:
    """Print the work that a run would do, and an estimate of its time; nothing is sent, locked or written."""
    async with AsyncExitStack() as stack:
        journal = await options.location.open_existing()
        if journal is not None:
            await stack.enter_async_context(journal)
        counted = _DryRun(jobs, options, dependents, journal)
        await counted.run()
        waits = {} if journal is None else await journal.store.measure_waits()
    plan, to_do = counted.counts, counted.to_do
    seconds = estimate_seconds(to_do, waits, options=options)
    if options.policy.as_json:
        sizes = {"at_least": sum(to_do.values()), "at_most": counted.at_most}
        print_result(json.dumps({"dry_run": {"routes": _to_json(plan, to_do), **sizes, "seconds": seconds}}))
        return
    _print_counts(plan, to_do, blocked=bool(dependents.graph))
    learned = sum(wait.number for wait in waits.values())
    if counted.at_most != sum(to_do.values()):
        most = "" if counted.at_most is None else f", at most {counted.at_most}"
        print_result(f"at least {pluralize(sum(to_do.values()), 'job')}{most}: some lines are one job per output")
    if not sum(to_do.values()):
        print_result("nothing left to do")
    elif seconds is None:
        print_result("estimated time unknown: no job of this run has finished yet")
    else:
        print_result(f"estimated time: about {format_duration(seconds)}, from {pluralize(learned, 'job')} so far")


def estimate_seconds(to_do: Mapping[str, int], waits: Mapping[str, WaitStats], *, options: BulkOptions) -> float | None:
    """Return an estimate of the seconds that jobs take, from those that finished; None: none has finished.

    Assumes that as many jobs run at a time as may be in flight, that the last one runs alone, and that each job takes
    two requests.
    """
    if not waits:
        return None
    usual = sum(wait.mean * wait.number for wait in waits.values()) / sum(wait.number for wait in waits.values())
    means = {route: waits[route].mean if route in waits else usual for route, number in to_do.items() if number}
    work = sum(to_do[route] * mean for route, mean in means.items()) / options.load.limits.in_flight
    requests = 2 * sum(to_do.values()) / (options.load.limits.requests_per_second or float("inf"))
    return max(work, requests) + max(means.values(), default=0.0)


class _DryRun:
    """Finds the jobs of a file in the journal, and their dependents as far as outputs are known.

    Args:
        file: the jobs file.
        options: of the run.
        dependents: of the file.
        journal: open; None: the run has no journal yet.
    """

    def __init__(self, file: JobsFile, options: BulkOptions, dependents: Dependents, journal: Journal | None) -> None:
        self.counts: StateCounts = {}
        self._file = file
        self._options = options
        self._dependents = dependents
        self._journal = journal
        self._seen = OccurrenceCounter()
        self._more_at_most: int | None = 0
        self._stack: list[Iterator[Job | Blocked]] = []

    @property
    def to_do(self) -> dict[str, int]:
        """Minimum number of jobs by route that a run would work on."""
        return {route: sum(_pending_counts(states, self._options)) for route, states in self.counts.items()}

    @property
    def at_most(self) -> int | None:
        """Maximum number of jobs that a run would work on; None: unknown, because the service decides."""
        return None if self._more_at_most is None else sum(self.to_do.values()) + self._more_at_most

    async def run(self) -> None:
        """Count all jobs."""
        lines = self._dependents.read_independent(self._file.path)
        jobs = (self._dependents.local.identify(require_valid(self._file.path, line)) for line in lines)
        self._stack.append(jobs)
        while self._stack:
            chunk = await anyio.to_thread.run_sync(self._read_chunk)
            await self._look_up([job for job in chunk if isinstance(job, Job)])
            for blocked in chunk:
                if isinstance(blocked, Blocked):
                    self._count(blocked.route, "blocked")

    def _read_chunk(self) -> list[Job | Blocked]:
        """Read the next jobs, dependents first; blocks."""
        chunk = list(islice(self._stack[-1], CHUNK_LINES))
        if not chunk:
            self._stack.pop()
        return chunk

    async def _look_up(self, jobs: Sequence[Job]) -> None:
        identified = [(job, self._identify(job)) for job in jobs]  # of the whole file: equal lines count as several
        identified = [(job, one) for job, one in identified if self._dependents.is_in(job.line, self._file.part)]
        jobs, identities = [job for job, _ in identified], [one for _, one in identified]
        states: Sequence[JobState | None] = [None] * len(jobs)
        if self._journal is not None:
            states = await self._journal.store.find_states(identities, now=self._journal.store.now)
        for job, identity, state in zip(jobs, identities, states, strict=True):
            self._count(job.request.route, state)
            if self._dependents.graph.has_dependents(job.line):
                record = None if self._journal is None else await self._journal.store.find(identity)
                await self._follow(job, record, state)

    def _identify(self, job: Job) -> JobIdentity:
        """Return the identity of a job in the journal, as a run would compute it."""
        digest, key = job_records.digest(job.request), explicit_key(job.request)
        occurrence = self._seen.count(digest)[0] if key is None else None
        return JobIdentity(digest=digest, occurrence=occurrence, key=key)

    async def _follow(self, job: Job, record: JobRecord | None, state: JobState | None) -> None:
        """Count the dependents of a job: built with its outputs, or by line, or as blocked."""
        if record is not None and record.outputs:
            self._stack.append(self._dependents.make_jobs(job, job_records.restore_operation(record, job.request)))
            return
        waits = _is_pending(state, self._options.policy)
        async with aclosing(iterate_in_thread(self._dependents.block_all(job.line, ""))) as chunks:
            async for chunk in chunks:
                for blocked in chunk:
                    self._count(blocked.route, None if waits else "blocked")
        if waits and self._more_at_most is not None:
            least, most = self._dependents.graph.count_dependents(job.line)
            self._more_at_most = None if most is None else self._more_at_most + most - least

    def _count(self, route: str, state: JobState | Literal["blocked"] | None) -> None:
        self.counts.setdefault(route, Counter())[state] += 1


def _is_pending(state: JobState | Literal["blocked"] | None, policy: RunPolicy) -> bool:
    """Return whether a run would work on a job in that state."""
    settled: dict[object, bool] = {
        JobState.SAVED: False,
        "blocked": False,
        JobState.FAILED: policy.retry_failed,
        JobState.UNCERTAIN: policy.resubmit_uncertain,
    }
    return settled.get(state, True)


def _pending_counts(states: States, options: BulkOptions) -> Iterator[int]:
    """Yield the numbers of jobs that a run would work on."""
    for state, number in states.items():
        if _is_pending(state, options.policy):
            yield number


def _to_json(plan: StateCounts, to_do: Mapping[str, int]) -> dict[str, dict[str, int]]:
    return {
        route: {"lines": states.total(), **{state or "new": states[state] for state in states}, "to_do": to_do[route]}
        for route, states in sorted(plan.items(), key=lambda item: item[0])
    }


def _print_counts(plan: StateCounts, to_do: Mapping[str, int], *, blocked: bool) -> None:
    """Print a row for each route, and one for all."""
    total: States = Counter()
    rows = []
    for route, states in sorted(plan.items(), key=lambda item: item[0]):
        total += states
        rows.append(_row(route, states, to_do[route], blocked=blocked))
    rows.append(_row("all", total, sum(to_do.values()), blocked=blocked))
    columns = ("route", "lines", "saved", "in flight", "failed", "uncertain", *(["blocked"] * blocked), "to do")
    print_table(columns, rows, total=True)


def _row(title: str, states: States, to_do: int, *, blocked: bool) -> tuple[str, ...]:
    numbers = (
        states.total(),
        states[JobState.SAVED],
        sum(states[state] for state in IN_FLIGHT),
        states[JobState.FAILED],
        states[JobState.UNCERTAIN],
        *([states["blocked"]] * blocked),
        to_do,
    )
    return (title, *map(str, numbers))

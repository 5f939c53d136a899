"""Validates a jobs file before anything is sent, and estimates the work for ``--dry-run``."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import anyio

from soundpiece_async import Journal, JournalError
from soundpiece_async._core import job_records
from soundpiece_async._core.job_records import JobIdentity, JobState
from soundpiece_async._journal.journal import JOURNAL
from soundpiece_async._journal.occurrences import OccurrenceCounter
from soundpiece_async._journal.store import WaitStats
from soundpiece_async.cli.bulk_options import BulkOptions
from soundpiece_async.cli.console import UsageError, format_duration, pluralize, print_result, print_status
from soundpiece_async.cli.jobs_file import InvalidLine, iterate_in_thread, read_jobs, require_valid
from soundpiece_async.cli.rich_output import print_table

MAX_PRINTED_LINES = 20
"""Invalid lines that are printed one by one."""

StateCounts = Mapping[str, Counter[JobState | None]]
"""Number of lines of each route by state; None: not in the journal."""

IN_FLIGHT = (JobState.SENDING, JobState.SUBMITTED, JobState.READY)


async def validate_file(options: BulkOptions) -> int:
    """Validate every line, print the invalid ones, and return the number of lines.

    Raises:
        UsageError: some lines are invalid.
    """
    right = wrong = 0
    async with aclosing(iterate_in_thread(read_jobs(options.jobs))) as chunks:
        async for chunk in chunks:
            for job in chunk:
                if isinstance(job, InvalidLine):
                    wrong += 1
                    if wrong <= MAX_PRINTED_LINES:
                        print_status(f"{options.jobs_title}:{job.line}: {job.fault}")
                else:
                    right += 1
    if wrong:
        shown = f" (the first {MAX_PRINTED_LINES} are printed above)" if wrong > MAX_PRINTED_LINES else ""
        total = pluralize(right + wrong, "line")
        raise UsageError(f"{options.jobs_title}: {wrong} of {total} invalid{shown}; nothing was sent")
    return right


async def dry_run(options: BulkOptions) -> None:
    """Print the work that a run would do, and an estimate of its time; nothing is sent, locked or written."""
    async with AsyncExitStack() as stack:
        journal = None
        if await anyio.Path(options.journal_folder, JOURNAL).exists():
            try:
                journal = await stack.enter_async_context(Journal.open(options.journal_folder, read_only=True))
            except JournalError as error:
                raise UsageError(str(error)) from error
        plan = await _count_states(options.jobs, journal)
        waits = {} if journal is None else await journal.store.measure_waits()
    to_do = {route: sum(_pending_counts(states, options)) for route, states in plan.items()}
    seconds = estimate_seconds(to_do, waits, options=options)
    if options.policy.as_json:
        print_result(json.dumps({"dry_run": {"routes": _to_json(plan, to_do), "seconds": seconds}}))
        return
    _print_counts(plan, to_do)
    learned = sum(wait.number for wait in waits.values())
    if not sum(to_do.values()):
        print_result("nothing left to do")
    elif seconds is None:
        print_result("estimated time unknown: no job has finished in this folder yet")
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


async def _count_states(path: Path, journal: Journal | None) -> StateCounts:
    """Count the lines of each route by their state in the journal."""
    plan: dict[str, Counter[JobState | None]] = {}
    async with aclosing(iterate_in_thread(_identities(path))) as chunks:
        async for chunk in chunks:
            states: Sequence[JobState | None] = [None] * len(chunk)
            if journal is not None:
                states = await journal.store.find_states([identity for _, identity in chunk], now=time.time())
            for (route, _), state in zip(chunk, states, strict=True):
                plan.setdefault(route, Counter())[state] += 1
    return plan


def _identities(path: Path) -> Iterator[tuple[str, JobIdentity]]:
    """Yield the route and the identity of each line, as a run would compute them."""
    seen = OccurrenceCounter()
    for job in read_jobs(path):
        request = require_valid(path, job).request
        digest, key = job_records.digest(request), job_records.explicit_key(request)
        occurrence = seen.count(digest)[0] if key is None else None
        yield request.route, JobIdentity(digest=digest, occurrence=occurrence, key=key)


def _pending_counts(states: Counter[JobState | None], options: BulkOptions) -> Iterator[int]:
    """Yield the numbers of lines that a run would work on."""
    for state, number in states.items():
        left_alone = (
            state is JobState.SAVED
            or (state is JobState.FAILED and not options.policy.retry_failed)
            or (state is JobState.UNCERTAIN and not options.policy.resubmit_uncertain)
        )
        if not left_alone:
            yield number


def _to_json(plan: StateCounts, to_do: Mapping[str, int]) -> dict[str, dict[str, int]]:
    return {
        route: {"lines": states.total(), **{state or "new": states[state] for state in states}, "to_do": to_do[route]}
        for route, states in sorted(plan.items(), key=lambda item: item[0])
    }


def _print_counts(plan: StateCounts, to_do: Mapping[str, int]) -> None:
    """Print a row for each route, and one for all."""
    total: Counter[JobState | None] = Counter()
    rows = []
    for route, states in sorted(plan.items(), key=lambda item: item[0]):
        total += states
        rows.append(_row(route, states, to_do[route]))
    rows.append(_row("all", total, sum(to_do.values())))
    print_table(("route", "lines", "saved", "in flight", "failed", "uncertain", "to do"), rows, total=True)


def _row(title: str, states: Counter[JobState | None], to_do: int) -> tuple[str, ...]:
    in_flight = sum(states[state] for state in IN_FLIGHT)
    numbers = (
        states.total(),
        states[JobState.SAVED],
        in_flight,
        states[JobState.FAILED],
        states[JobState.UNCERTAIN],
        to_do,
    )
    return (title, *map(str, numbers))

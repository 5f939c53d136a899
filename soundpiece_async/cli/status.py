"""``soundpiece status``: progress of a bulk run, while it is running and afterwards."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from soundpiece_async import Journal
from soundpiece_async._core.job_records import JobRecord, JobState
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._journal.store import FailureGroup, JobStore
from soundpiece_async.cli.arguments import DESTINATION
from soundpiece_async.cli.blocked_jobs import read_blocked_jobs
from soundpiece_async.cli.console import (
    format_duration,
    format_echo_differences,
    format_verify_levels,
    pluralize,
    print_result,
)
from soundpiece_async.cli.journal_options import DEFAULT_JOURNAL, JournalOptions, RunLocation
from soundpiece_async.cli.rich_output import print_table

MAX_LISTED = 20
"""Failure groups and uncertain jobs that are listed."""
PACE_WINDOW = 300.0
"""Seconds over which the throughput is measured."""


@attrs.frozen(kw_only=True)
class RunStatus:
    """Status of a run.

    Attributes:
        holder: the process that is running it; None: none, or any number of them share the journal.
        shared: whether they may.
        refusal: the HTTP status by which the account has stopped the processes that share it; None: none has.
        lines: of its jobs file; None: not a run of ``soundpiece bulk``.
        routes: number of jobs of each route by state.
        reasons: groups of failures.
        uncertain: the first uncertain jobs.
        echo_differences: how often the service echoed each field with another value.
        pace: jobs per second that ended lately.
        verified: number of files by the level of checks they have passed.
        dependents: number of lines that take their source from other lines.
        dependent_states: number of jobs made from outputs of others, by state.
        blocking: number of jobs that the latest run could not send, by the line that blocks them, and the reason.
        unread: lines of the jobs file without a job; too small if lines were edited or removed.
        complete: whether lines that are one job per output can be no more jobs.
    """

    holder: str | None
    lines: int | None
    routes: Mapping[str, Mapping[JobState, int]]
    reasons: tuple[FailureGroup, ...]
    uncertain: tuple[JobRecord, ...]
    echo_differences: Mapping[str, int]
    pace: float
    verified: Mapping[str, int]
    dependents: int = 0
    dependent_states: Mapping[JobState, int] = attrs.field(factory=dict)
    blocking: Mapping[tuple[int, str], int] = attrs.field(factory=dict)
    unread: int = 0
    complete: bool = True
    shared: bool = False
    refusal: int | None = None

    @property
    def states(self) -> dict[JobState, int]:
        """Number of jobs by state."""
        totals = dict.fromkeys(JobState, 0)
        for counts in self.routes.values():
            for state, number in counts.items():
                totals[state] += number
        return totals

    @property
    def left(self) -> float | None:
        """Seconds left at this pace; None: not running, or nothing ended lately."""
        ended = self.states[JobState.SAVED] + self.states[JobState.FAILED] + self.states[JobState.UNCERTAIN]
        open_ones = sum(self.states.values()) + self.unread - ended
        return open_ones / self.pace if (self.holder or self.shared) and self.pace else None


async def status(
    out: Annotated[str | Path, DESTINATION],
    /,
    *,
    record: JournalOptions = DEFAULT_JOURNAL,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> None:
    """Show the progress of the bulk run in OUT: jobs by state, and the reasons of failures.

    Read-only; safe to run while a bulk run is active.

    Args:
        out: folder of the run.
        record: place of the journal.
        as_json: print one JSON object instead.
    """
    location = record.locate(out)
    run_status = await read_run_status(location)
    if as_json:
        print_result(json.dumps(to_json(run_status)))
        return
    _print_table(run_status)
    for line in (*_summary_lines(run_status), *format_verify_levels(run_status.verified, arguments=location.arguments)):
        print_result(line)


async def read_run_status(location: RunLocation) -> RunStatus:
    """Read the status of a run.

    Raises:
        UsageError: there is no such run, or the folder has no readable journal.
        JournalError: the journal cannot be read.
    """
    holder = await location.find_holder()
    async with location.reading() as journal:
        return await _read(journal, journal.store, holder)


async def _read(journal: Journal, store: JobStore, holder: str | None) -> RunStatus:
    now = store.now
    info = await store.load_run_info("lines", "dependents", "complete", "unplanned")
    overview = await store.look_over(now=now, since=now - PACE_WINDOW)
    uncertain = sum(counts.get(JobState.UNCERTAIN, 0) for counts in overview.routes.values())
    listed = min(MAX_LISTED, uncertain)
    lines, dependents, complete = map(info.get, ("lines", "dependents", "complete"))
    blocking, blocked_lines = await _count_blocked(store)
    return RunStatus(
        holder=holder,
        lines=lines if isinstance(lines, int) else None,
        unread=await _count_unread(store, info, blocked_lines),
        complete=complete is not False,
        routes=overview.routes,
        reasons=overview.failures,
        uncertain=tuple(await journal.jobs(JobState.UNCERTAIN, limit=listed)) if listed else (),
        echo_differences=overview.echo_differences,
        pace=overview.ended / PACE_WINDOW,
        verified=overview.verified,
        dependents=dependents if isinstance(dependents, int) else 0,
        dependent_states=overview.dependents,
        blocking=blocking,
        shared=journal.run is not None,
        refusal=store.refusal.status if store.refusal else None,
    )


async def _count_unread(store: JobStore, info: JsonObject, blocked_lines: int) -> int:
    """Return the number of lines without a job; of a run that was planned as a whole none need be counted."""
    lines = info.get("lines")
    if not isinstance(lines, int) or info.get("unplanned") == 0:
        return 0
    return max(0, lines - await store.count_lines() - blocked_lines)


async def _count_blocked(store: JobStore) -> tuple[Counter[tuple[int, str]], int]:
    """Return the number of blocked jobs by blocking line and reason, and the number of their lines."""
    blocking: Counter[tuple[int, str]] = Counter()
    lines: set[int] = set()
    async with aclosing(read_blocked_jobs(store)) as pages:
        async for page in pages:
            blocking.update((int(job["blocked_by"]), str(job["reason"])) for job in page)
            lines.update(int(job["line"]) for job in page)
    return blocking, len(lines)


def to_json(run_status: RunStatus) -> JsonObject:
    """Return the status as a JSON object."""
    return {
        "lines": run_status.lines,
        "unread": run_status.unread,
        "unread_is_minimum": not run_status.complete,
        "states": run_status.states,
        "routes": run_status.routes,
        "reasons": [attrs.asdict(reason) for reason in run_status.reasons],
        "uncertain": [
            {"key": job.key, "route": job.route, "name": job.name, "sent_at": job.sent_at}
            for job in run_status.uncertain
        ],
        "dependents": {"lines": run_status.dependents, "states": run_status.dependent_states},
        "blocked": [
            {"blocked_by": {"line": line}, "reason": reason, "jobs": number}
            for (line, reason), number in run_status.blocking.items()
        ],
        "verified": run_status.verified,
        "echo_differences": run_status.echo_differences,
        "worked_on_by": run_status.holder,
        "refused": run_status.refusal,
        "seconds_left": run_status.left,
    }


def _print_table(run_status: RunStatus) -> None:
    """Print a row for each route, and one for the total."""
    rows = [(route, *(str(counts.get(state, 0)) for state in JobState)) for route, counts in run_status.routes.items()]
    print_table(("route", *JobState), [*rows, ("all", *map(str, run_status.states.values()))], total=True)


def _summary_lines(run_status: RunStatus) -> list[str]:
    """Return lines on what the table does not show."""
    lines = []
    left = "" if run_status.left is None else f"; about {format_duration(run_status.left)} left"
    if run_status.shared:
        ended = f"{round(run_status.pace * PACE_WINDOW)} ended in the last {format_duration(PACE_WINDOW)}"
        lines.append(f"{ended}{left}")
    elif run_status.holder:
        lines.append(f"running: {run_status.holder}{left}")
    else:
        lines.append("not running")
    if run_status.refusal:
        lines.append(f"stopped by the account: status {run_status.refusal}; one job is sent first by the next process")
    unread = f"{pluralize(run_status.unread, 'line')} of the jobs file not started"
    if not run_status.complete:
        lines.append(f"at least {unread}, and lines that are one job per output may have more jobs")
    elif run_status.unread:
        lines.append(unread)
    if run_status.dependents:
        begun = run_status.dependent_states
        saved, all_begun = begun.get(JobState.SAVED, 0), sum(begun.values())
        dependents = pluralize(run_status.dependents, "line")
        lines.append(f"{dependents} made from outputs of others: {all_begun} jobs started, {saved} of them saved")
    for (line, why), number in list(run_status.blocking.items())[:MAX_LISTED]:
        lines.append(f"{number} blocked by line {line}: {why}")
    for reason in run_status.reasons[:MAX_LISTED]:
        code = f" {reason.code}" if reason.code else ""
        lines.append(f"{reason.number} failed: {reason.kind}{code}, for example: {reason.text}")
    lines += [echoed] if (echoed := format_echo_differences(run_status.echo_differences)) else []
    lines += [f"uncertain: {job.route} {job.name or ''} key {job.key}" for job in run_status.uncertain]
    if run_status.uncertain:
        lines.append("--resubmit-uncertain sends uncertain jobs again; they may be charged twice")
    return lines

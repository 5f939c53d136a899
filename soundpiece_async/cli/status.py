"""``soundpiece status``: how far a bulk run is, while it works and afterwards."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import attrs
from cyclopts import Parameter

from soundpiece_async import Journal, JournalError
from soundpiece_async._core.job_records import JobRecord, JobState
from soundpiece_async._journal.journal import LOCK, FolderLock
from soundpiece_async._journal.store import FailureGroup, JobStore
from soundpiece_async.cli.arguments import FOLDER
from soundpiece_async.cli.console import (
    UsageError,
    format_duration,
    format_echo_differences,
    format_verify_levels,
    pluralize,
    print_result,
)
from soundpiece_async.cli.rich_output import print_table

MAX_LISTED = 20
"""Reasons, and uncertain pieces, that are listed."""
PACE_WINDOW = 300.0
"""Seconds that the pace is measured over."""


@attrs.frozen(kw_only=True)
class RunStatus:
    """How a run stands.

    Attributes:
        holder: the process that works on it now.
        lines: of its jobs file; None: it is no run of ``soundpiece bulk``.
        routes: how many pieces of each are how far.
        reasons: why some failed.
        uncertain: pieces that only the user can decide about, the first of them.
        echo_differences: how often the service echoed each member otherwise than it was sent.
        pace: pieces that ended in the latest minutes, per second.
        verified: how many files have passed which level of checks.
    """

    holder: str | None
    lines: int | None
    routes: Mapping[str, Mapping[JobState, int]]
    reasons: tuple[FailureGroup, ...]
    uncertain: tuple[JobRecord, ...]
    echo_differences: Mapping[str, int]
    pace: float
    verified: Mapping[str, int]

    @property
    def states(self) -> dict[JobState, int]:
        """How many pieces are how far."""
        totals = dict.fromkeys(JobState, 0)
        for counts in self.routes.values():
            for state, number in counts.items():
                totals[state] += number
        return totals

    @property
    def unread(self) -> int:
        """Lines of the jobs file that no piece was made of yet; edited and removed ones make this too small."""
        return max(0, (self.lines or 0) - sum(self.states.values()))

    @property
    def left(self) -> float | None:
        """Seconds until the end, at this pace; None: nobody works on it, or nothing ended lately."""
        ended = self.states[JobState.SAVED] + self.states[JobState.FAILED] + self.states[JobState.UNCERTAIN]
        open_ones = sum(self.states.values()) + self.unread - ended
        return open_ones / self.pace if self.holder and self.pace else None


async def status(
    out: Annotated[Path, FOLDER],
    /,
    *,
    journal: Annotated[Path | None, FOLDER] = None,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> None:
    """Say how far the run of a folder is: what is saved, failed and under way, and why some failed.

    It reads the journal only, and disturbs nobody who is writing it.

    Args:
        out: the folder.
        journal: the folder of the journal, where it is another one.
        as_json: print one JSON object instead.
    """
    run_status = await read_run_status(journal or out)
    if as_json:
        print_result(json.dumps(to_json(run_status)))
        return
    _print_table(run_status)
    for line in (*_summary_lines(run_status), *format_verify_levels(run_status.verified, out=out)):
        print_result(line)


async def read_run_status(out: Path) -> RunStatus:
    """Read how the run of a folder stands.

    Raises:
        UsageError: it has no journal that can be read.
    """
    try:
        holder = await anyio.to_thread.run_sync(FolderLock(out / LOCK).holder)
        async with Journal.open(out, read_only=True) as journal:
            return await _read(journal, journal.store, holder)
    except JournalError as error:
        raise UsageError(str(error)) from error


async def _read(journal: Journal, store: JobStore, holder: str | None) -> RunStatus:
    now = time.time()
    lines = (await store.load_run_info()).get("lines")
    return RunStatus(
        holder=holder,
        lines=lines if isinstance(lines, int) else None,
        routes=await store.count_by_route(now=now),
        reasons=tuple(await store.group_failures()),
        uncertain=tuple(await journal.jobs(JobState.UNCERTAIN, limit=MAX_LISTED)),
        echo_differences=await store.count_echo_differences(),
        pace=await store.count_ended_since(now - PACE_WINDOW) / PACE_WINDOW,
        verified=await store.count_verified(),
    )


def to_json(run_status: RunStatus) -> dict[str, Any]:
    """Give a standing as members of a JSON object."""
    return {
        "lines": run_status.lines,
        "unread": run_status.unread,
        "states": run_status.states,
        "routes": run_status.routes,
        "reasons": [attrs.asdict(reason) for reason in run_status.reasons],
        "uncertain": [
            {"key": piece.key, "route": piece.route, "name": piece.name, "sent_at": piece.sent_at}
            for piece in run_status.uncertain
        ],
        "verified": run_status.verified,
        "echo_differences": run_status.echo_differences,
        "worked_on_by": run_status.holder,
        "seconds_left": run_status.left,
    }


def _print_table(run_status: RunStatus) -> None:
    """Print a row for each route, and one for all."""
    rows = [(route, *(str(counts.get(state, 0)) for state in JobState)) for route, counts in run_status.routes.items()]
    print_table(("route", *JobState), [*rows, ("all", *map(str, run_status.states.values()))], total=True)


def _summary_lines(run_status: RunStatus) -> list[str]:
    """Say what the table does not."""
    lines = []
    if run_status.holder:
        left = "" if run_status.left is None else f"; about {format_duration(run_status.left)} left"
        lines.append(f"being worked on by {run_status.holder}{left}")
    else:
        lines.append("nobody works on it now")
    if run_status.unread:
        lines.append(f"{pluralize(run_status.unread, 'line')} of the jobs file not begun")
    for reason in run_status.reasons[:MAX_LISTED]:
        code = f" {reason.code}" if reason.code else ""
        lines.append(f"{reason.number} failed: {reason.kind}{code}, as: {reason.text}")
    lines += [echoed] if (echoed := format_echo_differences(run_status.echo_differences)) else []
    lines += [f"uncertain: {piece.route} {piece.name or ''} key {piece.key}" for piece in run_status.uncertain]
    if run_status.uncertain:
        lines.append("--resubmit-uncertain sends uncertain ones again, at the risk of paying for them twice")
    return lines

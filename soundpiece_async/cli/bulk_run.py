"""One bulk run of the command line: its results printed, counted and summed up, and its stop."""

import json
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from soundpiece_async import (
    AuthenticationError,
    Failed,
    InsufficientCredits,
    Journal,
    Request,
    SettingsError,
    SoundpieceError,
    Succeeded,
    TransportError,
)
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._download.partfile import is_full
from soundpiece_async.cli.arguments import WHOLE
from soundpiece_async.cli.blocked_jobs import BlockedJobs
from soundpiece_async.cli.bulk_options import BulkOptions, JobsFile
from soundpiece_async.cli.bulk_progress import ProgressDisplay, background_tasks, shutdown_notice
from soundpiece_async.cli.console import (
    ACCOUNT_ERROR,
    DONE,
    FAILED,
    INTERRUPTED,
    TAKEN_OVER,
    format_duration,
    format_echo_differences,
    format_size,
    pluralize,
    print_result,
    print_status,
    translate_advice,
)
from soundpiece_async.cli.job_reader import JobReader
from soundpiece_async.cli.results import (
    JobOutcome,
    Result,
    ResultCounts,
    RunStopped,
    format_blocked,
    format_json_line,
)
from soundpiece_async.cli.signals import GracefulStop

if TYPE_CHECKING:
    from soundpiece_async import RunMany, Session

RESUME_NOTE = "the journal is complete: run the same command again to resume; nothing is paid for twice"
"""Printed when a run ends early."""
MAX_PRINTED_FAILURES = 20
"""Failures that are printed one by one."""


class BulkCommand:
    """One run of a jobs file.

    Args:
        options: of the run.
        file: the jobs file; None: the jobs come from the journal.
        reader: of the jobs.
        totals: with the number of lines, or of jobs.
        journal, session: open.
    """

    def __init__(
        self,
        options: BulkOptions,
        *,
        file: JobsFile | None,
        reader: JobReader,
        totals: ResultCounts,
        journal: Journal,
        session: "Session",
    ) -> None:
        self.totals = totals
        self._options = options
        self._file = file
        self._lines = totals.lines
        self._journal = journal
        self._blocked = BlockedJobs(journal.store, part=WHOLE if file is None else file.part)
        self._reader = reader
        self._printed = 0
        self._interrupted = anyio.Event()
        self._started = anyio.current_time()
        self._statistics = session.statistics
        self._display = ProgressDisplay(self.totals, progress=journal.store.progress, statistics=session.statistics)
        self._results: RunMany[Request] = session.run_many(
            self._reader.read(),
            save_to=options.location.out,
            journal=journal,
            timeout=options.load.job_timeout,
        )

    def __repr__(self) -> str:
        return f"<BulkCommand {self._reader!r} {self.totals!r}>"

    async def run(self) -> None:
        """Run until all jobs are done, or the run is stopped."""
        await self._flush_blocked()
        with GracefulStop(self._interrupt):
            try:
                async with background_tasks(self._display.follow, self._announce_shutdown), self._results:
                    async for result in self._results:
                        await self._handle(result)
                    await self._report_blocked()
                    await self._flush_blocked()
            except anyio.get_cancelled_exc_class():
                left = pluralize(len(self._results.pending), "job")
                arguments = self._options.location.arguments
                print_status(f"stopped with {left} in flight; {RESUME_NOTE}, as by: soundpiece resume {arguments}")
                raise

    async def _handle(self, result: Result) -> None:
        """Count and print a result; stop the run if the result requires it."""
        job = self._reader.pop(result.request)
        outcome = self.totals.add(result)
        if self.totals.stop_error is not None and not isinstance(self.totals.stop_error, InsufficientCredits):
            # after a 402, jobs that were submitted earlier are still awaited, whatever their lines
            self._reader.stop()
        if self.totals.fresh_failures >= self._options.policy.failure_limit:
            self._stop(RunStopped("too many jobs failed"))
        if isinstance(result, Failed) and (is_full(result.error) or isinstance(result.error, SettingsError)):
            self._stop(RunStopped("cannot write files"))
        blocking = f"{outcome}: {result.error}" if isinstance(result, Failed) else None
        elsewhere = outcome in (JobOutcome.UNSENT, JobOutcome.TAKEN_OVER)
        self._reader.settle(job, blocking=None if elsewhere else blocking)
        await self._report_blocked()
        if elsewhere or (result.from_journal and not self._options.policy.show_all):
            return
        if isinstance(result, Failed):
            self._print_failure(job.line, f"{outcome}: {translate_advice(str(result.error), flag=None)}")
        await _print([format_json_line(job, result, outcome)] if self._options.policy.as_json else _list_paths(result))

    async def _report_blocked(self) -> None:
        """Count and print the jobs that were blocked since the last result."""
        async with aclosing(self._reader.read_blocked()) as found:
            async for blocked in found:
                self.totals.outcomes[JobOutcome.BLOCKED] += 1
                await self._blocked.add(attrs.asdict(blocked))
                reason = translate_advice(blocked.reason, flag=None)
                self._print_failure(blocked.line, f"blocked by line {blocked.blocked_by}: {reason}")
                await _print([format_blocked(blocked)] if self._options.policy.as_json else [])

    async def _flush_blocked(self) -> None:
        """Record the blocked jobs; a run without a jobs file has none, and leaves those of a run that had one."""
        if self._file is not None:
            await self._blocked.flush()

    def _print_failure(self, line: int, reason: str) -> None:
        self._printed += 1
        if self._printed <= MAX_PRINTED_FAILURES:
            where = f"line {line}" if self._file is None else f"{self._file}:{line}"
            print_status(f"{where}: {reason}")

    def _interrupt(self) -> None:
        self._interrupted.set()
        self._stop(RunStopped("the run was interrupted before this job was sent"))

    def _stop(self, why: SoundpieceError) -> None:
        """Stop reading and submitting; jobs in flight finish."""
        self._reader.stop()
        self._results.stop(why)

    async def _announce_shutdown(self) -> None:
        """Print what happens after the first signal, and how long it takes."""
        await self._interrupted.wait()
        pending = self._results.pending
        waits = await self._journal.store.measure_waits()
        longest = max((waits[handle.route].longest for handle in pending if handle.route in waits), default=None)
        known = self._statistics()
        notice = shutdown_notice(
            len(pending), longest=longest, paused_for=known.paused_for, unanswered=known.active_submits
        )
        print_status(f"interrupted: no more jobs are submitted; {notice}")

    def finish(self, *, journal_error: SoundpieceError | None = None) -> int:
        """Print the summary and the next steps, and return the exit code.

        Args:
            journal_error: why the next run will not find the journal.
        """
        totals, arguments = self.totals, self._options.location.arguments
        counts = totals.to_json()
        took = anyio.current_time() - self._started
        if self._options.policy.as_json:
            summary = {**counts, "left_is_minimum": self._reader.more}
            print_result(_summary_line(summary, seconds=took), kept=RESUME_NOTE)
        rare = [name for name in ("blocked", "taken_over") if counts[name]]
        names = ("saved", "failed", "unfinished", "uncertain", *rare, "left")
        minimum = {"left": "at least "} if self._reader.more else {}
        counted = ", ".join(f"{minimum.get(name, '')}{counts[name]} {name.replace('_', ' ')}" for name in names)
        saved = f"{pluralize(totals.files, 'file')}, {format_size(totals.bytes)}"
        jobs = f", {totals.lines} jobs" * (totals.lines > self._lines)
        lines = pluralize(self._lines, "line" if self._file else "job")
        print_status(f"{lines}{jobs}: {counted}; {saved}, {format_duration(took)}")
        if echoed := format_echo_differences(totals.echo_differences):
            print_status(echoed)
        if journal_error is not None:
            print_status(f"stopped: {journal_error}")
            return FAILED
        for line in self._hints():
            print_status(line)
        resume_hint = (
            f"run the same command again, or soundpiece resume {arguments}; keys are kept and nothing is paid for twice"
        )
        if totals.stop_error is not None:
            account_error = isinstance(totals.stop_error, AuthenticationError | InsufficientCredits)
            print_status(f"stopped{' by an account error' * account_error}: {totals.stop_error}")
            print_status(f"{_stop_advice(totals.stop_error)}{resume_hint}")
            return INTERRUPTED if self._interrupted.is_set() else ACCOUNT_ERROR if account_error else FAILED
        if counts["left"] or counts["unfinished"]:
            print_status(f"not all jobs are done: {resume_hint}")
        if self._interrupted.is_set():
            return INTERRUPTED
        if totals.outcomes[JobOutcome.TAKEN_OVER]:
            taken = pluralize(totals.outcomes[JobOutcome.TAKEN_OVER], "job")
            print_status(f"{taken} taken over by another process, which continues: do not start this one again")
            return TAKEN_OVER
        return FAILED if totals.failures else DONE

    def _hints(self) -> list[str]:
        """Return notes on the counts: results that were not printed, and how to handle failures."""
        totals, lines = self.totals, []
        if totals.earlier and not self._options.policy.show_all:
            new = totals.ended - totals.earlier
            lines.append(f"{new} new; {pluralize(totals.earlier, 'result')} of earlier runs not printed (use --all)")
        if self._printed > MAX_PRINTED_FAILURES:
            arguments = self._options.location.arguments
            lines.append(
                f"the first {MAX_PRINTED_FAILURES} failures are printed above; for all reasons: "
                f"soundpiece status {arguments}"
            )
        if totals.unsaved:
            lines.append(
                "outputs that could not be saved are downloaded by the next run at no cost; fix the errors above first"
            )
        if totals.outcomes[JobOutcome.BLOCKED]:
            lines.append("blocked jobs are sent once their source is ready; fix the errors above first")
        if totals.outcomes[JobOutcome.FAILED] > totals.unsaved:
            lines.append("failed jobs are not retried: edit the line, or use --retry-failed (charges again)")
        return lines


def _summary_line(counts: JsonObject, *, seconds: float) -> str:
    """Return the last line of JSON."""
    return json.dumps({"summary": {**counts, "seconds": round(seconds, 3)}})


async def _print(lines: Sequence[str]) -> None:
    """Print results in a thread: a slow reader of standard output must not block the loop."""
    if lines:
        await anyio.to_thread.run_sync(
            partial(print_result, "\n".join(lines), kept=RESUME_NOTE), abandon_on_cancel=True
        )


def _list_paths(result: Result) -> list[str]:
    return [file.location for file in result.files] if isinstance(result, Succeeded) else []


def _stop_advice(stop_error: SoundpieceError) -> str:
    """Return the first step after an error that stopped the run; how to resume follows it."""
    match stop_error:
        case AuthenticationError():
            return "check SOUNDPIECE_API_KEY in the dashboard, and the addresses it may be used from; then "
        case InsufficientCredits():
            return "top up the account in the dashboard; then "
        case TransportError():
            return "check SOUNDPIECE_BASE_URL and the network; then "
    return ""  # the message of a SettingsError says what to do

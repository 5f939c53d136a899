"""``soundpiece bulk`` and ``soundpiece resume``: run every job of a file, and resume after any interruption."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import anyio.to_thread
import attrs

from soundpiece_async import (
    AuthenticationError,
    Failed,
    InsufficientCredits,
    Journal,
    JournalError,
    Request,
    SettingsError,
    SoundpieceError,
    Succeeded,
    TransportError,
)
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._download.partfile import is_full
from soundpiece_async._journal.journal import LOCK, FolderLock
from soundpiece_async.cli.arguments import FOLDER
from soundpiece_async.cli.bulk_check import dry_run, validate_file
from soundpiece_async.cli.bulk_options import DEFAULT_LOAD, DEFAULT_POLICY, BulkOptions, LoadOptions, RunPolicy
from soundpiece_async.cli.bulk_progress import ProgressDisplay, background_tasks, shutdown_notice
from soundpiece_async.cli.console import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    UsageError,
    format_duration,
    format_echo_differences,
    format_size,
    pluralize,
    print_result,
    print_status,
    translate_advice,
)
from soundpiece_async.cli.dependents import Dependents
from soundpiece_async.cli.job_reader import JobReader
from soundpiece_async.cli.jobs_file import (
    SPOOLED_NAME,
    STANDARD_INPUT,
    keep_spooled,
    require_regular_file,
    spool_standard_input,
)
from soundpiece_async.cli.report import write_report
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


async def bulk(
    jobs: Path,
    out: Annotated[Path, FOLDER],
    /,
    *,
    journal: Annotated[Path | None, FOLDER] = None,
    load: LoadOptions = DEFAULT_LOAD,
    policy: RunPolicy = DEFAULT_POLICY,
) -> int:
    """Run every job in JOBS and save the results in OUT. Re-run the same command to resume.

    Each line of JOBS is one job, as a JSON object or a CSV record: a "route", the fields of that route's request, and
    optionally a "name" for the files and "metadata". Its source may be an output of another line, by that line's "id":
    {"job": "ID", "output": 0}. The whole file is validated before anything is sent. The paths of saved files are
    printed; those of earlier runs only with --all.

    SOUNDPIECE_API_KEY holds the API key; SOUNDPIECE_BASE_URL selects a service other than the public one.

    Exit codes: 0 all jobs saved; 1 some failed or unfinished; 2 usage error or invalid lines; 3 rejected by the account
    (invalid key, no credits); 130 interrupted. The first Ctrl-C or SIGTERM waits for the jobs in flight; the second
    stops at once.

    Args:
        jobs: jobs file: .csv and .tsv are parsed as CSV, anything else as JSON Lines unless its first line is a CSV
            header; - reads standard input and keeps a copy beside the journal.
        out: folder for the files and the journal.
        journal: folder for the journal and the report, if not OUT; later commands need the same option.
        load: limits of the run.
        policy: when to retry, stop and print.
    """
    options = BulkOptions(jobs=jobs, out=out, journal=journal, load=load, policy=policy)
    if jobs != STANDARD_INPUT:
        return await _run(options)
    async with spool_standard_input() as path:
        return await _run(attrs.evolve(options, jobs=path, spooled=True))


async def resume(
    out: Annotated[Path, FOLDER],
    /,
    *,
    journal: Annotated[Path | None, FOLDER] = None,
    load: LoadOptions = DEFAULT_LOAD,
    policy: RunPolicy = DEFAULT_POLICY,
) -> int:
    """Resume the bulk run in OUT with its original jobs file and options.

    Args:
        out: folder of the run.
        journal: folder of the journal, if not OUT.
        load: replaces the limits of the earlier run.
        policy: that of earlier runs is not used.
    """
    try:
        async with Journal.open(journal or out, read_only=True) as record:
            kept = await record.store.load_run_info()
    except JournalError as error:
        raise UsageError(str(error)) from error
    if not isinstance(kept.get("jobs"), str):
        raise UsageError(f"{journal or out} has no bulk run. Start one with: soundpiece bulk JOBS {out}")
    jobs = await _locate_jobs(kept["jobs"], out, journal or out)
    await require_regular_file(jobs)
    if await _sha256(jobs) != kept.get("sha256"):
        print_status(f"{jobs} has changed since the last run; its new lines are run too")
    options = kept.get("options")
    load = load.with_defaults(options if isinstance(options, dict) else {})
    return await _run(BulkOptions(jobs=jobs, out=out, journal=journal, load=load, policy=policy))


async def _run(options: BulkOptions) -> int:
    await require_regular_file(options.jobs)
    if options.policy.dry_run:
        _ = options.load.limits  # raises for invalid limits, as a real run does
        _, dependents = await validate_file(options)
        await dry_run(options, dependents)
        return DONE
    session = options.load.make_session()
    await _require_unlocked(options.journal_folder)
    lines, dependents = await validate_file(options)
    journal = await _open_journal(options)
    async with journal:
        async with session:
            if options.spooled:
                options = attrs.evolve(
                    options, jobs=await keep_spooled(options.jobs, options.journal_folder), spooled=False
                )
            await journal.store.save_run_info(
                jobs=str(await anyio.Path(options.jobs).absolute()),
                sha256=await _sha256(options.jobs),
                lines=lines,
                jobs_expected=lines,
                dependents=len(dependents.graph),
                blocked=[],
                options=options.load.explicit,
            )
            print_status(f"{pluralize(lines, 'job')} in {options.jobs}, saving to {options.out}")
            command = BulkCommand(options, lines=lines, dependents=dependents, journal=journal, session=session)
            await command.run()
        trouble = await _write_report(journal, options)
        return command.finish(lost=await journal.store.find_loss()) or trouble


async def _write_report(journal: Journal, options: BulkOptions) -> int:
    """Write the report and return an exit code: a run whose report cannot be written has failed."""
    try:
        page = await write_report(journal, resume=f"soundpiece resume {options.arguments}")
    except OSError as error:
        print_status(f"cannot write the report: {error}; the files and the journal are complete")
        return FAILED
    print_status(f"report: {page}")
    return DONE


async def _open_journal(options: BulkOptions) -> Journal:
    try:
        return await Journal.open(
            options.journal_folder,
            resubmit_uncertain=options.policy.resubmit_uncertain,
            retry_failed=options.policy.retry_failed,
        )
    except JournalError as error:
        raise UsageError(str(error)) from error


async def _require_unlocked(out: Path) -> None:
    """Raise if another process works in a folder, before a long file is validated; opening the journal does too."""
    try:
        holder = await anyio.to_thread.run_sync(FolderLock(out / LOCK).holder)
    except JournalError as error:
        raise UsageError(str(error)) from error
    if holder is not None:
        raise UsageError(f"{out} is locked by {holder}. Wait for it to finish or stop it.")


async def _locate_jobs(remembered: str, out: Path, record: Path) -> Path:
    """Return the path of the jobs file: where it was or, if both were moved, beside the folder or in it."""
    jobs = Path(remembered)
    for path in (jobs, out.parent / jobs.name, record / SPOOLED_NAME if jobs.name == SPOOLED_NAME else jobs):
        if await anyio.Path(path).exists():
            return path
    return jobs


async def _sha256(path: Path) -> str:
    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return await anyio.to_thread.run_sync(read)


RESUME_NOTE = "the journal is complete: run the same command again to resume; nothing is paid for twice"
"""Printed when a run ends early."""
MAX_RECORDED_BLOCKED = 1000
"""Blocked jobs that the report lists."""
MAX_PRINTED_FAILURES = 20
"""Failures that are printed one by one."""


class BulkCommand:
    """One run of a jobs file.

    Args:
        options: of the run.
        lines: number of lines in the file.
        dependents: the jobs that take their source from others.
        journal, session: open.
    """

    def __init__(
        self, options: BulkOptions, *, lines: int, dependents: Dependents, journal: Journal, session: "Session"
    ) -> None:
        self.totals: ResultCounts = ResultCounts(lines)
        self._options = options
        self._lines = lines
        self._journal = journal
        self._reader = JobReader(options.jobs, dependents, journal=journal, totals=self.totals)
        self._printed = 0
        self._blocked: list[JsonObject] = []
        self._interrupted = anyio.Event()
        self._started = anyio.current_time()
        self._statistics = session.statistics
        self._display = ProgressDisplay(self.totals, progress=journal.store.progress, statistics=session.statistics)
        self._results: RunMany[Request] = session.run_many(
            self._reader.read(),
            save_to=options.out,
            journal=journal,
            timeout=options.load.job_timeout,
        )

    def __repr__(self) -> str:
        return f"<BulkCommand {self._reader!r} {self.totals!r}>"

    async def run(self) -> None:
        """Run until all jobs are done, or the run is stopped."""
        with GracefulStop(self._interrupt):
            try:
                async with background_tasks(self._display.follow, self._announce_shutdown), self._results:
                    async for result in self._results:
                        await self._handle(result)
                    await self._report_blocked()
                    await self._journal.store.save_run_info(jobs_expected=self.totals.lines, blocked=self._blocked)
            except anyio.get_cancelled_exc_class():
                left = pluralize(len(self._results.pending), "job")
                print_status(
                    f"stopped with {left} in flight; {RESUME_NOTE}, as by: soundpiece resume {self._options.arguments}"
                )
                raise

    async def _handle(self, result: Result) -> None:
        """Count and print a result; stop the run if the result requires it."""
        job = self._reader.pop(result.request)
        outcome = self.totals.add(result)
        if self.totals.refusal is not None and not isinstance(self.totals.refusal, InsufficientCredits):
            # after a 402, jobs that were submitted earlier are still awaited, whatever their lines
            self._reader.stop()
        if self.totals.fresh_failures >= self._options.policy.failure_limit:
            self._stop(RunStopped("too many jobs failed"))
        if isinstance(result, Failed) and (is_full(result.error) or isinstance(result.error, SettingsError)):
            self._stop(RunStopped("cannot write files"))
        blocking = f"{outcome}: {result.error}" if isinstance(result, Failed) else None
        self._reader.settle(job, blocking=None if outcome is JobOutcome.UNSENT else blocking)
        await self._report_blocked()
        if outcome is JobOutcome.UNSENT or (result.from_journal and not self._options.policy.show_all):
            return
        if isinstance(result, Failed):
            self._print_failure(job.line, f"{outcome}: {translate_advice(str(result.error), flag=None)}")
        await _print([format_json_line(job, result, outcome)] if self._options.policy.as_json else _list_paths(result))

    async def _report_blocked(self) -> None:
        """Count and print the jobs that were blocked since the last result."""
        async with aclosing(self._reader.read_blocked()) as found:
            async for blocked in found:
                self.totals.outcomes[JobOutcome.BLOCKED] += 1
                if len(self._blocked) < MAX_RECORDED_BLOCKED:
                    self._blocked.append(attrs.asdict(blocked))
                reason = translate_advice(blocked.reason, flag=None)
                self._print_failure(blocked.line, f"blocked by line {blocked.blocked_by}: {reason}")
                await _print([format_blocked(blocked)] if self._options.policy.as_json else [])

    def _print_failure(self, line: int, reason: str) -> None:
        self._printed += 1
        if self._printed <= MAX_PRINTED_FAILURES:
            print_status(f"{self._options.jobs}:{line}: {reason}")

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
        under_way = self._results.pending
        waits = await self._journal.store.measure_waits()
        longest = max((waits[handle.route].longest for handle in under_way if handle.route in waits), default=None)
        known = self._statistics()
        notice = shutdown_notice(
            len(under_way), longest=longest, paused_for=known.paused_for, unanswered=known.active_submits
        )
        print_status(f"interrupted: no more jobs are submitted; {notice}")

    def finish(self, *, lost: SoundpieceError | None = None) -> int:
        """Print the summary and the next steps, and return the exit code.

        Args:
            lost: why the next run will not find the journal.
        """
        totals, words = self.totals, self._options.arguments
        counts = totals.to_json()
        took = anyio.current_time() - self._started
        if self._options.policy.as_json:
            print_result(_summary_line(counts, seconds=took), kept=RESUME_NOTE)
        names = ("saved", "failed", "unfinished", "uncertain", *(["blocked"] * bool(counts["blocked"])), "left")
        counted = ", ".join(f"{counts[name]} {name}" for name in names)
        saved = f"{pluralize(totals.files, 'file')}, {format_size(totals.bytes)}"
        jobs = f", {totals.lines} jobs" * (totals.lines > self._lines)
        print_status(f"{pluralize(self._lines, 'line')}{jobs}: {counted}; {saved}, {format_duration(took)}")
        if echoed := format_echo_differences(totals.echo_differences):
            print_status(echoed)
        if lost is not None:
            print_status(f"stopped: {lost}")
            return FAILED
        for line in self._hints():
            print_status(line)
        go_on = f"run the same command again, or soundpiece resume {words}; keys are kept and nothing is paid for twice"
        if totals.refusal is not None:
            refused = isinstance(totals.refusal, AuthenticationError | InsufficientCredits)
            print_status(f"stopped{' by the account' * refused}: {totals.refusal}")
            print_status(f"{_refusal_advice(totals.refusal)}{go_on}")
            return INTERRUPTED if self._interrupted.is_set() else REFUSED if refused else FAILED
        if counts["left"] or counts["unfinished"]:
            print_status(f"not all jobs are done: {go_on}")
        if self._interrupted.is_set():
            return INTERRUPTED
        return FAILED if totals.failures else DONE

    def _hints(self) -> list[str]:
        """Return notes on the counts: results that were not printed, and how to handle failures."""
        totals, lines = self.totals, []
        if totals.earlier and not self._options.policy.show_all:
            new = totals.ended - totals.earlier
            lines.append(f"{new} new; {pluralize(totals.earlier, 'result')} of earlier runs not printed (use --all)")
        if self._printed > MAX_PRINTED_FAILURES:
            words = self._options.arguments
            lines.append(
                f"the first {MAX_PRINTED_FAILURES} failures are printed above; for all reasons: "
                f"soundpiece status {words}"
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
    return [str(file.path) for file in result.files] if isinstance(result, Succeeded) else []


def _refusal_advice(refusal: SoundpieceError) -> str:
    """Return the first step after a refusal; how to resume follows it."""
    match refusal:
        case AuthenticationError():
            return "check SOUNDPIECE_API_KEY in the dashboard, and the addresses it may be used from; then "
        case InsufficientCredits():
            return "top up the account in the dashboard; then "
        case TransportError():
            return "check SOUNDPIECE_BASE_URL and the network; then "
    return ""  # the message of a SettingsError says what to do

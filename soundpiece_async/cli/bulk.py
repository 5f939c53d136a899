"""``soundpiece bulk`` and ``soundpiece resume``: run every job of a file, and resume after any interruption."""

import hashlib
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import attrs

from soundpiece_async import Journal, JournalError
from soundpiece_async._journal.journal import LOCK, FolderLock
from soundpiece_async.cli.arguments import FOLDER
from soundpiece_async.cli.bulk_check import dry_run, validate_file
from soundpiece_async.cli.bulk_options import DEFAULT_LOAD, DEFAULT_POLICY, BulkOptions, LoadOptions, RunPolicy
from soundpiece_async.cli.bulk_run import BulkCommand
from soundpiece_async.cli.console import DONE, FAILED, UsageError, pluralize, print_status
from soundpiece_async.cli.jobs_file import (
    SPOOLED_NAME,
    STANDARD_INPUT,
    keep_spooled,
    require_regular_file,
    spool_standard_input,
)
from soundpiece_async.cli.report import write_report


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

"""``soundpiece bulk``, ``work`` and ``resume``: run every job of a file, or of a journal, and resume after anything."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import attrs
from cyclopts import Parameter

from soundpiece_async import Journal
from soundpiece_async.cli.arguments import DESTINATION, PART, WHOLE, parse_part
from soundpiece_async.cli.bulk_check import dry_run, validate_file
from soundpiece_async.cli.bulk_options import (
    DEFAULT_LOAD,
    DEFAULT_POLICY,
    BulkOptions,
    JobsFile,
    LoadOptions,
    RunPolicy,
)
from soundpiece_async.cli.bulk_ray import DEFAULT_RAY, RayOptions, check_policy, run_with_ray
from soundpiece_async.cli.bulk_run import BulkCommand
from soundpiece_async.cli.console import DONE, FAILED, UsageError, pluralize, print_result, print_status
from soundpiece_async.cli.dependents import Dependents
from soundpiece_async.cli.job_reader import JobReader
from soundpiece_async.cli.job_sources import plan_file, read_file, read_planned
from soundpiece_async.cli.jobs_file import (
    SPOOLED_NAME,
    STANDARD_INPUT,
    keep_spooled,
    require_regular_file,
    spool_standard_input,
)
from soundpiece_async.cli.journal_options import DEFAULT_JOURNAL, JournalOptions, RunLocation
from soundpiece_async.cli.report import write_report
from soundpiece_async.cli.results import ResultCounts


async def bulk(
    jobs: Path,
    out: Annotated[str | Path, DESTINATION],
    /,
    *,
    record: JournalOptions = DEFAULT_JOURNAL,
    plan: Annotated[bool, Parameter(show_default=False)] = False,
    part: Annotated[str, PART] = "1/1",
    engine: RayOptions = DEFAULT_RAY,
    load: LoadOptions = DEFAULT_LOAD,
    policy: RunPolicy = DEFAULT_POLICY,
) -> int:
    """Run every job in JOBS and save the results in OUT. Re-run the same command to resume.

    Each line of JOBS is one job, as a JSON object or a CSV record: a "route", the fields of that route's request, and
    optionally a "name" for the files and "metadata". Its source may be an output of another line, by that line's "id":
    {"job": "ID", "output": 0}. The whole file is validated before anything is sent. The paths of saved files are
    printed; those of earlier runs only with --all.

    SOUNDPIECE_API_KEY holds the API key; SOUNDPIECE_BASE_URL selects a service other than the public one.

    Exit codes: 0 all jobs saved; 1 some failed or unfinished; 2 usage error or invalid lines; 3 account error
    (invalid key, no credits); 4 jobs were taken over by another process, which continues them; 130 interrupted. The
    first Ctrl-C or SIGTERM waits for the jobs in flight; the second stops at once.

    Args:
        jobs: jobs file: .csv and .tsv are parsed as CSV, anything else as JSON Lines unless its first line is a CSV
            header; - reads standard input, and keeps a copy beside a journal in a folder.
        out: folder for the files, and the journal; with another place for that also a URL in an object store.
        record: place of the journal.
        plan: only write the jobs to the journal in Postgres, for soundpiece work; nothing is sent.
        part: K/N, K from 1 to N: only the K-th of N parts of JOBS, with a journal in Postgres. A line and those that
            take their source from it are in one part.
        engine: what runs the jobs.
        load: limits of the run.
        policy: when to retry, stop and print.
    """
    location = record.locate(out)
    file = JobsFile(path=jobs, part=parse_part(part))
    if plan or file.part != WHOLE:
        location.require_database("--plan" if plan else "--part")
    options = BulkOptions(location=location, load=load, policy=policy)
    run = _plan if plan else _run
    if engine.ray is not None:
        if plan or file.part != WHOLE:
            raise UsageError("--ray plans and runs all parts: leave out --plan and --part")
        location.require_database("--ray")
        check_policy(options)
        run = partial(_run_with_ray, engine)
    if jobs != STANDARD_INPUT:
        return await run(file, options)
    async with spool_standard_input() as path:
        return await run(attrs.evolve(file, path=path, spooled=True, sources=Path.cwd()), options)


async def work(
    out: Annotated[str | Path, DESTINATION],
    /,
    *,
    record: JournalOptions = DEFAULT_JOURNAL,
    part: Annotated[str, PART] = "1/1",
    load: LoadOptions = DEFAULT_LOAD,
    policy: RunPolicy = DEFAULT_POLICY,
) -> int:
    """Work on a part of a run that soundpiece bulk --plan has written to a journal in Postgres.

    Any number of processes may work on a run, on any machines, and no jobs file is needed. The part is taken over: a
    process that has been working on its jobs stops, with exit code 4. To finish the work of a process that died, start
    its part again; N may be another number each time.

    Exit codes: 0 all jobs saved; 1 some failed or unfinished, or the database is away: start it again; 2 usage error,
    or no such run; 3 account error (invalid key, no credits), as every other process of the run; 4 jobs were
    taken over by another process, which continues them: do not start it again; 130 interrupted.

    Args:
        out: folder that the processes share, or a URL in an object store.
        record: the journal.
        part: K/N, K from 1 to N: the K-th of N parts of the unfinished jobs (default: 1/1, all of them).
        load: replaces the limits that the run was planned with.
        policy: when to retry, stop and print.
    """
    location = record.locate(out)
    location.require_database("soundpiece work")
    return await _work(BulkOptions(location=location, load=load, policy=policy), parse_part(part))


async def resume(
    out: Annotated[str | Path, DESTINATION],
    /,
    *,
    record: JournalOptions = DEFAULT_JOURNAL,
    load: LoadOptions = DEFAULT_LOAD,
    policy: RunPolicy = DEFAULT_POLICY,
) -> int:
    """Resume the bulk run in OUT with its original jobs file and options.

    A run with a journal in Postgres needs its jobs file only if lines of it take their source from others, or from
    local files.

    Args:
        out: folder of the run.
        record: place of the journal.
        load: replaces the limits of the earlier run.
        policy: that of earlier runs is not used.
    """
    options = BulkOptions(location=record.locate(out), load=load, policy=policy)
    async with options.location.reading(migrate=True) as journal:
        kept = await journal.store.load_run_info("jobs", "sha256", "options", "sources", "unplanned")
    if options.location.run is not None and not kept.get("unplanned"):
        return await _work(options, WHOLE)
    if not isinstance(kept.get("jobs"), str):
        arguments = options.location.arguments
        raise UsageError(f"{options.location} has no bulk run. Start one with: soundpiece bulk JOBS {arguments}")
    jobs = await _locate_jobs(kept["jobs"], options.location)
    await require_regular_file(jobs)
    if await _sha256(jobs) != kept.get("sha256"):
        print_status(f"{jobs} has changed since the last run; its new lines are run too")
    sources = Path(kept["sources"]) if isinstance(kept.get("sources"), str) else None
    return await _run(JobsFile(path=jobs, sources=sources), options.with_defaults(kept))


async def _plan(file: JobsFile, options: BulkOptions) -> int:
    """Write the jobs of a file to the journal; nothing is sent."""
    await require_regular_file(file.path)
    lines, dependents = await validate_file(file, options)
    arguments = options.location.arguments
    if dependents.unplannable:
        raise UsageError(
            f"{file}: {dependents.unplannable} of {pluralize(lines, 'line')} cannot be planned, because the source is "
            "an output of another line, or a local file; nothing was written. Let each process read the file: "
            f"soundpiece bulk JOBS {arguments} --part K/N"
        )
    async with await options.open_journal() as journal:
        new = await _write_plan(file, options, dependents, journal, totals=ResultCounts(lines))
    if options.policy.as_json:
        print_result(json.dumps({"plan": {"lines": lines, "new": new}}))
    print_status(f"{pluralize(lines, 'job')} in {file}, {new} new; nothing was sent")
    print_status(f"run them: soundpiece work {arguments} --part K/N")
    return DONE


async def _run_with_ray(engine: RayOptions, file: JobsFile, options: BulkOptions) -> int:
    await _plan(file, options)
    return await run_with_ray(options, engine)


async def _run(file: JobsFile, options: BulkOptions) -> int:
    """Run the jobs of a file."""
    await require_regular_file(file.path)
    if options.policy.dry_run:
        _ = options.load.limits  # raises for invalid limits, as a real run does
        _, dependents = await validate_file(file, options)
        await dry_run(file, options, dependents)
        return DONE
    session, location = options.load.make_session(), options.location
    if (holder := await location.find_holder()) is not None:  # before a long file is validated
        raise UsageError(f"{location} is locked by {holder}. Wait for it to finish or stop it.")
    lines, dependents = await validate_file(file, options)
    async with await options.open_journal() as journal:
        async with session:
            totals = ResultCounts(lines)
            if location.run is not None:
                await _write_plan(file, options, dependents, journal, totals=totals)
            else:
                if file.spooled:
                    kept = await keep_spooled(file.path, location.folder)
                    file = attrs.evolve(file, path=kept, spooled=False)
                await _save_run_info(file, options, dependents, journal, lines=lines)
            part = f"part {file.part[0]}/{file.part[1]} of " if file.part != WHOLE else ""
            print_status(f"{pluralize(totals.lines, 'job')} in {part}{file}, saving to {location.out}")
            jobs = read_file(file, dependents, journal)
            reader = JobReader(jobs, dependents, journal=journal, totals=totals)
            command = BulkCommand(options, file=file, reader=reader, totals=totals, journal=journal, session=session)
            await command.run()
            if file.part == WHOLE:
                await journal.store.save_run_info(complete=not reader.more)
        report_code = await _write_report(journal, options) if location.run is None else DONE
        return command.finish(journal_error=await journal.store.find_loss()) or report_code


async def _work(options: BulkOptions, part: tuple[int, int]) -> int:
    """Run the jobs of a part that are in the journal already."""
    location = options.location
    if options.policy.dry_run:
        raise UsageError(f"--dry-run reads a jobs file; to see what is left: soundpiece status {location.arguments}")
    async with location.reading(migrate=True) as journal:
        if not await journal.jobs(limit=1):
            raise UsageError(
                f"{location} has no jobs: record them with soundpiece bulk JOBS {location.arguments} --plan"
            )
        options = options.with_defaults(await journal.store.load_run_info("options"))
    session = options.load.make_session()
    async with await options.open_journal() as journal:
        async with session:
            taken = await journal.take_part(*part)
            print_status(f"{pluralize(taken.jobs, 'job')} in part {part[0]}/{part[1]}, saving to {location.out}")
            totals = ResultCounts(taken.jobs)
            jobs = read_planned(journal, taken, totals=totals)
            reader = JobReader(jobs, Dependents(), journal=journal, totals=totals)
            command = BulkCommand(options, file=None, reader=reader, totals=totals, journal=journal, session=session)
            await command.run()
        return command.finish(journal_error=await journal.store.find_loss())


async def _write_plan(
    file: JobsFile, options: BulkOptions, dependents: Dependents, journal: Journal, *, totals: ResultCounts
) -> int:
    """Write what can be known in advance to a journal that others read; return how many jobs are new."""
    lines = totals.lines
    await _save_run_info(file, options, dependents, journal, lines=lines)
    new = await plan_file(file, dependents, journal, totals=totals)
    if file.part == WHOLE:
        await journal.store.save_run_info(unplanned=dependents.unplannable)
    return new


async def _save_run_info(
    file: JobsFile, options: BulkOptions, dependents: Dependents, journal: Journal, *, lines: int
) -> None:
    """Record what ``resume`` and ``status`` have to know."""
    await journal.store.save_run_info(
        jobs=None if file.spooled else str(await anyio.Path(file.path).absolute()),
        sha256=await _sha256(file.path),
        lines=lines,
        complete=not dependents.graph.repeated,
        unplanned=lines,
        dependents=len(dependents.graph),
        options=options.load.explicit,
        sources=file.sources and str(file.sources),
    )


async def _write_report(journal: Journal, options: BulkOptions) -> int:
    """Write the report and return an exit code: a run whose report cannot be written has failed."""
    try:
        page = await write_report(journal, resume=f"soundpiece resume {options.location.arguments}")
    except OSError as error:
        print_status(f"cannot write the report: {error}; the files and the journal are complete")
        return FAILED
    print_status(f"report: {page}")
    return DONE


async def _locate_jobs(remembered: str, location: RunLocation) -> Path:
    """Return the path of the jobs file: where it was or, if both were moved, beside the folder or in it."""
    jobs, out = Path(remembered), location.out
    places = [jobs, *([out.parent / jobs.name] if isinstance(out, Path) else [])]
    if location.run is None and jobs.name == SPOOLED_NAME:
        places.append(location.folder / SPOOLED_NAME)
    for path in places:
        if await anyio.Path(path).exists():
            return path
    return jobs


async def _sha256(path: Path) -> str:
    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return await anyio.to_thread.run_sync(read)

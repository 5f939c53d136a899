"""``soundpiece bulk`` and ``soundpiece resume``: all that a file of jobs asks for, whatever happens meanwhile."""

import hashlib
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import attrs

from soundpiece_async import Journal, JournalError
from soundpiece_async._journal.journal import LOCK, FolderLock
from soundpiece_async.cli.arguments import FOLDER
from soundpiece_async.cli.bulkrun import BulkRun
from soundpiece_async.cli.console import DONE, FAILED, UsageError, plural, tell
from soundpiece_async.cli.jobs_file import SPOOLED_NAME, STANDARD_INPUT, demand_jobs, keep, spooled
from soundpiece_async.cli.knobs import PLAIN, STRICT, Knobs, Order, Terms
from soundpiece_async.cli.report import write_report
from soundpiece_async.cli.survey import check, preview


async def bulk(
    jobs: Path,
    out: Annotated[Path, FOLDER],
    /,
    *,
    journal: Annotated[Path | None, FOLDER] = None,
    knobs: Knobs = PLAIN,
    terms: Terms = STRICT,
) -> int:
    """Make every piece that a file asks for, and save its files; the same command goes on after whatever stopped it.

    Each line of the file is one piece: a JSON object, or a record of CSV below a header. It has a member "route", the
    members of that route's request, and if you like a "name" for its files and any "metadata". The whole file is
    checked before anything is sent. Paths of the files are printed as they are saved; those of earlier runs only with
    --all.

    The API key comes from SOUNDPIECE_API_KEY, and SOUNDPIECE_BASE_URL names another service than the real one.

    Exit codes: 0 all saved, 1 some failed or are not finished, 2 wrong usage or bad lines, 3 stopped by the account
    (a refused key, no credits), 130 interrupted. Ctrl-C, or SIGTERM, lets what is in flight end; twice stops at once.

    Args:
        jobs: the file, JSONL or CSV; - reads standard input, and keeps it beside the journal.
        out: the folder for the files, and for the journal that lets the same command go on.
        journal: another folder for the journal and the report, as one on a local disk; every later command needs it.
        knobs: how hard to work.
        terms: on what terms.
    """
    order = Order(jobs=jobs, out=out, journal=journal, knobs=knobs, terms=terms)
    if jobs != STANDARD_INPUT:
        return await _carry_out(order)
    async with spooled() as path:
        return await _carry_out(attrs.evolve(order, jobs=path, spooled=True))


async def resume(
    out: Annotated[Path, FOLDER],
    /,
    *,
    journal: Annotated[Path | None, FOLDER] = None,
    knobs: Knobs = PLAIN,
    terms: Terms = STRICT,
) -> int:
    """Go on with the run of a folder: as bulk once more, with the file and the options it had.

    Args:
        out: the folder.
        journal: the folder of the journal, where it is another one.
        knobs: instead of those it had.
        terms: those of earlier runs do not count.
    """
    try:
        async with Journal.open(journal or out, read_only=True) as record:
            kept = await record.ledger.kept()
    except JournalError as error:
        raise UsageError(str(error)) from error
    if not isinstance(kept.get("jobs"), str):
        raise UsageError(f"{journal or out} has no run of soundpiece bulk: soundpiece bulk JOBS {out} begins one")
    jobs = await _find_jobs(kept["jobs"], out, journal or out)
    await demand_jobs(jobs)
    if await _hash(jobs) != kept.get("sha256"):
        tell(f"{jobs} has changed since the last run: what is new in it is made, too")
    options = kept.get("options")
    knobs = knobs.or_else(options if isinstance(options, dict) else {})
    return await _carry_out(Order(jobs=jobs, out=out, journal=journal, knobs=knobs, terms=terms))


async def _carry_out(order: Order) -> int:
    await demand_jobs(order.jobs)
    if order.terms.dry_run:
        _ = order.knobs.limits  # wrong ones are wrong in a rehearsal, too
        await check(order)
        await preview(order)
        return DONE
    session = order.knobs.make_session()
    await _demand_folder(order.record)
    lines = await check(order)
    journal = await _open(order)
    async with journal:
        async with session:
            if order.spooled:
                order = attrs.evolve(order, jobs=await keep(order.jobs, order.record), spooled=False)
            await journal.ledger.keep(
                jobs=str(await anyio.Path(order.jobs).absolute()),
                sha256=await _hash(order.jobs),
                lines=lines,
                options=order.knobs.given,
            )
            tell(f"{plural(lines, 'line')} of {order.jobs}, into {order.out}")
            run = BulkRun(order, lines=lines, journal=journal, session=session)
            await run.carry_out()
        trouble = await _report(journal, order)
        return run.end(lost=await journal.ledger.find_loss()) or trouble


async def _report(journal: Journal, order: Order) -> int:
    """Leave the report behind; a run that could not is none that is done."""
    try:
        page = await write_report(journal, resume=f"soundpiece resume {order.words}")
    except OSError as error:
        tell(f"the report cannot be written: {error}; the files and the journal are whole")
        return FAILED
    tell(f"to look at it and hear it: {page}")
    return DONE


async def _open(order: Order) -> Journal:
    try:
        return await Journal.open(
            order.record, resubmit_uncertain=order.terms.resubmit_uncertain, retry_failed=order.terms.retry_failed
        )
    except JournalError as error:
        raise UsageError(str(error)) from error


async def _demand_folder(out: Path) -> None:
    """Refuse a folder that another process works in, before a long file is checked; opening its journal does, too."""
    try:
        holder = await anyio.to_thread.run_sync(FolderLock(out / LOCK).find_holder)
    except JournalError as error:
        raise UsageError(str(error)) from error
    if holder is not None:
        raise UsageError(f"{out} is being worked on by {holder}; nothing was done: let it end, or end it, first")


async def _find_jobs(remembered: str, out: Path, record: Path) -> Path:
    """Find the jobs file where it was; or, when the folder was moved with it, beside the folder or in it."""
    jobs = Path(remembered)
    for path in (jobs, out.parent / jobs.name, record / SPOOLED_NAME if jobs.name == SPOOLED_NAME else jobs):
        if await anyio.Path(path).exists():
            return path
    return jobs


async def _hash(path: Path) -> str:
    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return await anyio.to_thread.run_sync(read)

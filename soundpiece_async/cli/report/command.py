"""``soundpiece report``: writes the report of a bulk run, while it is running and afterwards."""

from pathlib import Path
from typing import Annotated

import anyio

from soundpiece_async.cli.arguments import FOLDER
from soundpiece_async.cli.console import UsageError, print_result
from soundpiece_async.cli.journal_options import DEFAULT_JOURNAL, JournalOptions
from soundpiece_async.cli.report.writer import write_report


async def report(out: Annotated[Path, FOLDER], /, *, record: JournalOptions = DEFAULT_JOURNAL) -> None:
    """Write report.html and report.json about a bulk run, and print the path of the page.

    Safe to run while a bulk run is active. With a journal in a folder they are written there, as at the end of each
    run; with one in Postgres into OUT, which is any local folder if the files are in an object store.

    Args:
        out: folder of the run.
        record: place of the journal.
    """
    location = record.locate(out)
    async with location.reading() as journal:
        try:
            await anyio.Path(location.folder).mkdir(parents=True, exist_ok=True)
            page = await write_report(journal, folder=location.folder, resume=f"soundpiece resume {location.arguments}")
        except OSError as error:
            raise UsageError(f"{location.folder}: cannot write the report: {error.strerror or error}") from error
    print_result(str(page))

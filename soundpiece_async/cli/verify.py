"""``soundpiece verify``: is every file of a bulk run still what was saved?"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
from cyclopts import Parameter

from soundpiece_async import Journal, JournalError, SettingsError
from soundpiece_async._core.flac import read_head
from soundpiece_async._core.pieces import FileRecord, JobState
from soundpiece_async._download.inspecting import Inspect, prepare_inspection
from soundpiece_async.cli.endings import DONE, FAILED, UsageError
from soundpiece_async.cli.flags import FOLDER
from soundpiece_async.cli.progress import INTERVAL, beside
from soundpiece_async.cli.speech import plural, say, size, tell

PAGE = 500
"""Pieces that are read from the journal at a time."""


async def verify(
    out: Annotated[Path, FOLDER],
    /,
    *,
    full: bool = False,
    set_aside: bool = False,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> int:
    """Compare every saved file of a folder with the journal: its size and its sha256; those that differ are printed.

    Exit codes: 0 all are well, 1 some are not, 2 there is no journal. What is missing or of another size is fetched
    again by soundpiece resume; what is damaged otherwise, too, once it is set aside.

    Args:
        out: the folder.
        full: decode each file, too, and compare its audio with the MD5 in its own header.
        set_aside: give each file that differs the name NAME.damaged.
        as_json: print one line of JSON for each that differs, and a summary as the last one.
    """
    try:
        inspect = await anyio.to_thread.run_sync(prepare_inspection, "full") if full else None
        async with Journal.open(out, read_only=True) as journal:
            verification = Verification(journal, out=out, inspect=inspect, set_aside=set_aside, as_json=as_json)
            await verification.carry_out()
    except (JournalError, SettingsError) as error:
        raise UsageError(str(error)) from error
    return verification.end()


class Verification:
    """Goes through the files on record, as many at a time as there are processors.

    Args:
        journal: open.
        out: its folder, as paths are to be printed.
        inspect: decodes a file; None: do not.
        set_aside: rename what is damaged.
        as_json: how to print.
    """

    def __init__(self, journal: Journal, *, out: Path, inspect: Inspect | None, set_aside: bool, as_json: bool) -> None:
        self._journal = journal
        self._out = out
        self._inspect = inspect
        self._set_aside = set_aside
        self._as_json = as_json
        self._counts: Counter[str] = Counter()
        self._threads = anyio.CapacityLimiter(os.cpu_count() or 1)

    def __repr__(self) -> str:
        return f"<Verification {dict(self._counts)}>"

    async def carry_out(self) -> None:
        """Look at every file."""
        async with beside(self._tell_progress), aclosing(self._list()) as pages:
            async for page in pages:
                async with anyio.create_task_group() as group:
                    for file in page:
                        group.start_soon(self._look, file)

    async def _list(self) -> AsyncGenerator[list[FileRecord]]:
        last = 0
        while pieces := await self._journal.jobs(JobState.SAVED, after=last, limit=PAGE):
            last = pieces[-1].number
            yield [file for piece in pieces for file in piece.files]

    async def _look(self, file: FileRecord) -> None:
        """Look at one file; one in a store is counted only, because to fetch it may cost."""
        if file.url is not None:
            self._counts["in a store"] += 1
            return
        path = self._out / file.path
        fault = await anyio.to_thread.run_sync(find_fault, path, file, self._inspect, limiter=self._threads)
        self._counts["bad" if fault else "whole"] += 1
        self._counts["bytes"] += file.bytes
        if fault:
            members = {"path": str(path), "fault": fault}
            say(json.dumps(members) if self._as_json else f"{path}: {fault}")
            if self._set_aside:
                await anyio.to_thread.run_sync(set_aside, path, limiter=self._threads)

    async def _tell_progress(self) -> None:
        while True:
            await anyio.sleep(INTERVAL)
            tell(f"{plural(self._counts['whole'] + self._counts['bad'], 'file')}, {size(self._counts['bytes'])}")

    def end(self) -> int:
        """Sum up, and give the exit code."""
        counts = self._counts
        looked_at = counts["whole"] + counts["bad"]
        if self._as_json:
            say(
                json.dumps(
                    {"summary": {"files": looked_at, "bad": counts["bad"], "not_looked_at": counts["in a store"]}}
                )
            )
        stored = f"; {plural(counts['in a store'], 'object')} in a store not looked at" if counts["in a store"] else ""
        tell(f"{plural(looked_at, 'file')}, {size(counts['bytes'])}: {counts['bad']} bad{stored}")
        return FAILED if counts["bad"] else DONE


def set_aside(path: Path) -> None:
    """Give a damaged file, if it is there, a name under which no run finds it. Blocks."""
    with suppress(FileNotFoundError):
        path.replace(path.with_name(f"{path.name}.damaged"))


def find_fault(path: Path, record: FileRecord, inspect: Inspect | None) -> str | None:
    """Say how a file differs from its record, or, if it has to be decoded, from itself. Blocks."""
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length != record.bytes:
                return f"has {length} bytes, and had {record.bytes} when it was saved"
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                return "its sha256 is not the one it had when it was saved"
            file.seek(0)
            head = read_head(file.read)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if inspect is None else inspect(head, path, None).fault

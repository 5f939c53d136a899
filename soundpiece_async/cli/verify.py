"""``soundpiece verify``: compares the files of a bulk run with its journal."""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import attrs
from cyclopts import Parameter

from soundpiece_async import Journal, JournalError, SettingsError
from soundpiece_async._core.flac import read_head
from soundpiece_async._core.job_records import FileRecord, JobRecord, JobState
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.destinations import Destinations, locate, path_of_file_url
from soundpiece_async._download.verify import Verifier, make_verifier
from soundpiece_async._journal.store import JobStore
from soundpiece_async._regularfiles import open_regular
from soundpiece_async.cli.arguments import DESTINATION
from soundpiece_async.cli.bulk_progress import INTERVAL, background_tasks
from soundpiece_async.cli.console import (
    DONE,
    FAILED,
    UsageError,
    format_size,
    format_verify_levels,
    pluralize,
    print_result,
    print_status,
)
from soundpiece_async.cli.journal_options import DEFAULT_JOURNAL, JournalOptions, RunLocation

PAGE_JOBS = 500
"""Jobs that are read from the journal at a time."""


async def verify(
    out: Annotated[str | Path, DESTINATION],
    /,
    *,
    record: JournalOptions = DEFAULT_JOURNAL,
    full: bool = False,
    set_aside: bool = False,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> int:
    """Compare the size and sha256 of every saved file with the journal, and print the files that differ.

    This does not find audio that was damaged before it was saved. The summary counts the files by the check they have
    passed: header (size and FLAC header) or full (every frame). --full decodes every frame now and records it in the
    journal.

    Objects in a store are compared by size only, with the credentials of the environment.

    Exit codes: 0 all files match; 1 some differ; 2 no journal. The next run downloads missing files, and files of
    another size, again at no cost. With --set-aside, corrupt files are renamed so that 'resume' downloads them again.

    Args:
        out: folder of the run.
        record: place of the journal.
        full: also decode every frame, and compare the audio with the MD5 in the FLAC header.
        set_aside: rename each file that differs to NAME.damaged, and print both names.
        as_json: print one line of JSON for each file that differs, and a summary as the last line.
    """
    location = record.locate(out)
    inspect = await anyio.to_thread.run_sync(make_verifier, "full") if full else None
    async with location.reading(migrate=True) as journal:
        verification = Verification(journal, location, inspect=inspect, set_aside=set_aside, as_json=as_json)
        await verification.run()
    await verification.record()
    return verification.finish()


@attrs.frozen
class _CheckedJob:
    """Files of one job with results that are not in the journal yet."""

    number: int
    ended_at: float | None
    files: tuple[FileRecord, ...]

    async def record(self, store: JobStore) -> None:
        """Record the results."""
        await store.mark_verified(self.number, self.files, ended_at=self.ended_at)


class Verification:
    """Checks the files in a journal, as many at a time as there are processors.

    Args:
        journal: open.
        location: of the run.
        inspect: decodes a file; None: files are not decoded.
        set_aside: whether to rename damaged files.
        as_json: whether to print JSON.
    """

    def __init__(
        self,
        journal: Journal,
        location: RunLocation,
        *,
        inspect: Verifier | None,
        set_aside: bool,
        as_json: bool,
    ) -> None:
        self._journal = journal
        self._location = location
        self._inspect = inspect
        self._set_aside = set_aside
        self._as_json = as_json
        self._counts: Counter[str] = Counter()
        self._levels: Counter[str] = Counter()
        self._passed: list[_CheckedJob] = []
        self._stores = ObjectChecker()
        self._unreachable: set[str] = set()
        self._threads = anyio.CapacityLimiter(os.cpu_count() or 1)

    def __repr__(self) -> str:
        return f"<Verification {dict(self._counts)}>"

    async def run(self) -> None:
        """Check every file."""
        async with background_tasks(self._print_progress), aclosing(self._list()) as pages:
            async for page in pages:
                async with anyio.create_task_group() as group:
                    for job in page:
                        group.start_soon(self._check_job, job)

    async def record(self) -> None:
        """Record the results in the journal, unless it is locked or not writable."""
        if not self._passed:
            return
        try:
            async with await self._location.open() as journal:
                for start in range(0, len(self._passed), PAGE_JOBS):  # one transaction per page
                    async with anyio.create_task_group() as group:
                        for passed in self._passed[start : start + PAGE_JOBS]:
                            group.start_soon(passed.record, journal.store)
        except (JournalError, UsageError) as error:
            print_status(f"the results were not recorded: {error}")

    async def _list(self) -> AsyncGenerator[list[JobRecord]]:
        last = 0
        while jobs := await self._journal.jobs(JobState.SAVED, after=last, limit=PAGE_JOBS):
            last = jobs[-1].number
            yield jobs

    async def _check_job(self, job: JobRecord) -> None:
        """Check the files of a job."""
        files = tuple([await self._check_file(file) for file in job.files])
        if files != job.files:
            self._passed.append(_CheckedJob(job.number, job.ended_at, files))

    async def _check_file(self, file: FileRecord) -> FileRecord:
        """Check one file, and return it with the checks it has passed."""
        if file.url is not None and not file.url.startswith("file:///"):
            return await self._check_object(file, file.url)
        path = self._locate(file) if file.url is None else path_of_file_url(file.url)
        fault, level = await anyio.to_thread.run_sync(find_damage, path, file, self._inspect, limiter=self._threads)
        self._counts["bad" if fault else "whole"] += 1
        self._counts["bytes"] += file.bytes
        if fault is not None:
            await self._print_damage(path, fault)
            return file
        self._levels[level or ""] += 1
        return attrs.evolve(file, verified=level)

    async def _check_object(self, file: FileRecord, url: str) -> FileRecord:
        """Check one object, and return it with whether it is missing."""
        try:
            fault = await self._stores.find_damage(file)
        except SettingsError as error:
            self._counts["not checked"] += 1
            folder = url.rpartition("/")[0]
            if folder not in self._unreachable:
                self._unreachable.add(folder)
                print_status(f"not checked: {error}")
            return file
        self._counts["bad" if fault else "whole"] += 1
        self._counts["bytes"] += file.bytes
        if fault is not None:
            await self._print_damage(url, fault)
        else:
            self._levels[file.verified or ""] += 1
        return attrs.evolve(file, missing=fault is not None)

    async def _print_damage(self, path: Path | str, fault: str) -> None:
        aside = None
        if self._set_aside and isinstance(path, Path):
            aside = await anyio.to_thread.run_sync(set_aside, path, limiter=self._threads)
        if self._as_json:
            print_result(
                json.dumps({"path": str(path), "fault": fault, **({"set_aside": str(aside)} if aside else {})})
            )
        else:
            print_result(f"{path}: {fault}" + (f"; renamed to {aside}" if aside else ""))

    def _locate(self, file: FileRecord) -> Path:
        """Return the path of a file; if the journal is in another folder, the recorded path contains '..'."""
        return Path(os.path.normpath(self._location.folder / file.path))

    async def _print_progress(self) -> None:
        while True:
            await anyio.sleep(INTERVAL)
            number = self._counts["whole"] + self._counts["bad"]
            print_status(f"{pluralize(number, 'file')}, {format_size(self._counts['bytes'])}")

    def finish(self) -> int:
        """Print the summary and return the exit code."""
        counts = self._counts
        checked = counts["whole"] + counts["bad"]
        summary = {"files": checked, "bad": counts["bad"], "not_checked": counts["not checked"]}
        if self._as_json:
            print_result(json.dumps({"summary": {**summary, "verified": dict(self._levels)}}))
        stored = f"; {pluralize(counts['not checked'], 'object')} not checked" if counts["not checked"] else ""
        print_status(f"{pluralize(checked, 'file')}, {format_size(counts['bytes'])}: {counts['bad']} bad{stored}")
        for line in format_verify_levels(self._levels, arguments=self._location.arguments):
            print_status(line)
        return FAILED if counts["bad"] else DONE


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file so that no run finds it, and return its new path; None: it is missing. Blocks."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        return path.replace(aside)
    except FileNotFoundError:
        return None


def find_damage(path: Path, record: FileRecord, inspect: Verifier | None) -> tuple[str | None, Verify | None]:
    """Return how a file differs from its record or its audio from its header, and the checks it has passed. Blocks."""
    try:
        with io.FileIO(open_regular(path)) as file:
            length = os.fstat(file.fileno()).st_size
            if length != record.bytes:
                return f"has {length} bytes instead of {record.bytes}", None
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                return "sha256 differs from that of the saved file", None
            file.seek(0)
            head = read_head(file.read)
    except OSError as error:
        return f"cannot be read: {error.strerror}", None
    if inspect is None:
        return None, record.verified
    found = inspect(head, path, None)
    return found.fault, found.verified


MAX_CONCURRENT_CHECKS = 32
"""Concurrent requests to stores: each takes tens of milliseconds, and there may be 100,000 objects."""


class ObjectChecker:
    """Compares objects with their records, by one client for each bucket."""

    def __init__(self) -> None:
        self._destinations = Destinations(anyio.CapacityLimiter(1))
        self._asking = anyio.CapacityLimiter(MAX_CONCURRENT_CHECKS)

    def __repr__(self) -> str:
        return f"<ObjectChecker {self._destinations!r} asking={self._asking.borrowed_tokens}>"

    async def find_damage(self, file: FileRecord) -> str | None:
        """Return how an object differs from its record, by its size: downloading it may cost.

        Raises:
            SettingsError: the store cannot be read; the message names the folder.
        """
        folder, _, name = str(file.url).rpartition("/")
        folder += "/"
        endpoint = locate(folder).endpoint
        if ":///" in folder:
            raise SettingsError(f"{folder} is in the memory of another process")
        if endpoint != file.endpoint:
            usual = "the provider's own endpoint"
            raise SettingsError(
                f"{folder} is at {file.endpoint or usual}, but the environment selects {endpoint or usual}"
            )
        async with self._asking:
            place = await self._destinations.open(folder)
            return None if isinstance(place, Path) else await place.compare(name, size=file.bytes)

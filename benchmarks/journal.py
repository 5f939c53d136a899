"""What it costs to open a journal of 100,000 rows, and what of that is the check of the whole file.

    python benchmarks/journal.py            a minute
    python benchmarks/journal.py --quick    10,000 rows, some seconds

The rows are of finished jobs with a file each. Figures are CPU seconds of this process, medians of some rounds that
take turns, of a file that was read before; so neither the disk nor other processes have a part in them.
"""

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import _figures
from _figures import Figure

from soundpiece_async import Journal
from soundpiece_async._core.job_records import FileRecord, JobIdentity
from soundpiece_async._core.operations import Operation, Status
from soundpiece_async._core.requests import Handle, Output
from soundpiece_async._journal.journal import JOURNAL

ROUTE = "create.new_fx"
BODY = b'{"fx": {"prompt": "a door that closes slowly, number %d", "duration": 2.5, "idempotency_key": "key %d"}}'
CHECKS = ("quick_check", "integrity_check")
SIZE = 2_000
"""Jobs that are written at a time."""


async def fill(folder: Path, rows: int) -> None:
    """Write jobs as a run does."""
    async with Journal.open(folder) as journal:

        async def write(number: int) -> None:
            store, handle = journal.store, Handle(ROUTE, f"op_{number:026}")
            output = Output(url=f"https://out.example.com/{number}?sig=1", duration=2.5, handle=handle, index=0)
            operation = Operation(
                route=ROUTE,
                id=handle.id,
                status=Status.READY,
                created_at=datetime.now(UTC),
                request=None,
                outputs=(output,),
            )
            identity = JobIdentity(digest=number.to_bytes(16, "big"), occurrence=1)
            job = await store.insert(identity, key=f"key {number}", route=ROUTE, body=BODY % (number, number))
            if job is None:
                raise SystemExit(f"key {number} was taken")
            await store.mark_sending(job, now=1.0)
            await store.mark_submitted(job, operation, now=2.0)
            await store.mark_ready(job, operation, now=3.0)
            file = FileRecord(
                path=f"{handle.id}.flac",
                bytes=100_000,
                sha256="0" * 64,
                duration=2.5,
                sample_rate=44100,
                channels=2,
                index=0,
            )
            await store.mark_saved(job, operation, (file,), now=4.0)

        for start in range(0, rows, SIZE):
            async with asyncio.TaskGroup() as group:
                for number in range(start, min(rows, start + SIZE)):
                    group.create_task(write(number))


def check(path: Path, statement: str) -> float:
    """Return the CPU seconds of one check."""
    with closing(sqlite3.connect(path)) as connection:
        began = time.process_time()
        if connection.execute(statement).fetchone()[0] != "ok":
            raise SystemExit("the journal is damaged")
        return time.process_time() - began


async def open_once(folder: Path) -> float:
    """Return the CPU seconds until a journal is open."""
    began = time.process_time()
    async with Journal.open(folder):
        return time.process_time() - began


def main() -> int:
    """Measure; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="10,000 rows instead of 100,000")
    options = parser.parse_args()
    rows, rounds = (10_000, 3) if options.quick else (100_000, 5)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="journal-") as made:
        folder = Path(made)
        before = time.process_time()
        asyncio.run(fill(folder, rows))
        filled = time.process_time() - before
        path = folder / JOURNAL
        print(f"{rows:,} rows, {path.stat().st_size / 1e6:.0f} MB")
        measured = [
            (
                check(path, "PRAGMA quick_check(1)"),
                check(path, "PRAGMA integrity_check(1)"),
                asyncio.run(open_once(folder)),
            )
            for _ in range(rounds)
        ]
    quick, whole, opened = map(statistics.median, zip(*measured, strict=True))
    figures = (
        Figure(f"{rows:,} jobs written, s of CPU", "-", f"{filled:.1f}", holds=None),
        Figure(f"quick_check of {rows:,} rows, s of CPU", "-", f"{quick:.2f}", holds=None),
        Figure(f"integrity_check of {rows:,} rows, s of CPU", "-", f"{whole:.2f}", holds=None),
        Figure.at_most(f"a journal of {rows:,} rows is open after, s of CPU", rows / 50_000, opened, form="{:.2f}"),
    )
    return _figures.report(figures, options)


if __name__ == "__main__":
    sys.exit(main())

"""Jobs from standard input: put into a file first, because a jobs file is read twice, and by the runs that go on."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from soundpiece_async.cli.console import tell

STANDARD_INPUT = Path("/dev/stdin")
"""What ``-`` stands for."""
KEPT = "standard-input.txt"
"""The file in the folder of the journal, for the runs that go on; JSONL or CSV, as its first line says."""
BLOCK = 1 << 16
"""Bytes that are read at a time."""


@asynccontextmanager
async def spooled() -> AsyncGenerator[Path]:
    """Read standard input to its end, into a temporary file."""
    with tempfile.TemporaryDirectory(prefix="soundpiece-") as folder:
        path = Path(folder, KEPT)
        descriptor = sys.stdin.fileno()
        if os.isatty(descriptor):
            tell("reading jobs from standard input, until Ctrl-D")
        await _copy(descriptor, path)
        yield path


async def keep(path: Path, folder: Path) -> Path:
    """Copy a spooled file into the folder of the journal, in place of that of an earlier run; return its path there."""

    def copy() -> Path:
        part = Path(shutil.copyfile(path, folder / f"{KEPT}.part"))
        return part.replace(folder / KEPT)

    return await anyio.to_thread.run_sync(copy)


async def _copy(descriptor: int, path: Path) -> None:
    """Copy what can be read until the end; a signal can end it while there is nothing to read."""
    mode = os.fstat(descriptor).st_mode
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    async with await anyio.open_file(path, "wb") as file:
        while True:
            if waits:
                await anyio.wait_readable(descriptor)
            block = await anyio.to_thread.run_sync(os.read, descriptor, BLOCK)
            if not block:
                return
            await file.write(block)

"""A program that PyInstaller has frozen: what is imported when it is needed is in it, and what is not is named."""

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from soundpiece_async.simulator import Simulator

PROGRAM = """
import asyncio, sys
from soundpiece_async import Journal, NewFx, Session, SettingsError
async def main():
    async with Session() as session, Journal.open(sys.argv[1]) as journal:
        async with session.run_many([NewFx("door", duration=0.5)], save_to=sys.argv[1], journal=journal) as results:
            print([len(result.files) async for result in results])
        try:
            await session.run(NewFx("door", duration=0.5), save_to="s3://bucket/x")
        except SettingsError as error:
            print(error)
asyncio.run(main())
"""


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """Freeze the program, without what the extras bring."""
    source = tmp_path / "program.py"
    source.write_text(PROGRAM)
    places = [f"--{kind}path={tmp_path / kind}" for kind in ("dist", "work", "spec")]
    others = [f"--exclude-module={name}" for name in ("cyclopts", "numpy", "obstore", "orjson", "rich", "soundfile")]
    command = [sys.executable, "-m", "PyInstaller", "--log-level=ERROR", *others, *places, source]
    subprocess.run(command, check=True)  # noqa: S603 - our own command
    return tmp_path / "dist" / "program" / "program"


async def make_piece(program: Path, folder: Path) -> list[str]:
    """Run the program against a simulator; return the lines it prints."""
    async with Simulator(speed=100) as sim:
        done = await anyio.run_process([program, folder], env=os.environ | sim.environ)
    return done.stdout.decode().splitlines()


def test_a_frozen_program_makes_a_piece(frozen: Path, tmp_path: Path) -> None:
    """With a journal, and its file; a store whose extra is not in it is named before anything is paid."""
    made, refused = anyio.run(make_piece, frozen, tmp_path / "out")
    assert made == "[1]"
    assert "soundpiece-async[obstore]" in refused
    assert len(list((tmp_path / "out").glob("*.flac"))) == 1

"""Names that a file system refuses: the file has a plainer one, and the run goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import libc_shim
from helpers.command_line import commands
from helpers.simulation import Serve

from soundpiece_async import DownloadError, Journal, JournalError
from soundpiece_async._download.partfile import refuses_name

JOBS = Path(__file__).parent / "data" / "names_beyond_latin1.jsonl"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
API = """
import asyncio, json, sys
from soundpiece_async import *

async def main():
    async with Session() as session:
        done = await session.run(NewFx("door", duration=1.5))
        for name in json.loads(sys.argv[2]):
            (file,) = await session.download(done.operation, sys.argv[1], name=name)
            print(file.path.name, *file.warnings, sep="|")

asyncio.run(main())
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program where file names are ASCII."""
    words = (sys.executable, *words)
    return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | ASCII)  # noqa: S603 - our own


def test_a_bulk_run_in_an_encoding_that_lacks_a_character(serve: Serve, tmp_path: Path) -> None:
    """All are saved, the one under a plainer name, by which the next run, `status` and `verify` find it."""
    simulator, out = serve(), tmp_path / "out"
    bulk = ["bulk", str(JOBS), str(out)]
    done = run(*commands(bulk, bulk, ["verify", str(out)], ["status", str(out), "--json"]))
    assert done.returncode == 0, done.stderr
    assert len(simulator.operations) == 3
    assert {path.name for path in out.glob("*.flac")} == {"plain.flac", "z.flac", "Regen _ laut-21f25dc2.flac"}
    assert json.loads(done.stdout.splitlines()[-1])["states"]["saved"] == 3


def test_names_that_the_encoding_lacks_stay_apart(serve: Serve, tmp_path: Path) -> None:
    """From the library as well; each name has its own file, and the file says why it is not called so."""
    serve()
    names = ["Regen \u2013 laut", "Regen \u2014 laut", "雨", "plain", "Regen \u2013 laut"]
    done = run("-c", API, str(tmp_path), json.dumps(names))
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines()]
    found = [name for name, *_ in lines]
    assert len(set(found)) == 4
    assert found[0] == found[4]
    assert found[3] == "plain.flac"
    assert lines[2][1].startswith(f"saved as {found[2]}, because the file system rejects")


@pytest.mark.parametrize("most", [143, 110])
def test_a_file_system_with_shorter_names(most: int, serve: Serve, tmp_path: Path) -> None:
    """As those that encrypt have them: `.part.json` has to fit behind it, too."""
    serve()
    library, out = libc_shim.build(tmp_path), tmp_path / "out"
    name = "long " * 36
    done = libc_shim.run(library, out, ["-c", API, str(out), json.dumps([name, "short", name])], name=str(most))
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in out.glob("*"))
    assert len(files) == 2
    assert max(map(len, files)) <= 96


@pytest.mark.anyio
async def test_a_folder_that_no_file_system_has_is_a_clear_error(tmp_path: Path) -> None:
    """There is no plainer name for the caller's own folder."""
    for read_only in (False, True):
        with pytest.raises(JournalError, match="too long"):
            await Journal.open(tmp_path / ("n" * 300), read_only=read_only)


def test_what_refuses_a_name_is_told_from_other_faults() -> None:
    """EILSEQ and EINVAL are the file system's word for a character, UnicodeEncodeError is Python's."""

    def fail(cause: Exception) -> DownloadError:
        error = DownloadError("x", url="", path="")
        error.__cause__ = cause
        return error

    assert all(refuses_name(fail(OSError(code, "no"))) for code in (22, 36, 84))
    assert refuses_name(fail(UnicodeEncodeError("ascii", "\u2013", 0, 1, "no")))
    assert not refuses_name(fail(OSError(28, "full")))
    assert not refuses_name(fail(RecursionError()))

"""``soundpiece bulk`` on a disk that is full: a real one, where it may be mounted, and a quota of the system's."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from helpers.simulation import Serve

from soundpiece_async.cli import main

LINES, SECONDS = 6, 6

Grow = Callable[[], None]


def mount(*arguments: str) -> bool:
    """Mount something, if that is possible here."""
    program = shutil.which("mount")
    if program is None or os.geteuid() != 0:
        return False
    return not subprocess.run([program, *arguments], check=False, capture_output=True).returncode  # noqa: S603 - our own


def limit_files(folder: Path) -> Iterator[Grow]:
    """Limit files to 150 kB: the journal of the first job is smaller, its audio is larger."""
    folder.mkdir(exist_ok=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def limit_disk(folder: Path) -> Iterator[Grow]:
    """Mount a disk of 300 kB on the folder; where nothing can be mounted, use the other limit."""
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)):
        yield from limit_files(folder)
        return
    try:
        yield lambda: print(mount("-o", "remount,size=50m", str(folder)))  # noqa: T201 - shown when the test fails
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607 - our own


@pytest.fixture(params=[limit_disk, limit_files])
def grow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Grow]:
    yield from request.param(tmp_path / "out")


def test_a_full_disk_loses_nothing(
    grow: Grow, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run stops before it pays for what it could not store; with free space it resumes, at no extra cost."""
    simulator = serve(speed=2000.0, track_seconds=(0.1, 0.1))
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    line: dict[str, Any] = {"route": "create.new_fx", "prompt": "door", "duration": SECONDS}
    jobs.write_text("")
    assert main(["bulk", str(jobs), str(out)]) == 0  # so that the journal is there
    jobs.write_text(f"{json.dumps(line)}\n" * LINES)

    assert main(["bulk", str(jobs), str(out), "--in-flight", "1"]) == 1
    err = capsys.readouterr().err
    assert "nothing is lost" in err or "keys are kept and nothing is paid for twice" in err
    assert "disk" in err or "No space left" in err or "File too large" in err
    assert len(simulator.operations) < LINES
    for path in out.glob("*.flac"):
        assert len(soundfile.read(path)[0]) == SECONDS * 44100
    grow()
    assert main(["bulk", str(jobs), str(out), "--in-flight", "1"]) == 0
    assert len(simulator.operations) == LINES
    assert len({request.key for request in simulator.log if request.method == "PUT"}) == LINES
    assert len(list(out.glob("*.flac"))) == LINES
    assert main(["verify", str(out), "--full"]) == 0

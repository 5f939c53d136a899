"""A process near the limit of what it may open gets slower, and fails nothing."""

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from helpers.simulation import Serve

from soundpiece_async import Limits, _descriptors
from soundpiece_async._descriptors import Shortage, count_open, fit_to_process, read_limit

PROGRAM = """
import asyncio, json, os, resource, sys
from pathlib import Path
from soundpiece_async import *

async def main(most, number, polls, folder):
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    settings = Settings(
        api_key=os.environ["SOUNDPIECE_API_KEY"],
        base_url=os.environ["SOUNDPIECE_BASE_URL"],
        limits=Limits(polls=polls),
    )
    wishes = [NewFx(f"door {n}", duration=0.1) for n in range(number)]
    errors = []
    async with Session(settings) as session:
        async with session.run_many(wishes, save_to=folder) as results:
            async for result in results:
                if isinstance(result, Failed):
                    errors.append(repr(result.error))
    print(json.dumps(errors))

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
"""


@pytest.mark.parametrize(("most", "number", "polls"), [(64, 200, 100), (256, 300, 250)])
def test_nothing_fails_for_want_of_descriptors(
    most: int, number: int, polls: int, serve: Serve, tmp_path: Path
) -> None:
    """Hundreds of requests, as many polls as the process may open files: all saved, each paid once, and a WARNING."""
    simulator = serve(speed=100.0, durations=lambda _: 20.0)
    words = [sys.executable, "-c", PROGRAM, str(most), str(number), str(polls), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert json.loads(done.stdout) == []
    assert f"this process may open {most} files" in done.stderr
    assert "waiting" not in done.stderr
    assert len(simulator.operations) == number
    assert len(list(tmp_path.glob("*.flac"))) == number


HOG = """
import asyncio, contextlib, logging, os, resource, sys
from soundpiece_async import *

taken, told = [], []

class Listen(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())

logging.getLogger("soundpiece_async.descriptors").addHandler(Listen(logging.WARNING))

async def take_all():
    while len(told) < 6:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        await asyncio.sleep(0.01)
    while taken:
        os.close(taken.pop())

async def main(folder):
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    wishes = [NewFx(f"door {n}", duration=0.1) for n in range(60)]
    task = None
    async with Session() as session:
        async with session.run_many(wishes, save_to=folder, max_in_flight=20) as results:
            async for result in results:
                task = task or asyncio.create_task(take_all())
                assert isinstance(result, Succeeded), result
        await task
    print(*told, sep="\\n")

asyncio.run(main(sys.argv[1]))
"""


def test_descriptors_that_others_take_meanwhile_are_waited_for(serve: Serve, tmp_path: Path) -> None:
    """The program itself opens all it may: what lacks one waits, says so, and goes on when there are some again."""
    simulator = serve(speed=200.0)
    done = subprocess.run([sys.executable, "-c", HOG, str(tmp_path)], capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("waiting (") >= 6
    assert "Too many open files" in done.stdout
    assert len(simulator.operations) == 60
    assert len(list(tmp_path.glob("*.flac"))) == 60


@contextmanager
def at_most(soft: int) -> Iterator[None]:
    """Limit this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limits_are_fitted_with_a_warning_and_only_then(caplog: pytest.LogCaptureFixture) -> None:
    """It says what the process may open, how many it has open, and what was made of which limit."""
    with at_most(4096):
        assert fit_to_process(Limits()) == Limits()
    assert not caplog.records
    with at_most(count_open() + 60):
        fitted = fit_to_process(Limits())
    assert fitted.polls < 100
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"polls={fitted.polls} (not 100)" in record.getMessage()


def test_without_a_limit_or_a_way_to_know_it_nothing_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows; and where descriptors cannot be counted, some are assumed."""
    monkeypatch.setattr(_descriptors, "LISTS", ("/nowhere",))
    assert count_open() == _descriptors.ASSUMED
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert read_limit() is None
    monkeypatch.setitem(sys.modules, "resource", None)
    assert fit_to_process(Limits(polls=10**6)) == Limits(polls=10**6)


def test_open_descriptors_are_counted() -> None:
    """One more is one more."""
    before = count_open()
    with ExitStack() as opened:
        for _ in range(3):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert count_open() == before + 3
    assert count_open() == before


def test_a_shortage_waits_longer_each_time_and_speaks_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """Up to some seconds; the log has a line at the waits 1, 2, 4, 8."""
    caplog.set_level(logging.WARNING)
    shortage = Shortage("a poll")
    pauses = [shortage.next_pause(OSError(24, "Too many open files")) for _ in range(12)]
    assert max(pauses[:2]) < 0.2
    assert max(pauses) <= 5.0
    assert [record.getMessage().split("(")[1].split(")")[0] for record in caplog.records] == ["1", "2", "4", "8"]

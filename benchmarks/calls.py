"""How many of our functions one `run` calls, and how deep the stack is when its PUT is sent.

    python benchmarks/calls.py            some seconds

A request is submitted, awaited by one long poll, and its file downloaded, again and again in one session; the figures
are those of the median run. A call is the start of a Python function, coroutine or generator of this package, in any
thread; resuming after an `await` does not count, nor does the simulator, which runs in the same process. The depth is
the number of our frames above aiohttp's own function when it is asked for the PUT.

`--top` lists the functions that are called most, `--stack` the frames above the PUT.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from types import CodeType, FrameType
from typing import Self

import _figures
import aiohttp
from _figures import Figure

import soundpiece_async
from soundpiece_async import Journal, NewFx, Session, Settings
from soundpiece_async.simulator import Simulator

PACKAGE = Path(soundpiece_async.__file__).parent
RUNS = 9
CALLS, DEPTH = 400, 7  # goals
SEND = aiohttp.ClientSession._request.__code__  # noqa: SLF001 - what every request of aiohttp goes through


class Counting:
    """Counts the calls of our functions by `sys.monitoring`, and keeps our frames above the latest PUT."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.stack: list[str] = []
        self._names: dict[CodeType, str | None] = {}

    def __enter__(self) -> Self:
        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.PROFILER_ID, "calls")
        monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.PY_START, self._start)
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.PY_START)
        return self

    def __exit__(self, *_: object) -> None:
        sys.monitoring.set_events(sys.monitoring.PROFILER_ID, 0)
        sys.monitoring.free_tool_id(sys.monitoring.PROFILER_ID)

    def _start(self, code: CodeType, _: int) -> None:
        name = self._names[code] if code in self._names else self._names.setdefault(code, name_of(code))
        if name is not None:
            self.calls[name] += 1
        elif code is SEND and sys._getframe(1).f_locals["method"] == "PUT":  # noqa: SLF001 - CPython's, as documented
            self.stack = list_ours(sys._getframe(1))  # noqa: SLF001 - as above


def name_of(code: CodeType) -> str | None:
    """Return the name of a function of ours with its file; None: it is not ours, or the simulator's."""
    path = Path(code.co_filename)
    if not path.is_relative_to(PACKAGE) or path.is_relative_to(PACKAGE / "simulator"):
        return None
    return f"{path.relative_to(PACKAGE)}:{code.co_qualname}"


def list_ours(frame: FrameType | None) -> list[str]:
    """Return our functions on the stack, the outermost first."""
    names = []
    while frame is not None:
        names.append(name_of(frame.f_code))
        frame = frame.f_back
    return [name for name in reversed(names) if name is not None]


async def measure(folder: Path, *, recorded: bool) -> tuple[Counting, list[int]]:
    """Run again and again; return the counts of the last run, and the number of calls of each."""
    totals, counting = list[int](), Counting()
    async with Simulator(seed=1, speed=100) as sim:
        settings = Settings(api_key=sim.api_key, base_url=sim.url)
        async with Session(settings) as session, Journal.open(folder) as journal:
            for number in range(RUNS + 1):
                request = NewFx(f"door {number}", duration=0.2)
                with Counting() as counting:
                    if recorded:
                        async with session.run_many([request], save_to=folder, journal=journal) as results:
                            _ = [result async for result in results]
                    else:
                        await session.run(request, save_to=folder)
                totals.append(counting.calls.total())
    return counting, totals[1:]  # the first one imports what is imported when it is used


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _figures.add_options(parser, quick="nothing: it is quick")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="list the N functions that are called most")
    parser.add_argument("--stack", action="store_true", help="list our frames above the PUT")
    options = parser.parse_args()
    if sys.version_info < (3, 12):
        return _figures.skip("sys.monitoring came with Python 3.12", options)
    with tempfile.TemporaryDirectory() as folder:
        counting, totals = asyncio.run(measure(Path(folder), recorded=False))
    with tempfile.TemporaryDirectory() as folder:
        recorded, recorded_totals = asyncio.run(measure(Path(folder), recorded=True))
    if options.stack:
        print(*counting.stack, "", *recorded.stack, sep="\n")
    for name, count in counting.calls.most_common(options.top):
        print(f"{count:5} {name}")
    return _figures.report(
        [
            Figure.at_most("calls of our functions in one run", CALLS, median(totals), form="{:.0f}"),
            Figure.at_most("frames of ours above the PUT", DEPTH, len(counting.stack), form="{:.0f}"),
            Figure("calls in a run_many of one job with a journal", "-", f"{median(recorded_totals):.0f}", None),
            Figure("frames of ours above its PUT", "-", str(len(recorded.stack)), None),
        ],
        options,
    )


if __name__ == "__main__":
    raise SystemExit(main())

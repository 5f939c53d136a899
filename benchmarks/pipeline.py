"""What jobs that depend on jobs cost in a jobs file: CPU per job beside the same jobs without dependencies, and memory.

    python benchmarks/pipeline.py             100,000 lines: some thirty minutes
    python benchmarks/pipeline.py --quick     3,000 lines: under a minute on an idle machine

A file of chains of three (an effect, a cut of it, a cut of that) is run by ``soundpiece bulk``, and beside it a file of
the same routes, whose sources are URLs. The simulator is a process of its own; so is every client, and only the client
is measured, from its first line to its report: CPU is user and system time, memory the peak of the process (VmHWM).
Runs are made in turns, and the median of the ratios counts.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import _figures
import attrs
from _figures import Figure
from bulk import alone, peak_memory, serve

from soundpiece_async.cli import main as soundpiece

DEARER = 1.1  # CPU per job, against the same jobs without dependencies
FLAT = 25.0  # MB: what the allocator keeps of a busy moment, and 0.1 KB for each line
URL = "https://media.example.com/mix.wav"


@attrs.frozen(kw_only=True)
class Run:
    """The cost of a run: seconds of the wall and of CPU, and MB at most."""

    jobs: int
    wall: float
    cpu: float
    peak: float


def write_lines(path: Path, count: int, *, chained: bool) -> None:
    """Write a jobs file: chains of three jobs, or as many jobs of the same routes that depend on nothing."""
    with path.open("w") as file:
        for number in range(count // 3):
            effect, cut = f"effect {number}", f"cut {number}"
            lines: list[dict[str, Any]] = [
                {"id": effect, "route": "create.new_fx", "prompt": f"door {number}", "duration": 0.5},
                {"id": cut, "route": "adapt.auto_cut_down", "target_duration": 0.4, "source": {"job": effect}},
                {"route": "adapt.auto_cut_down", "target_duration": 0.3, "source": {"job": cut}},
            ]
            for line in lines:
                if not chained and "source" in line:
                    line["source"] = URL  # one for all, because the simulator makes a track for each
                file.write(f"{json.dumps(line)}\n")


def run(address: tuple[str, str], count: int, *, chained: bool) -> Run:
    """Run a file from nothing to its report."""
    os.environ["SOUNDPIECE_BASE_URL"], os.environ["SOUNDPIECE_API_KEY"] = address
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="pipeline-") as folder,
        Path(os.devnull).open("w") as quiet,
    ):
        jobs = Path(folder, "jobs.jsonl")
        write_lines(jobs, count, chained=chained)
        wall, cpu = time.perf_counter(), time.process_time()
        with redirect_stdout(quiet), redirect_stderr(quiet):
            status = soundpiece(["bulk", str(jobs), str(Path(folder, "out"))])
        if status:
            raise SystemExit(f"the run ended with {status}")
        return Run(jobs=count, wall=time.perf_counter() - wall, cpu=time.process_time() - cpu, peak=peak_memory())


def compare(address: tuple[str, str], count: int, *, rounds: int) -> Iterator[Figure]:
    """Run both files in turns, and yield what dependencies cost."""
    ratios, more = [], []
    for _ in range(rounds):
        bare, chained = (alone(run, address, count, chained=chained) for chained in (False, True))
        ratios.append(chained.cpu / bare.cpu)
        more.append(chained.peak - bare.peak)
        each = [f"{one.cpu / count * 1e6:.0f} us, {one.peak:.0f} MB, {one.wall:.0f} s" for one in (bare, chained)]
        print(f"{count} jobs: {each[0]} without dependencies; {each[1]} in chains of three", flush=True)
    name = f"{count} jobs in chains of three: CPU, against none"
    yield Figure.at_most(name, DEARER, statistics.median(ratios), form="{:.3f}")
    yield Figure.at_most("the same: MB more than without", FLAT, statistics.median(more), form="{:.0f}")


def weigh(address: tuple[str, str], few: int, count: int) -> Iterator[Figure]:
    """Run a short file and a long one, and yield how memory grows."""
    short, long = (alone(run, address, lines, chained=True) for lines in (few, count))
    yield Figure.at_most(f"{few} to {count} lines: MB more", FLAT, long.peak - short.peak, form="{:.0f}")


def main() -> int:
    """Measure, and print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="3,000 lines")
    parser.add_argument("--lines", type=int)
    options = parser.parse_args()
    count, few, rounds = (3000, 600, 1) if options.quick else (99_999, 9999, 3)
    count = options.lines or count
    with serve() as address:
        figures = [*compare(address, count, rounds=rounds), *weigh(address, few, count)]
    return _figures.report(figures, options)


if __name__ == "__main__":
    sys.exit(main())

"""Runs the benchmarks one after another, and prints one table of all figures.

    python benchmarks                        everything in full: half an hour or more, on a quiet machine
    python benchmarks --quick                the quick form of each, some minutes
    python benchmarks --only peers scale

A missed goal is said, and is no failure: the machine may be busy. A script that crashes is one.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
from _figures import Figure

HERE = Path(__file__).parent
LONGEST = 3600  # seconds; a script that takes longer hangs
BUSY = 0.1  # of the machine, taken by others: from here on times are worth repeating
ROW = "{:12} {:64} {:>9} {:>9} {:>6}"


@attrs.frozen
class Outcome:
    """The result of one script: its figures, or the reason why it has no figures."""

    script: str
    figures: tuple[Figure, ...] = ()
    skipped: str = ""
    crashed: bool = False


def run(path: Path, *, quick: bool) -> Outcome:
    """Run one script; it hands its table over (`_figures`) at its very end, so without one it has crashed."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "figures.json")
        words = [sys.executable, str(path), "--json", str(table), *(["--quick"] if quick else [])]
        try:
            subprocess.run(words, check=False, timeout=LONGEST)  # noqa: S603 - our own scripts
        except subprocess.TimeoutExpired:
            print(f"{path.name}: not done after {LONGEST} s", flush=True)
        if not table.exists():
            return Outcome(path.stem, crashed=True)
        found = json.loads(table.read_text())
    if isinstance(found, dict):
        return Outcome(path.stem, skipped=found["skipped"])
    return Outcome(path.stem, figures=tuple(Figure(**row) for row in found))


def read_busy_seconds() -> float:
    """Return the CPU seconds of the whole machine so far, by all its processes."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def read_own_seconds() -> float:
    """Return the CPU seconds of the scripts run so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(outcomes: list[Outcome]) -> None:
    """Print the one table."""
    print("\n" + ROW.format("script", "figure", "goal", "measured", "holds"))
    for outcome in outcomes:
        for figure in outcome.figures:
            print(ROW.format(outcome.script, *attrs.astuple(figure)[:3], figure.verdict))
        if outcome.skipped:
            print(f"{outcome.script:12} skipped: {outcome.skipped}")
        if outcome.crashed:
            print(f"{outcome.script:12} CRASHED: see above")


def sum_up(outcomes: list[Outcome], *, others: float) -> str:
    """Print how many goals were missed, and whether the machine may be the reason."""
    figures = [figure for outcome in outcomes for figure in outcome.figures]
    missed = sum(figure.holds is False for figure in figures)
    goals = "goal" if missed == 1 else "goals"
    text = f"{len(figures)} figures, {missed} {goals} missed; other work took {others:.0%} of the machine"
    return f"{text}: measure times and lateness again when it is quiet" if others > BUSY else text


def main() -> int:
    """Run the chosen scripts; return 1 when one crashed."""
    scripts = [path for path in sorted(HERE.glob("*.py")) if path.name[0] != "_" and "picture" not in path.name]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the quick form of each")
    parser.add_argument("--only", nargs="+", choices=[path.stem for path in scripts], metavar="NAME")
    options = parser.parse_args()
    began, busy, outcomes = time.monotonic(), read_busy_seconds(), []
    for path in scripts:
        if options.only is None or path.stem in options.only:
            print(f"\n== {path.name}", flush=True)
            outcomes.append(run(path, quick=options.quick))
    whole = (time.monotonic() - began) * (os.cpu_count() or 1)
    others = max(0.0, read_busy_seconds() - busy - read_own_seconds()) / whole
    show(outcomes)
    print(f"\n{sum_up(outcomes, others=others)}")
    return any(outcome.crashed for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())

"""The table every benchmark ends with: figure, goal, measured, holds; for people, and by `--json FILE` for programs."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import attrs

ROW = "{:64} {:>9} {:>9} {:>6}"


@attrs.frozen
class Figure:
    """One row: what is measured, what was promised, what came out."""

    name: str
    goal: str
    measured: str
    holds: bool

    @classmethod
    def at_most(cls, name: str, goal: float, measured: float, *, form: str = "{:.3g}") -> "Figure":
        """Compare with a goal that is a ceiling; `form` writes what was measured."""
        return cls(name, f"<= {goal:g}", form.format(measured), measured <= goal)

    def __str__(self) -> str:
        return ROW.format(self.name, self.goal, self.measured, "yes" if self.holds else "NO")


def add_options(parser: argparse.ArgumentParser, *, quick: str) -> None:
    """Let a script be asked for less, described by `quick`, and for its table in a file."""
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last table there, too")


def report(figures: Iterable[Figure], options: argparse.Namespace) -> int:
    """Print the table, write it where `--json` says, and give the exit status: 1 when a goal is missed."""
    rows = list(figures)
    print("\n" + ROW.format("figure", "goal", "measured", "holds"), *rows, sep="\n", flush=True)
    return write(rows, options)


def write(figures: Iterable[Figure], options: argparse.Namespace) -> int:
    """Do the same without printing, for a script with a richer table of its own."""
    rows = list(figures)
    if options.json:
        options.json.write_text(json.dumps([attrs.asdict(row) for row in rows]))
    return not all(row.holds for row in rows)


def skip(reason: str, options: argparse.Namespace) -> int:
    """Say what keeps a script from measuring: no figures are no failure."""
    print(f"skipped: {reason}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"skipped": reason}))
    return 0

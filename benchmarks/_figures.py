"""The table every benchmark ends with: figure, goal, measured, holds; for people, and by `--json FILE` for programs."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import attrs

ROW = "{:64} {:>9} {:>9} {:>6}"


@attrs.frozen
class Figure:
    """One row: what is measured, what was promised (`-` for nothing), what came out, and whether that keeps it."""

    name: str
    goal: str
    measured: str
    holds: bool | None

    @property
    def verdict(self) -> str:
        """The last column."""
        return {True: "yes", False: "NO", None: "-"}[self.holds]

    @classmethod
    def at_most(cls, name: str, goal: float, measured: float, *, form: str = "{:.3g}") -> "Figure":
        """Compare with a goal that is a ceiling; `form` writes what was measured."""
        return cls(name, f"<= {goal:g}", form.format(measured), measured <= goal)

    def __str__(self) -> str:
        return ROW.format(self.name, self.goal, self.measured, self.verdict)


def add_options(parser: argparse.ArgumentParser, *, quick: str) -> None:
    """Add the options for a quick run, described by `quick`, and for a table in a file."""
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
    return any(row.holds is False for row in rows)


def skip(reason: str, options: argparse.Namespace) -> int:
    """Print what keeps a script from measuring: missing figures are no failure."""
    print(f"skipped: {reason}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"skipped": reason}))
    return 0

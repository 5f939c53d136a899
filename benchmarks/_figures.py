"""The last table of every benchmark: figure, goal, measured, holds; for people, and with `--json FILE` for programs."""

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
        """Compare with a goal that is a ceiling; `form` writes the measured, unit and all."""
        return cls(name, f"<= {goal:g}", form.format(measured), measured <= goal)

    def __str__(self) -> str:
        return ROW.format(self.name, self.goal, self.measured, "yes" if self.holds else "NO")


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a script be asked for its table in a file."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")


def report(figures: Iterable[Figure], options: argparse.Namespace) -> int:
    """Print the table, write it where `--json` says, and give the exit status: 1 when a goal is missed."""
    rows = list(figures)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps([attrs.asdict(row) for row in rows]))
    return not all(row.holds for row in rows)


def skip(reason: str, options: argparse.Namespace) -> int:
    """Say what keeps this script from measuring; no figures are no failure."""
    print(f"skipped: {reason}")
    if options.json:
        options.json.write_text(json.dumps({"skipped": reason}))
    return 0


def show(figures: Iterable[Figure]) -> None:
    """Print the table."""
    print("\n" + ROW.format("figure", "goal", "measured", "holds"), *figures, sep="\n", flush=True)

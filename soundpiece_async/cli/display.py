"""What the demo shows: one line for each piece while it is made, and a table at the end.

On a terminal the lines of unfinished pieces stay in place and change, and finished ones scroll away above them. Without
one, every step is a plain line of its own, and so is how far a download is, now and then.
"""

import time
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Self

import attrs
from rich.console import Group
from rich.live import Live
from rich.text import Text

from soundpiece_async import SavedFile, Statistics
from soundpiece_async.cli.console import size
from soundpiece_async.cli.rich_output import Page, print_rows

INTERVAL = 1.0
"""Seconds, at least, between two plain lines about one download."""


class Stage(StrEnum):
    """How far a piece is."""

    QUEUED = "queued"
    GENERATING = "generating"
    DOWNLOADING = "downloading"
    DONE = "done"


COLOURS = {
    Stage.QUEUED: "dim",
    Stage.GENERATING: "yellow",
    Stage.DOWNLOADING: "cyan",
    Stage.DONE: "green",
}


@attrs.frozen(kw_only=True)
class Finished:
    """A piece that is done; it ``waited`` that many seconds from being accepted to being ready."""

    name: str
    route: str
    waited: float
    files: tuple[SavedFile, ...]

    @property
    def bytes(self) -> int:
        """The size of its files."""
        return sum(file.bytes for file in self.files)

    @property
    def seconds(self) -> float:
        """The length of its files."""
        return sum(file.duration for file in self.files)


class Board:
    """The progress of all pieces, on standard error; use it as a context manager.

    Args:
        names: the pieces, in the order of their lines.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._console = Page(stderr=True)
        self._stages = dict.fromkeys(names, Stage.QUEUED)
        self._notes: dict[str, str] = {}
        self._sizes: Mapping[str, int] = {}
        self._told: dict[str, tuple[float, str]] = {}
        self._summary = ""
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __repr__(self) -> str:
        return f"<Board {list(self._stages.values()).count(Stage.DONE)} of {len(self._stages)} done>"

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live.start()
        else:
            for name in self._stages:
                self._console.print(self._line(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, name: str, stage: Stage, note: str = "") -> None:
        """Let a piece reach a stage."""
        self._stages[name] = stage
        self._notes[name] = note
        if stage is Stage.DONE or not self._console.is_interactive:
            self._console.print(self._line(name))

    def refresh(self, statistics: Statistics, sizes: Mapping[str, int]) -> None:
        """Bring the lines on a terminal up to date, or tell of what grew; ``sizes`` are the bytes on disk by piece."""
        self._sizes = sizes
        if not self._console.is_interactive:
            self._tell_growth(time.monotonic())
            return
        self._summary = (
            f"{statistics.active_polls} polls out, {statistics.ready} of {len(self._stages)} ready, "
            f"{size(statistics.bytes)} received"
        )
        self._live.refresh()

    def _tell_growth(self, now: float) -> None:
        """Print a line for each download whose bytes are not those it was told with last."""
        for name, stage in self._stages.items():
            told_at, told = self._told.get(name, (-INTERVAL, size(0)))
            length = size(self._sizes.get(name, 0))
            if stage is Stage.DOWNLOADING and length != told and now - told_at >= INTERVAL:
                self._told[name] = now, length
                self._console.print(self._line(name))

    def _draw(self) -> Group:
        rows = [self._line(name) for name, stage in self._stages.items() if stage is not Stage.DONE]
        return Group(Text(self._summary, style="bold"), *rows)  # first, as a low terminal shows only the beginning

    def _line(self, name: str) -> Text:
        stage = self._stages[name]
        note = self._notes.get(name, "")
        if stage is Stage.DOWNLOADING:
            length = self._sizes.get(name, 0)
            note += f", {size(length)}" if length else ", no bytes yet"
        line = Text.assemble(f"{name:<22}", (f"{stage:<13}", COLOURS[stage]), note, no_wrap=True)
        line.rstrip()
        return line


def print_table(pieces: Iterable[Finished]) -> None:
    """Print a row for each piece, on standard output."""
    rows = [
        (
            piece.name,
            piece.route,
            f"{piece.waited:.1f} s",
            str(len(piece.files)),
            f"{piece.seconds:.1f} s",
            size(piece.bytes),
        )
        for piece in pieces
    ]
    print_rows(("piece", "route", "waited", "files", "length", "size"), rows, texts=2)

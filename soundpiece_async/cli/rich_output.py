"""Tables, and a rich console with the error handling of ``console``."""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any, cast

import attrs
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from soundpiece_async.cli.console import ignoring_stderr_errors, translating_stdout_errors

UNLIMITED_WIDTH = 10_000
"""Columns; wider than any table of ours."""


class PipeSafeConsole(Console):
    """A rich console with the error handling of ``console``; rich itself exits when its reader has closed the pipe.

    FORCE_COLOR enables colours in files; moving the cursor needs a terminal, or TTY_INTERACTIVE.
    """

    def __init__(self, *, file: IO[str] | None = None, stderr: bool = False, **options: Any) -> None:
        stream = file or cast("IO[str]", _StandardStream(stderr=stderr))
        super().__init__(highlight=False, file=stream, stderr=stderr, **options)
        if "TTY_INTERACTIVE" not in os.environ and not self.file.isatty():
            self.is_interactive = False

    def on_broken_pipe(self) -> None:
        """Raise the error that rich caught."""
        raise BrokenPipeError


@attrs.frozen(kw_only=True)
class _StandardStream:
    """Standard output or standard error as it is at the time of a write, with the error handling of ``console``."""

    stderr: bool

    def __getattr__(self, name: str) -> Any:
        stream = sys.stderr if self.stderr else sys.stdout
        return getattr(getattr(stream, "rich_proxied_file", stream), name)

    def write(self, text: str) -> None:
        with self._guard():
            self.__getattr__("write")(text)

    def flush(self) -> None:
        with self._guard():
            self.__getattr__("flush")()

    def _guard(self) -> AbstractContextManager[None]:
        return ignoring_stderr_errors() if self.stderr else translating_stdout_errors()


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, total: bool = False) -> None:
    """Print a table on standard output without truncating it.

    On a terminal that is too narrow, each row becomes a line of its own, which may wrap.

    Args:
        headings: of the columns.
        rows: cells.
        texts: number of columns with text; the others have numbers.
        total: whether the last row is the total.
    """
    console, rows = PipeSafeConsole(), list(rows)
    table = Table(*headings[:texts], box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in headings[texts:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row, style="bold" if total and row is rows[-1] else None)
    needed = Measurement.get(console, console.options.update(max_width=UNLIMITED_WIDTH), table).maximum
    if not console.file.isatty():
        console.width = needed
    if needed <= console.width:
        console.print(table)
        return
    for row in rows:
        cells = (f"{cell} {heading}" for heading, cell in zip(headings[texts:], row[texts:], strict=True))
        console.print(Text(f"{' '.join(row[:texts])}: {', '.join(cells)}", overflow="fold"))

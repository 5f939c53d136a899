"""Results as tables for notebooks, and as fields for ``rich``: rows of names and values in, text out. HTML is escaped.

Rules:

1. A saved file has a player if its path is relative: JupyterLab resolves such a ``src`` against the notebook, in whose
   folder the kernel runs (seen in version 4). By an absolute path it serves nothing.
2. The player links to the file and does not carry it: as a data URI a song of 20 MB becomes 27 MB of the notebook, and
   Jupyter stops a cell that puts out more than 3 MB in 3 s.
3. It loads nothing until it is played: a notebook may show hundreds.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import TypeAlias
from urllib.parse import quote

Fields: TypeAlias = Iterator[tuple[str, object]]
"""What ``__rich_repr__`` yields: names and values, which ``rich`` shows in its own way."""

Rows: TypeAlias = list[tuple[str, str]]
"""The rows of a table: names, and cells in HTML."""

_MEGA = 1_000_000


def html_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table in HTML."""
    lines = (f'<tr><th style="text-align: left">{name}</th><td>{cell}</td></tr>' for name, cell in rows)
    return f"<table>{''.join(lines)}</table>"


def html_cell(value: object) -> str:
    """Return one value in HTML; the fields of a list and the lines of lyrics below one another."""
    text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
    return _escape(text).replace("\n", "<br>")


def audio_player(path: PurePath) -> str:
    """Return a player of a file in HTML (rules 1 to 3)."""
    return f'<audio controls preload="none" src="{_escape(quote(path.as_posix()))}"></audio>'


def format_channels(channels: int) -> str:
    """Return a number of channels as text."""
    return "1 channel" if channels == 1 else f"{channels} channels"


def format_size(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / _MEGA:.2f} MB" if count >= _MEGA else f"{count / 1000:.1f} kB"


def _escape(text: str) -> str:
    from html import escape  # with its table of all entities it is slow to load

    return escape(text)

"""A jobs file, opened as what it is: JSONL or CSV, and refused when it is neither. Blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from soundpiece_async.cli.lines import LONGEST, Line, read_jsonl
from soundpiece_async.cli.spreadsheet import is_header, read_csv

CSV = (".csv", ".tsv")
"""Endings of names; other files are CSV when their first line names the columns."""

_COMPRESSED = "is compressed: unpack it first, as by: gunzip FILE"
_FOREIGN = {
    b"\x1f\x8b": _COMPRESSED,
    b"BZh": _COMPRESSED,
    b"\xfd7zXZ": _COMPRESSED,
    b"(\xb5/\xfd": _COMPRESSED,
    b"PK\x03\x04": "is a spreadsheet, or an archive: save it as CSV (UTF-8), or unpack it",
    b"\xff\xfe": "is UTF-16, and must be UTF-8: save it as CSV (UTF-8), or as UTF-8",
    b"\xfe\xff": "is UTF-16, and must be UTF-8: save it as CSV (UTF-8), or as UTF-8",
}
"""How files begin that are no text we read."""


def read_lines(path: Path) -> Iterator[Line]:
    """Read a file, as CSV or as JSONL; blank lines are left out.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(8)
    for mark, fault in _FOREIGN.items():
        if head.startswith(mark):
            yield Line(1, None, (fault,))
            return
    if path.suffix.lower() in CSV or _begins_with_header(path):
        with _open(path, newline="") as text:
            yield from read_csv(text)
    else:
        with _open(path, newline=None) as text:
            yield from read_jsonl(text)


def _open(path: Path, *, newline: str | None) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _begins_with_header(path: Path) -> bool:
    """Return whether the first line that is not blank has the names of columns."""
    with _open(path, newline=None) as text:
        line = text.readline(LONGEST)
        while line.isspace() or line.lower().startswith(("sep=", '"sep=')):
            line = text.readline(LONGEST)
    return is_header(line)

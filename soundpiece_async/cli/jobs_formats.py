"""The formats of a jobs file, JSON Lines and CSV: from text to one ``Line`` for each record. Everything here blocks.

1. What is wrong with a line is said, and the next one is read. Line numbers are those an editor shows.
2. In CSV, commas, semicolons or tabs separate the cells: as the first line says (``sep=;``), or whichever the header
   has most.
3. Where a comma does not separate, it may be a decimal one. A number that may be grouped by thousands is refused, as
   ``1,000`` and ``1.000``: whether that is one or a thousand seconds is not guessed.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import attrs

from soundpiece_async._core.requests import ROUTES
from soundpiece_async.cli.console import did_you_mean

MAX_LINE_BYTES = 1 << 20
"""Bytes of a line of JSONL; lyrics have 3000 characters, and the rest is the user's metadata."""
EXTRA_FIELDS: tuple[str, ...] = ("route", "name", "metadata")
"""Members of a line that are not the request's."""
REQUEST_FIELDS: tuple[str, ...] = tuple(
    dict.fromkeys(member.name for kind in ROUTES.values() for member in attrs.fields(kind))
)
"""The members of all requests."""

_TYPOGRAPHIC = "“”„‟«»\u2018\u2019"


@attrs.frozen
class Line:
    """One line, or one record of CSV that may go over several.

    Attributes:
        number: of its first line in the file, from 1.
        members: what it holds, unless it cannot be read.
        faults: what is wrong with it already.
    """

    number: int
    members: dict[str, Any] | None
    faults: tuple[str, ...] = ()


def read_jsonl(text: TextIO) -> Iterator[Line]:
    """Read JSONL; blank lines are left out, and a file that is other JSON is refused once, at its first line.

    Args:
        text: with universal line ends, and what is not UTF-8 as surrogates.
    """
    number, begun = 0, False
    while line := text.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith("\n"):
                line = text.readline(MAX_LINE_BYTES)
            yield Line(number, None, (f"is longer than {MAX_LINE_BYTES} bytes",))
            continue
        if not line.strip():
            continue
        if not begun and (layout := _layout_error(line)):
            yield Line(number, None, (layout,))
            return
        begun = True
        yield parse_json(number, line)


def parse_json(number: int, line: str) -> Line:
    """Parse a line that must be a JSON object."""
    try:
        text = line.encode(errors="surrogateescape").decode()
        members = json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_reject_duplicates)
    except UnicodeDecodeError as error:
        return Line(number, None, (f"is not UTF-8, at byte {error.start + 1}: save the file as UTF-8",))
    except json.JSONDecodeError as error:
        return Line(number, None, (f"is no JSON: {error.msg} (column {error.colno}){_json_hint(error)}",))
    except (ValueError, RecursionError) as error:
        return Line(number, None, (f"is no JSON: {error}",))
    if not isinstance(members, dict):
        return Line(number, None, (f"must be a JSON object, as {{...}}, and is a {type(members).__name__}",))
    return Line(number, members)


def _layout_error(line: str) -> str:
    """Return what is wrong with a whole file that begins so, or nothing."""
    if line.lstrip().startswith("["):
        return (
            "is a JSON array, and must be JSONL, one object on each line; this writes it: jq -c '.[]' FILE > jobs.jsonl"
        )
    if not line.lstrip().startswith("{"):
        return (
            "is no JSON object, as each line of JSONL is; CSV has a first line with the names of its columns, one of "
            "them route"
        )
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        if not line[error.pos :].strip():
            return (
                "is the beginning of an object that goes on below, and must be JSONL, one object on each line; this "
                "writes it: jq -c . FILE > jobs.jsonl"
            )
    except (ValueError, RecursionError):
        pass  # the line itself is looked at next
    return ""


def _json_hint(error: json.JSONDecodeError) -> str:
    """Return what to do about usual mistakes, or nothing."""
    left = error.doc[error.pos :].strip()
    if left[:1] and left[0] in _TYPOGRAPHIC:
        return f": {left[0]} is a typographic quote, as word processors write them; JSON has straight ones"
    if left[:1] == "'":
        return ": JSON has double quotes; in Python json.dumps writes them"
    if left[:1] == "," or (left[:1] == "}" and "property name" in error.msg):
        return ": a comma too many"
    if left[:1] == "{":
        return ": each object needs a line of its own"
    return ""


def _reject_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"member {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return members


SEPARATORS = ",;\t"

_NAMED = re.compile(r"\"?sep=(?P<separator>.)\"?[,;\t]*", re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,' _\u2019\u00a0\u202f]\d{3})+(?:[.,]\d*)?")
_BOOLEANS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}


def is_header(line: str) -> bool:
    """Return whether a first line names the columns of CSV."""
    return "route" in (cell.strip(' "\r\n').lower() for cell in re.split(f"[{SEPARATORS}]", line))


def read_csv(text: TextIO) -> Iterator[Line]:
    """Read CSV with a header; blank lines are left out, and a header that is wrong ends the file.

    Args:
        text: with its own line ends, and what is not UTF-8 as surrogates.
    """
    skipped, separator, first = 0, "", text.readline()
    while first and (not first.strip() or _NAMED.fullmatch(first.strip())):
        separator = first.strip().strip('"')[4:5] or separator
        skipped, first = skipped + 1, text.readline()
    separator = separator or max(SEPARATORS, key=first.count)
    rows = csv.reader(chain([first], text), delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        number = skipped + rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(number, None, (f"is no CSV: {error}",))
            continue
        if header is None and row:
            header = [cell.strip().lower() for cell in row]
            faults = _check_header(header)
            if faults:
                yield Line(number, None, faults)
                return
        elif header is not None and any(cell.strip() for cell in row):
            yield _read_row(number, header, row, decimal_comma=separator != ",")


def _check_header(header: Sequence[str]) -> tuple[str, ...]:
    """Return what is wrong with the names of the columns; then no line can be understood."""
    known = (*EXTRA_FIELDS, *REQUEST_FIELDS)
    foreign = list(dict.fromkeys(name for name in header if name and name not in known))
    twins = sorted({name for name in header if name and header.count(name) > 1})
    if any("\udc80" <= letter <= "\udcff" for letter in "".join(header)):
        return ("is not UTF-8: save the file as UTF-8",)
    listed = f"the columns there may be are {', '.join(known)}"
    if "route" not in header:
        return (f"the header has no column 'route', with commas, semicolons or tabs between the columns; {listed}",)
    if foreign:
        named = ", ".join(f"{name!r}{did_you_mean(name, known)}" for name in foreign)
        return (
            f"the header has unknown columns: {named}; rename or remove them: {listed}; metadata may hold any text",
        )
    return (f"the header has {', '.join(twins)} twice",) if twins else ()


def _read_row(number: int, header: Sequence[str], row: Sequence[str], *, decimal_comma: bool) -> Line:
    if len(row) != len(header):
        return Line(number, None, (f"has {len(row)} cells, and the header {len(header)}",))
    kind = ROUTES.get(row[header.index("route")].strip())
    types = {member.name: member.type for member in attrs.fields(kind)} if kind else {}
    members: dict[str, Any] = {}
    faults = []
    for name, cell in zip(header, row, strict=True):
        if not cell:
            continue
        if not name:
            faults.append(f"has {cell!r} in a column without a name")
            continue
        try:
            members[name] = _choose_reader(name, types.get(name), decimal_comma=decimal_comma)(cell)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return Line(number, members, tuple(faults))


def _choose_reader(name: str, kind: Any, *, decimal_comma: bool) -> Callable[[str], Any]:
    """Return how a cell is read: by its column, or by the type that the member of its route has."""
    numeric = {float: _read_number, int: _read_integer}.get(kind)
    if numeric is not None:
        return partial(numeric, decimal_comma=decimal_comma)
    if name == "route":
        return str.strip
    if name == "metadata":
        return _read_metadata
    return _read_boolean if kind is bool else str


def _read_number(cell: str, *, decimal_comma: bool) -> float:
    text = cell.strip()
    if _GROUPED.fullmatch(text):
        raise ValueError(
            f"{cell!r} may be grouped by thousands, or have three decimals: write it without groups, and with another "
            "number of decimals"
        )
    plain = text.replace(",", ".") if decimal_comma and "." not in text else text
    try:
        return float(plain.replace("_", "x"))  # Python's own numbers may be grouped by it
    except ValueError:
        cure = "; a decimal comma needs semicolons or tabs between the cells" if "," in text else ""
        raise ValueError(f"must be a number, and is {cell!r}{cure}") from None


def _read_integer(cell: str, *, decimal_comma: bool) -> int:
    number = _read_number(cell, decimal_comma=decimal_comma)
    if not number.is_integer():
        raise ValueError(f"must be a whole number, and is {cell!r}")
    return int(number)


def _read_boolean(cell: str) -> bool:
    if cell.strip().lower() not in _BOOLEANS:
        raise ValueError(f"must be true or false, and is {cell!r}")
    return _BOOLEANS[cell.strip().lower()]


def _read_metadata(cell: str) -> Any:
    """Read JSON where it is an object or a list, and else the text as it is."""
    if cell.strip()[:1] not in ("{", "["):
        return cell
    line = parse_json(0, f'{{"metadata":{cell}}}')
    if line.members is None:
        raise ValueError(line.faults[0])
    return line.members["metadata"]


CSV_SUFFIXES = (".csv", ".tsv")
"""Endings of names; other files are CSV when their first line names the columns."""

_COMPRESSED = "is compressed: unpack it first, as by: gunzip FILE"
_FOREIGN_MAGIC = {
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
    for mark, fault in _FOREIGN_MAGIC.items():
        if head.startswith(mark):
            yield Line(1, None, (fault,))
            return
    if path.suffix.lower() in CSV_SUFFIXES or _starts_with_header(path):
        with _open(path, newline="") as text:
            yield from read_csv(text)
    else:
        with _open(path, newline=None) as text:
            yield from read_jsonl(text)


def _open(path: Path, *, newline: str | None) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _starts_with_header(path: Path) -> bool:
    """Return whether the first line that is not blank has the names of columns."""
    with _open(path, newline=None) as text:
        line = text.readline(MAX_LINE_BYTES)
        while line.isspace() or line.lower().startswith(("sep=", '"sep=')):
            line = text.readline(MAX_LINE_BYTES)
    return is_header(line)

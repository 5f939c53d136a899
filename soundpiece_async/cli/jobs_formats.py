"""Parses jobs files, JSON Lines and CSV, into one ``Line`` per record. Everything here blocks.

1. An invalid line is reported, and parsing continues. Line numbers are those that an editor shows.
2. The separator of CSV is a comma, semicolon or tab: that of the first line (``sep=;``), else the most frequent one in
   the header.
3. If the separator is not a comma, a comma may be a decimal one. A number that may have thousands separators, such as
   ``1,000`` or ``1.000``, is rejected: whether that is one or a thousand seconds is not guessed.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TextIO

import attrs

from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.requests import ROUTES, SOURCE_FIELDS
from soundpiece_async.cli.console import did_you_mean

MAX_LINE_BYTES = 1 << 20
"""Longest line of JSON Lines: lyrics have up to 3000 characters, the rest is for metadata."""
EXTRA_FIELDS: tuple[str, ...] = ("route", "id", "name", "metadata")
"""Fields of a line that do not belong to the request."""
REQUEST_FIELDS: tuple[str, ...] = tuple(
    dict.fromkeys(member.name for kind in ROUTES.values() for member in attrs.fields(kind))
)
"""Fields of all requests."""

_TYPOGRAPHIC = "“”„‟«»\u2018\u2019"


@attrs.frozen
class Line:
    """One line, or one CSV record, which may span several lines.

    Attributes:
        number: of its first line in the file, from 1.
        members: parsed fields; None: the line is invalid.
        faults: messages about the line.
    """

    number: int
    members: JsonObject | None
    faults: tuple[str, ...] = ()


def read_jsonl(text: TextIO) -> Iterator[Line]:
    """Parse JSON Lines; blank lines are skipped. A file of other JSON yields one invalid line.

    Args:
        text: with universal line ends, and invalid UTF-8 as surrogates.
    """
    number, begun = 0, False
    while line := text.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith("\n"):
                line = text.readline(MAX_LINE_BYTES)
            yield Line(number, None, (f"line longer than {MAX_LINE_BYTES} bytes",))
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
        return Line(number, None, (f"invalid UTF-8 at byte {error.start + 1}; save the file as UTF-8",))
    except json.JSONDecodeError as error:
        return Line(number, None, (f"invalid JSON: {error.msg} (column {error.colno}){_json_hint(error)}",))
    except (ValueError, RecursionError) as error:
        return Line(number, None, (f"invalid JSON: {error}",))
    if not isinstance(members, dict):
        return Line(number, None, (f"expected a JSON object, got {type(members).__name__}",))
    return Line(number, members)


def _layout_error(line: str) -> str:
    """Return why a file that begins with this line is not JSON Lines; empty if it is."""
    if line.lstrip().startswith("["):
        return "JSON array instead of JSON Lines (one object per line); convert with: jq -c '.[]' FILE > jobs.jsonl"
    if not line.lstrip().startswith("{"):
        return "expected a JSON object on each line, or a CSV header with a column 'route'"
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        if not line[error.pos :].strip():
            return (
                "JSON object over several lines instead of JSON Lines (one object per line); convert with: "
                "jq -c . FILE > jobs.jsonl"
            )
    except (ValueError, RecursionError):
        pass  # parsing the line reports it
    return ""


def _json_hint(error: json.JSONDecodeError) -> str:
    """Return the fix for a common mistake, or ""."""
    left = error.doc[error.pos :].strip()
    if left[:1] and left[0] in _TYPOGRAPHIC:
        return f": {left[0]} is a typographic quote; use straight quotes"
    if left[:1] == "'":
        return ": JSON uses double quotes (Python: json.dumps)"
    if left[:1] == "," or (left[:1] == "}" and "property name" in error.msg):
        return ": extra comma"
    if left[:1] == "{":
        return ": put each object on its own line"
    return ""


def _reject_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _reject_duplicates(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate field {next(name for name in names if names.count(name) > 1)!r}")
    return members


SEPARATORS = ",;\t"

_NAMED = re.compile(r"\"?sep=(?P<separator>.)\"?[,;\t]*", re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,' _\u2019\u00a0\u202f]\d{3})+(?:[.,]\d*)?")
_BOOLEANS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}


def is_header(line: str) -> bool:
    """Return whether a line is a CSV header."""
    return "route" in (cell.strip(' "\r\n').lower() for cell in re.split(f"[{SEPARATORS}]", line))


def read_csv(text: TextIO) -> Iterator[Line]:
    """Parse CSV with a header; blank lines are skipped. An invalid header yields one invalid line.

    Args:
        text: with its own line ends, and invalid UTF-8 as surrogates.
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
            yield Line(number, None, (f"invalid CSV: {error}",))
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
    """Return faults of the column names; with any, no line can be parsed."""
    known = (*EXTRA_FIELDS, *REQUEST_FIELDS)
    foreign = list(dict.fromkeys(name for name in header if name and name not in known))
    twins = sorted({name for name in header if name and header.count(name) > 1})
    if any("\udc80" <= letter <= "\udcff" for letter in "".join(header)):
        return ("invalid UTF-8; save the file as UTF-8",)
    listed = f"known columns: {', '.join(known)}"
    if "route" not in header:
        return (f"no column 'route' in the header (separate columns with commas, semicolons or tabs); {listed}",)
    if foreign:
        named = ", ".join(f"{name!r}{did_you_mean(name, known)}" for name in foreign)
        return (f"unknown columns: {named}; rename or remove them; {listed}; metadata may contain any text",)
    return (f"duplicate columns: {', '.join(twins)}",) if twins else ()


def _read_row(number: int, header: Sequence[str], row: Sequence[str], *, decimal_comma: bool) -> Line:
    if len(row) != len(header):
        return Line(number, None, (f"{len(row)} cells, but the header has {len(header)}",))
    kind = ROUTES.get(row[header.index("route")].strip())
    types = {member.name: member.type for member in attrs.fields(kind)} if kind else {}
    members: JsonObject = {}
    faults = []
    for name, cell in zip(header, row, strict=True):
        if not cell:
            continue
        if not name:
            faults.append(f"value {cell!r} in a column without a name")
            continue
        try:
            members[name] = _choose_reader(name, types.get(name), decimal_comma=decimal_comma)(cell)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return Line(number, members, tuple(faults))


def _choose_reader(name: str, kind: object, *, decimal_comma: bool) -> Callable[[str], JsonValue]:
    """Return the parser of a cell, by its column and the type of the route's field."""
    if kind is float:
        return partial(_read_number, decimal_comma=decimal_comma)
    if kind is int:
        return partial(_read_integer, decimal_comma=decimal_comma)
    if name == "route":
        return str.strip
    if name == "metadata":
        return partial(_read_json, starts=("{", "["))
    if name in SOURCE_FIELDS:
        return partial(_read_json, starts=("{",))
    return _read_boolean if kind is bool else str


def _read_number(cell: str, *, decimal_comma: bool) -> float:
    text = cell.strip()
    if _GROUPED.fullmatch(text):
        raise ValueError(
            f"ambiguous number {cell!r}: write it without thousands separators, and not with exactly three decimals"
        )
    plain = text.replace(",", ".") if decimal_comma and "." not in text else text
    try:
        return float(plain.replace("_", "x"))  # float() accepts underscores
    except ValueError:
        cure = "; decimal commas require semicolons or tabs as separators" if "," in text else ""
        raise ValueError(f"must be a number, not {cell!r}{cure}") from None


def _read_integer(cell: str, *, decimal_comma: bool) -> int:
    number = _read_number(cell, decimal_comma=decimal_comma)
    if not number.is_integer():
        raise ValueError(f"must be a whole number, not {cell!r}")
    return int(number)


def _read_boolean(cell: str) -> bool:
    if cell.strip().lower() not in _BOOLEANS:
        raise ValueError(f"must be true or false, not {cell!r}")
    return _BOOLEANS[cell.strip().lower()]


def _read_json(cell: str, *, starts: Sequence[str]) -> JsonValue:
    """Return the JSON of a cell that starts like that, else its text."""
    if cell.strip()[:1] not in starts:
        return cell
    line = parse_json(0, f'{{"value":{cell}}}')
    if line.members is None:
        raise ValueError(line.faults[0])
    return line.members["value"]


CSV_SUFFIXES = (".csv", ".tsv")
"""Suffixes of CSV files; any other file is CSV if its first line is a CSV header."""

_COMPRESSED = "compressed file; unpack it first, for example: gunzip FILE"
_FOREIGN_MAGIC = {
    b"\x1f\x8b": _COMPRESSED,
    b"BZh": _COMPRESSED,
    b"\xfd7zXZ": _COMPRESSED,
    b"(\xb5/\xfd": _COMPRESSED,
    b"PK\x03\x04": "spreadsheet or archive; save it as CSV (UTF-8) or unpack it",
    b"\xff\xfe": "UTF-16 instead of UTF-8; save it as CSV (UTF-8) or as UTF-8",
    b"\xfe\xff": "UTF-16 instead of UTF-8; save it as CSV (UTF-8) or as UTF-8",
}
"""First bytes of files in other formats, and the message about each."""


def read_lines(path: Path) -> Iterator[Line]:
    """Parse a file as CSV or JSON Lines; blank lines are skipped.

    Raises:
        OSError: the file cannot be read.
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
    """Return whether the first line that is not blank is a CSV header."""
    with _open(path, newline=None) as text:
        line = text.readline(MAX_LINE_BYTES)
        while line.isspace() or line.lower().startswith(("sep=", '"sep=')):
            line = text.readline(MAX_LINE_BYTES)
    return is_header(line)

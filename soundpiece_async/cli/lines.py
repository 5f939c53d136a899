"""The lines of a jobs file, one at a time: JSONL, or CSV with a header. Everything here blocks.

What is wrong with a line is said, and the next one is read. Line numbers are those an editor shows.
"""

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import attrs

from soundpiece_async._core.requests import ROUTES

LONGEST = 1 << 20
"""Bytes of a line of JSONL; lyrics have 3000 characters, and the rest is the user's metadata."""
OWN: tuple[str, ...] = ("route", "name", "metadata")
"""Members of a line that are not the request's."""
MEMBERS: tuple[str, ...] = tuple(
    dict.fromkeys(member.name for kind in ROUTES.values() for member in attrs.fields(kind))
)
"""The members of all requests."""

SEPARATORS = ",;\t"
"""What stands between the cells of CSV: a spreadsheet program takes the one of its country."""

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


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


def read_lines(path: Path) -> Iterator[Line]:
    """Read a file, by its ending as CSV or as JSONL; blank lines are left out.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield from _read_csv(text)
    else:
        with path.open("rb") as file:
            yield from _read_jsonl(file)


def _read_jsonl(file: BinaryIO) -> Iterator[Line]:
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST)
            yield Line(number, None, (f"is longer than {LONGEST} bytes",))
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield _read_json(number, line)


def _read_json(number: int, line: bytes) -> Line:
    try:
        members = json.loads(line.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_twins)
    except UnicodeDecodeError as error:
        return Line(number, None, (f"is not UTF-8, at byte {error.start + 1}",))
    except json.JSONDecodeError as error:
        return Line(number, None, (f"is no JSON: {error.msg} (column {error.colno})",))
    except (ValueError, RecursionError) as error:
        return Line(number, None, (f"is no JSON: {error}",))
    if not isinstance(members, dict):
        return Line(number, None, (f"must be a JSON object, as {{...}}, and is a {type(members).__name__}",))
    return Line(number, members)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"member {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return members


def _read_csv(text: TextIO) -> Iterator[Line]:
    first = text.readline()
    rows = csv.reader(chain([first], text), delimiter=max(SEPARATORS, key=first.count), strict=True)
    header: list[str] | None = None
    while True:
        number = rows.line_num + 1
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
            yield _read_row(number, header, row)


def _check_header(header: Sequence[str]) -> tuple[str, ...]:
    """Say what is wrong with the names of the columns; then no line can be understood."""
    known = (*OWN, *MEMBERS)
    foreign = [name for name in header if name and name not in known]
    twins = sorted({name for name in header if name and header.count(name) > 1})
    if any("\udc80" <= letter <= "\udcff" for letter in "".join(header)):
        return ("is not UTF-8",)
    if "route" not in header:
        return (f"the header has no column 'route'; the columns there may be are {', '.join(known)}",)
    if foreign:
        named = ", ".join(repr(name) for name in foreign)
        return (f"the header has unknown columns: {named}; the columns there may be are {', '.join(known)}",)
    return (f"the header has {', '.join(twins)} twice",) if twins else ()


def _read_row(number: int, header: Sequence[str], row: Sequence[str]) -> Line:
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
        read = _READERS.get(name, _READERS.get(types.get(name), str))
        try:
            members[name] = read(cell)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return Line(number, members, tuple(faults))


def _read_number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"must be a number, and is {cell!r}") from None


def _read_whole(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise ValueError(f"must be a whole number, and is {cell!r}") from None


def _read_flag(cell: str) -> bool:
    if cell.strip().lower() not in _FLAGS:
        raise ValueError(f"must be true or false, and is {cell!r}")
    return _FLAGS[cell.strip().lower()]


def _read_metadata(cell: str) -> Any:
    """Take JSON where it is an object or a list, and else the text as it is."""
    if cell.strip()[:1] not in ("{", "["):
        return cell
    line = _read_json(0, b'{"metadata":%s}' % cell.encode(errors="replace"))
    if line.members is None:
        raise ValueError(line.faults[0])
    return line.members["metadata"]


_READERS: dict[Any, Callable[[str], Any]] = {
    "route": str.strip,
    "metadata": _read_metadata,
    float: _read_number,
    int: _read_whole,
    bool: _read_flag,
}
"""How a cell is read: by its column, or by the type its route's member has."""

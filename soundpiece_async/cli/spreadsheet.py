"""The records of CSV, as spreadsheet programs and pandas write it. Everything here blocks.

1. Commas, semicolons or tabs separate the cells: as the first line says (``sep=;``), or whichever the header has most.
2. Where a comma does not separate, it may be a decimal one. A number that may be grouped by thousands is refused, as
   ``1,000`` and ``1.000``: whether that is one or a thousand seconds is not guessed.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, TextIO

import attrs

from soundpiece_async._core.requests import ROUTES
from soundpiece_async.cli.console import suggest
from soundpiece_async.cli.lines import MEMBERS, OWN, Line, parse_json

SEPARATORS = ",;\t"

_NAMED = re.compile(r"\"?sep=(?P<separator>.)\"?[,;\t]*", re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,' _\u2019\u00a0\u202f]\d{3})+(?:[.,]\d*)?")
_FLAGS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}


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
    known = (*OWN, *MEMBERS)
    foreign = list(dict.fromkeys(name for name in header if name and name not in known))
    twins = sorted({name for name in header if name and header.count(name) > 1})
    if any("\udc80" <= letter <= "\udcff" for letter in "".join(header)):
        return ("is not UTF-8: save the file as UTF-8",)
    listed = f"the columns there may be are {', '.join(known)}"
    if "route" not in header:
        return (f"the header has no column 'route', with commas, semicolons or tabs between the columns; {listed}",)
    if foreign:
        named = ", ".join(f"{name!r}{suggest(name, known)}" for name in foreign)
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
    numeric = {float: _read_number, int: _read_whole}.get(kind)
    if numeric is not None:
        return partial(numeric, decimal_comma=decimal_comma)
    if name == "route":
        return str.strip
    if name == "metadata":
        return _read_metadata
    return _read_flag if kind is bool else str


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


def _read_whole(cell: str, *, decimal_comma: bool) -> int:
    number = _read_number(cell, decimal_comma=decimal_comma)
    if not number.is_integer():
        raise ValueError(f"must be a whole number, and is {cell!r}")
    return int(number)


def _read_flag(cell: str) -> bool:
    if cell.strip().lower() not in _FLAGS:
        raise ValueError(f"must be true or false, and is {cell!r}")
    return _FLAGS[cell.strip().lower()]


def _read_metadata(cell: str) -> Any:
    """Read JSON where it is an object or a list, and else the text as it is."""
    if cell.strip()[:1] not in ("{", "["):
        return cell
    line = parse_json(0, f'{{"metadata":{cell}}}')
    if line.members is None:
        raise ValueError(line.faults[0])
    return line.members["metadata"]

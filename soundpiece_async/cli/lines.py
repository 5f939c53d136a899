"""The lines of JSONL: one JSON object each. Everything here blocks.

What is wrong with a line is said, and the next one is read. Line numbers are those an editor shows.
"""

import json
from collections.abc import Iterator
from typing import Any, TextIO

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
    while line := text.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            while line and not line.endswith("\n"):
                line = text.readline(LONGEST)
            yield Line(number, None, (f"is longer than {LONGEST} bytes",))
            continue
        if not line.strip():
            continue
        if not begun and (layout := _find_layout(line)):
            yield Line(number, None, (layout,))
            return
        begun = True
        yield parse_json(number, line)


def parse_json(number: int, line: str) -> Line:
    """Parse a line that must be a JSON object."""
    try:
        text = line.encode(errors="surrogateescape").decode()
        members = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twins)
    except UnicodeDecodeError as error:
        return Line(number, None, (f"is not UTF-8, at byte {error.start + 1}: save the file as UTF-8",))
    except json.JSONDecodeError as error:
        return Line(number, None, (f"is no JSON: {error.msg} (column {error.colno}){_find_cure(error)}",))
    except (ValueError, RecursionError) as error:
        return Line(number, None, (f"is no JSON: {error}",))
    if not isinstance(members, dict):
        return Line(number, None, (f"must be a JSON object, as {{...}}, and is a {type(members).__name__}",))
    return Line(number, members)


def _find_layout(line: str) -> str:
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


def _find_cure(error: json.JSONDecodeError) -> str:
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


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"member {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return members

"""Describes the form of JSON values without their content, for a report."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.redaction import redact_text

MISSING = object()
"""Marks a missing field."""


def show_form(value: object) -> str:
    """Return the type of a value and, for text, its pattern: 9 for digits, a for letters."""
    match value:
        case str():
            form = f'"{_show_pattern(value)}"' if value else "an empty text"
        case list():
            form = f"a list of {len(value)}{' with null in it' if None in value else ''}"
        case dict():
            form = f"an object with {', '.join(sorted(redact_text(name, limit=30) for name in value)) or 'nothing'}"
        case _:
            form = "missing" if value is MISSING else _NAMES.get(type(value), "a number")
    return form


def _show_pattern(text: str) -> str:
    pattern = re.sub("[a-z]+", "a", re.sub("[A-Z]+", "A", re.sub("[0-9]", "9", redact_text(text))))
    return redact_text(pattern, limit=60)


def show_time(value: object) -> str:
    """Return the form of a time, and whether it is ISO 8601."""
    if value is MISSING or value is None or value == "" or not isinstance(value, str):
        return show_form(value) if not isinstance(value, int | float) else f"a number of {len(str(int(value)))} digits"
    try:
        zone = datetime.fromisoformat(value).tzinfo
    except ValueError:
        return f"{show_form(value)}, not a time by ISO 8601"
    return f"ISO 8601 {'with' if zone else 'without'} a zone"


def compare(sent: Mapping[str, JsonValue], echoed: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield name and change of each field that was echoed with another value."""
    for name, value in sent.items():
        found = echoed.get(name, MISSING)
        if name == "callback_url" or found == value:
            continue
        yield f"{name}: {_describe_change(value, found)}"


def _describe_change(sent: object, found: object) -> str:
    if isinstance(sent, str) and isinstance(found, str):
        return " and ".join(_name_changes(sent, found)) or "another text"
    if isinstance(sent, int | float) and isinstance(found, int | float):
        return f"{sent:g} came back as {found!r}"
    if isinstance(sent, dict) and isinstance(found, dict):
        return f"an object with {', '.join(name for name in sent if found.get(name) != sent[name])} changed"
    return show_form(found)


def _name_changes(sent: str, found: str) -> Iterator[str]:
    """Yield the changes of a text, found by the marks in ``PROMPT``."""
    for what, mark in CHANGES.items():
        if mark in sent and mark not in found:
            yield what
    if sent.startswith(" ") and not found.startswith(" "):
        yield "trimmed"
    if sent.lower() == found.lower() and sent != found:
        yield "in other letters"


_NAMES = {type(None): "null", bool: "true or false"}
CHANGES = {"composed to NFC": "e\u0301", "line ends changed": "\r\n", "escaped": "<b>"}
PROMPT = " soft de\u0301ja\u0300 vu <b>&</b>\r\nof a door "
"""A prompt that reveals every kind of normalisation."""

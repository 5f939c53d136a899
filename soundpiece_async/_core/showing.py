"""How results show themselves: tables for notebooks, fields for ``rich``. Never a signed URL; HTML is escaped.

Rules:

1. A saved file has a player if its path is relative: JupyterLab resolves such a ``src`` against the notebook, in whose
   folder the kernel runs (seen in version 4). By an absolute path it serves nothing.
2. The player links to the file and does not carry it: as a data URI a song of 20 MB becomes 27 MB of the notebook, and
   Jupyter stops a cell that puts out more than 3 MB in 3 s.
3. It loads nothing until it is played: a notebook may show hundreds.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import attrs

from soundpiece_async._core.outputs import Output
from soundpiece_async._core.redaction import hide_secrets, redact_text

if TYPE_CHECKING:
    from soundpiece_async._core.models import Operation, SavedFile, Succeeded

Fields: TypeAlias = Iterator[tuple[str, Any]]
"""What ``__rich_repr__`` yields: names and values, which ``rich`` shows in its own way."""

_MEGA = 1_000_000
_SHARED = frozenset({"idempotency_key", "callback_url"})
"""What all requests have, and nobody looks for in a table."""


def operation_fields(operation: "Operation[Any]") -> Fields:
    """Give what tells one operation from another, and how it stands."""
    yield "handle", redact_text(str(operation.handle))
    yield "status", redact_text(operation.status.value)
    yield from _request_members(operation.request)
    if operation.outputs:
        yield "outputs", [_name_output(output) for output in operation.outputs]
    if operation.error is not None:
        yield "error", str(operation.error)


def file_fields(file: "SavedFile") -> Fields:
    """Give where a file is, and what it holds."""
    yield "path", file.location
    yield "bytes", file.bytes
    yield "duration", file.duration
    yield "sample_rate", file.sample_rate
    yield "channels", file.channels


def succeeded_fields(result: "Succeeded[Any]") -> Fields:
    """Give the operation, and the files."""
    yield "operation", result.operation
    yield "files", list(result.files)


def operation_html(operation: "Operation[Any]") -> str:
    """Write an operation as a table."""
    return _table(_operation_rows(operation))


def file_html(file: "SavedFile") -> str:
    """Write a file as a table with a player (rules 1 to 3)."""
    return _table(_file_rows(file))


def succeeded_html(result: "Succeeded[Any]") -> str:
    """Write a piece as a table: its operation, then each of its files."""
    return _table([*_operation_rows(result.operation), *(row for file in result.files for row in _file_rows(file))])


def _operation_rows(operation: "Operation[Any]") -> list[tuple[str, str]]:
    rows = [(name, _cell(value)) for name, value in operation_fields(operation)]
    if operation.created_at is not None:
        rows.insert(2, ("created", _cell(f"{operation.created_at:%Y-%m-%d %H:%M:%S %Z}")))
    return rows


def _file_rows(file: "SavedFile") -> list[tuple[str, str]]:
    sound = f"{file.duration:.2f} s, {file.sample_rate} Hz, {_count(file.channels)}, {_size(file.bytes)}"
    rows = [("file", _cell(file.location)), ("audio", _cell(sound))]
    if file.path is not None and not file.path.is_absolute():
        source = _escape(quote(file.path.as_posix()))
        rows.append(("", f'<audio controls preload="none" src="{source}"></audio>'))
    return rows


def _request_members(request: Any) -> Fields:
    """Give what was asked for, in the words of the request's own repr, which hides URLs."""
    if request is None:
        return
    for field in attrs.fields(type(request)):
        value = getattr(request, field.name)
        if field.name in _SHARED or value is None:
            continue
        if isinstance(value, Output):
            yield field.name, f"{_name_output(value)} of {redact_text(str(value.handle))}"
        elif callable(field.repr):
            yield field.name, field.repr(value)
        else:
            yield field.name, hide_secrets(value) if isinstance(value, str) else value


def _name_output(output: Output) -> str:
    length = "" if output.duration is None else f", {output.duration:.2f} s"
    return f"{redact_text(output.kind) if output.kind else f'output {output.index}'}{length}"


def _table(rows: list[tuple[str, str]]) -> str:
    lines = (f'<tr><th style="text-align: left">{name}</th><td>{cell}</td></tr>' for name, cell in rows)
    return f"<table>{''.join(lines)}</table>"


def _cell(value: object) -> str:
    """Write one value; lists and the lines of lyrics below one another."""
    text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
    return _escape(text).replace("\n", "<br>")


def _count(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _size(count: int) -> str:
    return f"{count / _MEGA:.2f} MB" if count >= _MEGA else f"{count / 1000:.1f} kB"


def _escape(text: str) -> str:
    from html import escape  # noqa: PLC0415 - with its table of all entities it is slow to load

    return escape(text)

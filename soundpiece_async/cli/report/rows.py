"""What a report says of one piece: without secrets, and with nothing that JSON cannot hold."""

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import attrs

from soundpiece_async._core.job_records import JobRecord
from soundpiece_async._core.redaction import hide_secrets, redact_url
from soundpiece_async.cli.report.summary import Reason, read_moment, read_state, read_wait

TEXT, ERROR, METADATA = 160, 320, 600
"""Characters of each that the page shows: that of a long run must open quickly; ``report.json`` has them whole."""
TIMES = ("sent_at", "submitted_at", "ready_at", "ended_at")

_URLS = ("source", "reference", "callback_url")
_TOO_DEEP = "(nested too deeply to be shown)"


def describe(piece: JobRecord, *, now: float) -> dict[str, Any]:
    """Give what ``report.json`` says of a piece."""
    kinds = {output.index: output.kind for output in piece.outputs}
    wait = read_wait(piece)
    described: dict[str, Any] = scrub(
        {
            "number": piece.number,
            "line": piece.line,
            "name": piece.name,
            "title": piece.title,
            "route": piece.route,
            "state": read_state(piece, now=now).value,
            "idempotency_key": piece.key,
            "operation": piece.operation,
            **{name: write_time(getattr(piece, name)) for name in TIMES},
            "waited": None if wait is None else round(wait, 3),
            "request": _read_request(piece),
            "echo_differences": list(piece.echo_differences),
            "metadata": _scrub_deep(piece.metadata),
            "error": attrs.asdict(piece.failure) if piece.failure else None,
        }
    )
    files = [{**attrs.asdict(file), "kind": kinds.get(file.index)} for file in piece.files]
    return {**described, "files": [{**scrub(file), "path": file["path"]} for file in files]}


def make_row(piece: JobRecord, described: Mapping[str, Any], *, route: int, reason: Reason | None) -> list[Any]:
    """Give what the page shows of a piece, in the order that its script knows (``FIELDS``)."""
    metadata, error = described["metadata"], described["error"]
    wait = described["waited"]
    return [
        piece.number,
        _find_name(piece, described),
        route,
        described["state"],
        _clip(_sum_up(described["request"]), TEXT),
        read_moment(piece.submitted_at),
        wait,
        read_moment(piece.ended_at),
        [_make_player(file) for file in described["files"]],
        reason and reason.id,
        _clip(error["text"] or error["code"] or error["kind"], ERROR) if error else "",
        piece.operation or "",
        "" if metadata is None else _clip(json.dumps(metadata, ensure_ascii=False), METADATA),
        piece.key,
        piece.line,
    ]


def scrub(value: Any) -> Any:
    """Take out of JSON values what may sign a URL, keys of accounts, and numbers that JSON has no word for."""
    match value:
        case str():
            return hide_secrets(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {hide_secrets(name): scrub(member) for name, member in value.items()}
        case list() | tuple():
            return [scrub(member) for member in value]
        case _:
            return value


def write_time(seconds: float | None) -> str | None:
    """Write seconds since 1970 as ISO 8601, to the millisecond."""
    moment = read_moment(seconds)
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _scrub_deep(metadata: Any) -> Any:
    try:
        return scrub(metadata)
    except RecursionError:
        return _TOO_DEEP


def _read_request(piece: JobRecord) -> dict[str, Any]:
    """Give the members of a request, but for the key; a URL in it may hold a blank, so it is redacted as a whole."""
    try:
        members = dict(json.loads(piece.body))
    except (ValueError, TypeError):
        return {}  # the file was edited
    return {
        name: _redact_member(value) if name in _URLS else value
        for name, value in members.items()
        if name != "idempotency_key"
    }


def _redact_member(value: Any) -> Any:
    match value:
        case str():
            return redact_url(value)
        case {"url": str(url)}:
            return {**value, "url": redact_url(url)}
        case _:
            return value


def _sum_up(request: Mapping[str, Any]) -> str:
    """Give the words of a request on one line, and then what it is made from."""
    words = [request.get(name) for name in ("prompt", "lyrics")]
    sources = [request.get(name) for name in ("reference", "source")]
    urls = [source.get("url") if isinstance(source, dict) else source for source in sources]
    return " · ".join(" ".join(str(word).split()) for word in words + urls if word)


def _make_player(file: Mapping[str, Any]) -> list[Any]:
    """Give where a file is from the page's folder, its name, seconds, bytes and kind; in a store: only its URL."""
    where = None if file["url"] else quote(os.fsencode(file["path"]))
    name = file["url"] or file["path"].rpartition("/")[2]
    return [where, name, file["duration"], file["bytes"], file["kind"] or ""]


def _find_name(piece: JobRecord, described: Mapping[str, Any]) -> str:
    """Return what a job is called, if that is more than the id of its operation."""
    name = described["title"] or described["name"] or ""
    return name if piece.operation is None or piece.name or not name.startswith(piece.operation) else ""


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"

"""The data of one job in a report: without secrets, and valid as JSON."""

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import attrs

from soundpiece_async._core.job_records import JobRecord
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.redaction import hide_secrets, redact_url
from soundpiece_async._core.requests import SOURCE_FIELDS
from soundpiece_async.cli.report.summary import FailureGroup, effective_state, valid_time, waiting_time

BLOCKED = "blocked"
"""State of jobs that could not be sent because of their source."""
TEXT, ERROR, METADATA = 160, 320, 600
"""Maximum characters of each in the page, so that it opens quickly; ``report.json`` is complete."""
TIMES = ("sent_at", "submitted_at", "ready_at", "ended_at")

_URLS = (*SOURCE_FIELDS, "callback_url")
_TOO_DEEP = "(nested too deeply to be shown)"


def job_to_json(job: JobRecord, *, now: float) -> JsonObject:
    """Return the object of a job in ``report.json``."""
    kinds = {output.index: output.kind for output in job.outputs}
    wait = waiting_time(job)
    described: JsonObject = redact_json(
        {
            "number": job.number,
            "line": job.line,
            "name": job.name,
            "title": job.title,
            "route": job.route,
            "state": effective_state(job, now=now).value,
            "idempotency_key": job.key,
            "operation": job.operation,
            **{name: to_iso(getattr(job, name)) for name in TIMES},
            "waited": None if wait is None else round(wait, 3),
            "request": _request_members(job),
            "source": _source_to_json(job.source),
            "echo_differences": list(job.echo_differences),
            "metadata": _redact_metadata(job.metadata),
            "error": attrs.asdict(job.failure) if job.failure else None,
        }
    )
    files = [{**attrs.asdict(file), "kind": kinds.get(file.index)} for file in job.files]
    return {**described, "files": [{**redact_json(file), "path": file["path"]} for file in files]}


def table_row(
    job: JobRecord, described: Mapping[str, JsonValue], *, route: int, reason: FailureGroup | None
) -> list[JsonValue]:
    """Return the row of a job in the page, in the order of ``FIELDS`` in its script."""
    metadata, error = described["metadata"], described["error"]
    wait = described["waited"]
    return [
        job.number,
        _display_name(job, described),
        route,
        described["state"],
        _clip(_summary_text(described["request"]), TEXT),
        valid_time(job.submitted_at),
        wait,
        valid_time(job.ended_at),
        [_file_entry(file) for file in described["files"]],
        reason and reason.id,
        _clip(error["text"] or error["code"] or error["kind"], ERROR) if error else "",
        job.operation or "",
        "" if metadata is None else _clip(json.dumps(metadata, ensure_ascii=False), METADATA),
        job.key,
        job.line,
        _split_source(job.source),
    ]


def blocked_to_json(job: Mapping[str, JsonValue]) -> JsonObject:
    """Return the object of a blocked job in ``report.json``."""
    described: JsonObject = redact_json(
        {
            "number": None,
            "line": job["line"],
            "name": job["name"],
            "route": job["route"],
            "state": BLOCKED,
            "source": {"line": job["source"]},
            "blocked_by": {"line": job["blocked_by"]},
            "error": {"kind": "Blocked", "code": "", "text": job["reason"]},
            "files": [],
        }
    )
    return described


def blocked_row(described: Mapping[str, JsonValue], *, route: int) -> list[JsonValue]:
    """Return the row of a blocked job in the page, as ``table_row``."""
    name, line, error = described["name"] or "", described["line"], _clip(described["error"]["text"], ERROR)
    source = [described["source"]["line"], None]
    return [None, name, route, BLOCKED, "", None, None, None, [], None, error, "", "", "", line, source]


def _split_source(source: str | None) -> list[JsonValue] | None:
    """Return the operation id and the output index of a recorded source."""
    if source is None:
        return None
    handle, _, index = source.rpartition("#")
    return [handle.partition("/")[2], int(index)]


def _source_to_json(source: str | None) -> JsonObject | None:
    split = _split_source(source)
    return None if split is None else {"operation": split[0], "output": split[1]}


def redact_json(value: JsonValue) -> JsonValue:
    """Return JSON values without signatures of URLs, API keys, and numbers that JSON lacks."""
    match value:
        case str():
            return hide_secrets(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {hide_secrets(name): redact_json(member) for name, member in value.items()}
        case list() | tuple():
            return [redact_json(member) for member in value]
        case _:
            return value


def to_iso(seconds: float | None) -> str | None:
    """Return seconds since 1970 in ISO 8601, with milliseconds."""
    moment = valid_time(seconds)
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _redact_metadata(metadata: JsonValue) -> JsonValue:
    try:
        return redact_json(metadata)
    except RecursionError:
        return _TOO_DEEP


def _request_members(job: JobRecord) -> JsonObject:
    """Return the fields of a request without its key. A URL may contain blanks, so it is redacted as a whole."""
    try:
        members = dict(json.loads(job.body))
    except (ValueError, TypeError):
        return {}  # the file was edited
    return {
        name: _redact_member(value) if name in _URLS else value
        for name, value in members.items()
        if name != "idempotency_key"
    }


def _redact_member(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return redact_url(value)
        case {"url": str(url)}:
            return {**value, "url": redact_url(url)}
        case _:
            return value


def _summary_text(request: Mapping[str, JsonValue]) -> str:
    """Return prompt, lyrics and sources of a request on one line."""
    words = [request.get(name) for name in ("prompt", "lyrics")]
    sources = [request.get(name) for name in SOURCE_FIELDS]
    urls = [source.get("url") if isinstance(source, dict) else source for source in sources]
    return " · ".join(" ".join(str(word).split()) for word in words + urls if word)


def _file_entry(file: Mapping[str, JsonValue]) -> list[JsonValue]:
    """Return link, name, seconds, bytes and kind of a file; a file in a store has no link."""
    where = None if file["url"] else quote(os.fsencode(file["path"]))
    name = file["url"] or file["path"].rpartition("/")[2]
    return [where, name, file["duration"], file["bytes"], file["kind"] or ""]


def _display_name(job: JobRecord, described: Mapping[str, JsonValue]) -> str:
    """Return the name of a job, unless that is the id of its operation."""
    name = described["title"] or described["name"] or ""
    return name if job.operation is None or job.name or not name.startswith(job.operation) else ""


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"

"""Variations of the operation object: its echo, times, status, outputs and error."""

import hashlib
import html
import ipaddress
import posixpath
import re
import struct
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from soundpiece_async.simulator.operations import ServerOperation
from soundpiece_async.simulator.schema import ABSENT, Document
from soundpiece_async.simulator.variations.variation import Table, Variation

Change = Callable[[Document, ServerOperation], None]
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _put(members: Document, name: str, value: object) -> None:
    """Write a field; `ABSENT` leaves it out."""
    if value is ABSENT:
        members.pop(name, None)
    else:
        members[name] = value


# the echo


def _echo(kind: type | tuple[type, ...], change: Callable[[Any], object]) -> Change:
    """Change the echoed fields whose value is of a kind; a boolean is no number."""

    def apply(document: Document, operation: ServerOperation) -> None:
        for name in operation.submission.echo:
            value = document.get(name)
            if isinstance(value, kind) and not isinstance(value, bool):
                _put(document, name, change(value))

    return apply


def _float32(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


def _drop_defaults(document: Document, operation: ServerOperation) -> None:
    """Leave out what the caller did not send, or sent as it is by default."""
    for member in operation.route.members:
        if document.get(member.name) in (None, member.default):
            document.pop(member.name, None)


def _fill_defaults(document: Document, operation: ServerOperation) -> None:
    """Show the fields of every route, and empty texts for those that were not sent."""
    for name, value in {"callback_url": None, "loopable": False, "n_variations": 1}.items():
        document.setdefault(name, value)
    for name in ("lyrics", "prompt"):
        if name in operation.submission.echo and document.get(name) is None:
            document[name] = ""


def _source_url(change: Callable[[str], str]) -> Change:
    return _echo(dict, lambda source: {**source, "url": change(source["url"])})


def normalise_url(url: str) -> str:
    """Return a URL as WHATWG's parsers and Pydantic write it."""
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else parts.hostname
    if host and ":" in host:
        host = f"[{ipaddress.ip_address(host).compressed}]"
    user = f"{parts.username}@" if parts.username else ""
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    path = posixpath.normpath(parts.path) + ("/" if parts.path.endswith("/") and parts.path.strip("/") else "")
    return urlunsplit((parts.scheme, f"{user}{host}{port}", path if parts.path else "/", parts.query, parts.fragment))


def _copy_url(url: str) -> str:
    return f"https://ingest.example.com/copies/{hashlib.blake2b(url.encode(), digest_size=12).hexdigest()}"


def _drop_echo(document: Document, operation: ServerOperation) -> None:
    for name in operation.submission.echo:
        document.pop(name, None)


def _key(change: Callable[[str], str]) -> Change:
    def apply(document: Document, operation: ServerOperation) -> None:
        document["idempotency_key"] = change(operation.key)

    return apply


_ECHO = {
    "strip": Variation(part="echo.space", meaning="texts are trimmed", document=_echo(str, str.strip)),
    "nfc": Variation(
        part="echo.unicode",
        meaning="texts are in Unicode's composed form",
        document=_echo(str, lambda text: unicodedata.normalize("NFC", text)),
    ),
    "crlf": Variation(
        part="echo.lines",
        meaning="`\\r\\n` and `\\r` become `\\n`",
        document=_echo(str, lambda text: re.sub("\r\n?", "\n", text)),
    ),
    "html": Variation(part="echo.escaping", meaning="texts are escaped for HTML", document=_echo(str, html.escape)),
    "float32": Variation(
        part="echo.numbers", meaning="numbers went through 32 bits", document=_echo((int, float), _float32)
    ),
    "round": Variation(
        part="echo.numbers",
        meaning="numbers are rounded to one digit after the point",
        document=_echo((int, float), lambda number: round(number, 1)),
    ),
    "clamp": Variation(
        part="echo.numbers",
        meaning="numbers are brought into the range from 1 to 30",
        document=_echo((int, float), lambda number: min(max(number, 1), 30)),
    ),
    "numbers-as-text": Variation(part="echo.numerals", meaning="numbers are texts", document=_echo((int, float), repr)),
    "url-normalised": Variation(
        part="echo.url", meaning="source URLs are normalised", document=_source_url(normalise_url)
    ),
    "url-copied": Variation(
        part="echo.url", meaning="source URLs are those of the service's own copies", document=_source_url(_copy_url)
    ),
    "objects-as-strings": Variation(
        part="echo.objects", meaning="a source is its URL as text", document=_echo(dict, lambda source: source["url"])
    ),
    "defaults-dropped": Variation(
        part="echo.defaults", meaning="fields with their default are missing", document=_drop_defaults
    ),
    "defaults-filled": Variation(
        part="echo.defaults", meaning="fields that were not sent are filled in", document=_fill_defaults
    ),
    "drop": Variation(part="echo", meaning="only `idempotency_key` is echoed", document=_drop_echo),
    "key-upper": Variation(part="key", meaning="`idempotency_key` is in capitals", document=_key(str.upper)),
    "key-hex": Variation(
        part="key", meaning="`idempotency_key` has no hyphens", document=_key(lambda key: uuid.UUID(key).hex)
    ),
}


# times

_TIMES: dict[str, tuple[str, Callable[[datetime], object]]] = {
    "epoch": ("seconds since 1970", lambda time: int(time.timestamp())),
    "epoch-ms": ("milliseconds since 1970", lambda time: int(time.timestamp() * 1000)),
    "epoch-text": ("seconds since 1970, as text", lambda time: str(int(time.timestamp()))),
    "rfc1123": ("as HTTP headers have it", lambda time: format_datetime(time, usegmt=True)),
    "naive": ("ISO 8601 without a zone", lambda time: time.replace(tzinfo=None).isoformat()),
    "leap": ("ISO 8601 with the second 60", lambda time: time.strftime("%Y-%m-%dT%H:%M:60Z")),
    "midnight": ("ISO 8601 with the hour 24", lambda time: time.strftime("%Y-%m-%dT24:00:00Z")),
    "empty": ("an empty text", lambda _: ""),
    "null": ("null", lambda _: None),
    "missing": ("missing", lambda _: ABSENT),
}


def _parse(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _find_outputs(document: Document, operation: ServerOperation) -> list[Document]:
    """Return the outputs, one or many; an empty list for an operation without outputs."""
    found = document.get(operation.route.result)
    return found if isinstance(found, list) else [found] if isinstance(found, dict) else []


def _output_member(name: str, change: Callable[[Any], object]) -> Change:
    """Change a field of every output that has it."""

    def apply(document: Document, operation: ServerOperation) -> None:
        for output in _find_outputs(document, operation):
            if name in output:
                _put(output, name, change(output[name]))

    return apply


def _expires(write: Callable[[datetime], object]) -> Change:
    return _output_member("expires_at", lambda text: write(_parse(text)))


def _created(write: Callable[[datetime], object]) -> Change:
    return lambda document, _: _put(document, "created_at", write(_parse(document["created_at"])))


# outputs


def _outputs(change: Callable[[list[Document]], object]) -> Change:
    """Change a list of outputs; a single output stays."""

    def apply(document: Document, _: ServerOperation) -> None:
        outputs = document.get("outputs")
        if isinstance(outputs, list):
            document["outputs"] = change(outputs)

    return apply


def _key_by_kind(outputs: list[Document]) -> Document:
    kinds = [output.get("kind") for output in outputs]
    names = [kind if isinstance(kind, str) else f"output_{number}" for number, kind in enumerate(kinds, 1)]
    return dict(zip(names, outputs, strict=True))


def _list_single(document: Document, operation: ServerOperation) -> None:
    if operation.route.result == "output" and document["output"] is not None:
        document["output"] = [document["output"]]


def _rename_result(document: Document, operation: ServerOperation) -> None:
    name = operation.route.result
    document[name.replace("output", "result")] = document.pop(name)


def _result(write: Callable[[ServerOperation], object], *, times_shown: float = float("inf")) -> Change:
    """Write something else than the outputs when a ready operation is looked at for the first times."""

    def apply(document: Document, operation: ServerOperation) -> None:
        if operation.times_shown <= times_shown and _find_outputs(document, operation):
            _put(document, operation.route.result, write(operation))

    return apply


def _write_empty(operation: ServerOperation) -> object:
    return [] if operation.route.result == "outputs" else {}


def _list_links(outputs: list[Document]) -> list[str]:
    return [output["url"] for output in outputs]


def _key_links(outputs: list[Document]) -> Document:
    return {kind: output["url"] for kind, output in _key_by_kind(outputs).items()}


def _link(change: Callable[[Document], None]) -> Change:
    """Change where the link of an output is."""

    def apply(document: Document, operation: ServerOperation) -> None:
        for output in _find_outputs(document, operation):
            change(output)

    return apply


def _move_link(name: str) -> Change:
    return _link(lambda output: _put(output, name, output.pop("url")))


def _add_other_links(output: Document) -> None:
    output.update(
        href=output.pop("url"), self="https://api.example.com/outputs/1", thumbnail_url="https://img.example.com/1"
    )


def _nest_link(output: Document) -> None:
    output["file"] = {"url": output.pop("url")}


def _drop_scheme(output: Document) -> None:
    output["url"] = output["url"].partition(":")[2]


_LINK = {
    **{
        name: Variation(part="outputs.shape.link", meaning=f"`{name}` instead of `url`", document=_move_link(name))
        for name in ("download_url", "audio_url", "uri", "link")
    },
    "href": Variation(
        part="outputs.shape.link",
        meaning="`href` instead of `url`, beside links to other things",
        document=_link(_add_other_links),
    ),
    "file": Variation(part="outputs.shape.link", meaning="within an object `file`", document=_link(_nest_link)),
    "schemeless": Variation(
        part="outputs.shape.link", meaning="begins with `//` and the host", document=_link(_drop_scheme)
    ),
}


_OUTPUTS = {
    "shuffled": Variation(part="outputs.order", meaning="in another order on every GET"),
    "early": Variation(part="outputs.time", meaning="the first is there while the rest is in the making"),
    "late": Variation(
        part="outputs.time",
        meaning="null when first looked at, then there",
        document=_result(lambda _: None, times_shown=1),
    ),
    "null": Variation(part="outputs", meaning="null for ever", document=_result(lambda _: None)),
    "empty": Variation(part="outputs", meaning="an empty list, or object, for ever", document=_result(_write_empty)),
    "missing": Variation(part="outputs", meaning="missing for ever", document=_result(lambda _: ABSENT)),
    "nulls": Variation(
        part="outputs.shape", meaning="lists end with a null", document=_outputs(lambda outputs: [*outputs, None])
    ),
    "by-kind": Variation(
        part="outputs.shape", meaning="lists are objects, with the kinds as names", document=_outputs(_key_by_kind)
    ),
    "object": Variation(
        part="outputs.shape",
        meaning="a list of one is the object itself",
        document=_outputs(lambda outputs: outputs[0] if len(outputs) == 1 else outputs),
    ),
    "list": Variation(part="outputs.shape", meaning="a single `output` is a list of one", document=_list_single),
    "texts": Variation(part="outputs.shape", meaning="lists of links alone", document=_outputs(_list_links)),
    "texts-by-kind": Variation(
        part="outputs.shape", meaning="lists are objects, of links by kind", document=_outputs(_key_links)
    ),
    "renamed": Variation(part="outputs.name", meaning="the field is `results`, or `result`", document=_rename_result),
}


# status and error

_WORDS = {
    "processing": ("queued", "pending", "running", "in_progress", "generating", "mastering"),
    "ready": ("completed", "complete", "succeeded", "success", "done", "finished", "delivered"),
    "failed": ("cancelled", "canceled", "expired", "error", "errored", "rejected", "abandoned"),
}
"""Synonyms of the three statuses; the last of each is a word that no client can know."""


def _word(status: str, word: str) -> Change:
    def apply(document: Document, _: ServerOperation) -> None:
        if document["status"] == status:
            document["status"] = word

    return apply


def _spell(change: Callable[[str], str]) -> Change:
    return lambda document, _: _put(document, "status", change(document["status"]))


def _status() -> Iterator[tuple[str, Variation]]:
    for status, words in _WORDS.items():
        for word in words:
            yield (
                word,
                Variation(part=f"status.{status}", meaning=f"instead of `{status}`", document=_word(status, word)),
            )
    drop = Variation(part="status", meaning="missing", document=lambda document, _: _put(document, "status", ABSENT))
    yield "missing", drop
    yield "upper", Variation(part="status.case", meaning="in capitals", document=_spell(str.upper))
    yield "title", Variation(part="status.case", meaning="with a capital first", document=_spell(str.title))


def _error(change: Callable[[Document], object]) -> Change:
    """Change the error of an operation that failed."""

    def apply(document: Document, _: ServerOperation) -> None:
        if document["error"] is not None:
            document["error"] = change(document["error"])

    return apply


_ERROR = {
    "text": Variation(part="error", meaning="the message alone", document=_error(lambda error: error["message"])),
    "list": Variation(part="error", meaning="a list of one", document=_error(lambda error: [error])),
    "number-code": Variation(
        part="error", meaning="its code is a number", document=_error(lambda error: {**error, "code": 5001})
    ),
    "detail": Variation(
        part="error",
        meaning="`detail` instead of a message",
        document=_error(lambda error: {"detail": error["message"]}),
    ),
}

_DURATION: dict[str, tuple[str, Callable[[float], object]]] = {
    "text": ("a number as text", str),
    "iso8601": ("an ISO 8601 duration", lambda seconds: f"PT{seconds}S"),
    "null": ("null", lambda _: None),
    "missing": ("missing", lambda _: ABSENT),
}
_KIND: dict[str, tuple[str, Callable[[str], object]]] = {
    "object": ("an object with a `name`", lambda kind: {"name": kind}),
    "upper": ("in capitals", str.upper),
    "missing": ("missing", lambda _: ABSENT),
}


def _move_id(name: str, *, prefix: str = "") -> Change:
    return lambda document, _: _put(document, name, prefix + document.pop("id"))


_ID_IN = {
    name: Variation(part="member", meaning=f"`{name}` instead of `id`", document=_move_id(name))
    for name in ("_id", "operation_id", "request_id", "uuid")
}
_ID_IN["name"] = Variation(
    part="member",
    meaning="`name` instead of `id`, as `operations/ID`",
    document=_move_id("name", prefix="operations/"),
)

DOCUMENTS: Table = {
    "echo": _ECHO,
    "created": {
        value: Variation(part="created", meaning=meaning, document=_created(write))
        for value, (meaning, write) in _TIMES.items()
    },
    "expires": {
        value: Variation(part="expires", meaning=meaning, document=_expires(write))
        for value, (meaning, write) in _TIMES.items()
    },
    "duration": {
        value: Variation(part="duration", meaning=meaning, document=_output_member("duration", write))
        for value, (meaning, write) in _DURATION.items()
    },
    "kind": {
        value: Variation(part="kind", meaning=meaning, document=_output_member("kind", write))
        for value, (meaning, write) in _KIND.items()
    },
    "link": _LINK,
    "outputs": _OUTPUTS,
    "status": dict(_status()),
    "error": _ERROR,
    "id-in": _ID_IN,
}
"""Applied in this order: fields of the outputs are changed before the outputs change their shape."""

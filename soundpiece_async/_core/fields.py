"""Lenient readers for the fields of an operation: each returns the value, or None and the reason.

The echo, the times, the durations and the kinds are advisory: a malformed one must not hide audio that is paid for
(docs/api.md#optional-fields). The reason is empty if the field is fine or absent.

Which links in a response lead to audio:

1. A link is a text that is a URL, or begins as a relative one: ``https://host/a``, ``//host/a``, ``/a``. One to a
   picture, a page or a document, by the end of its path, does not lead to audio.
2. The words of a field's name say what its link is for (``audioUrl`` is *audio* and *url*). ``url`` is the documented
   name. Another leads to audio if all of its words are words for a link or for a file (``href``, ``download_url``,
   ``audio``), or if its path ends in ``.flac``; a word for anything else makes it another link (``page_url``).
3. Where a field may have any name, such as the kind of a stem, it is another link if its name has a word of
   ``BESIDE``, or says that it is a link and not to a file. Several FLAC files of such names are outputs by kind.
"""

import re
import reprlib
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import inf
from typing import TypeAlias, TypeVar

from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.operations import OperationError
from soundpiece_async._core.redaction import redact_text

T = TypeVar("T")

Read: TypeAlias = tuple[T | None, str]
"""A value, or None; and the reason why a member that is present has no value."""

INTERNAL_ERROR = "internal_error"
"""The default error code (docs/api.md#operation-errors)."""

MAX_ERRORS = 20
"""The most errors of a list that are read."""

_MESSAGES = ("message", "detail", "title", "msg", "reason", "description")

MAX_DEPTH = 3
"""Levels of lists and objects that are searched for outputs."""

_CONTAINERS = (dict, list)

_IDENTITY = re.compile("[!-~]+")
"""Opaque, but printable: it must fit into a URL, a log line and a ``Handle``."""
_EPOCH = re.compile(r"[+-]?\d{9,}(\.\d*)?")  # fewer digits may be a date, as 20261122
_LEAP = re.compile(r"(?<=[T ]\d\d:\d\d:)60")
_MIDNIGHT = re.compile(r"(?<=[T ])24(?=:?00)")
_PERIOD = re.compile(
    r"P(?:(?P<days>[\d.]+)D)?(?:T(?:(?P<hours>[\d.]+)H)?(?:(?P<minutes>[\d.]+)M)?(?:(?P<seconds>[\d.]+)S)?)?"
)
_UNITS = {"days": 86_400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
_LATEST = 1e11  # seconds since 1970: the year 5138; what is more are thousandths
_LONG_ID = 16
"""Letters and digits; one that long is the end of another by no chance."""


def read_id(value: object) -> str | None:
    """Return an operation id, or None. Opaque and printable, without blanks around it; a whole number is its text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    plain = value.strip()
    return plain if _IDENTITY.fullmatch(plain) else None


def read_text(value: object) -> Read[str]:
    """Read a text; an empty one counts as absent."""
    if value is None or isinstance(value, str):
        return value or None, ""
    return None, f"expected text, got {_name_type(value)}"


def read_kind(value: object) -> Read[str]:
    """Read the kind of a stem, as one printable line: it is shown, stored, and part of the names of files."""
    if value is None:
        return None, ""
    text, reason = read_text(value)
    return (redact_text(text) if text and text.strip() else None), reason


def read_duration(value: object) -> Read[float]:
    """Read seconds: a number, the text of one, or an ISO 8601 duration such as ``PT1M2.5S``."""
    if value is None:
        return None, ""
    if type(value) is float and 0 <= value < inf:
        return value, ""
    try:
        seconds = _to_seconds(value.strip().replace(",", ".").upper()) if isinstance(value, str) else _to_number(value)
    except (TypeError, ValueError, OverflowError):
        return None, f"expected seconds, got {_name_type(value)}"
    return (seconds, "") if seconds >= 0 else (None, "expected seconds, got a negative number")


def read_time(value: object) -> Read[datetime]:
    """Read a time: ISO 8601 (naive is UTC), seconds or milliseconds since 1970 as number or text, or RFC 1123."""
    if value is None:
        return None, ""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo:  # without a zone, the text may be a number as well
        return moment, ""
    try:
        return _to_time(value.strip()) if isinstance(value, str) else _from_epoch(_to_number(value)), ""
    except (TypeError, ValueError, OverflowError, OSError, IndexError):  # email.utils raises the last one, too
        return None, f"expected a time, got {_name_type(value)}"


def read_error(value: object) -> OperationError | None:
    """Read why an operation failed: an object, a text, a list of either, or a bare code; None where all is empty."""
    if value is None or is_empty(value):
        return None
    match value:
        case dict():
            code = _to_words(value.get("code"))
            message = next((text for name in _MESSAGES if (text := _to_words(value.get(name)))), "")
            return OperationError(code or INTERNAL_ERROR, message if code or message else _to_words(value))
        case list():
            plain = (_to_words(one) if isinstance(one, list) else one for one in value[:MAX_ERRORS])
            errors = [error for error in map(read_error, plain) if error is not None]
            texts = dict.fromkeys(error.message or error.code for error in errors)
            return OperationError(errors[0].code if errors else INTERNAL_ERROR, "; ".join(texts))
        case str():
            return OperationError(INTERNAL_ERROR, value)
    return OperationError(INTERNAL_ERROR if value is True else _to_words(value), "")


def is_same_id(one: str, other: str) -> bool:
    """Return whether two ids are one, written in two ways: case, punctuation, and a prefix such as ``urn:op:``."""
    short, long = sorted((_fold_id(one), _fold_id(other)), key=len)
    return short == long != "" or (len(short) >= _LONG_ID and long.endswith(short))


def find_outputs(value: object, *, kind: str | None = None, depth: int = MAX_DEPTH) -> list[JsonObject]:
    """Return the outputs in a value: a list, a single one, or several by kind; only a link to audio is required.

    Each has that link as its ``url`` (``links``: which one it is).
    """
    if isinstance(value, dict):
        url = find_audio(value)
        if url is not None:
            return [{**value, "url": url, "kind": value.get("kind") or kind}]
        return _find_inside(value, kind=kind, depth=depth - 1) if depth else []
    if isinstance(value, list):
        return [one for inner in value for one in find_outputs(inner, kind=kind, depth=depth - 1)] if depth else []
    return [{"url": value, "kind": kind}] if isinstance(value, str) and is_audio(value) else []


def _find_inside(value: JsonObject, *, kind: str | None, depth: int) -> list[JsonObject]:
    """Return the outputs in the fields of an object that has no link itself.

    With members of its own, such as a duration, it is an output whose file is an object, if a member is named like one.
    Else it is a table of outputs by kind.
    """
    own = {name: one for name, one in value.items() if not (isinstance(one, dict | list) or _is_link(one))}
    file = {name: one for name, one in value.items() if isinstance(one, dict | list) and is_for_a_file(name)}
    kind = value.get("kind") or kind
    inside = [{**own, **one} for one in find_outputs(list(file.values()), kind=kind, depth=depth + 1)]
    if inside and not is_empty(own):
        return inside
    found: list[JsonObject] = []
    for name, one in value.items():
        if is_beside(name):
            continue
        if isinstance(one, dict | list):
            found += find_outputs(one, kind=name if is_kind(name) else kind, depth=depth)
        elif _is_link(one) and (is_empty(own) or is_flac(one)):
            found += find_outputs(one, kind=name, depth=depth)
    return found


def to_epoch(number: float) -> float:
    """Return seconds since 1970 for a number of seconds, or of thousandths, millionths or billionths of a second.

    The unit is chosen by size: seconds end in the year 5138, and the same number of thousandths begins in 1973.
    """
    scales = (scale for scale in (1.0, 1e3, 1e6, 1e9) if abs(number) < _LATEST * scale)
    return number / next(scales, 1.0)


def is_empty(value: object, *, depth: int = MAX_DEPTH) -> bool:
    """Return whether a member is empty: null, blank text, zero, or containers of empty values."""
    if isinstance(value, str):
        return not value or value.isspace()
    if not value or not isinstance(value, _CONTAINERS):
        return not value
    if not depth:
        return False
    for inner in value.values() if isinstance(value, dict) else value:  # noqa: SIM110 - a generator takes twice as long
        if not is_empty(inner, depth=depth - 1):
            return False
    return True


def _is_link(value: object) -> bool:
    return isinstance(value, str) and is_audio(value)


def _fold_id(identity: str) -> str:
    """Return an id without case and punctuation, and without its prefix if that leaves a long one."""
    plain = (
        "".join(character for character in part.casefold() if character.isalnum())
        for part in (re.split("[:/_]", identity)[-1], identity)
    )
    tail, whole = plain
    return tail if len(tail) >= _LONG_ID else whole


def _to_number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not abs(value) <= sys.float_info.max:  # NaN and infinity are no JSON, but Python reads them
        raise ValueError
    return float(value)


def _to_seconds(text: str) -> float:
    period = _PERIOD.fullmatch(text)
    if period is None or not any(period.groups()):
        return _to_number(float(text))
    return _to_number(sum(float(number) * _UNITS[unit] for unit, number in period.groupdict().items() if number))


def _from_epoch(number: float) -> datetime:
    return datetime.fromtimestamp(to_epoch(number), UTC)


def _to_time(text: str) -> datetime:
    if _EPOCH.fullmatch(text):
        return _from_epoch(_to_number(float(text)))
    try:
        moment = _from_iso(text.upper())  # RFC 3339 allows a small t and z
    except ValueError:
        moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # UTC in every documented example


def _from_iso(text: str) -> datetime:
    """Read ISO 8601, leap seconds and 24:00 included, which ``datetime`` refuses."""
    text = re.sub(r" ?(UTC|GMT)$", "Z", text)
    later = timedelta(seconds=len(_LEAP.findall(text)), days=len(_MIDNIGHT.findall(text)))
    return datetime.fromisoformat(_MIDNIGHT.sub("00", _LEAP.sub("59", text))) + later


def _to_words(value: object) -> str:
    """Return a member of an error as text, whatever its type."""
    return "" if is_empty(value) else value.strip() if isinstance(value, str) else reprlib.repr(value)


def _name_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "a number")


BESIDE = frozenset(
    ["callback", "cover", "image", "next", "preview", "prev", "self", "status", "thumbnail", "waveform", "webhook"]
)
"""Words for fields beside the audio."""

_LINK = re.compile(r"(?:https?:)?//\S|/\S", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_FOR_A_LINK = frozenset({"href", "link", "location", "src", "uri", "url"})
_FOR_A_FILE = frozenset(
    {
        "artifact",
        "asset",
        "attachment",
        "audio",
        "clip",
        "content",
        "data",
        "download",
        "file",
        "flac",
        "item",
        "media",
        "output",
    }
    | {"music", "presigned", "render", "result", "signed", "song", "sound", "stem", "track", "variation"}
)
_NO_AUDIO = (".gif", ".htm", ".html", ".jpeg", ".jpg", ".json", ".pdf", ".png", ".svg", ".txt", ".webp", ".xml")


def is_audio(text: str) -> bool:
    """Return whether a text is a link that may lead to audio (rule 1)."""
    return _LINK.match(text.strip()) is not None and not leads_elsewhere(text)


def leads_elsewhere(link: str) -> bool:
    """Return whether a link leads to a picture, a page or a document, by the end of its path (rule 1)."""
    return _read_path(link).endswith(_NO_AUDIO)


def is_for_a_file(name: str) -> bool:
    """Return whether a member of this name holds audio, or links to it (rule 2)."""
    words = _list_words(name)
    return words <= _FOR_A_LINK | _FOR_A_FILE and bool(words & _FOR_A_FILE)


def is_beside(name: str) -> bool:
    """Return whether a member of this name holds something else than audio (rule 3)."""
    words = _list_words(name)
    return bool(words & BESIDE) or bool(words & _FOR_A_LINK and not words <= _FOR_A_LINK | _FOR_A_FILE)


def is_kind(name: str) -> bool:
    """Return whether a member's name says more than that it holds links or files, as the kind of a stem."""
    words = _list_words(name)
    return not words or not words <= _FOR_A_LINK | _FOR_A_FILE


def is_flac(link: str) -> bool:
    """Return whether the path of a link ends as that of a FLAC file."""
    return _read_path(link).endswith(".flac")


def find_audio(value: Mapping[str, object]) -> str | None:
    """Return the link to audio in an object, or None (rule 2), also where there are several by kind (rule 3)."""
    url = value.get("url")
    if isinstance(url, str) and url.strip():
        return None if leads_elsewhere(url) else url
    found = {name: text for name, text in value.items() if isinstance(text, str) and is_audio(text)}
    kinds = {name for name, text in found.items() if is_flac(text) and is_kind(name) and not is_beside(name)}
    if len(kinds) > 1:
        return None
    names = [name for name in found if name in kinds or not is_kind(name)]
    best = max(names, key=lambda name: (is_flac(found[name]), is_for_a_file(name)), default=None)
    return None if best is None else found[best]


def _list_words(name: str) -> frozenset[str]:
    """Return the words of a member's name, each in the singular."""
    words = map(str.lower, _WORD.findall(name))
    return frozenset([word if word in BESIDE else word.removesuffix("s") for word in words])


def _read_path(link: str) -> str:
    """Return a link without query and fragment, in lower case."""
    return link.strip().partition("?")[0].partition("#")[0].lower()

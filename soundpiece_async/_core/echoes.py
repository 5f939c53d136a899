"""Compares the request that the service echoes with the one that was sent. The echo is not promised.

Rules (docs/api.md#echoed-fields):

1. Values are compared as JSON: 8 is 8.0, true is not 1, an object may have more fields. A URL, and a key, count as
   the same in each of their spellings. A field that is absent or null says nothing.
2. Another ``idempotency_key``, compared as a UUID, means that the response belongs to another request. No other
   difference means anything by itself: services trim, normalize, escape, round, clamp and rewrite what they echo.
3. A difference is *slight* if that explains it. Under a key that the caller chose, one that is not may mean that the
   key was used for other work before.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit
from uuid import UUID

import attrs

_ESCAPED = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)
_BLANKS = {"n": "\n", "r": "\r", "t": "\t"}


@attrs.frozen
class Difference:
    """A field that is echoed with another value; ``slight``: normalizing explains it (rule 3)."""

    field: str
    slight: bool


def compare(sent: Mapping[str, object], echoed: Mapping[str, object]) -> Iterator[Difference]:
    """Yield the differences between the fields of a request and their echo, except the callback URL.

    That one is no field of an operation (docs/api.md#operation-fields).
    """
    for name, value in sent.items():
        echo = echoed.get(name)
        if echo is None or (isinstance(value, str) and value == echo):
            continue
        if name == "callback_url" or _json_equal(name, value, echo):
            continue
        yield Difference(name, slight=name == "idempotency_key" or _is_slight(value, echo))


def is_same_key(sent: object, echoed: object) -> bool:
    """Return whether an echoed key is the one that was sent; False if it is absent."""
    known = isinstance(sent, str) and isinstance(echoed, str) and bool(echoed.strip())
    return known and not is_of_another(sent, echoed)


def is_of_another(sent: object, echoed: object) -> bool:
    """Return whether an echoed key belongs to another request (rule 2); others than UUIDs are compared as text."""
    if not isinstance(sent, str) or not isinstance(echoed, str) or not echoed.strip() or sent == echoed:
        return False
    ours, theirs = _normalize_uuid(sent), _normalize_uuid(echoed)
    if ours is None and theirs is None:
        return sent.strip().casefold() != echoed.strip().casefold()
    return ours is not None and theirs is not None and ours != theirs


def _json_equal(name: str, sent: object, echoed: object) -> bool:
    """Return whether two JSON values are equal (rule 1)."""
    match sent:
        case str() if sent == echoed:
            return True
        case dict():
            return isinstance(echoed, dict) and all(
                echoed.get(inner) is None or _json_equal(inner, value, echoed[inner]) for inner, value in sent.items()
            )
        case str() if isinstance(echoed, str) and name == "idempotency_key":
            return _normalize_uuid(sent) == _normalize_uuid(echoed) is not None
        case str() if isinstance(echoed, str) and name == "url":
            return _normalize_url(sent) == _normalize_url(echoed)
    return isinstance(sent, bool) == isinstance(echoed, bool) and bool(sent == echoed)


def _is_slight(sent: object, echoed: object) -> bool:
    """Return whether normalizing explains a difference (rule 3)."""
    match sent:
        case bool():
            return str(echoed).strip().casefold() in {str(sent).casefold(), str(int(sent))}
        case int() | float():
            return _is_number(echoed)
        case dict():
            inner = echoed.get("url") if isinstance(echoed, dict) else echoed
            return isinstance(inner, str) and _file_name(str(sent.get("url"))) == _file_name(inner)
        case str():
            return isinstance(echoed, str) and _normalize_text(sent) == _normalize_text(echoed)
    return False


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]  # a TypeError is an answer, too
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, bool)


def _normalize_text(text: str) -> str:
    """Normalize a text: blanks, Unicode forms, and the escapes of HTML and JSON."""
    from html import unescape  # with its table of all entities it is slow to load

    plain = unicodedata.normalize("NFKC", _ESCAPED.sub(_unescape, unescape(unescape(text))))
    return "".join(character for character in plain if character.isprintable() and not character.isspace())


def _unescape(found: re.Match[str]) -> str:
    code = found[0][1:]
    return chr(int(code[1:], 16)) if len(code) > 1 else _BLANKS.get(code, code)


def _file_name(url: str) -> str:
    """Return the last part of a URL's path, which a copy on another host usually keeps."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return url
    return unquote(path).rpartition("/")[2].casefold()


def _normalize_uuid(key: str) -> UUID | None:
    """Return the canonical form of a UUID, from any of its spellings."""
    try:
        return UUID(key.strip())
    except ValueError:  # sent unvalidated
        return None


def _normalize_url(url: str) -> str:
    """Undo what a URL type does to a URL it echoes: https://A.example/b c comes back as https://a.example/b%20c.

    The service reads URLs as such a type (its error ``url_parsing`` is Pydantic's: docs/api.md#http-errors).
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return url
    return unquote(f"{parts.scheme}://{parts.username}@{host}:{port}{parts.path or '/'}?{parts.query}")

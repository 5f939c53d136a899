"""Encodes requests as the JSON that is sent (``encode_request``), and decodes responses. The only file with cattrs."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType
from typing import get_args

import attrs
import cattrs

from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.redaction import forget_arguments
from soundpiece_async._core.requests import ROUTES, SOURCE_FIELDS, AudioSource, Output, Request, Source

_DIGITS_TO_ZERO, _LONG_INTEGER = bytes.maketrans(b"123456789", b"000000000"), b"0" * 19
"""They find that many digits in a row, thirty times as fast as a regular expression."""
_AROUND = re.compile(r"[\s\0\ufeff\x1e]*[^\s\0{\[\"<]{0,16}[\s\0\ufeff\x1e]*")
"""Text before, between and after JSON documents: blanks, padding, marks, and a guard of a few characters."""
_MAX_NESTING = 500
"""Levels of nesting; a body with no more brackets has no more of them."""


@forget_arguments
def encode_request(request: Request, *, key: str | None = None) -> bytes:
    """Encode the body of a PUT, once per key: every resend must have these very bytes (docs/api.md#idempotency).

    Always by the standard ``json``, whatever else is installed, so that the bytes do not depend on it. Fields stand in
    class order, those of the base class ``Request`` first. One that is None is left out: only ``callback_url`` is
    documented as nullable (docs/api.md#request-fields). Other defaults are sent, and a source is sent as its URL::

        {"idempotency_key":"2f0c…","lyrics":"[Verse]…","reference":{"url":"https://…"}}

    Args:
        request: the request.
        key: in place of that of the request; None: its own.

    Raises:
        InvalidRequest: a field has no JSON form (NaN, infinity, a lone surrogate, an object of another type).
    """
    kind: type = type(request)  # a plain class, which a cache may hold
    members = {name: value for name in _field_names(kind) if (value := getattr(request, name)) is not None}
    for name, value in members.items():
        if not isinstance(value, str) or name in SOURCE_FIELDS:
            members[name] = _to_wire(name, value)
    if key is not None:
        members["idempotency_key"] = key
    try:
        return _dump(members)
    except (TypeError, ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        name, error = next((name, why) for name, value in members.items() if (why := _json_error({name: value})))
    raise InvalidRequest(
        f"{request.route}: {name} cannot be encoded as JSON: {error}; nothing was sent", field=name
    ) from error


class JsonReader:
    """Reads JSON with ``orjson.loads`` where the result is the same, else with the standard ``json``.

    What comes out is the same. orjson refuses some of what ``json`` reads (NaN, lone surrogates, another encoding), so
    what it refuses is read again; it makes a float of a whole number beyond 64 bits, and follows deep nesting further
    than ``json`` does, so it reads neither, but for a ``skim``.

    Args:
        orjson_loads: ``orjson.loads``, or None.
    """

    def __init__(self, orjson_loads: Callable[[bytes], JsonValue] | None) -> None:
        self._quick = orjson_loads

    def __repr__(self) -> str:
        return f"<JsonReader with {'json' if self._quick is None else 'orjson'}>"

    def __call__(self, body: bytes) -> JsonValue:
        """Read JSON; ``ValueError`` if it is not JSON."""
        return self.skim(body) if self.is_exact(body) else _load_slowly(body)

    def skim(self, body: bytes) -> JsonValue:
        """Read JSON for a look at its texts, in two thirds of the time; numbers are right if ``is_exact``."""
        if self._quick is None:
            return _load_slowly(body)
        try:
            return self._quick(body)
        except ValueError:
            return _load_slowly(body)

    def is_exact(self, body: bytes) -> bool:
        """Return whether ``skim`` reads all of it as ``json`` does."""
        return self._quick is None or not (
            _LONG_INTEGER in body.translate(_DIGITS_TO_ZERO)
            or (len(body) > 2 * _MAX_NESTING and body.count(b"[") + body.count(b"{") > _MAX_NESTING)
        )


def _load_slowly(body: bytes) -> JsonValue:
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def find_orjson_loads() -> Callable[[bytes], JsonValue] | None:
    """Return ``orjson.loads``, or None if the extra ``fast`` is not installed."""
    try:
        import orjson  # it may be missing
    except ImportError:
        return None
    return orjson.loads


decode_json = JsonReader(find_orjson_loads())


def is_utf8(body: bytes) -> bool:
    """Return whether bytes are UTF-8 text."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def decode_response(body: bytes, *, skim: bool = False) -> JsonValue:
    """Decode JSON leniently, whatever surrounds it.

    Bytes that are no UTF-8 are replaced: an echo that was cut inside a letter, or written in the encoding of another
    age, must not hide an id. Padding and a guard against scripts, such as ``)]}',``, are left out. Of several documents
    in a row the list is returned, the latest first. JSON in a JSON text is unpacked. ``skim``: see ``JsonReader``.

    Raises:
        ValueError: it is invalid.
    """
    try:
        data = decode_json.skim(body) if skim else decode_json(body)
    except ValueError:
        data = _decode_documents(body.decode("utf-8", "replace"))
    return decode_text(data) if isinstance(data, str) else data


def decode_text(text: str) -> JsonValue:
    """Return the object or list that a text encodes in JSON, or the text itself."""
    return decode_json(text.encode()) if text.lstrip()[:1] in ("{", "[") else text


def _decode_documents(text: str) -> JsonValue:
    """Decode one object or list, or several in a row."""
    documents: list[JsonValue] = []
    place = _find_document(text, 0)
    while place is not None:
        try:
            data, end = _DECODER.raw_decode(text, place)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        documents.append(data)
        place = _find_document(text, end)
    return documents[::-1] if len(documents) > 1 else documents[0]


def _find_document(text: str, start: int) -> int | None:
    """Return the position of the next object or list; None: there was one, and no JSON is left.

    Raises:
        ValueError: something else is there.
    """
    around = _AROUND.match(text, start)
    end = start if around is None else around.end()
    if text[end : end + 1] in ("{", "["):
        return end
    if start and end == len(text):
        return None
    raise ValueError(f"invalid JSON at {start}")


def request_from_echo(members: Mapping[str, object], *, route: str) -> Request | None:
    """Rebuild a request from its echo; None: the echo is incomplete or invalid."""
    if members.get("idempotency_key") is None:
        return None  # a generated key would be another request
    told = {name: value for name, value in members.items() if value is not None}
    try:
        return _get_converter().structure(told, ROUTES[route])
    except (TypeError, ValueError, KeyError):
        return None


def is_echo(request: Request, members: Mapping[str, object]) -> bool:
    """Return whether a response has each field of a request with its very value; False for one with a source."""
    kind: type = type(request)  # a plain class, which a cache may hold
    for name in _field_names(kind):
        value, echo = getattr(request, name), members.get(name)
        if value is not None and name in SOURCE_FIELDS:
            return False
        if value != echo or isinstance(value, bool) is not isinstance(echo, bool):  # True == 1
            return False
    return True


@cache
def _field_names(kind: type[Request]) -> tuple[str, ...]:
    return tuple(member.name for member in attrs.fields(kind))


def _to_wire(name: str, value: object) -> object:
    match value:
        case AudioSource() | Output():
            return {"url": value.url}
        case str() if name in SOURCE_FIELDS:
            return {"url": value}
    return value


def _dump(value: object) -> bytes:
    return _ENCODER.encode(value).encode()


def _json_error(value: object) -> Exception | None:
    """Return why JSON cannot represent this; refused even with ``Settings(validate=False)``."""
    try:
        _dump(value)
    except (TypeError, ValueError, RecursionError) as error:
        return error
    return None


def _check_type(kind: type) -> Callable[[object, object], object]:
    """Build a hook that passes a value of the type unchanged, or raises: cattrs by itself would turn 5 into "5"."""

    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, not {type(value).__name__}")
        return value

    return structure


def _number(value: object, _: object) -> float:
    if isinstance(value, str):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, not {type(value).__name__}")
    if not abs(value) <= sys.float_info.max:  # NaN and infinity are no JSON, but Python reads them
        raise ValueError("expected a finite number")
    return float(value)


def _source(value: object, _: object) -> AudioSource:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise TypeError("expected an object with a url")
    return AudioSource(url)


def _optional(shape: object, converter: cattrs.Converter) -> Callable[[object, object], object]:
    """Build the hook of ``X | None`` once; cattrs by itself looks up that of X for every value."""
    (kind,) = (part for part in get_args(shape) if part is not NoneType)
    structure = converter.get_structure_hook(kind)
    return lambda value, _: None if value is None else structure(value, kind)


@cache
def _get_converter() -> cattrs.Converter:
    """Build the converter of requests, once."""
    converter = cattrs.Converter(detailed_validation=False)
    for primitive in (str, bool, int):
        converter.register_structure_hook(primitive, _check_type(primitive))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_factory(
        lambda shape: len(get_args(shape)) == 2 and NoneType in get_args(shape),  # X and None
        _optional,
    )
    converter.register_structure_hook_func(lambda shape: shape in (Source, Source | None), _source)
    return converter


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder()

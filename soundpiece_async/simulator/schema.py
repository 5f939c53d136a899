"""The eight routes as data, and the validation of requests.

Rules:

1. Requests are read as strictly as the published schema: a numeral in quotes is no number, `wait=1` is no boolean.
2. Refusals are lists of field errors as FastAPI writes them, all faults of a request at once (docs/api.md#http-errors).
3. Unlisted fields are ignored; whether the service does so too is unknown (docs/api.md#request-fields).
4. Of the two bodies of a song or an instrumental exactly one must fit. A fault of the one that was sent is reported
   by its plain path, as the documentation does; when it is ambiguous which was meant, each path names its body.
5. A check takes one decoded JSON value and returns it as the service would echo it, or raises `InvalidValueError`; it
   rejects in the words of Pydantic 2 (docs/api.md#http-errors).
"""

import ipaddress
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import attrs

JsonObject = Mapping[str, Any]
Document = dict[str, Any]
"""A JSON object that is being built."""
LONGEST = 600.0
"""Seconds of audio asked for in one request; the published schema names no bound (docs/api.md#new-sample)."""

_NO_HEX = re.compile(r"[^0-9a-f-]", re.IGNORECASE)
_GROUPS = (8, 4, 4, 4, 12)
_LONGEST_KEY = len("urn:uuid:") + sum(_GROUPS) + len(_GROUPS) - 1
_BLANK = re.compile(r"[\x00-\x20\x7f]")


class InvalidValueError(Exception):
    """An invalid value: `kind` is the stable code, `below` the path from the checked field inwards."""

    def __init__(
        self, kind: str, message: str, *, context: Mapping[str, object] | None = None, below: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.kind: str = kind
        self.message: str = message
        self.context: Mapping[str, object] | None = context
        self.below: tuple[str, ...] = below


def value_error(reason: str) -> InvalidValueError:
    """Return the error of a custom rule; FastAPI empties the exception that Pydantic puts in the context."""
    return InvalidValueError("value_error", f"Value error, {reason}", context={"error": {}})


def check_text(value: object, *, longest: int) -> str:
    """Check a string of 1 to `longest` code points (how the service counts is unknown: docs/api.md#request-fields)."""
    if not isinstance(value, str):
        raise InvalidValueError("string_type", "Input should be a valid string")
    _check_unicode(value)
    if not value:
        raise InvalidValueError(
            "string_too_short", "String should have at least 1 character", context={"min_length": 1}
        )
    if len(value) > longest:
        message = f"String should have at most {longest} characters"
        raise InvalidValueError("string_too_long", message, context={"max_length": longest})
    return value


def check_prompt(value: object) -> str:
    """Check a prompt: 1 to 1024 characters."""
    return check_text(value, longest=1024)


def check_lyrics(value: object) -> str:
    """Check lyrics: 1 to 3000 characters."""
    return check_text(value, longest=3000)


def check_key(value: object) -> str:
    """Check an idempotency key: a UUID of any version in its usual spelling; return it in lower case."""
    if not isinstance(value, str):
        raise InvalidValueError("uuid_type", "UUID input should be a string, bytes or UUID object")
    _check_unicode(value)
    reason = _reason_against_key(value)
    if reason is not None:
        raise InvalidValueError("uuid_parsing", f"Input should be a valid UUID, {reason}", context={"error": reason})
    return value.lower()


def check_seconds(value: object) -> float:
    """Check a length of audio in seconds: finite, above 0, at most `LONGEST`."""
    if isinstance(value, str):
        if _is_number(value):
            raise InvalidValueError("float_type", "Input should be a valid number")
        raise InvalidValueError("float_parsing", "Input should be a valid number, unable to parse string as a number")
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_number(value):
        raise InvalidValueError("float_type", "Input should be a valid number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError("finite_number", "Input should be a finite number")
    if value <= 0:
        raise InvalidValueError("greater_than", "Input should be greater than 0", context={"gt": 0.0})
    if value > LONGEST:
        message = f"Input should be less than or equal to {LONGEST:g}"
        raise InvalidValueError("less_than_equal", message, context={"le": LONGEST})
    return value


def check_variations(value: object) -> int:
    """Check a count from 1 to 3; 2.0 is the JSON integer 2."""
    if isinstance(value, str):
        message = "Input should be a valid integer, unable to parse string as an integer"
        raise InvalidValueError("int_parsing", message)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValueError("int_type", "Input should be a valid integer")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValueError("finite_number", "Input should be a finite number")
        if not value.is_integer():
            message = "Input should be a valid integer, got a number with a fractional part"
            raise InvalidValueError("int_from_float", message)
    if value < 1:
        raise InvalidValueError("greater_than_equal", "Input should be greater than or equal to 1", context={"ge": 1})
    if value > 3:  # the contract's number, in the message and the context beside it
        raise InvalidValueError("less_than_equal", "Input should be less than or equal to 3", context={"le": 3})
    return int(value)


def check_boolean(value: object) -> bool:
    """Check a JSON boolean; a number or a text that looks like one is rejected."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int) or (isinstance(value, float) and value.is_integer()):
        raise InvalidValueError("bool_parsing", "Input should be a valid boolean, unable to interpret input")
    raise InvalidValueError("bool_type", "Input should be a valid boolean")


def check_url(value: object, *, schemes: tuple[str, ...] = ("http", "https"), longest: float = math.inf) -> str:
    """Check an absolute URL of one of the schemes; it is echoed as it was sent."""
    if not isinstance(value, str):
        raise InvalidValueError("url_type", "URL input should be a string or URL")
    _check_unicode(value)
    if len(value) > longest:
        message = f"URL should have at most {longest} characters"
        raise InvalidValueError("url_too_long", message, context={"max_length": longest})
    reason = _reason_against(value)
    if reason is not None:
        raise InvalidValueError("url_parsing", f"Input should be a valid URL, {reason}", context={"error": reason})
    if urlsplit(value).scheme not in schemes:
        expected = " or ".join(f"'{scheme}'" for scheme in schemes)
        context = {"expected_schemes": expected}
        raise InvalidValueError("url_scheme", f"URL scheme should be {expected}", context=context)
    return value


def check_source(value: object) -> dict[str, str]:
    """Check an AudioSource: an object with a `url`; its other fields are ignored."""
    if not isinstance(value, dict):
        raise InvalidValueError(*NO_OBJECT)
    if "url" not in value:
        raise InvalidValueError("missing", "Field required", below=("url",))
    try:
        return {"url": check_url(value["url"])}
    except InvalidValueError as invalid:
        raise InvalidValueError(invalid.kind, invalid.message, context=invalid.context, below=("url",)) from None


def check_callback(value: object, *, private: bool) -> str | None:
    """Check a callback URL or null: https and a public host, unless `private` hosts (and then http) are allowed."""
    if value is None:
        return None
    url = check_url(value, schemes=("http", "https") if private else ("https",), longest=2048)
    if not private and is_private(urlsplit(url).hostname or ""):
        raise value_error("callback_url must not point to a private address")
    return url


def is_private(host: str) -> bool:
    """Return whether a host is not on the public internet, judged by its name alone: nothing is resolved."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))


NO_OBJECT = ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")


def _check_unicode(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidValueError(
            "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string"
        )


def _is_number(value: str | float) -> bool:
    """Return whether a value fits a float: some texts are not numbers, and some integers are too large."""
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _reason_against_key(text: str) -> str | None:
    """Return what is wrong with the spelling of a UUID, or None; without hyphens it is too short."""
    stranger = _NO_HEX.search(text)
    if stranger is not None:
        return f"invalid character: found `{stranger[0]}` at {stranger.start()}"
    groups = text.split("-")
    if len(groups) == 1 or len(text) > _LONGEST_KEY:
        return f"invalid length: found {len(text)}"
    if len(groups) != len(_GROUPS):
        return f"invalid group count: expected {len(_GROUPS)}, found {len(groups)}"
    for place, (group, length) in enumerate(zip(groups, _GROUPS, strict=True)):
        if len(group) != length:
            return f"invalid group length in group {place}: expected {length}, found {len(group)}"
    return None


def _reason_against(url: str) -> str | None:
    """Return what is wrong with the spelling of a URL, or None."""
    if not url:
        return "input is empty"
    if _BLANK.search(url):
        return "invalid international domain name"
    try:
        parts = urlsplit(url)
    except ValueError:
        return "invalid IPv6 address" if "[" in url else "invalid international domain name"
    try:
        _ = parts.port
    except ValueError:
        return "invalid port number"
    if not parts.scheme:
        return "relative URL without a base"
    return None if parts.hostname or parts.scheme not in ("http", "https") else "empty host"


_OPERATION_ID = re.compile(r"op_[0-9a-z]{26}")
_ID_PATTERN = "^op_[0-9a-z]{26}$"
_MISSING = InvalidValueError("missing", "Field required")
ABSENT = object()
"""Stands for a field, or a body, that was not sent."""


class InvalidRequestError(Exception):
    """A request that a 422 answers; `errors` is the `detail` of its body."""

    def __init__(self, errors: list[Document]) -> None:
        super().__init__(errors)
        self.errors = errors


@attrs.frozen
class Member:
    """One field of a request body; an absent optional field is echoed as its default."""

    name: str
    check: Callable[[object], object]
    default: object = ABSENT


@attrs.frozen(kw_only=True)
class Route:
    """One of the eight: its names on the wire, its fields in the order of the echo, and how long it usually takes.

    `seconds` is the median processing time; `bodies` names the alternatives of a union body by the field that tells
    them apart.
    """

    name: str
    envelope: str
    result: Literal["output", "outputs"]
    members: tuple[Member, ...]
    bodies: Mapping[str, str] = attrs.field(factory=dict)
    seconds: float


@attrs.frozen(kw_only=True)
class Submission:
    """A request body that fits its route; `echo` holds the route's own fields with their defaults."""

    key: str
    callback_url: str | None
    echo: JsonObject


_LYRICS = Member("lyrics", check_lyrics)
_PROMPT = Member("prompt", check_prompt)
_REFERENCE = Member("reference", check_source)
_SOURCE = Member("source", check_source)
_VARIATIONS = Member("n_variations", check_variations, default=1)

_ALL = (
    Route(
        name="create.new_song",
        envelope="song",
        result="outputs",
        members=(_LYRICS, _PROMPT, _REFERENCE),
        bodies={"prompt": "CreateNewSongPromptRequest", "reference": "CreateNewSongReferenceRequest"},
        seconds=30.0,
    ),
    Route(
        name="create.new_instrumental",
        envelope="instrumental",
        result="outputs",
        members=(_PROMPT, _REFERENCE),
        bodies={"prompt": "CreateNewInstrumentalPromptRequest", "reference": "CreateNewInstrumentalReferenceRequest"},
        seconds=25.0,
    ),
    Route(
        name="create.new_sample",
        envelope="sample",
        result="output",
        members=(_PROMPT, Member("duration", check_seconds), Member("loopable", check_boolean, default=False)),
        seconds=8.0,
    ),
    Route(
        name="create.new_fx",
        envelope="fx",
        result="output",
        members=(_PROMPT, Member("duration", check_seconds)),
        seconds=5.0,
    ),
    Route(
        name="create.remix_song",
        envelope="remix_song",
        result="outputs",
        members=(_SOURCE, _LYRICS, _PROMPT, _VARIATIONS),
        seconds=35.0,
    ),
    Route(
        name="create.remix_instrumental",
        envelope="remix_instrumental",
        result="outputs",
        members=(_SOURCE, _VARIATIONS),
        seconds=30.0,
    ),
    Route(
        name="adapt.separate_stems",
        envelope="stems",
        result="outputs",
        members=(_SOURCE,),
        seconds=20.0,
    ),
    Route(
        name="adapt.auto_cut_down",
        envelope="auto_cut",
        result="output",
        members=(_SOURCE, Member("target_duration", check_seconds)),
        seconds=10.0,
    ),
)
ROUTES: Mapping[str, Route] = {route.name: route for route in _ALL}
"""The routes by name, as in `/v1/<name>`; the names of three envelopes are inferred (docs/api.md#routes)."""


def check_body(route: Route, body: object, *, private_callbacks: bool = False) -> Submission:
    """Read the decoded body of a PUT, or raise `InvalidRequestError` with every fault in it."""
    if not isinstance(body, dict):
        raise InvalidRequestError(_reject_whole(route, body))
    callback = Member("callback_url", partial(check_callback, private=private_callbacks), default=None)
    envelope, errors = _read((Member("idempotency_key", check_key), callback), body)
    echo, own_errors = _read([member for member in route.members if member.name not in route.bodies], body)
    chosen, union_errors = _choose(route, body) if route.bodies else ({}, [])
    if errors or own_errors or union_errors:
        raise InvalidRequestError([*errors, *own_errors, *union_errors])
    return Submission(
        key=envelope["idempotency_key"],
        callback_url=envelope["callback_url"],
        echo={member.name: (echo | chosen).get(member.name) for member in route.members},
    )


def check_query(query: Mapping[str, str], *, any_id: bool = False) -> tuple[str, bool]:
    """Read the parameters of a GET: the operation's id, of the documented form or any, and whether to hold it."""
    errors: list[Document] = []
    identity = query.get("id")
    if identity is None:
        errors.append(_error(("query", "id"), _MISSING, None))
    elif not any_id and not _OPERATION_ID.fullmatch(identity):
        message, context = f"String should match pattern '{_ID_PATTERN}'", {"pattern": _ID_PATTERN}
        errors.append(
            _error(("query", "id"), InvalidValueError("string_pattern_mismatch", message, context=context), query)
        )
    wait = query.get("wait", "false")
    if wait not in ("true", "false"):
        message = "Input should be a valid boolean, unable to interpret input"
        errors.append(_error(("query", "wait"), InvalidValueError("bool_parsing", message), query))
    if identity is None or errors:
        raise InvalidRequestError(errors)
    return identity, wait == "true"


def reject_operation(identity: str) -> InvalidRequestError:
    """Return the error for a well-formed id that names no operation of this route.

    How the service reports it is unknown, but not by a 404 (docs/api.md#http-errors).
    """
    invalid = value_error("no operation of this route has this id")
    return InvalidRequestError([_error(("query", "id"), invalid, {"id": identity})])


def _reject_whole(route: Route, body: object) -> list[Document]:
    """Return the errors of a body that is not an object: one, or one for each of two bodies (rule 4)."""
    if body is ABSENT:
        return [_error(("body",), _MISSING, None)]
    whole = _error(("body",), InvalidValueError(*NO_OBJECT), body)
    return [_within(name, whole) for name in route.bodies.values()] or [whole]


def _read(members: Iterable[Member], body: Mapping[str, object]) -> tuple[Document, list[Document]]:
    """Return the values of the fields that are valid, and a field error for each that is not."""
    values: Document = {}
    errors: list[Document] = []
    for member in members:
        value = body.get(member.name, ABSENT)
        if value is ABSENT and member.default is not ABSENT:
            values[member.name] = member.default
        elif value is ABSENT:
            errors.append(_error(("body", member.name), _MISSING, body))
        else:
            try:
                values[member.name] = member.check(value)
            except InvalidValueError as invalid:
                errors.append(_error(("body", member.name), invalid, body))
    return values, errors


def _choose(route: Route, body: Mapping[str, object]) -> tuple[Document, list[Document]]:
    """Return the values and errors of the alternative of a union body that was sent, by rule 4."""
    read = {member.name: _read((member,), body) for member in route.members if member.name in route.bodies}
    fitting = [values for values, errors in read.values() if not errors]
    sent = [name for name in route.bodies if name in body]
    match len(fitting), len(sent):
        case 1, _:
            return fitting[0], []
        case 0, 1:
            return {}, read[sent[0]][1]
        case 0, _:
            return {}, [_within(route.bodies[name], error) for name, (_, errors) in read.items() for error in errors]
        case _:
            names = " and ".join(route.bodies)
            return {}, [_error(("body",), value_error(f"send only one of {names}"), body)]


def _within(alternative: str, error: Document) -> Document:
    """Return the same error with the alternative it belongs to in its path."""
    head, *tail = error["loc"]
    return error | {"loc": [head, alternative, *tail]}


def _error(path: tuple[str, ...], invalid: InvalidValueError, whole: object) -> Document:
    """Return one entry of a 422's `detail`; `whole` is the body, or the query."""
    location = (*path, *invalid.below)
    error: Document = {"type": invalid.kind, "loc": list(location), "msg": invalid.message}
    refused = _find(whole, location[1:])
    if _is_json(refused):
        error["input"] = refused
    if invalid.context is not None:
        error["ctx"] = dict(invalid.context)
    return error


def _find(whole: object, path: tuple[str, ...]) -> object:
    """Return the value at a path, or the object it is missing from."""
    for name in path:
        if not isinstance(whole, Mapping) or name not in whole:
            return whole
        whole = whole[name]
    return whole


def _is_json(value: object) -> bool:
    """Return whether a value can be written as JSON; Python's own parser accepts NaN and infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True

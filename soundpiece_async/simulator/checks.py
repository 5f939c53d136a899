"""Checks of single values, refused in the words of Pydantic 2 (docs/api.md#http-errors).

Each check takes a decoded JSON value and returns it as the service would echo it, or raises `MisfitError`.
"""

import ipaddress
import math
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

LONGEST = 600.0
"""Seconds of audio asked for in one request; the published schema names no bound (docs/api.md#new-sample)."""

_NO_HEX = re.compile(r"[^0-9a-f-]", re.IGNORECASE)
_GROUPS = (8, 4, 4, 4, 12)
_LONGEST_KEY = len("urn:uuid:") + sum(_GROUPS) + len(_GROUPS) - 1
_BLANK = re.compile(r"[\x00-\x20\x7f]")


class MisfitError(Exception):
    """A value that does not fit: `kind` is the stable code, `below` the path from the checked member inwards."""

    def __init__(
        self, kind: str, message: str, *, context: Mapping[str, object] | None = None, below: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.kind: str = kind
        self.message: str = message
        self.context: Mapping[str, object] | None = context
        self.below: tuple[str, ...] = below


def refuse_value(reason: str) -> MisfitError:
    """The refusal by a rule of the service's own; FastAPI empties the exception that Pydantic puts in the context."""
    return MisfitError("value_error", f"Value error, {reason}", context={"error": {}})


def check_text(value: object, *, longest: int) -> str:
    """A string of 1 to `longest` code points (how the service counts is unknown: docs/api.md#request-fields)."""
    if not isinstance(value, str):
        raise MisfitError("string_type", "Input should be a valid string")
    _check_unicode(value)
    if not value:
        raise MisfitError("string_too_short", "String should have at least 1 character", context={"min_length": 1})
    if len(value) > longest:
        message = f"String should have at most {longest} characters"
        raise MisfitError("string_too_long", message, context={"max_length": longest})
    return value


def check_prompt(value: object) -> str:
    """A prompt: 1 to 1024 characters."""
    return check_text(value, longest=1024)


def check_lyrics(value: object) -> str:
    """Lyrics: 1 to 3000 characters."""
    return check_text(value, longest=3000)


def check_key(value: object) -> str:
    """An idempotency key: a UUID of any version in its usual spelling, given back in lower case."""
    if not isinstance(value, str):
        raise MisfitError("uuid_type", "UUID input should be a string, bytes or UUID object")
    _check_unicode(value)
    reason = _reason_against_key(value)
    if reason is not None:
        raise MisfitError("uuid_parsing", f"Input should be a valid UUID, {reason}", context={"error": reason})
    return value.lower()


def check_seconds(value: object) -> float:
    """A length of audio in seconds: finite, above 0, at most `LONGEST`."""
    if isinstance(value, str):
        if _is_number(value):
            raise MisfitError("float_type", "Input should be a valid number")
        raise MisfitError("float_parsing", "Input should be a valid number, unable to parse string as a number")
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_number(value):
        raise MisfitError("float_type", "Input should be a valid number")
    if isinstance(value, float) and not math.isfinite(value):
        raise MisfitError("finite_number", "Input should be a finite number")
    if value <= 0:
        raise MisfitError("greater_than", "Input should be greater than 0", context={"gt": 0.0})
    if value > LONGEST:
        message = f"Input should be less than or equal to {LONGEST:g}"
        raise MisfitError("less_than_equal", message, context={"le": LONGEST})
    return value


def check_variations(value: object) -> int:
    """A count from 1 to 3; 2.0 is the JSON integer 2."""
    if isinstance(value, str):
        message = "Input should be a valid integer, unable to parse string as an integer"
        raise MisfitError("int_parsing", message)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MisfitError("int_type", "Input should be a valid integer")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MisfitError("finite_number", "Input should be a finite number")
        if not value.is_integer():
            message = "Input should be a valid integer, got a number with a fractional part"
            raise MisfitError("int_from_float", message)
    if value < 1:
        raise MisfitError("greater_than_equal", "Input should be greater than or equal to 1", context={"ge": 1})
    if value > 3:  # noqa: PLR2004 - the contract's number, in the message and the context beside it
        raise MisfitError("less_than_equal", "Input should be less than or equal to 3", context={"le": 3})
    return int(value)


def check_boolean(value: object) -> bool:
    """A JSON boolean, and nothing that merely looks like one."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int) or (isinstance(value, float) and value.is_integer()):
        raise MisfitError("bool_parsing", "Input should be a valid boolean, unable to interpret input")
    raise MisfitError("bool_type", "Input should be a valid boolean")


def check_url(value: object, *, schemes: tuple[str, ...] = ("http", "https"), longest: float = math.inf) -> str:
    """An absolute URL of one of the schemes, echoed as it was sent."""
    if not isinstance(value, str):
        raise MisfitError("url_type", "URL input should be a string or URL")
    _check_unicode(value)
    if len(value) > longest:
        message = f"URL should have at most {longest} characters"
        raise MisfitError("url_too_long", message, context={"max_length": longest})
    reason = _reason_against(value)
    if reason is not None:
        raise MisfitError("url_parsing", f"Input should be a valid URL, {reason}", context={"error": reason})
    if urlsplit(value).scheme not in schemes:
        expected = " or ".join(f"'{scheme}'" for scheme in schemes)
        context = {"expected_schemes": expected}
        raise MisfitError("url_scheme", f"URL scheme should be {expected}", context=context)
    return value


def check_source(value: object) -> dict[str, str]:
    """An AudioSource: an object with a `url`; its other members are ignored."""
    if not isinstance(value, dict):
        raise MisfitError(*NO_OBJECT)
    if "url" not in value:
        raise MisfitError("missing", "Field required", below=("url",))
    try:
        return {"url": check_url(value["url"])}
    except MisfitError as misfit:
        raise MisfitError(misfit.kind, misfit.message, context=misfit.context, below=("url",)) from None


def check_callback(value: object, *, private: bool) -> str | None:
    """A callback URL or null: https and a public host, unless `private` hosts (and then http) are allowed."""
    if value is None:
        return None
    url = check_url(value, schemes=("http", "https") if private else ("https",), longest=2048)
    if not private and is_private(urlsplit(url).hostname or ""):
        raise refuse_value("callback_url must not point to a private address")
    return url


def is_private(host: str) -> bool:
    """Whether a host is plainly not on the public internet; judged by its spelling, no name is resolved."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))


NO_OBJECT = ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")


def _check_unicode(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise MisfitError(
            "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string"
        )


def _is_number(value: str | float) -> bool:
    """Whether a float can hold it: some texts are no numbers, and some integers are beyond any float."""
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _reason_against_key(text: str) -> str | None:
    """What is wrong with the spelling of a UUID, if anything; spellings without hyphens are too short."""
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
    """What is wrong with the spelling of a URL, if anything."""
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

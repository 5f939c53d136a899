"""What the contract says of a request's members, checked at submit, before anything is sent.

No stricter than the contract: the service may loosen its rules at any time, and ``Settings(validate=False)`` switches
this off (docs/api.md#versioning). Where a range is UNKNOWN, only what can never be right is refused.
"""

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import attrs

from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.operations import Operation
from soundpiece_async._core.outputs import Handle, Output
from soundpiece_async._core.redaction import redact_value
from soundpiece_async._core.requests import AudioSource, MadeKey, NewInstrumental, NewSong, Request

LONGEST_PROMPT = 1024
LONGEST_LYRICS = 3000
LONGEST_CALLBACK = 2048
MOST_VARIATIONS = 3


def demand_handle(what: object) -> Handle:
    """Return the handle of an operation or of itself; TypeError for anything else."""
    match what:
        case Operation():
            return what.handle
        case Handle():
            return what
    kind = type(what).__name__
    raise TypeError(f"expected an Operation or a Handle, got {kind}; use Handle.parse(text) for one that was stored")


def demand_operation(what: object) -> Operation[Any]:
    """Return an operation; TypeError for anything else, as the None of a delivery of an unknown type."""
    if isinstance(what, Operation):
        return what
    raise TypeError(f"expected an Operation, got {type(what).__name__}; nothing was delivered")


def demand_timeout(timeout: object) -> None:
    """Raise TypeError or ValueError for anything but seconds or None, before anything is sent and paid for."""
    if timeout is None:
        return
    wrong = f"timeout must be a number of seconds, or None, not {redact_value(timeout)}"
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(wrong)
    try:
        fits = not math.isnan(timeout)
    except OverflowError:  # a whole number beyond any float, which a clock could not be set to
        fits = False
    if not fits:
        raise ValueError(wrong)


def demand_in_flight(limit: object) -> None:
    """Raise TypeError or ValueError for anything but a whole number of at least 1, or None."""
    if limit is None:
        return
    if type(limit) is not int:
        raise TypeError(f"max_in_flight must be a whole number, not {redact_value(limit)}")
    if limit < 1:
        raise ValueError(f"max_in_flight must be at least 1, not {limit}")


def demand_output(what: object) -> Output:
    """Return an output; TypeError for anything else, and for one made by hand of members that no output has."""
    if not isinstance(what, Output):
        raise TypeError(f"expected an Output, got {type(what).__name__}")
    if wrong := _find_output_fault(what):
        raise TypeError(f"not a usable Output: {wrong}")
    return what


def demand_request(value: object) -> None:
    """Refuse what is no request at all, or has an output in it that is none; even ``Settings(validate=False)`` does.

    Raises:
        InvalidRequest: the field is ``request``, or the member with the output.
    """
    if not isinstance(value, Request) or not isinstance(getattr(value, "route", None), str):
        raise InvalidRequest(f"not a request: {type(value).__name__}; use one of the eight classes", field="request")
    for field in ("source", "reference"):
        source = getattr(value, field, None)
        if isinstance(source, Output) and (wrong := _find_output_fault(source)):
            raise InvalidRequest(f"{value.route}: {field} is no usable Output: {wrong}; nothing was sent", field=field)


def _find_output_fault(output: Output) -> str:
    """Return what is wrong with an output, or ''; programs of all kinds store outputs and make them anew."""
    return next(_find_output_faults(output), "")


def _find_output_faults(output: Any) -> Iterator[str]:
    handle, expires_at = output.handle, output.expires_at
    if not isinstance(output.url, str):
        yield f"url must be text, not {type(output.url).__name__}"
    if not isinstance(handle, Handle) or not isinstance(handle.route, str) or not isinstance(handle.id, str):
        yield f"handle must be a Handle, not {type(handle).__name__}; Handle.parse(text) reads one that was stored"
    if not isinstance(expires_at, datetime | None):
        yield f"expires_at must be a datetime, not {type(expires_at).__name__}"
    elif expires_at is not None and expires_at.utcoffset() is None:
        yield "expires_at must be a datetime with a time zone, as datetime.fromtimestamp(seconds, UTC)"
    if output.duration is not None and (wrong := _seconds(output.duration)):
        yield f"duration {wrong}"
    if type(output.index) is not int or not isinstance(output.kind, str | None):
        yield "index must be a whole number, and kind text or None"


def validate(request: Request) -> None:
    """Hold a request against the rules of the API (docs/api.md#requests).

    Raises:
        InvalidRequest: with the member at fault in ``field``.
    """
    for field, wrong in find_faults(request):
        raise InvalidRequest(f"{request.route}: {field} {wrong}; nothing was sent", field=field)


def find_faults(request: Request) -> Iterator[tuple[str, str]]:
    """Give each member the contract rules out, and what is wrong with it."""
    kind: type = type(request)  # a plain class, which a cache may hold
    for name, optional, rule in _list_rules(kind):
        value = getattr(request, name)
        if value is None and optional:
            continue
        wrong = rule(value)
        if wrong:
            yield name, wrong
    if isinstance(request, NewSong | NewInstrumental) and (request.prompt is None) == (request.reference is None):
        if request.prompt is None:
            yield "prompt", "is missing: exactly one of prompt and reference must be given, not neither"
        else:
            yield "reference", "is one too many: exactly one of prompt and reference must be given, not both"


@cache
def _list_rules(kind: type[Any]) -> tuple[tuple[str, bool, Callable[[object], str]], ...]:
    return tuple(
        (member.name, member.default is None, RULES.get(member.name, _foreign)) for member in attrs.fields(kind)
    )


def _foreign(_: object) -> str:
    """Refuse what a subclass has added."""
    return "is no member that the service knows; Settings(validate=False) sends it all the same"


def _text(longest: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str):
            return f"must be text, not {type(value).__name__}"
        if not 1 <= len(value) <= longest:
            return f"has {len(value)} characters, and must have 1 to {longest}"
        return ""

    return check


def _seconds(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"must be a number of seconds, not {type(value).__name__}"
    if not 0 < value < math.inf:  # false for NaN too
        return f"must be a number of seconds above 0, not {redact_value(value)}"
    return ""


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else f"must be True or False, not {redact_value(value)}"


def _variations(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_VARIATIONS:
        return f"must be a whole number from 1 to {MOST_VARIATIONS}, not {redact_value(value)}"
    return ""


def _source(value: object) -> str:
    url = value.url if isinstance(value, AudioSource | Output) else value
    if not isinstance(url, str):
        return f"must be a URL, an AudioSource or an Output, not {type(value).__name__}"
    return "" if _reaches(url, ("https", "http")) else "must be an http(s) URL with a host"


def _callback(value: object) -> str:
    if not isinstance(value, str):
        return f"must be a URL, not {type(value).__name__}"
    if len(value) > LONGEST_CALLBACK:
        return f"has {len(value)} characters, and may have at most {LONGEST_CALLBACK}"
    return "" if _reaches(value, ("https",)) else "must be an https URL with a host: the service calls no other"


def _key(value: object) -> str:
    if type(value) is MadeKey:
        return ""
    try:
        UUID(str(value))
    except ValueError:
        return f"must be a UUID, not {redact_value(value)}"
    return ""


def _reaches(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # as 'http://[' does
        return False
    return parts.scheme in schemes and bool(parts.hostname)


RULES: dict[str, Callable[[object], str]] = {
    "idempotency_key": _key,
    "callback_url": _callback,
    "prompt": _text(LONGEST_PROMPT),
    "lyrics": _text(LONGEST_LYRICS),
    "source": _source,
    "reference": _source,
    "duration": _seconds,
    "target_duration": _seconds,
    "loopable": _flag,
    "n_variations": _variations,
}
"""One rule per member name: a name means the same on every route. A rule answers '' or what is wrong."""

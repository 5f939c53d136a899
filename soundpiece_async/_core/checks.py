"""Checks of what callers pass to the session: handles, outputs, requests and numbers.

Each raises before anything is sent, and so before anything is paid for.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.operations import AnyOperation, Operation
from soundpiece_async._core.redaction import redact_value
from soundpiece_async._core.requests import SOURCE_FIELDS, Handle, Output, Request, seconds_fault, violations


def check_handle(what: object) -> Handle:
    """Return the handle of an operation or of itself; TypeError for anything else."""
    match what:
        case Operation():
            return what.handle
        case Handle():
            return what
    kind = type(what).__name__
    raise TypeError(f"expected an Operation or a Handle, got {kind}; use Handle.parse(text) for one that was stored")


def check_operation(what: object) -> AnyOperation:
    """Return an operation; TypeError for anything else, such as the None of an event of an unknown type."""
    if isinstance(what, Operation):
        return what
    raise TypeError(f"expected an Operation, got {type(what).__name__}; nothing was delivered")


def check_timeout(timeout: object) -> None:
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


def check_in_flight(limit: object) -> None:
    """Raise TypeError or ValueError for anything but a whole number of at least 1, or None."""
    if limit is None:
        return
    if type(limit) is not int:
        raise TypeError(f"max_in_flight must be a whole number, not {redact_value(limit)}")
    if limit < 1:
        raise ValueError(f"max_in_flight must be at least 1, not {limit}")


def check_output(what: object) -> Output:
    """Return an output; TypeError for anything else, and for one constructed from invalid fields."""
    if not isinstance(what, Output):
        raise TypeError(f"expected an Output, got {type(what).__name__}")
    if wrong := _find_output_fault(what):
        raise TypeError(f"not a usable Output: {wrong}")
    return what


def check_request(value: object) -> None:
    """Refuse an object that is no request, or contains an invalid output; even with ``Settings(validate=False)``.

    Raises:
        InvalidRequest: the field is ``request``, or the field with the output.
    """
    if not isinstance(value, Request) or not isinstance(getattr(value, "route", None), str):
        raise InvalidRequest(f"not a request: {type(value).__name__}; use one of the eight classes", field="request")
    for field in SOURCE_FIELDS:
        source = getattr(value, field, None)
        if isinstance(source, Output) and (wrong := _find_output_fault(source)):
            raise InvalidRequest(
                f"{value.route}: {field} is not a usable Output: {wrong}; nothing was sent", field=field
            )


def _find_output_fault(output: Output) -> str:
    """Return what is wrong with an output, or ''; programs may store outputs and construct them again."""
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
    if output.duration is not None and (wrong := seconds_fault(output.duration)):
        yield f"duration {wrong}"
    if type(output.index) is not int or not isinstance(output.kind, str | None):
        yield "index must be a whole number, and kind text or None"


def validate(request: Request) -> None:
    """Check a request against the rules of the API (docs/api.md#requests).

    Raises:
        InvalidRequest: with the field at fault in ``field``.
    """
    for field, wrong in violations(request):
        raise InvalidRequest(f"{request.route}: {field} {wrong}; nothing was sent", field=field)

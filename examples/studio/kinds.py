"""Convert a form to a request of the library, and an error to a text for the user."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn
from uuid import UUID, uuid4

import attrs
from store import Sound

from soundpiece_async import (
    AuthenticationError,
    AutoCutDown,
    DecodeError,
    DownloadError,
    InsufficientCredits,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    OperationFailed,
    RemixInstrumental,
    RemixSong,
    Request,
    SeparateStems,
    ServerError,
    TransportError,
    ValidationError,
)

KINDS: Mapping[str, type[Request]] = {
    kind.route: kind
    for kind in (
        NewSong,
        NewInstrumental,
        NewSample,
        NewFx,
        RemixSong,
        RemixInstrumental,
        SeparateStems,
        AutoCutDown,
    )
}

_OURS = frozenset({"idempotency_key", "callback_url", "source", "reference"})
"""Fields that the studio fills in."""

LONGEST_TITLE = 120
"""Characters."""
LONGEST, LARGEST = 16_000, 1e9
"""Bytes of a text, and the largest number: more than the service accepts, and displayable in every browser."""


class InvalidFormError(Exception):
    """The page sent an invalid form; the message is for the user."""


def parse_form(body: bytes, *, parents: Mapping[int, Sound], callback: str | None) -> Sound:
    """Parse the JSON of the page into a sound that is not stored yet.

    Raises:
        InvalidFormError: the form is incomplete or invalid.
    """
    try:
        form = json.loads(body, parse_constant=_refuse, parse_float=_read_number)
        kind, key = KINDS[form["kind"]], UUID(form.get("key") or str(uuid4()))
        members = {field.name: field.type for field in attrs.fields(kind)}
        fields = {
            name: _check(form["fields"][name], members[name]) for name in members.keys() - _OURS & form["fields"].keys()
        }
        parent, take = _read_source(form, parents) if "source" in members else (None, 0)
        sound = Sound(
            key=str(key), kind=kind.route, fields=fields, parent=parent, take=take, source="", callback=callback
        )
        make_request(sound)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidFormError("The form is incomplete or invalid. Reload the page and try again.") from error
    return sound


def parse_title(body: bytes) -> str:
    """Read the title that the page sent.

    Raises:
        InvalidFormError: the title is invalid.
    """
    try:
        title = " ".join(_check(json.loads(body)["title"], str).split())
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise InvalidFormError("The title is invalid. Reload the page and try again.") from error
    return title[:LONGEST_TITLE]


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)


def _read_number(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _check(value: Any, wanted: Any) -> Any:
    """Return a value if it has the type of its field, because stored values are shown to all users."""
    if isinstance(value, bool):
        fits = wanted is bool
    elif isinstance(value, str):
        fits = len(value.encode()) <= LONGEST and wanted in (str, str | None)  # lone surrogates cannot be encoded
    else:
        fits = isinstance(value, int | float if wanted is float else wanted) and abs(value or 0) <= LARGEST
    return value if fits else _refuse(repr(wanted))


def _read_source(form: Any, parents: Mapping[int, Sound]) -> tuple[int, int]:
    """Return the number of the source and of its file; both must exist."""
    parent, take = form["parent"], form.get("take", 0)
    if type(parent) is not int or type(take) is not int:
        raise TypeError("the number of a sound is an integer")
    if not 0 <= take < len(parents[parent].files):
        raise IndexError(take)
    return parent, take


def make_request(sound: Sound) -> Request:
    """Build the request of a sound: the same bytes, and the same key, every time."""
    kind = KINDS[sound.kind]
    source = {} if sound.parent is None else {"source": sound.source}
    return kind(**sound.fields, **source, idempotency_key=sound.key, callback_url=sound.callback)


def explain(error: Exception) -> str:  # noqa: PLR0911 - one line for each kind of error
    """Return a text for the user: what happened, and what to do."""
    match error:
        case InsufficientCredits():
            return "The account has no credits left. Nothing was charged. Top it up, then try again."
        case AuthenticationError():
            return "The API key was rejected. Check SOUNDPIECE_API_KEY, then try again."
        case ValidationError(fields=fields) if fields:
            return (
                "The service rejected the request: "
                + _shorten("; ".join(f"{_name(one.loc)}: {one.msg}" for one in fields))
                + "."
            )
        case OperationFailed(operation=operation):
            reason = _shorten(operation.error.message).rstrip(".") if operation.error else "no reason given"
            return f"The operation failed: {reason}. Trying again submits a new operation."
        case DownloadError():
            return "The sound is ready, but its audio could not be downloaded. Try again: it is already paid for."
        case TransportError() | ServerError():
            return "The service cannot be reached. Try again: it will not be charged twice."
        case DecodeError():
            return "The response of the service could not be understood."
        case OSError():
            return f"The audio could not be written to disk: {error.strerror or error}."
    return f"Error: {error}"


def _shorten(text: str) -> str:
    """Return a text of the service, clipped and encodable."""
    return " ".join(text[:500].encode(errors="replace").decode().split())


def _name(place: tuple[str | int, ...]) -> str:
    """Return the name of a rejected field, as in the page."""
    names = [part for part in place if isinstance(part, str) and part not in ("body", "query")]
    return (names[0] if names else "request").replace("_", " ")

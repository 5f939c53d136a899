"""From what a person wished to a request of the library, and from an error to plain words."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn
from uuid import UUID, uuid4

import attrs
from store import Piece

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
"""Members the studio fills in by itself."""

LONGEST_TITLE = 120
"""Characters."""
LONGEST, LARGEST = 16_000, 1e9
"""Bytes of a text, and the largest number: more than the service takes, and what every browser can show."""


class UnclearWishError(Exception):
    """The page asked for something that is no piece; the message is for people."""


def read_wish(body: bytes, *, parents: Mapping[int, Piece], callback: str | None) -> Piece:
    """Make a piece, not yet stored, of the JSON the page sent.

    Raises:
        UnclearWishError: it makes no sense.
    """
    try:
        form = json.loads(body, parse_constant=_refuse, parse_float=_read_number)
        kind, key = KINDS[form["kind"]], UUID(form.get("key") or str(uuid4()))
        members = {field.name: field.type for field in attrs.fields(kind)}
        wishes = {
            name: _check(form["wishes"][name], members[name]) for name in members.keys() - _OURS & form["wishes"].keys()
        }
        parent, take = _read_source(form, parents) if "source" in members else (None, 0)
        piece = Piece(
            key=str(key), kind=kind.route, wishes=wishes, parent=parent, take=take, source="", callback=callback
        )
        make_request(piece)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UnclearWishError("Something is missing in this wish: reload the page and try again.") from error
    return piece


def read_title(body: bytes) -> str:
    """Read the title that the page sent.

    Raises:
        UnclearWishError: the form describes no request that can be made.
    """
    try:
        title = " ".join(_check(json.loads(body)["title"], str).split())
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise UnclearWishError("This is no title: reload the page and try again.") from error
    return title[:LONGEST_TITLE]


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)


def _read_number(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _check(value: Any, wanted: Any) -> Any:
    """Return a wish if it is of the kind that its member takes: what is stored here is shown to everybody."""
    if isinstance(value, bool):
        fits = wanted is bool
    elif isinstance(value, str):
        fits = len(value.encode()) <= LONGEST and wanted in (str, str | None)  # no half of a character can be encoded
    else:
        fits = isinstance(value, int | float if wanted is float else wanted) and abs(value or 0) <= LARGEST
    return value if fits else _refuse(repr(wanted))


def _read_source(form: Any, parents: Mapping[int, Piece]) -> tuple[int, int]:
    """Return the piece, and which file of it, that a wish is about; both must be there."""
    parent, take = form["parent"], form.get("take", 0)
    if type(parent) is not int or type(take) is not int:
        raise TypeError("numbers of pieces are whole")
    if not 0 <= take < len(parents[parent].files):
        raise IndexError(take)
    return parent, take


def make_request(piece: Piece) -> Request:
    """Build the request of a piece: the same bytes, and the same key, every time."""
    kind = KINDS[piece.kind]
    source = {} if piece.parent is None else {"source": piece.source}
    return kind(**piece.wishes, **source, idempotency_key=piece.key, callback_url=piece.callback)


def explain(error: Exception) -> str:  # noqa: PLR0911 - one line for each kind of error
    """Say in plain words what happened, and what to do."""
    match error:
        case InsufficientCredits():
            return (
                "The account has no credits left. Nothing was made and nothing was charged: top it up, then try again."
            )
        case AuthenticationError():
            return "The service does not accept the API key. Check SOUNDPIECE_API_KEY, then try again."
        case ValidationError(fields=fields) if fields:
            return (
                "The service cannot make this: "
                + _shorten("; ".join(f"{_name(one.loc)}: {one.msg}" for one in fields))
                + "."
            )
        case OperationFailed(operation=operation):
            said = _shorten(operation.error.message).rstrip(".") if operation.error else "it gave no reason"
            return f"The service could not finish this piece: {said}. Trying again makes it anew."
        case DownloadError():
            return "The piece is ready, but its audio could not be fetched. Try again: it is already paid for."
        case TransportError() | ServerError():
            return "The service cannot be reached. Try again: it will not be charged twice."
        case DecodeError():
            return "The service answered in a way this studio does not understand."
        case OSError():
            return f"The audio could not be written to disk: {error.strerror or error}."
    return f"This did not work: {error}"


def _shorten(text: str) -> str:
    """Return what can be stored and shown of the service's own words."""
    return " ".join(text[:500].encode(errors="replace").decode().split())


def _name(place: tuple[str | int, ...]) -> str:
    """Name the member a refusal is about, as the page does."""
    names = [part for part in place if isinstance(part, str) and part not in ("body", "query")]
    return (names[0] if names else "request").replace("_", " ")

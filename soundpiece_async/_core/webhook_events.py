"""Parses the body of a signed webhook: which operation it is about, and how that ended (docs/api.md#webhooks).

Rules:

1. A body that is signed is never refused for its shape: what cannot be read has no operation, and a poll finds it.
2. The type names a route and a status, in any case and with any separators. A status that is final counts together with
   the content; where the two contradict each other, the operation has to be read again.
3. A type without a status that this version knows is of a later one (docs/api.md#versioning): then the operation
   counts if it has ended by its own status, and else a poll finds it.
4. The operation is looked for as in the response to a poll: under ``data`` first, then in the whole event.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from soundpiece_async._core import codec, completion, envelopes, fields
from soundpiece_async._core.operations import AnyOperation, Status
from soundpiece_async._core.parsing import ParsedOperation, ResponseNote, parse_operation
from soundpiece_async._core.redaction import redacted_repr
from soundpiece_async._core.requests import ROUTES, Handle

_TYPE_NAMES: Final = ("type", "event", "event_type", "eventType", "topic")
_ROUTES: Final = {name: re.compile(r"[\W_]*".join(re.split("[._]", name)), re.IGNORECASE) for name in ROUTES}
_STATES: Final = frozenset({"status", "output", "outputs", "error"})


@attrs.frozen(kw_only=True)
class Delivery:
    """A signed event of one operation. A hint, not a proof: its URLs may have expired.

    Attributes:
        id: of the event; the same on every attempt, and on duplicates.
        type: as received, ``create.new_fx.ready``; empty if absent.
        route: the route that the type names, or else the envelope; of another type the part before its last dot.
        status: the rest of the type; open, as ``Status`` is.
        operation: its ``request`` is rebuilt from the echo, as far as that goes. None when no end of an operation can
            be read from the event: to be answered 2xx and ignored.
    """

    id: str
    type: str = attrs.field(repr=redacted_repr)
    route: str = attrs.field(repr=redacted_repr)
    status: Status
    operation: AnyOperation | None


def parse_event(identity: str, body: bytes) -> tuple[Delivery, tuple[ResponseNote, ...]]:
    """Read the body of the event ``identity``; returns it with what is odd about it, for the log."""
    try:
        event = _find_event(codec.decode_response(body))
    except ValueError:
        return _ignore(identity, "", "", Status("")), (
            ResponseNote("webhook", "its body is not JSON; a poll will find the result"),
        )
    kind = _read_type(event)
    route, word = _split_type(kind)
    if route not in ROUTES:
        route = _find_route(event) or route
    status = completion.read_status(word)
    ignored = _ignore(identity, kind, route, status)
    if route not in ROUTES or completion.is_running(word):
        return ignored, ()
    parsed = _parse_operation(identity, event, route=route)
    if parsed is None:
        return ignored, (ResponseNote("webhook", f"the event of {route} has no operation; a poll will find it"),)
    if not status.final and not parsed.over:
        return ignored, ()
    operation = _end(parsed, status) if status.final else parsed.operation
    return attrs.evolve(ignored, operation=operation), parsed.notes


def _ignore(identity: str, kind: str, route: str, status: Status) -> Delivery:
    return Delivery(id=identity, type=kind, route=route, status=status, operation=None)


def _find_event(payload: object) -> Mapping[str, object]:
    """Return the object with a type, the payload or one in it; else the payload, if it is an object."""
    inner = payload.values() if isinstance(payload, dict) else payload if isinstance(payload, list) else ()
    objects = [one for one in (payload, *inner) if isinstance(one, dict)]
    return next((one for one in objects if _read_type(one)), objects[0] if objects else {})


def _read_type(event: Mapping[str, object]) -> str:
    """Return the type of an event, of several texts the one that names a route, or ""."""
    texts = [text for name in _TYPE_NAMES if isinstance(text := event.get(name), str)]
    return next((text for text in texts if _split_type(text)[0] in ROUTES), texts[0] if texts else "")


def _split_type(kind: str) -> tuple[str, str]:
    """Split a type into its route and its status (rule 2)."""
    for route, pattern in _ROUTES.items():
        if found := pattern.search(kind):
            after, before = kind[found.end() :], kind[: found.start()]
            return route, after.strip(".:/_- ") or before.strip(".:/_- ")
    route, _, word = kind.rpartition(".")
    return route, word


def _find_route(event: Mapping[str, object]) -> str | None:
    """Return the route whose envelope is there."""
    for holder in _objects(event):
        for route, kind in ROUTES.items():
            if isinstance(holder.get(kind.envelope), dict):
                return route
    return None


def _objects(event: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield the values that may contain an operation (rule 4); the id of an event is not that of an operation."""
    if isinstance(data := event.get("data"), dict):
        yield data
    yield event if _STATES & event.keys() else {name: value for name, value in event.items() if name != "id"}


def _parse_operation(identity: str, event: Mapping[str, object], *, route: str) -> ParsedOperation | None:
    """Read the operation, bare as in the example, or in an envelope (docs/api.md#webhook-payload)."""
    for holder in _objects(event):
        found = envelopes.find_operation(holder, route=route)
        known = None if found is None else fields.read_id(found.get("id"))
        if found is not None and known is not None and known != identity:
            return parse_operation(found, Handle(route, known), request=None)
    return None


def _end(parsed: ParsedOperation, status: Status) -> AnyOperation:
    """Return the operation as the type says that it ended; where the rest does not agree, it has to be read again.

    It is ready without outputs, which by itself wakes no waiter.
    """
    if parsed.ending.status is status and not (parsed.over and parsed.operation.status is not status):
        return parsed.settle()
    return attrs.evolve(parsed.operation, status=Status.READY, outputs=(), error=None)

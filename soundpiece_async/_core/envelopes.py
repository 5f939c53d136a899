"""Find the operation in an answer, in any envelope and beside other objects.

Rules (contract section 14, rule 1):

1. The object under the route's known name that has an id is the operation.
2. Else all objects with an id are searched, down to ``MAX_DEPTH``, for the only one with a status, outputs or an error.
   Of several, the most likely one is used: with the id that was asked for, the key that was sent, an id of the usual
   form, the most members of an operation. If two are equally likely, there is no result.
3. If no object has a status, one with an id, or with a member named like an id, still identifies the operation: the id
   leads back to work that is paid for.
4. An object without a status may have it in an inner object, as the ``attributes`` of JSON:API: that is read instead.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from soundpiece_async._core import echoes, members
from soundpiece_async._core.requests import ROUTES

MAX_DEPTH = 3
MAX_OBJECTS = 1000
"""Objects that are searched; an answer about one operation needs no more."""

_USUAL_ID = re.compile(r"op_[0-9a-z]{26}")
_ID_NAMES = frozenset({"operationid", "opid", "jobid", "taskid"})
_KNOWN = frozenset({"status", "created_at", "idempotency_key", "output", "outputs", "error"})


def find_operation(
    data: object, *, route: str, asked: str | None = None, key: str | None = None
) -> Mapping[str, Any] | None:
    """Return the operation in an answer; None if there is none, or more than one.

    Args:
        data: the JSON that came.
        route: the route it was asked of.
        asked: the id of the operation that was asked for.
        key: the idempotency key that was sent.
    """
    kind = ROUTES.get(route)
    known = data.get(kind.envelope) if kind and isinstance(data, dict) else None
    if isinstance(known, dict) and members.read_id(known.get("id")) is not None:
        return known if _looks_alive(known) else _lift(known) or known
    found = [named for value in _walk(data) if (named := _with_id(value)) is not None]
    likely = [value for value in found if _looks_alive(value)]
    lifted = [whole for value in found if (whole := _lift(value)) is not None] if not likely else []
    if not likely and (asked or not lifted) and isinstance(known, dict) and _looks_alive(known):
        return known  # of a poll: which operation it is about was asked
    likely = likely or lifted
    return _pick(likely or found, asked=asked, key=key)


def _walk(data: object) -> Iterator[dict[str, Any]]:
    """Yield the objects in an answer, the outer ones first."""
    level, seen = [data], 0
    for _ in range(MAX_DEPTH + 1):
        deeper: list[object] = []
        for value in level:
            if isinstance(value, dict):
                seen += 1
                yield value
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            deeper += [one for one in inner if isinstance(one, dict | list)][:MAX_OBJECTS]
        level = deeper[: MAX_OBJECTS - seen] if seen < MAX_OBJECTS else []


def _looks_alive(value: Mapping[str, Any]) -> bool:
    """Return whether an object has a status, outputs or an error (rule 2)."""
    if isinstance(value.get("status"), str):
        return True
    return not all(members.is_empty(value.get(name)) for name in ("outputs", "output", "error"))


def _pick(found: list[Mapping[str, Any]], *, asked: str | None, key: str | None) -> Mapping[str, Any] | None:
    """Return the most likely operation; None if two are equally likely (rule 2)."""

    def rank(value: Mapping[str, Any]) -> tuple[bool, bool, bool, int]:
        identity, ours = members.read_id(value["id"]), echoes.is_same_key(key, value.get("idempotency_key"))
        usual = _USUAL_ID.fullmatch(identity or "") is not None
        return identity == asked, ours, usual, len(_KNOWN & value.keys())

    ranked = sorted(found, key=rank, reverse=True)
    if len({members.read_id(value["id"]) for value in ranked if rank(value) == rank(ranked[0])}) != 1:
        return None
    return ranked[0]


def _with_id(value: dict[str, Any]) -> Mapping[str, Any] | None:
    """Return an object with its id under ``id``, wherever it was; None: it has no id (rule 3)."""
    if members.read_id(value.get("id")) is not None:
        return value
    ids = {name: identity for name, text in value.items() if (identity := members.read_id(text)) is not None}
    named = [identity for name, identity in ids.items() if _plain_name(name) in _ID_NAMES]
    named = named or [identity for identity in ids.values() if _USUAL_ID.fullmatch(identity)]
    return {**value, "id": named[0]} if len(named) == 1 else None


def _lift(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the inner object with the status of an object, under the id of the outer one; None if absent (rule 4)."""
    inner = [one for one in value.values() if isinstance(one, dict) and _looks_alive(one) and _with_id(one) is None]
    return {**inner[0], "id": value["id"]} if len(inner) == 1 else None


def _plain_name(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())

"""Find the operation in a response: in any envelope, beside other objects, in a link, or in a header.

Rules (docs/api.md#finding-the-operation):

1. The object under the route's known name that has an id is the operation.
2. Else all objects with an id are searched, down to ``MAX_DEPTH``, for the only one with a status, outputs or an error.
   Of several, the most likely one is used: with the polled id, the key that was sent, an id of the usual
   form, the most members of an operation. If two are equally likely, there is no result.
3. If no object has a status, one with an id, or with a member named like an id, still identifies the operation: the id
   leads back to work that is paid for.
4. An object without a status may have it in an inner object, as the ``attributes`` of JSON:API: that is read instead.
5. A text member that contains a JSON object, as the ``body`` of AWS Lambda's proxy, is read as that object, unless it
   is the echo of a request's member.
6. If no object has an id, the outermost object and those with a status are searched for another one, in this order: a
   link to the GET of the route; the headers of the response; a resource name such as ``operations/17``; a member named
   ``_id``, ``uuid`` or ``oid``; a member named like the id of a request. The first that is unique is used.
7. The names of members count without case and punctuation, ``state`` and the like as ``status``. The object of a member
   such as ``user`` or ``account`` is no operation. A response that is a text of the usual form of an id is that id.
8. In the response to a poll, an object without an id is the operation if no object has one, and it runs or has outputs.
   To an operation that ended well without outputs belong those of the only object without an id that has any.

Links and headers of the response to a PUT:

9. A link names an operation if it is the GET of that operation's route, with the id in its query.
10. ``Location``, ``Content-Location`` and the like are about the operation: an id in the query, whatever the path, or
    else the last part of the path that has a digit and is no version. Their link is only read, never followed.
11. So are headers that are named like an id, such as ``X-Operation-Id``; the id of an HTTP request does not count.
12. A redirect may lead anywhere, as to a login. It names an operation only by a link to the GET of the route, by an id
    of the usual form, or by one below a collection of operations, such as ``/jobs/17``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from soundpiece_async._core import codec, completion, echoes, fields
from soundpiece_async._core.operations import Status
from soundpiece_async._core.requests import ROUTES

ID_NAMES = frozenset({"operationid", "opid", "jobid", "taskid"})
"""Names of members and headers that hold the id of an operation, without case and punctuation."""

USUAL_ID = re.compile(r"op_[0-9a-z]{26}")
"""The documented form of an id."""

_COLLECTIONS = frozenset({"operations", "operation", "jobs", "job", "tasks", "task", "generations"})
_API_VERSION = re.compile(r"v\d+(\.\d+)*", re.IGNORECASE)


def find_in_headers(headers: Mapping[str, str]) -> str | None:
    """Return the id of the operation that the headers of a response to a PUT name, or None.

    Args:
        headers: names in lower case.
    """
    return next(_list_ids(headers), None)


def find_in_redirect(headers: Mapping[str, str], *, route: str) -> str | None:
    """Return the id of the operation that the ``Location`` of a redirect names, or None (rule 12).

    Args:
        headers: names in lower case.
        route: the route of the PUT.
    """
    path, query = _split(headers.get("location", ""))
    parts = [unquote(part) for part in path.split("/") if part]
    if parts and parts[-1] in (route, *_COLLECTIONS):
        return _read_query(query)
    last, collection = (["", "", *parts])[:-3:-1]
    known = _read_query(query) or fields.read_id(last)
    named = collection == route or collection.casefold() in _COLLECTIONS
    return known if named or (known is not None and USUAL_ID.fullmatch(known)) else None


def find_in_link(text: str, *, route: str) -> str | None:
    """Return the id of the operation that a link names, or None (rule 9)."""
    if f"/{route}?" not in text:
        return None
    path, query = _split(text)
    return _read_query(query) if path.endswith(f"/{route}") else None


def fold(name: str) -> str:
    """Return a name without case and punctuation."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _list_ids(headers: Mapping[str, str]) -> Iterator[str]:
    for name, text in headers.items():
        identity = fields.read_id(text) if fold(name.removeprefix("x-")) in ID_NAMES else None
        if name.endswith("location"):
            path, query = _split(text)
            identity = _read_query(query) or _read_path(path)
        if identity is not None:
            yield identity


def _read_query(query: str) -> str | None:
    found = (fields.read_id(text) for name, text in parse_qsl(query) if fold(name) in ID_NAMES | {"id"})
    return next((identity for identity in found if identity is not None), None)


def _read_path(path: str) -> str | None:
    parts = (unquote(part) for part in reversed(path.split("/")))
    last = next((part for part in parts if re.search(r"\d", part) and not _API_VERSION.fullmatch(part)), "")
    return fields.read_id(last)


def _split(link: str) -> tuple[str, str]:
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        return "", ""
    return parts.path, parts.query


MAX_DEPTH = 3
MAX_OBJECTS = 1000
"""Objects that are searched; a response about one operation needs no more."""

_RESOURCE = re.compile(r"(?:.*?/)?operations/(.+)")
_OWN_NAMES = frozenset({"id", "uuid", "guid", "oid"})
_REQUEST_NAMES = frozenset({"requestid", "generationid", "predictionid", "runid", "renderid"})
_ECHOED = frozenset(name for kind in ROUTES.values() for name in attrs.fields_dict(kind))
_KNOWN = frozenset({"status", "created_at", "idempotency_key", "output", "outputs", "error"})
_FOLDED = {fold(name): name for name in _KNOWN | {"id"}}
_STATUS_NAMES = ("status", "state", "phase", "jobstatus", "taskstatus", "operationstatus")
_WORD_NAMES = ("state", "phase", "status", "name", "value", "code")
_OTHERS = frozenset(
    {"account", "author", "client", "company", "creator", "customer", "member", "model", "org", "organisation"}
    | {"organization", "owner", "plan", "project", "subscription", "team", "tenant", "user", "workspace"}
)
"""Members whose object is not an operation, even if it is the only one with an id."""


def find_operation(
    data: object, *, route: str, asked: str | None = None, key: str | None = None, hint: str | None = None
) -> Mapping[str, object] | None:
    """Return the operation in a response; None for no operation, or more than one.

    Args:
        data: the JSON that came.
        route: the route it was asked of.
        asked: the id of the polled operation.
        key: the idempotency key that was sent.
        hint: the id in the headers.
    """
    if isinstance(data, str) and USUAL_ID.fullmatch(data.strip()):
        return {"id": data.strip()}
    known = _open_envelope(data, route)
    if known is not None and fields.read_id(known.get("id")) is not None:
        found: Mapping[str, object] | None = known if _looks_alive(known) else _lift(known) or known
    else:
        found = _search(list(_walk(data)), known, route=route, asked=asked, key=key, hint=hint)
    if asked is not None and found is not None and lacks_outputs(found):
        return _complete(found, _walk(data))
    return found


def find_documented(data: object, *, route: str, asked: str) -> Mapping[str, object] | None:
    """Return the operation in a response to a poll that is as documented: under the known name, with the polled id.

    ``find_operation`` finds the same, and what is nothing like it, at several times the cost; and outputs beside one
    that ``lacks_outputs``.
    """
    kind = ROUTES.get(route)
    known = data.get(kind.envelope) if kind and isinstance(data, dict) else None
    if not isinstance(known, dict) or known.get("id") != asked or not isinstance(known.get("status"), str):
        return None
    return known


def find_enveloped(data: object, *, route: str) -> Mapping[str, object] | None:
    """Return the operation under the route's known name, if it has a status; the usual case of rule 1."""
    known = _open_envelope(data, route)
    return known if known is not None and isinstance(known.get("status"), str) else None


def _open_envelope(data: object, route: str) -> dict[str, object] | None:
    kind = ROUTES.get(route)
    known = data.get(kind.envelope) if kind and isinstance(data, dict) else None
    return _settle(known) if isinstance(known, dict) else None


def _search(
    objects: list[dict[str, object]],
    known: dict[str, object] | None,
    *,
    route: str,
    asked: str | None,
    key: str | None,
    hint: str | None,
) -> Mapping[str, object] | None:
    """Return the operation in a response that has none with an id under the known name (rules 2 to 8)."""
    found = [named for value in objects if (named := _with_id(value)) is not None]
    likely = [value for value in found if _looks_alive(value)]
    lifted = [whole for value in found if (whole := _lift(value)) is not None] if not likely else []
    if not likely and (asked or not lifted) and known is not None and _looks_alive(known):
        if asked:
            return known  # of a poll: which operation it is about was asked
        found = []  # what has an id beside it, or within, may be anything
    if asked and not found and len(bare := [value for value in objects if _is_told(value)]) == 1:
        return bare[0]
    likely = likely or lifted
    picked = _pick(likely or found, asked=asked, key=key) if likely or found else None
    if likely or (picked is not None and _with_id(objects[0]) is not None):
        return picked
    elsewhere = _name(objects, route=route, asked=asked, key=key, hint=hint, weak=picked is None)
    return elsewhere or picked


def _walk(data: object) -> Iterator[dict[str, object]]:
    """Yield the objects in a response, the outer ones first, except those about something else (``_OTHERS``)."""
    level: list[tuple[str, object]] = [("", data)]
    seen = 0
    for _ in range(MAX_DEPTH + 1):
        deeper: list[tuple[str, object]] = []
        for name, value in level:  # grows meanwhile: what a list or a text contains is as deep as that
            if isinstance(value, list):
                level += [(name, one) for one in value if isinstance(one, dict | list)][:MAX_OBJECTS]
            elif isinstance(value, dict):
                seen += 1
                if name not in _OTHERS:
                    yield _settle(value)
                level += [("", one) for one in _unpack(value)]
                deeper += [pair for pair in value.items() if isinstance(pair[1], dict | list)][:MAX_OBJECTS]
            if seen >= MAX_OBJECTS:
                return
        level = deeper[: MAX_OBJECTS - seen]


def _settle(value: dict[str, object]) -> dict[str, object]:
    """Return an object with its members under their documented names, and its status as a text (rule 7)."""
    if isinstance(value.get("status"), str) and "id" in value:
        return value
    given = {fold(name): one for name, one in value.items() if name[:1] != "_"}
    named = {name: given[plain] for plain, name in _FOLDED.items() if name not in value and plain in given}
    words = (_read_word(one) for one in (value.get("status"), *(given.get(name) for name in _STATUS_NAMES)))
    word = next((word for word in words if word), None)
    if word is not None and word != value.get("status"):
        named["status"] = word
    return {**value, **named} if named else value


def _read_word(value: object) -> str | None:
    """Read a status: a text, or the one in an object such as ``{"name": "ready"}``."""
    if isinstance(value, dict):
        return next((word for name in _WORD_NAMES if isinstance(word := value.get(name), str)), None)
    return value if isinstance(value, str) else None


def _unpack(value: dict[str, object]) -> list[object]:
    """Return the objects that text members contain in JSON (rule 5)."""
    texts = [text for name, text in value.items() if isinstance(text, str) and name not in _ECHOED]
    return [data for text in texts if text.lstrip()[:1] == "{" and (data := _decode(text)) is not None]


def _decode(text: str) -> object:
    try:
        return codec.decode_text(text)
    except ValueError:
        return None


def _looks_alive(value: Mapping[str, object]) -> bool:
    """Return whether an object has a status, outputs or an error (rule 2)."""
    return isinstance(value.get("status"), str) or _has_outputs(value) or not fields.is_empty(value.get("error"))


def _has_outputs(value: Mapping[str, object]) -> bool:
    outputs, output = value.get("outputs"), value.get("output")
    return bool((outputs and not fields.is_empty(outputs)) or (output and not fields.is_empty(output)))


def _is_told(value: Mapping[str, object]) -> bool:
    """Return whether an object without an id shows the state of an operation (rule 8); an error alone does not."""
    return _has_outputs(value) or completion.is_running(value.get("status"))


def lacks_outputs(found: Mapping[str, object]) -> bool:
    """Return whether an operation is said to have ended well, and has no outputs."""
    return completion.read_end(found.get("status")) is Status.READY and not _has_outputs(found)


def _complete(found: Mapping[str, object], objects: Iterable[dict[str, object]]) -> Mapping[str, object]:
    """Return an operation with the outputs beside it, if they are unambiguous (rule 8)."""
    beside = [value for value in objects if _has_outputs(value) and _with_id(value) is None]
    names = ("outputs", "output")
    return {**found, **{name: beside[0].get(name) for name in names}} if len(beside) == 1 else found


def _pick(found: list[Mapping[str, object]], *, asked: str | None, key: str | None) -> Mapping[str, object] | None:
    """Return the most likely operation; None if two are equally likely (rule 2)."""

    def rank(value: Mapping[str, object]) -> tuple[bool, bool, bool, int]:
        identity, ours = fields.read_id(value["id"]), echoes.is_same_key(key, value.get("idempotency_key"))
        usual = USUAL_ID.fullmatch(identity or "") is not None
        return asked is not None and fields.is_same_id(asked, identity or ""), ours, usual, len(_KNOWN & value.keys())

    ranked = sorted(found, key=rank, reverse=True)
    if len({fields.read_id(value["id"]) for value in ranked if rank(value) == rank(ranked[0])}) != 1:
        return None
    return ranked[0]


def _with_id(value: dict[str, object]) -> Mapping[str, object] | None:
    """Return an object with its id under ``id``, wherever it was; None: it has no id (rule 3)."""
    if fields.read_id(value.get("id")) is not None:
        return value
    ids = {name: identity for name, text in value.items() if (identity := fields.read_id(text)) is not None}
    named = [identity for name, identity in ids.items() if fold(name) in ID_NAMES]
    named = named or [identity for identity in ids.values() if USUAL_ID.fullmatch(identity)]
    return {**value, "id": named[0]} if len(named) == 1 else None


def _lift(value: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the inner object with the status of an object, under the id of the outer one; None if absent (rule 4)."""
    inner = [one for one in value.values() if isinstance(one, dict) and _looks_alive(one) and _with_id(one) is None]
    return {**inner[0], "id": value["id"]} if len(inner) == 1 else None


def _name(
    objects: list[dict[str, object]],
    *,
    route: str,
    asked: str | None,
    key: str | None,
    hint: str | None,
    weak: bool,
) -> Mapping[str, object] | None:
    """Return what is known of the operation, under the id that is found (rule 6), or None.

    With ``weak``, also by members of the outermost object that may name something else: no object has an id.
    """
    alive = [value for value in objects if _looks_alive(value)]
    linking = [*objects[:1], *alive]
    told = linking if weak else alive
    tiers: Sequence[Iterable[tuple[str | None, dict[str, object]]]] = [
        ((find_in_link(text, route=route), value) for value in linking for text in _list_texts(value)),
        [(hint, {})],
        ((_read_resource(value), value) for value in told),
        ((_read_nested(one), value) for value in told for name, one in value.items() if _is_named(name, _OWN_NAMES)),
        ((identity, value) for value in told for identity in _list_requests(value, key)),
    ]
    for tier in tiers:
        found = {identity: value for identity, value in tier if identity is not None}
        exact = {one: value for one, value in found.items() if asked is not None and fields.is_same_id(one, asked)}
        if len(exact or found) == 1:
            ((identity, value),) = (exact or found).items()
            return _put_id(identity, value, alive)
    return None


def _put_id(identity: str, value: dict[str, object], alive: list[dict[str, object]]) -> Mapping[str, object] | None:
    """Return the object with a status that an id belongs to, under that: the one it is in, or the only one."""
    if not alive or any(value is one for one in alive):
        return {**value, "id": identity}
    return {**alive[0], "id": identity} if len(alive) == 1 else None


def _is_named(name: str, names: frozenset[str]) -> bool:
    return fold(name) in names


def _list_texts(value: object, *, depth: int = 4) -> Iterator[str]:
    """Yield the texts in an object, and in what it contains, as ``links``, which are no echo."""
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for name, one in inner:
            if name not in _ECHOED:
                yield from _list_texts(one, depth=depth - 1)


def _read_resource(value: Mapping[str, object]) -> str | None:
    name = value.get("name")
    match = _RESOURCE.fullmatch(name) if isinstance(name, str) else None
    return fields.read_id(match[1]) if match else None


def _read_nested(value: object) -> str | None:
    """Read an id, also as the sole member of an object: ``{"$oid": "…"}``."""
    return fields.read_id(next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value)


def _list_requests(value: Mapping[str, object], key: str | None) -> Iterator[str | None]:
    named = (one for name, one in value.items() if _is_named(name, _REQUEST_NAMES))
    return (fields.read_id(one) for one in named if not echoes.is_same_key(key, one))


def is_certain(found: Mapping[str, object], *, key: str, hint: str | None) -> bool:
    """Return whether an object in a refusal is the requested operation, and not an error with an id of its own.

    Args:
        found: as it was found.
        key: the idempotency key that was sent.
        hint: the id in the headers.
    """
    if "idempotency_key" in found and echoes.is_of_another(key, found["idempotency_key"]):
        return False
    identity = fields.read_id(found["id"]) or ""
    named = any(_is_named(name, ID_NAMES) for name, one in found.items() if fields.read_id(one) == identity)
    ours = echoes.is_same_key(key, found.get("idempotency_key")) and _looks_alive(found)
    return named or ours or identity == hint or USUAL_ID.fullmatch(identity) is not None


def list_ids(found: Mapping[str, object]) -> Iterator[str]:
    """Yield the ids in the members of an operation that are named like its id."""
    named = (one for name, one in found.items() if _is_named(name, _OWN_NAMES | ID_NAMES))
    return (identity for one in named if (identity := _read_nested(one)) is not None)

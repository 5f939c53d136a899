"""The eight routes as data, and the refusal of requests that do not fit them.

Rules:

1. Requests are read as strictly as the published schema: a numeral in quotes is no number, `wait=1` is no boolean.
2. Refusals are lists of field errors as FastAPI writes them, all faults of a request at once (docs/api.md#http-errors).
3. Unlisted members are ignored; whether the service does so too is unknown (docs/api.md#request-fields).
4. Of the two bodies of a song or an instrumental exactly one must fit. A fault of the one that was sent is reported
   by its plain path, as the documentation does; when it cannot be told which was meant, each path names its body.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import attrs

from soundpiece_async.simulator.checks import (
    NO_OBJECT,
    MisfitError,
    check_boolean,
    check_callback,
    check_key,
    check_lyrics,
    check_prompt,
    check_seconds,
    check_source,
    check_variations,
    refuse_value,
)

FieldError = dict[str, Any]
_OPERATION_ID = re.compile(r"op_[0-9a-z]{26}")
_ID_PATTERN = "^op_[0-9a-z]{26}$"
_MISSING = MisfitError("missing", "Field required")
ABSENT = object()
"""Stands for a member, or a body, that was not sent."""


class InvalidRequestError(Exception):
    """A request that a 422 answers; `errors` is the `detail` of its body."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(errors)
        self.errors = errors


@attrs.frozen
class Member:
    """One member of a request body; an absent optional member is echoed as its default."""

    name: str
    check: Callable[[object], object]
    default: object = ABSENT


@attrs.frozen(kw_only=True)
class Route:
    """One of the eight: its names on the wire, its members in the order of the echo, and how long it usually takes.

    `seconds` is the median processing time; `bodies` names the alternatives of a union body by the member that tells
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
    """A request body that fits its route; `echo` holds the route's own members with their defaults."""

    key: str
    callback_url: str | None
    echo: Mapping[str, Any]


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
        raise InvalidRequestError(_refuse_whole(route, body))
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
    errors: list[FieldError] = []
    identity = query.get("id")
    if identity is None:
        errors.append(_error(("query", "id"), _MISSING, None))
    elif not any_id and not _OPERATION_ID.fullmatch(identity):
        message, context = f"String should match pattern '{_ID_PATTERN}'", {"pattern": _ID_PATTERN}
        errors.append(_error(("query", "id"), MisfitError("string_pattern_mismatch", message, context=context), query))
    wait = query.get("wait", "false")
    if wait not in ("true", "false"):
        message = "Input should be a valid boolean, unable to interpret input"
        errors.append(_error(("query", "wait"), MisfitError("bool_parsing", message), query))
    if identity is None or errors:
        raise InvalidRequestError(errors)
    return identity, wait == "true"


def refuse_operation(identity: str) -> InvalidRequestError:
    """The refusal of a well-formed id that names no operation of this route.

    How the service reports it is unknown, but not by a 404 (docs/api.md#http-errors).
    """
    misfit = refuse_value("no operation of this route has this id")
    return InvalidRequestError([_error(("query", "id"), misfit, {"id": identity})])


def _refuse_whole(route: Route, body: object) -> list[FieldError]:
    """What is said of a body that is no object: once, or once for each of two bodies (rule 4)."""
    if body is ABSENT:
        return [_error(("body",), _MISSING, None)]
    whole = _error(("body",), MisfitError(*NO_OBJECT), body)
    return [_within(name, whole) for name in route.bodies.values()] or [whole]


def _read(members: Iterable[Member], body: Mapping[str, object]) -> tuple[dict[str, Any], list[FieldError]]:
    """The values of those members that fit, and a field error for each that does not."""
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for member in members:
        value = body.get(member.name, ABSENT)
        if value is ABSENT and member.default is not ABSENT:
            values[member.name] = member.default
        elif value is ABSENT:
            errors.append(_error(("body", member.name), _MISSING, body))
        else:
            try:
                values[member.name] = member.check(value)
            except MisfitError as misfit:
                errors.append(_error(("body", member.name), misfit, body))
    return values, errors


def _choose(route: Route, body: Mapping[str, object]) -> tuple[dict[str, Any], list[FieldError]]:
    """The one alternative of a union body that was sent, by rule 4."""
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
            return {}, [_error(("body",), refuse_value(f"send only one of {names}"), body)]


def _within(alternative: str, error: FieldError) -> FieldError:
    """The same error, its path naming the alternative it belongs to."""
    head, *tail = error["loc"]
    return error | {"loc": [head, alternative, *tail]}


def _error(path: tuple[str, ...], misfit: MisfitError, whole: object) -> FieldError:
    """One entry of a 422's `detail`; `whole` is the body, or the query."""
    location = (*path, *misfit.below)
    error: FieldError = {"type": misfit.kind, "loc": list(location), "msg": misfit.message}
    refused = _find(whole, location[1:])
    if _is_json(refused):
        error["input"] = refused
    if misfit.context is not None:
        error["ctx"] = dict(misfit.context)
    return error


def _find(whole: object, path: tuple[str, ...]) -> object:
    """The value at a path, or what it is missing from."""
    for name in path:
        if not isinstance(whole, Mapping) or name not in whole:
            return whole
        whole = whole[name]
    return whole


def _is_json(value: object) -> bool:
    """Whether JSON has words for it; Python's own reader lets NaN and infinity in."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True

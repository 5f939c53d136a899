"""The eight routes as data, and the refusal of requests that do not fit them.

Rules:

1. Requests are read as strictly as the published schema: a numeral in quotes is no number, `wait=1` is no boolean.
2. Refusals are lists of field errors as FastAPI writes them, all faults of a request at once (contract section 7).
3. Unlisted members are ignored; whether the service does so too is unknown (contract section 2.1).
4. Of the two bodies of a song or an instrumental exactly one must fit. A fault of the one that was sent is reported
   by its plain path, as the documentation does; when it cannot be told which was meant, each path names its body.
"""

import math
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
)

FieldError = dict[str, Any]
_OPERATION_ID = re.compile(r"op_[0-9a-z]{26}")
_ID_PATTERN = "^op_[0-9a-z]{26}$"
_ABSENT = object()


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
    default: object = _ABSENT


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
"""The routes by name, as in `/v1/<name>`; the names of three envelopes are inferred (contract section 2)."""


def check_body(route: Route, body: object, *, private_callbacks: bool = False) -> Submission:
    """Read the decoded body of a PUT, or raise `InvalidRequestError` with every fault in it."""
    if not isinstance(body, dict):
        kind, message = NO_OBJECT
        raise InvalidRequestError([{"type": kind, "loc": ["body"], "msg": message}])
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


def check_query(query: Mapping[str, str]) -> tuple[str, bool]:
    """Read the parameters of a GET: the operation's id, and whether to hold the request."""
    errors: list[FieldError] = []
    identity = query.get("id")
    if identity is None:
        errors.append({"type": "missing", "loc": ["query", "id"], "msg": "Field required", "input": None})
    elif not _OPERATION_ID.fullmatch(identity):
        message, context = f"String should match pattern '{_ID_PATTERN}'", {"pattern": _ID_PATTERN}
        errors.append(
            _error(("query", "id"), MisfitError("string_pattern_mismatch", message, context=context), identity)
        )
    wait = query.get("wait", "false")
    if wait not in ("true", "false"):
        message = "Input should be a valid boolean, unable to interpret input"
        errors.append(_error(("query", "wait"), MisfitError("bool_parsing", message), wait))
    if identity is None or errors:
        raise InvalidRequestError(errors)
    return identity, wait == "true"


def refuse_operation(identity: str) -> InvalidRequestError:
    """The refusal of a well-formed id that names no operation of this route.

    How the service reports it is unknown, but not by a 404 (contract section 7).
    """
    misfit = MisfitError("value_error", "Value error, no operation of this route has this id")
    return InvalidRequestError([_error(("query", "id"), misfit, identity)])


def _read(members: Iterable[Member], body: Mapping[str, object]) -> tuple[dict[str, Any], list[FieldError]]:
    """The values of those members that fit, and a field error for each that does not."""
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for member in members:
        value = body.get(member.name, _ABSENT)
        if value is _ABSENT and member.default is not _ABSENT:
            values[member.name] = member.default
        elif value is _ABSENT:
            errors.append(_missing(member.name))
        else:
            try:
                values[member.name] = member.check(value)
            except MisfitError as misfit:
                errors.append(_error(("body", member.name), misfit, value))
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
            return {}, [{"type": "value_error", "loc": ["body"], "msg": f"Value error, send only one of {names}"}]


def _missing(name: str) -> FieldError:
    return {"type": "missing", "loc": ["body", name], "msg": "Field required"}


def _within(alternative: str, error: FieldError) -> FieldError:
    """The same error, its path naming the alternative it belongs to."""
    head, *tail = error["loc"]
    return error | {"loc": [head, alternative, *tail]}


def _error(path: tuple[str, ...], misfit: MisfitError, value: object) -> FieldError:
    """One entry of a 422's `detail`; the refused value stands in it when it is a scalar that JSON can hold."""
    error: FieldError = {"type": misfit.kind, "loc": [*path, *misfit.below], "msg": misfit.message}
    plain = isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value))
    if plain:
        error["input"] = value
    if misfit.context is not None:
        error["ctx"] = dict(misfit.context)
    return error

"""The examples of ``tests/data/openapi.yaml``, and functions that encode and decode them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from soundpiece_async._core import wire
from soundpiece_async._core.codec import encode_request
from soundpiece_async._core.errors import SoundpieceError
from soundpiece_async._core.operations import Operation
from soundpiece_async._core.parsing import ParsedOperation, parse_operation
from soundpiece_async._core.requests import ROUTES, AudioSource, Handle, Request
from soundpiece_async._core.wire import ApiResponse

T = TypeVar("T")

unhurried = hypothesis.settings(deadline=None)
"""For property tests: the machine may be busy, and what is tested is what comes out, not how fast."""

SPEC = yaml.load(
    (Path(__file__).parents[1] / "data" / "openapi.yaml").read_text(encoding="utf-8"),
    Loader=yaml.CSafeLoader,  # the one in Python takes a second, in each process
)


@attrs.frozen
class Example:
    """One route: the body of a PUT, and the answers to it."""

    route: str
    body: dict[str, Any]
    processing: dict[str, Any]
    ready: dict[str, Any]
    failed: dict[str, Any]

    @property
    def envelope(self) -> str:
        """The member that holds the operation."""
        return next(iter(self.ready))

    @property
    def id(self) -> str:
        """The operation's id."""
        return str(self.ready[self.envelope]["id"])

    @property
    def request(self) -> Request:
        """The request object whose body this is."""
        return ROUTES[self.route](
            **{name: AudioSource(**value) if isinstance(value, dict) else value for name, value in self.body.items()}
        )


def _read_example(route: str) -> Example:
    path = SPEC["paths"][f"/v1/{route}"]
    body = path["put"]["requestBody"]["content"]["application/json"]["examples"]["request"]["value"]
    answers = path["get"]["responses"]["200"]["content"]["application/json"]["examples"]
    return Example(route, body, **{status: answers[status]["value"] for status in ("processing", "ready", "failed")})


EXAMPLES = {route: _read_example(route) for route in ROUTES}

every_route = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)

SAMPLE = EXAMPLES["create.new_sample"]
STEMS = EXAMPLES["adapt.separate_stems"]
SONG = EXAMPLES["create.new_song"]

SIGNED = "https://user:word@cdn.example/a/b.flac?sig=SECRET&x=1#SECRET"

UNTIDY = st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=12)
"""Text with everything JSON can carry, lone surrogates and control characters among it."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**320) | st.floats() | UNTIDY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(UNTIDY, inner, max_size=3),
    max_leaves=8,
)
"""Any JSON value, as Python reads it: NaN and infinity among it."""


def answer(data: object, status: int = 200, **headers: str) -> ApiResponse:
    """Make an answer with a JSON body."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return ApiResponse(status, {"content-type": "application/json", **names}, json.dumps(data).encode())


def attempt(read: Callable[[], T]) -> T | SoundpieceError:
    """Return what is read, or our error that refuses it; any other exception is raised."""
    try:
        return read()
    except SoundpieceError as error:
        return error


def change(envelope: dict[str, Any], **members: object) -> dict[str, Any]:
    """Copy an envelope with some of the operation's members replaced; ``...`` leaves one out."""
    ((name, operation),) = envelope.items()
    changed = {**operation, **members}
    return {name: {member: value for member, value in changed.items() if value is not ...}}


def decode(example: Example = SAMPLE, **members: object) -> Operation[Any]:
    """Decode a ready answer with some members replaced; ``...`` leaves one out."""
    changed = {**example.ready[example.envelope], **members}
    kept = {name: value for name, value in changed.items() if value is not ...}
    return decode_operation(kept, route=example.route)


def decode_operation(members: dict[str, Any], *, route: str, request: Request | None = None) -> Operation[Any]:
    """Read the object inside an envelope."""
    return parse_operation(members, Handle(route, members.get("id", "")), request=request).operation


def submit(example: Example, data: object, *, status: int = 200, request: Request | None = None) -> Operation[Any]:
    """Read the answer to a submit of the example's request, or of another."""
    return read_submitted(example, data, status=status, request=request).operation


def read_submitted(
    example: Example, data: object, *, status: int = 200, request: Request | None = None
) -> ParsedOperation:
    """Read it likewise, with what is odd about it."""
    asked = request or example.request
    call = wire.submit_request(asked, encode_request(asked))
    return wire.parse_submit_response(answer(data, status), call, request=asked)


def poll(example: Example, data: object, *, status: int = 200) -> Operation[Any]:
    """Read the answer to a poll of the example's operation."""
    handle = Handle(example.route, example.id)
    return wire.parse_poll_response(answer(data, status), wire.poll_request(handle, wait=True), handle=handle).operation


def final(example: Example, data: object) -> Operation[Any] | None:
    """Read it likewise, but only when its status does not say that it runs."""
    handle = Handle(example.route, example.id)
    reading = wire.parse_if_final(answer(data), wire.poll_request(handle, wait=True), handle=handle)
    return None if reading is None else reading.operation

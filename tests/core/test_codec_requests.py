import json
import math
import subprocess
import sys
from typing import Any

import attrs
import pytest
from helpers.contract import EXAMPLES, JSON, SAMPLE, SONG, Example, decode_operation, every_route, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.codec import decode_json, encode_request, request_from_echo
from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.requests import (
    ROUTES,
    AudioSource,
    AutoCutDown,
    Handle,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    Output,
    RemixInstrumental,
    RemixSong,
    Request,
    SeparateStems,
)

KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a01"
URL = "https://media.example.com/süß.wav?sig=1&x=/"
HANDLE = Handle("create.new_song", "op_01kd0000000000000000000001")


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (NewSong("[Verse]\nla — là", prompt="pop"), '"lyrics":"[Verse]\\nla — là","prompt":"pop"'),
        (NewSong("la", reference=URL), f'"lyrics":"la","reference":{{"url":"{URL}"}}'),
        (NewInstrumental("pop"), '"prompt":"pop"'),
        (NewInstrumental(reference=AudioSource(URL)), f'"reference":{{"url":"{URL}"}}'),
        (NewSample("pop", duration=8), '"prompt":"pop","duration":8,"loopable":false'),
        (NewSample("pop", duration=8.0, loopable=True), '"prompt":"pop","duration":8.0,"loopable":true'),
        (NewFx('"thud"\\', duration=0.1), '"prompt":"\\"thud\\"\\\\","duration":0.1'),
        (
            RemixSong(Output(url=URL, handle=HANDLE), lyrics="la", prompt="pop"),
            f'"source":{{"url":"{URL}"}},"lyrics":"la","prompt":"pop","n_variations":1',
        ),
        (RemixInstrumental(URL, n_variations=3), f'"source":{{"url":"{URL}"}},"n_variations":3'),
        (SeparateStems(URL), f'"source":{{"url":"{URL}"}}'),
        (AutoCutDown(URL, target_duration=30), f'"source":{{"url":"{URL}"}},"target_duration":30'),
    ],
    ids=lambda value: value.route if isinstance(value, Request) else "",
)
def test_body_bytes(request_: Request, body: str) -> None:
    """A body is exactly these bytes: the class's member order, no spaces, UTF-8 as it is, nothing that was left out."""
    bare = attrs.evolve(request_, idempotency_key=KEY)
    called_back = attrs.evolve(bare, callback_url="https://hooks.example.com/?a=1")

    assert encode_request(bare) == f'{{"idempotency_key":"{KEY}",{body}}}'.encode()
    assert encode_request(called_back) == (
        f'{{"idempotency_key":"{KEY}","callback_url":"https://hooks.example.com/?a=1",{body}}}'.encode()
    )


@every_route
def test_bodies_of_the_contract(example: Example) -> None:
    """The contract's examples are sent as the contract shows them, defaults filled in."""
    sent = json.loads(encode_request(example.request))

    assert {name: sent[name] for name in example.body} == example.body
    assert set(sent) - set(example.body) <= {"loopable", "n_variations"}


@unhurried
@given(
    prompt=st.text(), seconds=st.floats(allow_nan=False, allow_infinity=False) | st.integers(), loopable=st.booleans()
)
def test_bodies_say_what_was_asked(prompt: str, seconds: float, *, loopable: bool) -> None:
    """Whatever text and number: the body read back is the request, and made again it is the same bytes."""
    request = NewSample(prompt, duration=seconds, loopable=loopable)
    body = encode_request(request)

    assert json.loads(body) == attrs.asdict(request, filter=lambda _, value: value is not None)
    assert body == encode_request(attrs.evolve(request))


def test_bodies_do_not_depend_on_extras() -> None:
    """The bytes are the same where other JSON libraries are installed, for none of them is asked."""
    code = """
import sys, types

class Faster(types.ModuleType):
    loads = None  # answers may be read by it

    def __getattr__(self, name):
        raise AssertionError(f"{self.__name__}.{name} was asked for")

sys.modules |= {name: Faster(name) for name in ("orjson", "ujson", "simplejson", "rapidjson", "msgspec")}
from soundpiece_async._core.codec import encode_request
from soundpiece_async._core.requests import NewFx
sys.stdout.buffer.write(encode_request(NewFx("süß", duration=1e22, idempotency_key="k")))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # noqa: S603 - our own lines

    assert made.stdout == encode_request(NewFx("süß", duration=1e22, idempotency_key="k"))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (NewFx("thud", duration=math.nan), "duration"),
        (NewFx("thud", duration=math.inf), "duration"),
        (AutoCutDown(URL, target_duration=-math.inf), "target_duration"),
        (NewFx("thud \ud800", duration=1), "prompt"),
        (NewSong("la \udfff", prompt="pop"), "lyrics"),
        (SeparateStems("https://h/\ud800?sig=SECRET"), "source"),
        (NewSong("la", reference=AudioSource("https://h/\udc80?sig=SECRET")), "reference"),
        (NewFx("thud", duration=1, callback_url="https://h/\ud83d"), "callback_url"),
        (NewFx(b"thud", duration=1), "prompt"),
        (NewFx({1, 2}, duration=1), "prompt"),
        (NewFx("thud", duration=1j), "duration"),
        (SeparateStems(object()), "source"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.route,
)
def test_what_json_cannot_carry(request_: Request, field: str) -> None:
    """NaN, infinity, half a surrogate pair and foreign objects are refused by name, validated or not."""
    with pytest.raises(InvalidRequest, match=f"^{request_.route}: {field} cannot be encoded as JSON") as caught:
        encode_request(request_)

    assert caught.value.field == field
    assert "nothing was sent" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert str(caught.value).encode()


def test_members_nested_too_deeply() -> None:
    """A member too deep to be written is refused like any other that has no JSON form."""
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    for prompt in (endless, deep):
        with pytest.raises(InvalidRequest) as caught:
            encode_request(NewFx(prompt, duration=1))
        assert caught.value.field == "prompt"


@every_route
def test_echo(example: Example) -> None:
    """A request is rebuilt from its echo, but for the callback, which is not echoed."""
    rebuilt = request_from_echo(example.ready[example.envelope], route=example.route)

    assert rebuilt == attrs.evolve(example.request, callback_url=None)


def test_echo_of_a_reference() -> None:
    """The alternative that was not sent is null in the echo."""
    members = {**SONG.ready["song"], "prompt": None, "reference": {"url": URL, "more": 1}}
    rebuilt = request_from_echo(members, route=SONG.route)

    assert rebuilt == NewSong(SONG.body["lyrics"], reference=AudioSource(URL), idempotency_key=KEY)
    assert request_from_echo({**members, "reference": URL}, route=SONG.route) == rebuilt


def test_echo_of_a_number_as_text() -> None:
    """A number that comes back as text is a number."""
    rebuilt = request_from_echo({**SAMPLE.ready["sample"], "duration": "8.0"}, route=SAMPLE.route)

    assert rebuilt == attrs.evolve(SAMPLE.request, callback_url=None)


@pytest.mark.parametrize(
    ("route", "members"),
    [
        ("create.new_song", {"lyrics": ...}),
        ("create.new_song", {"lyrics": None}),
        ("create.new_song", {"lyrics": 5}),
        ("create.new_song", {"reference": {"url": None}}),
        ("create.new_song", {"idempotency_key": ...}),
        ("create.new_song", {"idempotency_key": None}),
        ("create.new_song", {"idempotency_key": 5}),
        ("create.remix_song", {"n_variations": True}),
        ("create.remix_song", {"n_variations": 2.0}),
        ("create.remix_song", {"source": ...}),
        ("create.new_sample", {"loopable": 1}),
        ("create.new_sample", {"duration": "eight"}),
        ("create.new_sample", {"duration": True}),
        ("create.new_sample", {"duration": math.nan}),
        ("create.new_sample", {"duration": 10**400}),
    ],
)
def test_echoes_that_do_not_suffice(route: str, members: dict[str, Any]) -> None:
    """Without what it needs no request is rebuilt: least of all under a key made up here, which would be paid anew."""
    changed = {**EXAMPLES[route].ready[EXAMPLES[route].envelope], **members}

    assert request_from_echo({k: v for k, v in changed.items() if v is not ...}, route=route) is None


def test_echo_of_an_unknown_route() -> None:
    """An operation of a route this version does not know can be read, only its request cannot be rebuilt."""
    operation = decode_operation(SAMPLE.ready["sample"], route="create.new_opera", request=None)

    assert operation.request is None
    assert len(operation.outputs) == 1


@unhurried
@given(
    st.dictionaries(st.sampled_from([*SONG.body, "reference", "source", "n_variations", "duration"]), JSON),
    st.sampled_from(tuple(ROUTES)),
)
def test_any_echo(members: dict[str, Any], route: str) -> None:
    """Whatever is echoed: a request of the route that can be shown, or None."""
    rebuilt = request_from_echo(members, route=route)

    assert rebuilt is None or type(rebuilt) is ROUTES[route]
    assert rebuilt is None or rebuilt.idempotency_key == members["idempotency_key"]
    assert repr(rebuilt)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a":', b"<html>", b"\xff\xfe\x00", b"\x80", b"nul", b"1" * 5000, b"[" * 200_000]
)
def test_what_is_no_json(body: bytes) -> None:
    """Truncated, binary, huge or bottomless bodies are a ValueError, never anything else."""
    with pytest.raises(ValueError):  # noqa: PT011 - that it is one is the rule
        decode_json(body)


@unhurried
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Whatever the bytes: a value, or a ValueError."""
    try:
        decode_json(body)
    except ValueError:
        return


@unhurried
@given(JSON)
def test_json_is_read_as_it_is(value: Any) -> None:
    """What was JSON comes back as it was."""
    assert repr(decode_json(json.dumps(value).encode())) == repr(value)

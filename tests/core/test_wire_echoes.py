import json
from typing import Any

import pytest
from contract import (
    EXAMPLES,
    JSON,
    SONG,
    STEMS,
    Example,
    attempt,
    change,
    every_route,
    submit,
    unhurried,
)
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.codec import encode_request
from soundpiece_async._core.errors import DecodeError
from soundpiece_async._core.outputs import Handle
from soundpiece_async._core.requests import NewFx, NewSample, Request, SeparateStems

pytestmark = pytest.mark.usefixtures("reader")
"""With orjson and without."""

OTHER_ID = "op_01kd0000000000000000000099"


@every_route
def test_every_member_is_compared(example: Example) -> None:
    """A member that comes back with another value is found, whichever it is, and the id is not lost."""
    others: dict[str, object] = {"idempotency_key": "7a1f0c52-3b9e-4d6a-9c40-000000000000", "loopable": False}
    sent = json.loads(encode_request(example.request))

    for name, value in sent.items():
        other = others.get(name, {"url": "https://elsewhere.example/"} if isinstance(value, dict) else f"not {value}")
        data = change(example.processing, **{name: other})
        if name == "callback_url":
            assert submit(example, data).id == example.id
            continue
        with pytest.raises(DecodeError, match=f"echoes another {name} than was sent") as caught:
            submit(example, data)
        assert caught.value.path == name
        assert caught.value.operation is not None
        assert caught.value.operation.handle == Handle(example.route, example.id)
        assert caught.value.operation.request is not None
        assert "fresh idempotency key" in str(caught.value)
        assert example.id in str(caught.value)
        assert example.body["idempotency_key"] in str(caught.value)


@every_route
def test_echoes_that_are_absent(example: Example) -> None:
    """A member that is absent or null in the answer says nothing about what was understood."""
    for name in json.loads(encode_request(example.request)):
        for nothing in (..., None):
            assert submit(example, change(example.processing, **{name: nothing})).id == example.id


@pytest.mark.parametrize(
    ("request_", "echo", "same"),
    [
        (NewSample("pop", duration=8), {"duration": 8.0}, True),
        (NewSample("pop", duration=8.0), {"duration": 8}, True),
        (NewSample("pop", duration=0.1), {"duration": 0.1}, True),
        (NewSample("pop", duration=8), {"duration": 8.5}, False),
        (NewSample("pop", duration=8), {"duration": "8"}, False),
        (NewSample("pop", duration=1), {"duration": True}, False),
        (NewSample("pop", duration=8), {"duration": [8]}, False),
        (NewSample("pop", duration=8, loopable=True), {"loopable": True}, True),
        (NewSample("pop", duration=8, loopable=True), {"loopable": 1}, False),
        (NewSample("pop", duration=8, loopable=True), {"loopable": "true"}, False),
        (NewSample("pop", duration=8), {"loopable": 0}, False),
        (NewSample("pop", duration=8), {"loopable": True}, False),
        (NewSample("pop", duration=8), {"prompt": "Pop"}, False),
        (NewSample("pop", duration=8), {"prompt": "pop", "seed": 5}, True),
        (
            NewSample("7A1F0C52-3B9E-4D6A-9C40-5E2D8B7F1A03", duration=8),
            {"prompt": "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"},
            False,
        ),
        (NewSample("pop", duration=8, callback_url="https://a/"), {"callback_url": "https://b/"}, True),
        (SeparateStems("https://a/b.wav"), {"source": {"url": "https://a/b.wav", "kind": "url"}}, True),
        (SeparateStems("https://a/b.wav"), {"source": {"url": None}}, True),
        (SeparateStems("https://a/b.wav"), {"source": {}}, True),
        (SeparateStems("https://a/b.wav"), {"source": {"url": 5}}, False),
        (SeparateStems("https://a/b.wav"), {"source": "https://a/b.wav"}, False),
        (SeparateStems("https://a/b.wav"), {"source": []}, False),
    ],
)
def test_echoes_compare_as_json(request_: Request, echo: dict[str, Any], *, same: bool) -> None:
    """An echo is compared as a JSON value: 8 is 8.0, true is not 1, and an object may have more members."""
    example = EXAMPLES[request_.route]
    members = {"id": example.id, "status": "processing", **echo}
    if same:
        assert submit(example, {example.envelope: members}, request=request_).request is request_
        return
    with pytest.raises(DecodeError) as caught:
        submit(example, {example.envelope: members}, request=request_)
    assert caught.value.path == next(iter(echo))


@pytest.mark.parametrize(
    ("sent", "echoed", "same"),
    [
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "7A1F0C52-3B9E-4D6A-9C40-5E2D8B7F1A04", True),
        ("7A1F0C523B9E4D6A9C405E2D8B7F1A04", "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", True),
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a05", False),
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "order-17", False),
        ("order-17", "order-17", True),
        ("order-17", "ORDER-17", False),
    ],
)
def test_echoed_keys(sent: str, echoed: str, *, same: bool) -> None:
    """One UUID may be written in several ways; a key that is none, sent unvalidated, in one only."""
    request = NewFx("thud", duration=1, idempotency_key=sent)
    data = {"fx": {"id": OTHER_ID, "status": "processing", "idempotency_key": echoed}}
    if same:
        assert submit(EXAMPLES["create.new_fx"], data, request=request).idempotency_key == echoed
        return
    with pytest.raises(DecodeError, match="echoes another idempotency_key") as caught:
        submit(EXAMPLES["create.new_fx"], data, request=request)
    assert caught.value.operation is not None


@pytest.mark.parametrize(
    ("sent", "echoed", "same"),
    [
        ("https://Media.Example.com", "https://media.example.com/", True),
        ("HTTPS://media.example.com:443/a.wav", "https://media.example.com/a.wav", True),
        ("http://media.example.com:80/a.wav", "http://media.example.com/a.wav", True),
        ("https://media.example.com/süße töne.wav", "https://media.example.com/s%C3%BC%C3%9Fe%20t%C3%B6ne.wav", True),
        ("https://müsik.example/a.wav", "https://xn--msik-0ra.example/a.wav", True),
        ("https://media.example.com/a.wav?sig=1%2F2", "https://media.example.com/a.wav?sig=1%2F2", True),
        ("http://[", "http://[", True),
        ("https://media.example.com/a.wav", "https://media.example.com/b.wav", False),
        ("https://media.example.com/a.wav", "https://media.example.com/A.wav", False),
        ("https://media.example.com/a.wav", "http://media.example.com/a.wav", False),
        ("https://media.example.com/a.wav", "https://media.example.com:8443/a.wav", False),
        ("https://media.example.com/a.wav", "https://media.example.org/a.wav", False),
        ("https://media.example.com/a.wav?track=1", "https://media.example.com/a.wav?track=2", False),
        ("https://one@media.example.com/a.wav", "https://two@media.example.com/a.wav", False),
        ("https://media.example.com/a.wav", "http://[", False),
    ],
)
def test_echoed_urls(sent: str, echoed: str, *, same: bool) -> None:
    """A URL may come back tidied up, as URL types do; to take that for another request would give up paid work."""
    data = {"stems": {"id": STEMS.id, "status": "processing", "source": {"url": echoed}}}
    if same:
        assert submit(STEMS, data, request=SeparateStems(sent)).id == STEMS.id
        return
    with pytest.raises(DecodeError, match="echoes another source"):
        submit(STEMS, data, request=SeparateStems(sent))


@unhurried
@given(st.dictionaries(st.sampled_from(["id", *SONG.ready["song"]]), JSON))
def test_any_value_in_an_answer_to_a_submit(members: dict[str, Any]) -> None:
    """Any JSON at any member of the answer to a submit: the operation asked for, or a DecodeError that keeps its id."""
    whole = {**SONG.processing["song"], **members}
    result = attempt(lambda: submit(SONG, {"song": whole}))

    if isinstance(result, DecodeError):
        assert (result.operation is None) == (result.path == "id")
        assert result.operation is None or result.operation.id == whole["id"]
        assert str(result).isprintable()
    else:
        assert result.id == whole["id"]
        assert whole["lyrics"] in {None, SONG.body["lyrics"]}

import json
from typing import Any

import attrs
import pytest
from helpers.contract import (
    EXAMPLES,
    JSON,
    SONG,
    STEMS,
    Example,
    answer,
    attempt,
    change,
    every_route,
    read_submitted,
    submit,
    unhurried,
)
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core import wire
from soundpiece_async._core.codec import encode_request, is_echo
from soundpiece_async._core.echoes import compare, is_of_another
from soundpiece_async._core.errors import DecodeError
from soundpiece_async._core.requests import Handle, NewFx, NewSample, Request, SeparateStems

pytestmark = pytest.mark.usefixtures("reader")
"""With orjson and without."""

OTHER_ID = "op_01kd0000000000000000000099"


@every_route
def test_every_member_is_compared(example: Example) -> None:
    """A member that comes back with another value is named, whichever it is; the operation is the work asked for."""
    sent = json.loads(encode_request(example.request))

    for name, value in sent.items():
        other = {"url": "https://elsewhere.example/"} if isinstance(value, dict) else f"not {value}"
        other = False if name == "loopable" else other
        reading = read_submitted(example, change(example.processing, **{name: other}))
        differs = () if name == "callback_url" else (name,)
        assert reading.operation.echo_differences == differs
        assert [note.about for note in reading.notes] == [f"echo of {name}" for name in differs]
        assert reading.operation.request is not None


@every_route
def test_another_key_means_another_request(example: Example) -> None:
    """Only that is refused; the error keeps the answer, and the operation that it names."""
    other = "7a1f0c52-3b9e-4d6a-9c40-000000000000"
    with pytest.raises(DecodeError, match="for another idempotency key") as caught:
        submit(example, change(example.processing, idempotency_key=other))

    error = caught.value
    assert (error.path, error.handle) == ("idempotency_key", Handle(example.route, example.id))
    assert error.body[example.envelope]["idempotency_key"] == other
    assert all(text in str(error) for text in (example.id, other, example.body["idempotency_key"]))


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
    operation = submit(example, {example.envelope: members}, request=request_)

    assert operation.request is request_
    assert operation.echo_differences == (() if same else (next(iter(echo)),))


@pytest.mark.parametrize(
    ("sent", "echoed", "verdict"),
    [
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "7A1F0C52-3B9E-4D6A-9C40-5E2D8B7F1A04", "same"),
        ("7A1F0C523B9E4D6A9C405E2D8B7F1A04", " {7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04} ", "same"),
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "urn:uuid:7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "same"),
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a05", "another"),
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "(redacted)", "differs"),
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", 5, "differs"),
        ("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "", "differs"),
        ("order-17", "order-17", "same"),
        ("order-17", "ORDER-17 ", "differs"),
        ("order-17", "order-18", "another"),
        ("order-17", "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04", "differs"),
    ],
)
def test_echoed_keys(sent: str, echoed: object, verdict: str) -> None:
    """One UUID has several spellings; a text that is not a UUID is ignored, unless it was sent, unvalidated."""
    request = NewFx("thud", duration=1, idempotency_key=sent)
    data = {"fx": {"id": OTHER_ID, "status": "processing", "idempotency_key": echoed}}
    if verdict == "another":
        with pytest.raises(DecodeError, match="another idempotency key"):
            submit(EXAMPLES["create.new_fx"], data, request=request)
        return
    reading = read_submitted(EXAMPLES["create.new_fx"], data, request=request)
    assert reading.operation.echo_differences == (() if verdict == "same" else ("idempotency_key",))
    assert reading.suspicious == ()


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
    """A URL may come back tidied up, as URL types do: that is the same URL."""
    data = {"stems": {"id": STEMS.id, "status": "processing", "source": {"url": echoed}}}
    operation = submit(STEMS, data, request=SeparateStems(sent))

    assert operation.id == STEMS.id
    assert operation.echo_differences == (() if same else ("source",))


@pytest.mark.parametrize(
    ("request_", "echo", "slight"),
    [
        (NewFx(" door\n", duration=1), {"prompt": "door"}, True),
        (NewFx("a  b\r\nc", duration=1), {"prompt": "a b\nc"}, True),
        (NewFx("sche\u0301ne", duration=1), {"prompt": "sch\u00e9ne"}, True),
        (NewFx("\ufb01n\u200b", duration=1), {"prompt": "fin"}, True),
        (NewFx("rock & roll <loud>", duration=1), {"prompt": "rock &amp; roll &lt;loud&gt;"}, True),
        (NewFx("rock & roll", duration=1), {"prompt": "rock &amp;amp; roll"}, True),
        (NewFx('say "a"\nb', duration=1), {"prompt": 'say \\"a\\"\\nb'}, True),
        (NewFx("süß", duration=1), {"prompt": "s\\u00fc\\u00df"}, True),
        (NewFx("door", duration=1), {"prompt": "window"}, False),
        (NewFx("door", duration=1), {"prompt": "Door"}, False),
        (NewFx("door", duration=1), {"prompt": ["door"]}, False),
        (NewFx("door", duration=0.1), {"duration": 0.10000000149011612}, True),
        (NewFx("door", duration=1.2345678), {"duration": 1.235}, True),
        (NewFx("door", duration=90), {"duration": 30}, True),
        (NewFx("door", duration=9), {"duration": "9.0"}, True),
        (NewFx("door", duration=9), {"duration": "nine"}, False),
        (NewFx("door", duration=9), {"duration": True}, False),
        (NewFx("door", duration=9), {"duration": "9" * 5000}, True),
        (NewFx("door", duration=9), {"duration": 10**400}, False),
        (NewFx("door", duration=9), {"duration": []}, False),
        (NewSample("door", duration=1, loopable=True), {"loopable": "True"}, True),
        (NewSample("door", duration=1, loopable=True), {"loopable": 1}, True),
        (NewSample("door", duration=1, loopable=True), {"loopable": False}, False),
        (SeparateStems("https://a.example/x/../b.wav"), {"source": {"url": "https://a.example/b.wav"}}, True),
        (SeparateStems("https://[::0:1]/b.wav"), {"source": {"url": "https://[::1]/b.wav"}}, True),
        (SeparateStems("https://a.example/b.wav?s=1"), {"source": {"url": "https://cdn.example/9/b.wav"}}, True),
        (SeparateStems("https://a.example/b.wav?s=1"), {"source": "https://a.example/b.wav"}, True),
        (SeparateStems("https://a.example/b.wav"), {"source": {"url": "https://a.example/c.wav"}}, False),
        (SeparateStems("https://a.example/b.wav"), {"source": {"url": "http://["}}, False),
        (SeparateStems("https://a.example/b.wav"), {"source": {"url": 5}}, False),
        (SeparateStems("https://a.example/b.wav"), {"source": []}, False),
    ],
)
def test_slight_differences(request_: Request, echo: dict[str, Any], *, slight: bool) -> None:
    """Trimmed, normalized, escaped, rounded, clamped, rewritten: slight; what else differs may be other work."""
    example = EXAMPLES[request_.route]
    members = {"id": example.id, "status": "processing", **echo}
    reading = read_submitted(example, {example.envelope: members}, request=request_)

    name = next(iter(echo))
    assert reading.operation.echo_differences == (name,)
    assert reading.suspicious == (() if slight else (name,))
    assert "door" not in str(reading.notes)


def test_members_without_a_rule() -> None:
    """What was sent unvalidated is compared, too, and no value of it is an accident."""
    differences = list(compare({"source": {"uri": "x"}, "prompt": ["a"]}, {"source": {"uri": "y"}, "prompt": ["b"]}))

    assert [(one.field, one.slight) for one in differences] == [("source", False), ("prompt", False)]


@unhurried
@given(st.dictionaries(st.sampled_from(["id", *SONG.ready["song"]]), JSON))
def test_any_value_in_an_answer_to_a_submit(members: dict[str, Any]) -> None:
    """Any JSON at any member of the answer to a submit: the operation asked for, or a DecodeError with it."""
    whole = {**SONG.processing["song"], **members}
    result = attempt(lambda: submit(SONG, {"song": whole}))

    if isinstance(result, DecodeError):
        assert str(result).isprintable()
        assert result.body is not None
    else:
        assert result.request == SONG.request


@unhurried
@given(
    st.sampled_from([example.request for example in EXAMPLES.values()]),
    st.dictionaries(
        st.sampled_from(["duration", "loopable", "n_variations", "prompt", "source"]), JSON | st.booleans()
    ),
)
def test_the_short_way_takes_no_difference_for_an_echo(request_: Request, members: dict[str, Any]) -> None:
    """What is an echo without a look at the bytes that were sent is one with it."""
    sent = json.loads(encode_request(request_))
    if is_echo(request_, {**sent, **members}):
        assert not list(compare(sent, {**sent, **members}))


def test_the_short_way_is_taken_for_an_echo_as_documented() -> None:
    """Not for one of a source, and True is not 1."""
    fx = NewFx("door", duration=1.0)
    sent = json.loads(encode_request(fx))
    assert is_echo(fx, {**sent, "callback_url": None, "outputs": []})
    assert is_echo(fx, {**sent, "duration": 1})
    assert not is_echo(fx, {**sent, "duration": True})
    stems = SeparateStems("https://a.example/b.flac")
    assert not is_echo(stems, {**json.loads(encode_request(stems)), "source": stems.source})


@pytest.mark.parametrize("recorded", [True, False])
def test_an_echo_is_one_of_the_bytes_that_were_sent(*, recorded: bool) -> None:
    """Those of a record may be another request's, with the same key: the difference is reported."""
    fx = NewFx("door", duration=1.0)
    body = encode_request(attrs.evolve(fx, prompt="boom") if recorded else fx)
    echo = {"fx": {"id": OTHER_ID, "status": "processing", **json.loads(encode_request(fx))}}
    reading = wire.parse_submit_response(answer(echo), wire.submit_request(fx, body), request=fx, recorded=recorded)
    assert reading.suspicious == reading.operation.echo_differences == (("prompt",) if recorded else ())


@unhurried
@given(JSON, JSON)
def test_any_two_values(sent: Any, echoed: Any) -> None:
    """Whatever was sent and echoed can be compared."""
    for name in ("prompt", "source", "url", "idempotency_key"):
        for difference in compare({name: sent}, {name: echoed}):
            assert difference.field == name
    assert is_of_another(sent, echoed) in {True, False}

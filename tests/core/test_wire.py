from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest
from helpers.contract import SAMPLE, SIGNED, SPEC, STEMS, Example, answer, change, every_route, final, poll, submit

from soundpiece_async._core import wire
from soundpiece_async._core.codec import encode_request
from soundpiece_async._core.errors import DecodeError, NotReady, TransportError
from soundpiece_async._core.operations import Operation, OperationError, Status
from soundpiece_async._core.requests import Handle, SeparateStems
from soundpiece_async._core.wire import ApiRequest, ApiResponse

pytestmark = pytest.mark.usefixtures("reader")
"""With orjson and without."""

HANDLE = Handle(SAMPLE.route, SAMPLE.id)
POLL = wire.poll_request(HANDLE, wait=True)
OTHER_ID = "op_01kd0000000000000000000099"


@every_route
def test_submit(example: Example) -> None:
    """A submit is a PUT of the body on the route, and says in messages which key it stands for."""
    body = encode_request(example.request)
    call = wire.submit_request(example.request, body)

    assert (call.method, call.target, call.body) == ("PUT", f"/v1/{example.route}", body)
    assert call.target in SPEC["paths"]
    assert str(call) == f"PUT /v1/{example.route} (idempotency key {example.body['idempotency_key']})"


@every_route
@pytest.mark.parametrize("wait", [True, False])
def test_poll(example: Example, *, wait: bool) -> None:
    """A poll is a GET on the same route with the id; wait is a boolean, left out when the answer shall come at once."""
    call = wire.poll_request(Handle(example.route, example.id), wait=wait)

    parts = urlsplit(call.target)
    assert (call.method, parts.path, call.body) == ("GET", f"/v1/{example.route}", None)
    assert parse_qs(parts.query) == {"id": [example.id], **({"wait": ["true"]} if wait else {})}
    assert str(call) == f"GET /v1/{example.route} (operation {example.id})"


def test_odd_ids_are_quoted() -> None:
    """An id is opaque: whatever its characters, it stays inside its parameter."""
    call = wire.poll_request(Handle("create.new_fx", "a/b?c=d&e#f%20"), wait=False)

    assert parse_qs(urlsplit(call.target).query) == {"id": ["a/b?c=d&e#f%20"]}


def test_bodies_are_not_shown() -> None:
    """A body may hold a signed source, an answer signed outputs: neither is in a repr."""
    request = SeparateStems(SIGNED)

    assert "SECRET" not in repr(wire.submit_request(request, encode_request(request)))
    assert "sig" not in repr(answer(STEMS.ready))


@every_route
def test_answer_to_a_submit(example: Example) -> None:
    """The answer to a submit is the operation, processing, with the caller's own request object."""
    request = example.request
    operation = submit(example, example.processing, request=request)

    assert operation.handle == Handle(example.route, example.id)
    assert operation.status is Status.PROCESSING
    assert operation.request is request


@every_route
@pytest.mark.parametrize("status", ["processing", "ready", "failed"])
def test_answer_to_a_poll(example: Example, status: str) -> None:
    """The answer to a poll is the operation as it stands, read without waiting for the end or only at the end."""
    data = getattr(example, status)
    operation = poll(example, data)

    assert operation.status == status
    assert operation.request == attrs.evolve(example.request, callback_url=None)
    assert final(example, data) == (None if status == "processing" else operation)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_any_success(status: int) -> None:
    """Any 2xx is a success: the status of a replay is UNKNOWN."""
    assert submit(SAMPLE, SAMPLE.processing, status=status).id == SAMPLE.id
    assert poll(SAMPLE, SAMPLE.ready, status=status).status is Status.READY


def test_replayed_submit() -> None:
    """A submit sent again may be answered with the operation as it stands by now."""
    assert submit(SAMPLE, SAMPLE.ready).status is Status.READY
    assert submit(SAMPLE, SAMPLE.failed).status is Status.FAILED


@pytest.mark.parametrize("status", ["processing", "queued", "PENDING", "in progress"])
def test_not_yet_is_seen_first(status: str) -> None:
    """A "not yet" is seen before anything is built: junk in all other members does not matter."""
    junk = {"created_at": [], "outputs": 5, "error": 5, "prompt": {}, "idempotency_key": 5}
    data = change(SAMPLE.processing, status=status, **junk)

    assert final(SAMPLE, data) is None
    assert poll(SAMPLE, data).status == status


@pytest.mark.parametrize("status", ["archiving", None, 5, [], {}, True])
def test_other_statuses_are_read_whole(status: object) -> None:
    """What is no known "not yet" is read: content may make an end of it."""
    operation = final(SAMPLE, change(SAMPLE.ready, status=status, created_at=[]))

    assert operation is not None
    assert operation.id == SAMPLE.id
    assert not operation.status.final
    assert operation.outputs


@every_route
@pytest.mark.parametrize("name", ["operation", "stem_separation", "data", ""])
def test_other_envelopes(example: Example, name: str) -> None:
    """Three names of the contract are INFERRED or UNKNOWN, so any other name serves."""
    data = {name: example.ready[example.envelope]}

    assert poll(example, data) == poll(example, example.ready)
    assert submit(example, data).id == example.id
    assert final(example, data) == final(example, example.ready)


def test_envelope_of_an_unknown_route() -> None:
    """An operation of a route this version does not know is found all the same."""
    handle = Handle("create.new_opera", SAMPLE.id)
    operation = wire.parse_poll_response(answer({"opera": SAMPLE.ready["sample"]}), POLL, handle=handle).operation

    assert (operation.handle, operation.request) == (handle, None)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "has no operation, or several: {}"),
        ({"sample": None}, "has no operation, or several: {'sample': None}"),
        ({"detail": "fine"}, "'detail': 'fine'"),
        ({"sample": {"id": "op 1", "prompt": "x"}}, "'id': 'op 1'"),
        ({"a": {"id": OTHER_ID, "status": "x"}, "b": {"id": f"{OTHER_ID[:-1]}8", "status": "x"}}, "or several"),
        ([], "has no operation"),
        ("ready", "expected a JSON object in the response: ready"),
        (5, "expected a JSON object in the response: 5"),
        (None, "expected a JSON object in the response: None"),
    ],
)
@pytest.mark.parametrize("read", [submit, poll, final])
def test_no_operation_to_be_found(read: Any, data: object, told: str) -> None:
    """No operation, or more than one: a DecodeError with the answer, which a poll's handle survives."""
    with pytest.raises(DecodeError) as caught:
        read(SAMPLE, data)

    assert told in str(caught.value)
    assert f"/v1/{SAMPLE.route}" in str(caught.value)
    assert (caught.value.path, caught.value.operation, caught.value.body) == ("", None, data)
    assert caught.value.handle == (None if read is submit else HANDLE)


@pytest.mark.parametrize("identity", [OTHER_ID, 5])
@pytest.mark.parametrize("read", [poll, final])
def test_answers_about_another_operation(read: Any, identity: object) -> None:
    """Answered with another operation, a poll is a DecodeError with the handle that was asked for."""
    data = change(SAMPLE.ready, id=identity)
    with pytest.raises(DecodeError, match=f"operation {SAMPLE.id}.* is for another operation") as caught:
        read(SAMPLE, data)

    assert (caught.value.path, caught.value.handle, caught.value.body) == ("id", HANDLE, data)
    assert str(identity) in str(caught.value)


@pytest.mark.parametrize("identity", [{"of": "me"}, "op 1", True])
def test_answers_with_an_id_that_is_none(identity: object) -> None:
    """Under the known name an answer with such an id is about another operation, too."""
    with pytest.raises(DecodeError, match="is for another operation"):
        poll(SAMPLE, change(SAMPLE.ready, id=identity))


@pytest.mark.parametrize(
    "body",
    [b"", b"OK", b"<html>fine</html>", b'{"sample": {"id"', b"[" * 100_000, b"\xff"],
    ids=lambda body: ascii(body[:9]),
)
def test_a_success_that_is_no_json(body: bytes) -> None:
    """A 2xx that is no JSON is as good as no response: a TransportError, so the same key may go again."""
    call = wire.submit_request(SAMPLE.request, b"{}")
    with pytest.raises(TransportError, match="status 200, but not JSON") as caught:
        wire.parse_submit_response(ApiResponse(200, {}, body), call, request=SAMPLE.request)

    assert caught.value.retryable
    assert SAMPLE.body["idempotency_key"] in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OperationError("bad_source", "Not audio."), "failed: bad_source: Not audio.; to try again"),
        (OperationError("internal_error", ""), "failed: internal_error; to try again"),
        (None, "failed: no reason given; to try again"),
    ],
)
def test_failure(error: OperationError | None, told: str) -> None:
    """The message has the service's reason, the handle, and that a new key is needed."""
    operation = Operation(route=SAMPLE.route, id=SAMPLE.id, status=Status.FAILED, request=None, error=error)
    text = wire.failure_message(operation)

    assert text.startswith(f"operation {HANDLE} ")
    assert told in text
    assert text.endswith("make a new request (with a new idempotency key)")


def test_ready_without_outputs() -> None:
    """It is no success, and no failure either: the advice is to wait, not to buy anew."""
    operation = poll(SAMPLE, change(SAMPLE.ready, output=None))
    with pytest.raises(NotReady, match="has no outputs; it is paid for") as caught:
        wire.require_ready(operation)

    assert (caught.value.handle, caught.value.operation) == (HANDLE, operation)


def test_call_is_a_value() -> None:
    """A call is plain data: what to send, and what it is about."""
    assert ApiRequest("PUT", "/v1/a.b", b"{}", "key") == ApiRequest("PUT", "/v1/a.b", b"{}", "key")


LONG = 12345678901234567890123


@pytest.mark.parametrize("status", ["ready", "processing"])
def test_numbers_beyond_64_bits(status: str) -> None:
    """They come out as they are, though a poll is skimmed first, in which they may be rounded."""
    data = change(SAMPLE.ready, id=LONG, status=status, seed=LONG)
    call = wire.poll_request(Handle(SAMPLE.route, str(LONG)), wait=True)
    reading = wire.parse_if_final(answer(data), call, handle=Handle(SAMPLE.route, str(LONG)))

    assert (reading is None) is (status == "processing")
    if reading is not None:
        assert reading.operation.id == str(LONG)
        assert reading.operation.raw["seed"] == LONG
    known = final(SAMPLE, change(SAMPLE.ready, seed=LONG))
    assert known is not None
    assert known.raw["seed"] == LONG

import math
from typing import Any

import pytest
from contract import JSON, SAMPLE, STEMS, attempt, decode, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.codec import decode_operation
from soundpiece_async._core.errors import DecodeError
from soundpiece_async._core.models import Status
from soundpiece_async._core.outputs import Handle
from soundpiece_async._core.requests import (
    ROUTES,
)

URL = "https://media.example.com/süß.wav?sig=1&x=/"


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"status": ...}, "status"),
        ({"status": None}, "status"),
        ({"status": 1}, "status"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"created_at": "2026-11-22T10:00:61Z"}, "created_at"),
        ({"created_at": 1795341600}, "created_at"),
        ({"idempotency_key": 5}, "idempotency_key"),
        ({"output": "https://h/a"}, "outputs[0]"),
        ({"output": 5}, "outputs[0]"),
        ({"output": {}}, "outputs[0].url"),
        ({"output": {"url": None}}, "outputs[0].url"),
        ({"output": {"url": 5}}, "outputs[0].url"),
        ({"outputs": [{"url": "https://h/a"}, None]}, "outputs[1]"),
        ({"outputs": [{"url": "https://h/a"}, {"url": "https://h/a", "duration": "9"}]}, "outputs[1].duration"),
        ({"output": {"url": "https://h/a", "duration": True}}, "outputs[0].duration"),
        ({"output": {"url": "https://h/a", "duration": math.nan}}, "outputs[0].duration"),
        ({"output": {"url": "https://h/a", "duration": math.inf}}, "outputs[0].duration"),
        ({"output": {"url": "https://h/a", "duration": 10**400}}, "outputs[0].duration"),
        ({"output": {"url": "https://h/a", "kind": 5}}, "outputs[0].kind"),
        ({"output": {"url": "https://h/a", "expires_at": []}}, "outputs[0].expires_at"),
        ({"error": "no luck"}, "error"),
        ({"error": []}, "error"),
        ({"error": {"code": 5}}, "error.code"),
        ({"error": {"message": {"text": "no"}}}, "error.message"),
    ],
)
def test_wrong_types(members: dict[str, Any], path: str) -> None:
    """A member of the wrong type is a DecodeError that says where, and keeps the id: the work is paid for."""
    with pytest.raises(DecodeError) as caught:
        decode(**members)

    assert path in caught.value.path
    assert f"operation {SAMPLE.route}/{SAMPLE.id} is not of the contract's shape: " in str(caught.value)
    assert str(caught.value).endswith(f" at {caught.value.path}")
    assert "https://h/a" not in str(caught.value)
    kept = caught.value.operation
    assert kept is not None
    assert kept.handle == Handle(SAMPLE.route, SAMPLE.id)
    assert kept.raw["prompt"] == SAMPLE.body["prompt"]
    assert kept.request == SAMPLE.request or "idempotency_key" in members


def test_what_is_kept_is_not_final() -> None:
    """What is kept of an answer that cannot be read is no final state, whatever it says: it must be asked for again."""
    with pytest.raises(DecodeError) as caught:
        decode(status="ready", output=5)

    assert caught.value.operation is not None
    assert caught.value.operation.status is Status.PROCESSING
    assert caught.value.operation.outputs == ()


@pytest.mark.parametrize(
    "identity", [..., None, 5, "", "op 1", "op_\n", "öp", "op_\ud800", [], {"url": "sig=SECRET"}], ids=ascii
)
def test_no_usable_id(identity: object) -> None:
    """An id that fits into no URL and no handle is none."""
    with pytest.raises(DecodeError, match="no usable operation id") as caught:
        decode(id=identity)

    assert (caught.value.path, caught.value.operation) == ("id", None)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("identity", ["op_1", "01HZX", "a/b?c=d&e#f%20"])
def test_ids_are_opaque(identity: str) -> None:
    """Any other id is taken as it is, and its handle can be kept as text."""
    operation = decode(id=identity)

    assert operation.id == identity
    assert Handle.parse(str(operation.handle)) == operation.handle


MEMBERS = [
    "id",
    "status",
    "created_at",
    "idempotency_key",
    "prompt",
    "duration",
    "loopable",
    "output",
    "outputs",
    "error",
]


@unhurried
@given(st.dictionaries(st.sampled_from(MEMBERS), JSON, min_size=1), st.sampled_from(tuple(ROUTES)))
def test_any_value_anywhere(members: dict[str, Any], route: str) -> None:
    """Any JSON at any member gives an operation or a DecodeError with its id, and nothing else."""
    whole = {**SAMPLE.ready["sample"], **members}
    result = attempt(lambda: decode_operation(whole, route=route, request=None))

    operation = result
    if isinstance(result, DecodeError):
        assert (result.operation is None) == (result.path == "id")
        assert result.path
        assert str(result).isprintable()
        operation = result.operation
    assert operation is None or (operation.route, operation.id) == (route, whole["id"])
    assert repr(operation)


@unhurried
@given(JSON, st.sampled_from(["url", "expires_at", "duration", "kind"]))
def test_any_value_in_an_output(value: Any, name: str) -> None:
    """Any JSON in a file's member gives a file or a DecodeError that names the member."""
    outputs = [dict(output) for output in STEMS.ready["stems"]["outputs"]]
    outputs[2][name] = value
    result = attempt(lambda: decode(STEMS, outputs=outputs))

    if isinstance(result, DecodeError):
        assert result.path == f"outputs[2].{name}"
        assert result.operation is not None
    else:
        assert len(result.outputs) == 4
        assert repr(result.outputs[2].path)

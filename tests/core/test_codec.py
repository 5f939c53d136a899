from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from contract import JSON, SAMPLE, STEMS, UNTIDY, Example, decode, every_route, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.codec import decode_operation
from soundpiece_async._core.models import Operation, OperationError, Status
from soundpiece_async._core.outputs import Output


@every_route
def test_processing(example: Example) -> None:
    """An answer to a submit is an operation without outputs or error, whose echo gives the request back."""
    members = example.processing[example.envelope]
    operation = decode_operation(members, route=example.route, request=None)

    assert operation == Operation(
        route=example.route,
        id=example.id,
        status=Status.PROCESSING,
        created_at=datetime(2026, 11, 22, 10, tzinfo=UTC),
        idempotency_key=example.body["idempotency_key"],
        request=attrs.evolve(example.request, callback_url=None),
    )
    assert operation.raw == members


@every_route
def test_ready(example: Example) -> None:
    """A ready answer's files are a tuple, a single one too, numbered as they stand and tied to their operation."""
    members = example.ready[example.envelope]
    operation = decode_operation(members, route=example.route, request=None)

    assert operation.status is Status.READY
    assert operation.error is None
    assert operation.outputs == tuple(
        Output(
            url=output["url"],
            expires_at=datetime(2026, 11, 22, 10, 15, 40, tzinfo=UTC),
            duration=output["duration"],
            kind=output.get("kind"),
            handle=operation.handle,
            index=index,
        )
        for index, output in enumerate(members.get("outputs") or [members["output"]])
    )


@every_route
def test_failed(example: Example) -> None:
    """A failed answer says why, in the service's own words."""
    operation = decode_operation(example.failed[example.envelope], route=example.route, request=None)

    assert operation.status is Status.FAILED
    assert operation.outputs == ()
    assert operation.error == OperationError("internal_error", "The operation could not be completed.")


@every_route
def test_request_of_the_caller(example: Example) -> None:
    """The caller's own request object is kept, not rebuilt from the echo."""
    request = example.request
    operation = decode_operation(example.ready[example.envelope], route=example.route, request=request)

    assert operation.request is request


def test_stems_have_kinds() -> None:
    """Each stem says which one it is."""
    assert [output.kind for output in decode(STEMS).outputs] == ["vocals", "drums", "bass", "other"]


@pytest.mark.parametrize(
    ("members", "paths"),
    [
        ({"output": {"url": "https://h/a"}, "outputs": None}, ["/a"]),
        ({"output": ..., "outputs": [{"url": "https://h/a"}]}, ["/a"]),
        ({"output": [{"url": "https://h/a"}, {"url": "https://h/b"}]}, ["/a", "/b"]),
        ({"output": ..., "outputs": {"url": "https://h/a"}}, ["/a"]),
        ({"output": None, "outputs": [{"url": "https://h/a"}, {"url": "https://h/b"}]}, ["/a", "/b"]),
        ({"output": ..., "outputs": []}, []),
        ({"output": None}, []),
        ({"output": ...}, []),
    ],
)
def test_output_or_outputs(members: dict[str, Any], paths: list[str]) -> None:
    """Under either name, one file or a list of any length: which route has which is partly INFERRED."""
    outputs = decode(**members).outputs

    assert [output.path for output in outputs] == paths
    assert [output.index for output in outputs] == list(range(len(paths)))


@every_route
def test_only_id_and_status_are_required(example: Example) -> None:
    """Id and status make an operation; without the echo nobody can rebuild its request."""
    operation = decode_operation({"id": example.id, "status": "processing"}, route=example.route, request=None)

    assert operation == Operation(route=example.route, id=example.id, status=Status.PROCESSING, request=None)


@every_route
@pytest.mark.parametrize("status", ["processing", "ready", "failed"])
def test_absent_is_null(example: Example, status: str) -> None:
    """A nullable member that is absent means the same as null."""
    members = getattr(example, status)[example.envelope]
    sparse = {name: value for name, value in members.items() if value is not None}

    assert decode_operation(sparse, route=example.route, request=None) == decode_operation(
        members, route=example.route, request=None
    )


@unhurried
@given(st.dictionaries(st.sampled_from(["route", "request", "raw", "handle", "index", "seed", "ünknown"]), JSON))
def test_unknown_members(more: dict[str, Any]) -> None:
    """Members this version does not know change nothing, whatever their names, and stay readable in raw."""
    output = {**SAMPLE.ready["sample"]["output"], **more}
    error = {"code": "c", "message": "m", **more}
    plain = decode(error={"code": "c", "message": "m"})
    operation = decode(**more, output=output, error=error)

    assert operation == plain
    assert repr(operation.raw["output"]) == repr(output)
    assert all(repr(operation.raw[name]) == repr(value) for name, value in more.items())


@unhurried
@given(UNTIDY)
def test_open_sets(word: str) -> None:
    """Statuses, kinds and codes this version does not know are passed through as they are."""
    operation = decode(status=word, output={"url": "https://h/a", "kind": word}, error={"code": word, "message": word})

    assert operation.status == word
    assert operation.outputs[0].kind == word
    assert operation.error == OperationError(word or "internal_error", word)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"error": None}, ("internal_error", "")),
        ({"error": ...}, ("internal_error", "")),
        ({"error": {}}, ("internal_error", "")),
        ({"error": {"message": "No luck."}}, ("internal_error", "No luck.")),
        ({"error": {"code": None, "message": "No luck."}}, ("internal_error", "No luck.")),
        ({"error": {"code": "bad_source"}}, ("bad_source", "")),
        ({"error": {"code": "bad_source", "message": None}}, ("bad_source", "")),
    ],
)
def test_failed_without_a_reason(members: dict[str, Any], error: tuple[str, str]) -> None:
    """A failed operation always has an error: where the service leaves out the code, it is an internal one."""
    operation = decode(status="failed", output=None, **members)

    assert operation.error == OperationError(*error)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:00:00Z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22t10:00:00z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22 10:00:00+00:00", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T10:00:00", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T10:00:00.5", datetime(2026, 11, 22, 10, microsecond=500_000, tzinfo=UTC)),
        ("2026-11-22T10:00:00.123456789Z", datetime(2026, 11, 22, 10, microsecond=123_456, tzinfo=UTC)),
        ("2026-11-22T11:30:00+01:30", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    """A date-time is read in any form of RFC 3339, and without an offset it is UTC, so that it can be compared."""
    operation = decode(created_at=text, output={"url": "https://h/a", "expires_at": text})

    assert operation.created_at == operation.outputs[0].expires_at == moment
    assert operation.created_at.tzinfo is not None


def test_offsets_are_kept() -> None:
    """An offset stays as the service wrote it."""
    assert decode(created_at="2026-11-22T11:30:00+01:30").created_at.tzinfo == timezone(timedelta(minutes=90))

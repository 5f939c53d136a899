import copy
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from helpers.contract import SIGNED, UNTIDY, unhurried
from hypothesis import given

from soundpiece_async._core.errors import OperationFailed
from soundpiece_async._core.operations import Operation, OperationError, Status
from soundpiece_async._core.requests import Handle, NewFx, Output
from soundpiece_async._core.results import Failed, SavedFile, Statistics, Succeeded

REQUEST = NewFx("thud", duration=1)
OUTPUT = Output(url=SIGNED, handle=Handle("create.new_fx", "op_1"))
OPERATION = Operation(
    route="create.new_fx",
    id="op_1",
    status=Status.READY,
    request=REQUEST,
    outputs=(OUTPUT,),
    raw={"output": {"url": SIGNED}},
)
SAVED = SavedFile(path=Path("a.flac"), bytes=9, sha256="0", duration=1.0, sample_rate=44100, channels=2, output=OUTPUT)


@pytest.mark.parametrize(("text", "final"), [("processing", False), ("ready", True), ("failed", True)])
def test_status(text: str, *, final: bool) -> None:
    """The three statuses of the contract compare as the text they are on the wire."""
    status = Status(text)

    assert status.final is final
    assert status == text
    assert hash(status) == hash(text)
    assert f"{status}" == text
    assert status in list(Status)
    assert len(Status) == 3


@unhurried
@given(UNTIDY.filter(lambda text: text not in list(Status)))
def test_unknown_status(text: str) -> None:
    """A status this version does not know is kept as it is, is not final, and equals itself, copied or pickled."""
    status = Status(text)

    assert status == text
    assert isinstance(status, Status)
    assert not status.final
    assert status.value == status.name == str(status) == text
    assert {status: 1}[Status(text)] == 1
    assert pickle.loads(pickle.dumps(status)) == copy.deepcopy(status) == status  # noqa: S301 - pickled right here
    assert len(Status) == 3


@pytest.mark.parametrize("junk", [None, 1, True, [], {}])
def test_junk_is_no_status(junk: object) -> None:
    """A status is text; anything else is no status."""
    with pytest.raises(ValueError, match="not a valid Status"):
        Status(junk)


def test_operation() -> None:
    """Route, id, status and request are all an operation needs; its handle is made of the first two."""
    operation = Operation(route="create.new_fx", id="op_1", status=Status.PROCESSING, request=None)

    assert operation.handle == Handle("create.new_fx", "op_1")
    assert operation.outputs == ()
    assert (operation.created_at, operation.idempotency_key, operation.error, operation.request) == (None,) * 4
    assert operation.raw == {}


def test_operation_is_a_value() -> None:
    """Operations are frozen, hashable, and equal by what they say, not by the JSON that said it."""
    later = attrs.evolve(OPERATION, raw={"more": 1})

    assert later == OPERATION
    assert hash(later) == hash(OPERATION)
    assert attrs.evolve(OPERATION, status=Status.FAILED) != OPERATION
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        OPERATION.status = Status.FAILED


@pytest.mark.parametrize(
    "shown",
    [
        OPERATION,
        OUTPUT,
        SAVED,
        Succeeded(request=REQUEST, operation=OPERATION, files=(SAVED,)),
        Failed(request=REQUEST, operation=OPERATION, error=OperationFailed("gave up", operation=OPERATION)),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_reprs_keep_secrets(shown: object) -> None:
    """No repr of what the service says shows a signed query or the raw JSON."""
    text = repr(shown)

    assert "SECRET" not in text
    assert "raw" not in text
    assert "https://cdn.example/a/b.flac?…" in text


@pytest.mark.parametrize(
    "shown",
    [
        OPERATION,
        attrs.evolve(OPERATION, error=OperationError("gave_up", f"could not fetch {OUTPUT.url}"), created_at=None),
        OUTPUT,
        SAVED,
        attrs.evolve(SAVED, path=None, url="s3://songs/x.flac"),
        Succeeded(request=REQUEST, operation=OPERATION, files=(SAVED,)),
        Failed(request=REQUEST, operation=OPERATION, error=OperationFailed("gave up", operation=OPERATION)),
        Failed(request=REQUEST, operation=None, error=OperationFailed("gave up", operation=OPERATION)),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_what_may_be_shown_as_json(shown: Any) -> None:
    """JSON values only; without signed URLs, unless requested, and without the request's fields (F15)."""
    text = json.dumps(shown.to_dict(), allow_nan=False)

    assert json.loads(text) == shown.to_dict()
    assert "SECRET" not in text
    assert str(REQUEST.prompt) not in text
    has_outputs = not (isinstance(shown, Failed) and shown.operation is None)
    assert ("SECRET" in json.dumps(shown.to_dict(urls=True))) is has_outputs


def test_outcomes_match() -> None:
    """A match statement distinguishes the outcomes of a bulk run, with the attributes that the README shows."""
    outcomes = [
        Succeeded(request=REQUEST, operation=OPERATION),
        Failed(request=REQUEST, operation=None, error=OperationFailed("gave up", operation=OPERATION)),
    ]
    seen = []
    for outcome in outcomes:
        match outcome:
            case Succeeded(request=request, operation=operation, files=files):
                seen.append((request, operation, files))
            case Failed(request=request, operation=operation, error=error):
                seen.append((request, operation, str(error)))

    assert seen == [(REQUEST, OPERATION, ()), (REQUEST, None, "gave up")]


def test_operation_error() -> None:
    """Why the service gave up is a code for programs and a message for people."""
    error = OperationError(code="internal_error", message="No luck.")

    assert attrs.astuple(error) == ("internal_error", "No luck.")
    assert attrs.evolve(OPERATION, error=error, created_at=datetime(2026, 11, 22, tzinfo=UTC)).error is error


def test_statistics() -> None:
    """A session that has done nothing counts nothing, at an unlimited rate."""
    counts = attrs.asdict(Statistics())

    assert counts.pop("rate") is None
    assert counts.pop("unknown_statuses") == ()
    assert set(counts.values()) == {0}

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from helpers.contract import JSON, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core import fields
from soundpiece_async._core.operations import OperationError

TEN = datetime(2026, 11, 22, 10, tzinfo=UTC)
DEEP: Any = None
for _ in range(2000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-11-22T10:00:00Z", TEN),
        (" 2026-11-22t10:00:00z ", TEN),
        ("2026-11-22 10:00:00+00:00", TEN),
        ("2026-11-22 10:00:00 UTC", TEN),
        ("2026-11-22T10:00:00", TEN),
        ("2026-11-22T10:00:00.5", TEN + timedelta(seconds=0.5)),
        ("2026-11-22T10:00:00.123456789Z", TEN + timedelta(microseconds=123_456)),
        ("2026-11-22T11:30:00+01:30", TEN),
        ("2026-11-22", TEN - timedelta(hours=10)),
        ("20261122", TEN - timedelta(hours=10)),
        ("20261122T100000Z", TEN),
        ("2026-11-21T24:00:00Z", TEN - timedelta(hours=10)),
        ("2026-11-21T24:00Z", TEN - timedelta(hours=10)),
        ("2026-11-22T09:59:60Z", TEN),
        ("2026-11-22 09:59:60+00:00", TEN),
        ("Sun, 22 Nov 2026 10:00:00 GMT", TEN),
        ("Sun, 22 Nov 2026 10:00:00 -0000", TEN),
        ("22 Nov 2026 11:30:00 +0130", TEN),
        (1795341600, TEN),
        (1795341600.5, TEN + timedelta(seconds=0.5)),
        (1795341600000, TEN),
        (1795341600000000, TEN),
        (1795341600000000000, TEN),
        ("1795341600", TEN),
        ("1795341600.5", TEN + timedelta(seconds=0.5)),
        ("1795341600000", TEN),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_times(value: object, moment: datetime) -> None:
    """ISO 8601 in any form, naive is UTC; epoch numbers in any unit, also as text; RFC 1123."""
    read, reason = fields.read_time(value)

    assert (read, reason) == (moment, "")
    assert read is not None
    assert read.tzinfo is not None


def test_offsets_are_kept() -> None:
    """An offset stays as the service wrote it."""
    read, _ = fields.read_time("2026-11-22T11:30:00+01:30")

    assert read is not None
    assert read.tzinfo == timezone(timedelta(minutes=90))


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "yesterday", "2026-11-22T10:00:61Z", "2026-13-01", "9999-12-31T24:00:00Z", "9" * 400, "Z", "UTC"),
        *("Mon, 99 Foo 99999999 10:00:00 GMT", "٢٠٢٦"),
        *(True, False, math.nan, math.inf, -math.inf, 1e300, 10**400, [], {}, [1795341600], DEEP),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str | float) else type(value).__name__,
)
def test_what_is_no_time(value: object) -> None:
    """Anything else is None, with a reason that repeats nothing of it."""
    read, reason = fields.read_time(value)

    assert read is None
    assert reason.startswith("expected a time, got ")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (2, 2.0),
        (2.5, 2.5),
        (0, 0.0),
        ("2.0", 2.0),
        (" 2 ", 2.0),
        ("2,5", 2.5),
        ("1e2", 100.0),
        ("PT2S", 2.0),
        ("pt2.5s", 2.5),
        ("PT1M2,5S", 62.5),
        ("PT1H", 3600.0),
        ("P1DT1S", 86_401.0),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    """A number, the text of one, or an ISO 8601 duration."""
    assert fields.read_duration(value) == (seconds, "")


@pytest.mark.parametrize(
    "value",
    [
        *("", "two", "2 s", "P", "PT", "P1Y", "PT..S", "nan", "inf", "-inf", "-1", "9" * 400, "0:02"),
        *(-1, -0.5, True, math.nan, math.inf, 10**400, [], [2], {"seconds": 2}),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_no_duration(value: object) -> None:
    """Anything else, and what is below zero, is None with a reason."""
    seconds, reason = fields.read_duration(value)

    assert seconds is None
    assert reason.startswith("expected seconds, got ")


def test_absent_members_are_no_oddity() -> None:
    """Null is None, and nothing to complain of."""
    for read in (fields.read_time, fields.read_duration, fields.read_text):
        assert read(None) == (None, "")
    assert fields.read_error(None) is None


@pytest.mark.parametrize(
    ("value", "text", "reason"),
    [("vocals", "vocals", ""), ("", None, ""), (5, None, "a number"), ({}, None, "an object"), ([], None, "a list")],
)
def test_texts(value: object, text: str | None, reason: str) -> None:
    """A text is kept as it is; an empty one counts as absent."""
    assert fields.read_text(value) == (text, reason and f"expected text, got {reason}")
    assert fields.read_kind(value) == fields.read_text(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (" \t", None),
        ("lead\r\nvocals\x1b[2J", "lead vocals"),
        ("https://cdn.example/a?signature=1", "https://cdn.example/a?…"),
        ("x" * 1000, "x" * 500 + "…"),
    ],
)
def test_a_kind_is_one_printable_line(value: str, kind: str | None) -> None:
    """As it is shown, stored, and put into names of files."""
    assert fields.read_kind(value) == (kind, "")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"code": "bad_source", "message": "Not audio."}, ("bad_source", "Not audio.")),
        ({"code": "bad_source"}, ("bad_source", "")),
        ({"code": None, "message": "No luck."}, ("internal_error", "No luck.")),
        ({"code": 500, "message": None}, ("500", "")),
        ({"code": 0, "message": "No luck."}, ("internal_error", "No luck.")),
        ({"code": 5.5, "message": "No luck."}, ("5.5", "No luck.")),
        ({"message": {"text": "no"}}, ("internal_error", "{'text': 'no'}")),
        ({"reason": "no luck"}, ("internal_error", "no luck")),
        ({"title": "", "msg": "no luck", "status": 500}, ("internal_error", "no luck")),
        ({"cause": "no luck"}, ("internal_error", "{'cause': 'no luck'}")),
        ("no luck", ("internal_error", "no luck")),
        (["one", "two", "one"], ("internal_error", "one; two")),
        ([{"code": "a", "message": "one"}, {"code": "b"}], ("a", "one; b")),
        ([None, {"code": "a"}], ("a", "a")),
        (500, ("500", "")),
        (True, ("internal_error", "")),
        (["x"] * 50, ("internal_error", "x")),
    ],
)
def test_errors(value: object, error: tuple[str, str]) -> None:
    """Why it failed may be an object with any members, a text, a list of either, or a bare code."""
    assert fields.read_error(value) == OperationError(*error)


@pytest.mark.parametrize(
    "value", [None, False, "", " ", 0, {}, [], {"code": None}, {"code": "", "message": []}, [None]]
)
def test_empty_errors(value: object) -> None:
    """Where all is empty there is no error."""
    assert fields.read_error(value) is None


A, B = {"url": "https://h/a"}, {"url": "https://h/b"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([A, B], [("https://h/a", None), ("https://h/b", None)]),
        ([A, None, {}, [], 5, B], [("https://h/a", None), ("https://h/b", None)]),
        (A, [("https://h/a", None)]),
        ({"vocals": A, "drums": B}, [("https://h/a", "vocals"), ("https://h/b", "drums")]),
        ({"vocals": {**A, "kind": "voice"}, "drums": None}, [("https://h/a", "voice")]),
        ({"items": [A, B]}, [("https://h/a", None), ("https://h/b", None)]),
        ([{"vocals": A}], [("https://h/a", "vocals")]),
        ("https://h/a", [("https://h/a", None)]),
        (["HTTPS://h/a", "b.flac"], [("HTTPS://h/a", None)]),
        ({"vocals": "https://h/a", "drums": "/b", "bass": None}, [("https://h/a", "vocals"), ("/b", "drums")]),
        (
            {"vocals": "/a.flac?s", "drums": "/b.FLAC", "preview": "/p.flac"},
            [("/a.flac?s", "vocals"), ("/b.FLAC", "drums")],
        ),
        ({"duration": 2, "vocals": "/a.flac", "drums": "/b.flac"}, [("/a.flac", "vocals"), ("/b.flac", "drums")]),
        ({"vocals": ["https://h/a"]}, [("https://h/a", "vocals")]),
        ({"links": {"href": "https://h/a"}}, [("https://h/a", None)]),
        ({"vocals": "https://h/a", "self": "https://h/c", "cover": B, "mix": 5}, []),
        ({"file": A}, [("https://h/a", None)]),
        ({"file": {"href": "https://h/a"}, "kind": "vocals", "thumbnail": B}, [("https://h/a", "vocals")]),
        ({"files": [A, B], "expires_at": "x"}, [("https://h/a", None), ("https://h/b", None)]),
        ([{"vocals": A, "output": B}], [("https://h/a", "vocals"), ("https://h/b", None)]),
        ({"duration": 1.0, "download_url": "https://h/a"}, [("https://h/a", None)]),
        ([{"url": ""}, {"url": 5}, {"url": None}], []),
        (None, []),
        (5, []),
        ("", []),
        ([[[[A]]]], []),
        (DEEP, []),
    ],
    ids=lambda value: ascii(value)[:40] if value is not DEEP else "deep",
)
def test_outputs(value: object, found: list[tuple[str, str | None]]) -> None:
    """A list, a single one, or objects by kind, nulls left out: a URL is all that an output needs."""
    assert [(one["url"], one.get("kind")) for one in fields.find_outputs(value)] == found


def test_members_around_a_file() -> None:
    """They are the output's, too."""
    (found,) = fields.find_outputs([{"audio": {"uri": "https://h/a", "duration": 2}, "duration": 1, "kind": "bass"}])
    assert found == {"url": "https://h/a", "uri": "https://h/a", "duration": 2, "kind": "bass"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("op_01KD0000000000000000000003", "op_01kd0000000000000000000003", True),
        ("01kd0000000000000000000003", "op_01kd0000000000000000000003", True),
        ("urn:soundpiece:op_01kd0000000000000000000003", "op_01kd0000000000000000000003", True),
        ("urn:x:01kd0000000000000000000003", "op_01kd0000000000000000000003", True),
        ("7a1f0c52-3b9e-4d6a-9c40-000000000000", "{7A1F0C523B9E4D6A9C40000000000000}", True),
        ("17", "17", True),
        ("117", "17", False),
        ("op_01kd0000000000000000000004", "op_01kd0000000000000000000003", False),
        ("-", "_", False),
    ],
)
def test_spellings_of_an_id(one: str, other: str, *, same: bool) -> None:
    """Case, punctuation and a prefix are spelling; anything else is another id."""
    assert fields.is_same_id(one, other) is fields.is_same_id(other, one) is same


@pytest.mark.parametrize(
    ("value", "identity"),
    [("op_1", "op_1"), ("a/b?c=d", "a/b?c=d"), (17, "17"), (0, "0"), (" op_1\n", "op_1")]
    + [(value, None) for value in (None, "", "op 1", "op_\n1", "öp", "op_\ud800", True, 5.5, [], {})],
    ids=ascii,
)
def test_ids(value: object, identity: str | None) -> None:
    """An id is opaque; one that fits into no URL and no handle counts as absent."""
    assert fields.read_id(value) == identity


@unhurried
@given(JSON | st.just(DEEP))
def test_any_value(value: Any) -> None:
    """Whatever JSON a member is: a value or None, and never an exception."""
    for read in (fields.read_time, fields.read_duration, fields.read_text):
        result, reason = read(value)
        assert result is None or reason == ""
    fields.read_error(value)
    fields.read_id(value)
    assert all(isinstance(one["url"], str) for one in fields.find_outputs(value))
    assert fields.is_empty(value) in {True, False}

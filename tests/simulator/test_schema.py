"""The words in which requests are refused, and what of them is echoed."""

import json
import math

import pytest
from helpers.simulator_bodies import BODIES, KEY, SOURCE, echo, errors
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async.simulator.schema import ABSENT, ROUTES, InvalidRequestError, check_body, check_query

IDENTITY = "op_01kd0000000000000000000001"


@pytest.mark.parametrize("route", ROUTES)
def test_accepts_each_body(route: str) -> None:
    """Each of the eight bodies of the contract is accepted, its members echoed and its defaults filled in."""
    submission = check_body(ROUTES[route], {"idempotency_key": KEY.upper(), **BODIES[route], "unlisted": 1})

    assert submission.key == KEY
    assert submission.callback_url is None
    assert "unlisted" not in submission.echo
    assert BODIES[route].items() <= submission.echo.items()
    assert set(submission.echo) == {member.name for member in ROUTES[route].members}


def test_fills_in_defaults() -> None:
    """An absent optional member is echoed as its default, the alternative that was not sent as null."""
    assert echo("create.new_sample")["loopable"] is False
    assert echo("create.remix_song")["n_variations"] == 1
    assert echo("create.remix_song", n_variations=2.0)["n_variations"] == 2
    assert echo("create.new_song")["reference"] is None
    assert echo("create.new_instrumental")["prompt"] is None


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_refuses_what_is_no_object(body: object) -> None:
    """A body that is no object is refused as a whole."""
    assert errors("create.new_fx", body) == [("model_attributes_type", "body")]


def test_reports_every_fault_at_once() -> None:
    """All faults of a body come in one answer, each with its path."""
    assert errors("create.remix_song", {"idempotency_key": "x", "source": {}, "prompt": ""}) == [
        ("uuid_parsing", "body.idempotency_key"),
        ("missing", "body.source.url"),
        ("missing", "body.lyrics"),
        ("string_too_short", "body.prompt"),
    ]


def test_words_errors_as_pydantic_does() -> None:
    """A field error has a type, a path, a message, the refused value and the bound it broke."""
    with pytest.raises(InvalidRequestError) as refusal:
        check_body(ROUTES["create.new_fx"], {"idempotency_key": KEY, "prompt": "", "duration": 1})

    assert refusal.value.errors == [
        {
            "type": "string_too_short",
            "loc": ["body", "prompt"],
            "msg": "String should have at least 1 character",
            "input": "",
            "ctx": {"min_length": 1},
        }
    ]


OTHER = {"idempotency_key": KEY, "prompt": "rain", "duration": 1}
NO_OBJECT = "Input should be a valid dictionary or object to extract fields from"
NO_URL = "Input should be a valid URL, relative URL without a base"
PRIVATE = "Value error, callback_url must not point to a private address"
BOTH = {"idempotency_key": KEY, "prompt": "rain", "reference": SOURCE}

AS_FASTAPI_WRITES_IT: list[tuple[str, object, dict[str, object]]] = [
    # what a body is refused with, as FastAPI 0.165 and Pydantic 2.14 answered models of the same members
    ("create.new_fx", [], {"type": "model_attributes_type", "loc": ["body"], "msg": NO_OBJECT, "input": []}),
    ("create.new_fx", "x", {"type": "model_attributes_type", "loc": ["body"], "msg": NO_OBJECT, "input": "x"}),
    ("create.new_fx", None, {"type": "model_attributes_type", "loc": ["body"], "msg": NO_OBJECT, "input": None}),
    ("create.new_fx", ABSENT, {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}),
    (
        "create.new_fx",
        {"idempotency_key": KEY, "prompt": "rain"},
        {
            "type": "missing",
            "loc": ["body", "duration"],
            "msg": "Field required",
            "input": {"idempotency_key": KEY, "prompt": "rain"},
        },
    ),
    (
        "create.new_fx",
        OTHER | {"prompt": ["rain"]},
        {
            "type": "string_type",
            "loc": ["body", "prompt"],
            "msg": "Input should be a valid string",
            "input": ["rain"],
        },
    ),
    (
        "create.new_fx",
        OTHER | {"prompt": None},
        {"type": "string_type", "loc": ["body", "prompt"], "msg": "Input should be a valid string", "input": None},
    ),
    (
        "create.new_fx",
        OTHER | {"duration": {}},
        {"type": "float_type", "loc": ["body", "duration"], "msg": "Input should be a valid number", "input": {}},
    ),
    (
        "create.new_fx",
        OTHER | {"duration": 0},
        {
            "type": "greater_than",
            "loc": ["body", "duration"],
            "msg": "Input should be greater than 0",
            "input": 0,
            "ctx": {"gt": 0.0},
        },
    ),
    (
        "create.new_fx",
        OTHER | {"callback_url": [1]},
        {
            "type": "url_type",
            "loc": ["body", "callback_url"],
            "msg": "URL input should be a string or URL",
            "input": [1],
        },
    ),
    (
        "create.new_fx",
        OTHER | {"callback_url": "https://localhost/"},
        {
            "type": "value_error",
            "loc": ["body", "callback_url"],
            "msg": PRIVATE,
            "input": "https://localhost/",
            "ctx": {"error": {}},
        },
    ),
    (
        "adapt.separate_stems",
        {"idempotency_key": KEY, "source": {}},
        {"type": "missing", "loc": ["body", "source", "url"], "msg": "Field required", "input": {}},
    ),
    (
        "adapt.separate_stems",
        {"idempotency_key": KEY, "source": [1]},
        {"type": "model_attributes_type", "loc": ["body", "source"], "msg": NO_OBJECT, "input": [1]},
    ),
    (
        "adapt.separate_stems",
        {"idempotency_key": KEY, "source": {"url": "nope"}},
        {
            "type": "url_parsing",
            "loc": ["body", "source", "url"],
            "msg": NO_URL,
            "input": "nope",
            "ctx": {"error": "relative URL without a base"},
        },
    ),
    (
        "create.new_instrumental",
        BOTH,
        {
            "type": "value_error",
            "loc": ["body"],
            "msg": "Value error, send only one of prompt and reference",
            "input": BOTH,
            "ctx": {"error": {}},
        },
    ),
]


@pytest.mark.parametrize(("route", "body", "entry"), AS_FASTAPI_WRITES_IT)
def test_shows_what_is_refused(route: str, body: object, entry: dict[str, object]) -> None:
    """The value at the path stands in the entry, whatever it is; of what is missing, the object it is missing from."""
    with pytest.raises(InvalidRequestError) as refusal:
        check_body(ROUTES[route], body)
    assert refusal.value.errors == [entry]


@pytest.mark.parametrize("value", [math.nan, [math.inf]])
def test_leaves_out_what_json_has_no_words_for(value: object) -> None:
    """Python reads NaN in a body; it could not be written into an answer."""
    with pytest.raises(InvalidRequestError) as refusal:
        check_body(ROUTES["create.new_fx"], OTHER | {"duration": value})
    assert [entry.keys() for entry in refusal.value.errors] == [{"type", "loc", "msg"}]


def test_names_both_bodies_to_what_is_no_object() -> None:
    """Neither of the two can have been meant."""
    assert errors("create.new_song", []) == [
        ("model_attributes_type", "body.CreateNewSongPromptRequest"),
        ("model_attributes_type", "body.CreateNewSongReferenceRequest"),
    ]


class TestUnion:
    """Of the two bodies of a song exactly one must fit."""

    LYRICS = {"idempotency_key": KEY, "lyrics": "la"}  # noqa: RUF012 - read only

    def test_names_the_alternatives_when_neither_was_sent(self) -> None:
        """With neither prompt nor reference, each path names the body it belongs to."""
        assert errors("create.new_song", self.LYRICS) == [
            ("missing", "body.CreateNewSongPromptRequest.prompt"),
            ("missing", "body.CreateNewSongReferenceRequest.reference"),
        ]

    def test_reports_the_one_that_was_sent(self) -> None:
        """A fault of the only alternative sent has the plain path of the documentation."""
        assert errors("create.new_song", self.LYRICS | {"reference": {"url": "x"}}) == [
            ("url_parsing", "body.reference.url")
        ]
        assert errors("create.new_song", self.LYRICS | {"prompt": None}) == [("string_type", "body.prompt")]

    def test_refuses_both(self) -> None:
        """Prompt and reference together are refused; a null beside a fitting one does no harm."""
        assert errors("create.new_song", self.LYRICS | {"prompt": "x", "reference": SOURCE}) == [
            ("value_error", "body")
        ]
        assert echo("create.new_song", reference=None)["prompt"] == "folk"

    def test_reports_both_when_neither_fits(self) -> None:
        """When both were sent and neither fits, both are reported under their names."""
        assert errors("create.new_song", self.LYRICS | {"prompt": "", "reference": {}}) == [
            ("string_too_short", "body.CreateNewSongPromptRequest.prompt"),
            ("missing", "body.CreateNewSongReferenceRequest.reference.url"),
        ]


def test_reads_queries() -> None:
    """A GET has an id and, when it likes, a wait, which is false by default."""
    assert check_query({"id": IDENTITY}) == (IDENTITY, False)
    assert check_query({"id": IDENTITY, "wait": "true", "other": "x"}) == (IDENTITY, True)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [("missing", ["query", "id"])]),
        ({"id": "op_1"}, [("string_pattern_mismatch", ["query", "id"])]),
        ({"id": IDENTITY + "\n"}, [("string_pattern_mismatch", ["query", "id"])]),
        ({"id": IDENTITY, "wait": "1"}, [("bool_parsing", ["query", "wait"])]),
        ({"wait": ""}, [("missing", ["query", "id"]), ("bool_parsing", ["query", "wait"])]),
    ],
)
def test_refuses_queries(query: dict[str, str], found: list[tuple[str, list[str]]]) -> None:
    """A GET without a well-formed id, or with a wait that is no boolean, is refused."""
    with pytest.raises(InvalidRequestError) as refusal:
        check_query(query)

    assert [(error["type"], error["loc"]) for error in refusal.value.errors] == found


def test_shows_what_a_query_is_refused_for() -> None:
    """Of an id that is missing there is nothing to show."""
    with pytest.raises(InvalidRequestError) as refusal:
        check_query({"wait": "junk"})

    assert refusal.value.errors == [
        {"type": "missing", "loc": ["query", "id"], "msg": "Field required", "input": None},
        {
            "type": "bool_parsing",
            "loc": ["query", "wait"],
            "msg": "Input should be a valid boolean, unable to interpret input",
            "input": "junk",
        },
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a8é\ud83c \x00:/?[", max_size=9),
    lambda inner: st.lists(inner, max_size=2),
)


@given(
    route=st.sampled_from(sorted(ROUTES)),
    changes=st.dictionaries(
        st.sampled_from(["idempotency_key", "prompt", "lyrics", "source", "duration", "n_variations", "callback_url"]),
        JSON | st.fixed_dictionaries({"url": JSON}),
    ),
)
def test_always_answers(route: str, changes: dict[str, object]) -> None:
    """Whatever a member holds, a body is either accepted or refused with errors that are JSON."""
    try:
        answer: object = dict(check_body(ROUTES[route], {"idempotency_key": KEY, **BODIES[route], **changes}).echo)
    except InvalidRequestError as refusal:
        answer = refusal.errors
    assert json.dumps(answer, allow_nan=False) not in ("[]", "{}")

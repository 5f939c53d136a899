import json
from contextlib import suppress
from typing import Any

import pytest
from helpers.contract import JSON, SAMPLE, SIGNED, SPEC, UNTIDY, answer, change, poll, submit, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core import errors, wire
from soundpiece_async._core.codec import encode_request
from soundpiece_async._core.errors import ApiError, FieldError, SoundpieceError, TransportError
from soundpiece_async._core.requests import Handle
from soundpiece_async._core.wire import ApiResponse

pytestmark = pytest.mark.usefixtures("reader")
"""With orjson and without."""

HANDLE = Handle(SAMPLE.route, SAMPLE.id)
POLL = wire.poll_request(HANDLE, wait=True)


def refuse(status: int, data: object, **headers: str) -> ApiError:
    return wire.error_from_response(answer(data, status, **headers), POLL)


STATUSES = {
    300: "ApiError",
    302: "ApiError",
    307: "ApiError",
    400: "BadRequest",
    401: "AuthenticationError",
    402: "InsufficientCredits",
    403: "AuthenticationError",
    404: "NotFound",
    405: "ApiError",
    406: "ApiError",
    409: "ApiError",
    413: "ApiError",
    415: "ApiError",
    418: "ApiError",
    422: "ValidationError",
    429: "RateLimited",
    499: "ApiError",
    500: "ServerError",
    502: "ServerError",
    503: "ServerError",
    504: "ServerError",
    599: "ServerError",
    199: "ApiError",
}
ADVICE = {
    302: "never followed: check SOUNDPIECE_BASE_URL",
    401: "check the API key (and the account's address allowlist)",
    402: "top up the account, then send the same request again",
    403: "check the API key",
    404: "check SOUNDPIECE_BASE_URL",
}


@pytest.mark.parametrize(("status", "name"), STATUSES.items())
@pytest.mark.parametrize("read", [submit, poll])
def test_statuses(read: Any, status: int, name: str) -> None:
    """Each status is its error, of exactly that class, with what was tried, which id, and what the service said."""
    with pytest.raises(ApiError, match=f"status {status}: a b c") as caught:
        read(SAMPLE, {"detail": "a b c", "more": 1}, status=status)

    error = caught.value
    assert type(error) is getattr(errors, name)
    assert (error.status, error.detail, error.body) == (status, "a b c", {"detail": "a b c", "more": 1})
    assert error.headers["content-type"] == "application/json"
    assert f"/v1/{SAMPLE.route}" in str(error)
    assert (SAMPLE.id if read is poll else SAMPLE.body["idempotency_key"]) in str(error)
    assert ADVICE.get(status, "") in str(error)


def test_examples_of_the_contract() -> None:
    """The refusals the contract shows are read as it means them."""
    shown = {
        name: next(iter(response["content"]["application/json"]["examples"].values()))["value"]
        for name, response in SPEC["components"]["responses"].items()
        if "examples" in response["content"]["application/json"]
    }

    assert refuse(401, shown["Unauthorized"]).detail == "Missing or invalid Authorization header"
    limited = refuse(429, shown["RateLimited"], retry_after="17")
    assert isinstance(limited, errors.RateLimited)
    assert limited.retry_after == 17
    assert "retry in 17 seconds" in str(limited)
    invalid = refuse(422, shown["ValidationFailed"])
    assert isinstance(invalid, errors.ValidationError)
    assert invalid.fields == (
        FieldError(("body", "prompt"), "String should have at least 1 character", "string_too_short"),
        FieldError(("body", "idempotency_key"), "Field required", "missing"),
    )
    assert "body.prompt: String should have at least 1 character (string_too_short)" in str(invalid)
    assert "body.idempotency_key: Field required (missing)" in str(invalid)


def test_retry_after() -> None:
    """The seconds to wait come from the header; the form with a date is read by the service's own clock."""
    assert getattr(refuse(429, {}), "retry_after", 0) is None
    dated = refuse(429, {}, retry_after="Sun, 22 Nov 2026 10:00:20 GMT", date="Sun, 22 Nov 2026 10:00:00 GMT")
    assert getattr(dated, "retry_after", None) == 20


def test_request_ids() -> None:
    """Whatever the service calls its request id (UNKNOWN), the message repeats it for the support."""
    error = refuse(500, {}, x_request_id="r1", soundpiece_request_id="r2", x_other="r3")

    assert ", x-request-id: r1, soundpiece-request-id: r2: " in str(error)
    assert "r3" not in str(error)
    assert error.headers["x-other"] == "r3"


@pytest.mark.parametrize(
    ("body", "parsed", "detail", "told"),
    [
        (b'{"detail":"text"}', {"detail": "text"}, "text", "status 402: text;"),
        (b'{"detail":["a",5]}', {"detail": ["a", 5]}, ["a", 5], "['a', 5]"),
        (b'{"detail":{"needed":5}}', {"detail": {"needed": 5}}, {"needed": 5}, "{'needed': 5}"),
        (b'{"detail":null}', {"detail": None}, None, "{'detail': None}"),
        (b'{"needed":5}', {"needed": 5}, None, "{'needed': 5}"),
        (b"[5]", [5], None, "status 402: [5];"),
        (b"null", None, None, "status 402: None;"),
        (
            b"<html>\n<h1>Bad\tGateway</h1></html>",
            "<html>\n<h1>Bad\tGateway</h1></html>",
            None,
            "<html> <h1>Bad Gateway</h1></html>",
        ),
        (b"", "", None, "status 402: (no text);"),
        (b"\xff\xfeoops", "\ufffd\ufffdoops", None, "oops"),
        (b'{"detail":', '{"detail":', None, '{"detail":'),
    ],
)
def test_bodies_of_refusals(body: bytes, parsed: object, detail: object, told: str) -> None:
    """Text, list, object or nothing, JSON, HTML or half of it: the error keeps it whole, the message the gist of it."""
    error = wire.error_from_response(ApiResponse(402, {}, body), POLL)

    assert (error.body, error.detail) == (parsed, detail)
    assert told in str(error)


@pytest.mark.parametrize(
    ("detail", "fields"),
    [
        (None, ()),
        ("text", ()),
        ({"loc": ["body"]}, ()),
        ([], ()),
        (["text", 5, None, ["body"]], ()),
        ([{}], (FieldError((), "", ""),)),
        (
            [{"loc": ["body", "outputs", 0, "url"], "msg": "m", "type": "t"}],
            (FieldError(("body", "outputs", 0, "url"), "m", "t"),),
        ),
        (
            [{"loc": ["query", "id"], "msg": "m", "type": "t", "input": 5, "ctx": {}, "url": "u"}],
            (FieldError(("query", "id"), "m", "t"),),
        ),
        ([{"loc": ["body", None, 1.5, {}, "x"], "msg": None, "type": 5}], (FieldError(("body", "x"), "", "5"),)),
        ([{"loc": "body", "msg": ["m"]}], (FieldError((), "['m']", ""),)),
        (["text", {"loc": ["body"], "msg": "m", "type": "t"}], (FieldError(("body",), "m", "t"),)),
    ],
)
def test_fields_of_a_422(detail: object, fields: tuple[FieldError, ...]) -> None:
    """Entries may carry more, less or other than the contract shows; the detail itself is kept as it came."""
    error = refuse(422, {"detail": detail})

    assert isinstance(error, errors.ValidationError)
    assert error.fields == fields
    assert error.detail == detail


SIGNED_TEXTS = [
    SIGNED,
    f"cannot fetch {SIGNED}",
    f'<a href="{SIGNED}">',
    SIGNED.upper(),
    "x" * 190 + SIGNED,
    "x " * 395 + SIGNED,
]


@pytest.mark.parametrize("text", SIGNED_TEXTS, ids=range(len(SIGNED_TEXTS)))
@pytest.mark.parametrize("status", [200, 400, 402, 422, 500])
def test_messages_keep_secrets(status: int, text: str) -> None:
    """No message repeats what signs a URL, wherever in an answer it stands."""
    entry = [{"loc": ["body", "source", "url"], "msg": text, "type": "url_parsing", "input": text}]
    bodies = [json.dumps(data).encode() for data in (text, {"detail": text}, {"detail": entry}, {text: text}, [text])]
    odd_ids = [json.dumps(change(SAMPLE.ready, id=identity)).encode() for identity in (text, {"url": text})]

    for body in (*bodies, *odd_ids, text.encode(), text.encode("utf-16")):
        with pytest.raises(SoundpieceError) as caught:
            wire.parse_poll_response(ApiResponse(status, {}, body), POLL, handle=HANDLE)
        assert "secret" not in repr(caught.value).lower()
        assert "secret" not in str(caught.value).lower()


@unhurried
@given(
    data=JSON | st.binary(),
    status=st.integers(100, 599),
    name=st.sampled_from(["sample", "other"]),
    inside=st.booleans(),
)
def test_any_answer(data: Any, status: int, name: str, *, inside: bool) -> None:
    """Whatever comes back, with whatever status: an operation, or one of our errors, in one printable line."""
    body = data if isinstance(data, bytes) else json.dumps({name: data} if inside else data).encode()
    came = ApiResponse(status, {"x-request-id": "r1", "retry-after": "soon"}, body)
    call = wire.submit_request(SAMPLE.request, encode_request(SAMPLE.request))
    reads = (
        lambda: wire.parse_submit_response(came, call, request=SAMPLE.request),
        lambda: wire.parse_poll_response(came, POLL, handle=HANDLE),
        lambda: wire.parse_if_final(came, POLL, handle=HANDLE),
    )
    for read in reads:
        with pytest.raises(SoundpieceError) as caught:
            read()
        assert str(caught.value).isprintable()
        assert (status >= 300 or status < 200) == isinstance(caught.value, ApiError)


@unhurried
@given(st.dictionaries(UNTIDY | st.sampled_from(["detail", "loc", "msg", "type"]), JSON), JSON)
def test_any_refusal(data: dict[str, Any], entry: Any) -> None:
    """Whatever a 422 holds, its error holds it, and its message is one short printable line."""
    for body in (data, {"detail": [data, entry]}, {"detail": [{"loc": entry, "msg": entry, "type": entry}]}):
        error = refuse(422, body)
        assert isinstance(error, errors.ValidationError)
        assert repr(error.body) == repr(body)
        assert str(error).isprintable()
        assert len(str(error)) < 700


@pytest.mark.parametrize("depth", [10, 500, 900, *range(920, 1001, 4), 5000, 100_000])
def test_depth(depth: int) -> None:
    """However deeply an answer is nested, at, below or beyond what Python can read, it is one of our errors."""
    nested = b"[" * depth + b"]" * depth
    bodies = (
        nested,
        b'{"detail":' + nested + b"}",
        b'{"sample":{"id":"op 1","status":"ready","output":%s}}' % nested,
    )

    for body in bodies:
        for status in (200, 422):
            with pytest.raises(SoundpieceError):
                wire.parse_poll_response(ApiResponse(status, {}, body), POLL, handle=HANDLE)
    members = (b'"%s":%s' % (name, nested) for name in (b"output", b"error", b"created_at", b"prompt", b"more"))
    whole = b'{"sample":{"id":"%s","status":"ready",%s}}' % (SAMPLE.id.encode(), b",".join(members))
    with suppress(TransportError):  # beyond what Python reads
        assert wire.parse_poll_response(ApiResponse(200, {}, whole), POLL, handle=HANDLE).operation.handle == HANDLE

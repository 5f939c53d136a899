import base64
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from soundpiece_async import NewSample, OperationError, SettingsError, Status, WebhookError
from soundpiece_async._core.completion import is_over
from soundpiece_async._core.requests import ROUTES
from soundpiece_async._core.signing import SKEW, read_delivery, read_secret, sign
from soundpiece_async._core.webhook_events import Delivery

# the test vector of docs/api.md#webhooks
SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
NOW = 1795341600
BODY = b'{"type":"create.new_sample.failed","data":{"id":"op_01kd0000000000000000000003","status":"failed"}}'
HEADERS = {
    "webhook-id": "msg_test_0001",
    "webhook-timestamp": "1795341600",
    "webhook-signature": "v1,wszklMCqPgAiC8WLliEJhfIMz7OvVTo+FDjtDj66d5k=",
}
KEY = bytes(range(32))
OTHER = b"another key of the account"


def make_headers(body: bytes, *, key: bytes = KEY, identity: str = "msg_1", timestamp: object = NOW) -> dict[str, str]:
    """Sign as the service does."""
    signature = sign(key, identity=identity, timestamp=str(timestamp), body=body).decode()
    return {"webhook-id": identity, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def read(
    headers: Any, body: bytes = BODY, *, keys: tuple[bytes, ...] = (KEY,), now: float = NOW, tolerance: float = 300.0
) -> Delivery:
    """Read with the settings of most tests."""
    delivery, _ = read_delivery(headers, body, keys=keys, now=now, tolerance=tolerance)
    return delivery


def read_news(payload: object) -> Delivery:
    """Read a payload that is signed well."""
    body = json.dumps(payload).encode()
    return read(make_headers(body), body)


def refuse(headers: Any, body: bytes = BODY, **details: Any) -> WebhookError:
    """Expect a refusal, and give it."""
    with pytest.raises(WebhookError) as caught:
        read(headers, body, **details)
    return caught.value


def make_sample(**changes: Any) -> dict[str, Any]:
    """An operation as a webhook brings it: bare, without an envelope."""
    return {
        "id": "op_01kd0000000000000000000003",
        "status": "ready",
        "created_at": "2026-11-22T10:00:00Z",
        "idempotency_key": "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03",
        "prompt": "rock, guitar",
        "duration": 8,
        "loopable": True,
        "output": {
            "url": "https://cdn.example/a.flac?sig=SECRET",
            "expires_at": "2026-11-22T10:15:40Z",
            "duration": 8.0,
        },
        "error": None,
        **changes,
    }


def test_the_contracts_vector() -> None:
    """The secret of the vector is the 32 bytes 0 to 31, and its signature fits."""
    assert read_secret(SECRET)[0] == KEY
    assert make_headers(BODY, identity="msg_test_0001") == HEADERS

    delivery = read(HEADERS)

    assert (delivery.id, delivery.type) == ("msg_test_0001", "create.new_sample.failed")
    assert (delivery.route, delivery.status) == ("create.new_sample", Status.FAILED)
    assert delivery.operation is not None
    assert delivery.operation.error == OperationError(code="internal_error", message="")


def test_news_of_a_ready_operation() -> None:
    """The bare object under ``data`` becomes an operation whose request is rebuilt from the echo."""
    delivery = read_news({"type": "create.new_sample.ready", "data": make_sample(), "timestamp": "whatever"})

    operation = delivery.operation
    assert operation is not None
    assert operation.request == NewSample(
        "rock, guitar", duration=8, loopable=True, idempotency_key="7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"
    )
    assert (operation.route, operation.status, operation.status.final) == (delivery.route, delivery.status, True)
    assert [output.duration for output in operation.outputs] == [8.0]
    assert "SECRET" not in repr(delivery)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route(route: str) -> None:
    """A route has a dot of its own: the type is split at the last one."""
    delivery = read_news({"type": f"{route}.ready", "data": make_sample(outputs=[])})
    assert (delivery.route, delivery.status) == (route, "ready")
    assert delivery.operation is not None


@given(
    body=st.binary(), identity=st.from_regex(r"[!-~]{1,40}", fullmatch=True), key=st.binary(min_size=24, max_size=64)
)
def test_any_standard_library_signs_for_us(body: bytes, identity: str, key: bytes) -> None:
    """What ``standardwebhooks`` signs is taken, and what we sign it takes, over any bytes that are text."""
    text = body.decode("latin-1")
    library = Webhook(f"whsec_{base64.b64encode(key).decode()}")
    now = int(time.time())
    theirs = library.sign(identity, datetime.fromtimestamp(now, tz=UTC), text)
    headers = make_headers(text.encode(), key=key, identity=identity, timestamp=now)

    assert headers["webhook-signature"] == theirs
    library.verify(text, headers, json_parse=False)


@given(at=st.integers(0, len(BODY) - 1), bit=st.integers(0, 7))
def test_a_changed_body_is_refused(at: int, bit: int) -> None:
    """One bit of the raw bytes is enough, wherever it is."""
    changed = bytearray(BODY)
    changed[at] ^= 1 << bit
    assert refuse(HEADERS, bytes(changed)).http_status == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-id": "msg_test_0002"},
        {"webhook-timestamp": "1795341601"},
        {"webhook-timestamp": "01795341600"},
        {"webhook-signature": HEADERS["webhook-signature"].lower()},
        {"webhook-signature": HEADERS["webhook-signature"][:-1]},
        {"webhook-signature": "v1," + "A" * 43 + "="},
        {"webhook-signature": HEADERS["webhook-signature"].replace("v1,", "v2,")},
        {"webhook-signature": HEADERS["webhook-signature"].replace("v1,", "v1a,")},
        {"webhook-signature": HEADERS["webhook-signature"].removeprefix("v1,")},
        {"webhook-signature": HEADERS["webhook-signature"].replace(",", " ")},
        {"webhook-signature": "v1,"},
        {"webhook-signature": " "},
    ],
)
def test_a_signature_of_something_else_is_refused(changes: Mapping[str, str]) -> None:
    """Id, timestamp and body are signed together, and only entries of version ``v1`` count: 401."""
    assert refuse({**HEADERS, **changes}).http_status == 401


def test_secrets_and_signatures_in_rotation() -> None:
    """One fitting pair suffices, whatever else is there."""
    right = HEADERS["webhook-signature"]
    other = make_headers(BODY, key=OTHER, identity="msg_test_0001")["webhook-signature"]
    both = {**HEADERS, "webhook-signature": f"v2,AAAA {other} v1,junk  {right}"}

    for keys in ((KEY,), (OTHER,), (KEY, OTHER), (OTHER, KEY), (b"retired", KEY)):
        assert read(both, keys=keys).id == "msg_test_0001"
    assert read({**HEADERS, "webhook-signature": other}, keys=(KEY, OTHER)).id == "msg_test_0001"
    assert refuse(both, keys=(b"retired",)).http_status == 401
    assert refuse(both, keys=()).http_status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {name.title(): value for name, value in HEADERS.items()},
        {**HEADERS, "content-type": "application/json", "cookie": "ä"},
        [(name.encode(), value.encode()) for name, value in HEADERS.items()],
        [*HEADERS.items(), ("x-twice", "1"), ("x-twice", "2")],
    ],
    ids=["titled", "with others", "asgi", "pairs"],
)
def test_headers_of_any_framework(headers: Any) -> None:
    """Names in any case, as a mapping or as pairs, text or bytes; other headers are ignored."""
    assert read(headers).id == "msg_test_0001"


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("value", [None, "", "a\nb", "ä", "\ud800", "１７９５３４１６００", ["v"], b"\xff"])  # noqa: RUF001 - digits, for int()
def test_headers_that_make_no_sense(name: str, value: object) -> None:
    """A header of ours that is absent, empty or not plain ASCII is junk: 400."""
    rest = {key: text for key, text in HEADERS.items() if key != name}
    error = refuse(rest if value is None else {**rest, name: value})
    assert (error.http_status, name in str(error)) == (400, True)


@pytest.mark.parametrize("timestamp", ["-1795341600", "1e9", "nan", "inf", "now", "9" * 13, "9" * 30, " ", "179534160"])
def test_timestamps_of_no_time_near_ours(timestamp: str) -> None:
    """What is no time, or one long ago or far ahead, is junk, even when it is signed."""
    assert refuse(make_headers(BODY, timestamp=timestamp)).http_status == 400


@pytest.mark.parametrize(
    "timestamp",
    [
        "1795341600000",
        "1795341600.0",
        "1795341600.123456",
        "1795341600123456789",
        "2026-11-22T10:00:00Z",
        "Sun, 22 Nov 2026 10:00:00 GMT",
    ],
)
def test_timestamps_in_other_units(timestamp: str) -> None:
    """Milliseconds, fractions and dates are read: the signature is what counts."""
    assert read(make_headers(BODY, timestamp=timestamp)).id == "msg_1"


def test_the_headers_of_svix() -> None:
    """The names of the service that the standard comes from serve as well, also beside the standard's."""
    theirs = {name.replace("webhook-", "svix-"): value for name, value in HEADERS.items()}

    assert read(theirs).id == "msg_test_0001"
    assert read({**theirs, **HEADERS}).id == "msg_test_0001"
    assert refuse({**theirs, "svix-timestamp": "1795341601"}).http_status == 401
    rest = {name: value for name, value in theirs.items() if name != "svix-id"}
    assert "webhook-id" in str(refuse(rest))


@pytest.mark.parametrize("envelope", [None, "sample", "data", "operation"])
def test_data_in_an_envelope(envelope: str | None) -> None:
    """``data`` is the object of the matching GET, which wraps it: it is read bare and wrapped."""
    data = make_sample() if envelope is None else {envelope: make_sample()}
    operation = read_news({"type": "create.new_sample.ready", "data": data}).operation

    assert operation is not None
    assert (operation.id, operation.status, len(operation.outputs)) == (make_sample()["id"], Status.READY, 1)


@pytest.mark.parametrize("kind", ["completed", "READY", "Succeeded"])
def test_other_words_for_the_end(kind: str) -> None:
    """The last part of a type is a status, and its synonyms are known."""
    delivery = read_news({"type": f"create.new_sample.{kind}", "data": make_sample(status="completed")})

    assert delivery.status is Status.READY
    assert delivery.operation is not None
    assert (delivery.operation.status, len(delivery.operation.outputs)) == (Status.READY, 1)


@pytest.mark.parametrize(
    ("ending", "changes"),
    [
        ("ready", {"status": "processing"}),
        ("ready", {"output": None}),
        ("ready", {"output": 5}),
        ("ready", {"status": 5, "output": None}),
        ("ready", {"status": "failed", "output": None}),
        ("failed", {"status": "ready"}),
        ("failed", {"status": "rendering", "output": None}),
    ],
)
def test_news_that_contradict_themselves(ending: str, changes: dict[str, Any]) -> None:
    """Type and content disagree: the operation is named, and has to be read; it wakes nobody by itself."""
    operation = read_news({"type": f"create.new_sample.{ending}", "data": make_sample(**changes)}).operation

    assert operation is not None
    assert (operation.id, operation.status, operation.outputs) == (make_sample()["id"], Status.READY, ())
    assert not is_over(operation)


def test_a_type_makes_an_end_of_an_unknown_status() -> None:
    """The type says how it ended, and the content does not contradict it: that is enough."""
    ready = read_news({"type": "create.new_sample.ready", "data": make_sample(status="archived")}).operation
    failed = {"type": "create.new_sample.failed", "data": make_sample(status="archived", output=None, error="no luck")}

    assert ready is not None
    assert is_over(ready)
    assert (operation := read_news(failed).operation) is not None
    assert (operation.status, operation.error) == (Status.FAILED, OperationError("internal_error", "no luck"))


def test_oddities_of_the_operation_are_returned() -> None:
    """What cannot be read is left out, and said, for the log."""
    body = json.dumps({"type": "create.new_sample.ready", "data": make_sample(created_at=[])}).encode()
    delivery, notes = read_delivery(make_headers(body), body, keys=[KEY], now=NOW, tolerance=300.0)

    assert delivery.operation is not None
    assert [note.about for note in notes] == ["created_at"]


def test_headers_there_twice() -> None:
    """Which of two would count is anybody's guess, so neither does: 400."""
    for name, value in HEADERS.items():
        assert refuse([*HEADERS.items(), (name.upper(), value)]).http_status == 400


@given(
    age=st.floats(-1e10, 1e10, allow_nan=False),
    tolerance=st.floats(1, 1e6) | st.just(float("inf")),
)
@example(age=300.0, tolerance=300.0)
@example(age=-300.0, tolerance=300.0)
@example(age=300.5, tolerance=300.0)
@example(age=-300.5, tolerance=300.0)
@example(age=-SKEW - 1, tolerance=float("inf"))
def test_timestamps_of_both_directions(age: float, tolerance: float) -> None:
    """Not older than the tolerance; from the future not by more than that, nor than clocks differ."""
    if -min(tolerance, SKEW) <= (NOW + age) - NOW <= tolerance:
        assert read(HEADERS, now=NOW + age, tolerance=tolerance).id == "msg_test_0001"
    else:
        assert refuse(HEADERS, now=NOW + age, tolerance=tolerance).http_status == 400


def test_a_wrong_signature_is_told_before_a_wrong_time() -> None:
    """A stranger learns nothing about the clock, and an operator is not sent to look at it."""
    assert refuse({**HEADERS, "webhook-signature": "v1,x"}, now=0).http_status == 401


@pytest.mark.parametrize(
    ("kind", "route", "status"),
    [
        ("create.new_video.ready", "create.new_video", "ready"),
        ("create.new_fx.progress", "create.new_fx", "progress"),
        ("create.new_fx.processing", "create.new_fx", "processing"),
        ("account.credits_low", "account", "credits_low"),
        ("ping", "", "ping"),
        ("", "", ""),
        ("\ud800.", "\ud800", ""),
        ("ready", "", "ready"),
    ],
)
@pytest.mark.parametrize("data", [None, 5, {"id": "x", "status": "ready"}])
def test_types_of_a_later_version(kind: str, route: str, status: str, data: object) -> None:
    """They are read, have no operation, and nobody looks at their data."""
    delivery = read_news({"type": kind, "data": data})
    assert (delivery.type, delivery.route, delivery.status, delivery.operation) == (kind, route, status, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"9" * 10_000,
        b"null",
        b'"create.new_fx.ready"',
        b"[]",
        b"{}",
        b'{"type": 5}',
        b'{"type": null, "data": {}}',
        b'{"type": "create.new_fx.ready"}',
        b'{"type": "create.new_fx.ready", "data": null}',
        b'{"type": "create.new_fx.ready", "data": []}',
        b'{"type": "create.new_fx.ready", "data": {}}',
        b'{"type": "create.new_fx.ready", "data": {"id": "op 1", "status": "ready"}}',
    ],
)
def test_signed_bodies_without_an_operation(body: bytes) -> None:
    """What is signed is accepted; a poll finds what it is about."""
    assert read(make_headers(body), body).operation is None


SAMPLE_NEWS = {"type": "create.new_sample.ready", "data": make_sample()}


@pytest.mark.parametrize(
    "kind",
    [
        "CREATE.NEW_SAMPLE.READY",
        "create:new_sample:ready",
        "create/new-sample/ready",
        "create_new_sample_ready",
        "createNewSampleReady",
        "v1.create.new_sample.ready",
        "ready: create.new_sample",
        "create.new_sample",
        "create.new_sample.generated",
        "",
        5,
    ],
)
@pytest.mark.parametrize("name", ["type", "event", "event_type"])
def test_types_in_other_words(name: str, kind: object) -> None:
    """A type may be written otherwise; one with an unknown word, or none, leaves it to the operation."""
    data = make_sample() if isinstance(kind, str) and kind else {"sample": make_sample()}
    delivery = read_news({name: kind, "data": data})

    assert delivery.route == "create.new_sample"
    assert delivery.operation is not None
    assert is_over(delivery.operation)
    assert delivery.operation.handle.id == make_sample()["id"]


@pytest.mark.parametrize(
    "payload",
    [
        [SAMPLE_NEWS],
        {"event": SAMPLE_NEWS},
        {**SAMPLE_NEWS["data"], "type": SAMPLE_NEWS["type"]},  # type: ignore[dict-item]
        {"type": SAMPLE_NEWS["type"], "sample": make_sample()},
        {"type": SAMPLE_NEWS["type"], "id": "evt_1", "payload": {"object": make_sample()}},
        {"type": SAMPLE_NEWS["type"], "id": "msg_1", "status": "sent", "data": {"operation": make_sample()}},
        {"sample": make_sample()},
    ],
)
def test_events_of_another_shape(payload: object) -> None:
    """The operation is found as in the answer to a poll, wherever the type is."""
    operation = read_news(payload).operation

    assert operation is not None
    assert is_over(operation)
    assert operation.handle.id == make_sample()["id"]


@pytest.mark.parametrize("data", [None, {"operation_id": "op_1"}, {"id": "op_1"}])
def test_an_event_that_names_its_operation_alone(data: object) -> None:
    """An id is enough to read it; the id of the event does not count."""
    news = {"type": "create.new_sample.ready", "id": "evt_1", "operation_id": "op_1", "data": data}
    operation = read_news(news).operation

    assert operation is not None
    assert (operation.id, is_over(operation)) == ("op_1", False)
    assert read_news({"type": "create.new_sample.ready", "id": "evt_1"}).operation is None
    assert read_news({"type": "create.new_sample.ready", "id": "msg_1", "status": "sent"}).operation is None


@pytest.mark.parametrize("encode", [lambda text: text.encode("latin-1"), lambda text: json.dumps(text).encode()])
def test_signed_bodies_in_an_odd_encoding(encode: Callable[[str], bytes]) -> None:
    """What is no UTF-8, or JSON in a JSON text, is read as a poll's answer is."""
    body = encode(json.dumps({"type": "create.new_sample.ready", "data": make_sample(prompt="é")}, ensure_ascii=False))
    operation = read(make_headers(body), body).operation

    assert operation is not None
    assert operation.handle.id == make_sample()["id"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("ready"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(sorted(make_sample())), inner, max_size=6)
    ),
    max_leaves=12,
)
fields = {**make_sample(), "outputs": (), "source": {}, "lyrics": "", "request": None, "raw": None, "handle": None}
members = st.fixed_dictionaries(
    {"id": st.just("op_1") | anything, "status": st.sampled_from(["ready", "failed"]) | anything},
    optional=dict.fromkeys(fields.keys() - {"id", "status"}, anything),
)
texts = st.text(st.characters(exclude_categories=())) | st.binary(max_size=60)


@given(kind=st.sampled_from([f"{route}.{end}" for route in ROUTES for end in ("ready", "failed")]), data=members)
def test_fuzzed_operations_are_read_or_left_to_polls(kind: str, data: object) -> None:
    """Whatever JSON is under ``data``: an operation of that status, or none."""
    delivery = read_news({"type": kind, "data": data})
    operation = delivery.operation
    if operation is not None:
        assert operation.status is delivery.status or (operation.status, operation.outputs) == (Status.READY, ())


@given(
    headers=st.dictionaries(st.sampled_from(sorted(HEADERS)) | texts, texts | st.sampled_from(sorted(HEADERS.values())))
    | st.lists(st.tuples(texts, texts)),
    body=st.binary() | st.just(BODY),
)
def test_fuzzed_requests_are_refused(headers: Any, body: bytes) -> None:
    """Whatever a stranger sends, short of the right signature, is a ``WebhookError``."""
    assert refuse(headers, body).http_status in (400, 401)


@given(timestamp=st.integers(0, NOW * 500), identity=st.text(st.characters(codec="utf-8")), body=st.binary())
def test_fuzzed_events_are_refused(timestamp: int, identity: str, body: bytes) -> None:
    """Nor does a right signature over arbitrary bytes lead anywhere else."""
    assert refuse(make_headers(body, timestamp=timestamp, identity=identity), body).http_status == 400


@pytest.mark.parametrize("secret", ["", " ", "whsec_", " whsec_\n", "spk_0123_4567", None, b"whsec_AAAA", 5])
def test_secrets_that_are_none(secret: Any) -> None:
    """A wrong secret, an API key or an unset variable is a wrong setting, and stays out of the message."""
    with pytest.raises(SettingsError) as caught:
        read_secret(secret)
    assert "spk_" not in str(caught.value)
    assert "0123" not in str(caught.value)


@given(key=st.binary(min_size=1, max_size=100))
def test_secrets_of_any_length(key: bytes) -> None:
    """How long a key is, is the service's affair; a lost prefix or padding is forgiven."""
    text = base64.b64encode(key).decode()
    forms = (f"whsec_{text}", text, f"whsec_{text.rstrip('=')}", f"{text}\n", text.replace("+", "-").replace("/", "_"))
    assert {read_secret(secret)[0] for secret in forms} == {key}


@pytest.mark.parametrize("secret", ["not base64!", "whsec_not base64!", "plain", "ümlaut", "whsec_" + "A" * 5])
def test_secrets_that_are_plain_text(secret: str) -> None:
    """A secret may be the text as it is, with or without its prefix: that is right which fits."""
    for key in (secret, secret.removeprefix("whsec_")):
        headers = make_headers(BODY, key=key.encode())
        assert read(headers, keys=read_secret(secret)).id == "msg_1"
    assert refuse(make_headers(BODY, key=b"other"), keys=read_secret(secret)).http_status == 401

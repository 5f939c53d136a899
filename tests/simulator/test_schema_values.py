"""Single values: which are taken, and in which words the others are refused."""

import math
import uuid
from collections.abc import Callable

import pytest
from helpers.simulator_bodies import BODIES, KEY, echo, member

from soundpiece_async.simulator.schema import (
    LONGEST,
    ROUTES,
    InvalidValueError,
    check_body,
    check_key,
    check_url,
    is_private,
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "string_type"),
        (7, "string_type"),
        ("", "string_too_short"),
        ("x" * 1025, "string_too_long"),
        ("half a pair \ud83c", "string_unicode"),
    ],
)
def test_refuses_texts(value: object, kind: str) -> None:
    """A prompt is a string of 1 to 1024 whole characters."""
    assert member("prompt", value) == [(kind, "body.prompt")]


def test_counts_code_points() -> None:
    """The bounds of a text count code points: 1024 of them are a prompt, 3000 are lyrics."""
    assert echo("create.new_sample", prompt="\U0001f3b5" * 1024)
    assert echo("create.new_song", lyrics="é" * 3000)
    assert member("lyrics", "é" * 3001, "create.new_song") == [("string_too_long", "body.lyrics")]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("long", "float_parsing"),
        ("8", "float_type"),
        (None, "float_type"),
        (True, "float_type"),
        ([8], "float_type"),
        (math.nan, "finite_number"),
        (math.inf, "finite_number"),
        (0, "greater_than"),
        (-1.5, "greater_than"),
        (LONGEST + 1, "less_than_equal"),
        (10**400, "float_type"),
    ],
)
def test_refuses_lengths(value: object, kind: str) -> None:
    """A length is a finite JSON number above 0 and within the simulator's bound."""
    assert member("duration", value) == [(kind, "body.duration")]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("2", "int_parsing"),
        (None, "int_type"),
        (True, "int_type"),
        (math.inf, "finite_number"),
        (1.5, "int_from_float"),
        (0, "greater_than_equal"),
        (4, "less_than_equal"),
    ],
)
def test_refuses_counts(value: object, kind: str) -> None:
    """The number of variations is a whole number from 1 to 3."""
    assert member("n_variations", value, "create.remix_instrumental") == [(kind, "body.n_variations")]


@pytest.mark.parametrize(
    ("value", "kind"),
    [("true", "bool_parsing"), (1, "bool_parsing"), (2.0, "bool_parsing"), (1.5, "bool_type"), (None, "bool_type")],
)
def test_refuses_booleans(value: object, kind: str) -> None:
    """Only true and false are booleans."""
    assert member("loopable", value) == [(kind, "body.loopable")]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "uuid_type"),
        ("nope", "uuid_parsing"),
        (uuid.UUID(KEY).hex, "uuid_parsing"),
        (uuid.UUID(KEY).urn, "uuid_parsing"),
        ("half a pair \ud83c", "string_unicode"),
    ],
)
def test_refuses_keys(value: object, kind: str) -> None:
    """An idempotency key is a UUID in its usual spelling."""
    assert member("idempotency_key", value) == [(kind, "body.idempotency_key")]


def reason(check: Callable[[object], object], value: str) -> object:
    """Return the reason of a refusal, the same in its message and its context."""
    with pytest.raises(InvalidValueError) as refusal:
        check(value)
    told = (refusal.value.context or {})["error"]
    assert refusal.value.message.endswith(f", {told}")
    return told


@pytest.mark.parametrize(
    ("key", "told"),
    [  # as Pydantic 2.14 answered
        ("", "invalid length: found 0"),
        ("3fa85f64", "invalid length: found 8"),
        (f"{KEY}-{KEY}", "invalid length: found 73"),
        (f"{KEY[:-1]}g", "invalid character: found `g` at 35"),
        (f" {KEY}", "invalid character: found ` ` at 0"),
        (KEY.replace("-", "", 1), "invalid group count: expected 5, found 4"),
        (f"{KEY}-", "invalid group count: expected 5, found 6"),
        (KEY[:-1], "invalid group length in group 4: expected 12, found 11"),
        ("1-2-3-4-5", "invalid group length in group 0: expected 8, found 1"),
    ],
)
def test_says_what_is_wrong_with_a_key(key: str, told: str) -> None:
    """The first fault is named, and where it is."""
    assert reason(check_key, key) == told


@pytest.mark.parametrize(
    ("url", "told"),
    [  # as Pydantic 2.14 answered
        ("", "input is empty"),
        ("mix.wav", "relative URL without a base"),
        ("//host/x", "relative URL without a base"),
        ("https://", "empty host"),
        ("https://ho st/x", "invalid international domain name"),
        ("https://host]/", "invalid international domain name"),
        ("https://[::1/x", "invalid IPv6 address"),
        ("https://host:port/", "invalid port number"),
        ("https://host:65536/", "invalid port number"),
    ],
)
def test_says_what_is_wrong_with_a_url(url: str, told: str) -> None:
    """The part of it that cannot be."""
    assert reason(check_url, url) == told


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (5, "url_type"),
        ("", "url_parsing"),
        ("mix.wav", "url_parsing"),
        ("https://", "url_parsing"),
        ("https://ho st/x", "url_parsing"),
        ("https://host:port/", "url_parsing"),
        ("https://[::1/x", "url_parsing"),
        ("https://host/\ud83c", "string_unicode"),
        ("ftp://host/x", "url_scheme"),
        ("mailto:someone@host", "url_scheme"),
    ],
)
def test_refuses_sources(url: object, kind: str) -> None:
    """A source is an absolute http or https URL."""
    assert member("source", {"url": url}, "adapt.separate_stems") == [(kind, "body.source.url")]
    assert member("source", url, "adapt.separate_stems") == [("model_attributes_type", "body.source")]


@pytest.mark.parametrize(
    ("callback", "kind"),
    [
        (5, "url_type"),
        ("", "url_parsing"),
        ("https://host.example/" + "x" * 2048, "url_too_long"),
        ("http://host.example/", "url_scheme"),
        ("https://localhost/", "value_error"),
        ("https://127.0.0.1/", "value_error"),
        ("https://10.1.2.3/", "value_error"),
        ("https://[::1]/", "value_error"),
        ("https://db.internal/", "value_error"),
    ],
)
def test_refuses_callbacks(callback: object, kind: str) -> None:
    """A callback is a public https URL of 1 to 2048 characters."""
    assert member("callback_url", callback) == [(kind, "body.callback_url")]


def test_allows_private_callbacks_on_demand() -> None:
    """Private hosts and http are callbacks when that is asked for; public https URLs and null always are."""
    body = {"idempotency_key": KEY, **BODIES["create.new_fx"]}
    route = ROUTES["create.new_fx"]

    local = check_body(route, body | {"callback_url": "http://127.0.0.1:9/x"}, private_callbacks=True)

    assert local.callback_url == "http://127.0.0.1:9/x"
    assert check_body(route, body | {"callback_url": "https://8.8.8.8/x"}).callback_url == "https://8.8.8.8/x"
    assert check_body(route, body | {"callback_url": None}).callback_url is None


@pytest.mark.parametrize(
    ("host", "private"),
    [("example.com", False), ("8.8.8.8", False), ("192.168.0.1", True), ("app", True), ("x.local", True)],
)
def test_tells_private_hosts(host: str, *, private: bool) -> None:
    """Addresses that are not global, and names that public DNS does not have, are private."""
    assert is_private(host) is private

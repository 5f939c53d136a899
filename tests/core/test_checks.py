import math
from typing import Any
from uuid import UUID

import attrs
import pytest
from helpers.contract import EXAMPLES, SIGNED, Example, attempt, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.checks import check_request, validate
from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.requests import (
    RULES,
    AudioSource,
    AutoCutDown,
    Handle,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    Output,
    RemixInstrumental,
    RemixSong,
    Request,
    SeparateStems,
)

URL = "https://media.example.com/song.wav"
VALID: tuple[Request, ...] = (
    NewSong("la", prompt="pop"),
    NewSong("la", reference=URL),
    NewInstrumental("pop"),
    NewInstrumental(reference=URL),
    NewSample("pop", duration=8),
    NewFx("thud", duration=2.5),
    RemixSong(URL, lyrics="la", prompt="pop"),
    RemixInstrumental(URL),
    SeparateStems(URL),
    AutoCutDown(URL, target_duration=30),
)


def refuse(request: Request, field: str) -> str:
    """Return why a request is refused, after checking the field that it names and that the message helps."""
    with pytest.raises(InvalidRequest) as caught:
        validate(request)

    assert caught.value.field == field
    assert str(caught.value).startswith(f"{request.route}: ")
    assert field in str(caught.value)
    assert str(caught.value).endswith("; nothing was sent")
    return str(caught.value)


def takers(name: str) -> list[Request]:
    """Every valid request that has this member set."""
    return [request for request in VALID if getattr(request, name, None) is not None]


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_contracts_examples_are_valid(example: Example) -> None:
    """What the contract shows as a request passes."""
    validate(example.request)


@pytest.mark.parametrize("request_", VALID, ids=lambda request: request.route)
def test_the_least_is_valid(request_: Request) -> None:
    """A request with nothing but what it needs passes."""
    validate(request_)


@attrs.frozen(kw_only=True)
class Moody(NewFx):
    """A request with a member of the user's."""

    mood: str = "calm"


class Nameless(Request):
    """A request of no route."""


def test_a_subclass_with_a_member_of_its_own() -> None:
    """It is refused by name, as all that the service does not know, and not by a KeyError (F8)."""
    with pytest.raises(InvalidRequest, match=r"mood is not a field of the API; Settings\(validate=False\)") as it:
        validate(Moody(prompt="door", duration=1))
    assert it.value.field == "mood"
    with pytest.raises(InvalidRequest, match="not a request: Nameless"):
        check_request(Nameless())


def test_every_member_has_a_rule() -> None:
    """There is a rule for each member of each request, and for no other."""
    assert set(RULES) == {member.name for request in VALID for member in attrs.fields(type(request))}


@pytest.mark.parametrize(("name", "most"), [("prompt", 1024), ("lyrics", 3000)])
@pytest.mark.parametrize("letter", ["a", "é", "\N{MUSICAL SYMBOL G CLEF}", "\n"], ids=ascii)
def test_lengths_of_text(name: str, most: int, letter: str) -> None:
    """Text has 1 to so many characters, counted as code points whatever their bytes."""
    for request in takers(name):
        validate(attrs.evolve(request, **{name: letter}))
        validate(attrs.evolve(request, **{name: letter * most}))
        assert f"must have 1 to {most}" in refuse(attrs.evolve(request, **{name: letter * (most + 1)}), name)
        assert "has 0 characters" in refuse(attrs.evolve(request, **{name: ""}), name)


@pytest.mark.parametrize("name", ["prompt", "lyrics"])
@pytest.mark.parametrize("wrong", [5, b"pop", ["pop"], True, {}], ids=repr)
def test_text_is_text(name: str, wrong: object) -> None:
    """Nothing but text is taken for text."""
    for request in takers(name):
        assert f"not {type(wrong).__name__}" in refuse(attrs.evolve(request, **{name: wrong}), name)


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (NewSong(None, prompt="pop"), "lyrics"),
        (NewSample(None, duration=1), "prompt"),
        (NewFx("thud", duration=None), "duration"),
        (RemixSong(URL, lyrics="la", prompt=None), "prompt"),
        (SeparateStems(None), "source"),
        (AutoCutDown(URL, target_duration=None), "target_duration"),
        (RemixInstrumental(URL, n_variations=None), "n_variations"),
        (NewSample("pop", duration=1, loopable=None), "loopable"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.route,
)
def test_required_members_are_not_none(request_: Request, name: str) -> None:
    """None stands for a member left out, so only a member that may be left out may be None."""
    refuse(request_, name)


@pytest.mark.parametrize("kind", [NewSong, NewInstrumental])
def test_prompt_or_reference(kind: Any) -> None:
    """A song and an instrumental take exactly one of prompt and reference, not both, not neither."""
    lyrics = {"lyrics": "la"} if kind is NewSong else {}

    assert "is missing: pass either" in refuse(kind(**lyrics), "prompt")
    assert "not both" in refuse(kind(**lyrics, prompt="pop", reference=URL), "reference")


@pytest.mark.parametrize("name", ["duration", "target_duration"])
@pytest.mark.parametrize(
    "right",
    [1, 0.001, 5e-324, 30, 86400.5, 1e308, 10**400],
    ids=lambda value: f"{value:.9}"[:9] if isinstance(value, float) else str(value)[:9],
)
def test_seconds(name: str, right: float) -> None:
    """Any finite number above 0 passes: the range the service accepts is UNKNOWN."""
    for request in takers(name):
        validate(attrs.evolve(request, **{name: right}))


@pytest.mark.parametrize("name", ["duration", "target_duration"])
@pytest.mark.parametrize(
    "wrong", [0, -1, 0.0, -0.0, -5e-324, math.nan, math.inf, -math.inf, -(10**400)], ids=lambda value: str(value)[:9]
)
def test_seconds_that_can_never_be(name: str, wrong: float) -> None:
    """Zero, less, and what is no number of seconds at all is refused."""
    for request in takers(name):
        assert "must be a number of seconds above 0" in refuse(attrs.evolve(request, **{name: wrong}), name)


@pytest.mark.parametrize("name", ["duration", "target_duration"])
@pytest.mark.parametrize("wrong", [True, False, "8", b"8", [8], 8j], ids=repr)
def test_seconds_are_numbers(name: str, wrong: object) -> None:
    """A bool is no number of seconds, though Python says so, and neither is text."""
    for request in takers(name):
        assert type(wrong).__name__ in refuse(attrs.evolve(request, **{name: wrong}), name)


@pytest.mark.parametrize("right", [1, 2, 3])
def test_variations(right: int) -> None:
    """A remix has 1 to 3 variations."""
    for request in takers("n_variations"):
        validate(attrs.evolve(request, n_variations=right))


@pytest.mark.parametrize("wrong", [0, 4, -1, 1.0, True, "2", math.nan])
def test_variations_are_few_and_whole(wrong: object) -> None:
    """No other number, and nothing that is no whole number."""
    assert len(takers("n_variations")) == 2
    for request in takers("n_variations"):
        assert "from 1 to 3" in refuse(attrs.evolve(request, n_variations=wrong), "n_variations")


@pytest.mark.parametrize("wrong", [0, 1, "true", 1.0])
def test_loopable_is_a_bool(wrong: object) -> None:
    """True and False, and nothing that is merely like them."""
    validate(NewSample("pop", duration=1, loopable=True))
    assert "True or False" in refuse(NewSample("pop", duration=1, loopable=wrong), "loopable")


@pytest.mark.parametrize("name", ["source", "reference"])
@pytest.mark.parametrize(
    "right",
    [
        URL,
        "http://media.example.com/song.wav",
        "HTTPS://MEDIA.EXAMPLE.COM/",
        "https://[2001:db8::1]:8443/a.wav",
        "https://media.example.com/" + "x" * 9000,
        AudioSource(URL),
        Output(url=SIGNED, handle=Handle("create.new_song", "op_1")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_sources(name: str, right: object) -> None:
    """Any http(s) URL passes, as text, as an AudioSource or as an Output; how long it may be is UNKNOWN."""
    for request in takers(name):
        validate(attrs.evolve(request, **{name: right}))


@pytest.mark.parametrize("name", ["source", "reference"])
@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "song.wav",
        "/music/song.wav",
        "file:///music/song.wav",
        "ftp://media.example.com/song.wav",
        "https://",
        "https:///song.wav",
        "https://user@/song.wav",
        "http://[",
        "https://[::1/a.wav",
        "https://[not-ip]/a.wav",
        AudioSource("song.wav"),
        AudioSource(None),
        5,
        URL.encode(),
        {"url": URL},
    ],
    ids=repr,
)
def test_what_is_no_source(name: str, wrong: object) -> None:
    """A path, another scheme, a URL without a host or one that cannot be read is refused, and so is another object."""
    for request in takers(name):
        refuse(attrs.evolve(request, **{name: wrong}), name)


def test_refusals_keep_secrets() -> None:
    """A URL that is refused may be signed, so the message does not repeat it."""
    wrong = SIGNED.replace("https", "gopher")

    assert "SECRET" not in refuse(SeparateStems(wrong), "source")
    assert "SECRET" not in refuse(NewFx("thud", duration=1, callback_url=wrong), "callback_url")


def callback(length: int) -> str:
    return "https://hooks.example.com/".ljust(length, "x")


@pytest.mark.parametrize("right", [callback(2048), callback(30), "https://h/?token=1", None])
def test_callbacks(right: str | None) -> None:
    """A callback is an https URL of at most 2048 characters, or left out."""
    for request in VALID:
        validate(attrs.evolve(request, callback_url=right))


@pytest.mark.parametrize(
    "wrong",
    [callback(2049), "", "http://hooks.example.com/", "hooks.example.com", "https://", "https://[", 5, b"https://h/"],
)
def test_callbacks_the_service_would_not_call(wrong: object) -> None:
    """Plain http, no host, too long or no URL: the service calls none of them."""
    for request in VALID:
        refuse(attrs.evolve(request, callback_url=wrong), "callback_url")


@pytest.mark.parametrize(
    "right", [UUID(int=0), "7A1F0C52-3B9E-4D6A-9C40-5E2D8B7F1A04", "7a1f0c523b9e4d6a9c405e2d8b7f1a04"]
)
def test_keys(right: str) -> None:
    """Any UUID is a key, of whatever version (which one is UNKNOWN), in any case."""
    validate(NewFx("thud", duration=1, idempotency_key=right))


@pytest.mark.parametrize("wrong", ["", "order-17", "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a0", None, 17])
def test_keys_are_uuids(wrong: object) -> None:
    """Nothing else is: an order number must be made into a UUID by the caller."""
    for request in VALID:
        assert "must be a UUID" in refuse(attrs.evolve(request, idempotency_key=wrong), "idempotency_key")


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.integers())
    | st.builds(AudioSource, st.text())
)


@unhurried
@given(st.data())
def test_any_value_passes_or_is_refused(data: st.DataObject) -> None:
    """Whatever stands in a member, the request passes or is refused for that member (or for lack of the other)."""
    request = data.draw(st.sampled_from(VALID))
    name = data.draw(st.sampled_from([member.name for member in attrs.fields(type(request))]))
    changed = attrs.evolve(request, **{name: data.draw(ANYTHING)})
    refusal = attempt(lambda: validate(changed))

    if refusal is not None:
        assert isinstance(refusal, InvalidRequest)
        assert refusal.field in {name, "prompt", "reference"}

from collections.abc import Callable
from uuid import UUID

import attrs
import pytest
from helpers.contract import SIGNED, SPEC, Example, every_route

from soundpiece_async._core.requests import (
    ROUTES,
    AudioSource,
    Handle,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    Output,
    Request,
)

OWN_MEMBERS = {
    "create.new_song": ("lyrics", "prompt", "reference"),
    "create.new_instrumental": ("prompt", "reference"),
    "create.new_sample": ("prompt", "duration", "loopable"),
    "create.new_fx": ("prompt", "duration"),
    "create.remix_song": ("source", "lyrics", "prompt", "n_variations"),
    "create.remix_instrumental": ("source", "n_variations"),
    "adapt.separate_stems": ("source",),
    "adapt.auto_cut_down": ("source", "target_duration"),
}
POSITIONAL = {
    "create.new_song": "lyrics",
    "create.new_instrumental": "prompt",
    "create.new_sample": "prompt",
    "create.new_fx": "prompt",
    "create.remix_song": "source",
    "create.remix_instrumental": "source",
    "adapt.separate_stems": "source",
    "adapt.auto_cut_down": "source",
}
LEAVES_OUT = {"loopable": False, "n_variations": 1, "prompt": None, "reference": None, "callback_url": None}
SIGNED_SOURCES = [SIGNED, AudioSource(SIGNED), Output(url=SIGNED, handle=Handle("create.new_song", "op_1"))]


def test_routes() -> None:
    """The eight routes of the contract, and no other, each with a class of its own."""
    assert [f"/v1/{route}" for route in ROUTES] == list(SPEC["paths"])
    assert all(kind.route == route for route, kind in ROUTES.items())
    assert len(set(ROUTES.values())) == len(ROUTES) == 8


@every_route
def test_members(example: Example) -> None:
    """A request has the members of docs/api.md#requests, the shared ones first; every default is the documented one."""
    members = attrs.fields(ROUTES[example.route])

    assert tuple(member.name for member in members) == (
        "idempotency_key",
        "callback_url",
        *OWN_MEMBERS[example.route],
    )
    for member in members[2:]:
        required = member.default is attrs.NOTHING
        assert required or member.default == LEAVES_OUT[member.name], member.name


@every_route
def test_unlisted_members(example: Example) -> None:
    """A member the contract does not list is a mistake of the caller's, seen at once."""
    with pytest.raises(TypeError):
        attrs.evolve(example.request, seed=1)


@every_route
def test_envelopes(example: Example) -> None:
    """Each route knows the name its operation goes by in an answer."""
    assert ROUTES[example.route].envelope == example.envelope


@every_route
def test_keyword_only(example: Example) -> None:
    """Only one obvious member may go without its name; the shared ones never do."""
    by_position = [member.name for member in attrs.fields(type(example.request)) if not member.kw_only]

    assert by_position == [POSITIONAL[example.route]]


@every_route
def test_frozen(example: Example) -> None:
    """A request cannot change after it was made: its body goes out once and must stay true."""
    request = example.request

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request.callback_url = None
    assert hash(request) == hash(example.request)
    assert request == example.request


def test_key() -> None:
    """Each object gets a random UUID of its own, made once."""
    one, other = NewFx("thud", duration=1), NewFx("thud", duration=1)

    assert UUID(one.idempotency_key).version == 4
    assert one.idempotency_key == one.idempotency_key != other.idempotency_key
    assert one != other


def test_key_of_the_caller() -> None:
    """A caller's key is kept, as text, also when it comes as a UUID object; copies keep it."""
    key = UUID("7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a04")
    request = NewFx("thud", duration=1, idempotency_key=key)

    assert request.idempotency_key == str(key)
    assert attrs.evolve(request, prompt="bang").idempotency_key == str(key)


def test_constructors_never_refuse() -> None:
    """What makes no sense is refused at submit, never in a constructor: the service may loosen its rules."""
    request = NewSample("", duration=-1, loopable="no", callback_url=5, idempotency_key="")

    assert (request.prompt, request.duration, request.callback_url) == ("", -1, 5)
    assert NewInstrumental().prompt is None


@pytest.mark.parametrize("source", SIGNED_SOURCES, ids=["text", "AudioSource", "Output"])
@pytest.mark.parametrize("name", ["source", "reference"])
def test_sources_keep_their_secret(name: str, source: str | AudioSource | Output) -> None:
    """The repr of a request shows where a source is, and not what signs it."""
    takers = [kind for kind in ROUTES.values() if name in attrs.fields_dict(kind)]
    needed = {"lyrics": "la", "prompt": "pop", "target_duration": 3.0}

    for kind in takers:
        members = {member: value for member, value in needed.items() if member in attrs.fields_dict(kind)}
        shown = repr(kind(**members, **{name: source}))
        assert "SECRET" not in shown
        assert "word" not in shown
        assert "https://cdn.example/a/b.flac" in shown
    assert len(takers) == {"source": 4, "reference": 2}[name]


class ForeignUrl:
    """A URL object of another library, as users pass by mistake."""

    def __repr__(self) -> str:
        return f"ForeignUrl({SIGNED!r})"


@pytest.mark.parametrize("wrong", [ForeignUrl(), SIGNED.encode(), {"url": SIGNED}], ids=["object", "bytes", "dict"])
@pytest.mark.parametrize(
    "make",
    [
        lambda wrong: NewSong("la", reference=wrong),
        lambda wrong: NewSong("la", reference=AudioSource(wrong)),
        lambda wrong: NewSong("la", prompt="pop", callback_url=wrong),
    ],
    ids=["reference", "AudioSource", "callback_url"],
)
def test_foreign_sources_keep_their_secret(make: Callable[[object], Request], wrong: object) -> None:
    """What is no URL of ours is shown by its type only, for it may hold one."""
    shown = repr(make(wrong))

    assert "SECRET" not in shown
    assert f"<{type(wrong).__name__}>" in shown


def test_callback_keeps_its_secret() -> None:
    """A callback URL may carry a token in its query, which the repr leaves out."""
    shown = repr(NewFx("thud", duration=1, callback_url=SIGNED))

    assert "callback_url='https://cdn.example/a/b.flac?…'" in shown
    assert "callback_url=None" in repr(NewFx("thud", duration=1))

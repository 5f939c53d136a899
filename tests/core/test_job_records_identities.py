import copy
import pickle
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
from helpers.contract import Example, every_route
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.job_records import digest
from soundpiece_async._core.requests import (
    AudioSource,
    AutoCutDown,
    GeneratedKey,
    Handle,
    NewFx,
    NewInstrumental,
    NewSample,
    Output,
    RemixInstrumental,
    Request,
    SeparateStems,
    explicit_key,
)

URL = "https://media.example.com/mix.wav"
KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"


def fx(**changes: Any) -> NewFx:
    return NewFx(**{"prompt": "door", "duration": 2.5, **changes})


def test_a_digest_is_the_same_for_ever() -> None:
    """Journals outlive processes and versions, so these bytes may never change."""
    assert digest(fx()).hex() == "9d634f6c0dc849eb21a100f791e6a6a3"
    assert digest(RemixInstrumental(URL, n_variations=2)).hex() == "838b600bf03b8eb9498e90d4eb82afac"


@every_route
def test_the_key_is_no_part_of_the_content(example: Example) -> None:
    """Two objects of one content have one digest, whatever their keys."""
    assert digest(attrs.evolve(example.request, idempotency_key=KEY)) == digest(example.request)


@every_route
def test_every_other_member_is_part_of_the_content(example: Example) -> None:
    """An edited line is a new piece, whichever member was edited."""
    for member in attrs.fields(type(example.request)):
        if member.name == "idempotency_key":
            continue
        change: dict[str, Any] = {member.name: ["something else"]}
        assert digest(attrs.evolve(example.request, **change)) != digest(example.request), member.name


def test_the_route_is_part_of_the_content() -> None:
    """The same members mean something else on another route."""
    assert digest(NewSample("door", duration=2.5)) != digest(fx())


def test_members_at_their_defaults_count_as_absent() -> None:
    """A later version may have more members; pieces of this one must still be found."""
    assert digest(NewSample("a", duration=1, loopable=False)) == digest(NewSample("a", duration=1))
    assert digest(RemixInstrumental(URL, n_variations=1.0)) == digest(RemixInstrumental(URL))  # type: ignore[arg-type]
    # unvalidated, true is not 1
    assert digest(RemixInstrumental(URL, n_variations=True)) != digest(RemixInstrumental(URL))


def test_numbers_are_compared_as_json_values() -> None:
    """2 and 2.0 are the same number, and so the same piece."""
    assert digest(fx(duration=2)) == digest(fx(duration=2.0))
    assert digest(fx(duration=2)) != digest(fx(duration=2.5))


def test_a_source_counts_by_what_it_is() -> None:
    """An output counts by its operation and number, because its URL is signed afresh each time; a URL by itself."""
    first = Output(url=f"{URL}?sig=1", handle=Handle("create.new_song", "op_1"), index=1)

    assert digest(SeparateStems(first)) == digest(SeparateStems(attrs.evolve(first, url=f"{URL}?sig=2")))
    assert digest(SeparateStems(first)) != digest(SeparateStems(attrs.evolve(first, index=0)))
    assert digest(SeparateStems(URL)) == digest(SeparateStems(AudioSource(URL)))
    assert digest(SeparateStems(URL)) != digest(SeparateStems(f"{URL}?sig=1"))


@pytest.mark.parametrize("junk", [object(), {1, 2}, {"a": b"b"}])
def test_what_has_no_json_form_has_no_digest(junk: object) -> None:
    """It could not be sent either, and the member at fault is named."""
    with pytest.raises(InvalidRequest) as caught:
        digest(fx(prompt=junk))
    assert caught.value.field == "prompt"


@given(st.text(), st.text(), st.floats(), st.floats())
def test_digests_are_equal_exactly_when_contents_are(prompt: str, other: str, duration: float, longer: float) -> None:
    """Whatever text and number: no two contents share a digest, and equal ones always do."""
    one, two = NewFx(prompt, duration=duration), NewFx(other, duration=longer)
    same = prompt == other and (duration == longer or (duration != duration and longer != longer))  # noqa: PLR0124 - NaN

    assert (digest(one) == digest(two)) == same


def test_a_made_key_is_told_from_a_given_one() -> None:
    """Only a key that was given is an identity by itself."""
    made = fx()

    assert explicit_key(made) is None
    assert explicit_key(fx(idempotency_key=KEY)) == KEY
    assert explicit_key(fx(idempotency_key=UUID(KEY))) == KEY
    assert explicit_key(fx(idempotency_key=str(made.idempotency_key))) == made.idempotency_key


@pytest.mark.parametrize("carry", [copy.copy, copy.deepcopy, attrs.evolve, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301 - our own
def test_a_made_key_stays_one(carry: Any) -> None:
    """Copied, pickled or evolved, a request still has a key that nobody gave it."""
    request = NewInstrumental("calm")
    carried: Request = carry(request)

    assert carried == request
    assert explicit_key(carried) is None


def test_a_made_key_is_text() -> None:
    """Nobody who does not ask sees the difference: it is a UUID as text, equal to that and with that hash."""
    key = AutoCutDown(URL, target_duration=3).idempotency_key

    assert UUID(key).version == 4
    assert (key, hash(key), f"{key}") == (str(key), hash(str(key)), str(key))
    assert repr(GeneratedKey(uuid4())).startswith("'")

import random

import attrs
import pytest
from helpers.contract import SIGNED, STEMS, decode_operation, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.operations import match_outputs
from soundpiece_async._core.requests import ROUTES, Handle, Output

HANDLE = Handle("adapt.separate_stems", "op_01kd0000000000000000000007")

HANDLES = st.builds(
    Handle,
    st.sampled_from(tuple(ROUTES)) | st.from_regex(r"[a-z_]{1,9}\.[a-z_]{1,9}", fullmatch=True),
    st.from_regex(r"op_[0-9a-z]{26}", fullmatch=True)
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
)


def make(path: str, *, kind: str | None = None, duration: float | None = None, index: int = 0, sig: int = 0) -> Output:
    return Output(url=f"https://cdn.example/{path}?sig={sig}", kind=kind, duration=duration, handle=HANDLE, index=index)


def number(*outputs: Output) -> tuple[Output, ...]:
    return tuple(attrs.evolve(output, index=index) for index, output in enumerate(outputs))


def numbers(outputs: tuple[Output, ...]) -> dict[str, int]:
    """Each file's number, by the path that names it."""
    return {output.path: output.index for output in outputs}


@unhurried
@given(HANDLES)
def test_handles_round_trip(handle: Handle) -> None:
    """What str(handle) wrote, Handle.parse reads, so that a queue or a database can keep it."""
    assert Handle.parse(str(handle)) == handle
    assert str(handle) == f"{handle.route}/{handle.id}"


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "/",
        "op_01kd0000000000000000000001",
        "create.new_song",
        "create.new_song/",
        "new_song/op_1",
        "create.new_song/op 1",
        "create.new_song/op_1\n",
        " create.new_song/op_1",
        "Create.New/op_1",
        "../v1/create.new_song/op_1",
        "create.new_song/öp",
    ],
)
def test_junk_is_no_handle(junk: str) -> None:
    """Anything else is a ValueError that says how a handle reads."""
    with pytest.raises(ValueError, match="expected <route>/<operation id>"):
        Handle.parse(junk)


@unhurried
@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text makes anything but a handle or a ValueError."""
    try:
        handle = Handle.parse(text)
    except ValueError:
        return
    assert str(handle) == text


def test_refused_handles_keep_secrets() -> None:
    """A signed URL or a whole file passed as a handle by mistake is not repeated in the message."""
    with pytest.raises(ValueError, match="invalid handle") as signed:
        Handle.parse(SIGNED)
    with pytest.raises(ValueError, match="invalid handle") as long:
        Handle.parse("x" * 100_000)

    assert "SECRET" not in str(signed.value)
    assert len(str(long.value)) < 200


def test_output() -> None:
    """An output knows its URL's path, which stays when it is signed afresh; its query is not in the repr."""
    output = Output(url=SIGNED, handle=HANDLE)

    assert output.path == "/a/b.flac"
    assert "SECRET" not in repr(output)
    assert (output.expires_at, output.duration, output.kind, output.index) == (None, None, None, 0)


def test_path_of_a_url_that_cannot_be_read() -> None:
    """A URL nobody can read stands for itself, and breaks neither the repr nor the numbering."""
    broken = Output(url="http://[", handle=HANDLE)

    assert broken.path == "http://["
    assert repr(broken)
    assert match_outputs([broken], [broken]) == (broken,)


def test_numbers_follow_the_path() -> None:
    """Files signed afresh, in another order, keep their numbers by their URL's path."""
    known = number(make("a"), make("b"), make("c"))
    fresh = number(make("c", sig=1), make("a", sig=1), make("b", sig=1))

    again = match_outputs(fresh, known)

    assert [output.path for output in again] == ["/a", "/b", "/c"]
    assert [output.index for output in again] == [0, 1, 2]
    assert all(output.url.endswith("?sig=1") for output in again)


def test_numbers_follow_the_kind() -> None:
    """Stems whose paths changed keep their numbers by their kind, equal lengths notwithstanding."""
    known = number(*(make(kind, kind=kind, duration=187.5) for kind in ("vocals", "drums", "bass", "other")))
    fresh = number(*(make(f"new-{kind}", kind=kind, duration=187.5) for kind in ("other", "bass", "vocals", "drums")))

    assert [output.kind for output in match_outputs(fresh, known)] == ["vocals", "drums", "bass", "other"]


def test_numbers_follow_the_duration() -> None:
    """Files with neither path nor kind in common keep their numbers by their length, where it is their own."""
    known = number(make("a", duration=10), make("b", duration=20), make("c", duration=30))
    fresh = number(make("z", duration=30), make("y", duration=20), make("x", duration=10))

    assert numbers(match_outputs(fresh, known)) == {"/x": 0, "/y": 1, "/z": 2}


def test_numbers_follow_the_position_at_last() -> None:
    """Files with equal lengths, or none, go by position."""
    known = number(make("a", duration=10), make("b", duration=10), make("c"), make("d"))
    fresh = number(make("w", duration=10), make("x", duration=10), make("y"), make("z"))

    assert numbers(match_outputs(fresh, known)) == {"/w": 0, "/x": 1, "/y": 2, "/z": 3}


def test_the_path_goes_before_all_else() -> None:
    """A file that is gone does not take, by its length, the place of one that is still there by its path."""
    known = number(make("gone", duration=10), make("here", duration=10))

    assert numbers(match_outputs(number(make("here", duration=10)), known)) == {"/here": 1}


def test_the_path_goes_before_the_kind() -> None:
    """Files whose kinds were mixed up, and put right, are still the same files."""
    known = number(make("a", kind="vocals"), make("b", kind="drums"))

    assert numbers(match_outputs(number(make("b", kind="vocals"), make("a", kind="drums")), known)) == {
        "/a": 0,
        "/b": 1,
    }


def test_twins_are_not_told_apart_by_length() -> None:
    """Two known files of one length leave the choice to the position, not to whichever is asked first."""
    known = number(make("a", duration=10), make("b", duration=20), make("c", duration=10))
    fresh = number(make("x", duration=20), make("y"), make("z", duration=10))

    assert numbers(match_outputs(fresh, known)) == {"/x": 1, "/y": 0, "/z": 2}


def test_one_kind_is_never_taken_for_another() -> None:
    """A stem of a new kind gets a number of its own: it must not be saved, or remixed, in the place of another."""
    known = number(make("v", kind="vocals", duration=9), make("d", kind="drums", duration=9))
    fresh = number(make("g", kind="guitar", duration=9), make("v", kind="vocals", duration=9))

    assert numbers(match_outputs(fresh, known)) == {"/v": 0, "/g": 2}


def test_a_kind_that_becomes_known() -> None:
    """A kind that only one of the two answers names does not keep a file from its number."""
    known = number(make("a"), make("b", kind="drums"))
    fresh = number(make("x", kind="vocals"), make("y"))

    assert numbers(match_outputs(fresh, known)) == {"/x": 0, "/y": 1}


def test_fewer_and_more() -> None:
    """A missing file leaves its number unused; new ones are numbered after all that were ever known."""
    known = number(make("a"), make("b"), make("c"))

    assert numbers(match_outputs([make("c"), make("a")], known)) == {"/a": 0, "/c": 2}
    assert numbers(match_outputs([make("n"), make("c"), make("b"), make("a"), make("m")], known)) == {
        **numbers(known),
        "/n": 3,
        "/m": 4,
    }
    gap = match_outputs([make("c"), make("a")], known)
    assert numbers(match_outputs([make("n"), make("a"), make("c")], gap)) == {"/a": 0, "/c": 2, "/n": 3}
    assert match_outputs([], known) == ()
    assert numbers(match_outputs(number(make("a"), make("b")), ())) == {"/a": 0, "/b": 1}


def test_stems_of_the_contract() -> None:
    """The contract's stems keep numbers and kinds however they are shuffled."""
    known = decode_operation(STEMS.ready["stems"], route=STEMS.route, request=None).outputs
    shuffled = random.Random(4).sample(known, len(known))

    assert shuffled != list(known)
    assert match_outputs(number(*shuffled), known) == known


OUTPUTS = st.lists(
    st.builds(
        make,
        st.sampled_from("abcdef"),
        kind=st.sampled_from([None, "vocals", "drums", "bass"]),
        duration=st.sampled_from([None, 1.0, 2.0]),
        sig=st.integers(0, 99),
    ),
    max_size=6,
)


@unhurried
@given(OUTPUTS, OUTPUTS)
def test_nothing_is_lost_or_invented(fresh: list[Output], known: list[Output]) -> None:
    """Whatever the two answers hold: each fresh output comes out once, in order, under a number that is its alone."""
    before = number(*known)
    after = match_outputs(number(*fresh), before)

    assert sorted(output.url for output in after) == sorted(output.url for output in fresh)
    assert [output.index for output in after] == sorted({output.index for output in after})
    assert {output.index for output in after} <= set(range(len(known) + len(fresh)))
    for new, old in ((output, before[output.index]) for output in after if output.index < len(before)):
        assert new.path == old.path or old.kind is None or new.kind in (None, old.kind)


@unhurried
@given(OUTPUTS, OUTPUTS)
def test_numbers_are_a_permutation(fresh: list[Output], known: list[Output]) -> None:
    """Without kinds no number is left out while a file could have it."""
    plain = [attrs.evolve(output, kind=None) for output in fresh]
    after = match_outputs(number(*plain), number(*(attrs.evolve(output, kind=None) for output in known)))
    used = {output.index for output in after}

    assert len(used & set(range(len(known)))) == min(len(fresh), len(known))
    assert used >= set(range(len(known), len(fresh)))


@unhurried
@given(OUTPUTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(known: list[Output], rng: random.Random) -> None:
    """Files with paths of their own get the same numbers in whatever order they come."""
    before = number(*{output.path: output for output in known}.values())
    shuffled = rng.sample(before, len(before))

    assert match_outputs(number(*shuffled), before) == before


@unhurried
@given(OUTPUTS, OUTPUTS)
def test_numbers_settle(fresh: list[Output], known: list[Output]) -> None:
    """Files with paths of their own, once numbered, keep their numbers in every later answer."""
    apart = {output.path: output for output in fresh}.values()
    once = match_outputs(number(*apart), number(*known))

    assert match_outputs(reversed(once), once) == once

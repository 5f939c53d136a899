import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soundpiece_async._core.filenames import (
    FALLBACK_STEM,
    MAX_PLAIN_NAME_BYTES,
    MAX_STEM_BYTES,
    file_names,
    plainer_name,
    safe_stem,
)
from soundpiece_async._core.requests import Handle, Output

HANDLE = Handle("create.new_song", "op_01kd0000000000000000000001")
anything = st.text(st.characters(), max_size=300) | st.text("./\\ cCoOnN.flac\u202e\u0301e\x00", max_size=20)


def output(index: int = 0, kind: str | None = None) -> Output:
    return Output(url=f"https://cdn.example/{index}.flac?sig=x", handle=HANDLE, index=index, kind=kind)


def assert_safe(name: str) -> None:
    """The three rules, asked of the systems' own notions where there are any."""
    assert Path(name).name == PureWindowsPath(name).name == name
    assert name not in ("", ".", "..")
    assert name == unicodedata.normalize("NFC", name)
    assert len(f"{name}.part.json".encode()) <= 255
    assert all(
        character.isprintable() or unicodedata.category(character) in {"Cf", "Cn", "Co", "Zs"} for character in name
    )
    assert not set(name) & set('<>:"|?*')
    assert not name.startswith(".")
    assert not name.endswith((" ", "."))


@given(name=anything)
@example(name="../../etc/passwd")
@example(name="con")
@example(name="a\x00́")
@example(name="x" * 195 + ".flac.flac")
@example(name="ü" * 101 + ".")
@example(name="x.ﬂac")
def test_any_text_gives_a_safe_stem(name: str) -> None:
    """A stem is one component, NFC, short, printable, not hidden, no device; and safe text stays as it is."""
    stem = safe_stem(name)

    assert_safe(f"{stem}.flac")
    assert len(stem.encode()) <= MAX_STEM_BYTES
    assert safe_stem(stem) == stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Rain again", "Rain again"),
        ("été", "été"),
        ("e\u0301te\u0301", "été"),
        ("夜の歌 (remix) #2", "夜の歌 (remix) #2"),
        ("AC/DC: live?", "AC_DC_ live_"),
        ("..", FALLBACK_STEM),
        ("", FALLBACK_STEM),
        ("../up", "_up"),
        (".hidden. ", "hidden"),
        ("line\nbreak\x00", "linebreak"),
        ("gpj.\u202eflac", "gpj"),
        ("Song.FLAC", "Song"),
        ("CON", "_CON"),
        ("con.flac", "_con"),
        ("Aux .tape", "_Aux .tape"),
        ("lpt\u00b9", "_lpt\u00b9"),
        ("console", "console"),
        ("half\ud800pair", "halfpair"),
        ("é" * 150, "é" * (MAX_STEM_BYTES // 2)),
        ("x" + "é" * 150, "x" + "é" * (MAX_STEM_BYTES // 2 - 1)),
    ],
)
def test_a_stem_keeps_what_is_harmless(name: str, stem: str) -> None:
    """People find their names again; only what is dangerous changes."""
    assert safe_stem(name) == stem


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        ([], []),
        ([output()], ["x.flac"]),
        ([output(3)], ["x.flac"]),
        ([output(0), output(1)], ["x-1.flac", "x-2.flac"]),
        ([output(1), output(0)], ["x-2.flac", "x-1.flac"]),
        ([output(kind="vocals")], ["x-vocals.flac"]),
        ([output(0, "vocals"), output(1, "drums")], ["x-vocals.flac", "x-drums.flac"]),
        (
            [output(2, "other"), output(0, "other"), output(1, "bass")],
            ["x-other-2.flac", "x-other-1.flac", "x-bass.flac"],
        ),
        ([output(0, "Drums"), output(1, "drums")], ["x-Drums-1.flac", "x-drums-2.flac"]),
        ([output(0), output(1, "bass")], ["x-1.flac", "x-bass.flac"]),
        ([output(0), output(1, "1")], ["x-1.flac", "x-1-2.flac"]),
        ([output(0), output(0), output(0)], ["x-1.flac", "x-1-2.flac", "x-1-3.flac"]),
        ([output(0, "../up")], ["x-_up.flac"]),
        ([output(0, "")], ["x.flac"]),
        ([output(0, "k" * 90)], ["x-" + "k" * 24 + ".flac"]),
    ],
)
def test_the_files_of_an_operation_are_named_together(outputs: list[Output], names: list[str]) -> None:
    """One file takes the stem, several a number by their index, stems of a track their kind."""
    assert file_names("x", outputs) == names


@given(stem=anything, kinds=st.lists(st.none() | anything, max_size=8))
@example(stem="s" * 300, kinds=["é" * 90, "É" * 90, None])
def test_names_of_one_operation_are_safe_and_distinct(stem: str, kinds: list[str | None]) -> None:
    """Whatever the service says, no name leaves the folder and no two are one where case does not count."""
    names = file_names(stem, [output(index, kind) for index, kind in enumerate(kinds)])

    for name in names:
        assert_safe(name)
    assert len({name.casefold() for name in names}) == len(kinds)


def test_the_same_outputs_have_the_same_names_in_any_order() -> None:
    """The order of outputs is not promised (docs/api.md#outputs), so names do not depend on it."""
    outputs = [output(0, "other"), output(1, "other"), output(2), output(3, "bass")]

    assert sorted(file_names("x", outputs)) == sorted(file_names("x", outputs[::-1]))
    assert dict(zip(file_names("x", outputs), outputs, strict=True)) == dict(
        zip(file_names("x", outputs[::-1]), outputs[::-1], strict=True)
    )


@pytest.mark.parametrize(
    "name", ["Regen \u2013 laut.flac", "雨.flac", "x" * 200 + ".flac", "a.flac", "é.flac", "\udc80.flac"]
)
def test_a_plainer_name_is_ascii_and_short(name: str) -> None:
    """Any file system takes it; it is the same each time, and another one for another name."""
    plainer = plainer_name(name)
    assert plainer.isascii()
    assert len(plainer) <= MAX_PLAIN_NAME_BYTES
    assert plainer.endswith(".flac")
    assert plainer == plainer_name(name)
    assert plainer != plainer_name(f"{name}.flac")
    assert safe_stem(plainer) == plainer.removesuffix(".flac")

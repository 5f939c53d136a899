import sys
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from soundpiece_async._core.addresses import SCHEMES, read_path, split_url
from soundpiece_async._core.errors import InvalidRequest, SettingsError
from soundpiece_async._download.places import Places, demand_place, read_place


def test_a_place_is_a_folder_a_url_or_a_store() -> None:
    """Text with a scheme of obstore's is a URL; all other text, and every path, is a folder."""
    store = MemoryStore()

    assert read_place("out/a:b") == Path("out/a:b")
    assert read_place(Path("out")) == Path("out")
    assert all(read_place(f"{scheme}://x/y") == f"{scheme}://x/y" for scheme in SCHEMES)
    assert read_place(store) is store


class BytesPath:
    """A path of bytes: a system would take it, we do not."""

    def __fspath__(self) -> bytes:
        return b"songs"


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("ftp://host/x", "names no store"),
        ("https://user:word@host/x?sig=1", "names no store"),
        (Path("s3://songs/x"), "pass it as text"),
        (7, "no folder"),
        ("song\0s", "cannot be a path"),
        (Path("song\ud800s"), "cannot be a path"),
        (BytesPath(), "cannot be a path"),
        ("s3://user:word@songs\0", "cannot be a path"),
    ],
)
def test_what_is_no_place_is_refused(to: object, reason: str) -> None:
    """With what is wrong, and no secrets."""
    with pytest.raises(InvalidRequest, match=reason) as caught:
        read_place(to)  # type: ignore[arg-type] # what a user may pass by mistake
    assert caught.value.field == "to"
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://songs", ("s3://songs/", "")),
        ("S3://songs//a%20b//c/", ("s3://songs/", "a%20b/c/")),
        ("abfss://songs@me.dfs.core.windows.net/x?y#z", ("abfss://songs@me.dfs.core.windows.net/", "x?y#z/")),
        ("file:///tmp/a%20b", ("file:///", "tmp/a b/")),
        ("memory://", ("memory:///", "")),
    ],
)
def test_a_url_is_split_letter_by_letter(url: str, parts: tuple[str, str]) -> None:
    """Keys may hold anything; only file URLs are encoded."""
    assert split_url(url) == parts


def test_no_key_climbs() -> None:
    """Dots name no folder in a store."""
    with pytest.raises(InvalidRequest, match="knows no"):
        split_url("s3://songs/../x")


def test_an_objects_path_is_good_for_its_name() -> None:
    """And of a folder of this machine it is the file."""
    assert read_path("s3://songs/a/take.flac").name == "take.flac"
    assert read_path("file:///tmp/take.flac") == Path("/tmp/take.flac")  # noqa: S108 - nothing is written


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent, and where it is used; folders need no extra."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "soundpiece_async._download.objects", raising=False)

    for call in (lambda: demand_place("s3://songs", verify="header"), lambda: Places().find("s3://songs")):
        with pytest.raises(SettingsError, match=r"pip install 'soundpiece-async\[obstore\]'"):
            call()
    demand_place(None, verify="full")
    demand_place("out", verify="full")
    assert Places().find("out")("take.flac") == Path("out/take.flac")


def test_a_place_that_can_be_used_is_let_pass() -> None:
    """With the extra and a check of headers; a full check needs files."""
    demand_place("s3://songs", verify="header")
    with pytest.raises(SettingsError, match="decodes files"):
        demand_place(MemoryStore(), verify="full")


def test_a_store_without_its_settings_is_told() -> None:
    """What the environment lacks is said in one line."""
    with pytest.raises(SettingsError, match=r"az://songs/ cannot be used: .*Account must be specified$"):
        Places().find("az://songs/x")


def test_a_bucket_has_one_client() -> None:
    """Two places in it share the connections, and what is in memory."""
    places = Places()

    one, two = places.find("memory:///a")("x"), places.find("memory:///b")("x")

    assert (one.url, two.url) == ("memory:///a/x", "memory:///b/x")
    assert one.store is two.store

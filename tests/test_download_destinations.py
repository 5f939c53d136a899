import errno
import os
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import pytest
from obstore.store import MemoryStore

from soundpiece_async._core.errors import InvalidRequest, SettingsError
from soundpiece_async._download.destinations import (
    SCHEMES,
    Destinations,
    check_destination,
    parse_destination,
    parse_file_url,
    path_of_file_url,
    split_url,
)
from soundpiece_async._journal.journal import Journal

pytestmark = pytest.mark.anyio


def test_a_place_is_a_folder_a_url_or_a_store() -> None:
    """Text with a scheme of obstore's is a URL; all other text, a ``file:`` URL, and every local path, is a folder."""
    store = MemoryStore()

    assert parse_destination("out/a:b") == Path("out/a:b")
    assert parse_destination(Path("out")) == Path("out")
    assert all(parse_destination(f"{scheme}://x/y") == f"{scheme}://x/y" for scheme in SCHEMES)
    assert parse_destination(store) is store
    assert parse_destination("./s3:songs") == Path("s3:songs") == parse_destination(Path("s3:songs"))
    assert parse_destination("take:1") == Path("take:1")
    assert parse_destination("C:/songs") == Path("C:/songs")


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In text, also on the command line, where no shell has replaced it; a path object is a path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_destination("~/songs") == tmp_path / "songs"
    assert parse_destination("~") == tmp_path
    assert parse_destination("./~/songs") == Path("~/songs") == parse_destination(Path("~/songs"))
    assert Journal.open("~/songs").folder == tmp_path / "songs"


class BytesPath:
    """A path of bytes: a system would take it, we do not."""

    def __fspath__(self) -> bytes:
        return b"songs"


WRONG = [
    ("s3:songs", "two slashes are missing, as s3://…; for a folder of that name, write ./"),
    ("file:songs", "two slashes are missing, as file:///folder"),
    ("S3://", "the bucket is missing in 'S3://': write s3://bucket/folder"),
    ("https:/user:word@host/x", "unsupported destination URL"),
    ("ftp:songs", "unsupported destination URL"),
    ("out:/songs", "unsupported destination URL"),
    (Path("https://songs/x"), "pass it as text"),
    ("~nobody-of-that-name/x", "the home folder does not exist"),
    ("file://tmp/x", "on the machine 'tmp'"),
]
"""Neither a folder nor a store: a text or path, and what its error says."""


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        *WRONG,
        ("ftp://host/x", "unsupported destination URL"),
        ("https://user:word@host/x?sig=1", "unsupported destination URL"),
        (Path("s3://songs/x"), "pass it as text"),
        ("s3:/songs/x", "a slash is missing, as s3://"),
        ("file://songs.example/x", "file:///songs.example/x"),
        ("file:///x%00", "the path is missing"),
        ("file://", "the path is missing"),
        (7, "not a folder"),
        ("song\0s", "cannot be a path"),
        (Path("song\ud800s"), "cannot be a path"),
        (BytesPath(), "cannot be a path"),
        ("s3://user:word@songs\0", "cannot be a path"),
    ],
)
def test_what_is_no_place_is_refused(to: object, reason: str) -> None:
    """With what is wrong, and no secrets."""
    with pytest.raises(InvalidRequest, match=reason) as caught:
        parse_destination(to)  # type: ignore[arg-type] # what a user may pass by mistake
    assert caught.value.field == "to"
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://songs", ("s3://songs/", "")),
        ("S3://songs//a%20b//c/", ("s3://songs/", "a%20b/c/")),
        ("abfss://songs@me.dfs.core.windows.net/x?y#z", ("abfss://songs@me.dfs.core.windows.net/", "x?y#z/")),
        ("memory://", ("memory:///", "")),
    ],
)
def test_a_url_is_split_letter_by_letter(url: str, parts: tuple[str, str]) -> None:
    """Keys may hold anything."""
    assert split_url(url) == parts


def test_no_key_climbs() -> None:
    """Dots name no folder in a store."""
    with pytest.raises(InvalidRequest, match="cannot contain"):
        split_url("s3://songs/../x")


def test_an_objects_path_is_good_for_its_name() -> None:
    """And of a folder of this machine it is the file."""
    assert path_of_file_url("s3://songs/a/take.flac").name == "take.flac"
    assert path_of_file_url("file:///tmp/take.flac") == Path("/tmp/take.flac")  # noqa: S108 - nothing is written


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent, and where it is used; folders need no extra."""
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(SettingsError, match=r"pip install 'soundpiece-async\[obstore\]'"):
        check_destination("s3://songs", verify="header")
    with pytest.raises(SettingsError, match=r"pip install 'soundpiece-async\[obstore\]'"):
        await make_places().open("s3://songs")
    check_destination(None, verify="full")
    check_destination("out", verify="full")
    assert await make_places().open("out") == Path("out")


def make_places() -> Destinations:
    return Destinations(anyio.CapacityLimiter(1))


def test_a_place_that_can_be_used_is_let_pass() -> None:
    """With the extra and a check of headers; a full check needs files."""
    check_destination("s3://songs", verify="header")
    with pytest.raises(SettingsError, match="decodes local files"):
        check_destination(MemoryStore(), verify="full")


async def test_a_store_without_its_settings_is_told() -> None:
    """What the environment lacks is said in one line."""
    with pytest.raises(SettingsError, match=r"az://songs/ cannot be used: .*Account must be specified$"):
        await make_places().open("az://songs/x")


async def test_a_bucket_has_one_client() -> None:
    """Two places in it share the connections, and what is in memory."""
    places = make_places()

    one, two = await places.open("memory:///a"), await places.open("memory:///b")

    assert not isinstance(one, Path)
    assert not isinstance(two, Path)
    assert (one.name("x").url, two.name("x").url) == ("memory:///a/x", "memory:///b/x")
    assert one.store is two.store


class CloudPath:
    """As the path objects of libraries for cloud storage: a path of a copy on this machine."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.copied = False

    def as_uri(self) -> str:
        """As of pathlib."""
        return self.url

    def __fspath__(self) -> str:
        self.copied = True
        return "/tmp/cache/songs"  # noqa: S108 - nothing is written


class CloudObject:
    """The same, of a library whose objects are no paths."""

    def as_uri(self) -> str:
        """As of pathlib."""
        return "gs://songs/x?token=word"


@pytest.mark.parametrize("path", [CloudPath("s3://songs/x"), CloudPath("memory://x"), CloudObject()])
def test_a_cloud_librarys_path_is_refused(path: Any) -> None:
    """Its files would go to a copy that dies with its client; nothing is copied to find that out (F1)."""
    for call in (lambda: parse_destination(path), lambda: Journal.open(path)):
        with pytest.raises(InvalidRequest, match=r"not a local folder.*as text") as caught:
            call()
        assert "word" not in str(caught.value)
    assert not getattr(path, "copied", False)


@pytest.mark.parametrize(
    "path", [Path("/songs"), PurePosixPath("songs"), anyio.Path("/songs"), CloudPath("file:///songs"), os.scandir]
)
def test_a_local_path_of_any_library_is_a_folder(path: Any, tmp_path: Path) -> None:
    """Also one that has ``as_uri``, and one that has not."""
    if path is os.scandir:
        (tmp_path / "songs").mkdir()
        with os.scandir(tmp_path) as entries:
            path = next(entries)
    assert parse_destination(path) == Path(os.fspath(path))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/a%20b", "/srv/a b"),
        ("file://localhost/srv/x", "/srv/x"),
        ("FILE://LOCALHOST/srv/%C3%BC", "/srv/ü"),
        ("file:/srv/x", "/srv/x"),
        ("file:///", "/"),
        ("file:///srv/%ff", "/srv/\udcff"),
    ],
)
def test_a_file_url_is_a_folder(url: str, path: str) -> None:
    """In every form of RFC 8089 that names this machine (F2, F9)."""
    assert parse_destination(url) == parse_file_url(url, field="to") == Path(path)
    assert Journal.open(url).folder == Path(path)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        *WRONG,
        ("s3://b/x", "s3://b/x is not a local folder"),
        ("memory://x", "is not a local folder"),
        ("ftp://me:word@host/x", "unsupported destination URL"),
        (MemoryStore(), "is not a local folder"),
    ],
)
def test_a_journal_is_in_a_folder(url: Any, reason: str) -> None:
    """Anything else would be a folder "s3:", and everything bought again from the next working directory (F2)."""
    with pytest.raises(InvalidRequest, match=reason) as caught:
        Journal.open(url)
    assert caught.value.field == ("run" if str(url).startswith("postgresql") else "folder")
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("folder", ["/proc/nowhere/x", "{tmp}/file/x", "{tmp}/" + "a/" * 1500])
async def test_a_folder_is_tried(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that files cannot be put into is found out by making it, and by writing to it (F4)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"is not writable|cannot be made"):
        await make_places().check(folder.format(tmp=tmp_path))
    await make_places().check(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


async def test_a_process_without_descriptors_is_no_folders_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passes refuses nothing."""

    def refuse(**_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    await make_places().check(tmp_path)

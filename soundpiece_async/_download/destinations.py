"""Destinations of files: a local folder, or an object store of obstore's (extra ``obstore``).

A destination is checked before anything is sent (``Destinations.demand``): a folder is made and written to, and a
store is asked once, with a timeout, for an object that does not exist.
"""

import importlib.util
import math
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union
from urllib.parse import unquote

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core import os_errors
from soundpiece_async._core.errors import InvalidRequest, SettingsError, duplicate
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.verify import require_header_check
from soundpiece_async._lifetime import KeyedLocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import ObjectStore

    from soundpiece_async._download.stores import Folder

Destination: TypeAlias = Union[str, os.PathLike[str], "ObjectStore"]
"""A folder, the URL of one in an object store, or a store of obstore's, whose prefix is the folder."""

TRIAL = 10.0
"""Seconds that a store has for its first answer."""

_NEEDED = "need the extra obstore: pip install 'soundpiece-async[obstore]'"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)")
_FOREIGN = frozenset({"file", "http", "https", "ftp", "sftp", "gcs", "hdfs", "r2", "wasb", "wasbs"})
"""Schemes that mean a URL, even without a slash."""
_S3 = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_AZURE = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME")
_ENDPOINTS = {"s3": _S3, "s3a": _S3, "az": _AZURE, "azure": _AZURE, "adl": _AZURE}
"""Where obstore finds endpoints, or accounts, that no URL names."""


def parse_destination(to: Destination, *, field: str = "to") -> "Path | str | ObjectStore":
    """Parse a destination: a folder, the URL of one in a store, or a store.

    Args:
        to: what the caller named.
        field: the argument it came in, for the error.

    Raises:
        InvalidRequest: it is none of them.
    """
    if foreign := _find_foreign_url(to):
        raise InvalidRequest(
            f"the {type(to).__name__} of {redact_url(foreign)} is not a folder of this machine: files would end in a "
            "copy of it; pass its URL as text",
            field=field,
        )
    if isinstance(to, str | os.PathLike):
        return parse_text(os.fspath(to), is_path=not isinstance(to, str), field=field)
    if not hasattr(to, "put_async"):
        raise InvalidRequest(f"{to!r} is no folder, no URL and no store of obstore's", field=field)
    return to


def parse_folder(folder: str | os.PathLike[str], *, field: str) -> Path:
    """Parse what must be a folder of this machine, as a path or as a ``file:`` URL.

    Raises:
        InvalidRequest: it is not.
    """
    if isinstance(folder, str) and folder.partition("://")[0].lower() in ("postgres", "postgresql"):
        raise InvalidRequest("a journal in Postgres is not available in this version: name a folder", field=field)
    place = parse_destination(folder, field=field)
    if not isinstance(place, Path):
        named = redact_url(place) if isinstance(place, str) else repr(place)
        raise InvalidRequest(f"{named} is not a folder of this machine: name one, as text or as a path", field=field)
    return place


def _find_foreign_url(to: object) -> str | None:
    """Return the URL of a path object that is not a local one, as libraries for cloud storage have them."""
    as_uri = getattr(to, "as_uri", None)
    if as_uri is None:
        return None
    try:
        url = str(as_uri())
    except ValueError:  # a relative path of pathlib
        return None
    return None if url.partition(":")[0].lower() == "file" else url


def parse_text(text: str | bytes, *, is_path: bool = False, field: str) -> Path | str:
    """Parse the text of a destination: a folder, or the URL of one in a store.

    Args:
        text: what was typed, or what a path object holds.
        is_path: it is from a path object, which can hold no URL.
        field: the argument it came in, for the error.

    Raises:
        InvalidRequest: it is neither.
    """
    try:
        usable = isinstance(text, str) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        usable = False
    if not usable or isinstance(text, bytes):  # a thread would meet it, once the work was paid for
        raise InvalidRequest(f"{redact_url(str(text))!a} cannot be a path, or a URL, on this system", field=field)
    match = _URL.match(text)
    scheme, slashes = (match[1].lower(), len(match[2])) if match else ("", 0)
    if is_path:
        if slashes and scheme in SCHEMES | _FOREIGN:
            raise InvalidRequest(
                f"{redact_url(text)}: a path object cannot hold a URL: pass it as text, as {scheme}://…", field=field
            )
        return Path(text)
    if slashes or scheme in SCHEMES | _FOREIGN:
        return _read_url(text, scheme, slashes, field=field)
    return _expand_home(text, field=field)


def _read_url(text: str, scheme: str, slashes: int, *, field: str) -> Path | str:
    """Parse a URL, or a text that was meant to be one: a folder of its name is rarely meant."""
    if scheme == "file" and slashes:
        return parse_file_url(text, field=field)
    shown = redact_url(text) if slashes > 1 else f"{scheme}:{'/' * slashes}…"  # there may be secrets anywhere in it
    own = "for a folder of that name, write ./ before it"
    if scheme not in SCHEMES | {"file"}:
        known = ", ".join(f"{known}:" for known in sorted(SCHEMES | {"file"}))
        raise InvalidRequest(f"{shown!r} names no store that files can go to; known are {known}; {own}", field=field)
    if slashes < 2:  # noqa: PLR2004 - as any URL has
        lost = "a slash is missing" if slashes else "two slashes are missing"
        meant = "file:///folder" if scheme == "file" else f"{scheme}://…"
        raise InvalidRequest(f"{shown}: {lost}, as {meant}; {own}", field=field)
    if scheme != "memory" and not text.partition("://")[2].partition("/")[0]:
        raise InvalidRequest(f"{shown!r} names no bucket: write {scheme}://bucket/folder", field=field)
    return text


def _expand_home(text: str, *, field: str) -> Path:
    """Return the path of a text, with the home folder in place of ``~``, as shells do unless the text is quoted."""
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib's raises where there is no such user
    if expanded.startswith("~"):
        raise InvalidRequest(
            f"{text!r}: there is no such home folder; for one of that name, write ./ before it", field=field
        )
    return Path(expanded)


def check_destination(to: Destination | None, *, verify: Verify) -> None:
    """Refuse what cannot be a destination, without a look at it.

    Raises:
        InvalidRequest: it is none.
        SettingsError: the extra ``obstore`` is missing, or ``verify="full"``, which needs files.
    """
    if to is None or isinstance(parse_destination(to), Path):
        return
    require_header_check(verify)
    if importlib.util.find_spec("obstore") is None:
        raise SettingsError(f"object stores {_NEEDED}")


def open_folder(place: "str | ObjectStore", *, stores: "dict[str, ObjectStore]") -> "Folder":
    """Open a place in a store. Blocks: obstore is a large import, and reads certificates.

    Raises:
        SettingsError: the extra is missing, or the store cannot be made of what the environment has.
    """
    try:
        import obstore  # noqa: F401, PLC0415 - its extra may be missing
    except ImportError as error:
        raise SettingsError(f"object stores {_NEEDED} ({error.name} is missing)") from error
    from soundpiece_async._download.stores import open_store, open_url  # noqa: PLC0415 - it needs obstore

    return open_url(*split_url(place), stores=stores) if isinstance(place, str) else open_store(place)


@attrs.frozen
class StoreLocation:
    """Where a folder in a store is.

    Attributes:
        url: of the folder.
        endpoint: of the store, or its account, where it is not the provider's own: behind different endpoints, buckets
            of one name are different ones.
    """

    url: str
    endpoint: str | None


def locate(place: "str | ObjectStore") -> StoreLocation:
    """Return where a place in a store is, as far as it and the environment say. Nothing is asked of it.

    Of a store, this loads obstore, which blocks, unless it was opened before.
    """
    if isinstance(place, str):
        url: str = "".join(split_url(place))
        config: Mapping[str, Any] = {}
    else:
        from soundpiece_async._download import stores  # noqa: PLC0415 - there is a store: obstore is here

        url, config = stores.locate(place), getattr(place, "config", {})
    given = [config.get("endpoint"), config.get("account_name")]
    names = _ENDPOINTS.get(url.partition(":")[0], ())
    found = next((one for one in (*given, *map(os.environ.get, names)) if one), None)
    return StoreLocation(url, None if found is None else redact_url(found).rstrip("/"))


def try_folder(folder: Path) -> None:
    """Make a folder, and find out whether files can be put into it. Blocks.

    Raises:
        SettingsError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            """It could be made, which is all there is to know."""
    except OSError as error:
        if os_errors.is_passing(error.errno):
            return
        raise SettingsError(
            f"files cannot be put into {folder}: {error.strerror or error}; name a folder that can be written to; "
            "nothing was sent"
        ) from error
    except RecursionError as error:  # Python makes a folder by calling itself for each missing one above it
        raise SettingsError(
            f"files cannot be put into {folder}: it lies too deep, below too many missing folders; name another one; "
            "nothing was sent"
        ) from error


class Destinations:
    """Opens destinations, and tries them; one client for each bucket, however many files go there.

    1. A store that has answered is not asked again; neither is it while somebody is asking it.
    2. A folder is tried each time: that costs nothing.

    Args:
        threads: run what blocks.
    """

    def __init__(self, threads: anyio.CapacityLimiter) -> None:
        self._threads = threads
        self._stores: dict[str, ObjectStore] = {}
        self._one_at_a_time = threading.Lock()
        self._trials = KeyedLocks()
        self._answered: set[tuple[str, int]] = set()
        self._refused: dict[tuple[str, int], tuple[SettingsError, float]] = {}

    def __repr__(self) -> str:
        return f"<Destinations stores={sorted(self._stores)}>"

    async def demand(self, to: Destination | None) -> None:
        """Try a destination, before anything is sent and paid for.

        Raises:
            InvalidRequest: there is no such place.
            SettingsError: nothing can be saved there.
        """
        opened = None if to is None else await self.open(to)
        if isinstance(opened, Path):
            await anyio.to_thread.run_sync(try_folder, opened, limiter=self._threads)

    async def open(self, to: Destination) -> "Path | Folder":
        """Open a destination; a store must have answered once.

        Raises:
            InvalidRequest: there is no such place.
            SettingsError: the extra ``obstore`` is missing, or the store does not answer, or refuses to.
        """
        place = parse_destination(to)
        if isinstance(place, Path):
            return place
        folder = await anyio.to_thread.run_sync(self._find, place, limiter=self._threads)
        await self._try(folder)
        return folder

    def _find(self, place: "str | ObjectStore") -> "Folder":
        with self._one_at_a_time:
            return open_folder(place, stores=self._stores)

    async def _try(self, folder: "Folder") -> None:
        name = folder.identity
        asked_at = anyio.current_time()
        if name in self._answered:
            return
        async with self._trials.acquire(name):
            if name in self._answered:
                return
            error, refused_at = self._refused.get(name, (None, -math.inf))
            if error is not None and refused_at >= asked_at:
                raise duplicate(error)
            fault = f"it has not answered within {TRIAL:g} s: check its endpoint, its credentials and the network"
            with anyio.move_on_after(TRIAL):
                fault = await folder.find_fault() or ""
            if fault:
                error = SettingsError(f"{folder.url}: nothing can be saved there: {fault}")
                self._refused[name] = error, anyio.current_time()
                raise error
            self._answered.add(name)


SCHEMES = frozenset({"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "memory"})
"""Those of obstore that name a store files can be written to in parts: so not http(s); ``file`` is a folder."""


def split_url(url: str) -> tuple[str, str]:
    """Return the root of a store, as ``s3://bucket/``, and the prefix behind it, empty or ending with a slash.

    Keys are what the URL says, letter by letter.

    Raises:
        InvalidRequest: no object can have such a name.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    names = [name for name in path.split("/") if name]
    if any(name in (".", "..") for name in names):
        raise InvalidRequest(f"{redact_url(url)!r}: a store knows no '.' and no '..'", field="to")
    return f"{scheme.lower()}://{bucket}/", "".join(f"{name}/" for name in names)


def parse_file_url(url: str, *, field: str) -> Path:
    """Return the path of a ``file:`` URL (RFC 8089), percent signs decoded.

    Raises:
        InvalidRequest: it names another machine, or no path.
    """
    rest = url.partition(":")[2]
    host, path = "", rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    if host.lower() not in ("", "localhost"):
        name = host.rpartition("@")[2]  # without what may be a password
        raise InvalidRequest(
            f"{url!r} names a folder of the machine {name!r}; one of this machine has three slashes: file:///{name}{path}",
            field=field,
        )
    text = unquote(path, errors="surrogateescape")
    if not text or "\0" in text:
        raise InvalidRequest(f"{url!r} names no folder: write file:///folder", field=field)
    return Path(text)


def path_of_file_url(url: str) -> Path:
    """Return the path of an object in a store that is a folder of this machine."""
    return Path(url.removeprefix("file://"))

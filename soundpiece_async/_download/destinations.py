"""Destinations of files: a local folder, or an object store of obstore's (extra ``obstore``).

A destination is checked before anything is sent (``Destinations.check``): a folder is made and written to, and a
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
from soundpiece_async._core.errors import InvalidRequest, SettingsError, copy_error
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.verify import require_header_check
from soundpiece_async._locks import KeyedLocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import ObjectStore

    from soundpiece_async._download.stores import Folder

Destination: TypeAlias = Union[str, os.PathLike[str], "ObjectStore"]
"""A folder, the URL of one in an object store, or a store of obstore's, whose prefix is the folder."""
SCHEMES = frozenset({"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "memory"})
"""Schemes of obstore whose stores take files in parts: not http(s); ``file`` is a folder."""
CHECK_TIMEOUT = 10.0
"""Seconds in which a store must answer its first request."""

_NEEDED = "need the extra obstore: pip install 'soundpiece-async[obstore]'"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)")
_FOREIGN = frozenset({"file", "http", "https", "ftp", "sftp", "gcs", "hdfs", "r2", "wasb", "wasbs"})
"""Unsupported schemes that identify a URL even without a slash."""
_S3 = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_AZURE = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME")
_ENDPOINTS = {"s3": _S3, "s3a": _S3, "az": _AZURE, "azure": _AZURE, "adl": _AZURE}
"""Variables in which obstore finds endpoints or accounts that no URL names."""


def parse_destination(to: Destination, *, field: str = "to") -> "Path | str | ObjectStore":
    """Parse a destination: a folder, the URL of one in a store, or a store.

    Args:
        to: what the caller named.
        field: the argument it came in, for the error.

    Raises:
        InvalidRequest: not a destination.
    """
    if foreign := _find_foreign_url(to):
        raise InvalidRequest(
            f"the {type(to).__name__} of {redact_url(foreign)} is not a local folder: files would end up in a "
            "local copy of it; pass its URL as text",
            field=field,
        )
    if isinstance(to, str | os.PathLike):
        return parse_text(os.fspath(to), is_path=not isinstance(to, str), field=field)
    if not hasattr(to, "put_async"):
        raise InvalidRequest(f"{to!r} is not a folder, a URL or a store of obstore", field=field)
    return to


def parse_folder(folder: str | os.PathLike[str], *, field: str) -> Path:
    """Parse a local folder, given as a path or as a ``file:`` URL.

    Raises:
        InvalidRequest: not a local folder.
    """
    destination = parse_destination(folder, field=field)
    if not isinstance(destination, Path):
        named = redact_url(destination) if isinstance(destination, str) else repr(destination)
        raise InvalidRequest(f"{named} is not a local folder; pass the path of one", field=field)
    return destination


def _find_foreign_url(to: object) -> str | None:
    """Return the URL of a path object of a cloud-storage library; None for local paths."""
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
        text: from the user, or from a path object.
        is_path: from a path object, which cannot hold a URL.
        field: the argument it came in, for the error.

    Raises:
        InvalidRequest: neither of the two.
    """
    try:
        usable = isinstance(text, str) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        usable = False
    if not usable or isinstance(text, bytes):  # refused now, rather than by a thread after the work was paid for
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
        return _parse_url(text, scheme, slashes, field=field)
    return expand_home(text, field=field)


def _parse_url(text: str, scheme: str, slashes: int, *, field: str) -> Path | str:
    """Parse a URL, or a text that was probably meant as one."""
    if scheme == "file" and slashes:
        return parse_file_url(text, field=field)
    shown = redact_url(text) if slashes > 1 else f"{scheme}:{'/' * slashes}…"  # any part of it may be secret
    own = "for a folder of that name, write ./ before it"
    if scheme not in SCHEMES | {"file"}:
        known = ", ".join(sorted(SCHEMES | {"file"}))
        raise InvalidRequest(f"unsupported destination URL {shown!r}; supported schemes: {known}; {own}", field=field)
    if slashes < 2:  # as any URL has
        lost = "a slash is missing" if slashes else "two slashes are missing"
        meant = "file:///folder" if scheme == "file" else f"{scheme}://…"
        raise InvalidRequest(f"{shown}: {lost}, as {meant}; {own}", field=field)
    if scheme != "memory" and not text.partition("://")[2].partition("/")[0]:
        raise InvalidRequest(f"the bucket is missing in {shown!r}: write {scheme}://bucket/folder", field=field)
    return text


def expand_home(text: str, *, field: str) -> Path:
    """Return the path of a text, with ``~`` expanded to the home folder, as shells do unless the text is quoted.

    Raises:
        InvalidRequest: the home folder does not exist.
    """
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib raises for an unknown user
    if expanded.startswith("~"):
        raise InvalidRequest(
            f"{text!r}: the home folder does not exist; for a path that begins with ~, write ./ before it", field=field
        )
    return Path(expanded)


def check_destination(to: Destination | None, *, verify: Verify) -> None:
    """Check the form of a destination, without opening it.

    Raises:
        InvalidRequest: not a destination.
        SettingsError: the extra ``obstore`` is missing, or ``verify="full"``, which needs files.
    """
    if to is None or isinstance(parse_destination(to), Path):
        return
    require_header_check(verify)
    if importlib.util.find_spec("obstore") is None:
        raise SettingsError(f"object stores {_NEEDED}")


def open_folder(destination: "str | ObjectStore", *, stores: "dict[str, ObjectStore]") -> "Folder":
    """Open a folder in a store. Blocks: obstore is a large import, and reads certificates.

    Raises:
        SettingsError: the extra is missing, or the environment's configuration of the store is invalid.
    """
    try:
        import obstore  # noqa: F401 - its extra may be missing
    except ImportError as error:
        raise SettingsError(f"object stores {_NEEDED} ({error.name} is missing)") from error
    from soundpiece_async._download.stores import open_store, open_url  # it needs obstore

    return open_url(*split_url(destination), stores=stores) if isinstance(destination, str) else open_store(destination)


@attrs.frozen
class StoreLocation:
    """Location of a folder in a store.

    Attributes:
        url: of the folder.
        endpoint: of the store, or its account, where it is not the provider's default: buckets of one name behind
            different endpoints are different buckets.
    """

    url: str
    endpoint: str | None


def locate(destination: "str | ObjectStore") -> StoreLocation:
    """Return the location of a folder in a store, from its configuration and the environment, without a request.

    For a store object, this imports obstore, which blocks the first time.
    """
    if isinstance(destination, str):
        url: str = "".join(split_url(destination))
        config: Mapping[str, Any] = {}
    else:
        from soundpiece_async._download import stores  # there is a store: obstore is here

        url, config = stores.locate(destination), getattr(destination, "config", {})
    given = [config.get("endpoint"), config.get("account_name")]
    names = _ENDPOINTS.get(url.partition(":")[0], ())
    found = next((one for one in (*given, *map(os.environ.get, names)) if one), None)
    return StoreLocation(url, None if found is None else redact_url(found).rstrip("/"))


def check_folder(folder: Path) -> None:
    """Make a folder, and check that files can be written to it. Blocks.

    Raises:
        SettingsError: the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if os_errors.is_transient(error.errno):
            return
        raise SettingsError(
            f"{folder} is not writable ({error.strerror or error}); choose another folder (nothing was sent)"
        ) from error
    except RecursionError as error:  # mkdir calls itself for each missing parent
        raise SettingsError(
            f"{folder} cannot be made: it is nested too deeply; choose another folder (nothing was sent)"
        ) from error


class Destinations:
    """Opens and checks destinations, with one client for each bucket.

    1. A store that has answered is not asked again. Concurrent callers share one request.
    2. A folder is checked each time: that is cheap.

    Args:
        threads: limits the worker threads.
    """

    def __init__(self, threads: anyio.CapacityLimiter) -> None:
        self._threads = threads
        self._stores: dict[str, ObjectStore] = {}
        self._open_lock = threading.Lock()
        self._checks = KeyedLocks()
        self._answered: set[tuple[str, int]] = set()
        self._refused: dict[tuple[str, int], tuple[SettingsError, float]] = {}

    def __repr__(self) -> str:
        return f"<Destinations stores={sorted(self._stores)}>"

    async def check(self, to: Destination | None) -> None:
        """Check a destination, before anything is sent and paid for.

        Raises:
            InvalidRequest: not a destination.
            SettingsError: nothing can be saved there.
        """
        opened = None if to is None else await self.open(to)
        if isinstance(opened, Path):
            await anyio.to_thread.run_sync(check_folder, opened, limiter=self._threads)

    async def open(self, to: Destination) -> "Path | Folder":
        """Open a destination; a store must have answered once.

        Raises:
            InvalidRequest: not a destination.
            SettingsError: the extra ``obstore`` is missing, or the store does not answer, or refuses access.
        """
        destination = parse_destination(to)
        if isinstance(destination, Path):
            return destination
        folder = await anyio.to_thread.run_sync(self._open, destination, limiter=self._threads)
        await self._check_store(folder)
        return folder

    def _open(self, destination: "str | ObjectStore") -> "Folder":
        with self._open_lock:
            return open_folder(destination, stores=self._stores)

    async def _check_store(self, folder: "Folder") -> None:
        name = folder.identity
        asked_at = anyio.current_time()
        if name in self._answered:
            return
        async with self._checks.acquire(name):
            if name in self._answered:
                return
            error, refused_at = self._refused.get(name, (None, -math.inf))
            if error is not None and refused_at >= asked_at:
                raise copy_error(error)
            fault = f"no response within {CHECK_TIMEOUT:g} s: check its endpoint, its credentials and the network"
            with anyio.move_on_after(CHECK_TIMEOUT):
                fault = await folder.check_access() or ""
            if fault:
                error = SettingsError(f"{folder.url}: nothing can be saved there: {fault}")
                self._refused[name] = error, anyio.current_time()
                raise error
            self._answered.add(name)


def split_url(url: str) -> tuple[str, str]:
    """Return the root of a store, as ``s3://bucket/``, and the prefix after it, empty or ending with a slash.

    Keys are taken literally, without percent-decoding.

    Raises:
        InvalidRequest: not a valid object key.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    names = [name for name in path.split("/") if name]
    if any(name in (".", "..") for name in names):
        raise InvalidRequest(f"{redact_url(url)!r}: object keys cannot contain '.' or '..' segments", field="to")
    return f"{scheme.lower()}://{bucket}/", "".join(f"{name}/" for name in names)


def parse_file_url(url: str, *, field: str) -> Path:
    """Return the path of a ``file:`` URL (RFC 8089), percent signs decoded.

    Raises:
        InvalidRequest: the URL names another machine, or no path.
    """
    rest = url.partition(":")[2]
    host, path = "", rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    if host.lower() not in ("", "localhost"):
        name = host.rpartition("@")[2]  # without a possible password
        raise InvalidRequest(
            f"{url!r} names a folder on the machine {name!r}; a local one has three slashes: file:///{name}{path}",
            field=field,
        )
    text = unquote(path, errors="surrogateescape")
    if not text or "\0" in text:
        raise InvalidRequest(f"the path is missing in {url!r}: write file:///folder", field=field)
    return Path(text)


def path_of_file_url(url: str) -> Path:
    """Return the path of an object in a store that is a local folder."""
    return Path(url.removeprefix("file://"))

"""The URLs of object stores and of folders, as text."""

from pathlib import Path
from urllib.parse import unquote

from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.redaction import redact_url

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


def read_file_url(url: str, *, field: str) -> Path:
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


def read_path(url: str) -> Path:
    """Return the path of an object in a store that is a folder of this machine."""
    return Path(url.removeprefix("file://"))

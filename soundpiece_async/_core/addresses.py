"""The URLs of object stores, as text."""

from pathlib import Path
from urllib.parse import unquote

from soundpiece_async._core.errors import InvalidRequest

SCHEMES = frozenset({"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "memory", "file"})
"""Those of obstore that name a folder files can be written to in parts: so not http(s)."""


def split_url(url: str) -> tuple[str, str]:
    """Give the root of a store, as ``s3://bucket/``, and the prefix behind it, which is empty or ends with a slash.

    Keys are what the URL says, letter by letter; only of ``file://`` URLs percent signs are decoded.

    Raises:
        InvalidRequest: no object can have such a name.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    names = [name for name in (unquote(path) if scheme.lower() == "file" else path).split("/") if name]
    if any(name in (".", "..") for name in names):
        raise InvalidRequest(f"{url!r}: a store knows no '.' and no '..'", field="to")
    return f"{scheme.lower()}://{bucket}/", "".join(f"{name}/" for name in names)


def read_path(url: str) -> Path:
    """Give an object's URL as a path: of a store that is a folder of this machine, the very file."""
    return Path(url.removeprefix("file://"))

"""Objects in a store, by obstore; loaded when one is asked for (extra ``obstore``).

An object appears when it is whole, or not at all: its parts are joined by the last request. Where a URL names the
store, obstore finds credentials and endpoint where the provider's own tools do: in ``AWS_…``, ``GOOGLE_…`` or
``AZURE_…``, in files, or in the machine's role.
"""

import re
from collections.abc import AsyncIterable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store, from_url

from soundpiece_async._core.addresses import read_path, split_url
from soundpiece_async._core.errors import SettingsError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART = 5 << 20
"""Bytes of a part: the least S3 takes for all but the last."""
PARTS_OUT = 2
"""Parts of one object on their way at once; more cost memory, and the output host is no faster."""

_CODE = re.compile(r"<Code>(\w+)</Code>")
_QUERY = re.compile(r"\?[^\s\"'`]+")


class StoreError(Exception):
    """What a store answered, in one line, without the queries that sign its URLs.

    Attributes:
        missing: there is no such object, or no such bucket.
    """

    def __init__(self, why: str, *, missing: bool) -> None:
        super().__init__(why)
        self.missing = missing


@attrs.frozen
class Target:
    """One object, which may not be there yet."""

    store: "ObjectStore" = attrs.field(repr=False)
    key: str
    url: str

    @property
    def path(self) -> Path | None:
        """The URL as a path."""
        return read_path(self.url) if self.url.startswith("file://") else None

    async def measure(self) -> int | None:
        """Give the size of the object, or None if there is none."""
        try:
            with _explained():
                return (await obstore.head_async(self.store, self.key))["size"]
        except StoreError as error:
            if error.missing:
                return None
            raise

    async def read(self, start: int, end: int) -> bytes:
        """Read a part of the object."""
        with _explained():
            return bytes(await obstore.get_range_async(self.store, self.key, start=start, end=end))

    async def write(self, blocks: AsyncIterable[bytes]) -> None:
        """Write the object, in place of one that is there; what ``blocks`` raises leaves the store as it was.

        Cancelled, it leaves parts that nobody sees and somebody pays for: let ``blocks`` raise instead.
        """
        with _explained():
            await obstore.put_async(
                self.store,
                self.key,
                blocks,
                attributes=None if isinstance(self.store, LocalStore) else {"Content-Type": "audio/flac"},
                chunk_size=PART,
                max_concurrency=PARTS_OUT,
            )


@attrs.frozen
class Folder:
    """A place in a store."""

    store: "ObjectStore" = attrs.field(repr=False)
    prefix: str
    url: str

    def name(self, name: str) -> Target:
        """Give the target of a file in this folder."""
        return Target(self.store, f"{self.prefix}{name}", f"{self.url}{name}")


def open_folder(to: "str | ObjectStore", *, stores: "dict[str, ObjectStore]") -> Folder:
    """Give the place a URL names, in a store that is made once for each bucket; or a store as it is. Blocks.

    Raises:
        InvalidRequest: no object can have such a name.
        SettingsError: the store cannot be made of what it finds in the environment.
    """
    if not isinstance(to, str):
        return Folder(to, "", locate(to))
    root, prefix = split_url(to)
    if root not in stores:
        try:
            stores[root] = from_url(root)
        except (BaseError, ValueError) as error:
            raise SettingsError(f"{root} cannot be used: {_shorten(error)}") from error
    return Folder(stores[root], prefix, f"{root}{prefix}")


def locate(store: "ObjectStore") -> str:
    """Say where a store of the user's is, as far as it tells."""
    match store:
        case S3Store(config={"bucket": bucket}):
            root = f"s3://{bucket}/"
        case GCSStore(config={"bucket": bucket}):
            root = f"gs://{bucket}/"
        case AzureStore(config={"container_name": container}):
            root = f"az://{container}/"
        case LocalStore():
            root = "file:///"
        case _:
            return f"{type(store).__name__.removesuffix('Store').lower()}:///"
    prefix = str(store.prefix or "").strip("/")
    return f"{root}{prefix}/" if prefix else root


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise StoreError(_shorten(error), missing=isinstance(error, FileNotFoundError)) from None


def _shorten(error: Exception) -> str:
    """Take the line for people, and the provider's code, out of what obstore says; the rest may hold signed URLs."""
    line = str(error).partition("\n")[0].partition(" <?xml")[0].strip(" :")
    code = _CODE.search(str(error))
    return _QUERY.sub("?…", f"{line} ({code[1]})" if code else line)

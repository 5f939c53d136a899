"""Objects in a store, by obstore; loaded when one is asked for (extra ``obstore``).

An object appears when it is whole, or not at all: its parts are joined by the last request. Where a URL names the
store, obstore finds credentials and endpoint where the provider's own tools do: in ``AWS_…``, ``GOOGLE_…`` or
``AZURE_…``, in files, or in the machine's role.
"""

import re
from collections.abc import AsyncIterable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, S3Store, from_url

from soundpiece_async._core.addresses import read_path, split_url
from soundpiece_async._core.errors import SettingsError
from soundpiece_async._core.redaction import redact_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART = 5 << 20
"""Bytes of a part: the least S3 takes for all but the last."""
PARTS_OUT = 2
"""Parts of one object on their way at once; more cost memory, and the output host is no faster."""

TRIAL = ".soundpiece-trial"
"""The name that is asked for to try a store; nothing has it."""

_USELESS = frozenset(
    {
        *("NoSuchBucket", "ContainerNotFound", "ResourceNotFound"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidSecurity", "AuthenticationFailed", "InvalidAuthenticationInfo", "RequestTimeTooSkewed"),
    }
)
"""What S3 and Azure call a missing bucket, and a refusal of the account rather than of one request."""
_CODE = re.compile(r"<Code>(\w+)</Code>")
_QUERY = re.compile(r"\?[^\s\"'`]+")


Kind: TypeAlias = Literal["missing", "taken", "refused", "useless", "other"]


class StoreError(Exception):
    """What a store answered, in one line, without the queries that sign its URLs.

    Attributes:
        kind: ``missing``: there is no such object; ``taken``: there is one already; ``refused``: this account may not
            do that; ``useless``: no bucket, or no such account, so that every object would meet the same; or ``other``.
    """

    def __init__(self, why: str, *, kind: Kind = "other") -> None:
        super().__init__(why)
        self.kind = kind


@attrs.frozen
class Target:
    """One object, which may not be there yet."""

    store: "ObjectStore" = attrs.field(repr=False)
    key: str
    url: str

    @property
    def path(self) -> Path | None:
        """The file, when the store is a folder of this machine."""
        return read_path(self.url) if self.url.startswith("file://") else None

    @property
    def creates(self) -> bool:
        """True when the store itself refuses to write over an object, asked to."""
        config: Any = getattr(self.store, "config", {})
        return not isinstance(self.store, HTTPStore) and config.get("conditional_put", "etag") != "disabled"

    async def is_there(self) -> bool:
        """Return whether there is such an object; not knowing it, for lack of rights, counts as no.

        Raises:
            StoreError: the store cannot be asked.
        """
        try:
            return await self.measure() is not None
        except StoreError as error:
            if error.kind == "refused":
                return False
            raise

    async def measure(self) -> int | None:
        """Return the size of the object, or None if there is none.

        Raises:
            StoreError: it cannot be known; ``refused`` may also mean that there is none, without the right to list.
        """
        try:
            with _explained():
                return (await obstore.head_async(self.store, self.key))["size"]
        except StoreError as error:
            if error.kind == "missing":
                return None
            raise

    async def read(self, start: int, end: int) -> bytes:
        """Read a part of the object."""
        with _explained():
            return bytes(await obstore.get_range_async(self.store, self.key, start=start, end=end))

    async def write(self, blocks: AsyncIterable[bytes], *, whole: bool = False, create: bool = False) -> None:
        """Write the object; what ``blocks`` raises leaves the store as it was.

        Cancelled, it leaves parts that nobody sees and somebody pays for: let ``blocks`` raise instead.

        Args:
            blocks: its bytes.
            whole: hold all of it in memory, and send it by one request; otherwise in parts.
            create: only if there is none, which the store itself decides, and no store of what comes in parts.
                Otherwise it takes the place of one that is there.

        Raises:
            StoreError: it was not written; its kind is ``taken`` when another one is there.
        """
        with _explained():
            await obstore.put_async(
                self.store,
                self.key,
                blocks,
                attributes=None if isinstance(self.store, LocalStore) else {"Content-Type": "audio/flac"},
                mode="create" if create else "overwrite",
                use_multipart=not whole,
                chunk_size=PART,
                max_concurrency=PARTS_OUT,
            )


@attrs.frozen
class Folder:
    """A place in a store."""

    store: "ObjectStore" = attrs.field(repr=False)
    prefix: str
    url: str

    @property
    def identity(self) -> tuple[str, int]:
        """What tells it from other folders: the URL, and the settings of the store."""
        config: dict[str, Any] = getattr(self.store, "config", {})
        return self.url, hash(repr(sorted(config.items())))

    async def find_fault(self) -> str | None:
        """Ask the store for an object that is not there; return None, or why nothing can be saved.

        Rights to write without those to list or read are usual: a refusal of this one request says nothing.
        """
        try:
            await self.name(TRIAL).read(0, 1)
        except StoreError as error:
            if error.kind not in ("missing", "refused"):
                return str(error)
        return None

    async def has(self, name: str) -> bool:
        """Return whether there is such an object, as far as this account may know.

        Raises:
            SettingsError: the store cannot be asked.
        """
        try:
            return await self.name(name).is_there()
        except StoreError as error:
            raise SettingsError(f"{self.url}{name} cannot be looked for: {error}") from None

    async def compare(self, name: str, *, size: int) -> str | None:
        """Return how an object differs from one that was saved with this size, or None.

        Raises:
            SettingsError: the store cannot be asked.
        """
        try:
            found = await self.name(name).measure()
        except StoreError as error:
            raise SettingsError(f"{self.url} cannot be looked into: {error}") from None
        if found is None:
            return "is not there"
        return None if found == size else f"has {found} bytes, and had {size} when it was saved"

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
            raise SettingsError(f"{redact_url(root)} cannot be used: {_shorten(error)}") from error
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
        raise StoreError(_shorten(error), kind=_sort(error)) from None


def _sort(error: Exception) -> Kind:
    code = _CODE.search(str(error))
    if isinstance(error, UnauthenticatedError) or (code and code[1] in _USELESS):
        return "useless"
    kinds: dict[type[Exception], Kind] = {
        FileNotFoundError: "missing",
        AlreadyExistsError: "taken",
        PermissionDeniedError: "refused",
    }
    return kinds.get(type(error), "other")


def _shorten(error: Exception) -> str:
    """Take the line for people, and the provider's code, out of what obstore says; the rest may hold signed URLs."""
    line = str(error).partition("\n")[0].partition(" <?xml")[0].strip(" :")
    code = _CODE.search(str(error))
    return _QUERY.sub("?…", f"{line} ({code[1]})" if code else line)

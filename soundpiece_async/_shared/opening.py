"""Creates the store for a URL. Its driver is an extra, which is imported when such a URL is used."""

from importlib.util import find_spec
from urllib.parse import urlsplit
from uuid import uuid4

from soundpiece_async._core.errors import SharedStoreError
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.settings import Settings
from soundpiece_async._shared.store import Address, Store, find_address

_EXTRAS = {
    "redis": ("redis", "redis"),
    "rediss": ("redis", "redis"),
    "postgresql": ("postgres", "psycopg"),
    "postgres": ("postgres", "psycopg"),
}


def demand_driver(url: str) -> None:
    """Raise an error for a store whose extra is not installed.

    Raises:
        SharedStoreError: names the extra.
    """
    extra, module = _EXTRAS[urlsplit(url).scheme]
    if find_spec(module) is None:
        raise SharedStoreError(
            f"the shared store {redact_url(url)} needs the extra {extra!r}, which is not installed: "
            f"python -m pip install 'soundpiece-async[{extra}]'; nothing was sent"
        )


def open_store(settings: Settings) -> Store:
    """Return the store of the settings, with a unique name for this process; nothing is opened."""
    address = find_address(settings.shared or "", origin=settings.base_url, key=settings.api_key)
    return make_store(address, peer=uuid4().hex)


def make_store(address: Address, *, peer: str) -> Store:
    """Return the store of an address; nothing is opened. Its driver is imported here.

    Args:
        address: of the store.
        peer: this process's name among the others.
    """
    if address.scheme.startswith("redis"):
        from soundpiece_async._shared.redis_store import RedisStore  # it needs the extra

        return RedisStore(address, peer=peer)
    from soundpiece_async._shared.postgres_store import PostgresStore

    return PostgresStore(address, peer=peer)

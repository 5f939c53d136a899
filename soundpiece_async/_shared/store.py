"""The interface of a shared store, and its address."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import attrs

from soundpiece_async._core.errors import SharedStoreError
from soundpiece_async._core.redaction import Secret, redact_text, redact_url
from soundpiece_async._core.shared_gate import Action, GateState

M = TypeVar("M", bound=Callable[..., Coroutine[Any, Any, Any]])

TIMEOUT = 2.0
"""Seconds that a store has for a response; a slower one counts as unavailable."""
NEWS_SECONDS = 900
"""Seconds for which a result is kept for later waiters."""
NEWS_KEPT = 10_000
"""Results of an account that are kept; the oldest are dropped first."""
GATE = "gate"
"""The message that the gate has changed; every other message is the handle of an operation with a result."""


@attrs.frozen
class Address:
    """The address of a store, and the account.

    Args:
        url: for the driver; may contain a password.
        account: a digest, part of the names of keys and channels.
    """

    url: str
    account: str

    def __str__(self) -> str:
        return redact_url(self.url)

    @property
    def scheme(self) -> str:
        """The scheme of the URL, which selects the driver."""
        return urlsplit(self.url).scheme

    def describe(self, error: Exception) -> str:
        """Return the message of a driver's error, without the password, which some drivers repeat."""
        told = str(error) or repr(error)
        if password := urlsplit(self.url).password:
            told = told.replace(password, "…").replace(unquote(password), "…")
        return f"{self}: {redact_text(told)}"


class Store(Protocol):
    """The shared state of an account. Each method raises ``SharedStoreError`` when the store fails or is too slow."""

    async def open(self) -> None:
        """Connect and subscribe; close earlier connections first."""
        ...

    async def close(self) -> None:
        """Close all connections; never raises."""
        ...

    @abstractmethod
    async def perform(self, action: Action) -> GateState:
        """Query or change the gate; ``AccountGate`` defines each action."""
        ...

    async def depart(self) -> None:
        """Remove this process from the live ones."""
        ...

    async def publish(self, handle: str, body: bytes) -> None:
        """Store the result of an operation, and notify every process."""
        ...

    @abstractmethod
    async def look(self, handles: Sequence[str]) -> Mapping[str, bytes]:
        """Return the stored results of these operations."""
        ...

    @abstractmethod
    async def next_message(self) -> str:
        """Wait for a message: ``GATE``, or the handle of an operation."""
        ...


def translated(method: M) -> M:
    """Return a method that raises our error for any exception of the driver.

    The store has its ``address``. The driver's exception is dropped: it and its frames contain the password.
    """

    @wraps(method)
    async def call(store: Any, *args: Any) -> Any:
        try:
            return await method(store, *args)
        except SharedStoreError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            told = store.address.describe(error)
        del args
        raise SharedStoreError(told)

    return cast("M", call)


def find_address(url: str, *, origin: str, key: str) -> Address:
    """Return the address of a setting.

    All keys of an account share one budget, and keys are replaced: ``?account=NAME`` in the URL names the account for
    all of them. Otherwise it is known by the API's origin and the key.
    """
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    name = dict(query).get("account")
    others = urlencode([pair for pair in query if pair[0] != "account"])
    identity = f"{origin}\n{key}" if name is None else f"account\n{name}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
    bare = urlunsplit(parts._replace(query=others))
    return Address(Secret(bare, redact_url(bare)), digest)

"""What a store does for the processes of an account, and where one is."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import attrs

from soundpiece_async._core.errors import SharedStoreError
from soundpiece_async._core.redaction import Secret, redact_text, redact_url
from soundpiece_async._core.shared_gate import Action, Seen

M = TypeVar("M", bound=Callable[..., Coroutine[Any, Any, Any]])

TIMEOUT = 2.0
"""Seconds that a store has for an answer; a slower one counts as away."""
NEWS_SECONDS = 900
"""For which news of an operation are kept for those who begin to wait."""
NEWS_KEPT = 10_000
"""Operations of an account whose news are kept, the oldest going first."""
GATE = "gate"
"""The message that the gate has changed; every other one is the handle of an operation with news."""


@attrs.frozen
class Address:
    """Where a store is, and which account of it is meant.

    Args:
        url: for the driver; it may hold a password.
        account: a digest, part of the names of keys and channels.
    """

    url: str
    account: str

    def __str__(self) -> str:
        return redact_url(self.url)

    @property
    def scheme(self) -> str:
        """What kind of store it is."""
        return urlsplit(self.url).scheme

    def describe(self, error: Exception) -> str:
        """Return what a driver says, without the password, which some repeat."""
        told = str(error) or repr(error)
        if password := urlsplit(self.url).password:
            told = told.replace(password, "…").replace(unquote(password), "…")
        return f"{self}: {redact_text(told)}"


class Store(Protocol):
    """The shared state of an account. Each method raises ``SharedStoreError`` when the store does not do it in time."""

    async def open(self) -> None:
        """Connect, and listen to messages from here on; close first what was open."""
        ...

    async def close(self) -> None:
        """Close all connections; never raises."""
        ...

    @abstractmethod
    async def perform(self, action: Action) -> Seen:
        """Ask about the gate; see ``AccountGate`` for what each question does."""
        ...

    async def depart(self) -> None:
        """Take this process off the list of the live ones."""
        ...

    async def publish(self, handle: str, body: bytes) -> None:
        """Keep the news of an operation, and tell every process that there are some."""
        ...

    @abstractmethod
    async def look(self, handles: Sequence[str]) -> Mapping[str, bytes]:
        """Return the news that are kept of these operations."""
        ...

    @abstractmethod
    async def next_message(self) -> str:
        """Wait for a message: ``GATE``, or the handle of an operation."""
        ...


def translated(method: M) -> M:
    """Make a method of a store raise our error for whatever its driver raises: foreign code, of foreign answers.

    The store has its ``address``. The driver's error is not kept: it, and its frames, hold the password.
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
    """Return the address that a setting stands for.

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

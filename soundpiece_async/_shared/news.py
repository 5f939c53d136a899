"""News of operations that the processes of an account tell one another: whose webhook or final poll one of them saw.

The store keeps them for those who begin to wait later. Nothing waits for it: what is to be told and what is sought are
lists here, which `serve` works off while the store is there.
"""

import json
from collections import OrderedDict, deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

import anyio

from soundpiece_async._core import codec
from soundpiece_async._core.operations import Operation
from soundpiece_async._core.redaction import SecretBytes
from soundpiece_async._core.requests import Handle
from soundpiece_async._shared.store import Store

MOST_TOLD = 4096
"""Operations that are to be told, the oldest going first: so many end while a store is away."""
MOST_BYTES = 65_536
"""Of one piece of news; of a longer one only the operation's handle is told."""
AT_ONCE = 100
"""Operations looked for by one question."""


class News:
    """One per session that shares its account's gate.

    Args:
        confirm: believe nothing of what is told, and tell nothing but handles (``Settings(confirm_webhooks=True)``).
    """

    def __init__(self, *, confirm: bool) -> None:
        self._confirm = confirm
        self._told: OrderedDict[str, bytes] = OrderedDict()
        self._wanted: dict[str, Handle] = {}
        self._sought: dict[str, None] = {}
        self._found: deque[tuple[Handle, Mapping[str, Any] | None]] = deque()
        self._changed = anyio.Event()
        self._arrived = anyio.Event()

    def __repr__(self) -> str:
        return f"<News wanted={len(self._wanted)} sought={len(self._sought)} to tell={len(self._told)}>"

    def tell(self, operation: Operation[Any]) -> None:
        """Tell the others that an operation is over."""
        self._told[str(operation.handle)] = b"" if self._confirm else _write(operation)
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        self._changed.set()

    def want(self, handle: Handle, *, look: bool) -> None:
        """Note that somebody waits for an operation.

        Args:
            handle: of the operation.
            look: its news may be in the store already.
        """
        self._wanted[str(handle)] = handle
        if look:
            self.note(str(handle))

    def drop(self, handle: Handle) -> None:
        """Note that nobody waits for it any more."""
        self._wanted.pop(str(handle), None)
        self._sought.pop(str(handle), None)

    def note(self, name: str) -> None:
        """Note that there may be news of an operation; those that nobody waits for are passed over."""
        if name in self._wanted:
            self._sought[name] = None
            self._changed.set()

    def seek_all(self) -> None:
        """Look for all that is waited for: messages may have been lost."""
        self._sought.update(dict.fromkeys(self._wanted))
        self._changed.set()

    async def next(self) -> tuple[Handle, Mapping[str, Any] | None]:
        """Wait for news of an operation: its JSON, or None when they have to be confirmed."""
        while not self._found:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._found.popleft()

    async def serve(self, store: Store) -> None:
        """Tell and look, until cancelled.

        Raises:
            SharedStoreError: the store is away. What was to be told is told by the next ``serve``; what was sought is
                lost, so ``seek_all`` comes before it.
        """
        while True:
            self._changed = anyio.Event()
            while self._told:
                name, body = next(iter(self._told.items()))
                await store.publish(name, body)
                if self._told.get(name) is body:
                    del self._told[name]
            while self._sought:
                names = list(islice(self._sought, AT_ONCE))
                for name in names:
                    del self._sought[name]
                for name, body in (await store.look(names)).items():
                    if name in self._wanted:
                        self._receive(self._wanted[name], body)
            await self._changed.wait()

    def _receive(self, handle: Handle, body: bytes) -> None:
        self._found.append((handle, None if self._confirm else _read(body, handle)))
        self._arrived.set()


def _write(operation: Operation[Any]) -> bytes:
    """Write an operation as the service told it, or nothing where that has no form here: then others ask."""
    try:
        body = SecretBytes(json.dumps(operation.raw, separators=(",", ":")).encode() if operation.raw else b"")
    except (TypeError, ValueError, RecursionError):
        return b""
    return body if len(body) <= MOST_BYTES else b""


def _read(body: bytes, handle: Handle) -> Mapping[str, Any] | None:
    """Read what another process wrote, if it is about that operation; it need not be one of this version."""
    try:
        found = codec.decode_json(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("id") == handle.id else None

"""Results that the processes of an account share: the operations whose webhook or final poll one of them received.

The store keeps them for later waiters. No caller waits for the store: results to publish and to read are queued here,
and `serve` processes them while the store is available.
"""

import json
from collections import OrderedDict, deque
from collections.abc import Mapping
from itertools import islice

import anyio

from soundpiece_async._core import codec
from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.redaction import SecretBytes
from soundpiece_async._core.requests import Handle
from soundpiece_async._shared.store import Store

MAX_UNPUBLISHED = 4096
"""Maximum number of operations that are queued for an unavailable store; the oldest are dropped first."""
MAX_RESULT_BYTES = 65_536
"""Size limit of one result; of a larger one only the handle is published."""
AT_ONCE = 100
"""Operations read by one query."""


class News:
    """One per session that shares its account's gate.

    Args:
        confirm: publish handles only, and confirm each shared result (``Settings(confirm_webhooks=True)``).
    """

    def __init__(self, *, confirm: bool) -> None:
        self._confirm = confirm
        self._unpublished: OrderedDict[str, bytes] = OrderedDict()
        self._wanted: dict[str, Handle] = {}
        self._sought: dict[str, None] = {}
        self._found: deque[tuple[Handle, Mapping[str, JsonValue] | None]] = deque()
        self._changed = anyio.Event()
        self._arrived = anyio.Event()

    def __repr__(self) -> str:
        return f"<News wanted={len(self._wanted)} sought={len(self._sought)} unpublished={len(self._unpublished)}>"

    def publish(self, operation: AnyOperation) -> None:
        """Publish a final operation to the other processes."""
        self._unpublished[str(operation.handle)] = b"" if self._confirm else _write(operation)
        if len(self._unpublished) > MAX_UNPUBLISHED:
            self._unpublished.popitem(last=False)
        self._changed.set()

    def subscribe(self, handle: Handle, *, read_first: bool) -> None:
        """Record that an operation has a waiter.

        Args:
            handle: of the operation.
            read_first: its result may be in the store already.
        """
        self._wanted[str(handle)] = handle
        if read_first:
            self.note(str(handle))

    def unsubscribe(self, handle: Handle) -> None:
        """Record that it has no waiters any more."""
        self._wanted.pop(str(handle), None)
        self._sought.pop(str(handle), None)

    def note(self, name: str) -> None:
        """Record that an operation may have a result; without waiters it is ignored."""
        if name in self._wanted:
            self._sought[name] = None
            self._changed.set()

    def seek_all(self) -> None:
        """Read all operations with waiters, because messages may have been lost."""
        self._sought.update(dict.fromkeys(self._wanted))
        self._changed.set()

    async def next(self) -> tuple[Handle, Mapping[str, JsonValue] | None]:
        """Wait for a result: its JSON, or None when it has to be confirmed."""
        while not self._found:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._found.popleft()

    async def serve(self, store: Store) -> None:
        """Publish and read until cancelled.

        Raises:
            SharedStoreError: the store is unavailable. Unpublished results stay queued for the next ``serve``; reads
                are lost, so ``seek_all`` is called before it.
        """
        while True:
            self._changed = anyio.Event()
            while self._unpublished:
                name, body = next(iter(self._unpublished.items()))
                await store.publish(name, body)
                if self._unpublished.get(name) is body:
                    del self._unpublished[name]
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


def _write(operation: AnyOperation) -> bytes:
    """Serialize the JSON of an operation, or return b"" if that is not possible: then other processes poll."""
    try:
        body = SecretBytes(json.dumps(operation.raw, separators=(",", ":")).encode() if operation.raw else b"")
    except (TypeError, ValueError, RecursionError):
        return b""
    return body if len(body) <= MAX_RESULT_BYTES else b""


def _read(body: bytes, handle: Handle) -> Mapping[str, JsonValue] | None:
    """Parse what another process wrote, which may have another version; None if it is not about that operation."""
    try:
        found = codec.decode_json(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("id") == handle.id else None

"""Reads operations afresh, and remembers the numbers of their outputs and the latest URLs."""

from collections import OrderedDict
from typing import Any, TypeVar

import anyio
import attrs

from soundpiece_async._core import wire
from soundpiece_async._core.errors import DownloadError
from soundpiece_async._core.models import Operation
from soundpiece_async._core.outputs import Handle, Output, renumber
from soundpiece_async._core.pacing import Turn
from soundpiece_async._core.requests import Request
from soundpiece_async._transport import Transport

R = TypeVar("R", bound=Request | None)

REMEMBERED = 4096
"""Operations whose outputs are remembered, the least recently used going first."""


class Reader:
    """One per session. ``fix`` sees every operation that is read, whoever reads it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._outputs: OrderedDict[Handle, tuple[Output, ...]] = OrderedDict()
        self._renewing: dict[Handle, anyio.Lock] = {}

    def __repr__(self) -> str:
        return f"<Reader remembers={len(self._outputs)} renewing={len(self._renewing)}>"

    def fix(self, operation: Operation[R]) -> Operation[R]:
        """Give an operation's outputs the numbers they had when they were first seen."""
        if not operation.outputs:
            return operation
        known = self._outputs.get(operation.handle)
        outputs = operation.outputs if known is None else renumber(operation.outputs, known)
        self._outputs[operation.handle] = outputs
        self._outputs.move_to_end(operation.handle)
        if len(self._outputs) > REMEMBERED:
            self._outputs.popitem(last=False)
        return attrs.evolve(operation, outputs=outputs)

    def recall(self, handle: Handle) -> tuple[Output, ...]:
        """Give the outputs as they were last seen, or nothing."""
        return self._outputs.get(handle, ())

    async def read(self, handle: Handle, *, request: Request | None, turn: Turn = Turn.SUBMIT) -> Operation[Any]:
        """Ask once how an operation stands, without waiting for it to be ready."""
        call = wire.poll(handle, wait=False)
        return self.fix(
            await self._transport.ask(
                call, turn=turn, read=lambda answer: wire.read_operation(answer, call, handle=handle, request=request)
            )
        )

    async def renew(self, output: Output) -> Output:
        """Get an output's URL signed afresh; one request serves all that ask for the same operation at the same time.

        Raises:
            DownloadError: the operation does not list this output any more.
            SoundpieceError: the request failed.
        """
        lock = self._renewing.setdefault(output.handle, anyio.Lock())
        try:
            async with lock:
                latest = self._find(output)
                if latest is None or latest.url == output.url:
                    await self.read(output.handle, request=None, turn=Turn.RENEWAL)
                    latest = self._find(output)
        finally:
            if not lock.statistics().tasks_waiting:
                self._renewing.pop(output.handle, None)
        if latest is None:
            raise DownloadError(
                f"operation {output.handle} lists no output {output.index} any more", url=output.url, path=""
            )
        return latest

    def _find(self, output: Output) -> Output | None:
        return next((one for one in self.recall(output.handle) if one.index == output.index), None)

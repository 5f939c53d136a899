"""Reads operations afresh, and remembers the numbers of their outputs and the latest URLs."""

from collections import OrderedDict
from functools import partial
from typing import Any, TypeVar

import anyio
import attrs

from soundpiece_async._core import endings, hosts, wire
from soundpiece_async._core.checks import check_handle
from soundpiece_async._core.errors import DownloadError, SoundpieceError, duplicate
from soundpiece_async._core.gate import Turn
from soundpiece_async._core.operations import Operation, Status, match_outputs
from soundpiece_async._core.reading import Reading
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._core.requests import Handle, Output, Request
from soundpiece_async._logs import get_logger
from soundpiece_async._transport import Transport

R = TypeVar("R", bound=Request | None)

logger = get_logger("reader")

REMEMBERED = 4096
"""Operations whose outputs are remembered, the least recently used going first."""

MAX_NOTES = 1000
"""Different oddities that are logged; a service may invent any number of statuses."""


@attrs.define(eq=False)
class _Renewal:
    """A request for fresh URLs, shared by all that wait for it; so is its failure."""

    lock: "anyio.Lock" = attrs.field(factory=lambda: anyio.Lock())  # noqa: PLW0108 - anyio loads it when used
    error: SoundpieceError | None = None


class Reader:
    """One per session. ``fix`` sees every operation that is read, whoever reads it."""

    def __init__(self, transport: Transport) -> None:
        self.ready = self.failed = 0
        self.unknown_statuses: dict[str, None] = {}
        self._noted: set[str] = set()
        self._transport = transport
        self._outputs: OrderedDict[Handle, tuple[Output, ...]] = OrderedDict()
        self._renewing: dict[Handle, _Renewal] = {}

    def __repr__(self) -> str:
        return f"<Reader remembers={len(self._outputs)} renewing={len(self._renewing)}>"

    def take(self, reading: Reading) -> Operation[Any]:
        """Return an operation that was read, as ``fix`` does, and log what is odd about the answer."""
        self.note(reading)
        return self.fix(reading.operation)

    def note(self, reading: Reading) -> None:
        """Log what is odd about an answer, each oddity once in a session: the next ten thousand have it, too."""
        for note in reading.notes:
            if note.about not in self._noted and len(self._noted) < MAX_NOTES:
                self._noted.add(note.about)
                logger.warning("%s: %s (logged once)", reading.operation.handle, note.text)
        if reading.ending.unknown and len(self.unknown_statuses) < MAX_NOTES:
            self.unknown_statuses[redact_text(reading.ending.unknown)] = None

    def fix(self, operation: Operation[R]) -> Operation[R]:
        """Give an operation's outputs whole URLs and the numbers they had when first seen; count it when it is over.

        Of one that was over before, outputs are news whatever its status is called: their URLs may be signed afresh.
        """
        operation = self._resolve(operation)
        known = operation.handle in self._outputs
        if not (endings.is_over(operation) or (known and operation.outputs)):
            return operation
        if not known:
            self.ready += operation.status is Status.READY
            self.failed += operation.status is Status.FAILED
        return self._number(operation)

    def remember(self, operation: Operation[R]) -> Operation[R]:
        """Take an operation as it was seen earlier, perhaps by another process; what was seen since is newer."""
        operation = self._resolve(operation)
        if not endings.is_over(operation):
            return operation  # it says nothing yet of the outputs
        known = self._outputs.get(operation.handle)
        return self._number(operation) if known is None else attrs.evolve(operation, outputs=known)

    def _resolve(self, operation: Operation[R]) -> Operation[R]:
        """Return an operation whose outputs have whole URLs."""
        base = self._transport.base_url
        whole = [hosts.resolve(output.url, base) for output in operation.outputs]
        if all(url is output.url for url, output in zip(whole, operation.outputs, strict=True)):
            return operation
        pairs = zip(operation.outputs, whole, strict=True)
        return attrs.evolve(operation, outputs=tuple(attrs.evolve(output, url=url) for output, url in pairs))

    def _number(self, operation: Operation[R]) -> Operation[R]:
        known = self._outputs.get(operation.handle)
        outputs = operation.outputs if known is None else match_outputs(operation.outputs, known)
        self._outputs[operation.handle] = outputs
        self._outputs.move_to_end(operation.handle)
        if len(self._outputs) > REMEMBERED:
            self._outputs.popitem(last=False)
        return attrs.evolve(operation, outputs=outputs)

    def recall(self, handle: Handle) -> tuple[Output, ...]:
        """Give the outputs as they were last seen, or nothing."""
        return self._outputs.get(handle, ())

    async def read(
        self, handle: Handle, *, request: Request | None, key: str | None = None, turn: Turn = Turn.SUBMIT
    ) -> Operation[Any]:
        """Ask once how an operation stands, without waiting for it to be ready."""
        call = wire.poll(handle, wait=False)
        read = partial(wire.read_poll, handle=handle, request=request, key=key)
        try:
            return self.take(await self._transport.ask(call, turn=turn, read=read))
        except SoundpieceError as error:
            error.about(handle)
            raise

    async def refresh(self, what: Operation[Any] | Handle) -> Operation[Any]:
        """Read an operation again, with the request it had, if that is known."""
        if not isinstance(what, Operation):
            return await self.read(check_handle(what), request=None)
        try:
            latest = await self.read(what.handle, request=what.request, key=wire.key_of(what))
        except SoundpieceError as error:
            error.about(operation=what)
            raise
        return attrs.evolve(latest, echo_differences=what.echo_differences)

    async def renew(self, output: Output) -> Output:
        """Get an output's URL signed afresh; one request serves all that ask for the same operation at the same time.

        Raises:
            DownloadError: the operation does not list this output any more.
            SoundpieceError: the request failed.
        """
        renewal = self._renewing.setdefault(output.handle, _Renewal())
        try:
            async with renewal.lock:
                if renewal.error is not None:  # or each would try again for a whole budget, one after the other
                    raise duplicate(renewal.error)
                latest = await self._sign_afresh(output)
        except SoundpieceError as error:
            renewal.error = error
            raise
        finally:
            state = renewal.lock.statistics()
            if not (state.locked or state.tasks_waiting):
                self._renewing.pop(output.handle, None)
        if latest is None:
            raise DownloadError(
                f"operation {output.handle} lists no output {output.index} any more", url=output.url, path=""
            )
        return latest

    async def _sign_afresh(self, output: Output) -> Output | None:
        latest = self._find(output)
        if latest is not None and latest.url != output.url:
            return latest  # somebody asked meanwhile
        await self.read(output.handle, request=None, turn=Turn.RENEWAL)
        return self._find(output)

    def _find(self, output: Output) -> Output | None:
        return next((one for one in self.recall(output.handle) if one.index == output.index), None)

"""Fills a vessel from a source: blocks are collected, and handed over in batches while the next ones arrive.

One hop to a thread for each MiB, not for each block: hops are the costly part of the usual recipe, and a write on the
event loop stops it whenever the page cache is being flushed. Per stream, two batches are in memory: one being
collected, one being taken.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import attrs
from anyio.streams.memory import MemoryObjectSendStream

from soundpiece_async._core import resuming
from soundpiece_async._core.errors import TransportError
from soundpiece_async._core.resuming import Known, Refused, Take, Unfit, Useless, Verdict, Whole
from soundpiece_async._download.fetching import Setback, Source, TooLarge

if TYPE_CHECKING:
    from soundpiece_async._network import Stream

BATCH = 1 << 20
"""Bytes collected before they are handed over."""
BATCH_AGE = 0.25
"""Seconds after which fewer are handed over too, so that a slow stream loses little when its process is killed."""


class Overrun(Setback):
    """A body longer than announced: none of it can be trusted."""


class Vessel(Protocol):
    """What a body is poured into."""

    @property
    @abstractmethod
    def known(self) -> Known:
        """What the host has said of the file."""

    @known.setter
    def known(self, known: Known) -> None: ...

    @property
    @abstractmethod
    def length(self) -> int:
        """Bytes of the file that are here."""

    async def restart(self, known: Known) -> None:
        """Throw the bytes away; the next ones belong to ``known``."""

    async def append(self, blocks: list[bytes]) -> None:
        """Take the bytes that follow; a DownloadError of it ends the download."""


async def fill(vessel: Vessel, *, source: Source) -> None:
    """Bring the whole file into the vessel.

    Raises:
        SoundpieceError: it cannot be had; what came stays in the vessel, unless the file is larger than is wanted.
    """
    await source.persist(
        lambda: resuming.ask(vessel.length, vessel.known), partial(_read_answer, vessel, source=source)
    )


def demand(verdict: Verdict) -> Take | Whole:
    """Give what can be used of a verdict.

    Raises:
        Setback: there is nothing.
    """
    match verdict:
        case Refused(status):
            raise Setback(f"the host refused the URL ({status})", refused=True)
        case Unfit(why) | Useless(why):
            raise Setback(why)
        case usable:
            return usable


def closing(blocks: AsyncIterator[bytes]) -> AbstractAsyncContextManager[Any]:
    """Close a generator that is left before its end here and now, not when it is collected."""
    return aclosing(blocks) if hasattr(blocks, "aclose") else nullcontext()


async def _read_answer(vessel: Vessel, stream: "Stream", *, source: Source) -> None:
    """Take from an answer what it brings; returning means that the file is whole."""
    verdict = resuming.judge(stream.status, stream.headers, have=vessel.length, known=vessel.known)
    if isinstance(verdict, Useless):
        await vessel.restart(Known())
    take = demand(verdict)
    if isinstance(take, Whole):
        return
    try:
        source.admit(take.known.size or take.end or 0)
        await _pour(stream.blocks, vessel, take=take, source=source)
    except (Overrun, TooLarge):
        await vessel.restart(Known())
        raise
    _check_end(vessel, take)


def _check_end(vessel: Vessel, take: Take) -> None:
    """Find out whether a body that ended cleanly was the rest of the file (``resuming``, rule 5)."""
    size = vessel.known.size
    if vessel.length == size or (size is None and take.certain):
        return
    if size is None and take.end is None:
        vessel.known = attrs.evolve(vessel.known, ended=True)
        raise Setback("the host does not say how long the file is, and its end has to be confirmed")
    raise Setback(f"the body ended at byte {vessel.length} of {size if size is not None else 'an unknown number'}")


async def _pour(blocks: AsyncIterator[bytes], vessel: Vessel, *, take: Take, source: Source) -> None:
    """Put a body where it belongs; when it breaks, what had arrived is taken before the fault is raised.

    It is read from the first moment on, whatever the vessel has to do before: what is not read when it breaks is lost.
    """
    faults: list[Exception] = []
    send, receive = anyio.create_memory_object_stream[list[bytes]](0)

    async def fill_vessel() -> None:
        async with receive:
            if take.start:
                vessel.known = take.known
            else:
                await vessel.restart(take.known)
            async for batch in receive:
                await vessel.append(batch)
                source.reach(vessel.length)

    async def fill_or_stop() -> None:
        try:
            await fill_vessel()
        except Exception as error:  # noqa: BLE001 - raised below: a fault of ours too comes out bare
            faults.insert(0, error)
            filling.cancel_scope.cancel()  # the reader too: a full disk does not wait for the next block

    async with anyio.create_task_group() as filling, send, closing(blocks):
        filling.start_soon(fill_or_stop)
        try:
            await _collect(blocks, send, start=take.start, end=take.end, source=source)
        except Exception as error:  # noqa: BLE001 - the same
            faults.append(error)
    if faults:
        raise faults[0]


async def _collect(
    blocks: AsyncIterator[bytes],
    batches: MemoryObjectSendStream[list[bytes]],
    *,
    start: int,
    end: int | None,
    source: Source,
) -> None:
    """Hand blocks on in batches; they begin at byte ``start`` of the file."""
    batch: list[bytes] = []
    size, reached = 0, start
    begun = anyio.current_time()
    try:
        async for block in blocks:
            source.receive(len(block))
            reached += len(block)
            source.admit(reached)
            if end is not None and reached > end:
                raise Overrun("the host sent more bytes than it had announced")
            batch.append(block)
            size += len(block)
            if size >= BATCH or anyio.current_time() - begun >= BATCH_AGE:
                await batches.send(batch)
                batch, size, begun = [], 0, anyio.current_time()
    except TransportError:
        await batches.send(batch)
        raise
    await batches.send(batch)

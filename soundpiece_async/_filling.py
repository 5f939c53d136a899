"""Fills a part file from a source: blocks are collected, and written by a thread while the next ones arrive.

One hop to a thread for each MiB, not for each block: hops are the costly part of the usual recipe, and a write on the
event loop stops it whenever the page cache is being flushed. Per stream, two batches are in memory: one being
collected, one being written.
"""

import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

import aiofiles.os
import anyio
import anyio.to_thread
import attrs
from anyio.streams.memory import MemoryObjectSendStream

from soundpiece_async._core import resuming
from soundpiece_async._core.errors import DownloadError, TransportError
from soundpiece_async._core.resuming import Known, Refused, Take, Unfit, Useless, Verdict, Whole
from soundpiece_async._fetching import Setback, Source
from soundpiece_async._partfile import PartFile

if TYPE_CHECKING:
    from soundpiece_async._transport import Stream

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BATCH = 1 << 20
"""Bytes collected before they are written."""
BATCH_AGE = 0.25
"""Seconds after which fewer are written too, so that a slow stream loses little when its process is killed."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Overrun(Setback):
    """A body longer than announced: none of it can be trusted."""


class Disk:
    """Runs the blocking file work of one save in worker threads; what goes wrong there is a DownloadError, at once."""

    def __init__(self, source: Source, *, threads: anyio.CapacityLimiter) -> None:
        self._source = source
        self._threads = threads

    async def run(self, call: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Call in a thread, and wait for its end."""
        with self._explained():
            return await anyio.to_thread.run_sync(call, *args, limiter=self._threads)

    async def finish(self, call: Callable[[], None]) -> None:
        """Call in a thread and see it through, whoever cancels: only then does the cancellation go on.

        A shield alone does not hold against asyncio's own ``task.cancel()``, but that never hits a task group's child.
        """
        faults: list[DownloadError] = []

        async def work() -> None:
            with anyio.CancelScope(shield=True):
                try:
                    await self.run(call)
                except DownloadError as error:
                    faults.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(work)
        if faults:
            raise faults[0]

    async def make_folder(self, folder: Path) -> None:
        """Make a folder, if missing, and those above it."""
        with self._explained():
            await aiofiles.os.makedirs(folder, exist_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _NO_ROOM:
                why = f"the disk is full ({error.strerror}); free some space, then call download again"
            else:
                why = f"the file system said: {error}"
            raise self._source.fail(why) from error


async def fill(part: PartFile, *, source: Source, disk: Disk) -> None:
    """Bring the whole file into the part.

    Raises:
        SoundpieceError: it cannot be had; what came is kept for the next call.
    """
    await source.persist(
        lambda: resuming.ask(part.length, part.known), partial(_read_answer, part, source=source, disk=disk)
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


async def _read_answer(part: PartFile, stream: "Stream", *, source: Source, disk: Disk) -> None:
    """Take from an answer what it brings; returning means that the file is whole."""
    verdict = resuming.judge(stream.status, stream.headers, have=part.length, known=part.known)
    if isinstance(verdict, Useless):
        await disk.run(part.restart, Known())
    take = demand(verdict)
    if isinstance(take, Whole):
        return
    if take.start:
        part.known = take.known
    else:
        await disk.run(part.restart, take.known)
    try:
        await _pour(
            stream.blocks, part, room=None if take.end is None else take.end - take.start, source=source, disk=disk
        )
    except Overrun:
        await disk.run(part.restart, Known())
        raise
    _check_end(part, take)


def _check_end(part: PartFile, take: Take) -> None:
    """Find out whether a body that ended cleanly was the rest of the file (``resuming``, rule 5)."""
    size = part.known.size
    if part.length == size or (size is None and take.certain):
        return
    if size is None and take.end is None:
        part.known = attrs.evolve(part.known, ended=True)
        raise Setback("the host does not say how long the file is, and its end has to be confirmed")
    raise Setback(f"the body ended at byte {part.length} of {size if size is not None else 'an unknown number'}")


async def _pour(blocks: AsyncIterator[bytes], part: PartFile, *, room: int | None, source: Source, disk: Disk) -> None:
    """Write a body behind what is there; when it breaks, what had arrived is written before the fault is raised."""
    faults: list[DownloadError | TransportError | Setback] = []
    send, receive = anyio.create_memory_object_stream[list[bytes]](0)

    async def write() -> None:
        async with receive:
            async for batch in receive:
                await disk.run(part.append, batch)
                source.reach(part.length)

    async def write_or_stop() -> None:
        try:
            await write()
        except DownloadError as error:
            faults.insert(0, error)
            writing.cancel_scope.cancel()  # the reader too: a full disk does not wait for the next block

    async with anyio.create_task_group() as writing, send, closing(blocks):
        writing.start_soon(write_or_stop)
        try:
            await _collect(blocks, send, room=room, source=source)
        except (TransportError, Setback) as error:
            faults.append(error)
    if faults:
        raise faults[0]


async def _collect(
    blocks: AsyncIterator[bytes],
    batches: MemoryObjectSendStream[list[bytes]],
    *,
    room: int | None,
    source: Source,
) -> None:
    """Hand blocks on in batches."""
    batch: list[bytes] = []
    size = arrived = 0
    begun = anyio.current_time()
    try:
        async for block in blocks:
            source.receive(len(block))
            arrived += len(block)
            if room is not None and arrived > room:
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

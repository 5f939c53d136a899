"""Writes a response body to a sink, or compares its first bytes with a file that exists.

Which task writes the file: ``fill_or_stop``, a child of the download's own task, which reads the socket meanwhile. The
bytes themselves are written in a worker thread (``FileWorker`` in ``partfile.py``). Blocks are collected and handed
over in batches while the next ones arrive. One hop to a thread for each MiB, not for each block: hops are the costly
part of the usual recipe, and a write on the event loop stops it whenever the page cache is being flushed. Per stream,
two batches are in memory: one being collected, one being written.

The first 42 bytes of a file, and the tag before them, hold the MD5 of the audio (STREAMINFO). With the size they tell
one recording from another, so a file that exists is compared without fetching more than that.
"""

from abc import abstractmethod
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio
import attrs
from anyio.streams.memory import MemoryObjectSendStream

from soundpiece_async._core import flac, ranges
from soundpiece_async._core.errors import DownloadError, TransportError
from soundpiece_async._core.flac import FlacHeader
from soundpiece_async._core.ranges import (
    Complete,
    RangeResult,
    RemoteFile,
    RetryLater,
    StartOver,
    UrlRejected,
    WriteFrom,
)
from soundpiece_async._download.content_encoding import Plain, Unpacked, unpack
from soundpiece_async._download.fetch import AttemptFailed, Body, OutputDownload, TooLarge

if TYPE_CHECKING:
    from soundpiece_async._http.client import Stream

BATCH = 1 << 20
"""Bytes collected before they are written."""
BATCH_AGE = 0.25
"""Seconds after which a smaller batch is written, so that a killed process loses little of a slow stream."""


class ExcessBody(AttemptFailed):
    """A body longer than announced: none of its bytes can be trusted."""


class Sink(Protocol):
    """Destination of a download: a file, a stream or an object."""

    @property
    @abstractmethod
    def known(self) -> RemoteFile:
        """What the host said about the file."""

    @known.setter
    def known(self, known: RemoteFile) -> None: ...

    @property
    @abstractmethod
    def length(self) -> int:
        """Bytes of the file received."""

    async def restart(self, known: RemoteFile) -> None:
        """Discard the bytes; the following ones belong to the version ``known``."""

    async def append(self, blocks: list[bytes]) -> None:
        """Write the next bytes; a DownloadError from here ends the download."""

    async def read_header(self) -> FlacHeader | None:
        """Read the header of the file; None if it is incomplete or invalid."""

    async def ends_whole(self, duration: float | None) -> bool | None:
        """Return whether the last bytes are the last frame of a FLAC file; None if that cannot be determined."""


async def download_into(sink: Sink, *, download: OutputDownload) -> str | None:
    """Fetch a whole file into a sink.

    Returns:
        The fault at its end, as a clause for messages, if the host sends no more bytes though the audio is incomplete;
        else None.

    Raises:
        SoundpieceError: the file cannot be fetched. The bytes received stay in the sink, unless the file is too large.
    """
    return await download.retry(
        lambda: ranges.range_headers(sink.length, sink.known), partial(_read_response, sink, download=download)
    )


def usable(verdict: RangeResult) -> WriteFrom | Complete:
    """Return a verdict that allows to use the response.

    Raises:
        AttemptFailed: the response is unusable.
    """
    match verdict:
        case UrlRejected(status):
            raise AttemptFailed(f"the host rejected the URL ({status})", rejected=True)
        case RetryLater(why) | StartOver(why):
            raise AttemptFailed(why)
        case found:
            return found


async def _read_response(sink: Sink, stream: "Stream", *, download: OutputDownload) -> str | None:
    """Write a response to the sink, up to the end of the file. Returns as ``download_into``."""
    verdict = ranges.interpret(stream.status, stream.headers, have=sink.length, known=sink.known)
    if isinstance(verdict, StartOver):
        await sink.restart(RemoteFile())
    take = usable(verdict)
    if isinstance(take, Complete):
        return None
    try:
        download.check_announced_size(take.known.size or take.end or 0)
        body = await unpack(download.open_body(stream), take.encodings)
        if isinstance(body, Unpacked):  # the announced length and ETag are those of the encoded body
            take = WriteFrom(start=0, end=None, certain=True, known=RemoteFile())
        await _write_body(body, sink, take=take, download=download)
    except (ExcessBody, TooLarge):
        await sink.restart(RemoteFile())
        raise
    return await _check_end(sink, take, download=download)


async def _check_end(sink: Sink, take: WriteFrom, *, download: OutputDownload) -> str | None:
    """Check whether a body that ended cleanly was the rest of the file (``ranges``, rule 5)."""
    size = sink.known.size
    if sink.length == size or (size is None and take.certain):
        return None
    if size is not None or take.end is not None:
        raise AttemptFailed(f"the body ended at byte {sink.length} of {'an unknown number' if size is None else size}")
    whole = await sink.ends_whole(download.output.duration)
    if whole:
        return None
    if download.ended_here_before(sink.length):
        fault = f"it ends at byte {sink.length} each time, which is not the end of its last frame"
        return None if whole is None else fault
    sink.known = attrs.evolve(sink.known, ended=True)
    raise AttemptFailed("the host does not say how long the file is, and its end has to be confirmed")


async def _write_body(body: "Body | Plain", sink: Sink, *, take: WriteFrom, download: OutputDownload) -> None:
    """Write a body to the sink; when reading fails, the bytes received are written before the error is raised.

    Reading starts at once, even while the sink is busy: bytes that are unread when the connection breaks are lost.
    """
    faults: list[Exception] = []
    send, receive = anyio.create_memory_object_stream[list[bytes]](0)

    async def fill_sink() -> None:
        async with receive:
            if take.start:
                sink.known = take.known
            else:
                await sink.restart(take.known)
            async for batch in receive:
                await sink.append(batch)
                download.record_progress(sink.length)

    async def fill_or_stop() -> None:
        try:
            await fill_sink()
        except Exception as error:  # noqa: BLE001 - raised below: an error of ours, too, must leave without a group
            faults.insert(0, error)
            filling.cancel_scope.cancel()  # stop reading at once, as when the disk is full

    async with anyio.create_task_group() as filling, send, aclosing(body):
        filling.start_soon(fill_or_stop)
        try:
            await _batch_blocks(body, send, take=take, sink=sink, download=download)
        except Exception as error:  # noqa: BLE001 - the same
            faults.append(error)
    if faults:
        raise faults[0]


async def _batch_blocks(
    body: "Body | Plain",
    batches: MemoryObjectSendStream[list[bytes]],
    *,
    take: WriteFrom,
    sink: Sink,
    download: OutputDownload,
) -> None:
    """Collect blocks into batches; the first begins at the byte that ``take`` names."""
    batch: list[bytes] = []
    size, reached, bound = 0, take.start, download.max_size()
    begun = anyio.current_time()
    try:
        async for block in body:
            reached += len(block)
            if take.end is not None and reached > take.end:
                raise ExcessBody("the host sent more bytes than it had announced")
            if reached > bound:
                header = await sink.read_header()
                download.check_size(reached, header=header)
                bound = download.max_size(header)
            batch.append(block)
            size += len(block)
            if size >= BATCH or anyio.current_time() - begun >= BATCH_AGE:
                await batches.send(batch)
                batch, size, begun = [], 0, anyio.current_time()
    except (TransportError, AttemptFailed) as error:
        if not isinstance(error, ExcessBody):
            await batches.send(batch)
        raise
    await batches.send(batch)


@attrs.frozen
class FileHead:
    """The first bytes of a file, and its size, if known."""

    head: bytes
    size: int | None


async def compare_with_existing(here: FileHead, *, download: OutputDownload) -> DownloadError | None:
    """Compare an existing file with the host's; return an error that names the difference, or None.

    Raises:
        SoundpieceError: the request to the host failed.
    """
    wanted = max(len(here.head), flac.HEADER_BYTES)
    asked = {"Accept-Encoding": "identity", "Range": f"bytes=0-{wanted - 1}"}
    remote = await download.retry(lambda: asked, partial(_read_head, asked=asked, wanted=wanted, download=download))
    if remote.size is None:
        return download.error(
            "it already exists, and cannot be compared: the host states no size; remove it, or pass overwrite=True"
        )
    if remote != here:
        return download.error(
            "it already exists with different content; choose another name or folder, remove it, or pass overwrite=True"
        )
    return None


async def _read_head(stream: "Stream", *, asked: dict[str, str], wanted: int, download: OutputDownload) -> FileHead:
    """Read the first bytes. If the host ignores ranges, read the rest only where no header states the size."""
    verdict = usable(ranges.interpret(stream.status, stream.headers, have=0, known=RemoteFile()))
    encodings = verdict.encodings if isinstance(verdict, WriteFrom) else ()
    body = await unpack(download.open_body(stream), encodings)
    if isinstance(body, Unpacked) and asked.pop("Range", ""):
        raise AttemptFailed("the host encodes the response, and a range of that cannot be decoded")
    size = None if isinstance(body, Unpacked) else ranges.read_total(stream.headers)
    count_all = size is None and (isinstance(body, Unpacked) or "content-range" not in stream.headers)
    head, arrived = b"", 0
    async with aclosing(body):
        async for block in body:
            arrived += len(block)
            head += block[: wanted - len(head)]
            if len(head) == wanted and not count_all:
                break
            if arrived > download.max_size():
                return FileHead(head, None)
    if size is not None and len(head) < min(size, wanted):
        raise AttemptFailed(f"the body ended after {len(head)} bytes")
    return FileHead(head, arrived if count_all else size)

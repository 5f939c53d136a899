"""Writes a response body to a sink, or compares its first bytes with a file that exists.

Which task writes the file: ``write_or_stop``, a child of the task that downloads, which reads the socket meanwhile. The
last batch, often the only one, stays in memory until that task publishes the file (``file_sink.FileSink``).
The bytes themselves are written in a worker thread (``file_sink.FileWorker``). Blocks are collected and
handed over in batches while the next ones arrive. One hop to a thread for each MiB, not for each block: hops are the
costly part of the usual recipe, and a write on the event loop stops it whenever the page cache is being flushed. Per
stream, two batches are in memory: one being collected, one being written.

The first 42 bytes of a file, and the tag before them, hold the MD5 of the audio (STREAMINFO). With the size they tell
one recording from another, so a file that exists is compared without fetching more than that.
"""

from abc import abstractmethod
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import anyio
import attrs

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

    A batch is written while the next one is read, so that reading stops only when two are in memory.
    """
    faults: list[Exception] = []
    batches = _Batches(body, take=take, sink=sink, download=download)

    async def write_or_stop(batch: list[bytes], reading: anyio.CancelScope) -> None:
        try:
            await _append(sink, batch, download=download)
        except Exception as error:  # noqa: BLE001 - raised below: an error of ours, too, must leave without a group
            faults.append(error)
            reading.cancel()  # at once, as when the disk is full

    async with aclosing(body):
        batch = await batches.next()
        if take.start:
            sink.known = take.known
        else:
            await sink.restart(take.known)
        while not batches.ended and not faults:
            async with anyio.create_task_group() as group:
                group.start_soon(write_or_stop, batch, group.cancel_scope)
                batch = await batches.next()
        if not faults:
            await _append(sink, batch, download=download)
    if fault := next(iter(faults), batches.fault):
        raise fault


async def _append(sink: Sink, batch: list[bytes], *, download: OutputDownload) -> None:
    await sink.append(batch)
    download.record_progress(sink.length)


class _Batches:
    """The blocks of a body, collected into batches; the first begins at the byte that ``take`` names.

    Attributes:
        ended: the latest batch is the last one.
        fault: the error that ended the body, if one did.
    """

    def __init__(self, body: "Body | Plain", *, take: WriteFrom, sink: Sink, download: OutputDownload) -> None:
        self.ended: bool = False
        self.fault: Exception | None = None
        self._body = body
        self._end = take.end
        self._reached = take.start
        self._bound = download.max_size()
        self._sink = sink
        self._download = download

    async def next(self) -> list[bytes]:
        """Collect a batch; empty if the body ended, or if its bytes cannot be trusted."""
        batch: list[bytes] = []
        size, begun = 0, monotonic()
        try:
            async for block in self._body:
                await self._count(len(block))
                batch.append(block)
                size += len(block)
                if size >= BATCH or monotonic() - begun >= BATCH_AGE:
                    return batch
        except Exception as error:  # noqa: BLE001 - raised once the bytes before it are written
            self.fault = error
            if isinstance(error, ExcessBody) or not isinstance(error, TransportError | AttemptFailed):
                batch = []
        self.ended = True
        return batch

    async def _count(self, size: int) -> None:
        """Count the bytes of a block, of which there may be too many."""
        self._reached += size
        if self._end is not None and self._reached > self._end:
            raise ExcessBody("the host sent more bytes than it had announced")
        if self._reached > self._bound:
            header = await self._sink.read_header()
            self._download.check_size(self._reached, header=header)
            self._bound = self._download.max_size(header)


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

"""One output to one file, or nothing.

1. A file with its final name is whole, verified and durable: it grows beside it, as a ``PartFile``, renamed last.
2. One writer per target: tasks of this process wait for each other here, processes at the lock of the ``.part``.
3. A file already there is compared with the host's first 42 bytes and size; the same one is never fetched again.
4. What fails its check is fetched anew once; then it is what the host has.
"""

import importlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import attrs

from soundpiece_async._core import flac, resuming
from soundpiece_async._core.errors import CorruptAudio, DownloadError, SettingsError, SoundpieceError
from soundpiece_async._core.flac import FlacHeader, HeaderError
from soundpiece_async._core.models import SavedFile
from soundpiece_async._core.names import file_names
from soundpiece_async._core.outputs import Output
from soundpiece_async._core.resuming import Known
from soundpiece_async._core.settings import Verify
from soundpiece_async._fetching import OutputHost, Setback, Source
from soundpiece_async._filling import Disk, closing, demand, fill
from soundpiece_async._partfile import Claim, PartFile, read_facts

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from soundpiece_async._transport import Stream

logger = logging.getLogger("soundpiece_async.downloader")

THREADS = 4
"""Worker threads for file work: more make the event loop late, because they hold the interpreter's lock in turn."""
LOCK_POLL = 0.1
"""Seconds between two looks at a lock that another process holds."""

Inspect = Callable[[bytes, Path, float | None], tuple[FlacHeader | None, str | None]]
_FIRST_BYTES = {"Accept-Encoding": "identity", "Range": f"bytes=0-{flac.HEADER_BYTES - 1}"}


class Downloader:
    """Saves outputs. One per session; open for any number of ``save`` at once.

    Args:
        stream: opens a URL, as ``Transport.stream`` does.
        renew: gives the output with its URL signed afresh; its errors leave ``save`` as they are.
        limit: streams at once.
        verify: ``"header"``, ``"full"`` (extra ``verify``) or ``"none"``, as in ``Settings``.
        stalls: attempts in a row without a new byte, after which a download gives up.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        *,
        stream: Callable[..., "AbstractAsyncContextManager[Stream]"],
        renew: Callable[[Output], Awaitable[Output]],
        limit: int,
        verify: Verify = "header",
        stalls: int = 6,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.saved = 0
        self._verify: Verify = verify
        self._host = OutputHost(
            stream=stream, renew=renew, slots=anyio.CapacityLimiter(limit), stalls=stalls, sleep=sleep
        )
        self._threads = anyio.CapacityLimiter(THREADS)
        self._queues: dict[Path, _Queue] = {}

    def __repr__(self) -> str:
        return (
            f"<Downloader streams={self.streams_out}/{self._host.slots.total_tokens:.0f} targets={len(self._queues)} "
            f"saved={self.saved} received={self.received} verify={self._verify}>"
        )

    @property
    def streams_out(self) -> int:
        """Streams open now."""
        return self._host.slots.borrowed_tokens

    @property
    def received(self) -> int:
        """Bytes of bodies that came from the output host, those fetched twice included."""
        return self._host.received

    async def save(self, output: Output, target: Path, *, overwrite: bool = False) -> SavedFile:
        """Bring an output to ``target``, whose folder is made if missing.

        Cancelled or failed, it leaves at most a ``.part`` and its note, from which the next call goes on. A file
        that is there already and is the same is taken as it is.

        Raises:
            CorruptAudio: what the host has is not the FLAC it should be; it was fetched twice.
            DownloadError: it cannot be had or written, or another file is there and ``overwrite`` is false.
            SettingsError: ``verify="full"`` without the extra ``verify``.
            SoundpieceError: whatever ``renew`` raises.
        """
        source = Source(output, target=str(target), host=self._host)
        disk = Disk(source, threads=self._threads)
        inspect = await disk.run(_prepare_inspection, self._verify)
        part = PartFile(target, source=f"{output.handle}#{output.index}")
        async with self._alone(await disk.run(target.absolute)):
            try:
                await disk.make_folder(target.parent)
                return await self._take(part, source=source, disk=disk, inspect=inspect, overwrite=overwrite)
            finally:
                await disk.finish(part.close)

    async def save_all(
        self, outputs: Sequence[Output], folder: Path, stem: str, *, overwrite: bool = False
    ) -> list[SavedFile]:
        """Bring all outputs of an operation into a folder, at once, under the names ``file_names`` gives them.

        Raises:
            SoundpieceError: the first of them that could not be saved, once the others are; notes name further ones.
        """
        files: dict[int, SavedFile] = {}
        errors: list[SoundpieceError] = []

        async def save(place: int, name: str) -> None:
            try:
                files[place] = await self.save(outputs[place], folder / name, overwrite=overwrite)
            except SoundpieceError as error:
                errors.append(error)

        async with anyio.create_task_group() as saving:
            for place, name in enumerate(file_names(stem, outputs)):
                saving.start_soon(save, place, name)
        if errors:
            for error in errors[1:]:
                errors[0].add_note(f"and: {error}")
            raise errors[0]
        return [files[place] for place in range(len(outputs))]

    @asynccontextmanager
    async def _alone(self, target: Path) -> AsyncGenerator[None]:
        """Wait until no other task of this process works on a target (rule 2)."""
        queue = self._queues.setdefault(target, _Queue())
        queue.length += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[target]

    async def _take(
        self, part: PartFile, *, source: Source, disk: Disk, inspect: Inspect, overwrite: bool
    ) -> SavedFile:
        """Become the only writer of a target, or find that the file is there (rules 2 and 3)."""
        replace = False
        while True:
            claim = await disk.run(partial(part.claim, overwrite=replace))
            if claim is Claim.MINE:
                return await self._fetch(part, source=source, disk=disk, inspect=inspect)
            if claim is Claim.TAKEN:
                await anyio.sleep(LOCK_POLL)  # a lock of another process sends no event
                continue
            found = await self._compare(part.target, source=source, disk=disk, inspect=inspect)
            if isinstance(found, SavedFile):
                return found
            if not overwrite:
                raise found
            replace = True

    async def _fetch(self, part: PartFile, *, source: Source, disk: Disk, inspect: Inspect) -> SavedFile:
        """Fill the part, check it, and give it its name (rules 1 and 4)."""
        fault: str | None = None
        for _ in range(2):
            await fill(part, source=source, disk=disk)
            header, fault = await disk.run(inspect, await disk.run(part.head), part.path, source.output.duration)
            if fault is None:
                size, sha256 = part.length, part.sha256()
                await disk.run(part.publish)
                self.saved += 1
                logger.info("%s: saved as %s, %d bytes", source.output.handle, part.target, size)
                return _describe(part.target, size=size, sha256=sha256, header=header, output=source.output)
            logger.warning("%s: %s is not what it should be: %s", source.output.handle, part.target, fault)
            await disk.run(part.restart, Known())
            source.forget()
        raise source.fail(
            f"{fault}; it was fetched twice. Settings(verify='none') takes it as it is", error=CorruptAudio
        )

    async def _compare(
        self, target: Path, *, source: Source, disk: Disk, inspect: Inspect
    ) -> SavedFile | DownloadError:
        """Take the file that is there, or say why not (rule 3): STREAMINFO holds the MD5 of the audio."""
        facts = await disk.run(read_facts, target)
        remote = await source.persist(lambda: _FIRST_BYTES, partial(_read_first, source=source))
        if remote.size is None:
            return source.fail(
                "a file is there, and the host does not say how long its own is; overwrite=True fetches it"
            )
        if (remote.head, remote.size) != (facts.head, facts.size):
            return source.fail(
                "a different file is already there; choose another name, or overwrite=True to replace it"
            )
        header, fault = await disk.run(inspect, facts.head, target, source.output.duration)
        if fault is not None:
            return source.fail(
                f"the file that is there is damaged: {fault}; overwrite=True fetches it", error=CorruptAudio
            )
        return _describe(target, size=facts.size, sha256=facts.sha256, header=header, output=source.output)


@attrs.define(eq=False)
class _Queue:
    """Tasks that want the same target, the one at work included."""

    lock: anyio.Lock = attrs.field(factory=anyio.Lock)
    length: int = 0


@attrs.frozen
class _First:
    """How the host's file begins, and how long it is, if the host says so."""

    head: bytes
    size: int | None


async def _read_first(stream: "Stream", *, source: Source) -> _First:
    """Read the first bytes; a host without ranges sends more, which is read only where nothing else says how much."""
    demand(resuming.judge(stream.status, stream.headers, have=0, known=Known()))
    size = resuming.read_total(stream.headers)
    count_all = size is None and "content-range" not in stream.headers
    head, arrived = b"", 0
    async with closing(stream.blocks):
        async for block in stream.blocks:
            source.receive(len(block))
            arrived += len(block)
            head += block[: flac.HEADER_BYTES - len(head)]
            if len(head) == flac.HEADER_BYTES and not count_all:
                break
    if size is not None and len(head) < min(size, flac.HEADER_BYTES):
        raise Setback(f"the body ended after {len(head)} bytes")
    return _First(head, arrived if count_all else size)


def _prepare_inspection(verify: Verify) -> Inspect:
    """Load what a check needs. Blocks: the decoder is a large import."""
    if verify != "full":
        return partial(_inspect, verify=verify, decode=None)
    try:
        decoding = importlib.import_module("soundpiece_async._decoding")
    except ImportError as error:
        raise SettingsError(
            f"verify='full' decodes audio and needs {error.name}: pip install 'soundpiece-async[verify]'"
        ) from error
    return partial(_inspect, verify=verify, decode=decoding.find_fault)


def _inspect(
    head: bytes,
    path: Path,
    duration: float | None,
    *,
    verify: Verify,
    decode: Callable[[Path, FlacHeader], str | None] | None,
) -> tuple[FlacHeader | None, str | None]:
    """Give what a file's header says, and what is wrong with the file, if anything. Blocks when it decodes."""
    try:
        header = flac.read_header(head)
    except HeaderError as error:
        return None, None if verify == "none" else str(error)
    fault = None if verify == "none" else flac.find_fault(header, duration=duration)
    if fault is None and decode is not None:
        fault = decode(path, header)
    return header, fault


def _describe(path: Path, *, size: int, sha256: str, header: FlacHeader | None, output: Output) -> SavedFile:
    """Make the record of a saved file; without a header (``verify="none"``) the length is the announced one."""
    duration = None if header is None else header.duration
    return SavedFile(
        path=path,
        bytes=size,
        sha256=sha256,
        duration=duration if duration is not None else output.duration or 0.0,
        sample_rate=0 if header is None else header.sample_rate,
        channels=0 if header is None else header.channels,
        output=output,
    )

"""Names and saves the outputs of operations: each to one file or object, whole or not at all.

These are the rules for files; those for objects stand in ``_download.store_downloads``.

1. A file with its final name is whole, verified and durable: it grows beside it, as a ``PartFile``, renamed last.
2. One writer per target: tasks of this process wait here for each other, processes at the lock of the ``.part``, as
   long as that grows.
3. A file that exists is compared with the host's by first bytes and size; the same file is never fetched again.
4. A file that fails its check is fetched once more; the second failure is an error.
5. Few files are open at a time: a thousand that wait for a stream would need a thousand descriptors.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core import completion, wire
from soundpiece_async._core.checks import check_output
from soundpiece_async._core.containment import note_others
from soundpiece_async._core.errors import CorruptAudio, DownloadError, NotReady, SoundpieceError
from soundpiece_async._core.filenames import file_names, plainer_name
from soundpiece_async._core.operations import AnyOperation, Operation
from soundpiece_async._core.ranges import ByteRange, RemoteFile
from soundpiece_async._core.requests import Handle, Output
from soundpiece_async._core.results import SavedFile
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.destinations import Destination, Destinations
from soundpiece_async._download.fetch import DownloadContext, OutputDownload, log_warnings
from soundpiece_async._download.file_sink import FileSink, FileWorker
from soundpiece_async._download.partfile import Claim, LockWatch, PartFile, Superseded, read_file_info, refuses_name
from soundpiece_async._download.relay import RangeRelay, VerifiedRelay
from soundpiece_async._download.transfer import FileHead, compare_with_existing, download_into
from soundpiece_async._download.verify import Verification, Verifier, make_saved_file, make_verifier
from soundpiece_async._locks import KeyedLocks
from soundpiece_async._logs import get_logger
from soundpiece_async._operations import Reader

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from soundpiece_async._download.stores import Target
    from soundpiece_async._http.client import Stream

logger = get_logger("downloader")

THREADS = 4
"""Worker threads for file work: more delay the event loop, because they hold the interpreter's lock in turn."""
FILES_PER_STREAM = 2
"""Files open for each stream: while one is synced and renamed, the next is claimed."""
MAX_PARALLEL_FILES = 32
"""Files of one operation saved at the same time, or as many as may be streamed: it may have thousands."""
LOCK_POLL = 0.1
"""Seconds between two attempts at a lock that another process holds."""


class Downloader:
    """Saves outputs. One per session; any number of ``save`` may run at once.

    Args:
        stream: opens a URL, as ``Transport.stream`` does.
        renew: returns the output with a newly signed URL; its errors leave ``save`` unchanged.
        limit: concurrent streams.
        verify: ``"header"``, ``"full"`` (extra ``verify``) or ``"none"``, as in ``Settings``.
        keep_corrupt: keep a file that failed its check, as ``<name>.corrupt``.
        max_bytes: of one file; None: the largest that is plausible for its duration.
        max_elapsed: seconds without a new byte, after which a download gives up.
        slowest: bytes per second that a stream must reach, over ``window`` seconds; None: no minimum.
        window: seconds.
        close_idle: closes idle connections, to free descriptors.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        *,
        stream: Callable[..., "AbstractAsyncContextManager[Stream]"],
        renew: Callable[[Output], Awaitable[Output]],
        limit: int,
        verify: Verify = "header",
        keep_corrupt: bool = False,
        max_bytes: int | None = None,
        max_elapsed: float = 300.0,
        slowest: float | None = None,
        window: float = 30.0,
        close_idle: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.saved: int = 0
        self._verify: Verify = verify
        self._keep_corrupt = keep_corrupt
        self._context = DownloadContext(
            stream=stream,
            renew=renew,
            slots=anyio.CapacityLimiter(limit),
            sleep=sleep,
            max_elapsed=max_elapsed,
            slowest=slowest,
            window=window,
            max_bytes=max_bytes,
            close_idle=close_idle,
        )
        self._threads = anyio.CapacityLimiter(THREADS)
        self._destinations = Destinations(self._threads)
        self._uploads = anyio.CapacityLimiter(limit)  # each may hold a whole object in memory, even after its download
        self._targets = KeyedLocks()  # rule 2
        self._files = anyio.Semaphore(FILES_PER_STREAM * limit, fast_acquire=True)  # rule 5
        self._verifier: Verifier | None = None

    def __repr__(self) -> str:
        return (
            f"<Downloader streams={self.active_streams}/{self._context.slots.total_tokens:.0f} "
            f"targets={len(self._targets)} saved={self.saved} received={self.received} verify={self._verify}>"
        )

    @property
    def active_streams(self) -> int:
        """Open streams."""
        return self._context.slots.borrowed_tokens

    @property
    def received(self) -> int:
        """Bytes of response bodies from the output host, including those fetched twice."""
        return self._context.received

    def open(
        self,
        output: Output,
        *,
        emit: Callable[[list[bytes]], Awaitable[None]],
        wanted: ByteRange | None = None,
        if_range: str | None = None,
    ) -> VerifiedRelay | RangeRelay:
        """Return a relay of an output, or of the wanted range of it, that has not started.

        Raises:
            SettingsError: ``verify="full"``: frames are decoded from files only.
        """
        download = OutputDownload(output, target="", context=self._context)
        relay = VerifiedRelay(download, emit=emit, verify=self._verify, threads=self._threads)
        return relay if wanted is None else RangeRelay(relay, wanted=wanted, if_range=if_range)

    async def save(self, output: Output, target: "Path | Target", *, overwrite: bool = False) -> SavedFile:
        """Save an output to ``target``, whose folder is made if missing.

        When cancelled or failed, it leaves at most a ``.part`` and its sidecar, which the next call resumes. An
        existing file with the same content is kept.

        Raises:
            CorruptAudio: the host's file is not valid FLAC; it was fetched twice.
            DownloadError: it cannot be fetched or written, or another file exists and ``overwrite`` is false.
            SettingsError: ``verify="full"`` without the extra ``verify``, or for an object.
            SoundpieceError: from ``renew``.
        """
        if not isinstance(target, Path):
            return await self._upload(output, target, overwrite=overwrite)
        download = OutputDownload(output, target=str(target), context=self._context)
        worker = FileWorker(download, threads=self._threads)
        if self._verifier is None:
            self._verifier = await worker.run(make_verifier, self._verify)
        async with self._targets.acquire(target):
            return await self._save_file(
                target, download=download, worker=worker, verifier=self._verifier, overwrite=overwrite
            )

    async def check_destination(self, to: Destination | None) -> None:
        """Check a destination, before anything is sent and paid for.

        Raises:
            InvalidRequest, SettingsError: nothing can be saved there.
        """
        await self._destinations.check(to)

    async def save_in(self, output: Output, to: Destination, name: str, *, overwrite: bool = False) -> SavedFile:
        """Save an output to a destination, under a name that is safe.

        Raises:
            InvalidRequest, SettingsError: not a destination, or one that cannot be opened.
            SoundpieceError: as ``save``.
        """
        folder = await self._destinations.open(to)
        if not isinstance(folder, Path):
            return await self.save(output, folder.name(name), overwrite=overwrite)
        try:
            return await self.save(output, folder / name, overwrite=overwrite)
        except DownloadError as error:
            if not refuses_name(error):
                raise
            refusal = error
        saved = await self.save(output, folder / plainer_name(name), overwrite=overwrite)
        warning = f"saved as {saved.path and saved.path.name}, because the file system rejects its own name"
        logger.warning("%s: %s: %s", output.handle, warning, refusal.__cause__)
        return attrs.evolve(saved, warnings=(*saved.warnings, warning))

    async def save_all(
        self, outputs: Sequence[Output], to: Destination, stem: str, *, overwrite: bool = False
    ) -> list[SavedFile]:
        """Save all outputs of an operation to a destination, under the names of ``file_names``, many at a time.

        Raises:
            SoundpieceError: the first that failed, once the others are saved; its notes name further failures.
        """
        files: dict[int, SavedFile] = {}
        errors: list[Exception] = []

        names = enumerate(file_names(stem, outputs))

        async def save() -> None:
            for index, name in names:
                try:
                    files[index] = await self.save_in(outputs[index], to, name, overwrite=overwrite)
                except Exception as error:  # noqa: BLE001 - raised below; an error of ours, too, stops no other file
                    errors.append(error)

        async with anyio.create_task_group() as saving:
            for _ in range(min(len(outputs), max(MAX_PARALLEL_FILES, int(self._context.slots.total_tokens)))):
                saving.start_soon(save)
        if errors:
            note_others(errors[0], errors[1:])
            raise errors[0]
        return [files[index] for index in range(len(outputs))]

    async def _upload(self, output: Output, target: "Target", *, overwrite: bool) -> SavedFile:
        """Save an output to an object."""
        from soundpiece_async._download.store_downloads import save_object  # the target exists, so obstore is installed

        download = OutputDownload(output, target=target.url, context=self._context)
        async with self._targets.acquire(target.url), self._uploads:
            saved, fetched = await save_object(
                target, download=download, verify=self._verify, threads=self._threads, overwrite=overwrite
            )
        self.saved += fetched
        return saved

    async def _save_file(
        self, target: Path, *, download: OutputDownload, worker: FileWorker, verifier: Verifier, overwrite: bool
    ) -> SavedFile:
        """Write the target as its only writer, or keep the file that exists (rules 2 and 3)."""
        replace, watch, source = False, LockWatch(), f"{download.output.handle}#{download.output.index}"
        while True:
            part = PartFile(target, source=source, number=watch.number)
            async with self._files:
                try:
                    claim = await worker.run_in(target.parent, partial(part.claim, overwrite=replace))
                    if claim is Claim.ACQUIRED:
                        return await self._fetch(part, download=download, worker=worker, verifier=verifier)
                except Superseded:
                    replace, watch = False, LockWatch()
                    continue
                finally:
                    if not part.closed:
                        await worker.finish(part.close)
            if claim is Claim.LOCKED:
                watch.note(await worker.run(part.find_size), now=anyio.current_time())
                await anyio.sleep(LOCK_POLL)  # the lock of another process sends no event
                continue
            found = await self._compare(target, download=download, worker=worker, verifier=verifier)
            if isinstance(found, SavedFile):
                return found
            if not overwrite:
                raise found
            replace = True

    async def _fetch(
        self, part: PartFile, *, download: OutputDownload, worker: FileWorker, verifier: Verifier
    ) -> SavedFile:
        """Fetch the file, check it, and rename it (rules 1 and 4)."""
        fault: str | None = None
        for fault_before in (False, True):
            sink = FileSink(part, worker=worker)
            cut = await download_into(sink, download=download)
            found = await worker.run(_publish_if_good, part, sink, verifier, download.output.duration, cut)
            fault = found.fault
            if fault is None:
                self.saved += 1
                logger.info("%s: saved as %s, %d bytes", download.output.handle, part.target, part.length)
                log_warnings(found.warnings, output=download.output, target=part.target)
                return make_saved_file(
                    part.target, size=part.length, sha256=part.sha256(), found=found, output=download.output
                )
            logger.warning("%s: %s failed its check: %s", download.output.handle, part.target, fault)
            if fault_before and self._keep_corrupt:
                fault = f"{fault}; it is kept as {await worker.run(part.keep_corrupt)}"
            else:
                await worker.run(part.restart, RemoteFile())
            download.reset()
        raise download.error(
            f"{fault}; it was fetched twice. Settings(verify='none') accepts it as it is", kind=CorruptAudio
        )

    async def _compare(
        self, target: Path, *, download: OutputDownload, worker: FileWorker, verifier: Verifier
    ) -> SavedFile | DownloadError:
        """Return the existing file, or the reason not to use it (rule 3)."""
        info = await worker.run(read_file_info, target)
        difference = await compare_with_existing(FileHead(info.head, info.size), download=download)
        if difference is not None:
            return difference
        found = await worker.run(verifier, info.head, target, download.output.duration)
        if found.fault is not None:
            return download.error(
                f"it already exists, and is damaged: {found.fault}; remove it, or pass overwrite=True",
                kind=CorruptAudio,
            )
        return make_saved_file(target, size=info.size, sha256=info.sha256, found=found, output=download.output)


def _publish_if_good(
    part: PartFile, sink: FileSink, verifier: Verifier, duration: float | None, cut: str | None
) -> Verification:
    """Complete a part file, check and publish it, in one call to a thread; ``cut`` is the fault at its end."""
    sink.flush()
    found = verifier(part.head(), part.path, duration)
    if cut is not None and found.fault is None and found.verified != "none":
        found = attrs.evolve(found, fault=cut)
    if found.fault is None:
        part.publish()
    return found


async def save_outputs(
    what: AnyOperation | Handle | Output,
    to: Destination,
    *,
    name: str | None,
    overwrite: bool,
    reader: Reader,
    downloader: Downloader,
) -> list[SavedFile] | SavedFile:
    """Save the files of a ready operation, or one of them; arguments as of ``Session.download``.

    Raises:
        NotReady: the operation has no outputs yet.
        InvalidRequest: not a destination.
        TypeError: ``name`` is not text.
        OperationFailed: the operation failed.
        SoundpieceError: as ``Downloader.save``.
    """
    if not isinstance(name, str | None):
        raise TypeError(f"name must be text, not {type(name).__name__}")
    if isinstance(what, Output):
        check_output(what)
        siblings = reader.cached_outputs(what.handle) or (await reader.refresh(what.handle)).outputs
        titles = file_names(name or what.handle.id, siblings)
        files = {sibling.index: title for sibling, title in zip(siblings, titles, strict=True)}
        if what.index not in files:
            raise DownloadError(
                f"operation {what.handle} has no output {what.index}", url=what.url, path=str(to)
            ).about(what.handle)
        return await downloader.save_in(what, to, files[what.index], overwrite=overwrite)
    operation = what if isinstance(what, Operation) and completion.is_over(what) else await reader.refresh(what)
    if not operation.status.final:
        raise NotReady(f"operation {operation.handle} is {operation.status}: wait for it before downloading").about(
            operation=operation
        )
    outputs = wire.require_ready(operation).outputs
    try:
        return await downloader.save_all(outputs, to, name or operation.id, overwrite=overwrite)
    except SoundpieceError as error:
        error.about(operation=operation)
        raise

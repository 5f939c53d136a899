"""One output to one object, or nothing, without a copy on this machine; loaded when one is asked for.

1. An object is published when the file is whole and its header is what it should be: only then does the body that
   obstore reads come to an end. In every other case it breaks off, and obstore takes the upload back.
2. So an upload is never cancelled, but broken off: what is cancelled stays in the bucket, unseen and paid for.
3. An object that is there already is compared by size and first bytes, and not fetched again when it is the same.
4. Two who save under one name, in two sessions, do not lose one of the two: the store itself refuses the second one,
   where it can, which is for objects up to ``SENT_WHOLE``; otherwise there is a look right before the end.
"""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Self

import anyio
import anyio.to_thread

from soundpiece_async._core import flac
from soundpiece_async._core.errors import CorruptAudio, DownloadError, SettingsError, TransportError
from soundpiece_async._core.results import SavedFile
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.fetch import Source
from soundpiece_async._download.objects import StoreError, Target
from soundpiece_async._download.relay import Passage
from soundpiece_async._download.transfer import First, find_difference
from soundpiece_async._download.verify import demand_header_check, describe, inspect
from soundpiece_async._logs import get_logger

logger = get_logger("downloader")

READ_AT_ONCE = 8 << 20
"""Bytes of an object that are read by one request."""
SENT_WHOLE = 32 << 20
"""Bytes up to which an object is sent by one request, from memory: stores put no condition on what comes in parts."""
BREAKING_OFF = 10.0
"""Seconds an upload that was broken off has to take itself back; later it is left to the bucket's own rules."""


class BrokenOffError(Exception):
    """Tells obstore that the rest will not come."""


class Body:
    """A file as obstore reads it, in tasks of its own making; it ends well only once it is declared whole (rule 1)."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        """Set once there is something to read, or an end."""
        self._whole = False
        self._send, self._receive = anyio.create_memory_object_stream[bytes](0)

    def __repr__(self) -> str:
        return f"<Body whole={self._whole} {self._receive.statistics()}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            if self._whole:
                raise StopAsyncIteration from None
            raise BrokenOffError from None

    async def write(self, blocks: list[bytes]) -> None:
        """Pass blocks on; returns when they are taken."""
        self.begun.set()
        await self._send.send(b"".join(blocks))

    def finish(self) -> None:
        """Declare what was written to be the whole file."""
        self._whole = True
        self.break_off()

    def break_off(self) -> None:
        """Let it end badly, unless it is finished."""
        self.begun.set()
        self._send.close()

    def close(self) -> None:
        """Give both ends back; nobody reads any more."""
        self._send.close()
        self._receive.close()


async def upload(
    target: Target, *, source: Source, verify: Verify, threads: anyio.CapacityLimiter, overwrite: bool
) -> tuple[SavedFile, bool]:
    """Bring an output to its object; also returns whether it had to be fetched.

    Raises:
        CorruptAudio: what the host has is not the FLAC it should be; it was fetched twice.
        DownloadError: it cannot be fetched or written, or another object is there and ``overwrite`` is false.
        SettingsError: ``verify="full"``; or the store lets nothing be saved there.
        SoundpieceError: what renewing the URL raises.
    """
    demand_header_check(verify)
    with _explained(target, source):
        found = await _look(target, source=source, verify=verify, threads=threads)
    if found is None or (overwrite and not isinstance(found, SavedFile)):
        body = Body()
        passage = Passage(source, pass_on=body.write, verify=verify, threads=threads)
        try:
            await _send(target, body, passage, overwrite=overwrite)
        except StoreError as error:
            with _explained(target, source):
                if error.kind != "taken":
                    raise
                found = await _look(target, source=source, verify=verify, threads=threads)
            found = found or source.fail(
                "an object of its name is there, and cannot be compared with it; choose another name or folder, or "
                "pass overwrite=True"
            )
        else:
            logger.info("%s: saved as %s, %d bytes", source.output.handle, target.url, passage.passed)
            return _describe_passed(target, passage), True
    if isinstance(found, SavedFile):
        return found, False
    raise found


def _describe_passed(target: Target, passage: Passage) -> SavedFile:
    return describe(
        target.path,
        size=passage.passed,
        sha256=passage.sha256(),
        found=passage.found,
        output=passage.source.output,
        url=target.url,
    )


async def _send(target: Target, body: Body, passage: Passage, *, overwrite: bool) -> None:
    """Write while the file arrives; whichever of the two fails ends the other.

    Raises:
        StoreError: it was not written.
    """
    faults: list[Exception] = []
    fetching, writing, written = anyio.CancelScope(), anyio.CancelScope(shield=True), anyio.Event()

    def whole() -> bool:  # known once the host has answered
        return passage.size is not None and passage.size <= SENT_WHOLE

    def creates() -> bool:
        return whole() and target.creates and not overwrite

    async def write() -> None:
        with writing:
            try:
                await body.begun.wait()
                await target.write(body, whole=whole(), create=creates())
            except BrokenOffError:
                return
            except Exception as error:  # noqa: BLE001 - raised below: a fault of ours too comes out bare
                faults.append(error)
                fetching.cancel()
            written.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            try:
                with fetching:
                    await passage.run()
                    if not overwrite and not creates():
                        await _demand_free(target)
                    body.finish()
                    await written.wait()
            except Exception as error:  # noqa: BLE001 - the same
                faults.append(error)
            finally:
                body.break_off()
                writing.deadline = anyio.current_time() + BREAKING_OFF
    finally:
        body.close()
    if faults:
        raise faults[0]


async def _demand_free(target: Target) -> None:
    """Look once more, before an object is finished that the store itself would write over another one (rule 4)."""
    if await target.is_there():
        raise StoreError("it is there meanwhile", kind="taken")


async def _look(
    target: Target, *, source: Source, verify: Verify, threads: anyio.CapacityLimiter
) -> SavedFile | DownloadError | None:
    """Return the object that is there, or the reason not to take it; None: there is none, or it cannot be known."""
    try:
        size = await target.measure()
    except StoreError as error:
        if error.kind != "refused":
            raise
        return None
    return None if size is None else await _compare(target, size, source=source, verify=verify, threads=threads)


async def _compare(
    target: Target, size: int, *, source: Source, verify: Verify, threads: anyio.CapacityLimiter
) -> SavedFile | DownloadError:
    """Return the object that is there, or the reason not to take it (rule 3)."""
    head = await target.read(0, min(size, flac.HEADER_BYTES)) if size else b""
    while len(head) < (needed := min(size, flac.measure_head(head))):  # a tag stands before the header
        head += await target.read(len(head), needed)
    difference = await find_difference(First(head, size), source=source)
    if difference is not None:
        return difference
    found = inspect(head, source.output.duration, verify=verify)
    if found.fault is not None:
        return source.fail(
            f"the object that is there is damaged: {found.fault}; remove it, or pass overwrite=True",
            error=CorruptAudio,
        )
    digest = hashlib.sha256()
    for start in range(0, size, READ_AT_ONCE):
        block = await target.read(start, min(size, start + READ_AT_ONCE))
        await anyio.to_thread.run_sync(digest.update, block, limiter=threads)
    return describe(
        target.path, size=size, sha256=digest.hexdigest(), found=found, output=source.output, url=target.url
    )


@contextmanager
def _explained(target: Target, source: Source) -> Generator[None]:
    try:
        yield
    except StoreError as error:
        if error.kind in ("refused", "useless"):  # so would it be for the next one
            raise SettingsError(
                f"{target.url}: nothing can be saved there: the object store said: {error}; {source.output.handle} "
                "can be downloaded once that is put right"
            ) from None
        # the cause says that not the file is at fault
        raise source.fail(f"the object store said: {error}") from TransportError(str(error))

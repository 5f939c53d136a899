"""Relays an output as it arrives, whole or a range of it: each byte once and in order, without storing it.

1. Nothing of a whole file is emitted before its header is checked; a file that fails the check is fetched again.
2. Emitted bytes cannot be taken back. A host that has to start again (no ranges, another ETag) must send the same
   bytes again: they are compared by hash and not emitted twice. Other bytes end the relay with an error.
3. ``run`` returns when all announced bytes have been emitted; every other end is an error.
4. A range that spans the whole file is treated as the whole file; any other is emitted as the host sends it: it
   contains no header to check.
5. A range that breaks off is resumed under the same strong ETag. Without one, or with another, it ends with an error.
"""

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core import flac, ranges
from soundpiece_async._core.errors import CorruptAudio, DownloadError
from soundpiece_async._core.ranges import (
    ByteRange,
    NoSuchBytes,
    Part,
    RangeReply,
    RemoteFile,
    RetryLater,
    StartOver,
    UrlRejected,
    WholeFile,
)
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.fetch import AttemptFailed, OutputDownload, log_warnings
from soundpiece_async._download.transfer import download_into
from soundpiece_async._download.verify import Verification, check_header, require_header_check
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from soundpiece_async._core.flac import FlacHeader
    from soundpiece_async._http.client import Stream

logger = get_logger("downloader")

_LARGEST_TAIL = 2 << 20
"""Bytes kept at most until the header states the size of a frame."""


class VerifiedRelay:
    """Relays a whole file whose header is checked first. It is the ``Sink`` of its download.

    Args:
        download: the source of the bytes.
        emit: takes the file in blocks, and may wait.
        verify: ``"header"`` or ``"none"``.
        threads: limits the worker threads, which do the hashing.

    Attributes:
        known: what the host said about the file.
        length: bytes of the file received since the host last started.
        emitted: bytes emitted.
        size: bytes of the whole file, as stated before the first block was emitted, or None.
        etag: the strong ETag at that time, or None.
        header: the file's header, once it was checked, if it is valid.

    Raises:
        SettingsError: ``verify="full"``, which needs a local file.
    """

    def __init__(
        self,
        download: OutputDownload,
        *,
        emit: Callable[[list[bytes]], Awaitable[None]],
        verify: Verify,
        threads: anyio.CapacityLimiter,
    ) -> None:
        require_header_check(verify)
        self.download = download
        self.known: RemoteFile = RemoteFile()
        self.length: int = 0
        self.emitted: int = 0
        self.size: int | None = None
        self.etag: str | None = None
        self.header: FlacHeader | None = None
        self.emit = emit
        self._verify: Verify = verify
        self._threads = threads
        self._found: Verification | None = None
        self._recent: deque[bytes] = deque()
        self._recent_bytes = 0
        self._pending_header: list[bytes] = []
        self._digest = hashlib.sha256()
        self._replay_hash = hashlib.sha256()

    def __repr__(self) -> str:
        return f"<VerifiedRelay {self.download!r} emitted={self.emitted} checked={self._found is not None}>"

    async def run(self) -> None:
        """Relay the whole file.

        Raises:
            CorruptAudio: the host's file is not valid FLAC; it was fetched twice.
            DownloadError: the file cannot be fetched, or not to its end.
            SoundpieceError: the URL cannot be renewed.
        """
        try:
            await self._relay_whole()
        except CorruptAudio as error:  # the header failed its check, so nothing was emitted (rule 1)
            logger.warning("%s", error)
            self.download.reset()
            await self.restart(RemoteFile())
            await self._relay_whole()

    @property
    def reply(self) -> RangeReply:
        """The response to a client that receives the file."""
        return RangeReply(size=self.size, etag=self.etag)

    @property
    def found(self) -> Verification:
        """Result of the header check."""
        return self._found or Verification(None)

    def sha256(self) -> str:
        """Return the SHA-256 of all emitted bytes, as hex."""
        return self._digest.hexdigest()

    async def restart(self, known: RemoteFile) -> None:
        """Start again; the emitted bytes must arrive once more (rule 2)."""
        if self.size is not None and known.size not in (None, self.size):
            raise self._content_changed_error()
        self.known, self.length, self._pending_header = known, 0, []
        self._recent.clear()
        self._recent_bytes = 0
        self._replay_hash = hashlib.sha256()

    async def append(self, blocks: list[bytes]) -> None:
        """Receive the next bytes, and emit the new ones."""
        if self.known.size is None:
            self._keep_recent(blocks)
        old, new = _split(blocks, self.emitted - self.length)
        if old:
            await self._compare(old)
        self.length += _size(new)
        if self._found is None:
            self._pending_header += new
            if not flac.find_head(self._pending_header)[1]:
                return
            new = self._check()
        await self._emit(new)

    async def read_header(self) -> "FlacHeader | None":
        """Return the header, once it was checked."""
        return self.header

    async def ends_whole(self, duration: float | None) -> bool | None:
        """Return whether the last bytes are the last frame; None if that cannot be determined."""
        if self.header is None:
            return None
        check = partial(flac.is_whole, self.header, b"".join(self._recent), duration=duration)
        return await anyio.to_thread.run_sync(check, limiter=self._threads)

    def _keep_recent(self, blocks: list[bytes]) -> None:
        """Keep the last bytes, up to the size of a frame: a file of unknown size is complete if its last frame is."""
        self._recent.extend(blocks)
        self._recent_bytes += _size(blocks)
        needed = _LARGEST_TAIL if self.header is None else flac.longest_tail(self.header)
        while self._recent and self._recent_bytes - len(self._recent[0]) >= needed:
            self._recent_bytes -= len(self._recent.popleft())

    async def _emit(self, blocks: list[bytes]) -> None:
        if blocks:
            if not self.emitted:
                self.size, self.etag = self.known.size, self.known.etag
            await self._hash(self._digest, blocks)
            self.emitted += _size(blocks)
            await self.emit(blocks)

    async def _relay_whole(self) -> None:
        cut = await download_into(self, download=self.download)
        if self.length < self.emitted or self.size not in (None, self.length):
            raise self._content_changed_error()
        if self._found is None:  # shorter than any header, which verify="none" allows
            await self._emit(self._check())
        if cut is not None and self._verify != "none":
            raise self.download.error(f"{cut}; request it again")

    def _check(self) -> list[bytes]:
        """Check the header, and return the blocks held back until then (rule 1)."""
        head, _ = flac.find_head(self._pending_header)
        found = check_header(head, self.download.output.duration, verify=self._verify)
        if found.fault is not None:
            raise self.download.error(f"{found.fault}. Settings(verify='none') accepts it as it is", kind=CorruptAudio)
        pending, self._pending_header = self._pending_header, []
        self.header, self._found = found.header, found
        log_warnings(found.warnings, output=self.download.output, target=self.download.target or "stream")
        return pending

    async def _compare(self, blocks: list[bytes]) -> None:
        """Hash repeated bytes, and compare them when as many have arrived as were emitted (rule 2)."""
        await self._hash(self._replay_hash, blocks)
        self.length += _size(blocks)
        if self.length == self.emitted and self._replay_hash.digest() != self._digest.digest():
            raise self._content_changed_error()

    def _content_changed_error(self) -> DownloadError:
        return self.download.error(
            f"the host started again, and its first {self.emitted} bytes differ from those already sent; request it "
            "again"
        )

    async def _hash(self, digest: "hashlib._Hash", blocks: list[bytes]) -> None:
        def update() -> None:
            for block in blocks:
                digest.update(block)

        await anyio.to_thread.run_sync(update, limiter=self._threads)


def _size(blocks: Iterable[bytes]) -> int:
    return sum(map(len, blocks))


def _split(blocks: list[bytes], at: int) -> tuple[list[bytes], list[bytes]]:
    """Split blocks after ``at`` bytes, if that is above 0."""
    left: list[bytes] = []
    for index, block in enumerate(blocks):
        if at <= 0:
            return left, blocks[index:]
        if len(block) > at:
            return [*left, block[:at]], [block[at:], *blocks[index + 1 :]]
        left.append(block)
        at -= len(block)
    return left, []


class RangeRelay:
    """Relays a byte range of a file: the response to a ``Range`` header, by which browsers seek.

    Args:
        whole: relays the whole file, if that is the right response.
        wanted: the range.
        if_range: the ETag under which the client wants the range, and otherwise the whole file.

    Attributes:
        answer: the part that the client receives, once that is known.
        emitted: bytes emitted.
    """

    def __init__(self, whole: VerifiedRelay, *, wanted: ByteRange, if_range: str | None) -> None:
        self.whole = whole
        self.answer: Part | WholeFile | NoSuchBytes | None = None
        self.emitted: int = 0
        self._wanted = wanted
        self._if_range = if_range

    def __repr__(self) -> str:
        return f"<RangeRelay {self._wanted.ask()} {self.answer} emitted={self.emitted} {self.whole!r}>"

    @property
    def download(self) -> OutputDownload:
        """The source of the bytes."""
        return self.whole.download

    @property
    def header(self) -> "FlacHeader | None":
        """The file's header, if it was checked."""
        return self.whole.header

    @property
    def reply(self) -> RangeReply:
        """The response to the client."""
        match self.answer:
            case Part(span, total, etag):
                return RangeReply(size=total, etag=etag, span=span)
            case NoSuchBytes(total):
                return RangeReply(size=total, span=range(0))
            case _:
                reply = self.whole.reply
                from_start = self._wanted.whole and reply.size is not None and self._if_range in (None, reply.etag)
                return attrs.evolve(reply, span=range(reply.size or 0)) if from_start else reply

    async def run(self) -> None:
        """Relay the range. Raises as ``VerifiedRelay.run``."""
        if not self._wanted.whole:
            await self.download.retry(self._ask, self._read)
        if self.answer is None or isinstance(self.answer, WholeFile):
            await self.whole.run()

    def _ask(self) -> dict[str, str]:
        return {"Accept-Encoding": "identity", "Range": self._rest().ask()}

    def _rest(self) -> ByteRange:
        """The bytes that are still missing."""
        if not isinstance(self.answer, Part):
            return self._wanted
        span = self.answer.span
        return ByteRange(span.start + self.emitted, span.stop - 1)

    async def _read(self, stream: "Stream") -> None:
        """Emit the bytes of a response; returns when the whole range was emitted."""
        found = ranges.interpret_part(stream.status, stream.headers, wanted=self._rest(), if_range=self._if_range)
        if isinstance(found, UrlRejected):
            raise AttemptFailed(f"the host rejected the URL ({found.status})", rejected=True)
        if isinstance(found, RetryLater | StartOver):
            raise AttemptFailed(found.why)
        if isinstance(self.answer, Part) and not _continues(self.answer, found):
            raise self.download.error(
                "the range broke off, and the host sends no ETag, or a new one; request the rest again"
            )
        self.answer = self.answer or found
        if isinstance(found, Part):
            self.download.check_announced_size(found.total or found.span.stop)
            await self._write_body(stream, found)

    async def _write_body(self, stream: "Stream", part: Part) -> None:
        download, skip, missing = self.download, part.skip, len(part.span)
        async with aclosing(download.open_body(stream)) as body:
            async for block in body:
                fresh = block[skip : skip + missing]
                skip = max(0, skip - len(block))
                if fresh:
                    missing -= len(fresh)
                    self.emitted += len(fresh)
                    download.record_progress(part.span.stop - missing)
                    await self.whole.emit([fresh])
                if not missing:
                    return
        raise AttemptFailed(f"the body ended {missing} bytes before its end")


def _continues(part: Part, found: Part | WholeFile | NoSuchBytes) -> bool:
    """Return whether the bytes of two responses may be joined (rule 5)."""
    if not isinstance(found, Part) or part.etag is None or part.etag != found.etag:
        return False
    return part.total == found.total or None in (part.total, found.total)

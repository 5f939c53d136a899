"""Passes a part of an output on as it arrives: the answer to a ``Range``, by which browsers seek.

1. A part that begins and ends with the file is the whole file, checked as such; any other is passed on as the host has
   it: there is no header to check in it.
2. A part that breaks off goes on from there, under the same strong ETag. Without one, or with another, it ends with an
   error: what was passed on cannot be taken back.
"""

from contextlib import aclosing
from typing import TYPE_CHECKING

import attrs

from soundpiece_async._core import byte_ranges
from soundpiece_async._core.byte_ranges import ByteRange, Nothing, Part, Reply, Whole
from soundpiece_async._core.resuming import Refused, Unfit, Useless
from soundpiece_async._download.fetch import Setback, Source
from soundpiece_async._download.passing import Passage

if TYPE_CHECKING:
    from soundpiece_async._core.flac import FlacHeader
    from soundpiece_async._network import Stream


class Excerpt:
    """A part of one output on its way through this process.

    Args:
        whole: passes all of it on, if that turns out to be the answer.
        wanted: the part.
        if_range: the ETag under which the client wants a part, and else the whole.

    Attributes:
        answer: what the client gets, once that is known.
        passed: bytes that were passed on.
    """

    def __init__(self, whole: Passage, *, wanted: ByteRange, if_range: str | None) -> None:
        self.whole = whole
        self.answer: Part | Whole | Nothing | None = None
        self.passed = 0
        self._wanted = wanted
        self._if_range = if_range

    def __repr__(self) -> str:
        return f"<Excerpt {self._wanted.ask()} {self.answer} passed={self.passed} {self.whole!r}>"

    @property
    def source(self) -> Source:
        """Where it comes from."""
        return self.whole.source

    @property
    def header(self) -> "FlacHeader | None":
        """What the file's header says, if it was there to be checked."""
        return self.whole.header

    @property
    def reply(self) -> Reply:
        """The answer to the client."""
        match self.answer:
            case Part(span, total, etag):
                return Reply(size=total, etag=etag, span=span)
            case Nothing(total):
                return Reply(size=total, span=range(0))
            case _:
                reply = self.whole.reply
                from_start = self._wanted.whole and reply.size is not None and self._if_range in (None, reply.etag)
                return attrs.evolve(reply, span=range(reply.size or 0)) if from_start else reply

    async def run(self) -> None:
        """Bring the part through. Raises as ``Passage.run``."""
        if not self._wanted.whole:
            await self.source.persist(self._ask, self._read)
        if self.answer is None or isinstance(self.answer, Whole):
            await self.whole.run()

    def _ask(self) -> dict[str, str]:
        return {"Accept-Encoding": "identity", "Range": self._rest().ask()}

    def _rest(self) -> ByteRange:
        """What is still to come."""
        if not isinstance(self.answer, Part):
            return self._wanted
        span = self.answer.span
        return ByteRange(span.start + self.passed, span.stop - 1)

    async def _read(self, stream: "Stream") -> None:
        """Use what an answer brings; returning means that all of it was passed on."""
        found = byte_ranges.judge(stream.status, stream.headers, wanted=self._rest(), if_range=self._if_range)
        if isinstance(found, Refused):
            raise Setback(f"the host refused the URL ({found.status})", refused=True)
        if isinstance(found, Unfit | Useless):
            raise Setback(found.why)
        if isinstance(self.answer, Part) and not _continues(self.answer, found):
            raise self.source.fail(
                "the part broke off, and the host sends no ETag, or another by now; ask once more for the rest"
            )
        self.answer = self.answer or found
        if isinstance(found, Part):
            self.source.announce(found.total or found.span.stop)
            await self._pour(stream, found)

    async def _pour(self, stream: "Stream", part: Part) -> None:
        source, skip, missing = self.source, part.skip, len(part.span)
        async with aclosing(source.watch(stream)) as body:
            async for block in body:
                fresh = block[skip : skip + missing]
                skip = max(0, skip - len(block))
                if fresh:
                    missing -= len(fresh)
                    self.passed += len(fresh)
                    source.reach(part.span.stop - missing)
                    await self.whole.pass_on([fresh])
                if not missing:
                    return
        raise Setback(f"the body ended {missing} bytes before its end")


def _continues(part: Part, found: Part | Whole | Nothing) -> bool:
    """Return whether the bytes of two answers may be joined (rule 2)."""
    if not isinstance(found, Part) or part.etag is None or part.etag != found.etag:
        return False
    return part.total == found.total or None in (part.total, found.total)

"""Decodes response bodies whose ``Content-Encoding`` is real; the bytes decide, because the header may be wrong."""

from collections import deque
from collections.abc import Iterator
from typing import Self

from soundpiece_async._core import content_encoding
from soundpiece_async._core.content_encoding import Unpacker, UnpackingError
from soundpiece_async._download.fetch import AttemptFailed, Body

_START = 4
"""Bytes that identify an encoding."""


class Plain:
    """A body whose first blocks were already read; it yields them first."""

    def __init__(self, first: list[bytes], body: Body) -> None:
        self._first = deque(first)
        self._body = body

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._body!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return self._first.popleft() if self._first else await anext(self._body)

    async def aclose(self) -> None:
        """Close the body."""
        await self._body.aclose()


class Unpacked(Plain):
    """A body that is decoded as it arrives, in blocks of bounded size.

    Args:
        first: its first blocks.
        body: the rest.
        encodings: in the order in which they were applied.

    Raises:
        AttemptFailed: one of them is not supported here.
    """

    def __init__(self, first: list[bytes], body: Body, *, encodings: tuple[str, ...]) -> None:
        super().__init__(first, body)
        try:
            self._unpackers = [Unpacker(name) for name in reversed(encodings)]
        except UnpackingError as error:
            raise AttemptFailed(str(error), rejected=True) from None
        self._decoded: Iterator[bytes] = iter(())

    async def __anext__(self) -> bytes:
        while True:
            try:
                block = next(self._decoded, None)
                if block is not None:
                    return block
                self._decoded = self._feed(await super().__anext__())
            except UnpackingError as error:
                raise AttemptFailed(str(error)) from None
            except StopAsyncIteration:
                if not all(unpacker.ended for unpacker in self._unpackers):
                    raise AttemptFailed("the body ended inside its encoding") from None
                raise

    def _feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the decoded blocks, one layer after the other."""
        blocks: Iterator[bytes] = iter((block,))
        for unpacker in self._unpackers:
            blocks = _feed_all(unpacker, blocks)
        return blocks


async def unpack(body: Body, encodings: tuple[str, ...]) -> "Body | Plain":
    """Return the decoded body, or the body itself where only its header claims an encoding.

    Raises:
        AttemptFailed: the encoding is not supported here.
    """
    if not encodings:
        return body
    first: list[bytes] = []
    async for block in body:
        first.append(block)
        if sum(map(len, first)) >= _START:
            break
    start = b"".join(first)
    if content_encoding.is_labelled_only(encodings, start):
        return Plain(first, body)
    if len(encodings) > content_encoding.MAX_LAYERS:
        raise AttemptFailed(f"the body is encoded {len(encodings)} times over", rejected=True)
    return Unpacked([start], body, encodings=encodings)


def _feed_all(unpacker: Unpacker, blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield from unpacker.feed(block)

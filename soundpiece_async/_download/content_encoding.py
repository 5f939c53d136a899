"""The bytes of a body as they were before somebody encoded them; the bytes decide whether somebody did."""

from collections import deque
from collections.abc import Iterator
from typing import Self

from soundpiece_async._core import content_encoding
from soundpiece_async._core.content_encoding import Unpacker, UnpackingError
from soundpiece_async._download.fetch import AttemptFailed, Body

_START = 4
"""Bytes that tell how a body begins."""


class Plain:
    """A body of which the first blocks were looked at."""

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
    """A body that is decoded as it arrives, in pieces of bounded size.

    Args:
        first: its first blocks.
        body: the rest.
        encodings: as they were applied.

    Raises:
        AttemptFailed: one of them cannot be undone here.
    """

    def __init__(self, first: list[bytes], body: Body, *, encodings: tuple[str, ...]) -> None:
        super().__init__(first, body)
        try:
            self._unpackers = [Unpacker(name) for name in reversed(encodings)]
        except UnpackingError as error:
            raise AttemptFailed(str(error), refused=True) from None
        self._pieces: Iterator[bytes] = iter(())

    async def __anext__(self) -> bytes:
        while True:
            try:
                piece = next(self._pieces, None)
                if piece is not None:
                    return piece
                self._pieces = self._feed(await super().__anext__())
            except UnpackingError as error:
                raise AttemptFailed(str(error)) from None
            except StopAsyncIteration:
                if not all(unpacker.ended for unpacker in self._unpackers):
                    raise AttemptFailed("the body ended inside its encoding") from None
                raise

    def _feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what a block unpacks to, one layer after the other."""
        pieces: Iterator[bytes] = iter((block,))
        for unpacker in self._unpackers:
            pieces = _feed_all(unpacker, pieces)
        return pieces


async def unpack(body: Body, encodings: tuple[str, ...]) -> "Body | Plain":
    """Return a body as it was before it was encoded; what only claims to be encoded is returned as it is.

    Raises:
        AttemptFailed: it is encoded in a way that nothing here can undo.
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
    if len(encodings) > content_encoding.MOST_LAYERS:
        raise AttemptFailed(f"the body is encoded {len(encodings)} times over", refused=True)
    return Unpacked([start], body, encodings=encodings)


def _feed_all(unpacker: Unpacker, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield from unpacker.feed(piece)

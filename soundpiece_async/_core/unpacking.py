"""Undoes a real ``Content-Encoding``, in pieces of bounded size: what a stranger packed may unpack to a thousand times.

Nobody asked for one (``Accept-Encoding: identity``); what answers otherwise is served all the same, if it is gzip or
deflate.
"""

import zlib
from collections.abc import Iterator

from soundpiece_async._core.flac import looks_like_flac

PIECE = 1 << 20
"""Bytes of a piece."""
MOST_LAYERS = 3
"""Encodings around one another."""

_GZIP = frozenset({"gzip", "x-gzip"})
_GZIP_MAGIC = b"\x1f\x8b"


class UnpackingError(ValueError):
    """The body is not encoded as its header says; the text says how, as the end of a sentence."""


def is_labelled_only(encodings: tuple[str, ...], start: bytes) -> bool:
    """Return whether a body that begins so is not encoded at all, whatever its header says; the bytes decide."""
    return not encodings or looks_like_flac(start) or (encodings[-1] in _GZIP and start[:2] != _GZIP_MAGIC)


class Unpacker:
    """One layer of gzip or deflate.

    Args:
        encoding: its name.

    Attributes:
        ended: its end was seen.

    Raises:
        UnpackingError: nothing here can undo it.
    """

    def __init__(self, encoding: str) -> None:
        if encoding not in _GZIP | {"deflate"}:
            raise UnpackingError(f"the body is encoded ({encoding}), though nothing but identity was asked for")
        self._gzip = encoding in _GZIP
        self._inner: zlib._Decompress | None = None
        self.ended = False

    def __repr__(self) -> str:
        return f"<Unpacker {'gzip' if self._gzip else 'deflate'} ended={self.ended}>"

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what these bytes unpack to.

        Raises:
            UnpackingError: they cannot be unpacked.
        """
        try:
            more = False
            while data or more:
                if self._inner is None:
                    if not data:
                        return
                    if self.ended and not data.strip(b"\0"):  # padding behind the last member
                        return
                    self._inner, self.ended = zlib.decompressobj(self._choose_format(data)), False
                piece = self._inner.decompress(data, PIECE)
                more = len(piece) == PIECE  # some may be left inside
                if piece:
                    yield piece
                data = self._inner.unconsumed_tail
                if self._inner.eof:
                    data, self._inner, self.ended = self._inner.unused_data, None, True
        except zlib.error:
            raise UnpackingError("the body is not encoded as its header says, or is damaged") from None

    def _choose_format(self, data: bytes) -> int:
        if self._gzip:
            return zlib.MAX_WBITS | 16
        wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0  # noqa: PLR2004 - RFC 1950, section 2.2
        return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS

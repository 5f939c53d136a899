"""Decodes a real ``Content-Encoding`` in blocks of bounded size: a body may decode to a thousand times its size.

No encoding is requested of an output host (``Accept-Encoding: identity``), of the API gzip and deflate. A response in
another encoding is used all the same if a decoder is installed: that is so for gzip, deflate, and a response of the API
in Brotli.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from soundpiece_async._core.flac import looks_like_flac

BLOCK = 1 << 20
"""Bytes of a block."""
MAX_LAYERS = 3
"""Encodings around one another."""

_GZIP = frozenset({"gzip", "x-gzip"})
_GZIP_MAGIC = b"\x1f\x8b"
_BROTLI_BLOCK = 64


class UnpackingError(ValueError):
    """The body is not encoded as its header says; the text says how, as the end of a sentence."""


def is_labelled_only(encodings: tuple[str, ...], start: bytes) -> bool:
    """Return whether a body that begins so is not encoded at all, whatever its header says; the bytes decide."""
    return not encodings or looks_like_flac(start) or (encodings[-1] in _GZIP and start[:2] != _GZIP_MAGIC)


def unpack(body: bytes, encodings: tuple[str, ...], *, limit: int) -> bytes:
    """Return the text in the body of a response; the bytes decide: UTF-8 is not packed, and gzip has a mark of its own.

    Args:
        body: all of it.
        encodings: as the header says.
        limit: bytes it may unpack to.

    Raises:
        UnpackingError: nothing here can undo them, the body is damaged, or it unpacks to more.
    """
    names = encodings[-MAX_LAYERS:]
    if body.startswith(_GZIP_MAGIC) and not _GZIP & set(names):
        names = ("gzip",)
    for name in reversed(names):
        if _is_text(body):
            break
        decoded, size = [], 0
        for block in _unpack_layer(name, body):
            decoded.append(block)
            size += len(block)
            if size > limit:
                raise UnpackingError(f"the response is larger than {limit} bytes")
        body = b"".join(decoded)
    return body


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unpack_layer(encoding: str, body: bytes) -> Iterator[bytes]:
    decompressor = _find_brotli() if encoding == "br" else None
    if decompressor is not None:
        yield from _unpack_brotli(decompressor(), body)
        return
    unpacker = Unpacker(encoding)
    yield from unpacker.feed(body)
    if not unpacker.ended:
        raise UnpackingError("the body ends too early")


def _find_brotli() -> Callable[[], Any] | None:
    """Return the decompressor of Brotli, or None if that is not installed."""
    try:
        import brotli  # pyright: ignore[reportMissingImports] - it may be missing
    except ImportError:
        return None
    decompressor: Callable[[], Any] = brotli.Decompressor
    return decompressor


def _unpack_brotli(decompressor: Any, body: bytes) -> Iterator[bytes]:
    """Yield the blocks of a body; a few bytes at a time, because not every version can bound what comes out."""
    blocks: Iterable[bytes] = (body[start : start + _BROTLI_BLOCK] for start in range(0, len(body), _BROTLI_BLOCK))
    try:
        for block in blocks:
            yield decompressor.process(block)
        ended = decompressor.is_finished()
    except Exception:  # noqa: BLE001 - brotli.error, which is this class's only name
        raise UnpackingError("the body is not encoded as its header says, or is damaged") from None
    if not ended:
        raise UnpackingError("the body ends too early")


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
            raise UnpackingError(f"the body is encoded ({encoding}), which was not requested")
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
                block = self._inner.decompress(data, BLOCK)
                more = len(block) == BLOCK  # some may be left inside
                if block:
                    yield block
                data = self._inner.unconsumed_tail
                if self._inner.eof:
                    data, self._inner, self.ended = self._inner.unused_data, None, True
        except zlib.error:
            raise UnpackingError("the body is not encoded as its header says, or is damaged") from None

    def _choose_format(self, data: bytes) -> int:
        if self._gzip:
            return zlib.MAX_WBITS | 16
        wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0  # RFC 1950, section 2.2
        return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS

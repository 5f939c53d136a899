"""Decodes every frame of a FLAC file, and compares the MD5 of its audio (extra ``verify``)."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from soundpiece_async._core import flac
from soundpiece_async._core.flac import FlacHeader
from soundpiece_async._regularfiles import open_regular

_BLOCK = 65_536
"""Samples per channel decoded at a time: about half a MiB."""
_NO_MD5 = bytes(16)
_SAMPLES_AT, _SAMPLES_BYTES = 21, 5
"""Position of the sample count in a header: 36 bits, the first 4 of which are the last of a byte."""

Samples = np.ndarray[Any, np.dtype[Any]]


def decode_and_check(path: Path, header: FlacHeader) -> tuple[str | None, str | None]:
    """Decode a file. Blocks, for seconds.

    The MD5 is of the samples as little-endian integers of whole bytes, channels interleaved (RFC 9639, section 8.2).

    Returns:
        The fault, as a clause for messages, or None; and the reason why decoding was not possible, or None.
    """
    if header.bits not in _PACKERS:
        return None, f"it was not decoded: libsndfile decodes 8, 16 and 24 bits per sample, and it has {header.bits}"
    samples = header.samples or _count_samples(path, header)
    if samples is None:
        return "its last frame is not whole, or something follows it", None
    dtype, pack = _PACKERS[header.bits]
    digest = hashlib.md5(usedforsecurity=False)
    try:
        # opened here, because libsndfile does not report why opening failed
        with _Stated(path, header, samples=samples) as file, soundfile.SoundFile(file) as sound:
            while len(block := sound.read(_BLOCK, dtype=dtype, always_2d=True)):
                digest.update(pack(block))
    except soundfile.LibsndfileError as error:
        return f"it cannot be decoded to its stated end: {error}", None
    if header.md5 not in (_NO_MD5, digest.digest()):
        return "the MD5 of its audio is not the one its header states", None
    return None, None


def _count_samples(path: Path, header: FlacHeader) -> int | None:
    """Return the number of samples from the last frame, for a header that does not state it."""
    with io.FileIO(open_regular(path)) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - flac.longest_tail(header)))
        return flac.find_last_sample(header, file.read())


class _Stated(io.FileIO):
    """A file whose header reads as if it stated its sample count, which libsndfile needs to find the end.

    Args:
        path: the file.
        header: its header.
        samples: the count.
    """

    def __init__(self, path: Path, header: FlacHeader, *, samples: int) -> None:
        super().__init__(open_regular(path))
        self._at = header.tag + _SAMPLES_AT
        self._bits = samples.to_bytes(_SAMPLES_BYTES)

    def readinto(self, buffer: Any) -> int:
        """Read bytes, with the sample count inserted."""
        start = self.tell()
        count = super().readinto(buffer)
        view = memoryview(buffer).cast("B")
        for position, bits in enumerate(self._bits, self._at - start):
            if 0 <= position < count:
                view[position] |= bits
        return count


def _pack_8(block: Samples) -> bytes:
    return (block >> 8).astype("<i1").tobytes()


def _pack_16(block: Samples) -> bytes:
    return block.astype("<i2", copy=False).tobytes()


def _pack_24(block: Samples) -> bytes:
    return block.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()


# libsndfile left-aligns samples in their integers: 8 bits in 16, 24 in 32
_PACKERS: dict[int, tuple[Literal["int16", "int32"], Callable[[Samples], bytes]]] = {
    8: ("int16", _pack_8),
    16: ("int16", _pack_16),
    24: ("int32", _pack_24),
}

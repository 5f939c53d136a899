"""The whole check of a FLAC file: every frame decoded, the MD5 of its audio compared (extra ``verify``)."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from soundpiece_async._core.flac import FlacHeader

_BLOCK = 65_536
"""Samples per channel decoded at a time: about half a MiB."""
_NO_MD5 = bytes(16)

Samples = np.ndarray[Any, np.dtype[Any]]


def find_fault(path: Path, header: FlacHeader) -> str | None:
    """Decode a file: None, or what is wrong with it, as the end of a sentence. Blocks, for seconds.

    The MD5 is of the samples as little-endian integers of whole bytes, channels interleaved (RFC 9639, section 8.2).
    """
    if header.bits not in _PACKERS:
        return f"libsndfile decodes 8, 16 and 24 bits per sample, and it has {header.bits}"
    if not header.samples:  # libsndfile then takes the end of the file for a failed seek
        return "its header does not say how long it is, so that its end cannot be told from a cut"
    dtype, pack = _PACKERS[header.bits]
    digest = hashlib.md5(usedforsecurity=False)
    try:
        # opened here: libsndfile does not say for which reason it could not
        with path.open("rb") as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            while len(block := sound.read(_BLOCK, dtype=dtype, always_2d=True)):
                digest.update(pack(block))
    except soundfile.LibsndfileError as error:
        return f"it cannot be decoded to its stated end: {error}"
    if header.md5 not in (_NO_MD5, digest.digest()):
        return "the MD5 of its audio is not the one its header states"
    return None


def _pack_8(block: Samples) -> bytes:
    return (block >> 8).astype("<i1").tobytes()


def _pack_16(block: Samples) -> bytes:
    return block.astype("<i2", copy=False).tobytes()


def _pack_24(block: Samples) -> bytes:
    return block.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()


# libsndfile gives samples at the left of their integer: 8 bits in 16, 24 in 32
_PACKERS: dict[int, tuple[Literal["int16", "int32"], Callable[[Samples], bytes]]] = {
    8: ("int16", _pack_8),
    16: ("int16", _pack_16),
    24: ("int32", _pack_24),
}

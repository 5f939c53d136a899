"""Whether a FLAC is whole, by its last frame (RFC 9639, section 9): for a body whose host does not say how long it is.

A frame begins with a sync code and a header under a CRC-8, and ends with a CRC-16 of all of it. So the bytes before an
end are a whole frame, or they are not; and its number says which samples of the recording it holds.
"""

import attrs

from soundpiece_async._core.flac import TOLERANCE, FlacHeader

MOST_CANDIDATES = 32
"""Beginnings of a last frame that are tried: sync codes occur by chance, and under a CRC-8 hardly ever."""
_LARGEST_TAIL = 2 << 20
_ID3V1_BYTES = 128
_SHORTEST_FRAME = 8
_OVERHEAD = 64


def _make_table(polynomial: int, bits: int) -> tuple[int, ...]:
    top, mask = 1 << bits - 1, (1 << bits) - 1

    def shift(value: int) -> int:
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        return value

    return tuple(shift(byte << bits - 8) for byte in range(256))


_CRC8, _CRC16 = _make_table(0x07, 8), _make_table(0x8005, 16)
_BLOCK_SIZES = {1: 192} | {code: 144 << code for code in range(2, 6)} | {code: 1 << code for code in range(8, 16)}
_RATE_BYTES = {12: 1, 13: 2, 14: 2}


@attrs.frozen
class _Frame:
    """A frame header: its first sample, or its number where all blocks are of one size, and its samples."""

    number: int
    variable: bool
    samples: int


def longest_tail(header: FlacHeader) -> int:
    """Return how many bytes at the end of a file hold its last frame for certain: none is larger than its PCM."""
    frame = header.longest * header.channels * (header.bits + 1) // 8 + _OVERHEAD * header.channels
    return min(frame + _ID3V1_BYTES, _LARGEST_TAIL)


def is_whole(header: FlacHeader, tail: bytes, *, duration: float | None) -> bool | None:
    """Return whether a file ends with its last frame; None if nothing says which one is the last. Blocks for some ms.

    Args:
        header: of the file.
        tail: its last ``longest_tail`` bytes, or all of it.
        duration: seconds that were announced, for a header that does not say how long the file is.
    """
    end = find_last_sample(header, tail)
    if end is None and tail[-_ID3V1_BYTES:][:3] == b"TAG":
        end = find_last_sample(header, tail[:-_ID3V1_BYTES])
    if end is None:
        return False
    if header.samples:
        return end >= header.samples
    return None if duration is None else end / header.sample_rate >= duration - TOLERANCE


def find_last_sample(header: FlacHeader, tail: bytes) -> int | None:
    """Return the number of samples up to the end of the frame that these bytes end with, or None if there is none."""
    tried, place = 0, len(tail)
    while tried < MOST_CANDIDATES and (place := tail.rfind(b"\xff", 0, place)) >= 0:
        frame = _read_frame(tail[place : place + 16])
        if frame is None or len(tail) - place < _SHORTEST_FRAME:
            continue
        tried += 1
        if _crc(tail[place:], _CRC16, 16) == 0:
            first = frame.number if frame.variable else frame.number * header.shortest
            return first + frame.samples
    return None


def _read_frame(data: bytes) -> _Frame | None:
    """Read a frame header, if these bytes begin with one."""
    if len(data) < 6 or data[1] & 0xFE != 0xF8 or data[3] & 1:  # noqa: PLR2004 - sync code, and the shortest header
        return None
    code, rate = data[2] >> 4, data[2] & 0x0F
    length = _number_bytes(data[4])
    if length is None:
        return None
    end = 4 + length
    more = {6: 1, 7: 2}.get(code, 0)
    checked = end + more + _RATE_BYTES.get(rate, 0)
    if checked >= len(data) or _crc(data[: checked + 1], _CRC8, 8):
        return None
    samples = int.from_bytes(data[end : end + more]) + 1 if more else _BLOCK_SIZES.get(code)
    if samples is None:
        return None
    return _Frame(_read_number(data[4:end]), variable=bool(data[1] & 1), samples=samples)


def _number_bytes(first: int) -> int | None:
    """Return the length of a number coded as UTF-8 is, up to 36 bits in 7 bytes, by its first byte."""
    ones = 8 - (first ^ 0xFF).bit_length()
    if ones == 0:
        return 1
    return ones if 2 <= ones <= 7 else None  # noqa: PLR2004 - what the format allows


def _read_number(data: bytes) -> int:
    if len(data) == 1:
        return data[0]
    number = data[0] & (1 << 7 - len(data)) - 1
    for byte in data[1:]:
        number = number << 6 | byte & 0x3F
    return number


def _crc(data: bytes, table: tuple[int, ...], bits: int) -> int:
    """Return the CRC; 0 over bytes that end with their own."""
    value, mask = 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
    return value

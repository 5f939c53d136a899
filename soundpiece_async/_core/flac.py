"""What FLAC files say of themselves: the header, and whether the last frame is whole (RFC 9639, sections 8.2 and 9).

The first 42 bytes of a file are magic and STREAMINFO, which holds the MD5 of the decoded audio, so that they also tell
one recording from another. Some encoders put an ID3v2 tag before them, which every decoder skips; so do we, and the
*head* of a file is both.

A frame begins with a sync code and a header under a CRC-8, and ends with a CRC-16 of all of it. So the bytes before an
end are a whole frame, or they are not; and its number says which samples of the recording it holds. That decides about
a body whose host does not say how long it is.
"""

from collections.abc import Callable, Iterable

import attrs

HEADER_BYTES = 42
SAMPLE_RATE = 44_100
"""In Hz: what the service documents for its files (docs/api.md#downloads)."""
TOLERANCE = 0.5
"""Seconds a file may be longer or shorter than announced: the service's figures are rounded (87.4 in an example)."""
MAX_FILE_BYTES = 4 << 30
"""Bytes of a file, whatever else is stated; ``Limits.max_bytes`` takes the place of all such bounds."""
MAX_TAG_BYTES = 16 << 20
"""Bytes of an ID3v2 tag; a larger one is no tag."""

_MAGIC, _ID3 = b"fLaC", b"ID3"
_ID3_BYTES, _ID3_FOOTER = 10, 0x10
_FORMATS = {
    b"RIFF": "WAV",
    b"RF64": "WAV",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"FORM": "AIFF",
    b"<": "XML or HTML",
    b"{": "JSON",
}
"""Other formats by how they begin; the bytes themselves are a stranger's, and never repeated."""
_STREAMINFO = 0
_STREAMINFO_BYTES = 34
_LAST_BLOCK = 0x80
_PCM_BYTES_PER_SECOND = 192_000 * 8 * 2
"""Two channels at 192 kHz and 32 bits, and twice that."""
_LONGEST_SECONDS = 1e6
_MARGIN = 16 << 20
"""Bytes that pictures and tags may take."""
_SHORTEST_BLOCK = 16
_FEWEST_BITS = 4


class HeaderError(ValueError):
    """The bytes are not the beginning of a FLAC file; the text says what is wrong, as the end of a sentence."""


@attrs.frozen(kw_only=True)
class FlacHeader:
    """STREAMINFO, as far as anybody here asks for it.

    Attributes:
        sample_rate: in Hz.
        channels: 1 to 8.
        bits: per sample, 4 to 32.
        samples: per channel; 0: the encoder did not say.
        md5: of the decoded audio; 16 zero bytes: the encoder did not say.
        shortest, longest: samples per channel of a block, the last one aside.
        tag: bytes of the ID3v2 tag before it.
    """

    sample_rate: int
    channels: int
    bits: int
    samples: int
    md5: bytes
    shortest: int
    longest: int
    tag: int = 0

    @property
    def duration(self) -> float | None:
        """Seconds, or None when the encoder did not say."""
        return self.samples / self.sample_rate if self.samples else None


def read_head(read: Callable[[int], bytes]) -> bytes:
    """Read the head of a file: its header and what precedes it; ``read`` returns the next bytes."""
    head = read(HEADER_BYTES)
    while (missing := measure_head(head) - len(head)) > 0 and (more := read(missing)):
        head += more
    return head


def find_head(blocks: Iterable[bytes]) -> tuple[bytes, bool]:
    """Return the head of a file that begins with these blocks, and whether all of it is there."""
    rest = iter(blocks)
    head = b""
    while len(head) < (needed := measure_head(head)):
        if (block := next(rest, None)) is None:
            return head, False
        head += block
    return head[:needed], True


def measure_head(data: bytes) -> int:
    """Return the length of the head of a file that begins so; more may be found once that much is there."""
    return _measure_tags(data) + HEADER_BYTES


def looks_like_flac(data: bytes) -> bool:
    """Return whether these first bytes, at least 4, begin a FLAC file, a tag before it included."""
    return data.startswith((_MAGIC, _ID3))


def read_header(data: bytes) -> FlacHeader:
    """Read the head of a file; more does no harm.

    Raises:
        HeaderError: it is not the beginning of a FLAC file.
    """
    tag, length = _measure_tags(data), len(data)
    if tag > length:
        raise HeaderError(f"it ends after {length} bytes, inside its ID3 tag")
    data = data[tag:]
    if data[:4] != _MAGIC:
        raise HeaderError(_explain_magic(data, tag=tag))
    if len(data) < HEADER_BYTES:
        raise HeaderError(f"it ends after {length} bytes, inside its header")
    if data[4] & ~_LAST_BLOCK != _STREAMINFO or int.from_bytes(data[5:8]) != _STREAMINFO_BYTES:
        raise HeaderError("its first block is not STREAMINFO")
    # 20 bits of sample rate, 3 of channels - 1, 5 of bits per sample - 1, 36 of samples
    packed = int.from_bytes(data[18:26])
    header = FlacHeader(
        sample_rate=packed >> 44,
        channels=(packed >> 41 & 0b111) + 1,
        bits=(packed >> 36 & 0b11111) + 1,
        samples=packed & (1 << 36) - 1,
        md5=bytes(data[26:HEADER_BYTES]),
        shortest=int.from_bytes(data[8:10]),
        longest=int.from_bytes(data[10:12]),
        tag=tag,
    )
    if not header.sample_rate or header.bits < _FEWEST_BITS or header.longest < _SHORTEST_BLOCK:
        raise HeaderError(
            f"its STREAMINFO is invalid: {header.bits} bits at {header.sample_rate} Hz, in blocks of up to "
            f"{header.longest} samples"
        )
    return header


def find_differences(header: FlacHeader, *, duration: float | None) -> tuple[str, ...]:
    """Compare a header with what was documented and announced; each difference is a sentence without its full stop.

    None of them is a reason to withhold the audio. A length is compared only when both sides state one.
    """
    found = []
    if header.sample_rate != SAMPLE_RATE:
        found.append(f"the sample rate is {header.sample_rate} Hz, where {SAMPLE_RATE} Hz is documented")
    if duration is not None and header.duration is not None and abs(header.duration - duration) > TOLERANCE:
        found.append(f"it lasts {header.duration:.2f} s, where {duration:.2f} s was announced")
    if header.tag:
        found.append(f"an ID3 tag of {header.tag} bytes stands before the FLAC header")
    return tuple(found)


def largest_file(*, seconds: float | None, header: FlacHeader | None) -> int:
    """Return more bytes than a file can have, by the length that was announced and by its own header.

    Compressed audio is no larger than its PCM. Of both figures the larger counts: a length other than announced is
    no reason to withhold a file, and a bound is there to end a body that has no end.
    """
    bounds = []
    if seconds is not None:
        bounds.append(int(min(max(seconds, 0.0), _LONGEST_SECONDS) * _PCM_BYTES_PER_SECOND))
    if header is not None and header.samples:
        bounds.append(header.samples * header.channels * (header.bits + 1) // 8 + header.tag)
    return min(max(bounds, default=MAX_FILE_BYTES) + _MARGIN, MAX_FILE_BYTES)


def _measure_tags(data: bytes) -> int:
    """Return how many bytes the ID3v2 tags before a header take, as far as these bytes tell."""
    end = 0
    while len(data) >= end + _ID3_BYTES and data[end : end + 3] == _ID3:
        flags, sizes = data[end + 5], data[end + 6 : end + _ID3_BYTES]
        size = sum((byte & 0x7F) << shift for byte, shift in zip(sizes, (21, 14, 7, 0), strict=True))
        end += size + (2 * _ID3_BYTES if flags & _ID3_FOOTER else _ID3_BYTES)
        if end > MAX_TAG_BYTES:
            return 0
    return end


def _explain_magic(data: bytes, *, tag: int) -> str:
    behind = f" behind its ID3 tag of {tag} bytes" if tag else ""
    name = (
        "MP3"
        if tag and data[:1] == b"\xff"
        else next((_FORMATS[start] for start in _FORMATS if data.startswith(start)), "")
    )
    return f"it does not begin with the FLAC magic{behind}" + (f": it seems to be {name}" if name else "")


MAX_CANDIDATES = 32
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
    """Return the number of samples up to the end of the last complete frame of these bytes, or None."""
    tried, place = 0, len(tail)
    while tried < MAX_CANDIDATES and (place := tail.rfind(b"\xff", 0, place)) >= 0:
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
    if len(data) < 6 or data[1] & 0xFE != 0xF8 or data[3] & 1:  # sync code, and the shortest header
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
    return ones if 2 <= ones <= 7 else None  # what the format allows


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

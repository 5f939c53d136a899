"""What a FLAC header says: magic and STREAMINFO, the first 42 bytes of every file (RFC 9639, section 8.2).

STREAMINFO holds the MD5 of the decoded audio, so that these 42 bytes also tell one recording from another.
"""

import attrs

HEADER_BYTES = 42
SAMPLE_RATE = 44_100
"""In Hz: what the service documents for its files (contract section 6)."""
TOLERANCE = 0.5
"""Seconds a file may be longer or shorter than announced: the service's figures are rounded (87.4 in an example)."""

_MAGIC = b"fLaC"
_STREAMINFO = 0
_STREAMINFO_BYTES = 34
_LAST_BLOCK = 0x80
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
    """

    sample_rate: int
    channels: int
    bits: int
    samples: int
    md5: bytes

    @property
    def duration(self) -> float | None:
        """Seconds, or None when the encoder did not say."""
        return self.samples / self.sample_rate if self.samples else None


def read_header(data: bytes) -> FlacHeader:
    """Read the first ``HEADER_BYTES`` of a file; more does no harm.

    Raises:
        HeaderError: they are not the beginning of a FLAC file.
    """
    if data[:4] != _MAGIC:
        raise HeaderError(f"it does not begin with the FLAC magic but with {data[:4]!r}")
    if len(data) < HEADER_BYTES:
        raise HeaderError(f"it ends after {len(data)} bytes, inside its header")
    if data[4] & ~_LAST_BLOCK != _STREAMINFO or int.from_bytes(data[5:8]) != _STREAMINFO_BYTES:
        raise HeaderError("its first block is no STREAMINFO")
    shortest, longest = int.from_bytes(data[8:10]), int.from_bytes(data[10:12])
    if not _SHORTEST_BLOCK <= shortest <= longest:
        raise HeaderError(f"its STREAMINFO makes no sense: blocks of {shortest} to {longest} samples")
    # 20 bits of sample rate, 3 of channels - 1, 5 of bits per sample - 1, 36 of samples
    packed = int.from_bytes(data[18:26])
    header = FlacHeader(
        sample_rate=packed >> 44,
        channels=(packed >> 41 & 0b111) + 1,
        bits=(packed >> 36 & 0b11111) + 1,
        samples=packed & (1 << 36) - 1,
        md5=bytes(data[26:HEADER_BYTES]),
    )
    if not header.sample_rate or header.bits < _FEWEST_BITS:
        raise HeaderError(f"its STREAMINFO makes no sense: {header.bits} bits at {header.sample_rate} Hz")
    return header


def find_fault(header: FlacHeader, *, duration: float | None) -> str | None:
    """Compare a header with what was announced: None, or what is wrong, as the end of a sentence.

    A length is compared only when both sides state one.
    """
    if header.sample_rate != SAMPLE_RATE:
        return f"its sample rate is {header.sample_rate} Hz, not the documented {SAMPLE_RATE} Hz"
    if duration is None or header.duration is None or abs(header.duration - duration) <= TOLERANCE:
        return None
    return f"it lasts {header.duration:.2f} s where {duration:.2f} s were announced"

import hashlib
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soundpiece_async._core.flac import (
    HEADER_BYTES,
    SAMPLE_RATE,
    TOLERANCE,
    FlacHeader,
    HeaderError,
    find_fault,
    read_header,
)

# the first 42 bytes of a file of the reference encoder's format: 1 s of 44.1 kHz stereo, 16 bits, blocks of 4096
REAL = bytes.fromhex("664c614380000022100010000000000000000ac442f00000ac44" + "00112233445566778899aabbccddeeff")


def pack(header: FlacHeader, *, shortest: int = 4096, longest: int = 4096) -> bytes:
    """Write STREAMINFO by the letter of RFC 9639, field by field, as a string of bits."""
    bits = (
        f"{0:01b}{0:07b}{34:024b}{shortest:016b}{longest:016b}{0:024b}{0:024b}"
        f"{header.sample_rate:020b}{header.channels - 1:03b}{header.bits - 1:05b}{header.samples:036b}"
    )
    return b"fLaC" + int(bits, 2).to_bytes(len(bits) // 8) + header.md5


headers = st.builds(
    FlacHeader,
    sample_rate=st.integers(1, (1 << 20) - 1),
    channels=st.integers(1, 8),
    bits=st.integers(4, 32),
    samples=st.integers(0, (1 << 36) - 1),
    md5=st.binary(min_size=16, max_size=16),
)


def song(**changes: object) -> FlacHeader:
    facts = {"sample_rate": SAMPLE_RATE, "channels": 2, "bits": 16, "samples": SAMPLE_RATE * 10, "md5": bytes(16)}
    return FlacHeader(**(facts | changes))


def test_a_header_is_read() -> None:
    """Each field of STREAMINFO is where the format puts it."""
    header = read_header(REAL)

    assert header == FlacHeader(
        sample_rate=44_100, channels=2, bits=16, samples=44_100, md5=bytes.fromhex("00112233445566778899aabbccddeeff")
    )
    assert header.duration == 1.0


@given(header=headers)
def test_what_is_written_is_read(header: FlacHeader) -> None:
    """Every header the format can express is read back, whatever follows it."""
    data = pack(header)

    assert len(data) == HEADER_BYTES
    assert read_header(data) == read_header(data + b"more") == header


@pytest.mark.parametrize(("bits", "subtype"), [(8, "PCM_S8"), (16, "PCM_16"), (24, "PCM_24")])
def test_an_encoders_header_is_read(bits: int, subtype: str) -> None:
    """What libsndfile writes is read as what was given to it, its MD5 included."""
    np, soundfile = pytest.importorskip("numpy"), pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, np.zeros((5_000, 2), "int16"), SAMPLE_RATE, format="FLAC", subtype=subtype)

    header = read_header(file.getvalue())

    silence = hashlib.md5(bytes(5_000 * 2 * bits // 8)).digest()  # noqa: S324 - the format's own checksum
    assert header == FlacHeader(sample_rate=SAMPLE_RATE, channels=2, bits=bits, samples=5_000, md5=silence)


@given(data=st.binary(max_size=60))
@example(data=b"fLaC" + bytes(50))
def test_junk_is_refused_in_one_way(data: bytes) -> None:
    """Whatever the bytes, the answer is a header or a HeaderError."""
    try:
        header = read_header(data)
    except HeaderError:
        return
    assert header.sample_rate > 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "magic"),
        (b"ID3\x04" + REAL, "magic"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "magic"),
        (REAL[:41], "ends after 41 bytes"),
        (REAL[:4] + b"\x04" + REAL[5:], "no STREAMINFO"),
        (REAL[:7] + b"\x21" + REAL[8:], "no STREAMINFO"),
        (pack(song(), shortest=15), "blocks of 15"),
        (pack(song(), shortest=4097), "blocks of 4097 to 4096"),
        (pack(song(sample_rate=0)), "at 0 Hz"),
        (pack(song(bits=3)), "3 bits"),
    ],
)
def test_the_reason_is_told(data: bytes, reason: str) -> None:
    """A HeaderError says what is wrong."""
    with pytest.raises(HeaderError, match=reason):
        read_header(data)


@pytest.mark.parametrize(
    ("header", "duration", "fault"),
    [
        (song(), 10.0, None),
        (song(), 10.0 + TOLERANCE, None),
        (song(), 10.0 - TOLERANCE, None),
        (song(), None, None),
        (song(samples=0), 10.0, None),
        (song(), 10.01 + TOLERANCE, "it lasts 10.00 s where 10.51 s were announced"),
        (song(), 9.0, "it lasts 10.00 s where 9.00 s were announced"),
        (song(sample_rate=48_000), 10.0, "its sample rate is 48000 Hz, not the documented 44100 Hz"),
    ],
)
def test_a_header_is_compared_with_what_was_announced(
    header: FlacHeader, duration: float | None, fault: str | None
) -> None:
    """The sample rate is the documented one, and the length the announced one, where both sides state it."""
    assert find_fault(header, duration=duration) == fault


def test_an_unknown_length_is_none() -> None:
    """An encoder that wrote to a pipe states no length."""
    assert song(samples=0).duration is None

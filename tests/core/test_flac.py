import hashlib
import io

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soundpiece_async._core.flac import (
    HEADER_BYTES,
    MAX_FILE_BYTES,
    SAMPLE_RATE,
    TOLERANCE,
    FlacHeader,
    HeaderError,
    find_differences,
    find_head,
    largest_file,
    looks_like_flac,
    measure_head,
    read_head,
    read_header,
)

# the first 42 bytes of a file of the reference encoder's format: 1 s of 44.1 kHz stereo, 16 bits, blocks of 4096
REAL = bytes.fromhex("664c614380000022100010000000000000000ac442f00000ac44" + "00112233445566778899aabbccddeeff")


def pack(header: FlacHeader) -> bytes:
    """Write STREAMINFO by the letter of RFC 9639, field by field, as a string of bits."""
    bits = (
        f"{0:01b}{0:07b}{34:024b}{header.shortest:016b}{header.longest:016b}{0:024b}{0:024b}"
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
    shortest=st.integers(0, 65_535),
    longest=st.integers(16, 65_535),
)


def song(**changes: object) -> FlacHeader:
    facts = {"sample_rate": SAMPLE_RATE, "channels": 2, "bits": 16, "samples": SAMPLE_RATE * 10, "md5": bytes(16)}
    return FlacHeader(**(facts | {"shortest": 4096, "longest": 4096} | changes))


def tag(size: int, *, flags: int = 0) -> bytes:
    """Write an ID3v2 tag by the letter of its specification: the size in four times seven bits."""
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0" + bytes([flags]) + digits + bytes(size) + (b"3DI\x04\0" + bytes([flags]) + digits) * bool(flags)


def test_a_header_is_read() -> None:
    """Each field of STREAMINFO is where the format puts it."""
    header = read_header(REAL)

    assert header == song(samples=44_100, md5=bytes.fromhex("00112233445566778899aabbccddeeff"))
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
    assert header == song(bits=bits, samples=5_000, md5=silence)


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
        (b"ID3\x04" + REAL, "magic: it seems to be MP3"),
        (tag(16 << 20) + REAL, "magic: it seems to be MP3"),
        (tag(7) + b"\xff\xfb", "magic behind its ID3 tag of 17 bytes: it seems to be MP3"),
        (tag(7) + b"secret", "magic behind its ID3 tag of 17 bytes$"),
        (tag(7)[:-1], "ends after 16 bytes, inside its ID3 tag"),
        (tag(7) + REAL[:20], "ends after 37 bytes, inside its header"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "magic: it seems to be XML or HTML"),
        (b"secret", "magic$"),
        (REAL[:41], "ends after 41 bytes"),
        (REAL[:4] + b"\x04" + REAL[5:], "not STREAMINFO"),
        (REAL[:7] + b"\x21" + REAL[8:], "not STREAMINFO"),
        (pack(song(longest=15)), "blocks of up to 15 samples"),
        (pack(song(sample_rate=0)), "at 0 Hz"),
        (pack(song(bits=3)), "3 bits"),
    ],
)
def test_the_reason_is_told(data: bytes, reason: str) -> None:
    """A HeaderError says what is wrong, and repeats no byte of a stranger's."""
    with pytest.raises(HeaderError, match=reason) as caught:
        read_header(data)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("before", [b"", tag(0), tag(300), tag(300, flags=0x10), tag(5) + tag(200_000)])
def test_a_tag_before_the_header_is_skipped(before: bytes) -> None:
    """As decoders do: its length, a footer, and a second tag included; the head of the file is both."""
    file = io.BytesIO(before + REAL + b"more")

    head = read_head(file.read)

    assert head == before + REAL
    assert looks_like_flac(head)
    assert measure_head(head) == len(head)
    blocks = [head[start : start + 7] for start in range(0, len(head), 7)]
    assert find_head([*blocks, b"more"]) == (head, True)
    assert find_head(blocks[:-1]) == (b"".join(blocks[:-1]), False)
    assert read_header(head) == attrs.evolve(read_header(REAL), tag=len(before))


def test_the_head_of_a_short_file_is_all_of_it() -> None:
    """Whatever its tag claims."""
    assert read_head(io.BytesIO(tag(1000)[:500]).read) == tag(1000)[:500]


@pytest.mark.parametrize(
    ("header", "duration", "differences"),
    [
        (song(), 10.0, ()),
        (song(), 10.0 + TOLERANCE, ()),
        (song(), 10.0 - TOLERANCE, ()),
        (song(), None, ()),
        (song(samples=0), 10.0, ()),
        (song(), 10.01 + TOLERANCE, ("it lasts 10.00 s, where 10.51 s was announced",)),
        (song(), 9.0, ("it lasts 10.00 s, where 9.00 s was announced",)),
        (song(sample_rate=48_000), None, ("the sample rate is 48000 Hz, where 44100 Hz is documented",)),
        (song(tag=266), 10.0, ("an ID3 tag of 266 bytes stands before the FLAC header",)),
    ],
)
def test_a_header_is_compared_with_what_was_announced(
    header: FlacHeader, duration: float | None, differences: tuple[str, ...]
) -> None:
    """The sample rate is the documented one, and the length the announced one, where both sides state it."""
    assert find_differences(header, duration=duration) == differences


@given(header=headers, seconds=st.none() | st.floats(allow_nan=False))
def test_the_bound_of_a_file_leaves_room_for_its_audio(header: FlacHeader, seconds: float | None) -> None:
    """PCM of the stated length fits, by the header and by what was announced, up to the largest file there is."""
    bound = largest_file(seconds=seconds, header=header)

    assert bound >= min(MAX_FILE_BYTES, header.samples * header.channels * header.bits // 8)
    assert bound >= min(MAX_FILE_BYTES, (seconds or 0.0) * 44_100 * 4)
    assert bound <= MAX_FILE_BYTES


def test_a_file_of_which_nothing_is_known_has_a_bound_too() -> None:
    """A body without an end must not fill a disk; a length that was announced makes the bound a small one."""
    assert (
        largest_file(seconds=None, header=None) == largest_file(seconds=None, header=song(samples=0)) == MAX_FILE_BYTES
    )
    assert largest_file(seconds=2.0, header=None) < 32 << 20


def test_an_unknown_length_is_none() -> None:
    """An encoder that wrote to a pipe states no length."""
    assert song(samples=0).duration is None

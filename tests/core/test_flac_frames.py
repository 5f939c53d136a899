import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core import flac
from soundpiece_async._core.flac import FlacHeader, read_header

HEADER = FlacHeader(sample_rate=44_100, channels=2, bits=16, samples=44_100, md5=bytes(16), shortest=4096, longest=4096)


def make_flac(seconds: float, *, subtype: str = "PCM_16", silent: bool = False) -> bytes:
    """Encode noise, or silence: its frames are as short as frames get."""
    np, soundfile = pytest.importorskip("numpy"), pytest.importorskip("soundfile")
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (int(44_100 * seconds), 2)) * (not silent)
    file = io.BytesIO()
    soundfile.write(file, samples, 44_100, format="FLAC", subtype=subtype)
    return file.getvalue()


def crc(data: bytes, polynomial: int, bits: int) -> int:
    """Divide, bit by bit."""
    value = 0
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial | 1 << bits if value >> bits - 1 else 0)
    return value


def frame(*, blocking: int, codes: int, number: bytes, more: bytes = b"") -> bytes:
    """Write a frame by the letter of RFC 9639, section 9, around four bytes of noise."""
    head = bytes([0xFF, 0xF8 | blocking, codes, 0x18]) + number + more
    head += bytes([crc(head, 0x07, 8)])
    return head + b"abcd" + crc(head + b"abcd", 0x8005, 16).to_bytes(2)


def check(data: bytes, **changes: Any) -> bool | None:
    header = read_header(data)
    return flac.is_whole(header, data[-flac.longest_tail(header) :], **{"duration": None, **changes})


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("silent", [False, True])
def test_an_encoders_file_is_whole_and_a_cut_one_is_not(subtype: str, silent: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """Wherever it is cut, between two frames as well; a tag of the old kind behind it is no cut."""
    data = make_flac(1.0, subtype=subtype, silent=silent)

    assert check(data) is True
    assert check(data + b"TAG" + bytes(125)) is True
    assert check(data + b"TAG" + bytes(124)) is False
    for cut in (1, 2, 3, 9, 40):
        assert check(data[:-cut]) is False, cut


def test_between_two_frames_the_length_tells() -> None:
    """A file that ends with a frame which is not the last one is cut, as far as anything says which one is the last."""
    data = make_flac(1.0)
    header = read_header(data)
    place = next(
        end
        for end in range(len(data) - 1, 0, -1)
        if data[end : end + 2] == b"\xff\xf8" and flac.find_last_sample(header, data[:end])
    )
    unstated = data[:21] + bytes([data[21] & 0xF0, 0, 0, 0, 0]) + data[26:]

    assert check(data[:place]) is False
    assert check(unstated[:place]) is None
    assert check(unstated[:place], duration=1.0) is True  # within the tolerance: the last frame is a short one
    assert check(unstated[:place], duration=2.0) is False
    assert check(unstated) is None
    assert check(unstated[:-1]) is False


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (frame(blocking=0, codes=0xC9, number=b"\x05"), 5 * 4096 + 4096),
        (frame(blocking=1, codes=0x59, number=b"\xd0\x80"), 0x400 + 4608),
        (frame(blocking=1, codes=0x19, number=b"\xfe\x81\x80\x80\x80\x80\x80"), (1 << 30) + 192),
        (frame(blocking=0, codes=0x69, number=b"\x02", more=b"\x0f"), 2 * 4096 + 16),
        (frame(blocking=0, codes=0x7E, number=b"\x02", more=b"\x01\x00\x12\x34"), 2 * 4096 + 257),
        (frame(blocking=0, codes=0x8C, number=b"\x00", more=b"\x2c"), 256),
        (frame(blocking=0, codes=0x09, number=b"\x05"), None),
        (frame(blocking=0, codes=0xC9, number=b"\xff"), None),
        (frame(blocking=0, codes=0xC9, number=b"\x85"), None),
        (frame(blocking=0, codes=0xC9, number=b"\x05")[:-1] + b"\0", None),
        (b"\xff\xf8\xc9\x18\x05", None),
        (b"", None),
    ],
)
def test_a_frame_says_which_samples_it_holds(data: bytes, end: int | None) -> None:
    """By its number, where all blocks are of one size, or by its first sample, and by its own size."""
    assert flac.find_last_sample(HEADER, b"before" + data) == end


@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\xff\xf8\xc9\x18", b"\xff" * 60]))
def test_junk_is_no_frame(data: bytes, start: bytes) -> None:
    """Whatever the bytes, there is an answer, and it is one that a frame can give."""
    end = flac.find_last_sample(HEADER, start + data)
    assert end is None or 0 < end <= (1 << 36) + (1 << 16)

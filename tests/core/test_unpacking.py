import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.unpacking import PIECE, Unpacker, UnpackingError, is_labelled_only

PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]) + bytes(9)),
    ("deflate", zlib.compress),
    ("deflate", lambda data: zlib.compress(data)[2:-4]),
]


def unpack(encoding: str, data: bytes, *, block: int = 1000) -> tuple[bytes, bool]:
    unpacker = Unpacker(encoding)
    blocks = [data[start : start + block] for start in range(0, len(data), block)]
    return b"".join(piece for part in blocks for piece in unpacker.feed(part)), unpacker.ended


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
@given(data=st.binary(max_size=3000), block=st.integers(2, 100))
def test_what_was_packed_comes_out(encoding: str, pack: Callable[[bytes], bytes], data: bytes, block: int) -> None:
    """In whatever blocks it comes; raw deflate too, which some servers send under that name, and members in a row."""
    packed = pack(data)
    assert unpack(encoding, packed, block=block) == (data, True)
    assert not unpack(encoding, packed.rstrip(b"\0")[:-1], block=block)[1]


@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_a_bomb_comes_in_pieces(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """However much a block unpacks to, a piece of it has one MiB at most."""
    sizes = [len(piece) for piece in Unpacker(encoding).feed(pack(bytes(5 * PIECE)))]
    assert sum(sizes) == 5 * PIECE
    assert max(sizes) <= PIECE


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress"])
def test_what_cannot_be_undone_is_told(encoding: str) -> None:
    """By name."""
    with pytest.raises(UnpackingError, match=encoding):
        Unpacker(encoding)


def test_damage_is_told() -> None:
    """And repeats nothing of it."""
    with pytest.raises(UnpackingError, match="damaged"):
        unpack("gzip", b"\x1f\x8bsecret")
    assert repr(Unpacker("gzip")) == "<Unpacker gzip ended=False>"


@pytest.mark.parametrize(
    ("encodings", "start", "labelled"),
    [
        ((), b"\x1f\x8b", True),
        (("gzip",), b"fLaC", True),
        (("br",), b"fLaC", True),
        (("gzip",), b"ID3\x04", True),
        (("gzip",), b"<Err", True),
        (("gzip",), b"\x1f\x8b\x08\x00", False),
        (("deflate",), b"\x78\x9c\x00\x00", False),
        (("br",), b"\x0b\x02\x80\x00", False),
    ],
)
def test_the_bytes_decide(encodings: tuple[str, ...], start: bytes, labelled: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """What begins as FLAC is FLAC, whatever a header says of it."""
    assert is_labelled_only(encodings, start) is labelled

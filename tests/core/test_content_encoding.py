import gzip
import sys
import zlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core import content_encoding
from soundpiece_async._core.content_encoding import BLOCK, Unpacker, UnpackingError, is_labelled_only

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
    sizes = [len(piece) for piece in Unpacker(encoding).feed(pack(bytes(5 * BLOCK)))]
    assert sum(sizes) == 5 * BLOCK
    assert max(sizes) <= BLOCK


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


ANSWER = b'{"id": "17"}'
BROTLI = bytes([0x8B, 0x05, 0x80]) + ANSWER + b"\x03"
"""As Brotli stores what it does not compress."""


def squeeze(data: bytes) -> bytes:
    """Compress without the time: the names of tests must not change."""
    return gzip.compress(data, mtime=0)


class Brotli:
    """Undoes that, as ``brotli.Decompressor`` does."""

    def __init__(self) -> None:
        self.got = b""

    def process(self, data: bytes) -> bytes:
        """Read a part, and return its content."""
        self.got += data
        if self.got[:3] != BROTLI[:3]:
            raise ValueError(data)
        return data.removeprefix(BROTLI[:3]).removesuffix(BROTLI[-1:])

    def is_finished(self) -> bool:
        """Whether its end was seen."""
        return self.got.endswith(BROTLI[-1:])


@pytest.fixture
def brotli(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed."""
    monkeypatch.setitem(sys.modules, "brotli", SimpleNamespace(Decompressor=Brotli))


@pytest.mark.usefixtures("brotli")
@pytest.mark.parametrize(
    ("body", "encodings"),
    [
        (ANSWER, ()),
        (ANSWER, ("gzip",)),
        (ANSWER, ("br", "zstd")),
        (squeeze(ANSWER), ("gzip",)),
        (squeeze(ANSWER), ()),
        (squeeze(ANSWER), ("br",)),
        (squeeze(squeeze(ANSWER)), ("gzip", "gzip")),
        (squeeze(zlib.compress(ANSWER)), ("deflate", "gzip")),
        (squeeze(ANSWER), ("gzip", "gzip")),
        (zlib.compress(ANSWER), ("deflate",)),
        (BROTLI, ("br",)),
    ],
)
def test_what_an_answer_is_packed_in(body: bytes, encodings: tuple[str, ...]) -> None:
    """Its bytes say whether it is, whatever the header says."""
    assert content_encoding.unpack(body, encodings, limit=100) == ANSWER


@pytest.mark.usefixtures("brotli")
@pytest.mark.parametrize(
    ("body", "encodings", "told"),
    [
        (b"\xff" * 20, ("gzip",), "not encoded as its header says"),
        (b"\xff", ("zstd",), r"is encoded \(zstd\)"),
        (squeeze(ANSWER)[:-3], ("gzip",), "ends too early"),
        (squeeze(bytes(101)), (), "larger than 100 bytes"),
        (BROTLI[:-1], ("br",), "ends too early"),
        (b"\xff" + BROTLI, ("br",), "not encoded as its header says"),
    ],
)
def test_an_answer_that_cannot_be_unpacked(body: bytes, encodings: tuple[str, ...], told: str) -> None:
    """The error says why."""
    with pytest.raises(UnpackingError, match=told):
        content_encoding.unpack(body, encodings, limit=100)


def test_brotli_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is identified by its name."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    with pytest.raises(UnpackingError, match=r"is encoded \(br\)"):
        content_encoding.unpack(BROTLI, ("br",), limit=100)

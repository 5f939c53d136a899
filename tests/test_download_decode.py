import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.download_bench import PATH, bench, damage, encode

from soundpiece_async._core.errors import CorruptAudio, SettingsError
from soundpiece_async._core.flac import read_header

pytestmark = pytest.mark.anyio

NO_MD5 = bytes(16)


def state_no_length(data: bytes) -> bytes:
    """Write 0 samples into a header, as encoders do that write to a pipe."""
    return damage(data, 21, bytes([data[21] & 0xF0, 0, 0, 0, 0]))


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
async def test_full_decodes_what_encoders_write(tmp_path: Path, subtype: str, channels: int) -> None:
    """With verify="full" sound files pass, whatever their width, also those that were there already."""
    async with bench(tmp_path, files={PATH: encode(subtype, channels=channels)}, verify="full") as b:
        for _ in range(2):
            saved = await b.downloader.save(b.output(duration=0.5), b.target)

        assert (saved.sample_rate, saved.channels) == (44_100, channels)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: damage(data, 26, b"0123456789abcdef"), "MD5"),
        (lambda data: damage(damage(data, 26, NO_MD5), len(data) // 2, bytes(64)), "decoded"),
        (lambda data: damage(data, len(data) // 2, bytes(64)), "decoded|MD5"),
        (lambda data: data[:-2_000], "decoded|MD5"),
        (lambda data: data[:60], "decoded"),
        (lambda data: state_no_length(data)[:-2_000], "last frame"),
        (lambda data: damage(state_no_length(data), len(data) // 2, bytes(64)), "decoded|MD5"),
    ],
)
async def test_full_finds_what_the_header_hides(tmp_path: Path, spoil: Callable[[bytes], bytes], reason: str) -> None:
    """Every frame is decoded and the MD5 of the audio compared: a damage behind the header is CorruptAudio."""
    body = spoil(encode())
    async with bench(tmp_path, files={PATH: body}, verify="full") as b:
        output = b.output(duration=0.5)
        with pytest.raises(CorruptAudio, match=reason):
            await b.downloader.save(output, b.target)
        assert b.left() == []

        b.target.write_bytes(body)
        with pytest.raises(CorruptAudio, match="already exists, and is damaged"):
            await b.downloader.save(output, b.target)
        b.server.files[PATH] = encode()
        await b.downloader.save(output, b.target, overwrite=True)
        assert b.target.read_bytes() == encode()


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x02\0" + bytes(256)])
async def test_a_header_may_state_no_length(tmp_path: Path, tag: bytes) -> None:
    """An encoder that wrote to a pipe did not know it; the last frame tells, and every frame is decoded."""
    async with bench(tmp_path, files={PATH: tag + state_no_length(encode())}, verify="full") as b:
        saved = await b.downloader.save(b.output(duration=0.5), b.target)

        assert (saved.duration, saved.sample_rate, saved.channels) == (0.5, 44_100, 2)
        assert len(saved.warnings) == bool(tag)


async def test_what_cannot_be_decoded_here_is_saved_with_a_warning(tmp_path: Path) -> None:
    """Audio of 20 bits is FLAC as any other; that the decoder does not know it is no fault of the file's."""
    data = encode("PCM_24")
    data = damage(data, 21, bytes([data[21] & 0x0F | 0x30]))
    assert read_header(data).bits == 20
    async with bench(tmp_path, files={PATH: data}, verify="full") as b:
        saved = await b.downloader.save(b.output(duration=0.5), b.target)

        (warning,) = saved.warnings
        assert "was not decoded" in warning
        assert "has 20" in warning


async def test_an_encoder_may_leave_the_md5_out(tmp_path: Path) -> None:
    """Zeros in its place say that the encoder did not know: then decoding every sample is all there is to check."""
    body = damage(encode(), 26, NO_MD5)
    async with bench(tmp_path, files={PATH: body}, verify="full") as b:
        saved = await b.downloader.save(b.output(duration=0.5), b.target)

        assert saved.duration == 0.5


async def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without soundfile verify="full" says which extra to install, before anything is fetched."""
    monkeypatch.delitem(sys.modules, "soundpiece_async._download.decode", raising=False)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    async with bench(tmp_path, verify="full") as b:
        with pytest.raises(SettingsError, match=r"soundpiece-async\[verify\]"):
            await b.save()
        assert not b.server.requests
        assert not b.target.parent.exists()

"""A downloader connected to a scripted output host, and audio files for it."""

import hashlib
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest

from helpers.raw_output_host import RawServer, ScriptedResponse
from soundpiece_async._core.ranges import RemoteFile
from soundpiece_async._core.requests import Handle, Output
from soundpiece_async._core.settings import Settings, Timeouts, Verify
from soundpiece_async._download.downloader import Downloader
from soundpiece_async._download.partfile import Claim, PartFile
from soundpiece_async._download.stream import AudioStream
from soundpiece_async._lifetime import Lifetime
from soundpiece_async._transport import Transport

HANDLE = Handle("create.new_song", "op_01kd0000000000000000000001")
PATH = "/song.flac"
KEPT = ["song.flac.part", "song.flac.part.json"]


def flac_like(size: int, *, seed: int = 0, samples: int = 44_100, rate: int = 44_100) -> bytes:
    """Return a valid FLAC header followed by noise: all that `verify="header"` reads."""
    noise = random.Random(seed).randbytes(size - 42)
    packed = rate << 44 | 1 << 41 | 15 << 36 | samples
    head = b"fLaC\x80\0\0\x22\x10\0\x10\0" + bytes(6) + packed.to_bytes(8) + hashlib.sha256(noise).digest()[:16]
    return head + noise


SONG = flac_like(300_000)
OTHER = flac_like(300_000, seed=1)


SHORT, SHORT_TOO = flac_like(40_000), flac_like(40_000, seed=1)


async def no_pause(_: float) -> None:
    await anyio.lowlevel.checkpoint()


@attrs.define
class Bench:
    """A downloader, its host, and the outputs it renewed."""

    server: RawServer
    downloader: Downloader
    target: Path
    renewed: list[Output] = attrs.field(factory=list)
    life: timedelta = timedelta(minutes=15)

    def output(self, path: str = PATH, **changes: Any) -> Output:
        """Return the song's output as the API describes it."""
        base = Output(url=self.server.url(path), handle=HANDLE, duration=1.0, expires_at=datetime.now(UTC) + self.life)
        return attrs.evolve(base, **changes)

    async def renew(self, output: Output) -> Output:
        """Sign afresh."""
        await anyio.lowlevel.checkpoint()
        self.renewed.append(output)
        return attrs.evolve(
            output,
            url=self.server.url(output.path, f"sig=fresh{len(self.renewed)}"),
            expires_at=datetime.now(UTC) + self.life,
        )

    async def save(self, **options: Any) -> bytes:
        """Save the song, and give what is on disk then."""
        saved = await self.downloader.save(self.output(), self.target, **options)
        data = self.target.read_bytes()
        assert saved.sha256 == hashlib.sha256(data).hexdigest()
        assert (saved.path, saved.bytes) == (self.target, len(data))
        assert self.left() == [self.target.name]
        return data

    def left(self) -> list[str]:
        """Return the names of all files in the folder."""
        return sorted(path.name for path in self.target.parent.iterdir()) if self.target.parent.exists() else []


def transport(*, read: float) -> Transport:
    """Build a transport whose API is never called."""
    return Transport(Settings(api_key="spk_none", base_url="http://localhost:1", timeouts=Timeouts(read=read)))


@asynccontextmanager
async def bench(
    folder: Path,
    *script: ScriptedResponse,
    default: ScriptedResponse | None = None,
    verify: Verify = "header",
    max_elapsed: float = 300.0,
    limit: int = 8,
    read: float = 5.0,
    files: dict[str, bytes] | None = None,
    sleep: Callable[[float], Awaitable[None]] = no_pause,
    **options: Any,
) -> AsyncIterator[Bench]:
    server = RawServer(files or {PATH: SONG}, script=script, default=default)
    async with server, transport(read=read) as network:

        async def renew(output: Output) -> Output:
            return await made.renew(output)

        downloader = Downloader(
            stream=network.stream,
            renew=renew,
            limit=limit,
            verify=verify,
            max_elapsed=max_elapsed,
            sleep=sleep,
            **options,
        )
        made = Bench(server, downloader, folder / "out" / "song.flac")
        yield made
        assert downloader.active_streams == 0
        assert all(request.method == "GET" for request in server.requests)


@asynccontextmanager
async def lifetime() -> AsyncIterator[Lifetime]:
    """Live as a session does."""
    life = Lifetime()
    await life.start(nullcontext())
    yield life
    await life.close()


def stream(
    b: Bench, life: Lifetime, *, wanted: str | None = None, if_range: str | None = None, **changes: Any
) -> AudioStream:
    output = b.output(**changes)
    return AudioStream(output, downloader=b.downloader, life=life, wanted=wanted, if_range=if_range)


async def read_all(b: Bench, life: Lifetime) -> bytes:
    async with stream(b, life) as audio:
        return b"".join([block async for block in audio])


def leave(b: Bench, data: bytes, *, note: str | None = None, **changes: Any) -> None:
    """Leave behind what a process that was killed leaves behind."""
    part = PartFile(b.target, source=changes.pop("source", f"{HANDLE}#0"))
    b.target.parent.mkdir(parents=True)
    assert part.claim(overwrite=False) is Claim.ACQUIRED
    etag = f'"{hashlib.sha256(SONG).hexdigest()[:16]}"'
    part.restart(RemoteFile(**{"etag": etag, "size": len(SONG), **changes}))
    part.append([data])
    part.close()
    if note is not None:
        b.target.with_name("song.flac.part.json").write_text(note)


def encode(subtype: str = "PCM_16", *, seconds: float = 0.5, channels: int = 2) -> bytes:
    np, soundfile = pytest.importorskip("numpy"), pytest.importorskip("soundfile")
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (int(44_100 * seconds), channels))
    file = io.BytesIO()
    soundfile.write(file, noise, 44_100, format="FLAC", subtype=subtype)
    return file.getvalue()


def damage(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


class CancelAt:
    """Runs a coroutine in a task, and cancels it when it waits for the n-th time."""

    def __init__(self, coroutine: Any, *, turn: int, cancel: Callable[[], object]) -> None:
        self.coroutine = coroutine
        self.turn = turn
        self.cancel = cancel
        self.turns = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        waiting = self.coroutine.__await__()
        step, value = waiting.send, None
        while True:
            try:
                awaited = step(value)
            except StopIteration as end:
                return end.value
            self.turns += 1
            if self.turns == self.turn:
                self.cancel()
            try:
                step, value = waiting.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine
                step, value = waiting.throw, error

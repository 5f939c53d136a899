import asyncio
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rawserver import Act, RawServer

from soundpiece_async._core.errors import CorruptAudio, DownloadError, SettingsError, SoundpieceError, TransportError
from soundpiece_async._core.outputs import Handle, Output
from soundpiece_async._core.resuming import Known
from soundpiece_async._core.settings import Settings, Timeouts, Verify
from soundpiece_async._downloader import Downloader
from soundpiece_async._fetching import MOST_REFUSALS, ServerClock, Source
from soundpiece_async._filling import Disk, fill
from soundpiece_async._partfile import Claim, PartFile
from soundpiece_async._transport import Transport

pytestmark = pytest.mark.anyio

HANDLE = Handle("create.new_song", "op_01kd0000000000000000000001")
PATH = "/song.flac"
KEPT = ["song.flac.part", "song.flac.part.json"]


def flac_like(size: int, *, seed: int = 0, samples: int = 44_100, rate: int = 44_100) -> bytes:
    """A real header before noise: all that the check of headers looks at."""
    noise = random.Random(seed).randbytes(size - 42)
    packed = rate << 44 | 1 << 41 | 15 << 36 | samples
    head = b"fLaC\x80\0\0\x22\x10\0\x10\0" + bytes(6) + packed.to_bytes(8) + hashlib.sha256(noise).digest()[:16]
    return head + noise


SONG = flac_like(300_000)
OTHER = flac_like(300_000, seed=1)


async def no_pause(_: float) -> None:
    await anyio.lowlevel.checkpoint()


@attrs.define
class Bench:
    """A downloader before a host, and what it asked of the API."""

    server: RawServer
    downloader: Downloader
    target: Path
    renewed: list[Output] = attrs.field(factory=list)
    life: timedelta = timedelta(minutes=15)

    def output(self, path: str = PATH, **changes: Any) -> Output:
        """The song as the API would describe it."""
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
        """All files in the folder."""
        return sorted(path.name for path in self.target.parent.iterdir()) if self.target.parent.exists() else []


def transport(*, read: float) -> Transport:
    """Make a transport whose API nobody asks."""
    return Transport(Settings(api_key="spk_none", base_url="http://localhost:1", timeouts=Timeouts(read=read)))


@asynccontextmanager
async def bench(
    folder: Path,
    *script: Act,
    default: Act | None = None,
    verify: Verify = "header",
    stalls: int = 6,
    limit: int = 8,
    read: float = 5.0,
    files: dict[str, bytes] | None = None,
    sleep: Callable[[float], Awaitable[None]] = no_pause,
) -> AsyncIterator[Bench]:
    server = RawServer(files or {PATH: SONG}, script=script, default=default)
    async with server, transport(read=read) as network:

        async def renew(output: Output) -> Output:
            return await made.renew(output)

        downloader = Downloader(
            stream=transport.stream, renew=renew, limit=limit, verify=verify, stalls=stalls, sleep=sleep
        )
        made = Bench(server, downloader, folder / "out" / "song.flac")
        yield made
        assert downloader.streams_out == 0
        assert all(request.method == "GET" for request in server.requests)


# --- never torn, never lost


async def test_an_output_becomes_a_file(tmp_path: Path) -> None:
    """One GET, without a Range, gives the file under its name and what its header says; folders are made."""
    async with bench(tmp_path) as b:
        saved = await b.downloader.save(b.output(), b.target)

        assert b.target.read_bytes() == SONG
        assert (saved.duration, saved.sample_rate, saved.channels) == (1.0, 44_100, 2)
        assert saved.sha256 == hashlib.sha256(SONG).hexdigest()
        assert saved.output == b.output(expires_at=saved.output.expires_at)
        assert b.left() == ["song.flac"]
        assert b.server.ranges == [None]
        assert b.server.requests[0].target == f"{PATH}?sig=secret"
        assert "authorization" not in b.server.requests[0].headers
        assert (b.downloader.saved, b.downloader.received) == (1, len(SONG))
        assert not b.renewed
        assert repr(b.downloader) == "<Downloader streams=0/8 targets=0 saved=1 received=300000 verify=header>"


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([Act(cut=100_000)], [None, "bytes=100000-"]),
        ([Act(cut=100_000), Act(cut=50_000), Act(cut=1)], [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]),
        ([Act(cut=0)], [None, None]),
        ([Act(cut=100_000, reset=True)], None),
        ([Act(cut=100_000, framing="chunked")], [None, "bytes=100000-"]),
        ([Act(framing="chunked")], [None]),
        ([Act(cut=100_000), Act(framing="chunked")], [None, "bytes=100000-"]),
        ([Act(framing="close")], [None, "bytes=300000-"]),
        ([Act(framing="close", cut=100_000)], [None, "bytes=100000-"]),
        ([Act(framing="close", etag=None)], [None, "bytes=300000-"]),
        ([Act(framing="close", etag=None, cut=100_000)], [None, "bytes=100000-", None]),
        ([Act(cut=100_000), Act(shift=1)], [None, "bytes=100000-", None]),
        ([Act(cut=100_000), Act(shift=-1)], [None, "bytes=100000-", None]),
        ([Act(cut=100_000), Act(ranges=False)], [None, "bytes=100000-"]),
        ([Act(cut=100_000), Act(ranges=False, cut=1_000)], [None, "bytes=100000-", "bytes=1000-"]),
        ([Act(cut=100_000), Act(most=50_000)], [None, "bytes=100000-", "bytes=150000-"]),
        ([Act(cut=100_000), Act(status=416)], [None, "bytes=100000-", None]),
        ([Act(cut=100_000), Act(status=416, headers={"Content-Range": "bytes */7"})], [None, "bytes=100000-", None]),
        ([Act(cut=100_000, etag=None)], [None, None]),
        ([Act(cut=100_000, etag='W/"weak"')], [None, None]),
        ([Act(cut=100_000, etag='"another"')], [None, "bytes=100000-"]),
        ([Act(cut=100_000), Act(etag='"another"', ranges=False, cut=10)], [None, "bytes=100000-", "bytes=10-"]),
        ([Act(excess=b"junk")], [None]),
        ([Act(cut=100_000), Act(framing="chunked", excess=b"junk")], [None, "bytes=100000-", None]),
        ([Act(announce=5)], [None, "bytes=300000-", None]),
        ([Act(cut=100_000), Act(announce=5)], [None, "bytes=100000-", None]),
        ([Act(cut=100_000, framing="chunked"), Act(total=False)], [None, "bytes=100000-", "bytes=300000-"]),
        ([Act(status=503), Act(status=429), Act(status=500), Act(status=302)], [None] * 5),
        ([Act(headers={"Content-Encoding": "gzip"})], [None, None]),
        ([Act(body=b"", framing="close")], [None, None]),
        ([Act(cut=100_000), Act(body=OTHER, ranges=False, cut=99_000)], [None, "bytes=100000-", "bytes=99000-"]),
    ],
)
async def test_no_fault_tears_a_file(tmp_path: Path, script: list[Act], ranges: list[str | None] | None) -> None:
    """After each fault the download goes on where proof allows it, and from the beginning where it does not."""
    async with bench(tmp_path, *script) as b:
        assert await b.save() == SONG
        assert ranges is None or b.server.ranges == ranges


async def test_bytes_are_continued_under_their_etag_only(tmp_path: Path) -> None:
    """Every Range carries the ETag as If-Range, and no encoding is asked for."""
    async with bench(tmp_path, Act(cut=100_000)) as b:
        await b.save()

        first, second = b.server.requests
        assert first.headers["accept-encoding"] == "identity"
        assert "if-range" not in first.headers
        assert second.headers["if-range"] == f'"{hashlib.sha256(SONG).hexdigest()[:16]}"'


async def test_a_stalled_stream_is_resumed(tmp_path: Path) -> None:
    """A host that says nothing for the read timeout is asked again, for the rest."""
    async with bench(tmp_path, Act(cut=100_000, stall=10), read=0.2) as b:
        assert await b.save() == SONG
        assert b.server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize(
    ("default", "reason"),
    [
        (Act(status=503), "busy"),
        (Act(cut=0), "no usable answer"),
        (Act(framing="close", ranges=False), "does not say how long"),
        (Act(etag=None, cut=1_000), "no usable answer"),
    ],
)
async def test_patience_ends(tmp_path: Path, default: Act, reason: str) -> None:
    """So many attempts in a row without a new byte end in a DownloadError, and leave no file with the final name."""
    async with bench(tmp_path, default=default, stalls=3, verify="none") as b:
        with pytest.raises(DownloadError, match=reason) as caught:
            await b.save()

        assert not b.target.exists()
        assert len(b.server.requests) == (3 if default.status or default.cut == 0 else 4)
        assert caught.value.path == str(b.target)
        assert "secret" not in f"{caught.value}{caught.value.url}"
        assert caught.value.received == b.downloader.received
        assert isinstance(caught.value.__cause__, TransportError) == (default.cut is not None)
        assert b.left() == ([] if default.etag is None or default.status or default.cut == 0 else KEPT)


async def test_progress_renews_patience(tmp_path: Path) -> None:
    """Only attempts in a row count: a host that gives a little each time is worth going on with."""
    async with bench(tmp_path, *[Act(cut=20_000), Act(status=503)] * 14, stalls=2) as b:
        assert await b.save() == SONG
        assert len(b.server.requests) == 29


async def test_what_arrived_is_kept_for_the_next_process(tmp_path: Path) -> None:
    """Given up with bytes in hand, a ``.part`` and its note stay, and another downloader goes on from them."""
    async with bench(tmp_path, Act(cut=200_000), default=Act(status=500), stalls=2) as b:
        with pytest.raises(DownloadError):
            await b.save()
        assert b.left() == KEPT

    async with bench(tmp_path) as b:
        assert await b.save() == SONG
        assert b.server.ranges == ["bytes=200000-"]
        assert b.downloader.received == 100_000


def leave(b: Bench, data: bytes, *, note: str | None = None, **changes: Any) -> None:
    """Leave behind what a process that was killed leaves behind."""
    part = PartFile(b.target, source=changes.pop("source", f"{HANDLE}#0"))
    b.target.parent.mkdir(parents=True)
    assert part.claim(overwrite=False) is Claim.MINE
    etag = f'"{hashlib.sha256(SONG).hexdigest()[:16]}"'
    part.restart(Known(**{"etag": etag, "size": len(SONG), **changes}))
    part.append([data])
    part.close()
    if note is not None:
        b.target.with_name("song.flac.part.json").write_text(note)


@pytest.mark.parametrize(
    ("data", "changes", "ranges"),
    [
        (SONG[:5_000], {}, ["bytes=5000-"]),
        (SONG[:5_000], {"size": None}, ["bytes=5000-"]),
        (SONG, {}, ["bytes=299999-"]),
        (SONG, {"size": None}, ["bytes=300000-"]),
        (SONG + b"more", {}, [None]),
        (SONG + b"more", {"size": None}, ["bytes=300004-", None]),
        (SONG[:5_000], {"size": 400_000}, ["bytes=5000-", None]),
        (SONG[:5_000], {"etag": '"old"'}, ["bytes=5000-"]),
        (SONG[:5_000], {"source": "another"}, [None]),
        (SONG[:5_000], {"note": "{}"}, [None]),
        (SONG[:5_000], {"note": '{"source": '}, [None]),
        (SONG[:5_000], {"note": "[]"}, [None]),
        (SONG[:1], {"size": 1}, [None]),
    ],
)
async def test_a_part_is_used_when_its_note_says_so(
    tmp_path: Path, data: bytes, changes: dict[str, Any], ranges: list[str | None]
) -> None:
    """What a dead process left is gone on with under its ETag, size and source, else thrown away."""
    async with bench(tmp_path) as b:
        leave(b, data, **changes)

        assert await b.save() == SONG
        assert b.server.ranges == ranges


async def test_a_part_without_a_note_is_thrown_away(tmp_path: Path) -> None:
    """Bytes that nothing describes are not used."""
    async with bench(tmp_path) as b:
        leave(b, SONG[:5_000])
        b.target.with_name("song.flac.part.json").unlink()

        assert await b.save() == SONG
        assert b.server.ranges == [None]


async def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    """Nothing is written outside the folder."""
    async with bench(tmp_path) as b:
        b.target.parent.mkdir()
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        b.target.with_name("song.flac.part").symlink_to(victim)

        with pytest.raises(DownloadError, match="file system"):
            await b.save()
        assert victim.read_bytes() == b"precious"


# --- two at once


async def test_two_saves_of_one_target_fetch_it_once(tmp_path: Path) -> None:
    """In one process the second waits for the first and takes its file after a look at 42 bytes."""
    async with bench(tmp_path, default=Act(pause=0.001)) as b:
        found: list[bytes] = []

        async def save() -> None:
            found.append(await b.save())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(save)

        assert found == [SONG] * 3
        assert b.server.ranges == [None, "bytes=0-41", "bytes=0-41"]


async def test_processes_wait_for_each_other(tmp_path: Path) -> None:
    """While another holder of the ``.part`` works, nothing is asked; its file is then taken as it is."""
    async with bench(tmp_path) as b, anyio.create_task_group() as group:
        b.target.parent.mkdir()
        other = PartFile(b.target, source="another process")
        assert other.claim(overwrite=False) is Claim.MINE
        other.append([SONG])

        group.start_soon(b.save)
        await anyio.sleep(0.15)
        assert not b.server.requests
        other.publish()
        await anyio.sleep(0.15)
        assert not b.left()[1:]
        other.close()

    assert b.server.ranges == ["bytes=0-41"]


async def test_a_holder_that_gives_up_is_followed(tmp_path: Path) -> None:
    """The lock of a process that failed passes on, though its ``.part`` was removed meanwhile."""
    async with bench(tmp_path) as b, anyio.create_task_group() as group:
        b.target.parent.mkdir()
        other = PartFile(b.target, source="another process")
        assert other.claim(overwrite=False) is Claim.MINE

        group.start_soon(b.save)
        await anyio.sleep(0.15)
        other.close()

    assert b.target.read_bytes() == SONG


def test_a_lock_belongs_to_the_file_that_is_there(tmp_path: Path) -> None:
    """One claim at a time; a closed one is never made again, and using it is a mistake of ours."""
    one, two = (PartFile(tmp_path / "x.flac", source="s") for _ in range(2))

    assert repr(one) == f"<PartFile {tmp_path / 'x.flac.part'} new length=0 {Known()}>"
    assert one.claim(overwrite=False) is Claim.MINE
    assert "open" in repr(one)
    assert two.claim(overwrite=False) is Claim.TAKEN
    one.close()
    one.close()
    assert "closed" in repr(one)
    assert one.claim(overwrite=False) is Claim.TAKEN
    assert two.claim(overwrite=False) is Claim.MINE
    two.close()
    with pytest.raises(RuntimeError, match="after it was closed"):
        two.head()
    assert not list(tmp_path.iterdir())


class LatePath(type(Path())):  # type: ignore[misc] - the concrete class of this system
    """A target that is published between the first look and the lock."""

    looks = 0

    def exists(self) -> bool:
        """Lie once."""
        LatePath.looks += 1
        return LatePath.looks > 1


def test_a_target_published_before_the_lock_was_had_is_seen(tmp_path: Path) -> None:
    """After the lock is had, the target is looked for once more, and the empty ``.part`` goes away."""
    LatePath.looks = 0
    part = PartFile(LatePath(tmp_path / "x.flac"), source="s")

    assert part.claim(overwrite=False) is Claim.DONE
    assert not list(tmp_path.iterdir())
    assert part.claim(overwrite=True) is Claim.MINE
    part.close()


def test_a_lock_that_cannot_be_had_leaves_no_handle(tmp_path: Path) -> None:
    """What is in the place of the ``.part`` and is no file is an error, and nothing stays open."""
    (tmp_path / "x.flac.part").mkdir()

    with pytest.raises(IsADirectoryError):
        PartFile(tmp_path / "x.flac", source="s").claim(overwrite=False)


# --- a file that is there


@pytest.mark.parametrize(
    "act",
    [
        Act(),
        Act(ranges=False),
        Act(ranges=False, framing="chunked"),
        Act(framing="chunked"),
        Act(etag=None),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
async def test_the_same_file_is_not_fetched_again(tmp_path: Path, act: Act, overwrite: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """42 bytes and the size tell that a file is the same, with ``overwrite`` too."""
    async with bench(tmp_path) as b:
        b.target.parent.mkdir()
        b.target.write_bytes(SONG)
        before = b.target.stat()
        b.server.default = act

        assert await b.save(overwrite=overwrite) == SONG
        assert b.server.ranges == ["bytes=0-41"]
        assert b.target.stat() == before or b.target.stat().st_mtime_ns == before.st_mtime_ns
        assert b.downloader.saved == 0


@pytest.mark.parametrize(
    ("there", "act", "reason"),
    [
        (OTHER, Act(), "a different file"),
        (SONG[:-1], Act(), "a different file"),
        (SONG + b"x", Act(), "a different file"),
        (SONG[:10], Act(), "a different file"),
        (b"", Act(), "a different file"),
        (SONG, Act(total=False), "does not say how long"),
    ],
)
async def test_a_different_file_is_not_touched(tmp_path: Path, there: bytes, act: Act, reason: str) -> None:
    """What is in the way stays as it is, unless ``overwrite``."""
    async with bench(tmp_path, default=act) as b:
        b.target.parent.mkdir()
        b.target.write_bytes(there)

        with pytest.raises(DownloadError, match=reason):
            await b.save()
        assert b.target.read_bytes() == there
        assert b.left() == ["song.flac"]
        assert await b.save(overwrite=True) == SONG


async def test_a_look_is_repeated_as_a_download_is(tmp_path: Path) -> None:
    """Drops, refusals and short bodies of the comparison use up the same patience."""
    async with bench(tmp_path, Act(cut=10), Act(cut=10, framing="close"), Act(status=403)) as b:
        b.target.parent.mkdir()
        b.target.write_bytes(SONG)

        assert await b.save() == SONG
        assert len(b.server.requests) == 4
        assert len(b.renewed) == 1


async def test_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    """What cannot be read or replaced is a DownloadError that repeats what the system says."""
    async with bench(tmp_path) as b:
        b.target.mkdir(parents=True)

        with pytest.raises(DownloadError, match="directory"):
            await b.save()


# --- URLs that expire


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_refused_url_is_renewed(tmp_path: Path, status: int) -> None:
    """A refusal, in the middle of a file too, has the URL signed afresh, and the old bytes are continued."""
    async with bench(tmp_path, Act(cut=100_000), Act(status=status)) as b:
        saved = await b.downloader.save(b.output(), b.target)

        assert b.target.read_bytes() == SONG
        assert b.server.ranges == [None, "bytes=100000-", "bytes=100000-"]
        assert [request.target for request in b.server.requests] == [
            f"{PATH}?sig=secret",
            f"{PATH}?sig=secret",
            f"{PATH}?sig=fresh1",
        ]
        assert saved.output.url.endswith("fresh1")


async def test_refusals_are_bounded(tmp_path: Path) -> None:
    """Four refusals in a row without a new byte end in a DownloadError; the URL was renewed between them."""
    async with bench(tmp_path, default=Act(status=403)) as b:
        with pytest.raises(DownloadError, match="refused the URL"):
            await b.save()

        assert len(b.server.requests) == MOST_REFUSALS == 4
        assert len(b.renewed) == 3


async def test_a_new_byte_forgives_refusals(tmp_path: Path) -> None:
    """Honest URLs may live for seconds only: as long as each brings something, it goes on."""
    refused = [Act(status=403)] * 3
    async with bench(tmp_path, *refused, Act(cut=1), *refused, Act(cut=100), *refused) as b:
        assert await b.save() == SONG
        assert len(b.renewed) == 9


@pytest.mark.parametrize(("life", "renewals"), [(timedelta(minutes=15), 0), (timedelta(seconds=50), 1)])
async def test_a_url_near_its_end_is_renewed_before_it_is_used(tmp_path: Path, life: timedelta, renewals: int) -> None:
    """A fresh URL is used whatever its remaining life: here none of them lives long enough."""
    async with bench(tmp_path) as b:
        b.life = life

        assert await b.save() == SONG
        assert len(b.renewed) == renewals
        assert len(b.server.requests) == 1


@pytest.mark.parametrize(("expires_at", "renewals"), [(None, 0), (datetime(2020, 1, 1), 1)])  # noqa: DTZ001 - what a service may send
async def test_any_expiry_is_understood(tmp_path: Path, expires_at: datetime | None, renewals: int) -> None:
    """An output may have no end, or one without a time zone, which then is UTC."""
    async with bench(tmp_path) as b:
        await b.downloader.save(b.output(expires_at=expires_at), b.target)

        assert len(b.renewed) == renewals


@pytest.mark.parametrize(
    ("ahead", "left", "renewals"),
    [(timedelta(hours=1), timedelta(minutes=30), 1), (timedelta(hours=-1), timedelta(minutes=-30), 0)],
)
async def test_the_hosts_clock_counts(tmp_path: Path, ahead: timedelta, left: timedelta, renewals: int) -> None:
    """Once the host has told its time, remaining life is judged by it, whatever the local clock says."""
    date = {"Date": format_datetime(datetime.now(UTC) + ahead, usegmt=True)}
    async with bench(tmp_path, Act(headers=date)) as b:
        await b.save()
        output = b.output(expires_at=datetime.now(UTC) + left)
        await b.downloader.save(output, b.target.with_name("two.flac"))

        assert len(b.renewed) == renewals


def test_the_clock_reads_what_it_understands() -> None:
    """The age of a cached answer belongs to its date; nonsense is ignored."""
    clock = ServerClock()
    for junk in ({}, {"date": "yesterday"}, {"date": "Mon, 23 Nov 2026 10:00:00 GMT", "age": "old"}):
        clock.read(junk)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)

    clock.read({"date": "Mon, 23 Nov 2026 10:00:00 GMT", "age": "60"})
    assert timedelta(0) <= clock.now() - datetime(2026, 11, 23, 10, 1, tzinfo=UTC) < timedelta(seconds=1)


async def test_errors_of_the_renewal_come_out_as_they_are(tmp_path: Path) -> None:
    """When the API cannot sign afresh, its error is the answer; what arrived is kept."""
    refusal = TransportError("the API is down")

    async def renew(_: Output) -> Output:
        await anyio.lowlevel.checkpoint()
        raise refusal

    async with bench(tmp_path, Act(cut=1_000), Act(status=403)) as b:
        b.downloader._host.renew = renew
        with pytest.raises(TransportError) as caught:
            await b.save()

        assert caught.value is refusal
        assert b.left() == KEPT


# --- verified


def encode(subtype: str = "PCM_16", *, seconds: float = 0.5, channels: int = 2) -> bytes:
    np, soundfile = pytest.importorskip("numpy"), pytest.importorskip("soundfile")
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (int(44_100 * seconds), channels))
    file = io.BytesIO()
    soundfile.write(file, noise, 44_100, format="FLAC", subtype=subtype)
    return file.getvalue()


NO_MD5 = bytes(16)


def damage(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


WRONG = [
    (flac_like(5_000, samples=88_200), "it lasts 2.00 s where 1.00 s were announced"),
    (flac_like(5_000, rate=48_000), "48000 Hz"),
    (b"<Error>AccessDenied</Error>" + bytes(100), "magic"),
    (b"", "magic"),
    (b"fLaC\x80", "ends after 5 bytes"),
]


@pytest.mark.parametrize(("body", "reason"), WRONG)
async def test_what_is_not_the_audio_is_fetched_anew_once(tmp_path: Path, body: bytes, reason: str) -> None:
    """A file that fails its check is fetched again, and is CorruptAudio when it fails again; nothing is left of it."""
    async with bench(tmp_path, Act(body=body)) as b:
        assert await b.save() == SONG
        assert b.server.ranges == [None, None]

    async with bench(tmp_path / "again", files={PATH: body}) as b:
        with pytest.raises(CorruptAudio, match=reason):
            await b.save()
        assert len(b.server.requests) == 2
        assert b.left() == []


@pytest.mark.parametrize(("body", "facts"), [(WRONG[0][0], (2.0, 44_100, 2)), (WRONG[2][0], (1.0, 0, 0))])
async def test_none_checks_the_size_only(tmp_path: Path, body: bytes, facts: tuple[float, int, int]) -> None:
    """With verify="none" anything whole is taken; its numbers come from its header, if it has one."""
    async with bench(tmp_path, Act(cut=50), files={PATH: body}, verify="none") as b:
        for _ in range(2):
            saved = await b.downloader.save(b.output(), b.target)
            assert (saved.duration, saved.sample_rate, saved.channels) == facts

        assert b.target.read_bytes() == body


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
        (lambda data: damage(data, 20, bytes([data[20] & 0xFE, data[21] & 0x0F | 0xB0])), "8, 16 and 24 bits"),
        (lambda data: damage(data, 21, bytes([data[21] & 0xF0, 0, 0, 0, 0])), "does not say how long"),
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
        with pytest.raises(CorruptAudio, match="the file that is there is damaged"):
            await b.downloader.save(output, b.target)
        b.server.files[PATH] = encode()
        await b.downloader.save(output, b.target, overwrite=True)
        assert b.target.read_bytes() == encode()


async def test_an_encoder_may_leave_the_md5_out(tmp_path: Path) -> None:
    """Zeros in its place say that the encoder did not know: then decoding every sample is all there is to check."""
    body = damage(encode(), 26, NO_MD5)
    async with bench(tmp_path, files={PATH: body}, verify="full") as b:
        saved = await b.downloader.save(b.output(duration=0.5), b.target)

        assert saved.duration == 0.5


async def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without soundfile verify="full" says which extra to install, before anything is fetched."""
    monkeypatch.delitem(sys.modules, "soundpiece_async._decoding", raising=False)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    async with bench(tmp_path, verify="full") as b:
        with pytest.raises(SettingsError, match=r"soundpiece-async\[verify\]"):
            await b.save()
        assert not b.server.requests
        assert not b.target.parent.exists()


# --- fast and polite


async def test_streams_are_bounded(tmp_path: Path) -> None:
    """Never more streams than the limit, seen from the host's side."""
    async with bench(tmp_path, default=Act(pause=0.001), limit=3) as b, anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(b.downloader.save, b.output(), b.target.with_name(f"{number}.flac"))
        with anyio.fail_after(5):
            while b.downloader.streams_out < 3:
                await anyio.sleep(0.001)

    assert b.server.most_open == 3


async def test_slow_streams_are_written_before_they_are_long(tmp_path: Path) -> None:
    """A stream slower than a batch a quarter second reaches the disk all the same."""
    async with bench(tmp_path, default=Act(pause=0.06)) as b, anyio.create_task_group() as group:
        group.start_soon(b.save)
        await anyio.sleep(0.6)
        part = b.target.with_name("song.flac.part")
        assert 0 < part.stat().st_size < len(SONG)


async def test_large_files_go_by_in_batches(tmp_path: Path) -> None:
    """More than a few batches keep their order and their hash."""
    body = flac_like(5_000_000)
    async with bench(tmp_path, Act(cut=3_000_000), files={PATH: body}) as b:
        assert await b.save() == body


async def test_a_fault_of_the_last_step_is_told(tmp_path: Path) -> None:
    """What goes wrong in closing comes out as any other fault of the disk, not in a group."""
    async with bench(tmp_path) as b:
        disk = Disk(Source(b.output(), target="song.flac", host=b.downloader._host), threads=anyio.CapacityLimiter(1))
        with pytest.raises(DownloadError, match="file system"):
            await disk.finish(tmp_path.unlink)


class FullPart(PartFile):
    """A part on a disk without room."""

    error = 28

    def append(self, blocks: Any) -> None:  # noqa: ARG002 - none is written
        """Fail."""
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(
    ("number", "reason"), [(28, "the disk is full"), (122, "the disk is full"), (5, "Input/output")]
)
@pytest.mark.parametrize("act", [Act(pause=0.02), Act(cut=10)])
async def test_a_full_disk_ends_a_download_at_once(tmp_path: Path, number: int, reason: str, act: Act) -> None:
    """ENOSPC and EDQUOT say so, other faults say theirs; nothing is tried again, also when the stream broke as well."""
    async with bench(tmp_path, default=act) as b:
        source = Source(b.output(), target="song.flac", host=b.downloader._host)
        disk = Disk(source, threads=anyio.CapacityLimiter(1))
        part = FullPart(tmp_path / "song.flac", source="s")
        part.error = number
        part.claim(overwrite=False)
        try:
            with pytest.raises(DownloadError, match=reason):
                await fill(part, source=source, disk=disk)
        finally:
            part.close()

        assert len(b.server.requests) == 1
        assert repr(source).startswith("<Source http://127.0.0.1:")
        assert "secret" not in repr(source)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let this process write no file beyond 100,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
async def test_a_real_limit_of_the_system_is_met(tmp_path: Path) -> None:
    """A write the system refuses ends the download at once; what was written before stays to be continued."""
    async with bench(tmp_path) as b:
        with pytest.raises(DownloadError, match="File too large"):
            await b.save()

        assert len(b.server.requests) == 1
        assert b.left() == []


# --- all files of an operation


async def test_all_outputs_are_saved_under_their_names(tmp_path: Path) -> None:
    """Several outputs are fetched at once, and given back in their order."""
    async with bench(tmp_path, files={"/a": SONG, "/b": OTHER}) as b:
        outputs = [b.output("/a", index=0), b.output("/b", index=1)]
        files = await b.downloader.save_all(outputs, tmp_path, "take")

        assert [(file.path.name, file.output.index) for file in files] == [("take-1.flac", 0), ("take-2.flac", 1)]
        assert (tmp_path / "take-2.flac").read_bytes() == OTHER


async def test_one_bad_output_does_not_stop_the_others(tmp_path: Path) -> None:
    """The first error comes out bare, after the others are saved; further ones are its notes."""
    async with bench(tmp_path, files={"/a": SONG}) as b:
        outputs = [b.output(path, index=index) for index, path in enumerate(["/gone", "/a", "/lost"])]
        with pytest.raises(DownloadError) as caught:
            await b.downloader.save_all(outputs, tmp_path, "take")

        assert [path.name for path in tmp_path.iterdir()] == ["take-2.flac"]
        assert len(caught.value.__notes__) == 1


# --- whatever happens


SHORT, SHORT_TOO = flac_like(40_000), flac_like(40_000, seed=1)
acts = st.builds(
    Act,
    status=st.none() | st.none() | st.none() | st.sampled_from([200, 204, 301, 403, 404, 416, 429, 500]),
    body=st.sampled_from([None, None, None, SHORT_TOO]),
    etag=st.sampled_from(["(the body's own)"] * 4 + [None, 'W/"weak"']),
    framing=st.sampled_from(["length", "length", "chunked", "close"]),
    ranges=st.sampled_from([True, True, False]),
    shift=st.sampled_from([0, 0, 0, 1, -1]) | st.integers(-len(SHORT), len(SHORT)),
    most=st.none() | st.integers(1, len(SHORT)),
    announce=st.sampled_from([0, 0, 0, 1, 2]),
    total=st.booleans(),
    excess=st.sampled_from([b"", b"", b"junk", SHORT[:1000]]),
    cut=st.none() | st.integers(0, len(SHORT)),
    stall=st.sampled_from([0.0, 0.0, 0.02, 0.02, 1.0]),
    reset=st.booleans(),
)


# a host that puts junk inside a body of unannounced length says that it belongs to the file, and so does one that
# announces too much and fills it with junk: nobody can know better
acts = acts.map(lambda act: attrs.evolve(act, excess=b"") if act.framing == "chunked" or act.announce else act)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(acts, max_size=8), before=st.none() | st.integers(0, len(SHORT)))
def test_a_file_is_whole_or_not_there(script: list[Act], before: int | None) -> None:
    """Whatever the host does: after a return the file is one of its files to the last byte, after an error none."""

    async def play(folder: Path) -> None:
        async with bench(folder, *script, files={PATH: SHORT}, read=0.04, stalls=4) as b:
            if before is not None:
                leave(b, SHORT[:before], size=len(SHORT), etag=f'"{hashlib.sha256(SHORT).hexdigest()[:16]}"')
            try:
                data = await b.save()
            except SoundpieceError:
                assert not b.target.exists()
            else:
                assert data in (SHORT, SHORT_TOO), script

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(play, Path(folder))


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


def open_files(folder: Path) -> list[str]:
    """The files below a folder that this process has open."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except OSError:
            continue
    return [link for link in links if link.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files the Linux way")
@pytest.mark.parametrize("way", ["task", "scope"])
@pytest.mark.parametrize("there", [False, True])
async def test_cancelled_anywhere_it_leaves_only_what_can_be_continued(
    tmp_path: Path,
    way: Literal["task", "scope"],
    there: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    """Cancelled at any of its waits, by asyncio or by a scope, it leaves no handle, lock, stream or foreign file."""
    turn, finished = 0, False
    while not finished:
        turn += 1
        async with bench(tmp_path / str(turn), Act(cut=10_000), Act(status=403), files={PATH: SHORT}) as b:
            if there:
                b.target.parent.mkdir(parents=True)
                b.target.write_bytes(SHORT)
            finished = await asyncio.create_task(save_until(b, turn=turn, way=way))
            for _ in range(100):  # a look at a file that is there may still be under way in its thread
                if not open_files(tmp_path):
                    break
                await anyio.sleep(0.01)
            assert not open_files(tmp_path)
            assert b.downloader.streams_out == b.downloader._threads.borrowed_tokens == 0
            assert b.left() in ([], ["song.flac"], KEPT)
            assert not b.target.exists() or b.target.read_bytes() == SHORT
            assert await b.save() == SHORT
            assert not b.downloader._queues
    assert turn > 10


async def save_until(b: Bench, *, turn: int, way: str) -> bool:
    """Save, cancelled at a turn; True when it came to its end before."""
    task = asyncio.current_task()
    assert task is not None
    with anyio.CancelScope() as scope:
        try:
            await CancelAt(b.save(), turn=turn, cancel=task.cancel if way == "task" else scope.cancel)
        except asyncio.CancelledError:
            if way == "scope":
                raise
            task.uncancel()
            return False
    return not scope.cancel_called


CHILD = """
    import sys
    import anyio
    from pathlib import Path
    from test_downloader import transport
    from soundpiece_async._core.outputs import Handle, Output
    from soundpiece_async._downloader import Downloader

    async def main(origin, folder):
        async def renew(output):
            return output

        async with transport(read=5) as network, anyio.create_task_group() as group:
            downloader = Downloader(stream=network.stream, renew=renew, limit=8)
            for number in range(100):
                output = Output(url=f"{origin}/{number}", handle=Handle("create.new_song", "op_1"), index=number)
                group.start_soon(downloader.save, output, Path(folder, f"{number}.flac"))

    anyio.run(main, *sys.argv[1:])
"""


@pytest.mark.timeout(60)
async def test_killed_in_the_middle_of_a_hundred_it_goes_on(tmp_path: Path) -> None:
    """After kill -9 no file is torn, and the second run fetches little twice."""
    files = {f"/{number}": flac_like(150_000, seed=number) for number in range(100)}
    total = sum(map(len, files.values()))
    async with RawServer(files, default=Act(pause=0.003)) as server:
        command = [sys.executable, "-c", textwrap.dedent(CHILD), server.url("", "").rstrip("?"), str(tmp_path)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        }
        async with await anyio.open_process(command, env=environment, stderr=subprocess.PIPE) as child:
            while server.sent < total // 2:
                await anyio.sleep(0.005)
            child.send_signal(signal.SIGKILL)
        assert 0 < sum(path.suffix == ".flac" for path in tmp_path.iterdir()) < 100
        for path in tmp_path.glob("*.flac"):
            assert path.read_bytes() == files[f"/{path.stem}"]

        await anyio.run_process(command, env=environment)

        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            f"{name[1:]}.flac": data for name, data in files.items()
        }
        assert server.sent < 1.2 * total

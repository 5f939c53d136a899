"""The output host: whole files and parts of them, expiry, faults of downloads, and what is kept of the audio."""

import io
import time
from typing import Any

import aiohttp
import anyio
import pytest
import soundfile
from helpers.simulator_client import Answer, Caller, opened
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async.simulator import Fault, Faults
from soundpiece_async.simulator.output_host import UnsatisfiableRangeError, parse_range
from soundpiece_async.simulator.render_cache import RenderCache
from soundpiece_async.simulator.tone import compose, encode

pytestmark = pytest.mark.anyio


async def make(caller: Caller, **members: object) -> tuple[str, Answer]:
    """Make an effect; return its URL and the whole file."""
    url = (await caller.run("create.new_fx", **{"prompt": "slam", "duration": 0.5} | members))["output"]["url"]
    return url, await caller.fetch(url)


async def test_serves_real_audio() -> None:
    """The file is FLAC, 44.1 kHz, stereo, audible, as long as announced, and the same for everyone."""
    async with opened() as caller:
        operation = await caller.run("create.new_song", lyrics="la", prompt="pop")
        output = operation["outputs"][0]
        answer = await caller.fetch(output["url"])
        again = await caller.fetch(output["url"])

    samples, rate = soundfile.read(io.BytesIO(answer.body))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "audio/flac"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert (rate, samples.shape[1]) == (44100, 2)
    assert len(samples) / rate == output["duration"]
    assert abs(samples).max() > 0.05
    assert (again.body, again.headers["ETag"]) == (answer.body, answer.headers["ETag"])
    request = caller.sim.log[-1]
    assert (request.host, request.route, request.operation) == ("output", "create.new_song", operation["id"])
    assert (request.sent, request.authorized) == (len(answer.body), False)


async def test_serves_parts() -> None:
    """A Range gives 206 with its bytes, also when If-Range names this version; 416 behind the end."""
    async with opened() as caller:
        url, whole = await make(caller)
        size, etag = len(whole.body), whole.headers["ETag"]
        middle = await caller.fetch(url, Range="bytes=100-199")
        rest = await caller.fetch(url, Range="bytes=200-", **{"If-Range": etag})
        tail = await caller.fetch(url, Range="bytes=-7")
        beyond = await caller.fetch(url, Range=f"bytes={size}-")

    assert [answer.status for answer in (middle, rest, tail, beyond)] == [206, 206, 206, 416]
    assert (middle.body, rest.body, tail.body) == (whole.body[100:200], whole.body[200:], whole.body[-7:])
    assert middle.headers["Content-Range"] == f"bytes 100-199/{size}"
    assert beyond.headers["Content-Range"] == f"bytes */{size}"
    assert middle.headers["ETag"] == etag


async def test_gives_the_whole_of_another_version() -> None:
    """After a retake the ETag is another, and an If-Range with the old one gets the whole new file."""
    async with opened() as caller:
        url, old = await make(caller)
        caller.sim.replace_audio(caller.sim.log[-1].operation or "")
        new = await caller.fetch(url, Range="bytes=100-", **{"If-Range": old.headers["ETag"]})

    assert new.status == 200
    assert new.headers["ETag"] != old.headers["ETag"]
    assert new.body != old.body


async def test_can_be_deaf() -> None:
    """An output host may ignore Range, always or once, and may have no ETag."""
    async with opened(faults=Faults(ignore_range=True, hide_etag=True)) as caller:
        url, whole = await make(caller)
        answer = await caller.fetch(url, Range="bytes=100-")
        assert (answer.status, answer.body) == (200, whole.body)
        assert answer.headers["Accept-Ranges"] == "none"
        assert "ETag" not in answer.headers
    async with opened() as caller:
        url, whole = await make(caller)
        caller.sim.inject(Fault.IGNORE_RANGE)
        statuses = [(await caller.fetch(url, Range="bytes=100-")).status for _ in range(2)]
        assert statuses == [200, 206]


class TestRefusals:
    """What the output host does not give."""

    async def test_refuses_expired_urls(self) -> None:
        """A URL dies after its lifetime; a GET of the operation signs a fresh one for the same path."""
        async with opened(url_lifetime=2.0) as caller:
            operation = await caller.run("create.new_fx", prompt="slam", duration=0.5)
            old = operation["output"]["url"]
            assert (await caller.fetch(old)).status == 200
            await anyio.sleep(2.05)
            dead = await caller.fetch(old)
            fresh = (await caller.get(operation["id"])).operation["output"]["url"]

            assert (dead.status, dead.headers["Content-Type"]) == (403, "application/xml")
            assert fresh.partition("?")[0] == old.partition("?")[0]
            assert (await caller.fetch(fresh)).status == 200

    async def test_expires_urls_on_demand(self) -> None:
        """`expire_urls` kills all URLs made so far, with the status chosen, and fresh paths come on demand too."""
        async with opened(faults=Faults(expired_status=410), stable_paths=False) as caller:
            url, _ = await make(caller)
            caller.sim.expire_urls()
            identity = caller.sim.log[0].operation or ""
            fresh = (await caller.get(identity)).operation["output"]["url"]

            assert (await caller.fetch(url)).status == 410
            assert (await caller.fetch(fresh)).status == 200
            assert fresh.partition("?")[0] != url.partition("?")[0]

    async def test_refuses_keys_and_strangers(self) -> None:
        """An Authorization header, an altered signature, an unknown file and any method but GET are refused."""
        async with opened() as caller:
            url, _ = await make(caller)
            answers = [
                await caller.ask("GET", url),
                await caller.fetch(url + "0"),
                await caller.fetch(caller.sim.output_url + "/audio/none.flac"),
                await caller.ask("HEAD", url, key=False),
            ]

            assert [answer.status for answer in answers] == [400, 403, 404, 405]
            assert [request.authorized for request in caller.sim.log[-4:]] == [True, False, False, False]
            assert caller.sim.statistics().downloads == 1


class TestFaults:
    """How downloads go wrong."""

    @pytest.mark.parametrize("at", [None, 0, 1000, 10**9])
    async def test_cuts(self, at: int | None) -> None:
        """A download ends early, after exactly the bytes asked for, half of them by default."""
        async with opened() as caller:
            url, whole = await make(caller)
            caller.sim.inject(Fault.CUT, host="output", **({} if at is None else {"at": at}))
            received = b""
            async with caller.session.get(url) as answer:
                assert answer.content_length == len(whole.body)
                try:
                    async for block in answer.content.iter_any():
                        received += block
                except aiohttp.ClientPayloadError:
                    assert len(received) < len(whole.body)

        expected = len(whole.body) // 2 if at is None else min(at, len(whole.body))
        assert received == whole.body[:expected]

    @pytest.mark.parametrize("at", [None, 20])
    async def test_corrupts(self, at: int | None) -> None:
        """One byte of a download is wrong: the one named, or one drawn by the seed."""
        async with opened() as caller:
            url, whole = await make(caller)
            caller.sim.inject(Fault.CORRUPT, host="output", **({} if at is None else {"at": at}))
            answer = await caller.fetch(url)

        wrong = [index for index, pair in enumerate(zip(answer.body, whole.body, strict=True)) if pair[0] != pair[1]]
        assert len(wrong) == 1
        assert at is None or wrong == [at]

    async def test_stalls(self) -> None:
        """A download stops in the middle for as long as was said, then goes on to its end."""
        async with opened() as caller:
            url, whole = await make(caller)
            caller.sim.inject(Fault.STALL, host="output", at=100, seconds=0.2)
            began = time.monotonic()
            async with caller.session.get(url) as answer:
                first = await answer.content.readexactly(100)
                rest = await answer.content.read()

        assert time.monotonic() - began > 0.19
        assert first + rest == whole.body

    async def test_resets(self) -> None:
        """A reset comes before any byte."""
        async with opened(faults=Faults(reset_before=1.0)) as caller:
            with pytest.raises(aiohttp.ClientConnectionError):
                await caller.fetch(caller.sim.output_url + "/audio/none.flac")

    async def test_goes_at_a_pace(self) -> None:
        """Downloads are as slow as wanted; a client that leaves in the middle is not sent the rest."""
        async with opened(download_rate=200_000.0) as caller:
            url = (await caller.run("create.new_fx", prompt="rain", duration=3))["output"]["url"]
            async with caller.session.get(url) as answer:
                size = answer.content_length or 0
                await answer.content.readexactly(65536)
            with anyio.fail_after(30):
                while caller.sim.open_requests:
                    await anyio.sleep(0.01)

            assert size > 200_000
            assert 65536 <= caller.sim.log[-1].sent < size


class TestRenders:
    """Audio is rendered once and cached within the size limit."""

    async def test_renders_once(self) -> None:
        """However many ask at a time, a score is rendered once."""
        renders, score = RenderCache(1 << 20), compose("x", seed=0, style="fx", seconds=0.1)
        got: list[Any] = []

        async def ask() -> None:
            got.append(await renders.get(score))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)

        assert renders.rendered == 1
        assert {render.audio for render in got} == {encode(score)}
        assert await renders.get(score) is got[0]

    async def test_drops_the_oldest(self) -> None:
        """The least recently requested audio is evicted first; the latest stays, however large."""
        scores = [compose("x", seed=seed, style="fx", seconds=0.1) for seed in range(3)]
        sizes = [len(encode(score)) for score in scores]
        renders = RenderCache(sizes[0] + max(sizes[1:]))
        for score in (scores[0], scores[1], scores[0], scores[2], scores[0]):
            await renders.get(score)

        assert renders.rendered == 3
        assert renders.size == sizes[0] + sizes[2]
        await renders.get(scores[1])
        assert renders.rendered == 4
        small = RenderCache(1)
        await small.get(scores[0])
        await small.get(scores[1])
        assert small.size == sizes[1]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-41", range(42)),
        ("bytes=90-", range(90, 100)),
        ("bytes=90-500", range(90, 100)),
        ("bytes=-5", range(95, 100)),
        ("bytes=-500", range(100)),
        ("bytes=5-4", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=-", None),
        ("", None),
    ],
)
async def test_reads_ranges(header: str | None, expected: range | None) -> None:
    """A single range of bytes is cut to the file; anything else means the whole of it."""
    assert parse_range(header, size=100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=200-300", "bytes=-0"])
async def test_refuses_ranges_beyond_the_end(header: str) -> None:
    """A range without a byte in the file cannot be satisfied."""
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, size=100)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 100))
def test_stays_within_the_file(first: int, last: int, size: int) -> None:
    """Whatever is asked, the part lies within the file and begins where it was asked to."""
    try:
        part = parse_range(f"bytes={first}-{last}", size=size)
    except UnsatisfiableRangeError:
        assert first >= size
    else:
        assert part is None or (part.start == first and first < part.stop <= size)
        assert (part is None) == (last < first)

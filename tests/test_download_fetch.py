import hashlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from helpers.download_bench import KEPT, PATH, SONG, bench
from helpers.raw_output_host import ScriptedResponse

from soundpiece_async._core.errors import DownloadError, TransportError
from soundpiece_async._core.requests import Output
from soundpiece_async._core.retry import MAX_URL_REJECTIONS

pytestmark = pytest.mark.anyio


async def test_bytes_are_continued_under_their_etag_only(tmp_path: Path) -> None:
    """Every Range carries the ETag as If-Range, and no encoding is asked for."""
    async with bench(tmp_path, ScriptedResponse(cut=100_000)) as b:
        await b.save()

        first, second = b.server.requests
        assert first.headers["accept-encoding"] == "identity"
        assert "if-range" not in first.headers
        assert second.headers["if-range"] == f'"{hashlib.sha256(SONG).hexdigest()[:16]}"'


async def test_a_stalled_stream_is_resumed(tmp_path: Path) -> None:
    """A host that says nothing for the read timeout is asked again, for the rest."""
    async with bench(tmp_path, ScriptedResponse(cut=100_000, stall=10), read=0.2) as b:
        assert await b.save() == SONG
        assert b.server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize(
    ("default", "reason"),
    [
        (ScriptedResponse(status=503), "busy"),
        (ScriptedResponse(cut=0), "no usable response"),
        (ScriptedResponse(etag=None, cut=1_000), "no usable response"),
    ],
)
async def test_patience_ends(tmp_path: Path, default: ScriptedResponse, reason: str) -> None:
    """So much time without a new byte ends in a DownloadError, and leaves no file with the final name."""
    async with bench(tmp_path, default=default, max_elapsed=10, verify="none") as b:
        with pytest.raises(DownloadError, match=reason) as caught:
            await b.save()

        assert not b.target.exists()
        assert len(b.server.requests) > 3
        assert "no new byte came for 10 s (RetryPolicy.download_max_elapsed)" in str(caught.value)
        assert caught.value.path == str(b.target)
        assert "secret" not in f"{caught.value}{caught.value.url}"
        assert caught.value.received == b.downloader.received
        assert isinstance(caught.value.__cause__, TransportError) == (default.cut is not None)
        assert b.left() == ([] if default.etag is None or default.status or default.cut == 0 else KEPT)


async def test_progress_renews_patience(tmp_path: Path) -> None:
    """A new byte begins the time anew: a host that gives a little each time is worth going on with."""
    async with bench(tmp_path, *[ScriptedResponse(cut=20_000), ScriptedResponse(status=503)] * 14, max_elapsed=1) as b:
        assert await b.save() == SONG
        assert len(b.server.requests) == 29


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_refused_url_is_renewed(tmp_path: Path, status: int) -> None:
    """A refusal, in the middle of a file too, has the URL signed afresh, and the old bytes are continued."""
    async with bench(tmp_path, ScriptedResponse(cut=100_000), ScriptedResponse(status=status)) as b:
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
    async with bench(tmp_path, default=ScriptedResponse(status=403)) as b:
        with pytest.raises(DownloadError, match="rejected the URL"):
            await b.save()

        assert len(b.server.requests) == MAX_URL_REJECTIONS == 4
        assert len(b.renewed) == 3


async def test_a_new_byte_forgives_refusals(tmp_path: Path) -> None:
    """Honest URLs may live for seconds only: as long as each brings something, it goes on."""
    refused = [ScriptedResponse(status=403)] * 3
    async with bench(tmp_path, *refused, ScriptedResponse(cut=1), *refused, ScriptedResponse(cut=100), *refused) as b:
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
    async with bench(tmp_path, ScriptedResponse(headers=date)) as b:
        await b.save()
        output = b.output(expires_at=datetime.now(UTC) + left)
        await b.downloader.save(output, b.target.with_name("two.flac"))

        assert len(b.renewed) == renewals


async def test_errors_of_the_renewal_come_out_as_they_are(tmp_path: Path) -> None:
    """When the API cannot sign afresh, its error is the answer; what arrived is kept."""
    refusal = TransportError("the API is down")

    async def renew(_: Output) -> Output:
        await anyio.lowlevel.checkpoint()
        raise refusal

    async with bench(tmp_path, ScriptedResponse(cut=1_000), ScriptedResponse(status=403)) as b:
        b.downloader._context.renew = renew
        with pytest.raises(TransportError) as caught:
            await b.save()

        assert caught.value is refusal
        assert b.left() == KEPT


async def test_a_url_is_used_as_it_is(tmp_path: Path) -> None:
    """No character of it is encoded again, or decoded: the signature would break."""
    query = "sig=a%2Fb%2bc+d%7E&e=%C3%BC&f=[x]"
    async with bench(tmp_path) as b:
        await b.downloader.save(b.output(url=b.server.url(PATH, query)), b.target)

        assert b.server.requests[0].target == f"{PATH}?{query}"

"""What a bulk run shows meanwhile, and the small words for people."""

import re
from collections import Counter

import anyio
import pytest
from helpers.idle import until

from soundpiece_async import (
    AuthenticationError,
    DownloadError,
    Failed,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    NewFx,
    NotFound,
    SettingsError,
    SoundpieceError,
    Statistics,
    Succeeded,
    TransportError,
)
from soundpiece_async._core.job_records import JobState
from soundpiece_async._core.operations import Operation, Status
from soundpiece_async._download.partfile import is_full
from soundpiece_async.cli import bulk_progress
from soundpiece_async.cli.bulk_progress import ProgressDisplay, Throughput, ThroughputMeter
from soundpiece_async.cli.console import format_duration, format_size, pluralize
from soundpiece_async.cli.results import JobOutcome, ResultCounts, RunStopped, classify_result

pytestmark = pytest.mark.anyio

REQUEST = NewFx("door", duration=1)
OPERATION = Operation(route="create.new_fx", id="op_1", status=Status.READY, request=REQUEST)
BUSY = Statistics(bytes=4_000_000, rate=9.5, rate_limited=3, paused_for=12.0, degraded=True, detection_lag=0.25)


def raised(error: SoundpieceError, cause: Exception | None = None) -> SoundpieceError:
    """Return an error with a traceback, as if raised."""
    try:
        raise error from cause
    except SoundpieceError as caught:
        return caught


def picture(statistics: Statistics = BUSY) -> ProgressDisplay:
    totals = ResultCounts(20, outcomes=Counter({JobOutcome.SAVED: 5, JobOutcome.FAILED: 1, JobOutcome.UNFINISHED: 1}))
    return ProgressDisplay(
        totals, progress=Counter({JobState.SUBMITTED: 12, JobState.READY: 8}), statistics=lambda: statistics
    )


async def test_without_a_terminal_it_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With counts, throughput, limits and the time left."""
    seen = picture()
    seen.refresh()
    assert capsys.readouterr().err == (
        "of 20: 12 submitted, 8 ready, 5 saved, 2 failed; 0.0 jobs/s, 0 B/s, 9.5 requests/s, 3 responses 429, paused "
        "for 12 s, service outage, detection lag 0.2 s, time left unknown\n"
    )
    picture(Statistics()).refresh()
    assert "rate limit unknown, 0 responses 429, detection lag 0.0 s" in capsys.readouterr().err
    assert "'saved': 5" in repr(seen)
    picture(Statistics(unknown_statuses=("archiving", "b", "c", "d"))).refresh()
    assert "unknown status 'archiving', 'b', 'c', detection lag" in capsys.readouterr().err


async def test_on_a_terminal_it_is_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One for each stage, and a line below; they are removed at the end."""
    for name, value in {"TERM": "xterm", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal was wished for before rich 14
    monkeypatch.setattr(bulk_progress, "REFRESH", 0.001)
    seen = picture()
    shown = ""

    def show() -> str:
        nonlocal shown
        shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        return shown

    async with anyio.create_task_group() as group:
        group.start_soon(seen.follow)
        await until(lambda: "paused for 12 s" in show())
        group.cancel_scope.cancel()
    for name, number in (("submitted", 12), ("ready", 8), ("saved", 5), ("failed", 2)):
        assert re.search(rf"{name} +\S+ +{number}/20", shown)
    assert "9.5 requests/s, 3 responses 429, paused for 12 s" in shown


def test_the_throughput_is_recent() -> None:
    """Of the latest minute, so that the estimate follows the current pace; without a pace there is no estimate."""
    meter = ThroughputMeter()
    assert meter.measure(now=0.0, lines=0, received=0, left=100) == Throughput(0.0, 0.0, None)
    assert meter.measure(now=10.0, lines=20, received=1000, left=80) == Throughput(2.0, 100.0, 40.0)
    assert meter.measure(now=70.0, lines=80, received=1000, left=20) == Throughput(1.0, 0.0, 20.0)
    assert meter.measure(now=200.0, lines=80, received=1000, left=20) == Throughput(0.0, 0.0, None)
    assert repr(meter) == "<ThroughputMeter samples=1>"


@pytest.mark.parametrize(
    ("error", "operation", "ending"),
    [
        (raised(RunStopped("enough")), None, JobOutcome.UNSENT),
        (raised(InsufficientCredits("402", status=402)), None, JobOutcome.UNSENT),
        (raised(AuthenticationError("401", status=401)), None, JobOutcome.UNSENT),
        (raised(AuthenticationError("a firewall", status=403)), None, JobOutcome.UNFINISHED),
        (raised(SettingsError("no such bucket")), None, JobOutcome.UNSENT),
        (raised(SettingsError("no such bucket")), OPERATION, JobOutcome.UNFINISHED),
        (raised(NotFound("404", status=404)), None, JobOutcome.UNFINISHED),
        (raised(NotFound("lost", status=404)), OPERATION, JobOutcome.UNCERTAIN),
        (JournalError("sent long ago"), None, JobOutcome.UNCERTAIN),
        (raised(InvalidRequest("another route's key", field="idempotency_key")), None, JobOutcome.FAILED),
        (SoundpieceError("recorded"), None, JobOutcome.FAILED),
        (raised(TransportError("no response")), None, JobOutcome.UNFINISHED),
        (raised(DownloadError("not here", url="", path="")), OPERATION, JobOutcome.FAILED),
        (raised(DownloadError("no disk", url="", path=""), OSError(28, "full")), OPERATION, JobOutcome.UNFINISHED),
    ],
    ids=repr,
)
def test_classify_result(error: SoundpieceError, operation: Operation[NewFx] | None, ending: JobOutcome) -> None:
    """Failed, unfinished, uncertain or unsent; results of the journal are not counted as new."""
    result = Failed(
        request=REQUEST, operation=operation, error=error, from_journal=str(error) in ("sent long ago", "recorded")
    )
    totals = ResultCounts(2)
    assert classify_result(result) is totals.add(result) is ending
    assert totals.fresh_failures == (
        not result.from_journal and ending is not JobOutcome.UNSENT and not error.stops_run
    )
    assert totals.failures == (ending is not JobOutcome.UNSENT)
    assert (totals.stop_error is error) == error.stops_run
    assert classify_result(Succeeded(request=REQUEST, operation=OPERATION)) is JobOutcome.SAVED
    assert totals.to_json()["left"] == 1 + (ending is JobOutcome.UNSENT)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (raised(DownloadError("", url="", path=""), OSError(28, "full")), True),
        (raised(DownloadError("", url="", path=""), OSError(36, "name too long")), False),
        (raised(DownloadError("", url="", path=""), TransportError("no response")), False),
        (raised(DownloadError("", url="", path="")), False),
        (raised(TransportError(""), OSError(28, "full")), False),
    ],
)
def test_a_full_disk_differs_from_other_errors(error: SoundpieceError, *, full: bool) -> None:
    """Only an error that the next file would meet as well stops a run."""
    assert is_full(error) is full


def test_durations_sizes_and_plurals() -> None:
    """As they read best."""
    assert [format_duration(seconds) for seconds in (0.2, 99, 100, 5900, 7260)] == [
        "0 s",
        "99 s",
        "2 min",
        "98 min",
        "2 h 1 min",
    ]
    assert [pluralize(number, "line") for number in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]
    lengths = (0, 999, 1000, 9949, 180_400, 999_499, 999_500, 1_440_000, 46_000_000, 31_000_000_000, 2 * 10**15)
    expected = ["0 B", "999 B", "1.0 kB", "9.9 kB", "180 kB", "999 kB", "1.0 MB", "1.4 MB", "46 MB", "31 GB", "2000 TB"]
    assert [format_size(length) for length in lengths] == expected

"""Progress of a bulk run on standard error: bars on a terminal, elsewhere a line every few seconds."""

import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import attrs
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from soundpiece_async import (
    Statistics,
)
from soundpiece_async._core.job_records import JobState
from soundpiece_async.cli.console import (
    format_duration,
    format_size,
    pluralize,
    print_status,
)
from soundpiece_async.cli.results import JobOutcome, ResultCounts
from soundpiece_async.cli.rich_output import PipeSafeConsole

REFRESH = 0.25
"""Seconds between two updates on a terminal."""
INTERVAL = 5.0
"""Seconds between two lines elsewhere."""
MAX_STATUSES = 3
"""Unknown statuses that are printed."""
WINDOW = 60.0
"""Seconds over which the throughput is measured."""


@asynccontextmanager
async def background_tasks(*tasks: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """Run tasks until the block ends, then cancel them."""
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task)
        yield
        group.cancel_scope.cancel()


@attrs.frozen
class Throughput:
    """Recent lines and bytes per second, and the seconds left at this rate (None: unknown)."""

    lines: float
    bytes: float
    left: float | None


class ThroughputMeter:
    """Measures the throughput over the last minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def __repr__(self) -> str:
        return f"<ThroughputMeter samples={len(self._samples)}>"

    def measure(self, *, now: float, lines: int, received: int, left: int) -> Throughput:
        """Record a sample and return the throughput.

        Args:
            now: in seconds.
            lines: lines done so far.
            received: bytes received so far.
            left: lines not done yet.
        """
        self._samples.append((now, lines, received))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()
        since, before, bytes_before = self._samples[0]
        elapsed = max(now - since, REFRESH)
        pace = (lines - before) / elapsed
        return Throughput(pace, (received - bytes_before) / elapsed, left / pace if pace else None)


class ProgressDisplay:
    """Displays the progress of a run; ``follow`` updates it until cancelled.

    Args:
        totals: results so far.
        progress: number of lines by state.
        statistics: of the session.
    """

    def __init__(
        self, totals: ResultCounts, *, progress: Counter[JobState], statistics: Callable[[], Statistics]
    ) -> None:
        self._totals = totals
        self._progress = progress
        self._statistics = statistics
        self._meter = ThroughputMeter()
        self._note = Text()
        console = PipeSafeConsole(stderr=True)
        self._live = console.is_interactive
        self._bars = Progress(TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), console=console)
        self._tasks = {name: self._bars.add_task(name, total=totals.lines) for name in self._counts()}
        self._screen = Live(
            get_renderable=lambda: Group(self._bars, self._note),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # a result would else be printed into the bars
        )

    def __repr__(self) -> str:
        return f"<ProgressDisplay {self._counts()}>"

    def __enter__(self) -> Self:
        if self._live:
            self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.stop()

    async def follow(self) -> None:
        """Update the display until cancelled."""
        self._status_line()  # the throughput counts from now
        with self:
            while True:
                await anyio.sleep(REFRESH if self._live else INTERVAL)
                self.refresh()

    def refresh(self) -> None:
        """Update the display once."""
        counts = self._counts()
        line = self._status_line()
        if not self._live:
            counted = ", ".join(f"{number} {name}" for name, number in counts.items())
            print_status(f"of {self._totals.lines}: {counted}; {line}")
            return
        for name, number in counts.items():
            self._bars.update(self._tasks[name], completed=number)
        self._note = Text(line, style="dim")
        self._screen.refresh()

    def _counts(self) -> dict[str, int]:
        return {
            "submitted": self._progress[JobState.SUBMITTED],
            "ready": self._progress[JobState.READY],
            "saved": self._totals.outcomes[JobOutcome.SAVED],
            "failed": self._totals.failures,
        }

    def _status_line(self) -> str:
        """Return throughput, limits, outages and the time left, as one line."""
        statistics = self._statistics()
        ended = self._totals.ended
        pace = self._meter.measure(
            now=anyio.current_time(), lines=ended, received=statistics.bytes, left=self._totals.lines - ended
        )
        left = "time left unknown" if pace.left is None else f"{format_duration(pace.left)} left"
        limit = "rate limit unknown" if statistics.rate is None else f"{statistics.rate:.1f} requests/s"
        parts = [
            f"{pace.lines:.1f} jobs/s",
            f"{format_size(round(pace.bytes))}/s",
            limit,
            f"{statistics.rate_limited} responses 429",
        ]
        if statistics.paused_for > 0:
            parts.append(f"paused for {statistics.paused_for:.0f} s")
        if statistics.degraded:
            parts.append("service outage")
        if statistics.unknown_statuses:
            parts.append(f"unknown status {', '.join(map(repr, statistics.unknown_statuses[:MAX_STATUSES]))}")
        return ", ".join([*parts, f"detection lag {statistics.detection_lag:.1f} s", left])


def shutdown_notice(jobs: int, *, longest: float | None, paused_for: float, unanswered: int = 0) -> str:
    """Return what happens to the jobs in flight after the first signal, and how long it takes.

    Args:
        jobs: number of jobs in flight.
        longest: longest time in seconds that a job of their routes has taken; None: unknown.
        paused_for: seconds until the pause after a 429 ends.
        unanswered: requests without a response yet; their operations may exist.
    """
    notice = f"{pluralize(jobs, 'job')} in flight will finish"
    if jobs:
        notice += " (time unknown)" if longest is None else f" in at most about {format_duration(longest)}"
        if round(paused_for):
            notice += f", after the pause of {format_duration(paused_for)} that the service asked for"
    if unanswered:
        notice += (
            f"; {pluralize(unanswered, 'request')} without a response may have been accepted and will be retried until "
            "the service responds or the outage limit is reached"
        )
    return f"{notice}. Interrupt again to stop at once; either way the journal is complete and nothing is lost"

"""What a bulk run shows of itself meanwhile, on standard error: bars on a terminal, and else a line now and then."""

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
"""Seconds between two pictures on a terminal."""
INTERVAL = 5.0
"""Seconds between two lines where there is none."""
MAX_STATUSES = 3
"""Unknown statuses that are named."""
WINDOW = 60.0
"""Seconds that the pace is measured over."""


@asynccontextmanager
async def background_tasks(*tasks: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """Do what never ends by itself, for as long as this lasts."""
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task)
        yield
        group.cancel_scope.cancel()


@attrs.frozen
class Throughput:
    """How fast it goes, per second of late, and how many seconds are left at this pace, if that can be said."""

    lines: float
    bytes: float
    left: float | None


class ThroughputMeter:
    """Measures the pace over the latest minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def __repr__(self) -> str:
        return f"<ThroughputMeter samples={len(self._samples)}>"

    def measure(self, *, now: float, lines: int, received: int, left: int) -> Throughput:
        """Take in how many lines have ended and how many bytes came by now, in seconds; and say how many are left."""
        self._samples.append((now, lines, received))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()
        since, before, bytes_before = self._samples[0]
        elapsed = max(now - since, REFRESH)
        pace = (lines - before) / elapsed
        return Throughput(pace, (received - bytes_before) / elapsed, left / pace if pace else None)


class ProgressDisplay:
    """The progress of a run; ``follow`` keeps it up to date until it is cancelled.

    Args:
        totals: what ended so far.
        progress: how many lines have an operation, and outputs.
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
        """Show how it goes, until cancelled."""
        self._report()  # the pace counts from now
        with self:
            while True:
                await anyio.sleep(REFRESH if self._live else INTERVAL)
                self.refresh()

    def refresh(self) -> None:
        """Show how it goes."""
        counts = self._counts()
        news = self._report()
        if not self._live:
            told = ", ".join(f"{number} {name}" for name, number in counts.items())
            print_status(f"of {self._totals.lines}: {told}; {news}")
            return
        for name, number in counts.items():
            self._bars.update(self._tasks[name], completed=number)
        self._note = Text(news, style="dim")
        self._screen.refresh()

    def _counts(self) -> dict[str, int]:
        return {
            "submitted": self._progress[JobState.SUBMITTED],
            "ready": self._progress[JobState.READY],
            "saved": self._totals.outcomes[JobOutcome.SAVED],
            "failed": self._totals.failures,
        }

    def _report(self) -> str:
        """Say how fast it goes, what holds it up, and how long it will take."""
        known = self._statistics()
        ended = self._totals.ended
        pace = self._meter.measure(
            now=anyio.current_time(), lines=ended, received=known.bytes, left=self._totals.lines - ended
        )
        left = "time left unknown" if pace.left is None else f"{format_duration(pace.left)} left"
        limit = "no limit met" if known.rate is None else f"{known.rate:.1f} requests/s"
        parts = [
            f"{pace.lines:.1f} lines/s",
            f"{format_size(round(pace.bytes))}/s",
            limit,
            f"{known.rate_limited} answers 429",
        ]
        if known.paused_for > 0:
            parts.append(f"told to wait {known.paused_for:.0f} s")
        if known.degraded:
            parts.append("the service gives no usable answers")
        if known.unknown_statuses:
            parts.append(f"unknown status {', '.join(map(repr, known.unknown_statuses[:MAX_STATUSES]))}")
        return ", ".join([*parts, f"noticed within {known.detection_lag:.1f} s", left])


def shutdown_notice(pieces: int, *, longest: float | None, paused_for: float, unanswered: int = 0) -> str:
    """Return what happens to work in flight, and when.

    Args:
        pieces: operations that are under way.
        longest: seconds that one of their routes has taken so far.
        paused_for: seconds until the gate opens.
        unanswered: requests that were sent and not answered yet: operations that may exist.
    """
    told = f"{pluralize(pieces, 'piece')} in flight will be finished"
    if pieces:
        told += (
            ", and how long that takes is not known"
            if longest is None
            else f", in up to about {format_duration(longest)}"
        )
        told += f", after the {format_duration(paused_for)} that the service said to wait" if round(paused_for) else ""
    if unanswered:
        told += (
            f"; {pluralize(unanswered, 'request')} without an answer yet, which may have been accepted, will be "
            "repeated until there is one, or the service has been silent for too long"
        )
    return f"{told}. Interrupt again to stop at once: the journal has every key, and nothing is lost, either way"

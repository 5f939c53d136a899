"""``soundpiece demo``: 24 requests against a simulated service in this process, with a display of their progress.

On a terminal, the lines of unfinished requests are updated in place, and finished ones scroll up. Elsewhere every step
is a line of its own, and so is the progress of downloads, from time to time.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import anyio
import anyio.to_thread
import attrs
from rich.console import Group
from rich.live import Live
from rich.text import Text

from soundpiece_async import Limits, SavedFile, Settings, Statistics
from soundpiece_async.cli.arguments import FOLDER, ensure_writable
from soundpiece_async.cli.console import format_size, pluralize, print_result, print_status
from soundpiece_async.cli.demo_plan import DEMO_ITEMS, DemoItem
from soundpiece_async.cli.rich_output import PipeSafeConsole, print_table

if TYPE_CHECKING:
    from soundpiece_async import Output, Session
    from soundpiece_async._core.operations import AnyOperation


LINE_INTERVAL = 1.0
"""Minimum seconds between two lines about one download."""


class DemoStage(StrEnum):
    """Stage of a request."""

    QUEUED = "queued"
    GENERATING = "generating"
    DOWNLOADING = "downloading"
    DONE = "done"


COLOURS = {
    DemoStage.QUEUED: "dim",
    DemoStage.GENERATING: "yellow",
    DemoStage.DOWNLOADING: "cyan",
    DemoStage.DONE: "green",
}


@attrs.frozen(kw_only=True)
class DemoResult:
    """A finished request; ``waited``: seconds from accepted to ready."""

    name: str
    route: str
    waited: float
    files: tuple[SavedFile, ...]

    @property
    def bytes(self) -> int:
        """Total size of the files."""
        return sum(file.bytes for file in self.files)

    @property
    def seconds(self) -> float:
        """Total duration of the files."""
        return sum(file.duration for file in self.files)


class DemoDisplay:
    """Displays the progress of all requests on standard error, as a context manager.

    Args:
        names: of the requests, in the order of their lines.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._console = PipeSafeConsole(stderr=True)
        self._stages = dict.fromkeys(names, DemoStage.QUEUED)
        self._notes: dict[str, str] = {}
        self._sizes: Mapping[str, int] = {}
        self._printed: dict[str, tuple[float, str]] = {}
        self._summary = ""
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __repr__(self) -> str:
        return f"<DemoDisplay {list(self._stages.values()).count(DemoStage.DONE)} of {len(self._stages)} done>"

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live.start()
        else:
            for name in self._stages:
                self._console.print(self._line(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, name: str, stage: DemoStage, note: str = "") -> None:
        """Set the stage of a request."""
        self._stages[name] = stage
        self._notes[name] = note
        if stage is DemoStage.DONE or not self._console.is_interactive:
            self._console.print(self._line(name))

    def refresh(self, statistics: Statistics, sizes: Mapping[str, int]) -> None:
        """Update the lines on a terminal, or print the progress of downloads; ``sizes``: bytes on disk by name."""
        self._sizes = sizes
        if not self._console.is_interactive:
            self._print_growth(time.monotonic())
            return
        self._summary = (
            f"{statistics.active_polls} polls active, {statistics.ready} of {len(self._stages)} ready, "
            f"{format_size(statistics.bytes)} received"
        )
        self._live.refresh()

    def _print_growth(self, now: float) -> None:
        """Print a line for each download that has grown since its last line."""
        for name, stage in self._stages.items():
            printed_at, printed = self._printed.get(name, (-LINE_INTERVAL, format_size(0)))
            length = format_size(self._sizes.get(name, 0))
            if stage is DemoStage.DOWNLOADING and length != printed and now - printed_at >= LINE_INTERVAL:
                self._printed[name] = now, length
                self._console.print(self._line(name))

    def _render(self) -> Group:
        rows = [self._line(name) for name, stage in self._stages.items() if stage is not DemoStage.DONE]
        return Group(Text(self._summary, style="bold"), *rows)  # first, because a low terminal shows only the beginning

    def _line(self, name: str) -> Text:
        stage = self._stages[name]
        note = self._notes.get(name, "")
        if stage is DemoStage.DOWNLOADING:
            length = self._sizes.get(name, 0)
            note += f", {format_size(length)}" if length else ", no bytes yet"
        line = Text.assemble(f"{name:<22}", (f"{stage:<13}", COLOURS[stage]), note, no_wrap=True)
        line.rstrip()
        return line


def print_results(results: Iterable[DemoResult]) -> None:
    """Print a table of the results on standard output."""
    rows = [
        (
            item.name,
            item.route,
            f"{item.waited:.1f} s",
            str(len(item.files)),
            f"{item.seconds:.1f} s",
            format_size(item.bytes),
        )
        for item in results
    ]
    print_table(("name", "route", "waited", "files", "length", "size"), rows, texts=2)


SLOTS = 6
"""Concurrent polls: fewer than requests, so that the scheduler has to share them."""
SPEED = 8.0
"""Speed of the simulated service: the demo should end within 20 s."""
TRACK_SECONDS = (12.0, 20.0)
"""Duration of the songs: rendering takes real time."""
DOWNLOAD_RATE = 1.25e6
"""Bytes per second of each download, slow enough to see its progress."""
REFRESH_INTERVAL = 0.125
"""Seconds between two updates of the display."""


async def demo(out: Annotated[Path, FOLDER] = Path("soundpiece-demo"), /) -> None:
    """Run 24 requests across all eight routes in less than 20 seconds, without an account or a network.

    The command contains a simulated service. Songs are split, cut and remixed as soon as they are ready.

    Args:
        out: folder for the files; files of an earlier demo are replaced.
    """
    from soundpiece_async import Session  # it brings aiohttp, and --help needs neither
    from soundpiece_async.simulator import Simulator  # its extra may be missing

    print_status(
        f"{len(DEMO_ITEMS)} requests, {SLOTS} concurrent polls, simulated at {SPEED:g}x real speed, saving to {out}"
    )
    started = anyio.current_time()
    await ensure_writable(out)
    try:
        async with Simulator(speed=SPEED, track_seconds=TRACK_SECONDS, download_rate=DOWNLOAD_RATE) as service:
            settings = Settings(
                api_key=service.api_key, base_url=service.url, proxy=None, shared=None, limits=Limits(polls=SLOTS)
            )
            async with Session(settings) as session:
                finished = await _run_all(session, out)
    finally:
        remove_partial_files(out)
    print_results(finished)
    print_result(summarize(finished, took=anyio.current_time() - started))


def summarize(finished: list[DemoResult], *, took: float) -> str:
    """Return the line that compares the time the demo took, in seconds, with the sum of the waits."""
    files = sum(len(item.files) for item in finished)
    waits = sum(item.waited for item in finished)
    length = sum(item.bytes for item in finished)
    return (
        f"{len(finished)} requests, {files} files, {format_size(length)} in {took:.1f} s, "
        f"startup and downloads included; the waits alone add up to {waits:.1f} s"
    )


def remove_partial_files(out: Path) -> None:
    """Remove partial files of a demo that was stopped, which is never resumed."""
    for item in DEMO_ITEMS:
        for left in (*out.glob(f"{item.name}*.part"), *out.glob(f"{item.name}*.part.json")):
            left.unlink(missing_ok=True)


def bytes_on_disk(out: Path, *, since: float) -> dict[str, int]:
    """Return the bytes on disk by name, of complete and partial files written ``since`` (seconds since 1970)."""
    sizes = dict.fromkeys((item.name for item in DEMO_ITEMS), 0)
    growing = {file.with_suffix("") for file in out.glob("*.flac.part")}
    for file in growing.union(
        out.glob("*.flac")
    ):  # listed last, so that a file renamed meanwhile is in one of the lists
        for name in sizes:
            if file.name.startswith(name):
                sizes[name] += _size_on_disk(file, since=since)
    return sizes


def _size_on_disk(file: Path, *, since: float) -> int:
    """Return the size of a file, partial or complete; 0 if it is of an earlier demo."""
    for path in (file.with_name(f"{file.name}.part"), file):
        with suppress(FileNotFoundError):
            state = path.stat()
            if state.st_mtime >= since:
                return state.st_size
    return 0


async def _run_all(session: "Session", out: Path) -> list[DemoResult]:
    """Run every request in a task of its own."""
    with DemoDisplay(item.name for item in DEMO_ITEMS) as display:
        run = _DemoRun(session, out, display)
        async with anyio.create_task_group() as refreshing:
            refreshing.start_soon(_refresh_display, session, out, display)
            async with anyio.create_task_group() as requests:
                for item in DEMO_ITEMS:
                    requests.start_soon(run.make, item)
            refreshing.cancel_scope.cancel()
    return [run.finished[item.name] for item in DEMO_ITEMS]


async def _refresh_display(session: "Session", out: Path, display: DemoDisplay) -> None:
    """Update the display until cancelled."""
    measure = partial(bytes_on_disk, out, since=time.time())
    while True:
        display.refresh(session.statistics(), await anyio.to_thread.run_sync(measure))
        await anyio.sleep(REFRESH_INTERVAL)


class _DemoRun:
    """Runs requests from submit to files; a dependent request waits until its source is ready."""

    def __init__(self, session: "Session", out: Path, display: DemoDisplay) -> None:
        self.finished: dict[str, DemoResult] = {}
        self._session = session
        self._out = out
        self._display = display
        self._ready: dict[str, AnyOperation] = {}
        self._ready_events = {item.name: anyio.Event() for item in DEMO_ITEMS}

    async def make(self, item: DemoItem) -> None:
        sources = () if item.after is None else (await self._wait_for(item.after),)
        operation = await self._session.submit(item.make(*sources))
        started = anyio.current_time()
        self._display.show(item.name, DemoStage.GENERATING)
        operation = await self._session.wait(operation)
        waited = anyio.current_time() - started
        self._ready[item.name] = operation
        self._ready_events[item.name].set()
        self._display.show(item.name, DemoStage.DOWNLOADING, pluralize(len(operation.outputs), "file"))
        files = await self._session.download(operation, self._out, name=item.name, overwrite=True)
        done = DemoResult(name=item.name, route=operation.route, waited=waited, files=tuple(files))
        self.finished[item.name] = done
        self._display.show(
            item.name,
            DemoStage.DONE,
            f"waited {waited:.1f} s, {pluralize(len(files), 'file')}, {format_size(done.bytes)}",
        )

    async def _wait_for(self, name: str) -> "Output":
        await self._ready_events[name].wait()
        return self._ready[name].outputs[0]

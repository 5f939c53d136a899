"""``soundpiece demo``: the main job in small, against a simulated service in this very process."""

import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import anyio.to_thread

from soundpiece_async import Limits, Operation, Settings
from soundpiece_async.cli.arguments import FOLDER, prepare
from soundpiece_async.cli.console import count, say, size, tell
from soundpiece_async.cli.display import Board, Finished, Stage, print_table
from soundpiece_async.cli.plan import PIECES, Piece

if TYPE_CHECKING:
    from soundpiece_async import Session

SLOTS = 6
"""Polls on the wire: fewer than pieces, so that the scheduler has to share them."""
SPEED = 8.0
"""How many times faster than the real service the simulated one works: the demo is to end within 20 s."""
TRACK_SECONDS = (12.0, 20.0)
"""The length of its songs: rendering them costs real time."""
DOWNLOAD_RATE = 1.25e6
"""Bytes per second of each download: over the loopback alone a file is here before a picture of its way is drawn."""
REFRESH = 0.125
"""Seconds between two pictures of the progress."""


async def demo(out: Annotated[Path, FOLDER] = Path("soundpiece-demo"), /) -> None:
    """Make 24 pieces of music over all eight routes, in less than 20 seconds, with no account and no network.

    A simulated service runs inside this command. Songs are split, cut and remixed as soon as they are ready.

    Args:
        out: the folder for the files; files of an earlier demo in it are replaced.
    """
    from soundpiece_async import Session  # noqa: PLC0415 - it brings aiohttp, and --help needs neither
    from soundpiece_async.simulator import Simulator  # noqa: PLC0415 - its extra may be missing

    tell(f"{len(PIECES)} pieces on {SLOTS} poll slots, by a simulated service at {SPEED:g} times speed, into {out}")
    started = anyio.current_time()
    await prepare(out)
    try:
        async with Simulator(speed=SPEED, track_seconds=TRACK_SECONDS, download_rate=DOWNLOAD_RATE) as service:
            settings = Settings(
                api_key=service.api_key, base_url=service.url, proxy=None, shared=None, limits=Limits(polls=SLOTS)
            )
            async with Session(settings) as session:
                finished = await _make_all(session, out)
    finally:
        sweep(out)
    print_table(finished)
    say(sum_up(finished, took=anyio.current_time() - started))


def sum_up(finished: list[Finished], *, took: float) -> str:
    """Write the one line that compares the wall time with the sum of the waits; ``took`` is in seconds."""
    files = sum(len(piece.files) for piece in finished)
    waits = sum(piece.waited for piece in finished)
    return (
        f"{len(finished)} pieces, {files} files, {size(sum(piece.bytes for piece in finished))} in {took:.1f} s, "
        f"start and downloads included; the waits alone add up to {waits:.1f} s"
    )


def sweep(out: Path) -> None:
    """Remove what a demo that was stopped left half-done: the library keeps it for a resumption that will not come."""
    for piece in PIECES:
        for left in (*out.glob(f"{piece.name}*.part"), *out.glob(f"{piece.name}*.part.json")):
            left.unlink(missing_ok=True)


def measure(out: Path, *, since: float) -> dict[str, int]:
    """Return the bytes on disk by piece, of finished files and growing ones written ``since`` (seconds since 1970)."""
    sizes = dict.fromkeys((piece.name for piece in PIECES), 0)
    growing = {file.with_suffix("") for file in out.glob("*.flac.part")}
    for file in growing.union(out.glob("*.flac")):  # listed last: one that is renamed meanwhile is in either list
        for name in sizes:
            if file.name.startswith(name):
                sizes[name] += _measure_one(file, since=since)
    return sizes


def _measure_one(file: Path, *, since: float) -> int:
    """Return the size of a file under the name it has now, or 0 if it is of an earlier demo."""
    for path in (file.with_name(f"{file.name}.part"), file):
        with suppress(FileNotFoundError):
            state = path.stat()
            if state.st_mtime >= since:
                return state.st_size
    return 0


async def _make_all(session: "Session", out: Path) -> list[Finished]:
    """Make every piece in a task of its own."""
    with Board(piece.name for piece in PIECES) as board:
        studio = _Studio(session, out, board)
        async with anyio.create_task_group() as display:
            display.start_soon(_follow, session, out, board)
            async with anyio.create_task_group() as pieces:
                for piece in PIECES:
                    pieces.start_soon(studio.make, piece)
            display.cancel_scope.cancel()
    return [studio.finished[piece.name] for piece in PIECES]


async def _follow(session: "Session", out: Path, board: Board) -> None:
    """Keep the picture fresh, until cancelled."""
    look = partial(measure, out, since=time.time())
    while True:
        board.refresh(session.statistics(), await anyio.to_thread.run_sync(look))
        await anyio.sleep(REFRESH)


class _Studio:
    """Makes pieces, each from submission to its files; one made from another waits until that one is ready."""

    def __init__(self, session: "Session", out: Path, board: Board) -> None:
        self.finished: dict[str, Finished] = {}
        self._session = session
        self._out = out
        self._board = board
        self._ready: dict[str, Operation[Any]] = {}
        self._bells = {piece.name: anyio.Event() for piece in PIECES}

    async def make(self, piece: Piece) -> None:
        sources = () if piece.after is None else (await self._wait_for(piece.after),)
        operation = await self._session.submit(piece.make(*sources))
        started = anyio.current_time()
        self._board.show(piece.name, Stage.GENERATING)
        operation = await self._session.wait(operation)
        waited = anyio.current_time() - started
        self._ready[piece.name] = operation
        self._bells[piece.name].set()
        self._board.show(piece.name, Stage.DOWNLOADING, count(operation.outputs))
        files = await self._session.download(operation, self._out, name=piece.name, overwrite=True)
        done = Finished(name=piece.name, route=operation.route, waited=waited, files=tuple(files))
        self.finished[piece.name] = done
        self._board.show(piece.name, Stage.DONE, f"waited {waited:.1f} s, {count(files)}, {size(done.bytes)}")

    async def _wait_for(self, name: str) -> Any:
        await self._bells[name].wait()
        return self._ready[name].outputs[0]

"""Where the CPU of a session goes: the event loop's thread is looked at every few milliseconds of its CPU time.

1. A timer of the kernel (``ITIMER_PROF``) interrupts the process after every few milliseconds of CPU. What the loop's
   thread has used since the last look, by its own clock, goes to what it is doing now: so the parts add up to it all.
2. What it is doing is said by the innermost file on its stack that belongs to a stage. Files that stages share (the
   transport, aiohttp) are passed over; what has no stage below it is what the sockets and the event loop cost.
3. Jobs in worker threads are not looked at but measured, each by its thread's clock; they belong to the stage whose
   file asked for them. What is left of the process's CPU is what handing over to threads costs, and those of aiofiles.
"""

import inspect
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import anyio.to_thread

STEP = 0.002
"""Seconds of CPU between two looks; a kernel that counts in ticks of 4 ms waits that long."""
STAGES = {
    "journal": (
        "recorded_run",
        "sqlite_store",
        "sqlite_rows",
        "store",
        "database",
        "journal",
        "occurrences",
        "job_records",
    ),
    "submit": ("_operations", "requests", "checks"),
    "poll": ("_poller", "scheduler", "poll_queues", "estimators"),
    "download": (
        "downloader",
        "fetch",
        "transfer",
        "partfile",
        "file_sink",
        "verify",
        "relay",
        "destinations",
        "flac",
        "ranges",
        "filenames",
    ),
    "run_many": ("_bulk", "_engine"),
}
REST, SOCKETS, LOOP, THREADS = "session", "sockets", "event loop", "threads, rest"

_OWN = {name: stage for stage, names in STAGES.items() for name in names}


class Sampling:
    """Use it as a context manager, in the thread of the event loop.

    Attributes:
        used: CPU seconds by stage.
        jobs: how many jobs for threads each stage had.
    """

    def __init__(self) -> None:
        self.used: defaultdict[str, float] = defaultdict(float)
        self.jobs: Counter[str] = Counter()
        self._stages: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._run_sync = anyio.to_thread.run_sync
        anyio.to_thread.run_sync = self._measured  # type: ignore[assignment]  # a stand-in for as long as this is open
        self._before = signal.signal(signal.SIGPROF, self._look)
        self._process, self._last = time.process_time(), time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, STEP, STEP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._look(0, inspect.currentframe())
        signal.signal(signal.SIGPROF, self._before)
        anyio.to_thread.run_sync = self._run_sync
        self.used[THREADS] = time.process_time() - self._process - sum(self.used.values())

    def _look(self, _number: int, frame: FrameType | None) -> None:
        now = time.thread_time()
        self.used[self._place(frame)] += now - self._last
        self._last = now

    def _place(self, frame: FrameType | None) -> str:
        """Return the stage that a stack belongs to (rule 2)."""
        found = LOOP
        while frame is not None:
            name = frame.f_code.co_filename
            if name not in self._stages:
                self._stages[name] = _find_stage(name)
            stage = self._stages[name]
            if stage in STAGES:
                return str(stage)
            found = stage if stage and found == LOOP else found
            frame = frame.f_back
        return found

    async def _measured(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a job in a thread, and measure it there (rule 3)."""
        stage = self._place(inspect.currentframe())
        self.jobs[stage] += 1

        def work() -> Any:
            begun = time.thread_time()
            try:
                return call(*args)
            finally:
                with self._lock:
                    self.used[f"{stage}, thread"] += time.thread_time() - begun

        return await self._run_sync(work, **options)


def _find_stage(name: str) -> str | None:
    path = Path(name)
    if "soundpiece_async" in path.parts:
        return _OWN.get(path.stem, REST)
    return SOCKETS if "aiohttp" in path.parts or path.stem == "selector_events" else None

"""Bulk runs in a process that tests kill: the side of the test; the other one is ``bulk_process``."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs

from soundpiece_async.simulator.request_log import ReceivedRequest

SCRIPT = Path(__file__).with_name("bulk_process.py")


@attrs.define(eq=False)
class KillableRuns:
    """A process that forks for each run, one at a time; started with the first, because starting one takes long.

    Attributes:
        child: the process of the run, while ``run`` waits for its end.
    """

    child: int = 0
    _process: "subprocess.Popen[str] | None" = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def run(self, **command: Any) -> int:
        """Run a command of ``bulk_process``, and return the exit status of its process; call it in a worker thread."""
        with self._lock:
            if self._process is None:
                words = [sys.executable, str(SCRIPT)]
                self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
            assert self._process.stdin is not None
            self._process.stdin.write(f"{json.dumps(command)}\n")
            self._process.stdin.flush()
            self.child = self._read("begun")
            return self._read("ended")

    def _read(self, word: str) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(word), line
        return int(line.split()[1])

    def close(self) -> None:
        """End the process, between two runs."""
        if self._process is not None:
            self._process.communicate()


@attrs.define(eq=False)
class StopAt:
    """Stops the process of a run when requests of a kind arrive, as ``on_request`` of a simulator.

    Attributes:
        runs: whose process it is.
        host, method: of the requests; ``host`` is ``api`` or ``output``.
        steps: which of them, from 1.
        by: ``SIGKILL``, or ``SIGSTOP``.
        kept: whether the service continues with the request.
        stopped: set once it has happened.
    """

    runs: KillableRuns
    host: str
    method: str
    steps: Collection[int]
    by: signal.Signals = signal.SIGKILL
    kept: bool = True
    stopped: anyio.Event = attrs.field(factory=anyio.Event)
    _seen: int = 0

    async def __call__(self, request: ReceivedRequest) -> None:
        """Count a request."""
        if (request.host, request.method) != (self.host, self.method):
            return
        self._seen += 1
        if self._seen in self.steps:
            os.kill(self.runs.child, self.by)
            self.stopped.set()
            if not self.kept:
                await anyio.sleep_forever()  # until the server sees that nobody is there any more


def is_paused(process: int) -> bool:
    """Return whether a process has been stopped by SIGSTOP."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] == "T"


@contextmanager
def killable_runs() -> Iterator[KillableRuns]:
    """Yield one for the tests of a file."""
    runs = KillableRuns()
    try:
        yield runs
    finally:
        runs.close()

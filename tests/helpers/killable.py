"""Bulk runs in a process that tests kill: the side of the test; the other one is ``bulk_process``."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

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


@contextmanager
def killable_runs() -> Iterator[KillableRuns]:
    """Yield one for the tests of a file."""
    runs = KillableRuns()
    try:
        yield runs
    finally:
        runs.close()

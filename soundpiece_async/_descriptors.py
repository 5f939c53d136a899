"""The limit of open file descriptors of this process, and waiting while it is reached."""

import os
import random
from pathlib import Path

import anyio
import attrs

from soundpiece_async._core import os_errors
from soundpiece_async._core.retry import backoff
from soundpiece_async._core.settings import Limits, fit
from soundpiece_async._logs import get_logger

logger = get_logger("descriptors")

LISTS = ("/dev/fd", "/proc/self/fd")
ASSUMED = 32
"""Open descriptors assumed where they cannot be counted."""
PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds before the next attempt of what lacked a descriptor, doubled each time, with jitter."""


def fit_to_process(limits: Limits) -> Limits:
    """Return limits that this process can sustain, and log a WARNING if they are smaller than requested."""
    most = read_limit()
    if most is None:
        return limits
    used = count_open()
    fitted = fit(limits, free=most - used)
    if fitted != limits:
        names = ("polls", "submits", "downloads")
        changes = ", ".join(f"{name}={getattr(fitted, name)} (not {getattr(limits, name)})" for name in names)
        logger.warning(
            "this process may open %d files and has %d open: limits reduced to %s; for more, raise it (ulimit -n)",
            most,
            used,
            changes,
        )
    return fitted


def read_limit() -> int | None:
    """Return how many descriptors this process may have open; None: unlimited or unknown."""
    try:
        import resource  # only POSIX systems have it, and the limit
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def count_open() -> int:
    """Return how many descriptors are open."""
    for folder in LISTS:
        try:
            return sum(1 for _ in Path(folder).iterdir()) - 1  # without the one that reads the list
        except OSError:
            continue
    return ASSUMED


def is_short() -> bool:
    """Return whether nothing can be opened now, for errors that do not name the reason."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return os_errors.is_transient(error.errno)
    return False


@attrs.define(eq=False)
class Shortage:
    """Waits, within one call, for descriptors or memory that other work frees (``os_errors``, rule 1).

    Attributes:
        what: names the work, for the log.
        waits: number of waits so far.
    """

    what: object
    waits: int = 0

    def next_pause(self, error: Exception) -> float:
        """Return the seconds to wait; logs the first time, and each time that the number of waits has doubled."""
        pause = backoff(self.waits, base=PAUSE, cap=LONGEST_PAUSE, jitter=random.random())
        self.waits += 1
        if self.waits & (self.waits - 1) == 0:
            logger.warning("%s: waiting (%d) for a scarce resource of this machine: %s", self.what, self.waits, error)
        return pause

    async def wait(self, error: Exception) -> None:
        """Wait before the next attempt."""
        await anyio.sleep(self.next_pause(error))

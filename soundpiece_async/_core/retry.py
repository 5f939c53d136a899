"""All retry arithmetic: backoff, ``Retry-After``, and the budgets of requests, downloads and sessions.

``Budget`` is for one request, ``DownloadBudget`` for one download, ``RetryQuota`` for a session. Downloads are bounded
by the time that passes without a new byte, not by the number of attempts:

1. What counts is time spent on the host: until it answers, until a block comes, and the pauses between attempts. Queues
   of ours, renewing a URL and a slow consumer count for nothing.
2. A new byte resets the time, unless it came too slowly: a host below the lowest speed for a whole window makes no
   progress, or one that trickles would be tried for ever.
3. ``MAX_URL_REJECTIONS`` URLs in a row that are rejected end it at once: each but the last was followed by a fresh one.
4. ``Retry-After`` is respected. One that is longer than the time left ends the download.
"""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf

import attrs

MAX_RETRY_AFTER = 3600.0  # seconds; a longer `Retry-After` is a wrong clock rather than a limit per second
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def backoff(attempt: int, *, base: float, cap: float, jitter: float) -> float:
    """Return the seconds to wait before try `attempt` + 1: full jitter over `base` doubled `attempt` times.

    Args:
        attempt: How many tries failed before, from 0. Any size: it cannot overflow.
        base: Seconds, the widest wait at attempt 0.
        cap: Seconds, the widest wait ever.
        jitter: A random number in [0, 1).
    """
    return jitter * exponential(attempt, base=base, cap=cap)


def exponential(attempt: int, *, base: float, cap: float) -> float:
    """Return `base` seconds doubled `attempt` times, at most `cap`; a negative `attempt` counts as 0."""
    return min(cap, base * 2.0 ** min(max(attempt, 0), 64))


_MOMENTS = 1e9
"""Seconds from which on a number is a moment since 1970: as a pause it would be thirty years."""


def retry_after(value: str | None, *, date: str | None = None, now_epoch: float | None = None) -> float | None:
    """Read a `Retry-After` header as seconds from now; None when it is absent or invalid.

    Whole seconds are what the service documents; fractions and an HTTP date are tolerated (docs/api.md#rate-limits). A
    date is compared with the server's own `date` header where that can be read, so that a wrong local clock does no
    harm; with neither that nor `now_epoch` it is ignored. A number too large for a pause is a moment: seconds since
    1970. A moment gone by is 0.0; nothing is longer than `MAX_RETRY_AFTER`; negative numbers are junk.

    Args:
        value: The header as it came.
        date: The `Date` header of the same response.
        now_epoch: The local time, seconds since 1970, used when `date` does not help.
    """
    text = (value or "").strip()
    seconds = float(text) if _SECONDS.fullmatch(text) else None
    if seconds is not None and seconds < _MOMENTS:
        return min(seconds, MAX_RETRY_AFTER)
    until, sent = _read_date(text) if seconds is None else seconds, _read_date(date or "")
    since = now_epoch if sent is None else sent
    if until is None or since is None:
        return None
    return min(max(until - since, 0.0), MAX_RETRY_AFTER)


def _read_date(text: str) -> float | None:
    try:
        read = parsedate_to_datetime(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()  # "-0000" is UTC, and read as naive
    except (ValueError, TypeError, IndexError, OverflowError):  # what email.utils raises on strangers' junk
        return None


@attrs.frozen
class RetryBounds:
    """Bounds of a request besides its budget: seconds in all, and unreadable responses in a row."""

    seconds: float = inf
    unreadable: float = inf


class RetryQuota:
    """The failures left before requests go one at a time: an unusable response costs one, a success restores one.

    Empty, it stays so until a success, which refills a quarter.
    """

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.left: int = capacity

    def __repr__(self) -> str:
        return f"<RetryQuota {self.left} of {self.capacity}>"

    def record_failure(self) -> None:
        """Record an unusable response."""
        self.left = max(0, self.left - 1)

    def record_success(self) -> None:
        """Add the credit of a success."""
        if self.left < self.capacity:
            self.left = self.left + 1 if self.left else max(1, self.capacity // 4)


REQUEST_BACKOFF_BASE, REQUEST_BACKOFF_CAP = 0.5, 20.0
"""Seconds between attempts without a usable response: doubled each time, up to the cap, with jitter."""


UNBOUNDED = RetryBounds()


class Budget:
    """The time that one request may take; it always allows one attempt.

    Args:
        seconds: Attempts that fail, the pauses after them, and what `charge` says, in sum.
    """

    def __init__(self, seconds: float) -> None:
        self.left: float = seconds
        self.attempts: int = 0
        self._spent = 0.0
        self._unreadable = 0

    def __repr__(self) -> str:
        return f"<Budget {self.left:.3g} s left after {self.attempts} attempts>"

    def charge(self, seconds: float) -> None:
        """Count time spent waiting for a service that does not answer."""
        self._spend(seconds)

    def record_failure(
        self, *, took: float, jitter: float, retry_after: float | None = None, bounds: RetryBounds = UNBOUNDED
    ) -> float | None:
        """Count an attempt that failed, and the pause after it.

        Args:
            took: Seconds.
            jitter: A random number in [0, 1).
            retry_after: Seconds that the service asked to wait: the pause is no shorter.
            bounds: Other bounds, which this failure sets.

        Returns:
            The seconds to wait before the next attempt; None when that would be too late.
        """
        pause = backoff(self.attempts, base=REQUEST_BACKOFF_BASE, cap=REQUEST_BACKOFF_CAP, jitter=jitter)
        if retry_after is not None and retry_after > pause:
            pause = retry_after + jitter * min(
                REQUEST_BACKOFF_BASE, retry_after / 4
            )  # or all come back at the same time
        self.attempts += 1
        self._unreadable = 0 if bounds.unreadable == inf else self._unreadable + 1
        self._spend(took + pause)
        over = self.left < 0 or self._spent > bounds.seconds or self._unreadable >= bounds.unreadable
        return None if over else pause

    def _spend(self, seconds: float) -> None:
        self.left -= seconds
        self._spent += seconds


MAX_URL_REJECTIONS = 4
"""Rejections in a row without a new byte, each but the last followed by a renewed URL."""
DOWNLOAD_BACKOFF_BASE = 0.25
DOWNLOAD_BACKOFF_CAP = 15.0
"""Seconds between attempts: doubled with each that brings no byte, up to the cap, with jitter."""
RETRY_AFTER_JITTER = 1.0
"""Seconds of jitter behind a ``Retry-After``: what waits for one host must not return to it all at once."""


@attrs.frozen
class Exhausted:
    """The patience is used up.

    Attributes:
        why: the end of a sentence about it.
    """

    why: str


class DownloadBudget:
    """What one download may spend on the host.

    Args:
        max_elapsed: seconds without a new byte.
    """

    def __init__(self, max_elapsed: float) -> None:
        self._max_elapsed = max_elapsed
        self._elapsed = 0.0
        self._waited = 0.0  # in this attempt, since its last window that was fast enough
        self._quiet = 0.0  # since the last new byte
        self._gained = False
        self._rejections = self._tries = 0

    def __repr__(self) -> str:
        left = self._max_elapsed - self._elapsed
        return f"<DownloadBudget {left:.3g} s left, tries={self._tries} rejections={self._rejections}>"

    def charge(self, seconds: float) -> None:
        """Count time spent waiting for the host (rule 1)."""
        self._waited += seconds
        self._quiet += seconds

    def record_progress(self) -> None:
        """Note a new byte (rule 2)."""
        self._gained = True
        self._quiet = 0.0

    def reset(self) -> None:
        """Reset the budget."""
        self._elapsed = self._waited = self._quiet = 0.0
        self._rejections = self._tries = 0
        self._gained = False

    def record_failure(
        self, *, rejected: bool = False, slow: bool = False, retry_after: float | None = None, jitter: float
    ) -> float | Exhausted:
        """Record a failed attempt.

        Args:
            rejected: the URL was rejected.
            slow: it was given up because it was too slow.
            retry_after: the host's ``Retry-After``, seconds.
            jitter: a random number in [0, 1).

        Returns:
            The seconds to wait before the next attempt, or why there is no further attempt.
        """
        waited, quiet = self._waited, self._quiet
        if self._gained and not slow:
            self.reset()
            self._elapsed = quiet
        else:
            self._elapsed += waited
        self._waited = self._quiet = 0.0
        self._gained = False
        self._rejections += rejected
        if self._rejections >= MAX_URL_REJECTIONS:
            return Exhausted(f"{self._rejections} URLs in a row were rejected")
        pause = backoff(self._tries, base=DOWNLOAD_BACKOFF_BASE, cap=DOWNLOAD_BACKOFF_CAP, jitter=jitter)
        self._tries += 1
        left = self._max_elapsed - self._elapsed
        if left <= 0:
            what = "it was no faster" if slow else "no new byte came"
            return Exhausted(f"{what} for {self._elapsed:.0f} s (RetryPolicy.download_max_elapsed)")
        if retry_after is not None and retry_after > left:
            return Exhausted(
                f"it asks to wait for {retry_after:.0f} s (Retry-After), and {left:.0f} s are left of "
                "RetryPolicy.download_max_elapsed"
            )
        pause = min(left, pause if retry_after is None else retry_after + jitter * RETRY_AFTER_JITTER)
        self._elapsed += pause
        return pause


class Speed:
    """How fast a body arrives, in windows of one length; only the time spent waiting for its blocks counts.

    Args:
        lowest: bytes per second; None: any speed will do.
        window: seconds.
    """

    def __init__(self, *, lowest: float | None, window: float) -> None:
        self._lowest = lowest
        self._window = window
        self._size = 0
        self._waited = 0.0

    def __repr__(self) -> str:
        return f"<Speed {self._size} bytes in {self._waited:.3g} s>"

    def add(self, size: int, *, waited: float) -> bool | None:
        """Count a block: True at the end of a window that was fast enough, False if it was not, else None."""
        self._size += size
        self._waited += waited
        if self._waited < self._window:
            return None
        enough = self._lowest is None or self._size >= self._lowest * self._waited
        self._size, self._waited = 0, 0.0
        return enough

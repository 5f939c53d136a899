"""How long a download is tried: by the time that passes without a new byte, not by the number of attempts.

1. What counts is time spent on the host: until it answers, until a block comes, and the pauses between attempts. Queues
   of ours, renewing a URL and a slow consumer count for nothing.
2. A new byte begins the time anew, unless it came too slowly: a host below the lowest speed for a whole window makes no
   progress, or one that trickles would be tried for ever.
3. ``MAX_URL_REJECTIONS`` URLs in a row that are refused end it at once: each but the last was followed by a fresh one.
4. ``Retry-After`` is heeded. One that is longer than the time that is left ends the download.
"""

import attrs

from soundpiece_async._core.pacing import backoff

MAX_URL_REJECTIONS = 4
"""Refusals in a row without a new byte, each but the last followed by a URL signed afresh."""
BACKOFF_BASE = 0.25
BACKOFF_CAP = 15.0
"""Seconds between attempts: doubled with each that brings nothing, up to the cap, with jitter."""
SPREAD = 1.0
"""Seconds of jitter behind a ``Retry-After``: what waits for one host must not return to it all at once."""


@attrs.frozen
class Spent:
    """The patience is used up.

    Attributes:
        why: the end of a sentence about it.
    """

    why: str


class Patience:
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
        self._refusals = self._tries = 0

    def __repr__(self) -> str:
        left = self._max_elapsed - self._elapsed
        return f"<Patience {left:.3g} s left, tries={self._tries} refusals={self._refusals}>"

    def wait(self, seconds: float) -> None:
        """Count time spent waiting for the host (rule 1)."""
        self._waited += seconds
        self._quiet += seconds

    def gain(self) -> None:
        """Note a new byte (rule 2)."""
        self._gained = True
        self._quiet = 0.0

    def renew(self) -> None:
        """Begin anew."""
        self._elapsed = self._waited = self._quiet = 0.0
        self._refusals = self._tries = 0
        self._gained = False

    def fail(
        self, *, refused: bool = False, slow: bool = False, retry_after: float | None = None, jitter: float
    ) -> float | Spent:
        """Count an attempt that did not bring the rest.

        Args:
            refused: the URL was refused.
            slow: it was given up because it was too slow.
            retry_after: seconds that the host asked for.
            jitter: a throw of the dice in [0, 1).

        Returns:
            The seconds to wait before the next attempt, or why there is none.
        """
        waited, quiet = self._waited, self._quiet
        if self._gained and not slow:
            self.renew()
            self._elapsed = quiet
        else:
            self._elapsed += waited
        self._waited = self._quiet = 0.0
        self._gained = False
        self._refusals += refused
        if self._refusals >= MAX_URL_REJECTIONS:
            return Spent(f"{self._refusals} URLs in a row were refused")
        pause = backoff(self._tries, base=BACKOFF_BASE, cap=BACKOFF_CAP, jitter=jitter)
        self._tries += 1
        left = self._max_elapsed - self._elapsed
        if left <= 0:
            what = "it was no faster" if slow else "no new byte came"
            return Spent(f"{what} for {self._elapsed:.0f} s (RetryPolicy.download_max_elapsed)")
        if retry_after is not None and retry_after > left:
            return Spent(
                f"it asks to wait for {retry_after:.0f} s (Retry-After), and {left:.0f} s are left of "
                "RetryPolicy.download_max_elapsed"
            )
        pause = min(left, pause if retry_after is None else retry_after + jitter * SPREAD)
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

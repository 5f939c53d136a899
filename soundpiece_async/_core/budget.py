"""How long one call is tried: the second of the three clocks (see `_transport.py`)."""

from math import inf

from soundpiece_async._core.attempts import Patience
from soundpiece_async._core.pacing import backoff

BACKOFF_BASE, BACKOFF_CAP = 0.5, 20.0
"""Seconds between attempts without a usable answer: doubled each time, up to the cap, with jitter."""


UNBOUNDED = Patience()


class Budget:
    """What one call may spend on getting an answer; it is always good for one attempt.

    Args:
        seconds: Attempts that fail, the pauses after them, and what `wait` says, in sum.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.attempts = 0
        self._spent = 0.0
        self._unreadable = 0

    def __repr__(self) -> str:
        return f"<Budget {self.left:.3g} s left after {self.attempts} attempts>"

    def wait(self, seconds: float) -> None:
        """Count time spent waiting for a service that does not answer."""
        self._spend(seconds)

    def fail(
        self, *, took: float, jitter: float, retry_after: float | None = None, patience: Patience = UNBOUNDED
    ) -> float | None:
        """Count an attempt that failed, and the pause after it.

        Args:
            took: Seconds.
            jitter: A throw of the dice in [0, 1).
            retry_after: Seconds that the service asked to wait: the pause is no shorter.
            patience: Other bounds, which this failure sets.

        Returns:
            The seconds to wait before the next attempt; None when that would be too late.
        """
        pause = backoff(self.attempts, base=BACKOFF_BASE, cap=BACKOFF_CAP, jitter=jitter)
        if retry_after is not None and retry_after > pause:
            pause = retry_after + jitter * min(BACKOFF_BASE, retry_after / 4)  # or all come back at the same time
        self.attempts += 1
        self._unreadable = 0 if patience.unreadable == inf else self._unreadable + 1
        self._spend(took + pause)
        over = self.left < 0 or self._spent > patience.seconds or self._unreadable >= patience.unreadable
        return None if over else pause

    def _spend(self, seconds: float) -> None:
        self.left -= seconds
        self._spent += seconds

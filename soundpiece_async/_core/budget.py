"""How long one call is tried: the second of the three clocks (see `_transport.py`)."""

from soundpiece_async._core.pacing import backoff

BACKOFF_BASE, BACKOFF_CAP = 0.5, 20.0
"""Seconds between attempts without a usable answer: doubled each time, up to the cap, with jitter."""


class Budget:
    """What one call may spend on getting an answer; it is always good for one attempt.

    Args:
        seconds: Attempts that fail, the pauses after them, and what `wait` says, in sum.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.attempts = 0

    def __repr__(self) -> str:
        return f"<Budget {self.left:.3g} s left after {self.attempts} attempts>"

    def wait(self, seconds: float) -> None:
        """Count time spent waiting for a service that does not answer."""
        self.left -= seconds

    def fail(self, *, took: float, jitter: float) -> float | None:
        """Count an attempt that failed, and the pause after it.

        Args:
            took: Seconds.
            jitter: A throw of the dice in [0, 1).

        Returns:
            The seconds to wait before the next attempt; None when that would be too late.
        """
        pause = backoff(self.attempts, base=BACKOFF_BASE, cap=BACKOFF_CAP, jitter=jitter)
        self.attempts += 1
        self.left -= took + pause
        return None if self.left < 0 else pause

"""What to make of silence: nothing was heard of an operation that a webhook will report.

1. It is *late* once its webhook is as likely to be lost as the operation is to be still running. Before that nobody
   looks, then it is polled as any other is. With the fewest webhooks lost that are ever believed, that is where nine in
   ten have finished.
2. How many get lost is learned: some came, and some were missed, when a poll found a result that must have been there
   before. While neither has happened, one in three is believed lost: that is late after half of the time that is usual.
3. As long as webhooks come, silence means that an operation runs, as likely as rule 1 has it. Without that a route's
   durations would be learned from those alone who finish first, and all others would soon seem late. After a quarter
   of a hold without any webhook silence means nothing: the receiver may be down.

Times are seconds on the caller's clock.
"""

from math import inf

FEWEST = 1 / 11  # lost: late at a survival of one in ten
MEMORY = 64.0
QUIET = 1 / 4  # of a hold: 5 s
STEP = 1 / 40  # of a hold: how old what was heard may be


class Silence:
    """Learns how far webhooks can be relied on."""

    def __init__(self) -> None:
        self._came = self._missed = 0.0
        self._last = self._asked = -inf

    def __repr__(self) -> str:
        return f"<Silence {self._came:.0f} webhooks came, {self._missed:.0f} were missed>"

    @property
    def loss(self) -> float:
        """The share of webhooks believed to get lost."""
        return max(FEWEST, (self._missed + 0.5) / (self._missed + self._came + 1.5))

    @property
    def late(self) -> float:
        """The share of operations that take longer than one that begins to be late."""
        return self.loss / (1 - self.loss)

    def take_webhook(self, now: float) -> None:
        """Learn that one came."""
        self._last = now
        self._count(came=1.0)

    def take_miss(self) -> None:
        """Learn that one did not come, or later than a poll."""
        self._count(missed=1.0)

    def is_due(self, now: float, *, hold: float) -> bool:
        """Tell whether it is time to count the silent again, and take it that this is done."""
        if now - self._asked < STEP * hold:
            return False
        self._asked = now
        return True

    def means_running(self, now: float, *, hold: float) -> bool:
        """Tell whether webhooks come (rule 3)."""
        return now - self._last < QUIET * hold

    def _count(self, *, came: float = 0.0, missed: float = 0.0) -> None:
        fade = 1 / 2 if self._came + self._missed >= MEMORY else 1.0
        self._came, self._missed = self._came * fade + came, self._missed * fade + missed

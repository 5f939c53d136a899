"""How fast this server is: the round trip and the length of its holds, as observed."""

from math import inf

SMOOTH = 1 / 8  # the weight of the newest observation
AT_ONCE = 4.0  # round trips: what comes sooner was not held
GUARD = 1 / 20  # of the announced hold: what takes longer, 1 s, was held in any case


class Tempo:
    """What polls tell about time, in seconds.

    The hold is learned because nobody promises it, and because a simulator at a hundred times the speed holds a
    hundredth of it.

    Args:
        announced: The longest the server is said to hold a poll.
    """

    def __init__(self, *, announced: float) -> None:
        self.announced = announced
        self.hold = announced
        self._holds = True
        self._trip = inf
        self._shortest = inf

    def __repr__(self) -> str:
        return f"<Tempo hold {self.hold:.3g} s, round trip {self._trip:.3g} s>"

    @property
    def trip(self) -> float:
        """The round trip, or a guess while no short poll has been answered."""
        return self._trip if self.measured else self.announced / 200

    @property
    def measured(self) -> bool:
        """Whether the round trip is known."""
        return self._trip < inf

    def take_look(self, took: float) -> None:
        """Learn from an answer to a short poll, which is never held."""
        self._trip = self._trip + (took - self._trip) * SMOOTH if self.measured else took
        self._shortest = min(self._shortest, took)

    def take_hold(self, took: float) -> None:
        """Learn from a long poll without a result: that long the server holds. A single odd one moves it little."""
        self.hold = min(self.announced, self.hold * (max(took, self.announced / 1e6) / self.hold) ** (2 * SMOOTH))

    def stop_holding(self) -> None:
        """Know from elsewhere that no poll is held from now on."""
        self._holds, self.hold = False, self.announced

    def suspects(self, took: float) -> bool:
        """Tell whether a long poll that ended without a result after `took` seconds may not have been held at all.

        While the round trip is unknown, whatever took less than a second may have been answered at once.
        """
        return not self._holds or took < min(GUARD * self.announced, AT_ONCE * self._shortest)

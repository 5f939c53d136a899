"""The time of a server, by its own clock: ours may be wrong."""

from datetime import MAXYEAR, MINYEAR, datetime, timedelta
from email.utils import parsedate_to_datetime

READ_EVERY = 60.0
"""Seconds between two `Date` headers that are read."""
TOLERANCE = timedelta(seconds=2)
"""A difference up to this counts as 0: a `Date` has whole seconds, and network delay."""


class ServerClock:
    """The clock of the API or of the output host, read from `Date` headers; it decides whether a URL has expired.

    Two clocks of ours carry it on between responses, and the later one counts: the wall clock is set back now and then,
    the steady one may stand still while the machine sleeps. A URL renewed too early costs one request, one sent too
    late costs the operation that was to fetch it (docs/api.md#downloads). Steady times are seconds of any clock that
    never jumps.
    """

    def __init__(self) -> None:
        self._skew = timedelta()
        self._read: tuple[datetime, float] | None = None  # the server's time, and the steady one at that moment

    def __repr__(self) -> str:
        return f"<ServerClock {'never read' if self._read is None else f'ahead by {self._skew.total_seconds():.0f} s'}>"

    def is_due(self, *, steady: float) -> bool:
        """Return whether the next `Date` is read: it costs more than most of what is done with a response."""
        return self._read is None or steady - self._read[1] >= READ_EVERY

    def read(self, date: str | None, *, wall: datetime, steady: float, age: str | None = None) -> None:
        """Record the `Date` of a response, if it is due; an invalid one is ignored.

        Args:
            date: The header as it came.
            wall: Our wall clock, with a zone.
            steady: Our steady clock, seconds.
            age: The `Age` header: seconds in a cache on the way (RFC 9111, section 5.1).
        """
        if date is None or not self.is_due(steady=steady):
            return
        try:
            told = parsedate_to_datetime(date) + timedelta(seconds=int(age or 0))
            skew = told - wall
        except (ValueError, TypeError, OverflowError):  # junk, or a date without a zone
            return
        if not MINYEAR + 1 < told.year < MAXYEAR - 1:  # time that is added to it must not lead out of the calendar
            return
        self._skew = skew if abs(skew) > TOLERANCE else timedelta()
        self._read = (wall + self._skew, steady)

    def now(self, *, wall: datetime, steady: float) -> datetime:
        """Return the time of the server; by our wall clock until a response had a `Date`."""
        if self._read is None:
            return wall
        time, then = self._read
        return max(wall + self._skew, time + timedelta(seconds=steady - then))

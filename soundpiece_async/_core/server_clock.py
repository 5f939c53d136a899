"""What time it is for the service: by its own clock, ours may be wrong."""

from datetime import MAXYEAR, MINYEAR, datetime, timedelta
from email.utils import parsedate_to_datetime

READ_EVERY = 60.0
"""Seconds between two looks at a `Date` header."""
TOLERANCE = timedelta(seconds=2)
"""A difference up to this counts as 0: a `Date` has whole seconds, and network delay."""


class ServerClock:
    """The service's clock, read from the `Date` of its answers; expiry is meant by it (docs/api.md#downloads).

    Two clocks of ours carry it on between answers, and the later one counts: the wall clock is set back now and then,
    the steady one may stand still while the machine sleeps. A URL renewed too early costs one request, one sent too
    late costs the operation that was to fetch it. Steady times are seconds of any clock that never jumps.
    """

    def __init__(self) -> None:
        self._skew = timedelta()
        self._read: tuple[datetime, float] | None = None  # the service's time, and the steady one at that moment

    def __repr__(self) -> str:
        return (
            f"<ServiceClock {'never read' if self._read is None else f'ahead by {self._skew.total_seconds():.0f} s'}>"
        )

    def read(self, date: str | None, *, wall: datetime, steady: float) -> None:
        """Record the `Date` of a response, if it is due; an invalid one is ignored.

        Args:
            date: The header as it came.
            wall: Our wall clock, with a zone.
            steady: Our steady clock, seconds.
        """
        if date is None or (self._read is not None and steady - self._read[1] < READ_EVERY):
            return
        try:
            told = parsedate_to_datetime(date)
            skew = told - wall
        except (ValueError, TypeError, OverflowError):  # junk, or a date without a zone
            return
        if not MINYEAR + 1 < told.year < MAXYEAR - 1:  # time that is added to it must not lead out of the calendar
            return
        self._skew = skew if abs(skew) > TOLERANCE else timedelta()
        self._read = (wall + self._skew, steady)

    def now(self, *, wall: datetime, steady: float) -> datetime:
        """Return the time of the service; by our wall clock until a response had a `Date`."""
        if self._read is None:
            return wall
        time, then = self._read
        return max(wall + self._skew, time + timedelta(seconds=steady - then))

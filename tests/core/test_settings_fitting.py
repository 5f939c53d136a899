import pytest

from soundpiece_async import Limits
from soundpiece_async._core.settings import MARGIN, PER_DOWNLOAD, PER_SUBMIT, fit


@pytest.mark.parametrize("free", [0, 1, 30, 64, 100, 256, 1024, 10**6])
@pytest.mark.parametrize("polls", [1, 100, 1000])
def test_limits_take_no_more_descriptors_than_there_are(free: int, polls: int) -> None:
    """Nothing is raised, nothing is less than one, and together they need what is free, or are all at their least."""
    asked = Limits(polls=polls, requests_per_second=5, max_bytes=7)
    fitted = fit(asked, free=free)
    for name in ("submits", "polls", "downloads"):
        assert 1 <= getattr(fitted, name) <= getattr(asked, name)
    assert (fitted.in_flight, fitted.requests_per_second, fitted.max_bytes) == (1000, 5, 7)
    needed = fitted.polls + PER_SUBMIT * fitted.submits + PER_DOWNLOAD * fitted.downloads
    assert needed <= max(free - MARGIN, 1 + PER_SUBMIT + PER_DOWNLOAD + (fitted.polls - 1))


def test_limits_that_fit_stay_as_they_are() -> None:
    """The very same ones, down to the last descriptor."""
    limits = Limits(polls=4, submits=2, downloads=1)
    assert fit(limits, free=MARGIN + 12) is limits
    assert fit(limits, free=MARGIN + 11) == Limits(polls=3, submits=1, downloads=1)

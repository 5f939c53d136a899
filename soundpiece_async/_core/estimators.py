"""Three online estimators: how long operations take, how the service answers polls, and how reliable webhooks are.

All times, ages and durations are seconds. The rules of ``Durations``, the hazard for every age: h(a) is the chance per
second that an operation still running at age a finishes now, learned as events over exposure, in bins of age that grow
by a fifth:

1. Every poll of a running operation is exposure: it ran since the poll before. So operations that still run count,
   too.
2. A finish noticed by a poll lies somewhere since the poll before. It is spread over that interval as the curve so far
   expects it (one step of expectation-maximisation), so that rare polls blur the curve less and less.
3. A bin is smoothed with its neighbours, and with the route's overall rate at the weight of `PRIOR` finishes: a curve
   from five finishes is almost flat, one drawn from five hundred has its modes.
4. A minimum is added, `FLOOR` times the overall rate and at least one finish in five holds: the interval between two
   modes, and ages that no operation has reached yet, are polled rarely but not never.
5. Beyond `MEMORY` finishes all counts are halved, so that the curve follows a service that becomes slower.
6. An operation that a webhook will report is exposed while none has come, by the probability that it still runs.

The rules of ``WebhookReliability``, for an operation that a webhook will report and has not reported yet:

7. It is *late* once its webhook is as likely to be lost as the operation is to be still running. Before that it is not
   polled, then as any other. At the lowest loss that is assumed, that is where nine in ten have finished.
8. The loss is learned: from webhooks that came, and from missed ones, when a poll finds a result that must have been
   there before. Until then one in three is assumed lost: such an operation is late after half of the usual time.
9. As long as webhooks come, an operation without one runs, with the probability of rule 7. Without that a route's
   durations would be learned only from operations that finish first, and all others would soon seem late. After a
   quarter of a hold without any webhook nothing is concluded: the receiver may be down.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate, pairwise
from math import exp, expm1, inf

FIRST, RATIO, BINS = 0.01, 1.2, 72  # the edges are 0, 10 ms, 12 ms, ... 59 minutes
EDGES = (0.0, *(FIRST * RATIO**power for power in range(BINS - 1)))
PRIOR = 1.0
FLOOR = 0.3
MEMORY = 2000.0
TRUSTED = 60.0
PRIOR_EVENTS = 0.1  # finishes that the first guess counts for: the first real one replaces it
MIN_EXPECTED = 1e-9  # finishes to expect; with fewer there is nothing to spread over
NEGLIGIBLE = 1e-9  # the part of an operation that still runs, by the curve
REFIT_SHARE = 1 / 32  # the share of new exposure after which the curve is fitted again


def bin_of(age: float) -> int:
    """Return the bin of an age; ages above the last edge are in the last bin."""
    return bisect_right(EDGES, age) - 1


class Durations:
    """The durations of one route, learned online from polls that found an operation running or finished.

    Args:
        hold: The maximum of a long poll, in seconds. It sets the first guess: an operation takes one and a half holds.
    """

    def __init__(self, *, hold: float = 20.0) -> None:
        self._guess = 1.5 * hold
        self._min_floor = 0.2 / hold
        self._events = [0.0] * BINS
        self._exposure = [0.0] * BINS
        self._silent = [0.0] * BINS
        self._known = 0.0  # seconds of exposure in the curve
        self._fresh = 0.0  # and since
        self._refit()

    def __repr__(self) -> str:
        return f"<Durations from {self._finishes:.0f} finishes, one in {1 / self.rate:.3g} s>"

    @property
    def rate(self) -> float:
        """Finishes per second of running, at whatever age."""
        return self._rate

    @property
    def trusted(self) -> bool:
        """Whether there are enough finishes for peaks and valleys of the curve to be more than chance."""
        return self._finishes >= TRUSTED

    def expected_finishes(self, since: float, until: float) -> float:
        """Return the finishes to expect between two ages: the integral of the hazard, which may exceed one."""
        return self.expected_finishes_and_hazard(since, until)[0]

    def expected_finishes_and_hazard(self, since: float, until: float) -> tuple[float, float]:
        """Return the finishes to expect between two ages, and the hazard at the second one."""
        first, last = bisect_right(EDGES, since) - 1, bisect_right(EDGES, until) - 1
        hazard = self._hazard
        if first == last:
            return hazard[last] * (until - since), hazard[last]
        begun = self._sums[first] + hazard[first] * (since - EDGES[first])
        return self._sums[last] + hazard[last] * (until - EDGES[last]) - begun, hazard[last]

    def survival(self, age: float) -> float:
        """Return the share of operations that take longer than this."""
        return exp(-self.expected_finishes(0.0, age))

    def learn(self, since: float, until: float, *, finished: bool) -> None:
        """Record one poll (rules 1, 2): it ran at age `since`; at age `until` it still ran or had finished."""
        expected = self._learned(since, until) if finished else 0.0
        if expected > MIN_EXPECTED:
            self._spread(since, until, expected)
        else:
            for index, low, high in _split_at_bins(since, until):
                self._exposure[index] += high - low
            self._events[bin_of(until)] += finished
        self._fresh += until - since
        if self._fresh >= self._known * REFIT_SHARE:
            self._refit()

    def observe_silent(self, silent: Collection[tuple[float, float]], *, loss: float) -> None:
        """Replace the exposure of operations whose webhook has not come (rule 6).

        Args:
            silent: For each the age at which it was last seen, and its age now.
            loss: The share of webhooks that get lost.
        """
        if not silent and not any(self._silent):
            return
        crossing, parts = [0.0] * BINS, [0.0] * BINS
        for since, until in silent:
            first, last = bin_of(since), bin_of(until)
            survival = (1 - loss) * self.survival(until)
            running = survival / (survival + loss)
            crossing[first] += running
            crossing[last] -= running
            parts[first] -= running * (since - EDGES[first])
            parts[last] += running * (until - EDGES[last])
        widths = (*(high - low for low, high in pairwise(EDGES)), 0.0)
        whole = accumulate(crossing)
        self._silent = [count * width + part for count, width, part in zip(whole, widths, parts, strict=True)]
        self._refit()

    def _spread(self, since: float, until: float, expected: float) -> None:
        """Spread one finish over the interval it lies in; up to it, the operation was exposed.

        In an interval of days all of it lies in the first seconds: the rest is left out.
        """
        share_in_all, survival, running = -expm1(-expected), 1.0, 1.0
        for index, low, high in _split_at_bins(since, until):
            if running < NEGLIGIBLE:
                break
            later = survival * exp(-(self._hazard[index] - self._floor) * (high - low))
            share = (survival - later) / share_in_all
            self._events[index] += share
            self._exposure[index] += (high - low) * max(0.0, running - share / 2)
            survival, running = later, running - share

    def _learned(self, since: float, until: float) -> float:
        """Return the finishes to expect without the minimum, which would spread finishes to ever earlier ages."""
        return self.expected_finishes_and_hazard(since, until)[0] - self._floor * (until - since)

    def _refit(self) -> None:
        """Fit the curve again to events and exposure (rules 3 to 5)."""
        self._finishes = sum(self._events)
        if self._finishes > MEMORY:
            self._finishes /= 2
            self._events = [count / 2 for count in self._events]
            self._exposure = [seconds / 2 for seconds in self._exposure]
        exposure = [seen + silent for seen, silent in zip(self._exposure, self._silent, strict=True)]
        self._known, self._fresh = sum(exposure), 0.0
        self._rate = rate = (self._finishes + PRIOR_EVENTS) / (self._known + PRIOR_EVENTS * self._guess)
        self._floor = floor = max(FLOOR * rate, self._min_floor)
        events, exposure = _smooth(self._events), _smooth(exposure)
        self._hazard = [
            (count + PRIOR) / (seconds + PRIOR / rate) + floor for count, seconds in zip(events, exposure, strict=True)
        ]
        self._sums = [0.0]
        for index in range(BINS - 1):
            self._sums.append(self._sums[index] + self._hazard[index] * (EDGES[index + 1] - EDGES[index]))


def _split_at_bins(since: float, until: float) -> Iterator[tuple[int, float, float]]:
    """Cut an interval of ages at the edges of the bins: yield bin, from, to."""
    low, last = since, bin_of(until)
    for index in range(bin_of(since), last):
        yield index, low, EDGES[index + 1]
        low = EDGES[index + 1]
    yield last, low, until


def _smooth(values: list[float]) -> list[float]:
    """Smooth: each bin gets a quarter of each neighbour."""
    padded = [values[0], *values, values[-1]]
    return [(padded[k] + 2 * padded[k + 1] + padded[k + 2]) / 4 for k in range(len(values))]


SMOOTH = 1 / 8  # the weight of the newest observation
NOT_HELD_RTTS = 4.0  # a long poll answered sooner was not held
HELD_FOR_SURE = 1 / 20  # of the documented hold: what takes longer, 1 s, was held in any case


class PollTiming:
    """The round trip, and how long the server holds long polls, in seconds.

    The hold is learned because it is not promised, and because a simulator at a hundred times the speed holds a
    hundredth of it.

    Args:
        max_hold: The documented maximum of a hold.
    """

    def __init__(self, *, max_hold: float) -> None:
        self.max_hold = max_hold
        self.hold = max_hold
        self.measured = False
        """Whether the round trip is known."""
        self._holds = True
        self._round_trip = inf
        self._shortest = inf

    def __repr__(self) -> str:
        return f"<PollTiming hold {self.hold:.3g} s, round trip {self._round_trip:.3g} s>"

    @property
    def round_trip(self) -> float:
        """The round trip, or a guess while no short poll has been answered."""
        return self._round_trip if self.measured else self.max_hold / 200

    def observe_short_poll(self, took: float) -> None:
        """Learn from a response to a short poll, which is never held."""
        self._round_trip = self._round_trip + (took - self._round_trip) * SMOOTH if self.measured else took
        self.measured = True
        self._shortest = min(self._shortest, took)

    def observe_long_poll(self, took: float) -> None:
        """Learn the hold from a long poll without a result. A single odd one changes it little."""
        self.hold = min(self.max_hold, self.hold * (max(took, self.max_hold / 1e6) / self.hold) ** (2 * SMOOTH))

    def stop_holding(self) -> None:
        """Expect that no poll is held from now on."""
        self._holds, self.hold = False, self.max_hold

    def maybe_not_held(self, took: float) -> bool:
        """Return whether a long poll that ended without a result after `took` seconds may not have been held.

        While the round trip is unknown, whatever took less than a second may have been answered at once.
        """
        return not self._holds or took < min(HELD_FOR_SURE * self.max_hold, NOT_HELD_RTTS * self._shortest)


MIN_LOSS = 1 / 11  # late at a survival of one in ten
WEBHOOK_MEMORY = 64.0
SILENT_AFTER = 1 / 4  # of a hold: 5 s
RECOUNT_STEP = 1 / 40  # of a hold


class WebhookReliability:
    """Estimates the share of webhooks that get lost, to decide when polling must take over."""

    def __init__(self) -> None:
        self._came = self._missed = 0.0
        self._last = self._asked = -inf

    def __repr__(self) -> str:
        return f"<WebhookReliability {self._came:.0f} webhooks came, {self._missed:.0f} were missed>"

    @property
    def loss(self) -> float:
        """The estimated share of webhooks that get lost."""
        return max(MIN_LOSS, (self._missed + 0.5) / (self._missed + self._came + 1.5))

    @property
    def late_survival(self) -> float:
        """The share of operations still running at the age at which one is late (rule 7)."""
        loss = self.loss
        return loss / (1 - loss)

    def record_delivery(self, now: float) -> None:
        """Record a webhook that came."""
        self._last = now
        self._count(came=1.0)

    def record_miss(self) -> None:
        """Record a webhook that did not come, or later than a poll."""
        self._count(missed=1.0)

    def is_due(self, now: float, *, hold: float) -> bool:
        """Return whether it is time to count silent operations again, and record that it is done."""
        if now - self._asked < RECOUNT_STEP * hold:
            return False
        self._asked = now
        return True

    def webhooks_flowing(self, now: float, *, hold: float) -> bool:
        """Return whether webhooks arrive (rule 9)."""
        return now - self._last < SILENT_AFTER * hold

    def _count(self, *, came: float = 0.0, missed: float = 0.0) -> None:
        fade = 1 / 2 if self._came + self._missed >= WEBHOOK_MEMORY else 1.0
        self._came, self._missed = self._came * fade + came, self._missed * fade + missed

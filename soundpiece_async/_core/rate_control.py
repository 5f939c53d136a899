"""AIMD rate control: learns the account's rate limit from 429s alone.

The service does not publish its limit and sends no quota headers (docs/api.md#rate-limits); the only sign is a 429.
`LearnedRate` turns those into permits per second:

1. Unknown until the first 429, then a ramp from a crawl: the same curve for every process, so that they start alike.
   What was let through before, up to 4/s, is a head start.
2. A 429 to a ramp that moves and still crawls is the burst of a process that has just begun, as a rule: both begin
   their ramps together.
3. The 429 that ends the ramp shows the scale; a few bold cuts settle it, the first quiet stretch ends that. The first
   cut takes the head start back, because other processes had none.
4. Steady: growth so slow that a 429 is due about once per `_target_interval` seconds, and one small cut for each.
   The faster a session, the slower it grows: that draws several processes together, as TCP's additive increase and
   multiplicative decrease do, with a steeper law because a 429 is rarer than a lost packet. Above 3.4/s all grow by the
   same factor, and only the faster one's more frequent 429s pull: unequal starts there last for many minutes
   (`benchmarks/pacing.py` shows how unequal).
5. Three 429s almost in a row mean a lower limit: deep cuts, then a quicker search upwards until the next 429.
6. A permit that no request waited for proves nothing: the rate of an idle session does not grow.

Why it is not fairer: sessions have in common only the share of requests that is refused. One that meets n 429s knows it
to 1/sqrt(n), and an even steeper rule 4 for all rates alike would need more than one request in 50 refused at 2.5/s.
"""

import math
from collections.abc import Mapping
from enum import Enum, auto
from typing import Self

from soundpiece_async._core.json_types import JsonObject, JsonValue

# permits/s with which the ramp begins: eight processes on a limit of 5/s still fit; and that much was let through
_FIRST_RATE, _MOST_FIRST_RATE = 0.5, 4.0
_LOWEST_RATE = 0.02  # permits/s; a session at the bottom still asks once in 50 s
_RAMP_SECONDS = 2.0  # the ramp is its first rate + (t / this) ** 3: 2/s more after 2.5 s, 100/s more after 9.3 s
_CRAWL_SECONDS = 3.0  # until then a ramp has gained 3.4/s at most, and one restarted has lost next to nothing
_RESTARTS = 8  # an account so small that the crawl itself is too fast must get out of rule 2
_RAMP_EXIT = 0.6  # the ramp overshoots by what the account had saved up
_EARLY_SECONDS, _EARLY_PERMITS = 2.0, 2.0  # a 429 sooner than either after the last cut is no chance hit
_SETTLE_CUT, _SETTLED_CUT = 0.8, 0.9
_STREAK_CUT, _LOWER_LIMIT_CUT = 0.8, 0.7
_SEARCH_PER_SECOND, _SEARCH_PER_PERMIT = 0.05, 0.01  # growth of the search after a lower limit; the smaller counts
_FIRST_STEP, _LEAST_STEP, _STEP_SHRINK = 0.2, 0.1, 0.8  # the steady cut, as a logarithm: bold at first, then fine
_FORGIVEN_GROWTH = 0.5  # the part of the growth since the last cut that a 429 takes back at least
_QUIET_AT, _QUIET_SECONDS, _QUIET_POWER, _QUIET_MOST = 2.5, 25.0, 3.0, 60.0  # rule 4: 25 s at 2.5/s, at most 60 s
_QUIET_PERMITS, _QUIET_CRAWL = 20.0, 2.0  # and never above one 429 in 20 permits; fewer below 2/s
_WARM_SECONDS, _WARM_SHARE = 120.0, 0.4  # a young session takes 0.4 of the quiet time: it has most to learn
# after 1.5 intervals without a 429 another process has probably left: faster growth
_RECOVERY_AFTER, _MAX_RECOVERY_BOOST = 1.5, 4.0
_GROWTH_PER_PERMIT = 0.1  # no single permit adds more


class _RatePhase(Enum):
    FREE = auto()  # no 429 yet
    RAMP = auto()
    SETTLE = auto()
    STEADY = auto()
    SEARCH = auto()  # a lower limit was met


class LearnedRate:
    """The permits per second of one session; its only inputs are permits spent and 429s."""

    def __init__(self, *, ceiling: float | None = None) -> None:
        """Start without a limit, or at `ceiling` permits per second, which is never exceeded afterwards."""
        if ceiling is not None and not (0 < ceiling < math.inf):
            raise ValueError(f"requests per second must be a finite number above 0, not {ceiling!r}")
        self.ceiling = ceiling
        self.rate = ceiling
        self._phase = _RatePhase.FREE
        self._base = 0.0  # the rate right after the last cut
        self._age = 0.0  # seconds of wanted permits since the last cut
        self._steady_for = 0.0  # seconds of wanted permits since the ramp
        self._step = _FIRST_STEP
        self._streak = 0  # 429s in a row that came early
        self._restarts = 0

    def __repr__(self) -> str:
        return f"<LearnedRate {self._phase.name.lower()} {describe_rate(self.rate)}>"

    @classmethod
    def resume(cls, state: Mapping[str, JsonValue], *, ceiling: float | None = None) -> Self:
        """Resume from a `state`, perhaps of another process.

        Raises:
            ValueError, TypeError, LookupError: it is invalid.
        """
        resumed = cls(ceiling=ceiling)
        resumed._phase = _RatePhase[state["stage"]]
        rate, base, age, steady_for, step = (
            float(state[name]) for name in ("rate", "base", "age", "steady_for", "step")
        )
        if not (0 < rate < math.inf and 0 < base < math.inf and 0 <= age < math.inf and 0 <= steady_for < math.inf):
            raise ValueError("a rate out of range")
        resumed._base, resumed._age, resumed._steady_for = base, age, steady_for
        resumed._step = min(_FIRST_STEP, max(_LEAST_STEP, step))
        resumed._streak, resumed._restarts = int(state["streak"]), int(state["restarts"])
        resumed._set(rate)
        return resumed

    @classmethod
    def settle_at(cls, rate: float, *, ceiling: float | None = None) -> Self:
        """Start near a rate that was learned elsewhere, without its state."""
        settled = cls(ceiling=ceiling)
        settled._phase, settled._base = _RatePhase.SETTLE, rate
        settled._set(rate)
        return settled

    @property
    def limited(self) -> bool:
        """Whether there was a 429."""
        return self._phase is not _RatePhase.FREE

    @property
    def state(self) -> JsonObject:
        """The state as JSON values, for `resume`."""
        return {
            "stage": self._phase.name,
            "rate": self.rate,
            "base": self._base,
            "age": self._age,
            "steady_for": self._steady_for,
            "step": self._step,
            "streak": self._streak,
            "restarts": self._restarts,
        }

    def on_permit(self, *, wanted: bool) -> None:
        """Record a permit spent; only a `wanted` one, that a request waited for, lets the rate grow (rule 6)."""
        if self.rate is None or not wanted or self._phase is _RatePhase.FREE:
            return
        seconds = 1 / self.rate
        self._age += seconds
        match self._phase:
            case _RatePhase.RAMP:
                grown = self._base + (self._age / _RAMP_SECONDS) ** 3
            case _RatePhase.SEARCH:
                grown = self.rate * (1 + min(_SEARCH_PER_SECOND * seconds, _SEARCH_PER_PERMIT))
            case _:
                self._steady_for += seconds
                grown = self.rate * math.exp(min(_GROWTH_PER_PERMIT, self._growth(seconds)))
        self._set(grown)

    def on_rate_limited(self, *, let_through: float = 0.0) -> None:
        """Record a 429; the caller passes one of each burst.

        Args:
            let_through: requests per second that were answered of late; the ramp after the first 429 begins there.
        """
        rate, early = self.rate or 0.0, self._is_early()
        match self._phase:
            case _RatePhase.FREE:
                self._phase, rate = _RatePhase.RAMP, min(max(_FIRST_RATE, let_through), _MOST_FIRST_RATE)
            case _RatePhase.RAMP if 0 < self._age < _CRAWL_SECONDS and self._restarts < _RESTARTS:
                self._restarts, rate = self._restarts + 1, max(_FIRST_RATE, self._base / 2)
            case _RatePhase.RAMP:
                head_start = max(0.0, self._base - _FIRST_RATE)
                self._phase, rate = _RatePhase.SETTLE, (rate - head_start) * _RAMP_EXIT
            case _RatePhase.SETTLE | _RatePhase.SEARCH if early:
                rate *= _SETTLE_CUT
            case _RatePhase.SETTLE | _RatePhase.SEARCH:
                self._phase, rate = _RatePhase.STEADY, rate * _SETTLED_CUT
            case _:
                rate *= self._steady_cut(early=early)
        self._age = 0.0
        self._set(rate)
        self._base = self.rate or rate

    def _is_early(self) -> bool:
        return self.rate is not None and self._age < max(_EARLY_SECONDS, _EARLY_PERMITS / self.rate)

    def _steady_cut(self, *, early: bool) -> float:
        """Return the factor of a cut; one early 429 is chance, two are a sign, three a lower limit (rule 5)."""
        self._streak = self._streak + 1 if early else 0
        match self._streak:
            case 0 | 1:
                self._step = max(_LEAST_STEP, self._step * _STEP_SHRINK)
                grown = math.log((self.rate or self._base) / self._base)
                return math.exp(-max(self._step, _FORGIVEN_GROWTH * grown))
            case 2:
                return _STREAK_CUT
            case _:
                self._streak, self._phase = 0, _RatePhase.SEARCH
                return _LOWER_LIMIT_CUT

    def _growth(self, seconds: float) -> float:
        """Return the logarithm by which the rate grows in that many seconds: one step per quiet time, later more."""
        quiet = self._target_interval(self.rate or self._base)
        recovery_boost = min(_MAX_RECOVERY_BOOST, max(0.0, self._age / quiet - _RECOVERY_AFTER))
        return self._step * seconds / quiet * math.exp(recovery_boost)

    def _target_interval(self, rate: float) -> float:
        """Return the seconds that should pass between two 429s at that rate (rule 4)."""
        warmup = _WARM_SHARE + (1 - _WARM_SHARE) * min(1.0, self._steady_for / _WARM_SECONDS)
        steep = min(_QUIET_MOST, _QUIET_SECONDS * math.pow(min(10.0, rate / _QUIET_AT), _QUIET_POWER))
        return warmup * steep + _QUIET_PERMITS / rate * max(1.0, _QUIET_CRAWL / rate)

    def _set(self, rate: float) -> None:
        rate = max(rate, _LOWEST_RATE)
        self.rate = rate if self.ceiling is None else min(rate, self.ceiling)


def describe_rate(rate: float | None) -> str:
    """Return a rate as text, for a `repr`."""
    return "unlimited" if rate is None else f"{rate:.3g}/s"

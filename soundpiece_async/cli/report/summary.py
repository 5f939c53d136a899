"""Summary of a run, computed job by job, so that memory hardly grows with the run."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import attrs

from soundpiece_async._core.job_records import JobRecord, JobState
from soundpiece_async._core.json_types import JsonObject

QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "longest": 1.0}
MAX_BINS = 144
"""Maximum number of bars in the chart."""
BIN_WIDTHS: tuple[int, ...] = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400)
"""Widths of a bar in seconds; each divides the next. Beyond, they double."""
MAX_FAILURE_GROUPS = 50
"""Maximum number of failure groups: codes come from the service, and there may be many."""
OTHER_FAILURES = ("other reasons", "")

_NEXT_WIDTH: dict[int, int] = dict(pairwise(BIN_WIDTHS))
_YEAR_10000 = 253_402_300_800.0  # the year 10,000


@attrs.define(eq=False)
class Histogram:
    """Jobs that ended, saved and failed, in bins of equal width; widens until ``MAX_BINS`` of them span the run."""

    width: int = BIN_WIDTHS[0]
    bins: dict[int, tuple[int, int]] = attrs.field(factory=dict)

    def add(self, moment: float, *, saved: bool) -> None:
        """Count a job; ``moment`` is in seconds since 1970."""
        self._put(int(moment // self.width), saved, not saved)
        while max(self.bins) - min(self.bins) >= MAX_BINS:
            before, old = self.bins, self.width
            self.bins, self.width = {}, _NEXT_WIDTH.get(old, 2 * old)
            for place, counts in before.items():
                self._put(place * old // self.width, *counts)

    def rows(self) -> list[tuple[int, int, int]]:
        """Return start, saved and failed of each bin that is not empty, in the order of time."""
        return [(place * self.width, *counts) for place, counts in sorted(self.bins.items())]

    def _put(self, place: int, saved: int, failed: int) -> None:
        before = self.bins.get(place, (0, 0))
        self.bins[place] = (before[0] + saved, before[1] + failed)


@attrs.define(eq=False)
class FailureGroup:
    """Failed jobs with the same kind of error and code, the text of the first, and their number."""

    id: int
    kind: str
    code: str
    text: str
    retryable: bool
    jobs: int = 0


class Summary:
    """Summarizes jobs.

    Args:
        now: in seconds since 1970; decides which jobs are uncertain.
    """

    def __init__(self, *, now: float) -> None:
        self.now = now
        self.counts: Counter[str] = Counter()
        self.routes: dict[str, int] = {}
        self.timeline: Histogram = Histogram()
        self._waits: dict[str, array[float]] = {}
        self._reasons: dict[tuple[str, str], FailureGroup] = {}
        self._files = self._bytes = 0
        self._verified: Counter[str] = Counter()
        self._seconds = 0.0
        self._echo_differences: Counter[str] = Counter()
        self._began: float | None = None
        self._ended: float | None = None

    def add(self, job: JobRecord) -> FailureGroup | None:
        """Count a job; return its failure group, if it failed."""
        state = effective_state(job, now=self.now)
        self.counts[state] += 1
        self.routes.setdefault(job.route, len(self.routes))
        self._files += len(job.files)
        self._verified.update(file.verified or "" for file in job.files)
        self._bytes += sum(file.bytes for file in job.files)
        self._seconds += sum(file.duration for file in job.files)
        if (wait := waiting_time(job)) is not None:
            self._waits.setdefault(job.route, array("f")).append(wait)
        self._echo_differences.update(job.echo_differences)
        self._keep_time(job, state)
        if job.failure is None:
            return None
        failure = job.failure
        name = (failure.kind, failure.code)
        if name not in self._reasons and len(self._reasons) >= MAX_FAILURE_GROUPS:
            name = OTHER_FAILURES
        reason = self._reasons.setdefault(
            name, FailureGroup(len(self._reasons), *name, failure.text, failure.retryable)
        )
        reason.jobs += 1
        return reason

    def add_blocked(self, route: str) -> None:
        """Count a blocked job."""
        self.counts["blocked"] += 1
        self.routes.setdefault(route, len(self.routes))

    def to_json(self) -> JsonObject:
        """Return the summary as a JSON object; all times are in seconds."""
        return {
            "jobs": self.counts.total(),
            "counts": {state: self.counts[state] for state in (*JobState, "blocked") if self.counts[state]},
            "files": self._files,
            "verified": dict(self._verified),
            "bytes": self._bytes,
            "seconds": round(self._seconds, 3),
            "echo_differences": dict(self._echo_differences),
            "began": self._began,
            "ended": self._ended,
            "waiting": [_percentiles(route, self._waits[route]) for route in self.routes if route in self._waits],
            "throughput": {"width": self.timeline.width, "bins": self.timeline.rows()},
            "failures": [
                attrs.asdict(reason) for reason in sorted(self._reasons.values(), key=lambda reason: -reason.jobs)
            ],
        }

    def _keep_time(self, job: JobRecord, state: JobState) -> None:
        began, ended = valid_time(job.sent_at), valid_time(job.ended_at)
        if began is not None:
            self._began = began if self._began is None else min(self._began, began)
        if ended is not None and state in (JobState.SAVED, JobState.FAILED):
            self._ended = ended if self._ended is None else max(self._ended, ended)
            self.timeline.add(ended, saved=state is JobState.SAVED)


def effective_state(job: JobRecord, *, now: float) -> JobState:
    """Return the state of a job, which may be uncertain."""
    return JobState.UNCERTAIN if job.is_uncertain(now=now) else job.state


def waiting_time(job: JobRecord) -> float | None:
    """Return the seconds from the response to the PUT to ready; None: unknown, or a clock was set back."""
    accepted, ready = valid_time(job.submitted_at), valid_time(job.ready_at)
    return None if accepted is None or ready is None or ready < accepted else ready - accepted


def valid_time(seconds: float | None) -> float | None:
    """Return seconds since 1970 if they are plausible: a journal may have been edited."""
    return seconds if seconds is not None and 0 <= seconds < _YEAR_10000 else None


def _percentiles(route: str, waits: Sequence[float]) -> JsonObject:
    ranked = sorted(waits)
    last = len(ranked) - 1
    return {
        "route": route,
        "jobs": len(ranked),
        **{name: round(ranked[math.ceil(share * last)], 3) for name, share in QUANTILES.items()},
    }

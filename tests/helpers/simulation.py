"""Simulators and settings for tests: short audio, high speed, short timeouts."""

import math
from collections.abc import Callable
from typing import Any

import attrs

from soundpiece_async import Limits, RetryPolicy, Settings, Timeouts
from soundpiece_async.simulator import Simulator

Serve = Callable[..., Simulator]


def never_finishes(_: str) -> float:
    """Return a processing time without end: only ``sim.finish`` ends an operation."""
    return math.inf


def simulate(**changes: Any) -> Simulator:
    """Build a simulator for tests; ``durations=never_finishes`` leaves every operation to ``sim.finish``."""
    return Simulator(**{"seed": 1, "speed": 200, "track_seconds": (0.3, 0.6), **changes})


def settings(sim: Simulator, **changes: Any) -> Settings:
    """Return settings for this simulator, with short timeouts."""
    base = Settings(
        api_key=sim.api_key,
        base_url=sim.url,
        limits=Limits(),
        timeouts=Timeouts(connect=5, submit=5, poll=5, read=5),
        retries=RetryPolicy(submit_max_elapsed=20),
    )
    return attrs.evolve(base, **changes)


def puts(sim: Simulator) -> list[tuple[str | None, bytes]]:
    """Return the idempotency key and the body of each PUT that a simulator received."""
    return [(request.key, request.body) for request in sim.log if request.method == "PUT"]

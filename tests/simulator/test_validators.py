"""A simulator that cannot be is refused when it is made, by the name of the argument; so is a fault that cannot be."""

import math
from typing import Any

import pytest
from helpers.simulator_client import opened

from soundpiece_async.simulator import Fault, Faults, Simulator

MISFITS: dict[str, list[Any]] = {
    "speed": [0, -1, math.nan, math.inf, "fast"],
    "faults": [None, {"cut": 0.5}],
    "api_key": ["", None],
    "requests_per_second": [0, math.nan],
    "burst": [0, math.nan],
    "credits": [-1, 2.5],
    "url_lifetime": [0, -1, math.nan, math.inf],
    "track_seconds": [(0, 0), (2, 1), (1, math.inf), (1, math.nan), (1,), 3],
    "n_variations": [0, -1, 1.5],
    "variations": [2, None, "echo=strip", ["echo"], [3], {"echo": 3}],
    "durations": [7, {"create.new_fx": math.nan}, {"create.new_fx": -1}, {"create.new_fx": "1"}, {"new_fx": 1}],
    "clock_skew": [math.nan, math.inf, "x"],
    "download_rate": [0, math.nan],
    "webhook_attempts": [0],
    "webhook_timeout": [0, math.nan],
    "webhook_loss": [-0.1, 1.1, math.nan],
    "webhook_duplicates": [2],
    "on_request": [3],
    "cache_bytes": [-1],
    "port": [-5, 65536, "80"],
    "output_port": [-1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in MISFITS.items() for value in values])
def test_refuses_what_makes_no_sense(name: str, value: Any) -> None:
    """At once, and not as a hang or a crash later."""
    with pytest.raises((ValueError, TypeError), match=name):
        Simulator(**{name: value})


@pytest.mark.parametrize("name", ["speed", "url_lifetime", "clock_skew"])
def test_refuses_a_number_beyond_any_float(name: str) -> None:
    """It is compared like any other, and overflows where it is first divided."""
    with pytest.raises(ValueError, match=name):
        Simulator(**{name: 10**400})


def test_takes_what_makes_sense() -> None:
    """The bounds themselves, integers for numbers, and durations in both forms."""
    Simulator(speed=1, burst=1, credits=0, track_seconds=(1, 1), n_variations=1, port=65535, cache_bytes=0)
    Simulator(durations={"create.new_fx": math.inf, "create.new_song": 0}, webhook_loss=1, clock_skew=-3)
    Simulator(durations=lambda _: 0.5, webhook_attempts=1, download_rate=0.5, on_request=print)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [math.nan, -1.0, None])
async def test_a_callable_that_answers_nonsense_harms_its_own_requests_only(answer: Any) -> None:
    """NaN in the agenda would let no operation end any more."""
    answers = {"create.new_fx": answer, "create.new_sample": 0.0}
    async with opened(durations=answers.__getitem__) as caller:
        assert (await caller.put("create.new_fx", prompt="x", duration=1)).status == 500
        assert (await caller.run("create.new_sample", prompt="x", duration=1))["status"] == "ready"


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"cut": 1.5}, "cut"),
        ({"cut": 0.6, "stall": 0.6}, "output host add up to more than 1"),
        ({"reset_after": 0.6, "reset_before": 0.6}, "api host add up to more than 1"),
        ({"stall_seconds": -1}, "stall_seconds"),
        ({"stall_seconds": math.nan}, "stall_seconds"),
        ({"expired_status": 200}, "expired_status"),
        ({"failure_codes": ()}, "failure_codes"),
    ],
)
def test_refuses_shares_that_cannot_be(faults: dict[str, Any], told: str) -> None:
    """They are drawn from one die for each host; ten tenths are all of it."""
    with pytest.raises(ValueError, match=told):
        Faults(**faults)
    Faults(server_error=0.1, bad_gateway=0.2, gateway_timeout=0.1, reset_before=0.2, reset_after=0.1, stall=0.3)


@pytest.mark.parametrize(
    ("fault", "details", "told"),
    [
        ("no_such", {}, "'fault' must be one of server_error, .*: 'no_such'"),
        (Fault.FAIL, {"kode": "x"}, "has no 'kode'"),
        (Fault.FAIL, {"route": "new_fx"}, "'route' must be one of"),
        (Fault.CUT, {"host": "files"}, "'host' must be one of"),
        (Fault.STALL, {"method": "put"}, "'method' must be one of"),
        (Fault.STALL, {"operation": 5}, "'operation' must be an id or None: 5"),
        (Fault.STALL, {"times": 0}, "'times' must be a whole number, at least 1"),
        (Fault.STALL, {"times": 1.5}, "'times' must be a whole number, at least 1"),
        (Fault.STALL, {"skip": -1}, "'skip' must be a whole number, at least 0"),
        (Fault.STALL, {"seconds": math.nan}, "'seconds' must be a finite number of seconds, at least 0"),
        (Fault.RATE_LIMITED, {"seconds": math.inf}, "'seconds' must be a finite number of seconds, at least 0"),
        (Fault.SERVER_ERROR, {"status": 100}, "'status' must be a whole number from 200 to 599"),
        (Fault.SERVER_ERROR, {"status": 1000}, "'status' must be a whole number from 200 to 599"),
        (Fault.CUT, {"at": "5"}, "'at' must be a whole number, at least 0"),
        (Fault.CUT, {"at": 1.5}, "'at' must be a whole number, at least 0"),
        (Fault.FAIL, {"method": "GET"}, "'method of fail' must be one of None, PUT: 'GET'"),
        (Fault.IGNORE_RANGE, {"host": "api"}, "'host of ignore_range' must be one of None, output: 'api'"),
    ],
)
def test_refuses_a_fault_that_could_never_strike(fault: Any, details: dict[str, Any], told: str) -> None:
    """A test that injects it would pass for the wrong reason."""
    with pytest.raises((ValueError, TypeError), match=told):
        Simulator().inject(fault, **details)


def test_takes_a_fault_by_its_value() -> None:
    """As it stands in a table of cases."""
    Simulator().inject("cut", host=None, at=0)  # type: ignore[arg-type]
    Simulator().inject(Fault.FAIL, host="api", method=None, operation=None, times=1, skip=0, code="x")

"""What goes wrong: drawn by share or put on a request, before or after it took effect."""

import json
import random
import time
from typing import Any

import aiohttp
import pytest
from helpers.simulator_client import opened

from soundpiece_async.simulator import Fault, Faults, ReceivedRequest
from soundpiece_async.simulator.faults import FaultInjector

UNKNOWN_ID = "op_" + "0" * 26


def arrive(host: str = "api", method: str = "PUT", **details: Any) -> ReceivedRequest:
    """Return a request that has just arrived."""
    return ReceivedRequest(host=host, method=method, path="/", arrived=0.0, headers={}, **details)


class TestFaultInjector:
    """Faults strike by share or by injection."""

    def test_is_quiet_without_faults(self) -> None:
        """Without faults nothing strikes."""
        injector = FaultInjector(Faults(), rng=random.Random(0))
        assert [injector.choose(arrive()) for _ in range(9)] == [None] * 9

    def test_keeps_its_shares(self) -> None:
        """Each fault strikes about its share of the requests that concern it, and the same seed the same ones."""
        faults = Faults(server_error=0.1, reset_after=0.2, cut=0.3)

        def active_faults(host: str) -> list[str | None]:
            injector = FaultInjector(faults, rng=random.Random(7))
            requests = [arrive(host) for _ in range(1000)]
            for request in requests:
                injector.choose(request)
            return [request.fault for request in requests]

        api, output = active_faults("api"), active_faults("output")
        assert api == active_faults("api")
        assert 60 < api.count("server_error") < 140
        assert 150 < api.count("reset_after") < 250
        assert "cut" not in api
        assert 240 < output.count("cut") < 360
        assert "reset_after" not in output

    def test_strikes_the_chosen_request(self) -> None:
        """An injection strikes the requests it describes, after those it skips, as often as it says."""
        injector = FaultInjector(Faults(), rng=random.Random(0))
        injector.inject(Fault.STALL, method="GET", route="create.new_fx", operation=None, skip=1, times=2, seconds=3.0)
        others = [arrive(), arrive("output", "GET"), arrive(method="GET", route="create.new_song")]
        matching = [arrive(method="GET", route="create.new_fx") for _ in range(4)]

        assert [injector.choose(request) for request in others] == [None] * 3
        active_faults = [injector.choose(request) for request in matching]
        assert [active is not None for active in active_faults] == [False, True, True, False]
        assert active_faults[1] is not None
        assert active_faults[1].seconds == 3.0
        assert [request.fault for request in matching] == [None, "stall", "stall", None]
        assert repr(injector) == "<FaultInjector {'stall': 2}, 0 waiting>"

    def test_knows_where_faults_belong(self) -> None:
        """A failing operation is made by a PUT, and a Range can be ignored by the output host only."""
        injector = FaultInjector(Faults(), rng=random.Random(0))
        injector.inject(Fault.FAIL)
        injector.inject(Fault.IGNORE_RANGE)

        assert injector.choose(arrive(method="GET")) is None
        active_faults = [injector.choose(arrive()), injector.choose(arrive("output", "GET"))]
        assert [active.fault for active in active_faults if active] == [Fault.FAIL, Fault.IGNORE_RANGE]

    @pytest.mark.parametrize("share", [-0.1, 1.5])
    def test_refuses_impossible_shares(self, share: float) -> None:
        """A share is from 0 to 1."""
        with pytest.raises(ValueError, match="cut"):
            Faults(cut=share)


@pytest.mark.anyio
class TestAnswers:
    """What goes wrong, and whether the request took effect before."""

    @pytest.mark.parametrize(
        ("fault", "took_effect"), [(Fault.RESET_BEFORE, 0), (Fault.RESET_AFTER, 1)], ids=["before", "after"]
    )
    async def test_resets(self, fault: Fault, took_effect: int) -> None:
        """A connection is reset before or after the PUT took effect; the log has no status for it."""
        async with opened() as caller:
            caller.sim.inject(fault, method="PUT")
            with pytest.raises(aiohttp.ClientConnectionError):
                await caller.put()

            assert len(caller.sim.operations) == took_effect
            assert (caller.sim.log[-1].status, caller.sim.log[-1].fault) == (None, fault.value)

    @pytest.mark.parametrize(
        ("fault", "status", "media_type", "took_effect"),
        [
            (Fault.SERVER_ERROR, 500, "application/json", 0),
            (Fault.BAD_GATEWAY, 502, "text/html", 0),
            (Fault.RATE_LIMITED, 429, "application/json", 0),
            (Fault.GATEWAY_TIMEOUT, 504, "text/html", 1),
        ],
    )
    async def test_answers_errors(self, fault: Fault, status: int, media_type: str, took_effect: int) -> None:
        """Errors come as JSON or as a proxy's HTML, before or after the PUT took effect."""
        async with opened() as caller:
            caller.sim.inject(fault)
            answer = await caller.put()

            assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (status, media_type)
            assert "Retry-After" not in answer.headers
            assert len(caller.sim.operations) == took_effect
            assert caller.sim.statistics().faults == {fault.value: 1}

    async def test_answers_any_status(self) -> None:
        """A server error can be any status with any headers, and a rate limit any number of seconds."""
        async with opened() as caller:
            caller.sim.inject(Fault.SERVER_ERROR, status=307, headers={"Location": "https://elsewhere.example/"})
            caller.sim.inject(Fault.RATE_LIMITED, seconds=0)
            moved = await caller.ask("GET", "/v1/create.new_fx")
            limited = await caller.get(UNKNOWN_ID)

        assert (moved.status, moved.headers["Location"]) == (307, "https://elsewhere.example/")
        assert (limited.status, limited.headers["Retry-After"]) == (429, "0")

    async def test_stalls(self) -> None:
        """A stalled answer comes as late as was said, after the request took effect."""
        async with opened(faults=Faults(stall=1.0, stall_seconds=0.2)) as caller:
            began = time.monotonic()
            answer = await caller.put()
            assert time.monotonic() - began > 0.19
            assert answer.status == 200
            caller.sim.inject(Fault.STALL, seconds=0.0)
            assert (await caller.put()).status == 200
            caller.sim.inject(Fault.CUT)
            assert (await caller.ask("HEAD", "/v1/create.new_fx")).status == 405

    async def test_cuts_answers(self) -> None:
        """An answer can end before its announced length, after exactly the bytes asked for."""
        async with opened() as caller:
            caller.sim.inject(Fault.CUT, at=10)
            with pytest.raises(aiohttp.ClientPayloadError, match=r"received 10 of|Not enough data"):
                await caller.put()
            assert len(caller.sim.operations) == 1
            assert caller.sim.log[-1].sent == 10

    async def test_corrupts_answers(self) -> None:
        """An answer can have a wrong byte: 200, and no JSON."""
        async with opened() as caller:
            caller.sim.inject(Fault.CORRUPT, at=0)
            answer = await caller.put()
            assert answer.status == 200
            with pytest.raises(ValueError, match="decode"):
                json.loads(answer.body)

    async def test_lets_one_operation_fail(self) -> None:
        """The operation of one chosen PUT can be made to fail, with the code given or the one that is known."""
        async with opened() as caller:
            caller.sim.inject(Fault.FAIL, code="later_code")
            caller.sim.inject(Fault.FAIL)
            codes = [(await caller.run())["error"] for _ in range(3)]

        assert [error and error["code"] for error in codes] == ["later_code", "internal_error", None]

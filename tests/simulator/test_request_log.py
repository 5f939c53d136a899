"""What the simulator tells of itself: its log, its counts, its clock, its seed."""

import json
import time
from datetime import datetime
from email.utils import parsedate_to_datetime

import anyio
import pytest
from helpers.idle import until
from helpers.simulation import never_finishes
from helpers.simulator_client import opened

from soundpiece_async.simulator import ReceivedRequest, Simulator

pytestmark = pytest.mark.anyio


class TestLog:
    """Everything is seen from the server's side."""

    async def test_records_requests(self) -> None:
        """A request's record has what a test wants to know of it."""
        async with opened() as caller:
            operation = await caller.run()
            put, get = caller.sim.log

        assert (put.host, put.method, put.path, put.route) == ("api", "PUT", "/v1/create.new_fx", "create.new_fx")
        assert (put.key, put.operation, put.status) == (operation["idempotency_key"], operation["id"], 200)
        assert json.loads(put.body) == put.json
        assert put.user_agent is not None
        assert (put.range, put.if_range, put.fault, put.wait) == (None, None, None, False)
        assert (get.method, get.operation, get.wait, get.authorized) == ("GET", operation["id"], True, True)
        assert put.arrived < get.arrived
        assert get.held is not None
        assert "Bearer" not in repr(get)

    async def test_tolerates_strange_keys(self) -> None:
        """A body that is refused is recorded all the same."""
        async with opened() as caller:
            await caller.ask("PUT", "/v1/create.new_fx", json={"idempotency_key": 7})
            await caller.ask("PUT", "/v1/create.new_fx", json=[])

            assert [request.key for request in caller.sim.log] == [None, None]
            assert [request.status for request in caller.sim.log] == [422, 422]

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_announces_arrivals(self, *, is_async: bool) -> None:
        """The hook sees each request before anything takes effect, and is awaited when it is async."""
        seen: list[tuple[ReceivedRequest, int]] = []

        def note(request: ReceivedRequest) -> None:
            seen.append((request, len(caller.sim.operations)))

        async def note_later(request: ReceivedRequest) -> None:
            await anyio.sleep(0.01)
            note(request)

        async with opened(on_request=note_later if is_async else note) as caller:
            await caller.run()

            assert [request for request, _ in seen] == caller.sim.log
            assert [operations for _, operations in seen] == [0, 1]

    async def test_counts(self) -> None:
        """The statistics count operations, requests and bytes."""
        async with opened() as caller:
            operation = await caller.run()
            audio = await caller.fetch(operation["output"]["url"])
            await until(lambda: caller.sim.open_requests == 0)
            statistics = caller.sim.statistics()

            assert (statistics.operations, statistics.ready, statistics.processing, statistics.failed) == (1, 1, 0, 0)
            assert (statistics.submits, statistics.polls, statistics.downloads) == (1, 1, 1)
            assert statistics.bytes_sent == len(audio.body) + sum(r.sent for r in caller.sim.log[:2])
            assert (statistics.open_requests, statistics.peak_polls) == (0, 1)

    async def test_shows_itself(self) -> None:
        """The reprs say where it listens and what it does, without secrets."""
        async with opened(durations=never_finishes) as caller:
            await caller.put()
            text = repr(caller.sim)
            parts = [caller.sim._clock, caller.sim._output_host.render_cache, caller.sim._webhook_sender]

        assert caller.sim.url in text
        assert "1 operations" in text
        assert "0 open, 0 polls (peak 0)" in text
        assert [repr(part).partition(" ")[0] for part in parts] == ["<Clock", "<RenderCache", "<WebhookSender"]
        assert caller.sim.api_key not in text
        assert repr(Simulator()).startswith("<Simulator closed")


async def test_follows_from_the_seed() -> None:
    """The same seed gives the same account, ids and audio; keys and ports do not matter."""
    seen = []
    for seed in (3, 3, 4):
        async with opened(seed=seed) as caller:
            operation = await caller.run()
            audio = await caller.fetch(operation["output"]["url"])
            seen.append((caller.sim.api_key, caller.sim.webhook_secret, operation["id"], audio.body))

    assert seen[0] == seen[1]
    assert all(a != b for a, b in zip(seen[0], seen[2], strict=True))


async def test_has_a_clock_of_its_own() -> None:
    """A skewed clock shows in created_at, expires_at and the Date header alike."""
    async with opened(clock_skew=3600.0) as caller:
        operation = await caller.run()
        answer = await caller.get(operation["id"])

    ahead = time.time() + 3600
    assert abs(datetime.fromisoformat(operation["created_at"]).timestamp() - ahead) < 5
    assert abs(datetime.fromisoformat(operation["output"]["expires_at"]).timestamp() - ahead - 900) < 5
    assert abs(parsedate_to_datetime(answer.headers["Date"]).timestamp() - ahead) < 5


async def test_leads_clients_here() -> None:
    """The environment a client needs is at hand, and what the future may bring comes in the envelope too."""
    async with opened(forward=True) as caller:
        assert caller.sim.environ == {"SOUNDPIECE_API_KEY": caller.sim.api_key, "SOUNDPIECE_BASE_URL": caller.sim.url}
        assert list((await caller.put()).json) == ["fx", "added_since"]

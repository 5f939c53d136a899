"""The API over a real socket: routes, refusals, idempotency, holds and the rate limit."""

import io
import time
import uuid
from datetime import datetime
from functools import partial

import anyio
import pytest
from helpers.idle import until
from helpers.simulation import never_finishes
from helpers.simulator_client import SAMPLE, Answer, opened

from soundpiece_async.simulator import Faults
from soundpiece_async.simulator.schema import ROUTES

pytestmark = pytest.mark.anyio

SOURCE = {"url": "https://media.example.com/mix.wav"}
UNKNOWN_ID = "op_" + "0" * 26


async def test_serves_the_example_of_the_documentation() -> None:
    """A song is submitted, held and ready: the contract's members in the contract's order, an envelope around them."""
    async with opened(durations={"create.new_song": 10.0}) as caller:
        key = str(uuid.uuid4())
        members = {"lyrics": "[Verse]\nla", "prompt": "folk"}
        submitted = await caller.put("create.new_song", idempotency_key=key, **members)
        ready = await caller.get(submitted.operation["id"], "create.new_song", wait=True)

    assert submitted.status == ready.status == 200
    assert list(submitted.json) == ["song"]
    assert submitted.headers["Content-Type"] == "application/json"
    operation = submitted.operation
    assert list(operation) == [
        *("id", "status", "created_at", "idempotency_key"),
        *("lyrics", "prompt", "reference", "outputs", "error"),
    ]
    assert operation | ready.operation == ready.operation | {"id": operation["id"], "idempotency_key": key}
    assert (operation["status"], operation["outputs"]) == ("processing", None)
    assert ready.operation["status"] == "ready"
    output = ready.operation["outputs"][0]
    assert list(output) == ["url", "expires_at", "duration"]
    assert not output["url"].startswith(caller.sim.url)
    assert abs(datetime.fromisoformat(operation["created_at"]).timestamp() - time.time()) < 5


@pytest.mark.parametrize(("route", "envelope"), [(route.name, route.envelope) for route in ROUTES.values()])
async def test_serves_every_route(route: str, envelope: str) -> None:
    """Each of the eight routes accepts its body and becomes ready."""
    bodies = {"source": SOURCE, "lyrics": "la", "prompt": "pop", "duration": 0.5, "target_duration": 0.3}
    async with opened(durations=dict.fromkeys(ROUTES, 1.0)) as caller:
        submitted = await caller.put(route, **bodies)
        ready = await caller.get(submitted.operation["id"], route, wait=True)

    assert list(ready.json) == [envelope]
    assert ready.operation["status"] == "ready"


class TestRefusals:
    """What is refused, how, and in which order."""

    async def test_refuses_unknown_paths_and_methods(self) -> None:
        """404 is for paths that do not exist, 405 for methods; both need no key."""
        async with opened() as caller:
            for path in ("/", "/v1/create.new_thing", "/create.new_fx"):
                answer = await caller.ask("GET", path, key=False)
                assert (answer.status, answer.json) == (404, {"detail": "Not Found"})
            answer = await caller.ask("DELETE", "/v1/create.new_fx", key=False)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, PUT")

    @pytest.mark.parametrize("header", [None, "Bearer", "Bearer spk_wrong", "Basic {key}", "{key}", "bearer {key} "])
    async def test_needs_the_key(self, header: str | None) -> None:
        """Without the right Bearer key it is 401 before anything else is looked at."""
        async with opened() as caller:
            headers = {} if header is None else {"Authorization": header.format(key=caller.sim.api_key)}
            for method in ("GET", "PUT"):
                answer = await caller.ask(method, "/v1/create.new_fx", key=False, headers=headers)
                assert (answer.status, answer.json) == (401, {"detail": "Missing or invalid Authorization header"})
            assert [request.authorized for request in caller.sim.log] == [header is not None] * 2

    @pytest.mark.parametrize("body", [b"{", b"\xff{}", b"[" * 100_000, b'{"duration": 1' + b"0" * 5000 + b"}"])
    async def test_refuses_broken_json(self, body: bytes) -> None:
        """A body that cannot be parsed is a 400."""
        async with opened() as caller:
            headers = {"Content-Type": "application/json"}
            answer = await caller.ask("PUT", "/v1/create.new_fx", data=body, headers=headers)

        assert (answer.status, list(answer.json)) == (400, ["detail"])

    @pytest.mark.parametrize(
        ("body", "media_type", "kind", "shown"),
        [
            (b"", "application/json", "missing", None),
            (b"null", "application/json", "model_attributes_type", None),
            (b"{}", "text/plain", "model_attributes_type", "{}"),
            (b"\xff", "", "model_attributes_type", "\ufffd"),
        ],
    )
    async def test_refuses_what_is_no_object(self, body: bytes, media_type: str, kind: str, shown: object) -> None:
        """An empty body, or one that does not claim to be JSON, is no object: 422."""
        async with opened() as caller:
            answer = await caller.ask("PUT", "/v1/create.new_fx", data=body, headers={"Content-Type": media_type})

        assert answer.status == 422
        (error,) = answer.json["detail"]
        assert (error["type"], error["loc"], error["input"]) == (kind, ["body"], shown)

    async def test_refuses_members_and_parameters(self) -> None:
        """A 422 lists the faults of the body or of the query."""
        async with opened() as caller:
            body = await caller.put("create.new_fx", prompt="x", duration="long")
            query = await caller.ask("GET", "/v1/create.new_fx?id=op_1&wait=maybe")

        assert body.status == query.status == 422
        assert [error["type"] for error in body.json["detail"]] == ["float_parsing"]
        assert [error["loc"] for error in query.json["detail"]] == [["query", "id"], ["query", "wait"]]

    async def test_refuses_unknown_operations(self) -> None:
        """An id that no operation of the route has is a 422 of the query, never a 404."""
        async with opened() as caller:
            identity = (await caller.put()).operation["id"]
            for answer in (await caller.get(UNKNOWN_ID), await caller.get(identity, "create.new_song")):
                assert (answer.status, answer.json["detail"][0]["loc"]) == (422, ["query", "id"])

    async def test_refuses_bodies_that_are_too_large(self) -> None:
        """A body of more than a mebibyte is a 413, as JSON."""
        async with opened() as caller:
            answer = await caller.ask("PUT", "/v1/create.new_fx", data=io.BytesIO(b" " * (1 << 20) + b"{}"))

        assert answer.status == 413
        assert "detail" in answer.json


class TestIdempotency:
    """One key, one piece of work."""

    @pytest.mark.parametrize(("variations", "status"), [([], "ready"), (["repeat=snapshot"], "processing")])
    async def test_replays(self, variations: list[str], status: str) -> None:
        """A repeated PUT gives the same operation: as it is now, or as it was at first."""
        async with opened(variations=variations) as caller:
            key = str(uuid.uuid4())
            first = await caller.run(idempotency_key=key, **SAMPLE)
            again = await caller.put(idempotency_key=key, **SAMPLE)

            assert (again.status, again.operation["id"], again.operation["status"]) == (200, first["id"], status)
            assert caller.sim.operations[first["id"]].puts == 2
            assert (caller.sim.statistics().operations, caller.sim.statistics().replays) == (1, 1)

    async def test_refuses_another_body(self) -> None:
        """A used key with another body is a 409 and changes nothing."""
        async with opened() as caller:
            key = str(uuid.uuid4())
            await caller.put(idempotency_key=key, **SAMPLE)
            answer = await caller.put(idempotency_key=key, prompt="other", duration=1)

            assert (answer.status, list(answer.json)) == (409, ["detail"])
            assert len(caller.sim.operations) == 1

    async def test_asks_for_credits(self) -> None:
        """An empty account is a 402, and the same key works once it is topped up."""
        async with opened(credits=1) as caller:
            await caller.put()
            key = str(uuid.uuid4())
            refused = await caller.put(idempotency_key=key, **SAMPLE)
            caller.sim.top_up(1)
            accepted = await caller.put(idempotency_key=key, **SAMPLE)

        assert (refused.status, accepted.status) == (402, 200)


class TestPolls:
    """Holds end with the operation, the time, or the client."""

    async def test_holds_until_the_end(self) -> None:
        """A long poll is answered when its operation ends, also with other waiters."""
        async with opened(durations=never_finishes, speed=1.0) as caller:
            sim, identity = caller.sim, (await caller.put()).operation["id"]
            answers: list[Answer] = []

            async def poll() -> None:
                answers.append(await caller.get(identity, wait=True))

            sim_polls = sim._http_server
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    for _ in range(5):
                        group.start_soon(poll)
                    await until(lambda: sim_polls.open_polls == 5)
                    assert not answers
                    assert sim.open_requests == 5
                    sim.finish(identity)

            assert [answer.operation["status"] for answer in answers] == ["ready"] * 5
            assert sim.peak_polls == 5

    async def test_holds_twenty_seconds(self) -> None:
        """A hold ends after 20 s, which the speed divides, with the operation as it is."""
        async with opened(durations=never_finishes, speed=100.0) as caller:
            identity = (await caller.put()).operation["id"]
            answer = await caller.get(identity, wait=True)

            assert answer.operation["status"] == "processing"
            request = caller.sim.log[-1]
            assert request.wait
            assert request.held is not None
            assert 0.19 < request.held < 10

    async def test_answers_at_once_without_wait(self) -> None:
        """Without `wait` nothing is held."""
        async with opened(durations=never_finishes, speed=1.0) as caller:
            with anyio.fail_after(30):
                answer = await caller.get((await caller.put()).operation["id"])

        assert answer.operation["status"] == "processing"

    async def test_knows_when_a_client_leaves(self) -> None:
        """A poll whose client has gone is open no longer, and was never answered."""
        async with opened(durations=never_finishes, speed=1.0) as caller:
            identity = (await caller.put()).operation["id"]
            async with anyio.create_task_group() as group:
                group.start_soon(partial(caller.get, identity, wait=True))
                await until(lambda: caller.sim.open_requests == 1)
                group.cancel_scope.cancel()
            await until(lambda: caller.sim.open_requests == 0)

            assert caller.sim.log[-1].status is None
            assert caller.sim.log[-1].held is not None

    async def test_ends_operations_in_time(self) -> None:
        """Operations end in the order of their times, an earlier one overtaking those that came before."""
        async with opened(speed=1.0, durations={"create.new_fx": 0.2, "create.new_sample": 0.05}) as caller:
            late = (await caller.put()).operation["id"]
            early = (await caller.put("create.new_sample", prompt="x", duration=1)).operation["id"]
            await caller.get(early, "create.new_sample", wait=True)
            assert caller.sim.operations[late].status == "processing"
            await until(lambda: caller.sim.operations[late].status == "ready")

    async def test_lets_operations_fail(self) -> None:
        """`finish` with a failure ends an operation with that code; a share of failures does so by chance."""
        async with opened(durations=never_finishes) as caller:
            identity = (await caller.put()).operation["id"]
            caller.sim.finish(identity, failure="sad")
            assert (await caller.get(identity)).operation["error"]["code"] == "sad"
        async with opened(faults=Faults(fail=1.0)) as caller:
            operation = await caller.run()
            assert (operation["status"], operation["output"]) == ("failed", None)
            assert caller.sim.statistics().failed == 1


async def test_limits_the_rate() -> None:
    """Above the account's rate, requests of any kind are 429 with whole seconds to wait; without a key none counts."""
    async with opened(requests_per_second=0.5, burst=2) as caller:
        await caller.ask("GET", "/v1/create.new_fx", key=False)
        answers = [await caller.put(), await caller.get(UNKNOWN_ID), await caller.put()]

        assert [answer.status for answer in answers] == [200, 422, 429]
        assert answers[2].headers["Retry-After"] == "2"
        assert answers[2].json == {"detail": "Rate limit exceeded; retry in 2 seconds"}
        assert caller.sim.statistics().rate_limited == 1


async def test_has_a_burst_of_a_second() -> None:
    """Without a burst given, one second's worth of requests passes at once."""
    async with opened(requests_per_second=3.0) as caller:
        statuses = [(await caller.put()).status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]

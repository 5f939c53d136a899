"""Sessions of one account that meet in a store: here each stands for a process."""

import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import attrs
import psycopg
import pytest
from helpers.database_servers import Server, serve_redis
from helpers.idle import no_task_left, until
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate
from redis.asyncio import Redis

from soundpiece_async import Handle, Limits, Operation, Session, SharedStoreError, Status
from soundpiece_async._core.parsing import parse_operation
from soundpiece_async._core.shared_gate import AWAY_SHARE, NEWCOMER_RATE, SharedPace
from soundpiece_async._pacer import Pacer
from soundpiece_async._shared import opening
from soundpiece_async._shared.link import Link
from soundpiece_async._shared.news import MAX_UNPUBLISHED, News
from soundpiece_async._shared.opening import make_store
from soundpiece_async._shared.store import find_address
from soundpiece_async.simulator import Fault, Simulator

pytestmark = pytest.mark.anyio

CALLBACK = "https://studio.example/hook"


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of store."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def shared(server: Server, request: pytest.FixtureRequest) -> str:
    """An account of the test's own."""
    return f"{server.url}?account={request.node.name}"


@asynccontextmanager
async def sessions(sim: Simulator, shared: str, count: int = 2, **changes: Any) -> AsyncIterator[list[Session]]:
    async with AsyncExitStack() as stack:
        made = [Session(settings(sim, shared=shared, **changes)) for _ in range(count)]
        yield [await stack.enter_async_context(one) for one in made]


async def within(reached: Any) -> None:
    """Wait for something that takes as long as a store may."""
    with anyio.fail_after(30):
        while not reached():
            await anyio.sleep(0.005)


def ready(operation: Operation[Any]) -> Operation[Any]:
    """Make what a webhook tells: the service itself does not know it yet, so that no poll can be where it came from."""
    output = {"url": "https://cdn.example/a.flac?sig=1", "duration": 0.3}
    told = {**operation.raw, "status": "ready", "output": output}
    return parse_operation(told, operation.handle, request=None).operation


def stand_still(**changes: Any) -> Simulator:
    """Make a service on which nothing ends, and polls are held for 20 s."""
    return simulate(durations=never_finishes, speed=1, **changes)


async def test_a_webhook_wakes_the_waiters_of_all(shared: str) -> None:
    """A result that one process receives reaches the waiters of the others, and later waiters."""
    async with stand_still() as sim, sessions(sim, shared, 3) as (first, second, third):
        operation = await first.submit(fx(callback_url=CALLBACK))
        async with anyio.create_task_group() as group:
            for one in (first, second):
                group.start_soon(one.wait, operation)
            await until(lambda: first.statistics().in_flight == second.statistics().in_flight == 1)
            first.deliver(ready(operation))
        with anyio.fail_after(30):
            late = await third.wait(operation.handle)
    assert late.status is Status.READY
    assert late.outputs[0].url.endswith("sig=1")
    assert late.request is not None


async def test_one_poll_serves_all(shared: str) -> None:
    """A final answer to a poll of one process wakes the waiters of the others."""
    async with stand_still() as sim, sessions(sim, shared) as (first, second):
        operation = await second.submit(fx(callback_url=CALLBACK))  # so it does not poll for a while
        async with anyio.create_task_group() as group:
            group.start_soon(second.wait, operation)
            group.start_soon(first.wait, operation.handle)
            await until(lambda: first.statistics().active_polls == 1)
            sim.finish(operation.id)
        assert second.statistics().requests == 1


async def test_a_process_that_confirms_believes_the_service_only(shared: str) -> None:
    """With ``confirm_webhooks`` what the others tell is read first; and it tells no URLs itself."""
    async with (
        stand_still() as sim,
        sessions(sim, shared, 1) as (first,),
        sessions(sim, shared, 2, confirm_webhooks=True) as (second, third),
    ):
        operation = await first.submit(fx(callback_url=CALLBACK))
        async with anyio.create_task_group() as group:
            group.start_soon(second.wait, operation)
            await until(lambda: second.statistics().in_flight == 1)
            reads = len(sim.log)
            first.deliver(ready(operation))
            await within(lambda: len(sim.log) > reads)
            await until(lambda: second.statistics().active_polls == 1)  # it was no news, and is polled from now on
            assert second.statistics().in_flight == 1
            sim.finish(operation.id)
        other = await third.submit(fx(callback_url=CALLBACK))
        async with anyio.create_task_group() as group:
            group.start_soon(first.wait, other)
            await until(lambda: first.statistics().in_flight == 1)
            sim.finish(other.id)
            third.deliver(ready(other))
        assert not first.statistics().in_flight


async def test_news_that_cannot_be_told_are_read(shared: str) -> None:
    """An operation without JSON, or with too much of it, is published by its handle, and then read from the service."""
    async with stand_still() as sim, sessions(sim, shared) as (first, second):
        for raw in ({"id": object()}, {"id": "x" * 100_000}, {}, {"id": "op_another"}, {"id": "\ud800"}):
            operation = await first.submit(fx(callback_url=CALLBACK))
            told = attrs.evolve(ready(operation), raw=raw)
            async with anyio.create_task_group() as group:
                group.start_soon(second.wait, operation)
                await until(lambda: second.statistics().in_flight == 1)
                sim.finish(operation.id)
                first.deliver(told)


async def test_a_limit_is_known_to_all(shared: str) -> None:
    """A 429 to one process closes the gate of all, and the rate is that of the account from then on."""
    async with simulate() as sim, sessions(sim, shared, 3) as all_three:
        sim.inject(Fault.RATE_LIMITED, seconds=60)
        async with anyio.create_task_group() as group:
            group.start_soon(all_three[0].submit, fx())
            await within(lambda: all(one.statistics().rate is not None for one in all_three))
            await within(lambda: all(one.statistics().paused_for > 0 for one in all_three))
            group.start_soon(all_three[1].submit, fx())
            await until(lambda: all_three[1].statistics().queued == 1)
            assert [one.statistics().rate_limited for one in all_three] == [1, 0, 0]
            assert "metered" in repr(all_three[2]._engine.shared)
            group.cancel_scope.cancel()
        assert len(sim.log) == 1


async def test_a_ceiling_is_that_of_the_account(redis: Server) -> None:
    """The lowest of the live processes counts, from the start."""
    shared = f"{redis.url}?account=ceiling"
    async with simulate() as sim, sessions(sim, shared, 1) as (first,):
        async with sessions(sim, shared, 1, limits=Limits(requests_per_second=4)) as (second,):
            assert second.statistics().rate == 4
            await within(lambda: first.statistics().rate == 4)
            started = anyio.current_time()
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon((first, second)[number % 2].submit, fx())
            assert anyio.current_time() - started > 1.4  # a second's worth goes at once
            assert second.statistics().peers == 2


async def test_before_the_first_429_no_request_asks_the_store(redis: Server) -> None:
    """There is a sign of life now and then, and nothing else."""
    async with simulate() as sim, sessions(sim, f"{redis.url}?account=free", 1) as (one,):
        client: Any = Redis.from_url(redis.url)
        before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        for _ in range(100):
            await one.submit(fx())
        after = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        await client.aclose()
        assert len(sim.operations) == 100
        assert after - before < 20


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "soundpiece_async.shared"]


async def test_a_store_that_is_killed_comes_back_empty(
    shared: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Work continues at a part of the rate, with one warning; the store gets the rate when it is back (trap 3)."""
    limits = Limits(requests_per_second=50)
    async with simulate() as sim, sessions(sim, shared, limits=limits) as both:
        first, second = both
        sim.inject(Fault.RATE_LIMITED, seconds=1)
        await first.submit(fx())
        await within(lambda: all(one.statistics().rate not in (None, 50.0) for one in both))
        rate = first.statistics().rate
        assert rate is not None
        server.kill()
        await within(lambda: all(one.statistics().store_unavailable for one in both))
        assert all((one.statistics().rate or 99) <= 50 * AWAY_SHARE for one in both)
        await second.submit(fx())
        told = warnings(caplog)
        assert len(told) == 2
        assert all("is unavailable" in text and "sesame" not in text for text in told)

        caplog.set_level(logging.INFO, "soundpiece_async.shared")
        server.start()
        await within(lambda: not any(one.statistics().store_unavailable for one in both))
        assert all((one.statistics().rate or 99) < 50 for one in both)
        assert len(warnings(caplog)) == 4
        assert "is available again" in warnings(caplog)[-1]
    assert len(sim.operations) == 2


async def test_a_store_that_stands_still_stops_nobody(
    shared: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Every request asks the store, which does not answer: after a moment work goes on without it. So does closing."""
    async with simulate() as sim, no_task_left():
        async with sessions(sim, shared, 1, limits=Limits(requests_per_second=50)) as (one,):
            server.pause()
            try:
                async with anyio.create_task_group() as group, sessions(sim, shared, 1) as (newcomer,):
                    group.start_soon(one.submit, fx())
                    assert newcomer.statistics().rate == NEWCOMER_RATE
                    assert newcomer.statistics().peers == 0
                    await newcomer.submit(fx())
                    await within(lambda: len(sim.operations) == 2)
                    assert one.statistics().store_unavailable
                    assert len(warnings(caplog)) == 2
                    assert any("has not answered yet" in text for text in warnings(caplog))
            finally:
                server.resume()
            await within(lambda: not one.statistics().store_unavailable)
            await one.submit(fx())
    assert len(warnings(caplog)) == 2


async def test_a_free_account_goes_on_without_its_store(shared: str, server: Server) -> None:
    """A process without a known limit continues as if there were no store."""
    async with simulate() as sim, sessions(sim, shared, 1) as (one,):
        server.kill()
        try:
            await within(lambda: one.statistics().store_unavailable)
            for _ in range(30):
                await one.submit(fx())
            assert one.statistics().rate is None
            operation = await one.submit(fx(callback_url=CALLBACK))
            one.deliver(ready(operation))
        finally:
            server.start()
        await within(lambda: not one.statistics().store_unavailable)
        async with sessions(sim, shared, 1) as (other,):
            with anyio.fail_after(30):  # results that could not be published are published now
                assert (await other.wait(operation)).outputs[0].url.endswith("sig=1")


async def test_what_a_store_refuses_is_warned_of_once(
    shared: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong password, and tables or a server of an old version: the process goes on, slowly."""
    old = await make_old(server)
    async with AsyncExitStack() as stack:
        if server.url.startswith("redis"):
            old = stack.enter_context(
                serve_redis("--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "")
            ).url
        for url in (re.sub("open%20sesame", "barley", shared), old):
            caplog.clear()
            async with simulate() as sim, sessions(sim, url, 1) as (one,):
                operation = await one.submit(fx())
                assert (await one.wait(operation)).status is Status.READY
                assert one.statistics().store_unavailable
                assert one.statistics().rate == NEWCOMER_RATE
            (told,) = warnings(caplog)
            assert re.fullmatch(r"the shared store has not answered yet.* at most 1/s; .*://127\.0\.0\.1.*", told)


async def make_old(server: Server) -> str:
    """Make tables as a version before ours may have had them; return how to get there."""
    if server.url.startswith("postgresql"):
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            await connection.execute("CREATE SCHEMA past")
            for table in ("gate", "news", "peer"):
                await connection.execute(f"CREATE TABLE past.soundpiece_{table} (account text PRIMARY KEY)")  # type: ignore[arg-type]
    return f"{server.url}?options=-csearch_path%3Dpast"


async def test_junk_in_the_store_stops_nobody(redis: Server) -> None:
    """Foreign values in the store: an unreadable one counts as absent."""
    shared = f"{redis.url}?account=junk"
    async with simulate() as sim, sessions(sim, shared, 1) as (one,):
        client: Any = Redis.from_url(redis.url)
        account = find_address(shared, origin="", key="").account
        await client.hset(f"soundpiece:{{{account}}}:gate", mapping={"rate": "fast", "epoch": "7", "learned": b"\xff"})
        await client.publish(f"soundpiece:{{{account}}}", b"\xff\xfe")
        await client.publish(f"soundpiece:{{{account}}}", "gate")
        await client.hset(f"soundpiece:{{{account}}}:news", "create.new_fx/op_0", "junk")
        await one.submit(fx())
        with anyio.move_on_after(0.1):
            await one.wait(Handle("create.new_fx", "op_0"))
        await client.aclose()
        assert not one.statistics().store_unavailable


async def test_a_start_that_is_cancelled_leaves_nothing(shared: str, server: Server) -> None:
    """The session waits for the store's first answer; cancelled there, it is closed."""
    async with simulate() as sim, no_task_left():
        server.pause()
        try:
            one = Session(settings(sim, shared=shared))
            with anyio.move_on_after(0.2) as scope:
                await one.start()
            assert scope.cancelled_caught
            assert "closed" in repr(one)
        finally:
            server.resume()


async def test_a_missing_extra_is_told_before_anything_is_sent(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the session is made; a session without a store does not ask for one."""
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    with pytest.raises(SharedStoreError, match=r"soundpiece-async\[postgres\]"):
        Session(settings(sim, shared="postgresql://db.example/jobs"))
    async with Session(settings(sim)) as one:
        await one.submit(fx())
        assert (one.statistics().peers, one.statistics().store_unavailable) == (0, False)


class Shelf:
    """A store of news only, which tells in which order it was asked."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.during: Any = lambda: None
        self.looking: Any = lambda: None

    async def publish(self, handle: str, body: bytes) -> None:
        """Note it."""
        self.published.append((handle, body))
        self.during()

    async def look(self, handles: Sequence[str]) -> Mapping[str, bytes]:
        """Find news of everything."""
        self.looking()
        return dict.fromkeys(handles, b"")


async def test_what_runs_shows_its_state(redis: Server) -> None:
    """As everything that lives through time does."""
    store = make_store(find_address(redis.url, origin="", key=""), peer="a")
    pace, news = SharedPace(), News(confirm=False)
    link = Link(store, pace=pace, pacer=Pacer(ceiling=None, pace=pace), news=news)
    assert re.fullmatch(r"<Link <RedisStore redis://127.*> <SharedPace away 1/s .*> <News wanted=0 .*>>", repr(link))


async def test_news_take_a_bounded_room() -> None:
    """So many operations may end while a store is away: the oldest are found by polls."""
    news, shelf = News(confirm=True), Shelf()
    operations = [
        Operation(route="x.y", id=str(n), status=Status.READY, request=None) for n in range(MAX_UNPUBLISHED + 2)
    ]
    for operation in operations:
        news.publish(operation)
    assert repr(news) == f"<News wanted=0 sought=0 unpublished={MAX_UNPUBLISHED}>"
    async with anyio.create_task_group() as group:
        group.start_soon(news.serve, shelf)
        await within(lambda: len(shelf.published) == MAX_UNPUBLISHED)
        group.cancel_scope.cancel()
    assert shelf.published[0] == ("x.y/2", b"")


async def test_news_change_while_the_store_is_asked() -> None:
    """Results that arrive meanwhile are published, too; waiters that have left are not woken."""
    news, shelf = News(confirm=False), Shelf()
    handle = Handle("x.y", "1")
    first, second = (Operation(route="x.y", id="1", status=Status.READY, request=None, raw={"id": n}) for n in "12")
    news.subscribe(handle, read_first=True)

    def change() -> None:
        shelf.during = lambda: None
        news.publish(second)

    shelf.during, shelf.looking = change, lambda: news.unsubscribe(handle)
    news.publish(first)
    async with anyio.create_task_group() as group:
        group.start_soon(news.serve, shelf)
        await within(lambda: len(shelf.published) == 2)
        news.publish(first)
        await within(lambda: len(shelf.published) == 3)
        group.cancel_scope.cancel()
    assert [body for _, body in shelf.published] == [b'{"id":"1"}', b'{"id":"2"}', b'{"id":"1"}']
    assert not news._found


async def test_news_that_come_too_late_change_nothing(redis: Server) -> None:
    """The waiter left in the moment in which they arrived."""
    async with simulate() as sim, sessions(sim, f"{redis.url}?account=late", 1) as (one,):
        news = one._engine.poller._news
        assert news is not None
        news._receive(Handle("create.new_fx", "op_1"), b"{}")
        await until(lambda: not news._found)
        await one.submit(fx())

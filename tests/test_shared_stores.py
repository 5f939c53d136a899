"""The stores of the shared gate and news: each does what ``AccountGate`` does, and loses nothing but time."""

import json
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import anyio
import psycopg
import pytest
from helpers.database_servers import PASSWORD, Server
from helpers.tracebacks import find
from redis.asyncio import Redis

from soundpiece_async import SharedStoreError
from soundpiece_async._core.rate_control import LearnedRate
from soundpiece_async._core.shared_gate import (
    AccountGate,
    Action,
    GateState,
    Heartbeat,
    Report,
    Reserve,
    Tune,
    make_tuning,
)
from soundpiece_async._shared import opening
from soundpiece_async._shared import store as stores
from soundpiece_async._shared.link import Link
from soundpiece_async._shared.opening import demand_driver, make_store
from soundpiece_async._shared.store import GATE, Store, find_address

pytestmark = pytest.mark.anyio

SLOW = 0.01  # permits per second: beside 100 s, what a busy machine takes does not count
LEARNED = json.dumps(LearnedRate.settle_at(SLOW).state)


@pytest.fixture(params=["redis", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of each server, and an account of the test's own."""
    server: Server = request.getfixturevalue(request.param)
    return f"{server.url}?account={request.node.name}"


@pytest.fixture
async def pair(url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two processes at one account."""
    address = find_address(url, origin="", key="")
    both = make_store(address, peer="a"), make_store(address, peer="b")
    for one in both:
        await one.open()
    yield both
    for one in both:
        await one.close()


def roughly(seen: GateState) -> dict[str, Any]:
    """Return what two stores must agree on; seconds to a tenth of those that a permit takes."""
    times = {name: round(getattr(seen, name) / 10) for name in ("closed", "wait")}
    names = ("rate", "ceiling", "epoch", "version", "spent", "learned", "peers", "chosen")
    return {**{name: getattr(seen, name) for name in names}, **times}


SCRIPT: list[tuple[str, Action]] = [
    ("a", Heartbeat(None)),
    ("a", Reserve(1, 0.0)),
    ("b", Heartbeat(7.5)),
    ("b", Reserve(2, 0.0)),
    ("a", Heartbeat(None)),
    ("b", Heartbeat(None)),
    ("a", Reserve(1, 0.0)),
    ("a", Report(0, 1_000.0)),
    ("b", Report(0, 500.0)),
    ("b", Report(0, 2_000.0)),
    ("b", Reserve(1, 0.0)),
    ("a", Tune(0, 0, SLOW, LEARNED)),
    ("b", Tune(0, 0, 99.0, "{}")),
    ("a", Reserve(1, 0.0)),
    ("b", Reserve(1, 0.0)),
    ("b", Reserve(3, 9_000.0)),
    ("a", Reserve(1, 0.0)),
    ("a", Tune(1, 3, SLOW / 2, LEARNED)),
    ("a", Reserve(1, 0.0)),
    ("b", Reserve(60, 0.0)),
    ("b", Reserve(1, 0.0)),
    ("b", Report(1, 1.0)),
    ("a", Heartbeat(SLOW / 4)),
    ("b", Reserve(1, 0.0)),
    ("a", Report(9, 1.0)),
]


async def test_each_does_what_the_model_does(pair: tuple[Store, Store]) -> None:
    """Every question has the answer that ``AccountGate`` gives; of one epoch one report is chosen (trap 2)."""
    model = AccountGate()
    for number, (peer, action) in enumerate(SCRIPT):
        expected = model.perform(action, peer=peer, now=1e9)
        told = await pair[peer == "b"].perform(action)
        assert (number, roughly(told)) == (number, roughly(expected))
    assert model.epoch == 2


async def test_one_of_many_is_chosen(pair: tuple[Store, Store]) -> None:
    """Trap 2: of ten reports of one burst, at the same time, one is a cut; of ten tunings one counts."""
    for one in (*pair, pair[0]):
        await one.perform(Heartbeat(None))
    answers: list[GateState] = []

    async def perform(one: Store, action: Action) -> None:
        answers.append(await one.perform(action))

    for action in (Report(0, 1_000.0), Tune(0, 0, SLOW, LEARNED), Reserve(1, 1.0)):
        answers.clear()
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(perform, pair[number % 2], action)
        assert [one.chosen for one in answers].count(True) == 1
    assert sorted(round(one.wait / 100) for one in answers) == list(range(10, 20))


async def test_permits_are_saved_for_a_second(pair: tuple[Store, Store]) -> None:
    """After a rest as many go at once as a second has, and no more."""
    await pair[0].perform(Heartbeat(None))
    await pair[0].perform(Tune(0, 0, 5.0, LEARNED))
    answers = [await pair[number % 2].perform(Reserve(1, 0.0)) for number in range(12)]

    assert [one.wait for one in answers[:5]] == [0.0] * 5
    assert answers[-1].wait > 0


async def test_a_clock_that_steps_back_stops_nobody(pair: tuple[Store, Store]) -> None:
    """Trap 5: what was written by a clock of tomorrow is cut to what live processes can have reserved."""
    await pair[0].perform(Heartbeat(None))
    await pair[0].perform(Tune(0, 0, 10.0, LEARNED))
    for _ in range(4):  # as far ahead as another clock would have it
        await pair[0].perform(Reserve(64, 0.0))
    await pair[0].perform(Report(7, 5.0))

    taken = await pair[1].perform(Reserve(1, 0.0))

    assert taken.wait <= taken.closed + 0.2


async def test_news_are_kept_and_told(pair: tuple[Store, Store]) -> None:
    """A listening process is notified of an operation; later readers get the latest result, byte by byte."""
    first, second = pair
    await first.publish("create.new_fx/op_1", b"\0{}\xff")
    await first.publish("create.new_fx/op_1", b"{}")
    await first.publish("create.new_fx/op_2", b"")

    assert [await second.next_message() for _ in range(3)] == [*["create.new_fx/op_1"] * 2, "create.new_fx/op_2"]
    asked = ["create.new_fx/op_1", "create.new_fx/op_2", "create.new_fx/op_3"]
    assert await second.look(asked) == {"create.new_fx/op_1": b"{}", "create.new_fx/op_2": b""}


@pytest.mark.parametrize("bound", ["number", "age"])
async def test_news_take_a_bounded_room(url: str, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go when there are too many, and when they are too old."""
    kept = {"number": ("NEWS_KEPT", 3), "age": ("NEWS_SECONDS", 0)}[bound]
    for module in ("redis_store", "postgres_store"):
        monkeypatch.delitem(sys.modules, f"soundpiece_async._shared.{module}", raising=False)
    monkeypatch.setattr(stores, *kept)
    one = make_store(find_address(url, origin="", key=""), peer="a")
    await one.open()
    try:
        names = [f"create.new_fx/op_{number}" for number in range(9)]
        for name in names:
            await one.publish(name, b"{}")
        await one.perform(Heartbeat(None))
        await one.perform(Heartbeat(None))
        assert list(await one.look(names)) in (names[-3:], names[-4:], [])
    finally:
        await one.close()


async def test_the_gate_is_told_of_once(pair: tuple[Store, Store]) -> None:
    """A 429 that changes something is a message to all, and so is the first rate; growth sends no message."""
    first, second = pair
    await first.perform(Heartbeat(None))
    await first.perform(Report(0, 100.0))
    await first.perform(Report(0, 50.0))
    seen = await first.perform(Tune(0, 0, SLOW, LEARNED))
    await first.perform(make_tuning(seen, lower=False))
    await first.publish("x.y/z", b"")

    assert [await second.next_message() for _ in range(3)] == [GATE, GATE, "x.y/z"]


async def test_a_process_that_departs_counts_no_more(pair: tuple[Store, Store]) -> None:
    """It says so when it ends, so that the others need not wait for it to be forgotten."""
    first, second = pair
    await first.perform(Heartbeat(3.0))
    assert (await second.perform(Heartbeat(None))).peers == 2
    await first.depart()
    seen = await second.perform(Heartbeat(None))
    assert (seen.peers, seen.ceiling) == (1, None)


async def test_a_store_answers_in_time_or_not_at_all(url: str, request: pytest.FixtureRequest) -> None:
    """A server that stands still is an error after ``TIMEOUT``, for the question and for a new connection."""
    server: Server = request.getfixturevalue("redis" if url.startswith("redis") else "postgres")
    one = make_store(find_address(url, origin="", key=""), peer="a")
    await one.open()
    await one.perform(Heartbeat(None))
    server.pause()
    try:
        with anyio.fail_after(30):
            with pytest.raises(SharedStoreError):
                await one.perform(Heartbeat(None))
            await one.close()
    finally:
        server.resume()
    await one.open()
    assert (await one.perform(Heartbeat(None))).peers == 1
    await one.close()
    assert repr(one).endswith(">")


@pytest.mark.parametrize("wrong", ["password", "quoting", "port", "name", "member"])
async def test_what_is_wrong_is_said_without_the_password(url: str, wrong: str) -> None:
    """A refused or misquoted password, a port or database that is not there, and what the driver does not know."""
    changed = {
        "password": url.replace("open%20sesame", "open%20barley"),
        "quoting": url.replace("open%20sesame", "open%barley"),
        "port": re.sub(r":\d+/", ":1/", url),
        "name": url.replace("/0?", "/999?").replace("/postgres?", "/nowhere?"),
        "member": f"{url}&odd=1",
    }[wrong]
    one = make_store(find_address(changed, origin="", key=""), peer="a")
    with pytest.raises(SharedStoreError, match=r"^(redis|postgresql)://127\.0\.0\.1") as caught:
        await one.open()
        await one.perform(Heartbeat(None))
    assert not any(find(caught.value, secret) for secret in (PASSWORD, "sesame", "barley"))
    await one.close()


@pytest.mark.parametrize("action", [Heartbeat(None), Reserve(1, 0.0), Report(0, 1.0), Tune(0, 0, SLOW, LEARNED)])
async def test_an_account_that_nobody_knows_is_made(pair: tuple[Store, Store], action: Action) -> None:
    """A store may be emptied under an open connection: each question is answered as if it was the first."""
    seen = await pair[0].perform(action)
    assert seen.version == isinstance(action, Tune)
    assert seen.epoch == isinstance(action, Report)
    assert seen.rate == (SLOW if isinstance(action, Tune) else None)


async def test_a_listener_that_is_cut_off_says_so(url: str) -> None:
    """A connection that listens, and is closed by the server, ends in an error, and not in silence."""
    address = find_address(url, origin="", key="")
    one = make_store(address, peer="a")
    await one.open()
    await cut(url, address.account)
    with anyio.fail_after(30):
        with pytest.raises(SharedStoreError):
            await one.next_message()
        if url.startswith("postgresql"):  # Redis's driver would connect again
            with pytest.raises(SharedStoreError, match="was closed"):
                await one.next_message()
    await one.close()
    await one.close()


async def cut(url: str, account: str) -> None:
    """End every connection that listens."""
    if url.startswith("redis"):
        client: Any = Redis.from_url(url.partition("?")[0])
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await client.aclose()
        return
    async with await psycopg.AsyncConnection.connect(url.partition("?")[0]) as connection:
        text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s"
        await connection.execute(text, [f"LISTEN soundpiece_{account}"])


def test_an_account_is_its_origin_and_key_or_its_name() -> None:
    """Neither the key nor the password stands in a name or a repr; the driver does not see our own parameter."""
    one = find_address("redis://u:pw@h/0?account=band&ssl_cert_reqs=none", origin="https://a", key="spk_1")
    other = find_address("redis://h/0?account=band", origin="https://b", key="spk_2")
    bare = [find_address("redis://h/0", origin="https://a", key=key) for key in ("spk_1", "spk_2")]

    assert one.account == other.account
    assert len({one.account, *(address.account for address in bare)}) == 3
    assert one.url == "redis://u:pw@h/0?ssl_cert_reqs=none"
    assert (str(one), one.scheme) == ("redis://h/0?…", "redis")
    assert "pw" not in repr(one)


@pytest.mark.parametrize(("url", "extra"), [("rediss://:pw@h/0", "redis"), ("postgres://u:pw@h/d", "postgres")])
def test_a_missing_extra_is_told_by_name(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is opened, and without the password."""
    demand_driver(url)
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    with pytest.raises(SharedStoreError, match=rf"extra '{extra}'.*soundpiece-async\[{extra}\]") as caught:
        demand_driver(url)
    assert "pw" not in str(caught.value)


PAUSED = """
import asyncio, sys
from soundpiece_async._core.shared_gate import Heartbeat, Report, Reserve
from soundpiece_async._shared.opening import make_store
from soundpiece_async._shared.store import find_address

async def main():
    one = make_store(find_address(sys.argv[1], origin="", key=""), peer="paused")
    await one.open()
    while True:
        await one.perform(Heartbeat(50.0))
        print("asked", flush=True)
        for _ in range(5):
            await one.perform(Reserve(1, 0.0))
            await one.perform(Report(99, 0.001))

asyncio.run(main())
"""


async def test_a_process_that_stands_still_holds_up_nobody(url: str) -> None:
    """Trap 4: whenever a process is paused, it holds no lock that another one's question waits for."""
    command = [sys.executable, "-c", PAUSED, url]
    async with await anyio.open_process(command, stderr=None) as process:
        other = make_store(find_address(url, origin="", key=""), peer="b")
        try:
            await other.open()
            assert process.stdout is not None
            for _ in range(4):
                await process.stdout.receive()
                process.send_signal(signal.SIGSTOP)
                for action in (Heartbeat(None), Reserve(1, 0.0), Report(99, 0.001)):
                    await other.perform(action)  # or it is an error, after ``TIMEOUT``
                process.send_signal(signal.SIGCONT)
        finally:
            process.kill()
            await other.close()


def test_what_a_driver_says_names_the_store() -> None:
    """An address without a password has none to hide."""
    address = find_address("redis://localhost/0", origin="", key="")
    assert address.describe(OSError("no route")) == "redis://localhost/0: no route"


async def test_a_store_that_is_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """What it was asked before it went away is asked again, at INFO."""
    sought: list[int] = []
    news = SimpleNamespace(seek_all=lambda: sought.append(1))
    link = Link(cast("Any", "the store"), pace=cast("Any", None), pacer=cast("Any", None), news=cast("Any", news))
    with caplog.at_level(logging.INFO, "soundpiece_async"):
        link._greet()
        assert not caplog.records
        link._greet()
    assert caplog.messages == ["'the store' is available again"]
    assert sought == [1, 1]


async def test_a_store_that_stays_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each further attempt fails in silence."""
    pace = SimpleNamespace(away=False, rate=None, lose=lambda _, jitter: setattr(pace, "away", jitter < 1))
    pacer = SimpleNamespace(wake=lambda: None)
    link = Link(cast("Any", "the store"), pace=cast("Any", pace), pacer=cast("Any", pacer), news=cast("Any", None))
    for _ in range(3):
        link._lose(SharedStoreError("no route"))
        link._tried.set()
    assert len(caplog.messages) == 1

"""Kept connections: one that its host has closed is not used, or costs one attempt without a pause."""

import asyncio
import logging
import math
import select
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import anyio
import pytest
from helpers.closing_proxy import ClosingProxy
from helpers.simulation import settings

from soundpiece_async import NewFx, Session, Succeeded
from soundpiece_async._http import connections
from soundpiece_async._http.connections import Connector, Response, StaleConnection
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=Connector(limit=0), response_class=Response) as session:
        yield session


class HangingUp:
    """A server in a thread that answers each connection once, and closes it at once."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}/"

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        for _ in range(2):
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            self.closed.set()


async def fetch(pool: aiohttp.ClientSession, url: str) -> None:
    async with pool.get(url) as response:
        await response.read()


def connector(pool: aiohttp.ClientSession) -> Connector:
    assert isinstance(pool.connector, Connector)
    return pool.connector


async def test_hundreds_of_requests_to_a_server_that_closes_soon(
    sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Between 5 and 20 ms after each answer: nothing fails, and the service is not taken for one that is down."""
    caplog.set_level(logging.INFO)
    async with ClosingProxy(sim.url) as proxy, Session(settings(sim, base_url=proxy.url)) as session:
        wishes = [NewFx(f"door {n}", duration=0.1) for n in range(160)]
        async with session.run_many(wishes, save_to=tmp_path) as results:
            assert {type(result) async for result in results} == {Succeeded}
    assert len(sim.operations) == 160
    assert "one at a time" not in caplog.text
    assert caplog.text.count("retrying in") < 16


async def test_a_connection_closed_as_it_is_used_costs_no_pause(
    sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here every kept one is: submits and polls go on at once, with the same key, and the gate stays open."""
    caplog.set_level(logging.INFO)
    async with ClosingProxy(sim.url, after=None) as proxy, Session(settings(sim, base_url=proxy.url)) as session:
        for number in range(5):
            await session.run(NewFx(f"door {number}", duration=0.1), save_to=tmp_path)
    assert len(sim.operations) == 5
    pauses = [record.args[1] for record in caplog.records if "retrying in" in record.msg and record.args]
    assert set(pauses) <= {0.0}
    assert "the poll is retried later" not in caplog.text
    assert "one at a time" not in caplog.text


@pytest.mark.parametrize("poll", [True, False])
async def test_a_closed_connection_is_noticed_before_it_is_used(
    pool: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, *, poll: bool
) -> None:
    """Although the event loop has not heard of it: it was busy meanwhile."""
    if not poll:
        monkeypatch.delattr(select, "poll")
    server = HangingUp()
    with server as url:
        await fetch(pool, url)
        assert server.closed.wait(30)  # the loop is kept from hearing of it
        await fetch(pool, url)
    assert connector(pool).patience == math.inf


async def test_how_long_a_host_keeps_connections_is_learned(sim: Simulator, pool: aiohttp.ClientSession) -> None:
    """What broke after some time of idling is a bound for the next; each that is well raises it."""
    async with ClosingProxy(sim.url, after=None) as proxy:
        await fetch(pool, proxy.url)
        await anyio.sleep(0.05)
        with pytest.raises(StaleConnection):
            await fetch(pool, proxy.url)
        learned = connector(pool).patience
        assert 0.02 < learned < math.inf
        await fetch(pool, proxy.url)
        await anyio.sleep(2 * learned)
        before = proxy.connections
        await fetch(pool, proxy.url)  # another connection: the kept one has idled too long
        assert proxy.connections == before + 1
    await fetch(pool, sim.url)
    await fetch(pool, sim.url)
    assert connector(pool).patience > learned


async def test_idle_connections_are_given_up(sim: Simulator, pool: aiohttp.ClientSession) -> None:
    """They are closed, and none of them is used again."""
    async with ClosingProxy(sim.url, after=None) as proxy:
        await fetch(pool, proxy.url)
        connector(pool).close_idle()
        await fetch(pool, proxy.url)
        assert proxy.connections == 2


async def test_a_host_that_never_answers_is_no_stale_connection(pool: aiohttp.ClientSession) -> None:
    """A fresh connection that is closed is a failed attempt like any other."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            await fetch(pool, f"http://{host}:{port}")
    assert not isinstance(caught.value, StaleConnection)


async def test_a_connection_of_another_pool_is_like_any_other(sim: Simulator) -> None:
    """Nothing is known of it, so it is never stale; without a socket, one cannot be used again."""
    async with aiohttp.ClientSession(response_class=Response) as pool:
        await fetch(pool, sim.url)
    assert connections._is_readable(SimpleNamespace(transport=None))  # type: ignore[arg-type]

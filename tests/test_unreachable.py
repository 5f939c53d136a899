import asyncio
import logging
import ssl
from functools import partial
from pathlib import Path

import anyio
import pytest
from aiohttp import http_parser
from helpers.idle import opened, until
from helpers.network_faults import answer, hang_up
from helpers.ports import reserved_port
from helpers.raw_api import KEY, RawApi, http, raw_settings
from helpers.sample_requests import fx

from soundpiece_async import (
    Failed,
    Handle,
    Timeouts,
    TransportError,
    WaitTimeout,
)
from soundpiece_async._core.attempts import Health

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "short_pauses")]

CERTIFICATE = Path(__file__).parent / "data" / "self-signed.pem"
NOBODY = "http://127.0.0.1:9"
OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n"


settings = partial(raw_settings, elapsed=300.0, timeouts=Timeouts(connect=2, submit=2, poll=2, read=2))


def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


UNREADABLE = {
    "a long header": (f"{OK}X: {'x' * 9000}\r\n\r\n{{}}", "Got more than 8190 bytes"),
    "zstd": (f"{OK}Content-Encoding: zstd\r\n\r\n(\xb5", "the body is encoded (zstd)"),
    "no gzip": (f"{OK}Content-Encoding: gzip\r\n\r\n\xff\xff", "the body is not encoded as its header says"),
    "two lengths": (f"{OK}Content-Length: 3\r\n\r\n{{}}", "Content-Length"),
    "length and chunks": (f"{OK}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Content-Length"),
    "a bad chunk": ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
    "SSH": ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "SSH-2.0"),
    "the key": (f"HTTP/1.1 200 OK\r\nX {KEY}: y\r\n\r\n", "Invalid"),
    "a signed URL": ("HTTP/1.1 200 OK\r\nLocation https://x.example/?sig=SECRET: y\r\n\r\n", "Invalid"),
}


# our oldest aiohttp reads zstd as if it were not packed: no JSON
@pytest.mark.parametrize("name", [name for name in UNREADABLE if name != "zstd" or hasattr(http_parser, "HAS_ZSTD")])
async def test_what_cannot_be_read_is_said_and_not_tried_for_minutes(name: str) -> None:
    """The reason, without secrets; three answers alike are enough, also where the session has reached the service."""
    reply, told = UNREADABLE[name]
    async with RawApi() as api, opened(settings(api.url)) as session:
        await session.submit(fx())
        api.always = answer(reply.encode("latin-1"))
        with anyio.fail_after(30), pytest.raises(TransportError, match="it cannot be read") as caught:
            await session.submit(fx(1))
        assert told in str(caught.value)
        assert caught.value.kind == "response"
        assert len(api.puts) == 4
        assert KEY not in str(caught.value)
        assert "SECRET" not in str(caught.value)
        assert not caught.value.stops_run


async def test_an_unreadable_answer_in_between_does_no_harm() -> None:
    """It counts in a row only."""
    odd = answer(UNREADABLE["SSH"][0].encode())
    async with RawApi(odd, odd, hang_up, odd, odd) as api, opened(settings(api.url)) as session:
        assert (await session.submit(fx())).id in api.created.values()
        assert len(set(api.puts)) == 1


async def test_a_wrong_name_ends_a_submit_at_once(nowhere: str) -> None:
    """As long as no connection has worked it is a setting that is wrong; no minutes of silence."""
    async with opened(settings(nowhere)) as session:
        for call in (session.submit(fx()), session.refresh(Handle("create.new_fx", "op_1"))):
            with (
                anyio.fail_after(30),
                pytest.raises(TransportError, match=r"nobody\.invalid:443: name not found") as caught,
            ):
                await call
            assert (caught.value.kind, caught.value.sent, caught.value.stops_run) == ("address", False, True)


async def test_a_wrong_certificate_ends_a_submit_at_once() -> None:
    """Nothing is sent over a connection nobody vouches for."""
    async with RawApi(tls=tls()) as api, opened(settings(api.url)) as session:
        with anyio.fail_after(30), pytest.raises(TransportError, match="its certificate is not trusted: self-signed"):
            await session.submit(fx())
        assert api.requests == []


async def test_a_server_without_tls_ends_a_submit_at_once() -> None:
    """It answers the handshake with HTTP, as servers do."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(http(b"", status="400 Bad Request"))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        async with opened(settings(f"https://127.0.0.1:{port}")) as session:
            with anyio.fail_after(30), pytest.raises(TransportError, match="the server does not use TLS"):
                await session.submit(fx())
        group.cancel_scope.cancel()


async def test_a_server_with_tls_is_told_from_one_without() -> None:
    """An alert instead of an answer: the base URL says http and means https."""
    async with RawApi() as api, opened(settings(api.url)) as session:
        api.always = answer(b"\x15\x03\x03\x00\x02\x02\x46\r\n\r\n")
        with anyio.fail_after(30), pytest.raises(TransportError, match="the server uses TLS"):
            await session.submit(fx())
        assert len(api.requests) == 1


async def test_a_refused_connection_is_tried_for_a_shorter_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute as long as none has worked (here: half a second)."""
    monkeypatch.setattr("soundpiece_async._core.attempts.UNREACHED_SECONDS", 0.5)
    async with opened(settings(NOBODY)) as session:
        with anyio.fail_after(30), pytest.raises(TransportError, match=r"127\.0\.0\.1:9: connection refused") as caught:
            await session.submit(fx())
    assert caught.value.stops_run


async def test_silence_is_told_while_a_program_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Polls never end for want of a connection, so a WARNING says why nothing comes; once."""
    async with opened(settings(NOBODY)) as session:
        session._engine.poller._scheduler._timing.hold = 0.2
        with pytest.raises(WaitTimeout):
            await session.wait(Handle("create.new_fx", "op_1"), timeout=0.5)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "connection refused" in told[0]
    assert "op_1" in told[0]


async def test_a_port_that_takes_connections_and_never_answers_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the timeout of the attempt, and once for all that wait; not where something has answered before."""
    monkeypatch.setattr("soundpiece_async._transport.NO_RESPONSE_SECONDS", 0.05)
    monkeypatch.setattr("soundpiece_async._transport.HOLD_SECONDS", 0.05)
    silent = asyncio.Event()

    async def wait(*_: object) -> None:
        await silent.wait()

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    waited: list[bool] = []
    record = Health.wait

    def count(health: Health) -> bool:
        waited.append(record(health))
        return waited[-1]

    monkeypatch.setattr(Health, "wait", count)
    for ask in (lambda s: s.submit(fx()), lambda s: s.wait(Handle("create.new_fx", "op_1"))):
        caplog.clear()
        waited.clear()
        async with RawApi() as api, opened(settings(api.url)) as session:
            api.always = wait
            async with anyio.create_task_group() as group:
                group.start_soon(ask, session)
                group.start_soon(session.submit, fx(1))
                group.start_soon(session.wait, Handle("create.new_fx", "op_2"))
                await until(lambda: len(waited) >= 2)  # of the three, one PUT and one GET have a timer
                silent.set()
                api.always = None
                group.cancel_scope.cancel()
            silent.clear()
            assert len(told()) == 1
            assert "no response from the service yet: " in told()[0]
            assert api.url in told()[0]


async def test_silence_is_told_though_the_first_to_wait_has_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one waits on."""
    monkeypatch.setattr("soundpiece_async._transport.NO_RESPONSE_SECONDS", 0.3)
    silent = asyncio.Event()

    async def wait(*_: object) -> None:
        await silent.wait()

    async with RawApi() as api, opened(settings(api.url)) as session:
        api.always = wait
        first = asyncio.create_task(session.submit(fx()))
        await until(lambda: len(api.requests) == 1)
        second = asyncio.create_task(session.submit(fx(1)))
        await until(lambda: len(api.requests) == 2)
        first.cancel()
        await until(lambda: "no response from the service yet" in caplog.text)
        second.cancel()
        await asyncio.wait([first, second])
        assert session._engine.transport._waiting.total() == 0
        assert not session._engine.transport._warnings
        silent.set()


async def test_a_port_that_hangs_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A drop is common; two before anything has ever answered are a WARNING."""
    async with RawApi() as api, opened(settings(api.url, elapsed=1)) as session:
        api.always = hang_up
        with pytest.raises(TransportError):
            await session.submit(fx())
    assert sum("no response from the service yet" in record.getMessage() for record in caplog.records) == 1


async def test_a_service_that_was_reached_is_waited_for() -> None:
    """Once a connection has worked a refused one is an outage, and outages pass."""
    with reserved_port() as port:
        async with opened(settings(f"http://127.0.0.1:{port}")) as session:
            async with RawApi(port=port):
                await session.submit(fx())
            waiting = asyncio.create_task(session.submit(fx(1)))
            await until(lambda: "refused" in session._engine.transport.health.latest)
            async with RawApi(port=port) as back:
                assert (await waiting).id in back.created.values()


async def test_a_run_ends_where_nobody_ever_answers(nowhere: str) -> None:
    """One name that does not exist is enough: the others of a run are not tried one by one."""
    async with opened(settings(nowhere)) as session:
        with anyio.fail_after(30):
            async with session.run_many([fx(number) for number in range(300)]) as results:
                done = [result async for result in results]
    assert len(done) == 300
    assert all(isinstance(result, Failed) and "name not found" in str(result.error) for result in done)
    assert session._engine.transport.pacer.sent <= 32

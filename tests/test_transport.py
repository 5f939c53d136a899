import asyncio
import contextlib
import copy
import json
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest
from helpers.idle import until
from helpers.sample_requests import fx
from helpers.scripted_http import LOST, respond, scripted
from helpers.scripted_http import settings as scripted_settings
from helpers.simulation import settings, simulate
from multidict import CIMultiDict

from soundpiece_async import (
    ApiError,
    BadRequest,
    DecodeError,
    Handle,
    InsufficientCredits,
    Limits,
    RetryPolicy,
    ServerError,
    Session,
    Settings,
    Timeouts,
    TransportError,
)
from soundpiece_async._core import wire
from soundpiece_async._core.gate import Priority
from soundpiece_async._core.wire import ApiRequest, ApiResponse
from soundpiece_async._http.client import HttpClient, ResponseHeaders
from soundpiece_async._transport import LARGE_RESPONSE, Transport
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Serve these very bytes to every connection, and give the URL."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
                await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        yield f"http://127.0.0.1:{port}"
        group.cancel_scope.cancel()


def http(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n".encode() + body


IMPATIENT = {
    "retries": RetryPolicy(submit_max_elapsed=0),
    "timeouts": Timeouts(connect=2, submit=0.8, poll=0.8, read=0.8),
}


@pytest.mark.parametrize(
    "failure",
    [
        respond({"detail": "oops"}, status=500),
        respond(status=502, body=b"<html>bad gateway</html>"),
        respond(status=504, body=b"<html>gateway timeout</html>"),
        respond(body=b'{"fx": {"id": "op_'),
        LOST,
        30.0,
    ],
    ids=["500", "502", "504", "cut", "lost", "stalled"],
)
@pytest.mark.usefixtures("short_pauses")
async def test_a_submit_is_repeated_with_the_same_bytes(failure: ApiResponse | Exception | float) -> None:
    """Whatever loses the answer, the same key and body go again, and one operation is made."""
    with scripted(failure, failure) as http:
        async with Session(scripted_settings(timeouts=Timeouts(submit=0.3))) as session:
            operation = await session.submit(fx())
    assert len(http.puts) == 3
    assert len(set(http.puts)) == 1
    assert list(http.created.values()) == [operation.id]


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 409, 413, 418])
async def test_a_refusal_is_never_repeated(status: int) -> None:
    """Other 4xx say no, and mean it."""
    with scripted(respond({"detail": "no"}, status=status)) as http:
        async with Session(scripted_settings()) as session:
            with pytest.raises(ApiError) as caught:
                await session.submit(fx())
    assert caught.value.status == status
    assert not caught.value.retryable
    assert len(http.calls) == 1


async def test_the_budget_ends_the_trying_and_the_object_can_go_again() -> None:
    """After ``submit_max_elapsed`` the last error is raised; the same object is still the same piece of work."""
    with scripted(respond({"detail": "oops"}, status=500)) as http:
        async with Session(scripted_settings(retries=RetryPolicy(submit_max_elapsed=0))) as session:
            request = fx()
            with pytest.raises(ServerError, match=request.idempotency_key) as caught:
                await session.submit(request)
            assert "gave up after 1 attempt;" in caught.value.__notes__[0]
            await session.submit(request)
    assert len(http.puts) == 2
    assert len(set(http.puts)) == 1


async def test_waiting_for_the_rate_limit_uses_up_no_budget() -> None:
    """A 429 is waited out, however small the budget and the attempt timeout are."""
    with scripted(respond({"detail": "slow down"}, status=429, retry_after="1")) as http:
        async with Session(scripted_settings(**IMPATIENT)) as session:
            await session.submit(fx())
            assert session.statistics().rate_limited == 1
    assert len(http.puts) == 2
    assert len(set(http.puts)) == 1


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (http(b"<html>busy</html>", headers="Content-Type: text/html\r\n"), TransportError, "not JSON"),
        (http(b'{"fx": {"id": "op_'), TransportError, "not JSON"),
        (http(b"[]"), DecodeError, "no operation"),
        (http(b"null"), DecodeError, "expected a JSON object"),
        (http(b"{}"), DecodeError, "no operation"),
        (http(b'{"fx": {"status": "processing"}}'), DecodeError, "id|no operation"),
        (http(b""), TransportError, "not JSON"),
        (http(b"moved", status="307 Temporary", headers="Location: https://evil.example/\r\n"), ApiError, "redirect"),
        (http(b'{"detail": "no"}', status="400 Bad"), BadRequest, "no"),
        (http(b'{"detail": {"credits": 0}}', status="402 Pay"), InsufficientCredits, "top up"),
        (http(b"", status="503 Busy"), ServerError, "503"),
        (b"", TransportError, "no usable response"),
        (b"rubbish\r\n\r\n", TransportError, "no usable response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", TransportError, "no usable response"),
    ],
)
async def test_everything_the_network_can_say_is_one_of_our_errors(
    sim: Simulator, answer: bytes, error: type[Exception], told: str
) -> None:
    """HTML, half a JSON, the wrong shape, redirects, nothing at all: never a foreign exception."""
    async with answering(answer) as url, Session(settings(sim, base_url=url, **IMPATIENT)) as session:
        with pytest.raises(error, match=told) as caught:
            await session.submit(fx())
        assert "create.new_fx" in str(caught.value)


async def test_a_key_that_comes_back_is_scrubbed(sim: Simulator) -> None:
    """A server, or a proxy, that repeats the key in a body or a header does not get it into an exception."""
    body = f'{{"detail": "bad key {sim.api_key}"}}'.encode()
    answer = http(body, status="401 No", headers=f"X-Echo: Bearer {sim.api_key}\r\nX-Request-Id: r-7\r\n")
    async with answering(answer) as url, Session(settings(sim, base_url=url)) as session:
        with pytest.raises(ApiError, match="r-7") as caught:
            await session.submit(fx())
    shown = f"{caught.value!r} {caught.value.body} {caught.value.detail} {dict(caught.value.headers)}"
    assert "bad key spk_…" in shown
    assert sim.api_key not in shown


async def test_nobody_there_is_a_transport_error(sim: Simulator, nowhere: str) -> None:
    """Refused connections and names that do not resolve."""
    for url in ("http://127.0.0.1:9", nowhere):
        async with Session(settings(sim, base_url=url, **IMPATIENT)) as session:
            with pytest.raises(TransportError, match="no usable response"):
                await session.submit(fx())


async def test_long_polls_never_hold_up_a_submit() -> None:
    """Polls, submits and downloads have slots of their own (one pool for all was measured to stop every submit)."""
    with scripted() as http:
        http.ready = False
        async with Session(scripted_settings(limits=Limits(polls=2, submits=1))) as session:
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(session.wait, await session.submit(fx(number)))
                await until(lambda: http.open_polls > 0)
                with anyio.fail_after(30):
                    for number in range(10):
                        await session.submit(fx(10 + number))
                group.cancel_scope.cancel()
    assert http.peak_polls <= 2


async def test_requests_say_who_they_are_and_tracing_sees_them(sim: Simulator) -> None:
    """The User-Agent names us and aiohttp; ``trace_configs`` is aiohttp's own hook for instrumentation."""
    seen: list[str] = []
    trace = aiohttp.TraceConfig()

    async def start(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.method)

    trace.on_request_start.append(start)
    async with Session(settings(sim), trace_configs=[trace]) as session:
        await session.run(fx())
    assert sim.log[0].user_agent == f"soundpiece-async/0.1.0 aiohttp/{aiohttp.__version__}"
    assert seen[0] == "PUT"
    assert len(seen) == len(sim.log)


@pytest.mark.usefixtures("short_pauses")
async def test_the_services_clock_is_read_from_its_answers() -> None:
    """A local clock that is an hour off does not spoil ages and expiry times; junk in ``Date`` is ignored."""
    async with simulate(clock_skew=3600) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        assert operation.created_at is not None
        assert abs((session._engine.transport.now - operation.created_at).total_seconds()) < 5
    for date in ("Date: yesterday\r\n", "Date: Sun, 22 Nov 2026 10:00:00\r\n", ""):
        async with answering(http(b"{}", headers=date)) as url, Session(settings(sim, base_url=url)) as session:
            with pytest.raises(DecodeError):
                await session.submit(fx())


async def test_of_several_headers_of_one_name_the_last_one_counts(sim: Simulator) -> None:
    """As for downloads; a header is found whatever its case, and the error can be copied."""
    answer = http(b"{}", status="400 Bad", headers="X-Request-Id: r-7\r\nX-Request-Id: r-8\r\n")
    async with answering(answer) as url, Session(settings(sim, base_url=url)) as session:
        with pytest.raises(ApiError, match="r-8") as caught:
            await session.submit(fx())
    assert copy.deepcopy(caught.value).headers["x-request-id"] == "r-8"
    given = CIMultiDict({"X-Request-Id": "r-7", "Retry-After": "5"})
    given.add("x-request-id", "r-8")
    headers = ResponseHeaders(SimpleNamespace(headers=given))  # type: ignore[arg-type]
    assert (len(headers), headers.get("Retry-AFTER"), headers.get("date")) == (2, "5", None)
    assert repr(headers) == "<ResponseHeaders x-request-id, retry-after>"


async def test_a_response_that_is_announced_as_too_large_is_not_read(sim: Simulator) -> None:
    """Whether that is true or not: it is refused at once."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}"
    patient = {"retries": RetryPolicy(submit_max_elapsed=0), "timeouts": Timeouts(submit=600)}
    async with answering(answer) as url, Session(settings(sim, base_url=url, **patient)) as session:
        with anyio.fail_after(60), pytest.raises(TransportError, match="is larger than"):
            await session.submit(fx())


async def test_an_output_host_without_headers_is_given_up_after_the_read_timeout(sim: Simulator) -> None:
    """Not after the time for connecting, which has passed."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
    async with listener, Transport(settings(sim, timeouts=Timeouts(connect=600, read=0.1))) as transport:
        with anyio.fail_after(60), pytest.raises(TransportError, match="timed out"):
            async with transport.stream(f"http://127.0.0.1:{port}/a"):
                pytest.fail("nothing was answered")


async def test_redirects_of_the_output_host_are_followed_with_care(sim: Simulator) -> None:
    """Within http(s), a few times, never from https to http, and nowhere else."""
    async with Transport(settings(sim)) as transport:
        async with answering(http(b"fLaC")) as there:
            moved = http(b"", status="302 Found", headers=f"Location: {there}/file?sig=secret\r\n")
            async with answering(moved) as here, transport.stream(f"{here}/a?sig=secret") as stream:
                assert b"".join([block async for block in stream.blocks]) == b"fLaC"
        for target in ("ftp://x.example/a?sig=secret", "/again?sig=secret"):
            moved = http(b"", status="302 Found", headers=f"Location: {target}\r\n")
            async with answering(moved) as here:
                with pytest.raises(TransportError, match="redirect") as caught:
                    async with transport.stream(f"{here}/a?sig=secret"):
                        pytest.fail("it led nowhere")
                assert "secret" not in f"{caught.value!r}{caught.value.__cause__!r}"


async def test_a_stream_that_breaks_says_where_without_the_signature(sim: Simulator) -> None:
    """A cut or stalled body, and an answer that is no HTTP, are transport errors without secrets, chain included."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nfLaC"
    async with Transport(settings(sim, **IMPATIENT)) as transport:
        assert "Transport" in repr(transport)
        for answer in (cut, b"rubbish\r\n\r\n"):
            async with answering(answer) as url:
                with pytest.raises(TransportError) as caught:
                    async with transport.stream(f"{url}/a?sig=secret") as stream:
                        assert [block async for block in stream.blocks]
                error: BaseException | None = caught.value
                while error is not None:
                    assert "secret" not in f"{error!r}{error}"
                    error = error.__cause__


def test_a_client_opened_again_in_another_loop_keeps_no_timer_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loop has its own."""
    monkeypatch.setenv("SOUNDPIECE_API_KEY", "spk_test")

    async def ask(client: HttpClient) -> int:
        async with answering(http(b"{}")) as url:
            client._base = urlsplit(url)
            async with client:
                return (
                    await client.fetch(wire.poll_request(Handle("create.new_fx", "op_1"), wait=False), timeout=30)
                ).status

    client = HttpClient(Settings())
    assert [asyncio.run(ask(client)) for _ in range(2)] == [200, 200]


async def test_a_transport_that_is_not_open_says_so(sim: Simulator) -> None:
    """Nothing is sent through a transport nobody opened."""
    with pytest.raises(RuntimeError, match="not open"):
        async with Transport(settings(sim)).stream("http://127.0.0.1:9/"):
            pytest.fail("it is closed")


async def test_a_setting_changed_is_a_setting_heeded() -> None:
    """A ceiling paces every request of the session, from the first on."""
    with scripted():
        async with Session(scripted_settings(limits=Limits(requests_per_second=20.0))) as session:
            started = anyio.current_time()
            async with anyio.create_task_group() as group:
                for number in range(35):
                    group.start_soon(session.submit, fx(number))
            assert anyio.current_time() - started > (35 - 20 - 1) / 20.0
            assert session.statistics().rate == pytest.approx(20.0)


@pytest.mark.parametrize("size", [1000, 2 * LARGE_RESPONSE])
async def test_a_large_answer_is_read_in_a_thread(size: int) -> None:
    """The loop goes on meanwhile; what reading it raises is raised as ever."""
    body = json.dumps({"fx": {"id": "op_1", "status": "ready", "text": "x" * size}}).encode()
    threads: list[int] = []

    def read(answer: ApiResponse, call: ApiRequest) -> None:
        threads.append(threading.get_ident())
        raise DecodeError(f"{call}: {len(answer.body) > size}")

    call = wire.poll_request(Handle("create.new_fx", "op_1"), wait=False)
    with scripted(respond(body=body)):
        async with Transport(scripted_settings()) as transport, anyio.create_task_group() as group:
            group.start_soon(transport.pacer.run)
            with pytest.raises(DecodeError, match="True"):
                await transport.send(call, priority=Priority.SUBMIT, parse=read)
            group.cancel_scope.cancel()
    assert [thread == threading.get_ident() for thread in threads] == [size < LARGE_RESPONSE]

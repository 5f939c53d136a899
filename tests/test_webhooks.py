import asyncio
import base64
import gzip
import json
import math
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from aiohttp import ClientSession, web
from helpers.app_servers import serve_aiohttp
from helpers.idle import until
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from soundpiece_async import (
    NewFx,
    NotReady,
    Operation,
    OperationError,
    OperationFailed,
    Session,
    SessionClosed,
    SettingsError,
    Status,
    WaitTimeout,
    WebhookError,
)
from soundpiece_async._core import completion
from soundpiece_async._poller import MAX_UNCLAIMED
from soundpiece_async.simulator import Fault, Simulator
from soundpiece_async.webhooks import REMEMBERED, TOLERANCE, Delivery, Webhooks, aiohttp_handler, asgi_app

pytestmark = pytest.mark.anyio

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
OTHER = f"whsec_{base64.b64encode(b'another key of the account').decode()}"
NOW = 1795341600
LIMIT = 2000

Sent: TypeAlias = tuple[dict[str, str], bytes]
Post: TypeAlias = Callable[[dict[str, str], bytes], Awaitable[int]]
Deliver: TypeAlias = Callable[[Operation[Any]], None]


def make_delivery(identity: str = "msg_1", *, secret: str = SECRET, **changes: object) -> Sent:
    """Headers and body as the service sends them, signed by the standard's own library."""
    body = json.dumps({"type": "create.new_fx.ready", "data": {"id": "op_1", "status": "ready"}, **changes})
    signature = Webhook(secret).sign(identity, datetime.fromtimestamp(NOW, tz=UTC), body)
    return {"webhook-id": identity, "webhook-timestamp": str(NOW), "webhook-signature": signature}, body.encode()


def make_webhooks(*secrets: str, **changes: Any) -> Webhooks:
    """Webhooks whose clock stands still."""
    return Webhooks(secrets or [SECRET], **{"clock": lambda: NOW, "max_bytes": LIMIT, **changes})


@asynccontextmanager
async def open_aiohttp(checks: Webhooks, deliver: Deliver) -> AsyncIterator[Post]:
    """A receiver on aiohttp, and what posts to it over a real socket."""
    app = web.Application()
    app.router.add_post("/hook", aiohttp_handler(checks, deliver))
    async with serve_aiohttp(app) as url, ClientSession() as client:

        async def post(headers: dict[str, str], body: bytes) -> int:
            async with client.post(f"{url}/hook", headers=headers, data=body) as response:
                assert await response.read() == b"" or response.status == 500
                return response.status

        yield post


@asynccontextmanager
async def open_starlette(checks: Webhooks, deliver: Deliver) -> AsyncIterator[Post]:
    """A receiver under Starlette, and what posts to it block by block."""
    app = Starlette(routes=[Route("/hook", asgi_app(checks, deliver), methods=["POST"])])

    async def post(headers: dict[str, str], body: bytes) -> int:
        try:
            messages = await call(app, headers, [body[at : at + 50] for at in range(0, len(body), 50)])
        except ZeroDivisionError:  # Starlette answers 500, then lets the server log it
            return 500
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        assert messages[1]["body"] == b""
        return int(messages[0]["status"])

    yield post


async def call(
    app: Callable[..., Awaitable[None]], headers: dict[str, str], blocks: list[bytes], *, path: str = "/hook"
) -> list[Any]:
    """Call an ASGI app as a server does, and give what it sent; the client goes away after the last block."""
    messages = [{"type": "http.request", "body": block, "more_body": True} for block in blocks]
    incoming = iter([*messages, {"type": "http.request"}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b""}
    await app({**scope, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}, receive, send)
    return sent


receivers = pytest.mark.parametrize("receiver", [open_aiohttp, open_starlette], ids=["aiohttp", "starlette"])


@pytest.mark.parametrize(
    ("secrets", "details"),
    [
        ([], {}),
        ("", {}),
        ([None], {}),
        (["spk_0123"], {}),
        ([SECRET, "whsec_"], {}),
        ([SECRET], {"tolerance": 0}),
        ([SECRET], {"tolerance": math.nan}),
        ([SECRET], {"max_bytes": 0}),
        ([SECRET], {"read_timeout": math.nan}),
    ],
)
def test_settings_that_make_no_sense(secrets: Any, details: Any) -> None:
    """Without a good secret and a positive tolerance there are no webhooks."""
    with pytest.raises(SettingsError):
        Webhooks(secrets, **details)


def test_what_it_shows() -> None:
    """Numbers, but no secret; one secret alone need not be in a list."""
    checks = Webhooks(SECRET, tolerance=60)
    assert repr(checks) == "<Webhooks secrets=1 tolerance=60 s remembers=0>"


def test_a_delivery_shows_its_type_as_foreign_text() -> None:
    """One printable line without what signs a URL; the type itself stays as it came."""
    kind = f"\x1b[31m\u202ehttps://h.example/x?sig=S3CRET.{'a' * 10_000}.ready"
    delivery = Delivery(id="msg_1", type=kind, route=kind, status=Status("ready"), operation=None)
    assert delivery.type == kind
    assert len(repr(delivery)) < 1_300
    assert not any(hidden in repr(delivery) for hidden in ("S3CRET", "x1b", "u202e"))


def test_a_retry_days_later_is_taken_unless_the_tolerance_forbids_it() -> None:
    """The timestamp is that of the first attempt, so by default a retry after three days counts."""
    late = NOW + 3 * 86_400 + 60
    assert late < NOW + TOLERANCE
    assert make_webhooks(clock=lambda: late).verify(*make_delivery()).id == "msg_1"
    with pytest.raises(WebhookError, match="more than the tolerance"):
        make_webhooks(clock=lambda: late, tolerance=300).verify(*make_delivery())


def test_reading_remembers_nothing() -> None:
    """``read`` gives the same delivery as often as it comes, of whichever secret; the clock is the wall clock."""
    checks = make_webhooks(SECRET, OTHER)
    assert checks.verify(*make_delivery()) == checks.verify(*make_delivery(secret=OTHER))
    with pytest.raises(WebhookError, match=r"in the future|more than the tolerance"):
        Webhooks([SECRET], tolerance=1).verify(*make_delivery())


@receivers
async def test_news_is_delivered_once(receiver: Callable[..., Any]) -> None:
    """Every honest delivery is answered 2xx; a duplicate and a type nobody knows go no further."""
    got: list[Operation[Any]] = []
    async with receiver(make_webhooks(SECRET, OTHER), got.append) as post:
        assert await post(*make_delivery()) == 204
        assert await post(*make_delivery(secret=OTHER)) == 204
        assert await post(*make_delivery("msg_2", type="create.new_hologram.ready")) == 204
        assert await post(*make_delivery("msg_3", data={"id": "op_3", "status": "ready"})) == 204
    assert [operation.id for operation in got] == ["op_1", "op_3"]


@receivers
async def test_what_is_not_ours_is_refused(receiver: Callable[..., Any]) -> None:
    """400 for junk, 401 for a wrong signature, 413 for too much, and nothing is delivered; 204 for what is signed."""
    headers, body = make_delivery()
    async with receiver(make_webhooks(), never) as post:
        assert await post({}, b"") == 400
        assert await post({}, body) == 400
        assert await post({**headers, "webhook-timestamp": "now"}, body) == 401
        assert await post(*make_delivery(data=[])) == 204
        assert await post(*make_delivery(type="create.new_fx.archived", data={})) == 204
        assert await post(headers, body + b" ") == 401
        assert await post(*make_delivery(secret=OTHER)) == 401
        assert await post(*make_delivery(padding="x" * LIMIT)) == 413
        assert await post({}, b"x" * (LIMIT + 1)) == 413


@receivers
async def test_what_could_not_be_delivered_is_delivered_when_it_comes_again(receiver: Callable[..., Any]) -> None:
    """An error of ``deliver`` is the server's 500, a closed session 503: the event counts as not received."""
    errors: Iterator[BaseException | None] = iter([ZeroDivisionError(), SessionClosed("closing"), None])
    got: list[Operation[Any]] = []

    def deliver(operation: Operation[Any]) -> None:
        if (error := next(errors)) is not None:
            raise error
        got.append(operation)

    async with receiver(make_webhooks(), deliver) as post:
        assert [await post(*make_delivery()) for _ in range(4)] == [500, 503, 204, 204]
    assert len(got) == 1


def never(_: Operation[Any]) -> None:
    """Ignore the operation."""
    pytest.fail("delivered")


def test_ids_are_remembered_up_to_a_bound() -> None:
    """A replay of an event older than the bound is delivered again, which does no harm."""
    checks = make_webhooks()
    got: list[Operation[Any]] = []
    assert checks.handle(*make_delivery("msg_first"), deliver=got.append) == 204
    for number in range(REMEMBERED - 1):
        checks._known.add(f"msg_{number}")
    assert checks.handle(*make_delivery("msg_first"), deliver=got.append) == 204
    assert len(got) == 1
    for number in range(REMEMBERED, 2 * REMEMBERED + 1):
        checks._known.add(f"msg_{number}")
    assert checks.handle(*make_delivery(f"msg_{REMEMBERED}"), deliver=got.append) == 204
    assert len(got) == 1
    assert checks.handle(*make_delivery("msg_first"), deliver=got.append) == 204
    assert len(got) == 2


def test_the_longest_ids_take_less_memory_than_promised() -> None:
    """10 MB, at any moment, however many come: they are kept as digests."""
    checks = make_webhooks()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for number in range(3 * REMEMBERED):
            checks._known.add(f"{number:0256d}")
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert REMEMBERED <= len(checks._known) <= 2 * REMEMBERED
    assert peak < 10_000_000


DEFLATED = zlib.compress(random.Random(5).randbytes(2 * LIMIT))
ENDLESS = "Content-Length: 50\r\n\r\n", b"and then nothing"
BROKEN = [
    ("Content-Encoding: deflate\r\nContent-Length: 100\r\n\r\n", b"\xff" * 100),
    ("Content-Encoding: deflate\r\nContent-Length: 500\r\n\r\n", DEFLATED[:500]),
    (f"Content-Encoding: deflate\r\nContent-Length: {900}\r\n\r\n", DEFLATED[:500] + b"x" * 400),
    ("Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n", b"\x1f\x8b" + b"x" * 98),
    ("Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\n\xff\xff\xff\xff\r\n0\r\n\r\n"),
    ("Content-Encoding: br\r\nContent-Length: 100\r\n\r\n", b"x" * 100),
    ("Content-Encoding: gzip\r\nContent-Length: 10000\r\n\r\n", gzip.compress(bytes(10_000_000))),
    ENDLESS,
    ("Transfer-Encoding: chunked\r\n\r\n", b"5\r\nabcde\r\n"),
    ("Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"),
]


@pytest.mark.parametrize("split", [False, True], ids=["at once", "after the head"])
@pytest.mark.parametrize(("head", "body"), BROKEN, ids=range(len(BROKEN)))
async def test_a_body_that_is_broken_or_never_ends_is_answered(
    head: str, body: bytes, *, split: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that a stranger sends keeps a handler for longer than ``read_timeout``."""
    app = web.Application()
    app.router.add_post("/hook", aiohttp_handler(make_webhooks(read_timeout=0.2), never))
    async with serve_aiohttp(app) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(f"POST /hook HTTP/1.1\r\nHost: x\r\n{head}".encode())
        if split:
            await writer.drain()
            await asyncio.sleep(0.05)  # the handler has begun, as a rule; if not, the same must come out
        writer.write(body)
        answer = await reader.readline()
        writer.close()
    assert answer.split()[1] in {b"400", b"408", b"413"}
    caplog.clear()


async def test_an_asgi_body_that_never_ends_is_answered() -> None:
    """Also by the app for Starlette and FastAPI: 408."""
    app = asgi_app(make_webhooks(read_timeout=0.1), never)
    first = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(first, None) or await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "headers": []}, receive, send)
    assert sent[0]["status"] == 408


async def test_a_body_that_breaks_the_protocol_is_junk() -> None:
    """What aiohttp cannot read is answered by it or by us with 400, never with 500; who goes away gets nothing."""
    head = "POST /hook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    bodies = [
        "Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\njunk!",
        "Content-Length: 50\r\n\r\nand then nothing",
    ]
    app = web.Application()
    app.router.add_post("/hook", aiohttp_handler(make_webhooks(), never))
    async with serve_aiohttp(app) as url:
        for body in bodies:
            host, port = url.removeprefix("http://").split(":")
            async with await anyio.connect_tcp(host, int(port)) as stream:
                await stream.send((head + body).encode())
                await stream.send_eof()
                answer = b"".join([block async for block in stream])
            assert answer[:12] in (b"", b"HTTP/1.1 400"), body


async def test_a_compressed_flood_is_cut() -> None:
    """A small body that unpacks to a large one is read only as far as the limit."""
    async with open_aiohttp(make_webhooks(), never) as post:
        assert await post({"Content-Encoding": "gzip"}, gzip.compress(bytes(10_000_000))) == 413


async def test_an_asgi_app_reads_no_further_than_it_must() -> None:
    """A flood is refused before its end, and a client that went away gets no response."""
    app = asgi_app(make_webhooks(), never)
    flood = iter([{"type": "http.request", "body": b"x" * LIMIT, "more_body": True}] * 2)
    sent: list[Any] = []

    async def receive() -> Any:
        return next(flood)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "headers": []}, receive, send)
    assert sent[0]["status"] == 413
    del sent[:]
    await app({"type": "http", "headers": []}, gone, send)
    assert sent == []
    with pytest.raises(NotImplementedError, match="lifespan"):
        await app({"type": "lifespan"}, gone, send)


async def test_an_asgi_app_can_be_mounted() -> None:
    """Under a mount it hears every path below it."""
    got: list[Operation[Any]] = []
    headers, body = make_delivery()
    app = Starlette(routes=[Mount("/hooks", asgi_app(make_webhooks(), got.append))])
    assert (await call(app, headers, [body], path="/hooks/soundpiece"))[0]["status"] == 204
    assert len(got) == 1


@asynccontextmanager
async def receiving(sim: Simulator, **changes: Any) -> AsyncIterator[tuple[Session, str]]:
    """A session, and the URL of its receiver."""
    async with Session(settings(sim, validate=False, **changes)) as session:  # plain http, for the callback
        app = web.Application()
        app.router.add_post("/hook", aiohttp_handler(Webhooks([str(sim.webhook_secret)]), session.deliver))
        async with serve_aiohttp(app) as url:
            yield session, f"{url}/hook"


def polls(sim: Simulator) -> int:
    """Count the GETs of the API."""
    return sum(entry.host == "api" and entry.method == "GET" for entry in sim.log)


async def test_a_webhook_ends_the_wait() -> None:
    """All waiters of an operation wake, without a poll, and with the request that was submitted."""
    async with simulate(durations=never_finishes, allow_private_callbacks=True, webhook_duplicates=1.0) as sim:
        async with receiving(sim) as (session, url):
            operation = await session.submit(fx(callback_url=url))
            ready = []

            async def wait() -> None:
                ready.append(await session.wait(operation))

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                group.start_soon(wait)
                await anyio.sleep(0.05)
                sim.finish(operation.id)
            assert [one.request for one in ready] == [operation.request] * 2
            assert [len(one.outputs) for one in ready] == [1, 1]
            with anyio.fail_after(30):
                while len(sim.deliveries) < 2:
                    await anyio.sleep(0.01)
        assert [delivery.status for delivery in sim.deliveries] == [204, 204]
        assert polls(sim) == 0


async def test_a_webhook_may_come_before_the_put_has_answered(tmp_path: Path) -> None:
    """Then it is kept until somebody waits, and the piece costs one request and no poll."""
    async with simulate(durations={"create.new_fx": 0.0}, allow_private_callbacks=True) as sim:
        sim.inject(Fault.STALL, method="PUT", seconds=0.3)
        async with receiving(sim) as (session, url):
            done = await session.run(fx(callback_url=url), save_to=tmp_path, timeout=5)
        assert sim.deliveries[0].status == 204
        assert polls(sim) == 0
        assert done.files[0].path.exists()


async def test_urls_that_expired_on_the_way_are_renewed(tmp_path: Path) -> None:
    """A retried webhook has the URLs of the first attempt: the download reads the operation once, and goes on."""
    async with simulate(durations=never_finishes, allow_private_callbacks=True, url_lifetime=0.001) as sim:
        async with receiving(sim) as (session, url):
            operation = await session.submit(fx(callback_url=url))
            sim.finish(operation.id)
            ready = await session.wait(operation, timeout=5)
            assert polls(sim) == 0
            sim._world.signer.lifetime = 900.0
            files = await session.download(ready, tmp_path)
        assert files[0].path.exists()
        assert polls(sim) == 1


async def test_a_webhook_is_confirmed_by_one_read_when_asked() -> None:
    """With ``confirm_webhooks`` the news is a hint: what one GET says is believed."""
    async with simulate(durations=never_finishes, allow_private_callbacks=True) as sim:
        async with receiving(sim, confirm_webhooks=True) as (session, url):
            operation = await session.submit(fx(callback_url=url))
            sim.finish(operation.id, failure="sad")
            with pytest.raises(OperationFailed, match="sad"):
                await session.wait(operation, timeout=5)
        assert polls(sim) == 1


@pytest.mark.parametrize("variations", [["outputs=empty"], ["outputs=empty", "read=500"]])
async def test_a_webhook_without_a_certain_end_is_followed_by_polls(
    variations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other will come: reads decide, and they begin at once, not when a webhook would be late."""
    monkeypatch.setattr(completion, "AGREE_AFTER", 0.05)
    async with simulate(durations=never_finishes, allow_private_callbacks=True, variations=variations) as sim:
        async with receiving(sim) as (session, url), anyio.create_task_group() as group:
            operation = await session.submit(fx(callback_url=url))
            ends = []

            async def wait() -> None:
                with pytest.raises(NotReady) as caught:
                    await session.wait(operation)
                ends.append(caught.value.handle)

            group.start_soon(wait)
            await until(lambda: operation.handle in session._engine.poller._watches)
            sim.finish(operation.id)
            await until(lambda: bool(ends))
        assert ends == [operation.handle]


async def test_news_nobody_waits_for_yet_is_kept_up_to_a_bound(sim: Simulator, session: Session) -> None:
    """A later waiter gets it without a request, and once; after too long it is found by polling."""
    news = [
        Operation[Any](
            route=NewFx.route,
            id=f"op_{n}",
            status=Status.FAILED,
            error=OperationError("no_luck", ""),
            request=None,
        )
        for n in range(MAX_UNCLAIMED + 1)
    ]
    for operation in news:
        session.deliver(operation)
    with pytest.raises(OperationFailed) as caught:
        await session.wait(news[1].handle)
    assert caught.value.operation.id == "op_1"
    assert sim.log == []
    for forgotten in news[:2]:
        with pytest.raises(WaitTimeout, match="status 422"):  # the simulator knows of none
            await session.wait(forgotten.handle, timeout=0)


@pytest.mark.parametrize("wrong", [None, {"id": "op_1", "status": "ready"}])
async def test_what_is_no_operation_is_not_delivered(session: Session, wrong: Any) -> None:
    """A delivery of an unknown type has no operation, and passing that on is an error."""
    with pytest.raises(TypeError, match=f"expected an Operation, got {type(wrong).__name__}"):
        session.deliver(wrong)


async def test_a_lost_webhook_is_noticed_by_a_poll() -> None:
    """Polling is the safety net, once it is known how long the route takes."""
    async with simulate(allow_private_callbacks=True, webhook_loss=1.0) as sim:
        async with receiving(sim) as (session, url):
            for _ in range(5):
                await session.run(NewFx("slam", duration=0.3))
            known = polls(sim)
            assert (await session.run(fx(callback_url=url), timeout=20)).operation.outputs
        assert sim.deliveries == []
        assert polls(sim) > known


@pytest.mark.parametrize("framework", ["aiohttp", "starlette"])
async def test_a_visitor_who_goes_away_cancels_nothing_but_the_waiting(framework: str) -> None:
    """The cancelled handler detaches; the operation runs on, and the session serves the next visitor."""
    async with (
        simulate(durations=never_finishes, allow_private_callbacks=True) as sim,
        receiving(sim) as (session, url),
    ):
        cancelled = anyio.Event()

        async def make() -> str:
            try:
                return str((await session.run(fx(callback_url=url))).operation.handle)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async def visit_aiohttp() -> None:
            async def handle(_: web.Request) -> web.Response:
                return web.Response(text=await make())

            app = web.Application()
            app.router.add_get("/", handle)
            async with serve_aiohttp(app) as front, ClientSession() as browser, browser.get(front):
                pass  # never answered

        async def visit_starlette() -> None:
            async def handle(_: Request) -> Response:
                return Response(await make())

            await call(Starlette(routes=[Route("/", handle, methods=["POST"])]), {}, [], path="/")

        async with anyio.create_task_group() as group:
            group.start_soon({"aiohttp": visit_aiohttp, "starlette": visit_starlette}[framework])
            while not sim.operations or session.statistics().in_flight == 0:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        with anyio.fail_after(30):
            await cancelled.wait()
        await until(lambda: (session.statistics().in_flight, sim.open_requests) == (0, 0))

        (left,) = sim.operations.values()
        assert left.status == "processing"
        operation = await session.submit(fx(callback_url=url))
        for identity in (left.id, operation.id):
            sim.finish(identity)
        assert (await session.wait(operation, timeout=5)).outputs


def test_odd_news_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """A member that cannot be read is left out of each, and said once."""
    checks = make_webhooks()
    for number in range(3):
        delivery = checks.verify(
            *make_delivery(
                f"msg_{number}", data={"id": "op_1", "status": "failed", "created_at": []}, type="create.new_fx.failed"
            )
        )
        assert delivery.operation is not None
        assert delivery.operation.created_at is None

    assert [record.message for record in caplog.records] == [
        "webhook msg_0: created_at is invalid and left out: expected a time, got a list (logged once)"
    ]

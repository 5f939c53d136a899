"""The example with four worker processes, as uvicorn runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from helpers.database_servers import Server
from helpers.ports import reserved_port
from helpers.simulation import never_finishes, simulate
from standardwebhooks import Webhook

from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent / "examples"
WORKERS, VISITORS = 4, 60


@contextmanager
def serve_site(sim: Simulator, shared: str) -> Iterator[str]:
    """Run the example, whose processes take their time to start."""
    environ = {**os.environ, **sim.environ, "SITE": "https://studio.example", "SOUNDPIECE_SHARED": shared}
    environ["SOUNDPIECE_WEBHOOK_SECRET"] = str(sim.webhook_secret)
    with reserved_port() as port:
        words = ["--app-dir", str(EXAMPLES), "--workers", str(WORKERS), "--port", str(port), "--log-level", "warning"]
        command = [sys.executable, "-m", "uvicorn", *words, "processes:app"]
        process = subprocess.Popen(command, env=environ, start_new_session=True)  # noqa: S603 - our own
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def sign(sim: Simulator, operation: str) -> tuple[dict[str, str], bytes]:
    """Make the webhook of an operation that is ready; the service itself does not say so yet."""
    output = {"url": "https://cdn.example/a.flac?sig=1", "duration": 2.5}
    told = {"id": operation, "status": "ready", "created_at": "2026-11-30T12:00:00Z", "output": output}
    body = json.dumps({"type": "create.new_fx.ready", "data": told})
    now, identity = datetime.now(tz=UTC), f"msg_{operation}"
    signature = Webhook(str(sim.webhook_secret)).sign(identity, now, body)
    head = {"webhook-id": identity, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    return head, body.encode()


@pytest.mark.timeout(110)  # five processes have to start
async def test_every_visitor_is_told_at_once(redis: Server) -> None:
    """Sixty operations, each visitor and each webhook at any of four processes: no poll can be what told them."""
    told: dict[str, float] = {}
    processes: set[str] = set()
    async with (
        AsyncExitStack() as stack,
        simulate(durations=never_finishes, speed=1) as sim,
        ClientSession(connector=TCPConnector(limit=0, force_close=True), timeout=ClientTimeout(total=None)) as client,
    ):
        site = stack.enter_context(serve_site(sim, f"{redis.url}?account=site"))
        await until_all_are_there(client, site)

        async def order(handles: list[str]) -> None:
            async with client.post(f"{site}/doors") as answer:
                handles.append((await answer.json())["handle"])

        async def watch(handle: str, waiting: list[str]) -> None:
            async with client.get(f"{site}/doors/{handle}") as stream:
                processes.add((await stream.content.readline()).decode())
                waiting.append(handle)
                async for line in stream.content:
                    if line.startswith(b"data: "):
                        assert json.loads(line[6:])["handle"] == handle
                        told[handle] = time.monotonic()

        with anyio.fail_after(90):
            started = time.monotonic()
            handles: list[str] = []
            async with anyio.create_task_group() as group:
                for _ in range(VISITORS):
                    group.start_soon(order, handles)
            orders = time.monotonic() - started
            waiting: list[str] = []
            delivered: dict[str, float] = {}
            async with anyio.create_task_group() as group:
                for handle in handles:
                    group.start_soon(watch, handle, waiting)
                while len(waiting) < VISITORS:
                    await anyio.sleep(0.01)
                for handle in handles:
                    head, body = sign(sim, handle.partition("/")[2])
                    delivered[handle] = time.monotonic()
                    async with client.post(f"{site}/hooks/soundpiece", headers=head, data=body) as answer:
                        assert answer.status == 204
    late = [told[handle] - delivered[handle] for handle in handles]
    assert len(told) == VISITORS
    assert max(late) < max(1.0, orders)  # on a machine on which sixty requests take longer, so may this
    assert len(processes) > 1


async def until_all_are_there(client: ClientSession, site: str) -> None:
    """Wait until the processes have met."""
    with anyio.fail_after(90):
        while True:
            try:
                async with client.get(f"{site}/health") as answer:
                    if (await answer.json())["peers"] == WORKERS:
                        return
            except OSError:
                pass
            await anyio.sleep(0.1)

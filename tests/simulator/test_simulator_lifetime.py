"""Opening and closing: from any task, once, and nothing stays behind."""

import asyncio
import gc
import inspect
from types import SimpleNamespace
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from helpers.idle import until
from helpers.ports import reserved_port
from helpers.simulation import never_finishes
from helpers.simulator_client import opened

from soundpiece_async.simulator import Fault, ReceivedRequest, Simulator
from soundpiece_async.simulator.http_server import _close, _hang_up

pytestmark = pytest.mark.anyio


class TestLife:
    """Opening and closing."""

    async def test_leaves_nothing_behind(self, free_port: int) -> None:
        """Leaving ends held requests, stalls and downloads: no task stays, and the ports are closed."""
        before = asyncio.all_tasks()
        with reserved_port() as output_port:
            async with opened(
                durations=never_finishes, speed=1.0, on_request=_hold_puts, port=free_port, output_port=output_port
            ) as caller:
                sim = caller.sim
                sim.inject(Fault.STALL, method="GET", times=9)
                session = aiohttp.ClientSession()
                url = f"{sim.url}/v1/create.new_fx"
                tasks = [asyncio.ensure_future(session.request(method, url)) for method in ("PUT", "GET", "GET")]
                await until(lambda: sim.open_requests == 3)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await session.close()
            await anyio.lowlevel.checkpoint()

            assert all(isinstance(result, aiohttp.ClientError) for result in results)
            assert sim.open_requests == 0
            gc.collect()
            assert asyncio.all_tasks() == before
            for port in (free_port, output_port):
                with pytest.raises(OSError, match=r"All connection attempts failed|refused"):
                    await anyio.connect_tcp("127.0.0.1", port)

    async def test_may_be_left_in_another_task(self) -> None:
        """Entering and leaving may happen in different tasks, as fixtures do."""
        sim = Simulator()
        await asyncio.create_task(sim.__aenter__())
        async with aiohttp.ClientSession() as session, session.get(sim.url) as answer:
            assert answer.status == 404
        await asyncio.create_task(sim.__aexit__(None, None, None))

    async def test_opens_once(self) -> None:
        """A simulator is opened once; leaving one that never was opened does nothing."""
        async with Simulator() as sim:
            with pytest.raises(RuntimeError, match="once"):
                await sim.__aenter__()
        await Simulator().__aexit__(None, None, None)

    async def test_says_why_it_cannot_open(self) -> None:
        """A port that is taken is reported where the simulator is entered, and nothing stays open."""
        before = asyncio.all_tasks()
        async with Simulator() as sim:
            taken = int(sim.url.rpartition(":")[2])
            with pytest.raises(OSError, match="in use"):
                await Simulator(output_port=taken).__aenter__()
        assert asyncio.all_tasks() == before

    async def test_closes_when_left_while_opening(self) -> None:
        """Cancelling the entrance closes what was open by then."""
        before = asyncio.all_tasks()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await Simulator().__aenter__()
        assert scope.cancelled_caught
        assert asyncio.all_tasks() == before

    async def test_closes_when_cancelled(self, free_port: int) -> None:
        """Leaving by cancellation closes in good order too."""
        before = asyncio.all_tasks()
        with anyio.CancelScope() as scope:
            async with Simulator(port=free_port):
                scope.cancel()
                await anyio.sleep_forever()
        assert asyncio.all_tasks() == before
        with pytest.raises(OSError, match=r"All connection attempts failed|refused"):
            await anyio.connect_tcp("127.0.0.1", free_port)

    async def test_listens_on_ipv6(self) -> None:
        """An IPv6 host is written in brackets."""
        async with Simulator(host="::1") as sim:
            assert sim.url.startswith("http://[::1]:")

    @pytest.mark.parametrize(("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])  # noqa: S104 - as in a container
    async def test_listens_on_all_interfaces(self, host: str, reached: str) -> None:
        """Its URL, and those of its outputs, lead to it from the same machine, and none to 0.0.0.0 (F13)."""
        async with opened(host=host) as caller:
            assert caller.sim.url.startswith(f"http://{reached}:")
            output = (await caller.run())["output"]
            assert output["url"].startswith(f"http://{reached}:")
            assert (await caller.fetch(output["url"])).status == 200

    async def test_is_reached_by_another_url(self, free_port: int) -> None:
        """A mapped port: the outputs are at the host of the public URL, and may be sources again (F13)."""
        async with opened(port=free_port, public_url=f"http://localhost:{free_port}/") as caller:
            assert caller.sim.url == caller.sim.environ["SOUNDPIECE_BASE_URL"] == f"http://localhost:{free_port}"
            output = (await caller.run())["output"]
            assert output["url"].startswith(caller.sim.output_url)
            assert caller.sim.output_url.startswith("http://localhost:")
            assert (await caller.fetch(output["url"])).status == 200
            stems = await caller.run("adapt.separate_stems", source={"url": output["url"]})
            assert stems["status"] == "ready"

    async def test_is_behind_a_proxy(self) -> None:
        """Where the proxy ends TLS, its two URLs are given; of one, the other has the host."""
        async with opened(public_url="https://sim.example", public_output_url="https://audio.example") as caller:
            assert (caller.sim.url, caller.sim.output_url) == ("https://sim.example", "https://audio.example")
        async with opened(public_url="https://[::1]:8443") as caller:
            assert caller.sim.output_url.startswith("https://[::1]:")

    @pytest.mark.parametrize(
        "options",
        [
            {"speed": 0},
            {"requests_per_second": 0},
            {"webhook_loss": 2},
            {"public_url": "sim.example"},
            {"public_output_url": "https://sim.example/x"},
        ],
    )
    async def test_refuses_impossible_options(self, options: dict[str, Any]) -> None:
        """Options that make no sense are refused at once."""
        with pytest.raises(ValueError, match=next(iter(options))):
            Simulator(**options)


async def test_hangs_up_on_who_has_gone() -> None:
    """Hanging up on a client that has left already does nothing."""
    for end in (_hang_up, _close):
        end(SimpleNamespace(transport=None))


async def _hold_puts(request: ReceivedRequest) -> None:
    if request.method == "PUT":
        await anyio.sleep_forever()


async def test_documents_every_option() -> None:
    """Every option of the simulator is described in its docstring."""
    for name in inspect.signature(Simulator).parameters:
        assert f"\n    {name}: " in inspect.cleandoc(Simulator.__doc__ or "")

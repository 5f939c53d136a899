"""What 200 operations cost end to end (submit, wait, result): ours beside a plain aiohttp loop and four SDKs.

    python benchmarks/peers.py                              three rounds, about six minutes
    python benchmarks/peers.py --quick                      one round, two minutes
    python benchmarks/peers.py --chart docs/img/peers.png   draw the chart of README.md, too

Every client runs in a process of its own against a small fake of its own API (`_fakes.py`) in another, over loopback;
rounds alternate between them. All 200 operations begin at once and take 8 to 15 s. Each SDK waits as its own helper
does, at its own pace: `wait_for_task_output`, `create_and_poll`, `async_wait`, `subscribe`. CPU is user and system time
of the client's process from the first submit to the last result, imports and one operation to warm up not counted;
memory is what the process grew by, a second before the first result; detection is from ended, by the server's
clock, to the result in the client's hand. Ours and the plain loop ask an API that holds a GET for up to 20 s.
"""

import argparse
import asyncio
import gc
import math
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import _figures
import aiohttp
import attrs
from _chart import Panel, draw
from _fakes import FAL, OPENAI, OURS, REPLICATE, RUNWAY, SPAWN, Service, serve, weigh_process
from _figures import Figure

from soundpiece_async import Limits, NewFx, Session, Settings

KEY = "spk_benchmark"
PLAIN = "aiohttp, a task each"
SHORTEST, LONGEST = 8.0, 15.0
NAMES = {OURS: "soundpiece-async", PLAIN: "aiohttp, a task each"}
SDKS = (RUNWAY, OPENAI, REPLICATE, FAL)
HEAD = "{:24} {:>12} {:>12} {:>14} {:>10} {:>12} {:>11}"

Follow = Callable[[int], Awaitable[str]]
"""Submit the operation of this number, wait for it, and give its id once its result is here."""


@attrs.frozen
class Seen:
    """What one client showed in one round, per operation: CPU ms, requests, KiB; lateness in seconds."""

    cpu: float
    requests: float
    mean: float
    p99: float
    connections: float
    kib: float

    def __str__(self) -> str:
        return (
            f"{self.cpu:12.2f} {self.requests:12.2f} {self.mean:14.4f} {self.p99:10.3f} "
            f"{self.connections:12.0f} {self.kib:11.1f}"
        )


@asynccontextmanager
async def open_ours(url: str, count: int) -> AsyncIterator[Follow]:
    """As the README shows, with a poll slot for each operation."""
    async with Session(Settings(api_key=KEY, base_url=url, limits=Limits(polls=count))) as session:

        async def follow(number: int) -> str:
            operation = await session.submit(NewFx(f"door {number}", duration=2.5))
            return (await session.wait(operation)).id

        yield follow


@asynccontextmanager
async def open_plain(url: str, count: int) -> AsyncIterator[Follow]:
    """What one writes in ten minutes: no retries, no limits, no checks."""
    patience = aiohttp.ClientTimeout(total=60)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(
        url, connector=aiohttp.TCPConnector(limit=count), headers=headers, timeout=patience
    ) as session:

        async def follow(number: int) -> str:
            body = {"idempotency_key": f"{number}", "prompt": f"door {number}", "duration": 2.5}
            async with session.put("/v1/create.new_fx", json=body) as response:
                work = (await response.json())["fx"]
            while work["status"] == "processing":
                async with session.get("/v1/create.new_fx", params={"id": work["id"], "wait": "true"}) as response:
                    work = (await response.json())["fx"]
            return str(work["id"])

        yield follow


@asynccontextmanager
async def open_runway(url: str, count: int) -> AsyncIterator[Follow]:  # noqa: ARG001 - its own limits
    """A task every 6 s, give or take its jitter."""
    from runwayml import AsyncRunwayML  # only when it is there

    async with AsyncRunwayML(api_key=KEY, base_url=url) as client:

        async def follow(number: int) -> str:
            task = await client.sound_effect.create(
                model="mirelo_sfx_2_0", prompt_text=f"door {number}", duration=2.5, format="flac"
            )
            return str((await task.wait_for_task_output()).id)

        yield follow


@asynccontextmanager
async def open_openai(url: str, count: int) -> AsyncIterator[Follow]:  # noqa: ARG001 - its own limits
    """A video every second."""
    from openai import AsyncOpenAI  # only when it is there

    async with AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1") as client:

        async def follow(number: int) -> str:
            return str((await client.videos.create_and_poll(prompt=f"door {number}", seconds="4")).id)

        yield follow


@asynccontextmanager
async def open_replicate(url: str, count: int) -> AsyncIterator[Follow]:  # noqa: ARG001 - its own limits
    """A prediction every half second."""
    from replicate.client import Client  # only when it is there

    client = Client(api_token=KEY, base_url=url)

    async def follow(number: int) -> str:
        prediction = await client.predictions.async_create("0" * 64, {"prompt": f"door {number}"})
        await prediction.async_wait()
        return str(prediction.id)

    yield follow


@asynccontextmanager
async def open_fal(url: str, count: int) -> AsyncIterator[Follow]:  # noqa: ARG001 - its own limits
    """A status ten times a second, then the result; its address is a constant of the module."""
    import fal_client  # only when it is there

    fal_client.client.QUEUE_URL_FORMAT = f"{url}/"
    client = fal_client.AsyncClient(key=KEY)

    async def follow(number: int) -> str:
        return str((await client.subscribe("owner/fx", {"prompt": f"door {number}"}))["request_id"])

    yield follow


CLIENTS: dict[str, Callable[[str, int], AbstractAsyncContextManager[Follow]]] = {
    OURS: open_ours,
    PLAIN: open_plain,
    RUNWAY: open_runway,
    OPENAI: open_openai,
    REPLICATE: open_replicate,
    FAL: open_fal,
}
APIS = {PLAIN: OURS}  # of the others, the API has the client's name


def run(client: str, count: int) -> Seen:
    """Run one client in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(_run, client, count).result()


def _run(client: str, count: int) -> Seen:
    with serve(APIS.get(client, client), shortest=SHORTEST, longest=LONGEST) as service:
        return asyncio.run(_measure(client, service, count))


async def _measure(client: str, service: Service, count: int) -> Seen:
    known: dict[str, float] = {}

    async def note(number: int) -> None:
        identity = await follow(number)
        known[identity] = time.monotonic()

    async with CLIENTS[client](service.url, count) as follow:
        await follow(0)  # on trial: what is imported late or opened once is no cost of an operation
        service.begin()
        gc.collect()
        before, began = weigh_process(), time.process_time()
        tasks = [asyncio.create_task(note(number)) for number in range(1, count + 1)]
        await asyncio.sleep(SHORTEST - 1)
        gc.collect()
        kib = (weigh_process() - before) / count
        await asyncio.gather(*tasks)
        cpu = (time.process_time() - began) / count
    tally, ended = service.look()
    lags = sorted(known[identity] - ended[identity] for identity in known)
    return Seen(
        cpu=cpu * 1000,
        requests=tally.requests / count,
        mean=statistics.fmean(lags),
        p99=lags[int(0.99 * count)],
        connections=tally.most_connections,
        kib=kib,
    )


def find_middle(rounds: list[Seen]) -> Seen:
    """Return the median of each figure."""
    names = [field.name for field in attrs.fields(Seen)]
    return Seen(**{name: statistics.median(getattr(seen, name) for seen in rounds) for name in names})


def compare(rounds: dict[str, list[Seen]]) -> list[Figure]:
    """Compare with the others: ratios within a round, then their median. A few rounds carry no goal of 10 %."""
    ours = find_middle(rounds[OURS])
    figures = []
    for client in [client for client in rounds if client != OURS]:
        ratio = statistics.median(
            mine.cpu / theirs.cpu for mine, theirs in zip(rounds[OURS], rounds[client], strict=True)
        )
        name = client if client == PLAIN else f"{client} {version(client)}"
        figures.append(Figure(f"CPU beside {name}", "-", f"{ratio:.2f}" if ratio > 1 else f"1/{1 / ratio:.1f}", None))
    figures.append(Figure("requests per operation", "-", f"{ours.requests:.2f}", None))
    best = min((find_middle(rounds[client]).mean for client in SDKS if client in rounds), default=math.nan)
    return [*figures, Figure("mean detection beside the soonest SDK's", "-", f"1/{best / ours.mean:.0f}", None)]


def draw_chart(middles: dict[str, Seen], path: Path, *, count: int) -> None:
    """Draw what matters to who has many operations."""
    names = {client: NAMES.get(client) or f"{client} {version(client)}" for client in middles}
    panels = [
        Panel("CPU per operation", {names[client]: seen.cpu for client, seen in middles.items()}, "{:.1f} ms"),
        Panel("requests per operation", {names[client]: seen.requests for client, seen in middles.items()}, "{:.1f}"),
        Panel("ended to known, mean", {names[client]: seen.mean for client, seen in middles.items()}, "s"),
    ]
    title = f"{count} operations of {SHORTEST:.0f} to {LONGEST:.0f} s at once: submit, wait, result"
    draw(panels, path, title=title, ours=names[OURS])


def main() -> int:
    """Run the rounds, print what was seen and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--chart", type=Path, metavar="PNG", help="draw CPU, requests and detection")
    options = parser.parse_args()
    present = [client for client in CLIENTS if client not in SDKS or find_spec(client.replace("-", "_"))]
    for absent in CLIENTS.keys() - present:
        print(f"{absent} is not installed, and left out: pip install --group bench")
    rounds: dict[str, list[Seen]] = {client: [] for client in present}
    heads = ("CPU ms/op", "requests/op", "detection, s", "p99, s", "connections", "KiB/op")
    print(HEAD.format("", *heads))
    for _ in range(1 if options.quick else options.rounds):
        for client in present:
            rounds[client].append(run(client, options.operations))
            print(f"{client:24} {rounds[client][-1]}", flush=True)
    middles = {client: find_middle(seen) for client, seen in rounds.items()}
    if options.chart:
        draw_chart(middles, options.chart, count=options.operations)
    return _figures.report(compare(rounds), options)


if __name__ == "__main__":
    sys.exit(main())

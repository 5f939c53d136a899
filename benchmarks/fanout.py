"""What a submit costs the client, beside a bare PUT of aiohttp, as its documentation shows it, and of httpx.

    python benchmarks/fanout.py            some two minutes
    python benchmarks/fanout.py --quick    half a minute

Ours is the whole of `session.submit`: a request made and held against the contract, its key, a slot, the gate, the
retry logic, a typed answer whose echo is compared. aiohttp's is `session.put(json=...)` and `await r.json()`, with a
key of its own; httpx's likewise. The figure is CPU (user and system) of this side per request. All three take turns in
one process, in slices of some tenths of a second, and each slice of ours is compared with its neighbours: what the
machine does meanwhile then matters little. The service is a bare asyncio protocol on the other core (`_echoing.py`).

Each loop, with the extra `fast` (orjson) and without, has a process of its own. uvloop is a matter of the loop alone:
the library never chooses one.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import _figures
import aiohttp
import httpx
import uvloop
from _echoing import serve
from _figures import Figure

KEY = "spk_benchmark"
ROUTE = "/v1/create.new_song"
LYRICS = "[Verse]\nRain again on the window pane\nEvery night is just the same\n[Chorus]\nCarry me home"
PROMPT = "synthwave, melancholic, night drive, analog pads"
HEADERS = {"Authorization": f"Bearer {KEY}"}
CONNECTIONS = (32, 256)
PER_CONNECTION = 4  # requests of one slice
HTTPX_SLICES = 2  # it takes a hundred times as long
CELLS = (("asyncio", True), ("asyncio", False), ("uvloop", True), ("uvloop", False))
RUN: dict[str, Callable[..., Any]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}
GOALS = {(True, 32): 1.3, (True, 256): 1.35, (False, 32): 1.32, (False, 256): 1.32}  # with the extra fast, and without
HTTPX_GOALS = {32: 20, 256: 80}

Send = Callable[[], Awaitable[object]]


@asynccontextmanager
async def open_ours(origin: str, connections: int) -> AsyncIterator[Send]:
    """Submit as users do."""
    from soundpiece_async import Limits, NewSong, Session, Settings  # orjson has to be hidden first

    async with Session(Settings(api_key=KEY, base_url=origin, limits=Limits(submits=connections))) as session:
        yield lambda: session.submit(NewSong(LYRICS, prompt=PROMPT))


@asynccontextmanager
async def open_aiohttp(origin: str, connections: int) -> AsyncIterator[Send]:
    """Put as aiohttp's documentation does."""
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def send() -> object:
            async with session.put(origin + ROUTE, json=make_body()) as response:
                response.raise_for_status()
                return await response.json()

        yield send


@asynccontextmanager
async def open_httpx(origin: str, connections: int) -> AsyncIterator[Send]:
    """Put as httpx's documentation does."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(limits=limits, headers=HEADERS, timeout=60) as client:

        async def send() -> object:
            response = await client.put(origin + ROUTE, json=make_body())
            return response.raise_for_status().json()

        yield send


CLIENTS = {"ours": open_ours, "aiohttp": open_aiohttp, "httpx": open_httpx}


def make_body() -> dict[str, str]:
    """Make what the service is sent; the key is part of the contract, so everybody needs one."""
    return {"idempotency_key": str(uuid4()), "lyrics": LYRICS, "prompt": PROMPT}


async def run_slice(send: Send, connections: int, each: int) -> float:
    """Send so many requests over each connection, and give the CPU microseconds of one."""

    async def work() -> None:
        for _ in range(each):
            await send()

    begun = time.process_time()
    await asyncio.gather(*(work() for _ in range(connections)))
    return (time.process_time() - begun) / connections / each * 1e6


async def measure(origin: str, connections: int, slices: int, *, beside_httpx: bool) -> dict[str, list[float]]:
    """Run the clients in turns, now one first and now another; return the microseconds of each slice."""
    taken: dict[str, list[float]] = {"ours": [], "aiohttp": [], "httpx": []}
    async with AsyncExitStack() as stack:
        names = list(taken) if beside_httpx else ["ours", "aiohttp"]
        sends = {name: await stack.enter_async_context(CLIENTS[name](origin, connections)) for name in names}
        for send in sends.values():
            await run_slice(send, connections, 1)  # connections are made
        for number in range(slices):
            for name in ("ours", "aiohttp")[:: 1 if number % 2 else -1]:
                taken[name].append(await run_slice(sends[name], connections, PER_CONNECTION))
            if beside_httpx and number < HTTPX_SLICES:
                taken["httpx"].append(await run_slice(sends["httpx"], connections, 2))
    return taken


def run_cell(loop: str, fast: bool, *, quick: bool) -> dict[str, dict[str, list[float]]]:  # noqa: FBT001 - a cell's name
    """Measure one loop in a process of its own, by which orjson can be hidden."""
    words = [sys.executable, __file__, "--cell", f"{loop} {int(fast)}", *(["--quick"] if quick else [])]
    answer = subprocess.run(words, stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own words
    found: dict[str, dict[str, list[float]]] = json.loads(answer.stdout)
    return found


def be_cell(cell: str, *, quick: bool) -> None:
    """Be that process, and print what was measured."""
    loop, fast = cell.split()
    if fast == "0":
        sys.modules["orjson"] = None  # type: ignore[assignment]  # this is how it says that it is not installed
    found = {}
    for connections in CONNECTIONS:
        slices = (80 if quick else 400) * 32 // connections
        beside_httpx = cell == "asyncio 1"
        with serve(connections) as origin:
            found[connections] = RUN[loop](measure(origin, connections, slices, beside_httpx=beside_httpx))
    print(json.dumps(found))


def compare(taken: dict[str, list[float]], other: str) -> list[float]:
    """Return the quartiles of the ratio between neighbouring slices."""
    pairs = zip(taken["ours"], taken[other], strict=False)  # httpx has fewer
    return statistics.quantiles([ours / theirs for ours, theirs in pairs])


def judge(loop: str, fast: bool, connections: int, taken: dict[str, list[float]]) -> Iterator[Figure]:  # noqa: FBT001 - a cell's name
    """Print one cell, and give its figures."""
    extra = "fast" if fast else "no extra"
    low, middle, high = compare(taken, "aiohttp")
    medians = {name: statistics.median(slices) for name, slices in taken.items() if slices}
    us = ", ".join(f"{name} {value:.0f} us" for name, value in medians.items())
    print(f"{loop}, {extra}, {connections} connections: {us}; to aiohttp {low:.2f} {middle:.2f} {high:.2f}", flush=True)
    yield Figure.at_most(f"{loop}, {extra}, {connections} connections: to aiohttp", GOALS[fast, connections], middle)
    if taken["httpx"]:
        goal, ratio = HTTPX_GOALS[connections], compare(taken, "httpx")[1]
        name = f"{loop}, {extra}, {connections} connections: to httpx"
        yield Figure(name, f"<= 1/{goal}", f"1/{1 / ratio:.0f}", ratio <= 1 / goal)


def main() -> int:
    """Measure all cells; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="a fifth of the slices")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        be_cell(options.cell, quick=options.quick)
        return 0
    figures: list[Figure] = []
    for loop, fast in CELLS:
        found = run_cell(loop, fast, quick=options.quick)
        for connections in CONNECTIONS:
            figures += judge(loop, fast, connections, found[str(connections)])
    return _figures.report(figures, options)


if __name__ == "__main__":
    sys.exit(main())

"""What an operation costs the client from submit to result, beside a plain loop of aiohttp: a PUT and a GET of 20 ms.

    python benchmarks/roundtrip.py            two minutes
    python benchmarks/roundtrip.py --quick    half a minute

Ours is `session.submit` and `session.wait` as users write them, with a poll slot for each of 64 workers; the plain loop
is what one writes in ten minutes (`peers.py` has both). The service is a process of its own (`_fakes.py`): every
operation ends 20 ms after its PUT, and its GET is held until then. Both clients keep 64 connections and take turns in
one process, in slices of 256 operations; each slice of ours is compared with its neighbour, so that what the machine
does meanwhile matters little. The figure is CPU (user and system) of this side per operation.
"""

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import _figures
from _fakes import OURS, serve
from _figures import Figure
from peers import KEY, Follow, open_plain

from soundpiece_async import Limits, NewFx, Session, Settings

WORKERS = 64
EACH = 4  # operations of a worker in one slice
TAKES = 0.02  # seconds
GOAL = 1.7


@asynccontextmanager
async def open_ours(url: str) -> AsyncIterator[Follow]:
    """As users write it, with a slot for each worker."""
    limits = Limits(submits=WORKERS, polls=WORKERS)
    async with Session(Settings(api_key=KEY, base_url=url, limits=limits)) as session:

        async def follow(number: int) -> str:
            operation = await session.submit(NewFx(f"door {number}", duration=2.5))
            return (await session.wait(operation)).id

        yield follow


async def run_slice(follow: Follow, each: int) -> float:
    """Run so many operations one after the other in each worker; return the CPU microseconds of one."""

    async def work() -> None:
        for number in range(each):
            await follow(number)

    begun = time.process_time()
    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return (time.process_time() - begun) / WORKERS / each * 1e6


async def measure(slices: int) -> tuple[list[float], list[float]]:
    """Run both in turns, now one first and now the other; return the microseconds of each slice, ours first."""
    ours, plain = list[float](), list[float]()
    with serve(OURS, shortest=TAKES, longest=TAKES) as service:
        async with open_ours(service.url) as follow, open_plain(service.url, WORKERS) as follow_plain:
            service.begin()
            turns = [(ours, follow), (plain, follow_plain)]
            for _, each in turns:
                await run_slice(each, 2)  # connections are made
            for _ in range(slices):
                for taken, each in turns:
                    gc.collect()
                    taken.append(await run_slice(each, EACH))
                turns.reverse()
    return ours, plain


def main() -> int:
    """Measure, print the quartiles and the table; 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="a quarter of the slices")
    options = parser.parse_args()
    ours, plain = asyncio.run(measure(10 if options.quick else 40))
    low, middle, high = statistics.quantiles([mine / theirs for mine, theirs in zip(ours, plain, strict=True)])
    medians = f"ours {statistics.median(ours):.0f} us, plain {statistics.median(plain):.0f} us"
    print(f"{medians}; ratio of neighbouring slices {low:.2f} {middle:.2f} {high:.2f}")
    return _figures.report([Figure.at_most("PUT and a GET of 20 ms, to a plain loop", GOAL, middle)], options)


if __name__ == "__main__":
    sys.exit(main())

"""What webhooks save: requests per operation, and how late a lost one is noticed, over sockets against the simulator.

    python benchmarks/webhooks.py                   200 operations in real time, under a minute
    python benchmarks/webhooks.py --speed 4 --all   all eight routes, the service four times as fast

One process holds the simulator, the session and an aiohttp receiver. Half of the operations are effects (5 s in the
median), half samples (8 s), one in a hundred takes three times as long. All are submitted at once, which is the worst
case: nothing is known of a route when its first webhook is missed. Requests are counted by the simulator; an operation
is noticed when `session.wait` returns. A lost webhook's operation is late from when it has ended and nine in ten of its
route have, whichever comes last; both are the simulator's own figures, and so stricter than what can be learned.

At speed 1 nothing is scaled: those are the figures. At another the service is faster and the client is the same: what
it does by its own clock (counting the silent twice a second, 5 s of silence that mean nothing any more) takes speed
times as long for the service. All seconds printed are the service's: real ones times the speed.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import _figures
import anyio
import attrs
from _figures import Figure
from aiohttp import web

from soundpiece_async import (
    AutoCutDown,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    RemixInstrumental,
    RemixSong,
    Request,
    SeparateStems,
    Session,
    Settings,
)
from soundpiece_async.simulator import Simulator
from soundpiece_async.webhooks import Webhooks, aiohttp_handler

SOURCE = "https://media.example.com/track.wav"
LATE = 5.0  # seconds after both the end and the route's 90th percentile


@attrs.frozen(kw_only=True)
class Noticed:
    """One operation: how long the work took, and how long until its waiter knew; seconds of the service."""

    route: str
    lost: bool
    took: float
    known: float


@attrs.frozen(kw_only=True)
class Run:
    """One scenario."""

    requests: float
    operations: tuple[Noticed, ...]

    def late(self) -> list[float]:
        """By how much each lost one was noticed later than the end and the 90th percentile of its route."""
        by_route = defaultdict(list)
        for operation in self.operations:
            by_route[operation.route].append(operation.took)
        usual = {route: statistics.quantiles(times, n=10)[-1] for route, times in by_route.items()}
        return [
            operation.known - max(operation.took, usual[operation.route])
            for operation in self.operations
            if operation.lost
        ]


def make_requests(count: int, url: str | None, *, every_route: bool) -> list[Request]:
    """Make the requests, no two alike."""
    kinds: list[Callable[[int], Request]] = [
        lambda n: NewFx(f"door {n}", duration=0.5, callback_url=url),
        lambda n: NewSample(f"riff {n}", duration=0.5, callback_url=url),
        lambda n: NewInstrumental(f"ambient {n}", callback_url=url),
        lambda n: NewSong(f"take {n}", prompt="indie folk", callback_url=url),
        lambda n: RemixSong(SOURCE, lyrics=f"take {n}", prompt="house", callback_url=url),
        lambda n: RemixInstrumental(f"{SOURCE}?{n}", callback_url=url),
        lambda n: SeparateStems(f"{SOURCE}?{n}", callback_url=url),
        lambda n: AutoCutDown(f"{SOURCE}?{n}", target_duration=10, callback_url=url),
    ]
    kinds = kinds if every_route else kinds[:2]
    return [kinds[n % len(kinds)](n) for n in range(count)]


@asynccontextmanager
async def listen(sim: Simulator, secret: str, session: Session) -> AsyncIterator[str]:
    """Receive webhooks for the session on a port of its own."""
    app = web.Application()
    app.router.add_post("/", aiohttp_handler(Webhooks([secret]), session.deliver))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, sim.host, 0).start()
    try:
        yield f"http://{sim.host}:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def play(count: int, *, loss: float, speed: float, seed: int, every_route: bool, callbacks: bool = True) -> Run:
    """Submit all operations at once, and wait for each."""
    sim = Simulator(seed=seed, speed=speed, webhook_loss=loss, allow_private_callbacks=True)
    seen: dict[str, float] = {}

    async def follow(request: Request) -> None:
        operation = await session.wait(await session.submit(request))
        seen[operation.id] = anyio.current_time()

    async with sim:
        settings = Settings(api_key=sim.api_key, base_url=sim.url, validate=False)  # plain http for the callbacks
        async with (
            Session(settings) as session,
            listen(sim, str(sim.webhook_secret), session) as url,
            anyio.create_task_group() as group,
        ):
            for request in make_requests(count, url if callbacks else None, every_route=every_route):
                group.start_soon(follow, request)
        told = {delivery.operation for delivery in sim.deliveries}
        operations = tuple(
            Noticed(
                route=operation.route.name,
                lost=operation.id not in told,
                took=(operation.due - operation.created) * speed,
                known=(seen[operation.id] - operation.created) * speed,
            )
            for operation in sim.operations.values()
        )
        return Run(requests=sum(entry.host == "api" for entry in sim.log) / count, operations=operations)


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Run the scenarios side by side: they share nothing but the process."""
    runs: dict[str, Run] = {}

    async def keep(name: str, *, loss: float, callbacks: bool = True) -> None:
        runs[name] = await play(
            options.operations,
            loss=loss,
            speed=options.speed,
            seed=options.seed,
            every_route=options.all,
            callbacks=callbacks,
        )

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: keep("all", loss=0.0))
        group.start_soon(lambda: keep("some", loss=options.loss))
        group.start_soon(lambda: keep("none", loss=0.0, callbacks=False))
    late = runs["some"].late()
    lost = len(late) / options.operations
    lag = [operation.known - operation.took for operation in runs["all"].operations]
    unheard = [operation.known - operation.took for operation in runs["none"].operations]
    print(
        f"polling alone: {runs['none'].requests:.3f} requests per operation, noticed {max(unheard):.3f} s late at worst"
    )
    print(f"all delivered: noticed {statistics.median(lag):.3f} s late, {max(lag):.3f} s at worst")
    print(f"{lost:.0%} lost: the {len(late)} are noticed {statistics.median(late):.3f} s late by the goal's measure\n")
    return [
        Figure.at_most("requests per operation, all delivered", 1.3, runs["all"].requests),
        Figure.at_most(f"requests per operation, {lost:.0%} lost", 1.6, runs["some"].requests),
        Figure.at_most("a lost one noticed, s after max(end, 90th percentile), worst", LATE, max(late)),
    ]


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--loss", type=float, default=0.1, help="the share of webhooks that get lost")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="operations of all eight routes")
    _figures.add_options(parser, quick="100 operations")
    options = parser.parse_args()
    if options.quick:
        options.operations = min(options.operations, 100)
    return _figures.report(anyio.run(measure, options), options)


if __name__ == "__main__":
    sys.exit(main())

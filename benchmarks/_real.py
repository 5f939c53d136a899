"""Plays a cell on a real loop: the project's simulator in a process of its own, a session here, a diary of both.

The service keeps every GET for `DELAY` seconds before it looks at it, as a network would. Submits go through a second
session without a gate, so that all permits of the first are for polls, as in the virtual world.
"""

import asyncio
import multiprocessing
import random
import time
from collections.abc import Iterator
from math import inf
from multiprocessing.connection import Connection

import anyio
import attrs
from _virtual import DURATIONS
from _virtual import HOLD as ANNOUNCED
from anyio import to_thread

from soundpiece_async import Handle, Limits, NewFx, Session, Settings
from soundpiece_async.simulator import Simulator
from soundpiece_async.simulator.request_log import ReceivedRequest

DELAY = 0.05
TICK = 0.02
SPAWN = multiprocessing.get_context("spawn")


@attrs.frozen
class Cell:
    """One situation; `speed` makes the service as many times as fast, hold and all."""

    durations: str
    operations: int
    slots: int
    rate: float
    speed: float = 1.0

    def __str__(self) -> str:
        return f"{self.durations}, M={self.operations}, L={self.slots}, R={self.rate:g}/s"

    @property
    def hold(self) -> float:
        """How long the service keeps a long poll, in seconds."""
        return ANNOUNCED / self.speed

    def arrivals(self, seconds: float, *, seed: int) -> Iterator[float]:
        """Return the times of submission: M at once, then as many as finish."""
        rng, mean = random.Random(seed), DURATIONS[self.durations][1] / self.speed
        yield from [0.0] * self.operations
        at = rng.expovariate(self.operations / mean)
        while at < seconds:
            yield at
            at += rng.expovariate(self.operations / mean)


@attrs.define
class Diary:
    """What was seen in one run: times on the monotonic clock, which processes share on Linux.

    `ready` is the server's word, by operation id; the rest is the client's. `polls` are those sent after a third of
    the time, and after all of it; `late` is by how much a timer was late: how busy the machine was.
    """

    began: float
    watched: dict[str, float] = attrs.field(factory=dict)
    found: dict[str, float] = attrs.field(factory=dict)
    ready: dict[str, float] = attrs.field(factory=dict)
    trips: list[float] = attrs.field(factory=list)
    late: list[float] = attrs.field(factory=list)
    polls: list[int] = attrs.field(factory=list)

    def ready_before(self, seconds: float) -> list[str]:
        """Return the operations that count: ready in the first so many seconds."""
        return [name for name in self.watched if self.ready.get(name, inf) < self.began + seconds]


def play(cell: Cell, *, seconds: float, seed: int) -> Diary:
    """Play a cell for so many seconds, and until what was ready by then has been noticed."""
    here, there = SPAWN.Pipe()
    service = SPAWN.Process(target=_serve, args=(there, cell, seed))
    service.start()
    try:
        return asyncio.run(_play(cell, here, seconds=seconds, seed=seed))
    finally:
        here.send("close")
        service.join()


def _serve(pipe: Connection, cell: Cell, seed: int) -> None:
    """Be the service: give address and key, then the times of all operations whenever asked."""

    async def travel(request: ReceivedRequest) -> None:
        await anyio.sleep(DELAY if request.method == "GET" else 0.0)

    async def live() -> None:
        async with Simulator(speed=cell.speed, durations=lambda _: draw(rng), on_request=travel) as sim:
            pipe.send((sim.url, sim.api_key))
            while await to_thread.run_sync(pipe.recv) != "close":
                pipe.send({operation.id: operation.due for operation in sim.operations.values()})

    draw, rng = DURATIONS[cell.durations][0], random.Random(seed)
    asyncio.run(live())


async def _play(cell: Cell, pipe: Connection, *, seconds: float, seed: int) -> Diary:
    url, key = await to_thread.run_sync(pipe.recv)
    limits = Limits(polls=cell.slots, requests_per_second=cell.rate)
    settings = Settings(api_key=key, base_url=url, limits=limits)
    feeding = attrs.evolve(settings, limits=Limits(submits=100))
    async with Session(feeding) as feeder, Session(settings) as session, anyio.create_task_group() as group:
        diary = Diary(time.monotonic())

        async def follow(number: int) -> None:
            operation = await feeder.submit(NewFx(f"door {number}", duration=0.5))
            diary.watched[operation.id] = time.monotonic()
            await session.wait(operation)
            diary.found[operation.id] = time.monotonic()

        async def feed() -> None:
            for number, at in enumerate(cell.arrivals(seconds, seed=seed)):
                await anyio.sleep_until(diary.began + at)
                group.start_soon(follow, number)

        group.start_soon(feed)
        group.start_soon(_time_trips, diary, feeder)
        group.start_soon(_time_loop, diary)
        for moment in (seconds / 3, seconds):
            await anyio.sleep_until(diary.began + moment)
            diary.polls.append(session.statistics().requests)
        pipe.send("times")
        diary.ready = await to_thread.run_sync(pipe.recv)
        for name in diary.ready_before(seconds):
            if name not in diary.found:
                await session.wait(Handle(NewFx.route, name))
        group.cancel_scope.cancel()
    diary.watched = {
        name: since for name, since in diary.watched.items() if name in diary.ready
    }  # others came too late
    return diary


async def _time_trips(diary: Diary, feeder: Session) -> None:
    """Measure short polls that nobody schedules."""
    operation = await feeder.submit(NewFx("clock", duration=0.5))
    while True:
        begun = time.monotonic()
        await feeder.refresh(operation)
        diary.trips.append(time.monotonic() - begun)
        await anyio.sleep(0.2)


async def _time_loop(diary: Diary) -> None:
    while True:
        due = time.monotonic() + TICK
        await anyio.sleep(TICK)
        diary.late.append(time.monotonic() - due)

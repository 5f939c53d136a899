"""What a run of any length remembers: the objects that a session and a run hold are counted, not bytes of the process.

A process's memory depends on the allocator, the interpreter and the hour; whether something is kept for each request
does not. Counted are all objects that can be reached from the session and the run, but for code, for what the tasks
lead to elsewhere (the event loop, the simulator), for weak references, and for the curves of durations, whose size is
fixed while their numbers change.
"""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import anyio
import pytest
from helpers.simulation import settings, simulate

from soundpiece_async import Failed, Journal, NewFx, NewSong, Request, Session, Succeeded, _operations
from soundpiece_async._core import filenames
from soundpiece_async._core.estimators import Durations
from soundpiece_async.simulator import Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType)
LEFT_OUT = (*CODE, asyncio.AbstractEventLoop, Simulator, weakref.ref, Durations)
FEW, MORE = 20, 40
REMEMBERED = 10
"""Names and outputs that are remembered here, instead of many thousands."""


def count_reachable(*roots: object) -> int:
    """Count the objects that are kept alive by some others."""
    gc.collect()
    found: dict[int, object] = {}
    left = list(roots)
    while left:
        thing = left.pop()
        if id(thing) not in found and not isinstance(thing, LEFT_OUT):
            found[id(thing)] = thing
            left += gc.get_referents(thing)
    return len(found)


async def count_at_rest(*roots: object) -> int:
    """Count them once what is ending has ended: when the number stays the same."""
    before = -1
    while (now := count_reachable(*roots)) != before:
        before = now
        await anyio.sleep(0.05)
    return now


def make(number: int, kind: str) -> Request:
    """Make a request; the service refuses songs with such lyrics."""
    if kind == "refused":
        return NewSong("x" * 5000, prompt=f"song {number}")
    return NewFx(f"door {number}", duration=0.1)


@pytest.mark.parametrize("kind", ["saved", "recorded", "refused"])
async def test_a_run_of_any_length_keeps_nothing_for_each_request(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 60 or 100 requests it holds what it held before; what is remembered on purpose has a bound.

    A connection that is kept open may be one more or less at one of the three counts, but not at each.
    """
    monkeypatch.setattr(_operations, "MAX_CACHED", REMEMBERED)
    monkeypatch.setattr(filenames, "REMEMBERED_NAMES", REMEMBERED)
    taken = {FEW + rounds * MORE: anyio.Event() for rounds in range(3)}
    held = []

    async def requests() -> AsyncIterator[Request]:
        for number in range(max(taken)):
            yield make(number, kind)
            if number + 1 in taken:
                await taken[number + 1].wait()
                held.append(await count_at_rest(session, results, journal))

    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(simulate(track_seconds=(0.1, 0.2)))
        session = await stack.enter_async_context(Session(settings(sim, validate=False)))
        journal = await stack.enter_async_context(Journal.open(tmp_path)) if kind == "recorded" else None
        run = session.run_many(requests(), save_to=tmp_path, journal=journal, max_in_flight=2)
        results = await stack.enter_async_context(run)
        number = 0
        async for result in results:
            assert isinstance(result, Failed if kind == "refused" else Succeeded)
            del result
            number += 1
            if number in taken:
                taken[number].set()
    few, more, most = held
    assert few > REMEMBERED
    assert min(more - few, most - more) < MORE / 4

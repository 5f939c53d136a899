"""How long one answer keeps the event loop from everything else: calls within one step of it are counted, not seconds.

`core/test_many_outputs.py` holds that work grows with the number of outputs, and not with its square. That alone is not
enough: work that grows slowly may still be done in one piece. Here a session works on real answers, and the largest
step is held: a call of Python takes some 0.2 microseconds on a small machine, so 50 ms are 250,000 of them. What a
worker thread does is not counted, because the interpreter takes turns with the loop every 5 ms.
"""

import json
import sys
from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from helpers.idle import opened
from helpers.raw_api import RawApi, http
from helpers.raw_api import raw_settings as settings

from soundpiece_async import Journal, NewFx, Succeeded

pytestmark = pytest.mark.anyio

MOST = 150_000
"""Calls of one step: some 30 ms."""


class ManyOutputs(RawApi):
    """Answers with so many outputs."""

    number = 0

    def _do(self, asked: Any) -> bytes:
        _, _, body = super()._do(asked).partition(b"\r\n\r\n")
        members = json.loads(body)["fx"]
        if asked.method == "GET":
            members["outputs"] = [
                {"url": f"http://127.0.0.1:9/{n}.flac?sig=1", "kind": f"{n}"} for n in range(self.number)
            ]
        return http(json.dumps({"fx": members}).encode(), keep=True)


@contextmanager
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the calls of each step of the loop."""
    steps, calls = list[int](), 0
    step = events.Handle._run

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def count(handle: events.Handle) -> None:
        nonlocal calls
        calls = 0
        sys.setprofile(note)
        try:
            step(handle)
        finally:
            sys.setprofile(None)
            steps.append(calls)

    with monkeypatch.context() as changed:
        changed.setattr(events.Handle, "_run", count)
        yield steps


@pytest.mark.parametrize("number", [1200, 3000])
async def test_no_answer_keeps_the_loop_from_others(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One small enough to be read by the loop itself, and one with 3,000 outputs: waited for, read again, recorded."""
    async with ManyOutputs() as api, opened(settings(api.url)) as session, Journal.open(tmp_path) as journal:
        api.number = number
        operation = await session.submit(NewFx("door", duration=1))
        with counted_steps(monkeypatch) as steps:
            ready = await session.refresh(await session.wait(operation))
            async with session.run_many([NewFx("bell", duration=1)], journal=journal) as results:
                result = await anext(results)
    assert isinstance(result, Succeeded)
    assert len(ready.outputs) == len(result.operation.outputs) == number
    assert 10 * number < max(steps) < MOST

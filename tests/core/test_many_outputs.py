"""An operation with thousands of outputs: what is done with them grows as their number does, and not as its square.

Calls are counted, of Python's functions and of those in C, not seconds. How many one step of the loop makes:
`test_loop_steps.py`.
"""

import json
import random
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import attrs
import pytest

from soundpiece_async._core import job_records, wire
from soundpiece_async._core.filenames import UniqueNames, file_names
from soundpiece_async._core.operations import Operation, Status, match_outputs
from soundpiece_async._core.requests import Handle, Output
from soundpiece_async._core.wire import ApiResponse

HANDLE = Handle("adapt.separate_stems", "op_1")

SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain": lambda n: {"url": f"https://cdn/{n}.flac?sig=a"},
    "one path": lambda _: {"url": "https://cdn/a.flac?sig=a"},
    "kinds": lambda n: {"url": "https://cdn/a.flac", "kind": f"kind {n}"},
    "one kind": lambda _: {"url": "https://cdn/a.flac", "kind": "vocals"},
    "kinds that look alike": lambda n: {"url": f"https://cdn/{n}", "kind": f"vocals{'.' * (n % 7)}"},
    "lengths": lambda n: {"url": "https://cdn/a.flac", "duration": n + 1.0},
    "pairs of lengths": lambda n: {"url": "https://cdn/a.flac", "duration": n // 2 + 1.0},
    "no path": lambda n: {"url": f"http://[{n}"},
    "kinds and none": lambda n: {"url": "https://cdn/a.flac", "kind": (None, "a", "b")[n % 3]},
}


def make(shape: str, number: int) -> tuple[Output, ...]:
    return tuple(Output(**SHAPES[shape](n), handle=HANDLE, index=n) for n in range(number))


def operation(outputs: tuple[Output, ...]) -> Operation[None]:
    return Operation(route=HANDLE.route, id=HANDLE.id, status=Status.READY, request=None, outputs=outputs)


def read(outputs: tuple[Output, ...]) -> object:
    listed = [{"url": one.url, "kind": one.kind, "duration": one.duration} for one in outputs]
    body = json.dumps({"stems": {"id": HANDLE.id, "status": "ready", "outputs": listed}}).encode()
    return lambda: wire.parse_poll_response(
        ApiResponse(200, {}, body), wire.poll_request(HANDLE, wait=False), handle=HANDLE
    )


def number_shuffled(outputs: tuple[Output, ...]) -> object:
    fresh = list(outputs)
    random.Random(1).shuffle(fresh)
    return lambda: match_outputs(fresh, outputs)


def number_others(outputs: tuple[Output, ...]) -> object:
    fresh = [attrs.evolve(output, url=f"https://other/{n}") for n, output in enumerate(outputs)]
    return lambda: match_outputs(fresh, outputs)


def name_same(outputs: tuple[Output, ...]) -> object:
    same = [attrs.evolve(output, index=0) for output in outputs]
    return lambda: file_names("take", same)


STEPS: dict[str, Callable[[tuple[Output, ...]], Any]] = {
    "read": read,
    "match outputs": number_shuffled,
    "match outputs others": number_others,
    "name": lambda outputs: lambda: file_names("take", outputs),
    "name those of one number": name_same,
    "claim": lambda outputs: lambda: UniqueNames().assign(operation(outputs), "take"),
    "write": lambda outputs: lambda: job_records.write_outputs(outputs),
    "forget what signed": lambda outputs: partial(job_records.unsign_outputs, job_records.write_outputs(outputs)),
}


def count_calls(work: Callable[[], object]) -> int:
    """Count the calls that some work makes."""
    calls = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", STEPS)
def test_ten_times_as_many_take_ten_times_as_much(step: str, shape: str) -> None:
    """Whatever they are, the same or all different."""
    few, many = (count_calls(STEPS[step](make(shape, number))) for number in (100, 1000))
    assert few
    assert many < 13 * few

"""What it costs to make an operation of the bytes of an answer, beside pydantic doing the same.

    python benchmarks/models.py            a quarter of a minute
    python benchmarks/models.py --quick    some seconds

Ours is what a session does with an answer: JSON, the envelope, the check that it is the right operation, and an
`Operation` with its outputs and all that the service said in `raw`. pydantic's is `validate_json` of a model with the
same members, datetimes and numbers among them. Both take turns in one process, with the extra `fast` (orjson) and
without; the figure is the ratio of medians. "Not yet" is a poll whose operation is still processing: no model is built.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import datetime
from itertools import cycle, islice

import _figures
import orjson
import pydantic
from _figures import Figure

from soundpiece_async import Handle, NewSong
from soundpiece_async._core import codec, wire

ID = "op_7k2q9xm4c1v8n3b5z7a0d6f1e2"
HANDLE = Handle("create.new_song", ID)
REQUEST = NewSong("[Verse]\nRain again on the window pane", prompt="synthwave, melancholic, night drive")
CALL = wire.poll_request(HANDLE, wait=True)
LOOPS = 200  # calls a slice


class Output(pydantic.BaseModel):
    """One file."""

    url: str
    expires_at: datetime | None = None
    duration: float | None = None
    kind: str | None = None


class Error(pydantic.BaseModel):
    """Why it failed."""

    code: str
    message: str


class Source(pydantic.BaseModel):
    """Where audio is."""

    url: str


class Operation(pydantic.BaseModel):
    """What the answer says."""

    id: str
    status: str
    created_at: datetime | None = None
    idempotency_key: str
    callback_url: str | None = None
    lyrics: str
    prompt: str | None = None
    reference: Source | None = None
    outputs: list[Output] | None = None
    error: Error | None = None


class Envelope(pydantic.BaseModel):
    """The answer as a whole."""

    song: Operation


def make_answer(**members: object) -> wire.ApiResponse:
    """Make the answer to a poll."""
    said = {
        "id": ID,
        "status": "processing",
        "created_at": "2026-11-22T10:00:00Z",
        **json.loads(codec.encode_request(REQUEST)),
        "callback_url": None,
        "outputs": None,
        "error": None,
        **members,
    }
    return wire.ApiResponse(200, {}, json.dumps({"song": said}, separators=(",", ":")).encode())


def make_output(number: int) -> dict[str, object]:
    """Make one file, with a URL as long as signed ones are."""
    return {
        "url": f"https://outputs.soundpiece.example/{ID}/{number}.flac?expires=1795341940&signature={'9f8e7d6c' * 8}",
        "expires_at": "2026-11-22T10:15:40Z",
        "duration": 183.42 + number,
    }


READY = make_answer(status="ready", outputs=[make_output(number) for number in range(2)])
NOT_YET = make_answer()
READERS = {"fast": codec.JsonReader(orjson.loads), "no extra": codec.JsonReader(None)}


def read_ready() -> object:
    """Read a final answer, as the poller does."""
    return wire.parse_if_final(READY, CALL, handle=HANDLE, request=REQUEST)


def read_echo() -> object:
    """Read it when only the handle is known: the request is rebuilt from the echo."""
    return wire.parse_if_final(READY, CALL, handle=HANDLE)


def read_not_yet() -> object:
    """Read one that is not."""
    return wire.parse_if_final(NOT_YET, CALL, handle=HANDLE, request=REQUEST)


def read_with_pydantic() -> object:
    """Read the final answer by pydantic."""
    return Envelope.model_validate_json(READY.body)


def take_turns(work: dict[str, Callable[[], object]], slices: int) -> dict[str, float]:
    """Run each in turn, and give the median microseconds of a call."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for name in islice(cycle(work), slices * len(work)):
        call, begun = work[name], time.process_time()
        for _ in range(LOOPS):
            call()
        taken[name].append((time.process_time() - begun) / LOOPS * 1e6)
    return {name: statistics.median(slices) for name, slices in taken.items()}


def measure(extra: str, slices: int) -> dict[str, float]:
    """Measure with one way of reading JSON."""
    codec.decode_json = READERS[extra]
    work = {"echo": read_echo, "ready": read_ready, "not yet": read_not_yet, "pydantic": read_with_pydantic}
    taken = take_turns(work, slices)
    print(f"{extra}, us: " + ", ".join(f"{name} {value:.1f}" for name, value in taken.items()), flush=True)
    return taken


def main() -> int:
    """Measure both; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="a tenth of the slices")
    options = parser.parse_args()
    print(f"{len(READY.body)} bytes, two outputs; not yet: {len(NOT_YET.body)}")
    slices = 30 if options.quick else 300
    fast, plain = measure("fast", slices), measure("no extra", slices)
    return _figures.report(
        (
            Figure.at_most("fast: an operation, to pydantic", 2.3, fast["ready"] / fast["pydantic"]),
            Figure.at_most("fast: not yet, to pydantic", 0.5, fast["not yet"] / fast["pydantic"]),
            Figure.at_most("no extra: an operation, to pydantic", 2.5, plain["ready"] / plain["pydantic"]),
        ),
        options,
    )


if __name__ == "__main__":
    sys.exit(main())

"""The examples, each run as it is against a simulated service."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import attrs
import pytest
from leftovers import until

from soundpiece_async import NewFx, Session, Settings
from soundpiece_async.simulator import Fault, Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soundpiece_environ")]

EXAMPLES = Path(__file__).parent.parent / "examples"
Streams = pytest.CaptureFixture[str]


def load(name: str) -> Any:
    """Load an example as a module, as its file stands."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.soundpiece(credits=2)
async def test_a_bulk_run_goes_on(soundpiece_simulator: Simulator, tmp_path: Path, capsys: Streams) -> None:
    """What an empty account left over is made by the same command, and nothing is made again."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("door slams\n\nthunder\nfootsteps\n")
    bulk = load("bulk")
    assert await bulk.main(prompts, out) == 1
    written, told = capsys.readouterr()
    assert written.count("\n") == 3
    assert "run the same command again" in told

    soundpiece_simulator.top_up(9)
    assert await bulk.main(prompts, out) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {prompt for _, prompt in lines} == {"door slams", "thunder", "footsteps"}
    assert sorted(Path(path) for path, _ in lines) == sorted(out.glob("*.flac"))
    assert soundpiece_simulator.statistics().operations == 3


async def test_a_pipeline_saves_every_cut(tmp_path: Path, capsys: Streams) -> None:
    """Two tracks, four stems of each, under names that people understand."""
    await load("pipeline").main(tmp_path, ["ambient, slow", "house"], seconds=0.2)
    kinds = ("bass", "drums", "other", "vocals")
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{prompt}-{kind}.flac" for prompt in ("ambient, slow", "house") for kind in kinds
    }
    assert capsys.readouterr().out.count(".flac") == 8


async def test_a_receiver_saves_what_is_announced(
    soundpiece_settings: Settings, soundpiece_simulator: Simulator, free_port: int, tmp_path: Path, capsys: Streams
) -> None:
    """News of others' work; what failed, and what cannot be had, is said."""
    written: list[str] = []

    def read() -> int:
        written.extend(capsys.readouterr().out.splitlines())
        return len(written)

    receiver = asyncio.create_task(load("receiver").main(tmp_path, port=free_port))
    await until(lambda: read() == 1)
    url = written.pop().partition(" at ")[2]
    async with Session(attrs.evolve(soundpiece_settings, validate=False)) as session:  # the real service needs https
        good = await session.submit(NewFx("door slams", duration=0.3, callback_url=url))
        await until(lambda: read() == 1)
        soundpiece_simulator.inject(Fault.FAIL)
        bad = await session.submit(NewFx("door slams", duration=0.3, callback_url=url))
        await until(lambda: read() == 2)
        soundpiece_simulator.inject(Fault.CORRUPT, host="output", at=0, times=9)
        lost = await session.submit(NewFx("door slams", duration=0.3, callback_url=url))
        await until(lambda: read() == 3)
    receiver.cancel()
    await asyncio.wait([receiver])
    assert written.pop().startswith(f"missing\t{lost.handle}\t")
    assert written == [
        f"saved\t{good.handle}\t{tmp_path / good.id}.flac",
        f"failed\t{bad.handle}\tinternal_error: The operation could not be completed.",
    ]

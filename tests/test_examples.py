"""The examples, each run as it is against a simulated service."""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from helpers.idle import until
from helpers.object_stores import BUCKET, serve_bucket

from soundpiece_async import NewFx, Session, Settings
from soundpiece_async.simulator import Fault, Simulator

if TYPE_CHECKING:
    import mcp
    from mcp_types import ResourceLink

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


async def test_a_pipeline_saves_every_cut(soundpiece_simulator: Simulator, tmp_path: Path, capsys: Streams) -> None:
    """Two tracks, four stems of each, under names that people understand; a failure is reported."""
    pipeline = load("pipeline")
    assert await pipeline.main(tmp_path, ["ambient, slow", "house"], seconds=0.2) == 0
    kinds = ("bass", "drums", "other", "vocals")
    assert {path.name for path in tmp_path.glob("*.flac")} == {
        f"{prompt}-{kind}.flac" for prompt in ("ambient, slow", "house") for kind in kinds
    }
    assert capsys.readouterr().out.count(".flac") == 8
    soundpiece_simulator.inject(Fault.FAIL)
    assert await pipeline.main(tmp_path, ["ambient, slow", "jazz"], seconds=0.2) == 1
    assert capsys.readouterr().err.startswith("failed  jazz: operation create.new_instrumental/op_")
    assert soundpiece_simulator.statistics().operations == 13


async def test_the_best_take_is_remixed(soundpiece_simulator: Simulator, tmp_path: Path, capsys: Streams) -> None:
    """All takes are saved, and the function of the user chooses one of them."""
    lyrics, out = tmp_path / "lyrics", tmp_path / "out"
    lyrics.mkdir()
    (lyrics / "home.txt").write_text("[Verse]\nHome again")
    best_take = load("best_take")
    assert await best_take.main(lyrics, out) == 0
    assert {path.name for path in out.rglob("*.flac")} == {"home-1.flac", "home-2.flac", "home-remix.flac"}
    (lyrics / "lost.txt").write_text("[Verse]\nLost again")
    soundpiece_simulator.inject(Fault.FAIL)
    assert await best_take.main(lyrics, out) == 1
    assert capsys.readouterr().err.startswith("failed  lost: operation create.new_song/op_")
    assert soundpiece_simulator.statistics().operations == 3


async def test_a_folder_is_split(
    soundpiece_simulator: Simulator, tmp_path: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is known by its content: under another name it is neither uploaded nor paid for again."""
    mix, out = tmp_path / "mix.wav", tmp_path / "out"
    mix.write_bytes(bytes(1000))
    folder_stems = load("folder_stems")
    with serve_bucket() as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        assert await folder_stems.main([mix], f"s3://{BUCKET}/inbox", out) == 0
        mix = mix.rename(tmp_path / "final mix.wav")
        assert await folder_stems.main([mix], f"s3://{BUCKET}/inbox", out) == 0
        assert len(bucket.objects) == 1
        assert soundpiece_simulator.statistics().operations == 1
        assert {path.name for path in out.glob("*.flac")} == {
            f"mix-{kind}.flac" for kind in ("bass", "drums", "other", "vocals")
        }
        soundpiece_simulator.inject(Fault.FAIL)
        mix.write_bytes(bytes(999))
        assert await folder_stems.main([mix], f"s3://{BUCKET}/inbox", out) == 1
        assert capsys.readouterr().err.startswith("failed  final mix: operation adapt.separate_stems/op_")


async def test_a_receiver_saves_what_is_announced(
    soundpiece_settings: Settings, soundpiece_simulator: Simulator, free_port: int, tmp_path: Path, capsys: Streams
) -> None:
    """Deliveries of other processes' operations; failures and missing files are printed."""
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


async def call(client: "mcp.Client", tool: str, **arguments: Any) -> "tuple[str, list[ResourceLink]]":
    """Call a tool; gives the handle and the links of its result."""
    from mcp_types import ResourceLink, TextContent  # loading it takes a second

    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    text, *links = result.content
    assert isinstance(text, TextContent)
    return text.text.removeprefix("handle: "), [link for link in links if isinstance(link, ResourceLink)]


async def test_an_assistant_makes_music(soundpiece_simulator: Simulator, tmp_path: Path) -> None:
    """With the protocol's own client, over stdio: files as links, results as sources, and errors in words."""
    import mcp  # loading it takes a second

    server = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-W", "error", str(EXAMPLES / "mcp_server.py"), str(tmp_path)],
        env={**os.environ, **soundpiece_simulator.environ},
    )
    told: list[Any] = []

    async def note(*progress: float | str | None) -> None:
        told.append(progress[2])

    async with mcp.Client(server) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"make_song", "make_effect", "separate_stems", "cut_down", "fetch"}
        song, takes = await call(client, "make_song", prompt="folk", lyrics="[Verse]\nHome again")
        assert len(takes) == 2
        for link in takes:
            path = Path(str(link.uri).removeprefix("file://"))
            assert (path.parent, path.stat().st_size, link.mime_type) == (tmp_path, link.size, "audio/flac")
        _, stems = await call(client, "separate_stems", handle=song, output=1)
        assert {str(link.description).partition(",")[0] for link in stems} == {"vocals", "drums", "bass", "other"}
        _, (cut,) = await call(client, "cut_down", handle=song, seconds=1)
        assert str(cut.description).startswith("audio, ")
        assert await call(client, "fetch", handle=song) == (song, takes)

        effect = {"prompt": "door slams", "seconds": 1}
        soundpiece_simulator.inject(Fault.FAIL)
        failed = await client.call_tool("make_effect", effect, progress_callback=note)
        assert failed.is_error
        assert "(handle: create.new_fx/op_" in str(failed.content)
        assert "has been running for 0 s" in str(told[0])
        for tool, arguments, words in (
            ("make_effect", {"prompt": "", "seconds": 1}, "prompt"),
            ("cut_down", {"handle": song, "seconds": 1, "output": 9}, "has 2 files"),
            ("fetch", {"handle": "nonsense"}, "handle"),
        ):
            refused = await client.call_tool(tool, arguments)
            assert refused.is_error
            assert words in str(refused.content)
    assert soundpiece_simulator.statistics().operations == 4

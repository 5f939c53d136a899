import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Literal

import anyio
import anyio.lowlevel
import attrs
import pytest
from helpers.download_bench import (
    KEPT,
    PATH,
    SHORT,
    SHORT_TOO,
    Bench,
    CancelAt,
    bench,
    flac_like,
    leave,
)
from helpers.idle import until
from helpers.raw_output_host import RawServer, ScriptedResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soundpiece_async._core.errors import SoundpieceError

pytestmark = pytest.mark.anyio

acts = st.builds(
    ScriptedResponse,
    status=st.none() | st.none() | st.none() | st.sampled_from([200, 204, 301, 403, 404, 416, 429, 500]),
    body=st.sampled_from([None, None, None, SHORT_TOO]),
    etag=st.sampled_from(["(the body's own)"] * 4 + [None, 'W/"weak"']),
    framing=st.sampled_from(["length", "length", "chunked", "close"]),
    ranges=st.sampled_from([True, True, False]),
    shift=st.sampled_from([0, 0, 0, 1, -1]) | st.integers(-len(SHORT), len(SHORT)),
    most=st.none() | st.integers(1, len(SHORT)),
    announce=st.sampled_from([0, 0, 0, 1, 2]),
    total=st.booleans(),
    excess=st.sampled_from([b"", b"", b"junk", SHORT[:1000]]),
    cut=st.none() | st.integers(0, len(SHORT)),
    stall=st.sampled_from([0.0, 0.0, 0.02, 0.02, 1.0]),
    reset=st.booleans(),
)

# a host that puts junk inside a body of unannounced length says that it belongs to the file, and so does one that
# announces too much and fills it with junk: nobody can know better
acts = acts.map(lambda act: attrs.evolve(act, excess=b"") if act.framing == "chunked" or act.announce else act)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(acts, max_size=8), before=st.none() | st.integers(0, len(SHORT)))
def test_a_file_is_whole_or_not_there(script: list[ScriptedResponse], before: int | None) -> None:
    """Whatever the host does: after a return the file is one of its files to the last byte, after an error none."""

    async def play(folder: Path) -> None:
        async with bench(folder, *script, files={PATH: SHORT}, read=0.04) as b:
            if before is not None:
                leave(b, SHORT[:before], size=len(SHORT), etag=f'"{hashlib.sha256(SHORT).hexdigest()[:16]}"')
            try:
                data = await b.save()
            except SoundpieceError:
                assert not b.target.exists()
            else:
                assert data in (SHORT, SHORT_TOO), script

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(play, Path(folder))


def open_files(folder: Path) -> list[str]:
    """The files below a folder that this process has open, where the system tells."""
    links = []
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            links.append(str(entry.readlink()))
        except OSError:
            continue
    return [link for link in links if link.startswith(str(folder))]


@pytest.mark.parametrize("way", ["task", "scope"])
@pytest.mark.parametrize("there", [False, True])
async def test_cancelled_anywhere_it_leaves_only_what_can_be_continued(
    tmp_path: Path,
    way: Literal["task", "scope"],
    there: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    """Cancelled at any of its waits, by asyncio or by a scope, it leaves no handle, lock, stream or foreign file."""
    turn, finished = 0, False
    while not finished:
        turn += 1
        async with bench(
            tmp_path / str(turn), ScriptedResponse(cut=10_000), ScriptedResponse(status=403), files={PATH: SHORT}
        ) as b:
            if there:
                b.target.parent.mkdir(parents=True)
                b.target.write_bytes(SHORT)
            finished = await asyncio.create_task(save_until(b, turn=turn, way=way))
            for _ in range(100):  # a look at a file that is there may still be under way in its thread
                if not open_files(tmp_path):
                    break
                await anyio.sleep(0.01)
            assert not open_files(tmp_path)
            assert b.downloader.active_streams == b.downloader._threads.borrowed_tokens == 0
            assert b.left() in ([], ["song.flac"], KEPT)
            assert not b.target.exists() or b.target.read_bytes() == SHORT
            assert await b.save() == SHORT
            assert not b.downloader._targets
    assert turn > 10


async def save_until(b: Bench, *, turn: int, way: str) -> bool:
    """Save, cancelled at a turn; True when it came to its end before."""
    task = asyncio.current_task()
    assert task is not None
    with anyio.CancelScope() as scope:
        try:
            await CancelAt(b.save(), turn=turn, cancel=task.cancel if way == "task" else scope.cancel)
        except asyncio.CancelledError:
            if way == "scope":
                raise
            task.uncancel()
            return False
    return not scope.cancel_called


CHILD = """
    import sys
    import anyio
    from pathlib import Path
    from helpers.download_bench import transport
    from soundpiece_async._core.requests import Handle, Output
    from soundpiece_async._download.downloader import Downloader

    async def main(origin, folder):
        async def renew(output):
            return output

        async with transport(read=5) as network, anyio.create_task_group() as group:
            downloader = Downloader(stream=network.stream, renew=renew, limit=8)
            for number in range(50):
                output = Output(url=f"{origin}/{number}", handle=Handle("create.new_song", "op_1"), index=number)
                group.start_soon(downloader.save, output, Path(folder, f"{number}.flac"))

    anyio.run(main, *sys.argv[1:])
"""


@pytest.mark.timeout(60)
async def test_killed_in_the_middle_of_fifty_it_goes_on(tmp_path: Path) -> None:
    """After kill -9 no file is torn, and the second run fetches little twice."""
    files = {f"/{number}": flac_like(150_000, seed=number) for number in range(50)}
    total = sum(map(len, files.values()))
    async with RawServer(files, default=ScriptedResponse(pause=0.003)) as server:
        command = [sys.executable, "-c", textwrap.dedent(CHILD), server.url("", "").rstrip("?"), str(tmp_path)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        }
        async with await anyio.open_process(command, env=environment, stderr=subprocess.PIPE) as child:
            await until(lambda: server.sent >= total // 2 or child.returncode is not None)
            child.send_signal(signal.SIGKILL)
        assert 0 < sum(path.suffix == ".flac" for path in tmp_path.iterdir()) < 50
        for path in tmp_path.glob("*.flac"):
            assert path.read_bytes() == files[f"/{path.stem}"]

        await anyio.run_process(command, env=environment)

        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            f"{name[1:]}.flac": data for name, data in files.items()
        }
        assert server.sent < 1.2 * total

"""What it costs to bring 1 GB, or small files, to disk: our downloader beside curl and the usual recipes.

    python benchmarks/downloading.py                      1 GB, 3 rounds, 8 streams: some minutes
    python benchmarks/downloading.py --quick              a quarter of it, one round
    python benchmarks/downloading.py --streams 32 --folder /mnt/disk
    python benchmarks/downloading.py --only small

Needs nginx (Debian: ``apt-get install nginx-light``; it is started here, on a free port of loopback) and curl; httpx
(``pip install httpx``) joins in when it is there. 64 files of 16 MiB, a FLAC header before noise, go through loopback
to a real disk, each client in a process of its own. Rounds alternate between the clients; before each the files of the
last one are deleted and the disk is synced. Loop lag is how late a ticker of 5 ms wakes on the client's own event loop.

Small files are saved in one process, 200 by the downloader and 200 by the bare way in turns: one GET, then one thread
that locks, writes, syncs and renames.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import getpass
import hashlib
import json
import math
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _figures
import aiofiles
import aiohttp
import anyio
import anyio.to_thread
import attrs
from _figures import Figure

from soundpiece_async import Settings
from soundpiece_async._core.requests import Handle, Output
from soundpiece_async._download import partfile
from soundpiece_async._download.downloader import THREADS, Downloader
from soundpiece_async._transport import Transport

SIZE = 16 << 20
SMALL = 42_000
SLICE = 200
CHUNK = 64 << 10
BATCH = 1 << 20
TICK = 0.005
CURL, HTTPX, RECIPE, BARE, OURS = "curl --parallel", "httpx + aiofiles", "aiohttp + aiofiles", "ours, no hash", "ours"
FLOOR = "aiohttp, batches"
Row = dict[str, float]
GOALS: tuple[tuple[str, str, Callable[[Row, dict[str, Row]], float], float], ...] = (
    (OURS, "CPU / curl's", lambda row, rows: row["cpu"] / rows[CURL]["cpu"], 1.5),
    (OURS, "lag p99, ms", lambda row, _: row["lag_p99"], 15),
    (OURS, "RSS, MB", lambda row, _: row["rss"], 80),
    (BARE, "CPU / curl's", lambda row, rows: row["cpu"] / rows[CURL]["cpu"], 1.2),
    (BARE, "CPU / that of aiohttp in batches", lambda row, rows: row["cpu"] / rows[FLOOR]["cpu"], 1.2),
    (BARE, "CPU / the recipe's", lambda row, rows: row["cpu"] / rows[RECIPE]["cpu"], 0.5),
    (BARE, "CPU / httpx's", lambda row, rows: row["cpu"] / rows[HTTPX]["cpu"] if HTTPX in rows else math.nan, 0.25),
    (BARE, "lag p99, ms", lambda row, _: row["lag_p99"], 10),
    (BARE, "RSS, MB", lambda row, _: row["rss"], 80),
)


@attrs.frozen
class Job:
    """What one client has to do."""

    origin: str
    folder: str
    files: int
    streams: int

    def pairs(self) -> list[tuple[str, Path]]:
        """Where from, and where to."""
        return [(f"{self.origin}/{number}.flac", Path(self.folder, f"{number}.flac")) for number in range(self.files)]


async def fetch_with_httpx(job: Job) -> None:
    """Stream into aiofiles, as httpx's documentation shows."""
    import httpx  # only when it is there

    slots = anyio.CapacityLimiter(job.streams)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=job.streams)) as client:

        async def fetch(url: str, path: Path) -> None:
            async with slots, client.stream("GET", url) as response, aiofiles.open(path, "wb") as file:
                async for chunk in response.aiter_bytes():
                    await file.write(chunk)

        await fetch_all(job, fetch)


async def fetch_with_recipe(job: Job) -> None:
    """Stream into aiofiles in chunks of 64 KiB, as most code with aiohttp does."""
    slots = anyio.CapacityLimiter(job.streams)
    async with aiohttp.ClientSession() as session:

        async def fetch(url: str, path: Path) -> None:
            async with slots, session.get(url) as response, aiofiles.open(path, "wb") as file:
                async for chunk in response.content.iter_chunked(CHUNK):
                    await file.write(chunk)

        await fetch_all(job, fetch)


async def fetch_in_batches(job: Job) -> None:
    """Write a MiB in a thread while the next one is read, then sync: the least that a body of aiohttp costs."""
    slots, loop = anyio.CapacityLimiter(job.streams), asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:

        async def fetch(url: str, path: Path) -> None:
            async with slots, session.get(url) as response:
                with path.open("wb", buffering=0) as file:
                    batch: list[bytes] = []
                    size, writing = 0, loop.run_in_executor(None, os.writev, file.fileno(), [b""])
                    async for block in response.content.iter_any():
                        batch.append(block)
                        size += len(block)
                        if size >= BATCH:
                            await writing
                            writing, batch, size = loop.run_in_executor(None, os.writev, file.fileno(), batch), [], 0
                    await writing
                    await loop.run_in_executor(None, os.writev, file.fileno(), batch)
                    await loop.run_in_executor(None, os.fsync, file.fileno())

        await fetch_all(job, fetch)


async def fetch_with_ours(job: Job) -> None:
    """Save as a session does: resumable, checked, synced, renamed."""

    async def renew(output: Output) -> Output:
        return output

    async with Transport(Settings(api_key="spk_none", base_url="http://localhost")) as transport:
        downloader = Downloader(stream=transport.stream, renew=renew, limit=job.streams)

        async def fetch(url: str, path: Path) -> None:
            await downloader.save(Output(url=url, handle=Handle("create.new_song", path.stem)), path)

        await fetch_all(job, fetch)


async def fetch_without_hash(job: Job) -> None:
    """Save as a session does, but for the sha256: what the transfer alone costs."""
    nothing = types.SimpleNamespace(update=lambda _: None, hexdigest=lambda: "")
    vars(partfile)["hashlib"] = types.SimpleNamespace(sha256=lambda: nothing, file_digest=lambda *_: nothing)
    await fetch_with_ours(job)


async def fetch_all(job: Job, fetch: Callable[[str, Path], Coroutine[Any, Any, None]]) -> None:
    """Start everything at once; the client bounds its streams."""
    async with anyio.create_task_group() as group:
        for url, path in job.pairs():
            group.start_soon(fetch, url, path)


CLIENTS = {
    HTTPX: fetch_with_httpx,
    RECIPE: fetch_with_recipe,
    FLOOR: fetch_in_batches,
    BARE: fetch_without_hash,
    OURS: fetch_with_ours,
}


async def measure(client: str, job: Job) -> dict[str, float]:
    """Run a client beside the ticker, and give what it used up."""
    lags: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            lags.append(time.perf_counter() - due)

    ticker = asyncio.create_task(tick())
    cpu, wall = time.process_time(), time.perf_counter()
    await CLIENTS[client](job)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    ticker.cancel()
    lags.sort()
    return {
        "cpu": cpu,
        "wall": wall,
        "rss": peak_rss(),
        "lag_p99": lags[int(len(lags) * 0.99)] * 1000,
        "lag_max": lags[-1] * 1000,
    }


async def measure_small(job: Job) -> list[tuple[float, float]]:
    """Save slices of small files, ours and bare in turns; return the CPU seconds of each pair."""
    threads, pairs = anyio.CapacityLimiter(THREADS), []

    async def renew(output: Output) -> Output:
        return output

    async with (
        Transport(Settings(api_key="spk_none", base_url="http://localhost")) as transport,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=job.streams)) as session,
    ):
        downloader = Downloader(stream=transport.stream, renew=renew, limit=job.streams)

        async def save(url: str, path: Path) -> None:
            await downloader.save(Output(url=url, handle=Handle("create.new_fx", path.stem)), path)

        async def save_bare(url: str, path: Path) -> None:
            async with session.get(url) as response:
                body = await response.read()
            await anyio.to_thread.run_sync(keep, path, body, limiter=threads)

        for _ in range(job.files + 1):
            ours, bare = [await measure_slice(job, fetch) for fetch in (save, save_bare)]
            pairs.append((ours, bare))
    return pairs[1:]  # the first one opens connections


async def measure_slice(job: Job, fetch: Callable[[str, Path], Coroutine[Any, Any, None]]) -> float:
    """Return the CPU seconds of one slice of small files."""
    empty(job.folder)
    gc.collect()
    begun = time.process_time()
    async with anyio.create_task_group() as group:
        for number in range(SLICE):
            group.start_soon(fetch, f"{job.origin}/0.flac", Path(job.folder, f"{number}.flac"))
    return time.process_time() - begun


def keep(path: Path, body: bytes) -> None:
    """Lock, write, sync and rename: what makes a file whole and durable."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(body)
        os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def compare_small(job: Job) -> Iterator[Figure]:
    """Print what small files cost, and yield the figures."""
    words = [sys.executable, __file__, "--small", "--job", json.dumps(attrs.asdict(job))]
    answer = subprocess.run(words, stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own words
    pairs = json.loads(answer.stdout)
    ours, bare = (statistics.median(column) / SLICE * 1000 for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"\na file of {SMALL} bytes: {ours:.2f} ms of CPU, bare {bare:.2f}, ratio {ratio:.2f}")
    yield Figure.at_most("a small file: ms of CPU", 1.4, ours)
    yield Figure("a small file: CPU / the bare way's", "-", f"{ratio:.2f}", None)


def peak_rss() -> float:
    """Return the peak memory of this program, in MB; what rusage says includes the process that started it."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else math.nan


def run_curl(job: Job) -> dict[str, float]:
    """Download everything with curl, and return its usage."""
    lines = "".join(f'url = "{url}"\noutput = "{path}"\n' for url, path in job.pairs())
    command = ["curl", "--silent", "--fail", "--parallel", "--parallel-max", str(job.streams), "--config", "-"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own words
    assert process.stdin is not None  # noqa: S101 - for type checkers: it was asked for above
    process.stdin.write(lines.encode())
    process.stdin.close()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"curl failed with {process.returncode}")
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - started,
        "rss": math.nan,
        "lag_p99": math.nan,
        "lag_max": math.nan,
    }


def empty(folder: str) -> None:
    """Make an empty, quiet folder."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir()
    os.sync()


def run_round(client: str, job: Job) -> dict[str, float]:
    """Run one client on an empty, quiet folder, and see that it did its work."""
    empty(job.folder)
    if client == CURL:
        row = run_curl(job)
    else:
        words = [sys.executable, __file__, "--client", client, "--job", json.dumps(attrs.asdict(job))]
        answer = subprocess.run(words, stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own words
        row = json.loads(answer.stdout)
    if sum(path.stat().st_size for path in Path(job.folder).glob("*.flac")) != job.files * SIZE:
        raise SystemExit(f"{client} did not bring everything")
    return row


def make_files(folder: Path, count: int, *, size: int = SIZE) -> None:
    """Make bodies a downloader takes for FLAC: a header of 44.1 kHz stereo before noise."""
    folder.mkdir(parents=True)
    noise = random.Random(0).randbytes(size - 42)
    packed = 44_100 << 44 | 1 << 41 | 15 << 36 | 44_100 * 60
    for number in range(count):
        md5 = hashlib.sha256(str(number).encode()).digest()[:16]
        head = b"fLaC\x80\0\0\x22\x10\0\x10\0" + bytes(6) + packed.to_bytes(8) + md5
        (folder / f"{number}.flac").write_bytes(head + noise)


@contextlib.contextmanager
def serve(folder: Path, *, program: str) -> Iterator[str]:
    """Serve a folder with nginx on a free port of loopback, and yield its origin."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder.with_name("nginx.conf")
    config.write_text(
        f"user {getpass.getuser()}; daemon off; worker_processes 1; pid {folder}.pid; error_log {folder}.log;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    server = subprocess.Popen([program, "-e", f"{folder}.log", "-c", str(config)])  # noqa: S603 - found above
    try:
        for _ in range(100):
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def show(rows: dict[str, dict[str, float]], *, size: int) -> None:
    """Print the medians, and how they stand to the goals."""
    print(f"{'':20} {'CPU s':>7} {'/ curl':>7} {'MB/s':>7} {'RSS MB':>7} {'lag p99':>8} {'max ms':>7}")
    for client, row in rows.items():
        print(
            f"{client:20} {row['cpu']:7.2f} {row['cpu'] / rows[CURL]['cpu']:7.2f} {size / row['wall'] / 1e6:7.0f} "
            f"{row['rss']:7.0f} {row['lag_p99']:8.1f} {row['lag_max']:7.1f}"
        )


def measure_goals(rows: dict[str, dict[str, float]]) -> Iterator[Figure]:
    """Compare with what is promised; httpx may be missing."""
    for client, what, read, goal in GOALS:
        if not math.isnan(value := read(rows[client], rows)):
            yield Figure.at_most(f"{client}: {what}", goal, value)


def main() -> int:
    """Read the command line, and run the rounds; 1 when a goal is missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _figures.add_options(options, quick="16 files, one round")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--streams", type=int, default=8)
    options.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to write to")
    options.add_argument("--only", choices=["large", "small"])
    options.add_argument("--client", help=argparse.SUPPRESS)
    options.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--job", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.client:
        print(json.dumps(asyncio.run(measure(chosen.client, Job(**json.loads(chosen.job))))))
        return 0
    if chosen.small:
        print(json.dumps(asyncio.run(measure_small(Job(**json.loads(chosen.job))))))
        return 0
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or shutil.which("curl") is None:
        return _figures.skip("this needs curl and nginx: apt-get install curl nginx-light", chosen)
    files, rounds, slices = (16, 1, 3) if chosen.quick else (64, chosen.rounds, 15)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="downloading-") as place:
        Path(place).chmod(0o755)
        served, saved = Path(place, "served"), str(Path(place, "saved"))
        make_files(served / "small", 1, size=SMALL)
        make_files(served / "large", files)
        with serve(served, program=nginx) as origin:
            if chosen.only != "small":
                figures += compare_large(Job(f"{origin}/large", saved, files, chosen.streams), rounds=rounds)
            if chosen.only != "large":
                figures += compare_small(Job(f"{origin}/small", saved, slices, chosen.streams))
    return _figures.report(figures, chosen)


def compare_large(job: Job, *, rounds: int) -> Iterator[Figure]:
    """Run the rounds, print their medians, and yield the figures."""
    clients = [client for client in (CURL, *CLIENTS) if client != HTTPX or find_spec("httpx")]
    found: dict[str, list[dict[str, Any]]] = {client: [] for client in clients}
    for _ in range(rounds):
        for client in clients:
            found[client].append(run_round(client, job))
    medians = {
        client: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for client, rows in found.items()
    }
    show(medians, size=job.files * SIZE)
    yield from measure_goals(medians)


if __name__ == "__main__":
    sys.exit(main())

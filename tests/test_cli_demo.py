"""The demo and the simulated service as processes: what they leave behind, with and without a terminal, and signals."""

import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import soundfile

from soundpiece_async import Statistics, simulator
from soundpiece_async._core.requests import ROUTES
from soundpiece_async.cli import demo, main
from soundpiece_async.cli.demo import DemoDisplay, DemoStage
from soundpiece_async.cli.demo_plan import DEMO_ITEMS

READY = "ready to be interrupted"
PROGRAM = f"""
import sys
from soundpiece_async.cli import main
print({READY!r}, file=sys.stderr, flush=True)
sys.exit(main())
"""


PYTHON = (sys.executable, "-W", "default")
CONTROL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(2, termios.TIOCSCTTY, 0)
os.execv(sys.executable, sys.argv[1:])
"""
CONTROLLED = (sys.executable, "-c", CONTROL, *PYTHON)
"""With standard error, a terminal, as the one whose closing is a SIGHUP."""


@contextmanager
def soundpiece(
    *arguments: str, folder: Path, errors: int = subprocess.PIPE, start: Sequence[str] = PYTHON
) -> Iterator["subprocess.Popen[str]"]:
    """Start the command line as a process in a folder, and yield when its first instruction is the next."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [*start, "-c", PROGRAM, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=os.environ | {"TERM": "xterm"},
    )
    with process:
        try:
            if process.stderr is not None:
                assert process.stderr.readline().strip() == READY
            yield process
        finally:
            process.kill()


@attrs.frozen
class End:
    """How a process ended."""

    code: int
    out: str
    err: str


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals) -> End:
    """Send a signal, and see how the process ends."""
    process.send_signal(number)
    out, err = process.communicate(timeout=80)
    return End(process.returncode, out, err)


def test_plan() -> None:
    """The demo has 24 requests across all eight routes, no name is a prefix of another, and each source exists."""
    names = [item.name for item in DEMO_ITEMS]
    assert len(names) == 24
    assert not [(one, two) for one in names for two in names if one != two and one.startswith(two)]
    assert {item.make(*["https://x.example"] * (item.after is not None)).route for item in DEMO_ITEMS} == set(ROUTES)
    for number, item in enumerate(DEMO_ITEMS):
        assert item.after is None or item.after in names[:number]


@pytest.mark.parametrize("interactive", ["0", "1"])
def test_demo(
    interactive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A demo saves decodable files of every request, leaves no partial files, and prints plain lines."""
    monkeypatch.setattr(demo, "SPEED", 100.0)
    monkeypatch.setattr(demo, "TRACK_SECONDS", (1.0, 1.5))
    monkeypatch.setattr(demo, "DOWNLOAD_RATE", 2e5)
    monkeypatch.setattr(demo, "LINE_INTERVAL", 0.2)
    monkeypatch.setenv("TTY_COMPATIBLE", interactive)
    monkeypatch.setenv("TTY_INTERACTIVE", interactive)
    assert main(["demo", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    err = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", err)
    names = {path.name for path in tmp_path.iterdir()}
    assert {path.suffix for path in tmp_path.iterdir()} == {".flac"}
    for item in DEMO_ITEMS:
        assert [name for name in names if name.startswith(item.name)]
        assert f"\n {item.name} " in out
        assert re.search(rf"{item.name} +done +waited [\d.]+ s, \d files?, [\d.]+ [kM]B$", err, re.MULTILINE)
    assert all(len(soundfile.read(path)[0]) > 0 for path in tmp_path.iterdir())
    for route in ROUTES:
        assert f" {route} " in out
    last = out.splitlines()[-1]
    took, waits = re.fullmatch(
        rf"24 requests, {len(names)} files, [\d.]+ MB in ([\d.]+) s, .*; the waits alone add up to ([\d.]+) s", last
    ).groups()  # type: ignore[union-attr]  # None is a failure too
    assert float(took) > 0
    assert float(waits) > 0
    assert re.search(r" downloading +\d files?, no bytes yet", err)
    assert any(len(sizes) > 1 for sizes in grown(err).values())


def grown(text: str) -> dict[str, list[float]]:
    """Return the different byte counts that were shown of each request during its download, smallest first."""
    sizes: dict[str, list[float]] = {}
    for name, number, unit in re.findall(r"(\S+) +downloading +\d files?, ([\d.]+) ([kM])B", text):
        shown = float(number) * {"k": 1e3, "M": 1e6}[unit]
        if shown not in sizes.setdefault(name, []):
            sizes[name].append(shown)
    assert all(shown == sorted(shown) for shown in sizes.values())
    return sizes


@pytest.mark.parametrize(
    ("moment", "number"),
    [(0.05, signal.SIGINT), (0.6, signal.SIGTERM), (1.8, signal.SIGHUP)],
)
def test_interrupted_demo(moment: float, number: signal.Signals, tmp_path: Path) -> None:
    """At any moment: one word, code 130, only complete files, and nothing else."""
    with soundpiece("demo", folder=tmp_path) as process:
        time.sleep(moment)
        end = interrupt(process, number)
    assert (end.code, end.out) == (130, "")
    assert end.err.splitlines()[-1] == "interrupted"
    assert not re.search("Traceback|Warning|Exception|never", end.err), end.err
    for path in tmp_path.glob("*/*"):
        assert path.suffix == ".flac"
        assert len(soundfile.read(path)[0]) > 0


def test_interrupted_on_a_terminal(tmp_path: Path) -> None:
    """An interrupted demo restores the cursor of the terminal."""
    terminal, far_end = pty.openpty()
    with soundpiece("demo", folder=tmp_path, errors=far_end) as process:
        os.close(far_end)
        shown = b""
        while b"generating" not in shown:
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # how a terminal says that nobody is at its far end
            while chunk := os.read(terminal, 4096):
                shown += chunk
        assert process.wait(timeout=80) == 130
    os.close(terminal)
    assert shown.rstrip().endswith(b"interrupted")
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert not list(tmp_path.glob("*/*.part*"))


def test_closed_terminal(tmp_path: Path) -> None:
    """After the terminal is closed it cleans up without a message."""
    terminal, far_end = pty.openpty()
    with soundpiece("demo", folder=tmp_path, errors=far_end, start=CONTROLLED) as process:
        os.close(far_end)
        shown = b""
        while not list(tmp_path.glob("*/*.part")):
            shown += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait(timeout=80) in {1, 130}  # whichever came first, a picture for nobody or the signal
    assert not list(tmp_path.glob("*/*.part*"))


def test_demo_under_nohup(tmp_path: Path) -> None:
    """It continues after the terminal is closed."""
    with soundpiece("simulate", folder=tmp_path, start=("nohup", *PYTHON)) as process:
        assert process.stdout is not None
        assert "KEY" in process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        assert interrupt(process, signal.SIGTERM).code == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulate(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The simulated service prints how to connect, serves until it is interrupted, and stops cleanly."""
    variations = ("--variation", "envelope=renamed", "--variation", "submit=202")
    with soundpiece("simulate", "--speed", "500", "--seed", "7", *variations, folder=tmp_path) as process:
        assert process.stdout is not None
        for expected in ("SOUNDPIECE_API_KEY", "SOUNDPIECE_BASE_URL", "SOUNDPIECE_WEBHOOK_SECRET"):
            export, name, value = re.split("[ =]", process.stdout.readline().strip(), maxsplit=2)
            assert (export, name) == ("export", expected)
            monkeypatch.setenv(name, value)
        assert main(["run", "create.new_fx", "--prompt", "rain", "--duration", "1", "--save-to", str(tmp_path)]) == 0
        assert len(soundfile.read(capsys.readouterr().out.strip())[0]) == 44100
        ending = interrupt(process, number)
        assert (ending.code, ending.out) == (130, "")
        assert "500 times as fast as the real one; Ctrl-C stops it\n" in ending.err
        assert ending.err.endswith("interrupted\n")


def test_simulate_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the simulated service is flushed at once, so that a program can wait for it."""
    to_come = ["export SOUNDPIECE_API_KEY=", "export SOUNDPIECE_BASE_URL=", "export SOUNDPIECE_WEBHOOK_SECRET="]
    asked: dict[str, Any] = {}
    make = simulator.Simulator

    def remember(**options: Any) -> simulator.Simulator:
        asked.update(options)
        return make(**options)

    monkeypatch.setattr(simulator, "Simulator", remember)

    class Reader(io.StringIO):
        def flush(self) -> None:
            if to_come and to_come.pop(0) in self.getvalue() and not to_come:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys, "stdout", reader := Reader())
    flags = ["--rate-limit", "5", "--callback", "http://127.0.0.1:9/x", "--fault", "cut=0.1", "--fault", "fail=1"]
    assert main(["simulate", *flags]) == 130
    pattern = r"export \w+_KEY=spk_\w+\nexport \w+_URL=http:\S+\nexport SOUNDPIECE_WEBHOOK_SECRET=whsec_\S+\n"
    assert re.fullmatch(pattern, reader.getvalue())
    said, advised, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"simulated service at http:\S+, 20 times as fast as the real one; Ctrl-C stops it", said)
    assert "paste these lines into another terminal, then try: soundpiece run create.new_fx 'door slams'" in advised
    assert last == "interrupted"
    assert (asked["requests_per_second"], asked["faults"]) == (5.0, simulator.Faults(cut=0.1, fail=1.0))
    assert (asked["callback_url"], asked["allow_private_callbacks"]) == ("http://127.0.0.1:9/x", True)


def test_port_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use is one line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["simulate", "--port", str(taken.getsockname()[1])]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "address" in err


def test_a_demo_into_an_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is reported at once, in one line, and not when the first operation is ready."""
    (tmp_path / "file").touch()
    assert main(["demo", str(tmp_path / "file" / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "queued" not in err
    assert "Not a directory" in err.splitlines()[-1]


def test_remove_partial_files(tmp_path: Path) -> None:
    """Partial files of a stopped demo are removed, and no others."""
    own = ["neon-rain-song-1.flac.part", "neon-rain-song-1.flac.part.json"]
    others = ["neon-rain-song-1.flac", "mine.flac.part", "mine.flac.part.json"]
    for name in own + others:
        (tmp_path / name).touch()
    demo.remove_partial_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)
    demo.remove_partial_files(tmp_path / "nowhere")


def test_bytes_on_disk(tmp_path: Path) -> None:
    """Of the files written in this run, partial and complete ones."""
    for name, size in {"fx-door.flac.part": 5, "fx-door.flac.part.json": 50, "fx-riser.flac": 7, "other": 9}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    old = tmp_path / "fx-chimes.flac"
    old.write_bytes(b"old")
    os.utime(old, (1000.0, 1000.0))
    sizes = demo.bytes_on_disk(tmp_path, since=2000.0)
    assert {name: size for name, size in sizes.items() if size} == {"fx-door": 5, "fx-riser": 7}
    assert set(sizes) == {item.name for item in DEMO_ITEMS}


class Finishing(type(Path())):  # type: ignore[misc]  # which class that is depends on the system
    """A folder whose growing files get their final names as soon as somebody has looked."""

    def glob(self, *args: Any, **kwargs: Any) -> Iterator[Path]:
        """List them, then finish them."""
        found = list(super().glob(*args, **kwargs))
        for growing in super().glob("*.part"):
            growing.rename(growing.with_suffix(""))
        return iter(found)


def test_a_file_that_is_renamed_meanwhile_counts(tmp_path: Path) -> None:
    """The progress of a download never shrinks because a file gets its final name."""
    for name in ("fx-door.flac.part", "fx-riser.flac"):
        (tmp_path / name).write_bytes(b"x" * 5)
    sizes = demo.bytes_on_disk(Finishing(tmp_path), since=0.0)
    assert {name: size for name, size in sizes.items() if size} == {"fx-door": 5, "fx-riser": 5}


def test_display(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal a download shows its bytes, and the first line is a summary."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal was wished for before rich 14
    monkeypatch.setenv("COLUMNS", "100")
    with DemoDisplay(["one", "two"]) as display:
        display.show("one", DemoStage.DOWNLOADING, "2 files")
        display.refresh(Statistics(), {})
        assert "2 files, no bytes yet" in capsys.readouterr().err
        display.refresh(Statistics(active_polls=3, ready=1, bytes=2_500_000), {"one": 1_200_000})
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        assert "3 polls active, 1 of 2 ready, 2.5 MB received" in shown
        assert re.search(r"one +downloading +2 files, 1\.2 MB", shown)
        assert re.search(r"two +queued", shown)
        display.show("two", DemoStage.DONE)
        assert repr(display) == "<DemoDisplay 1 of 2 done>"


def test_display_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a download is printed when it has grown, not at every refresh."""
    monkeypatch.setenv("TTY_INTERACTIVE", "0")
    with DemoDisplay(["one", "two"]) as display:
        display.show("one", DemoStage.DOWNLOADING, "2 files")
        for length in (0, 180_000, 400_000):
            display.refresh(Statistics(), {"one": length, "two": length})
        monkeypatch.setattr(demo, "LINE_INTERVAL", 0.0)
        for length in (400_000, 400_001, 1_400_000):
            display.refresh(Statistics(), {"one": length})
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    printed = ["no bytes yet", "180 kB", "400 kB", "1.4 MB"]
    assert lines == ["one queued", "two queued", *(f"one downloading 2 files, {words}" for words in printed)]


@pytest.mark.parametrize("wish", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_in_a_log_are_no_terminal(
    wish: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file gets lines without cursor movements (E6)."""
    monkeypatch.delenv("TTY_INTERACTIVE", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(wish, "1")
    with DemoDisplay(["one"]) as display:
        display.show("one", DemoStage.DOWNLOADING, "2 files")
        display.refresh(Statistics(), {"one": 5})
    shown = capsys.readouterr().err
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()[0].split() == ["one", "queued"]
    assert not re.search(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]|\r", shown)

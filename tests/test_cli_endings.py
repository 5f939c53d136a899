"""How the command line ends when something is missing, when nobody reads it, and when a signal comes."""

import asyncio
import errno
import inspect
import io
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from helpers.simulation import Serve

from soundpiece_async import (
    AuthenticationError,
    Handle,
    InsufficientCredits,
    InvalidRequest,
    SettingsError,
    SoundpieceError,
    TransportError,
)
from soundpiece_async.cli import main
from soundpiece_async.cli.commands import prepare_docstring
from soundpiece_async.cli.console import (
    ACCOUNT_ERROR,
    FAILED,
    USAGE,
    ensure_std_streams,
    format_error,
    print_result,
    print_status,
)
from soundpiece_async.cli.demo import DemoDisplay, DemoStage
from soundpiece_async.cli.dispatch import make_event_loop
from soundpiece_async.cli.run import RequestFlags, run
from soundpiece_async.cli.signals import SIGNALS, SignalHandler


@pytest.mark.parametrize("package", ["cyclopts", "rich", "numpy"])
@pytest.mark.parametrize("command", ["demo", "simulate"])
def test_missing_extra(
    package: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A package that is not installed is one line with the command that installs it, and exit code 2."""
    loaded = [name for name in sys.modules if name.startswith(("soundpiece_async.cli.", "soundpiece_async.sim"))]
    anew = [name for name in loaded if not name.endswith((".console", ".signals"))]
    for name in anew:  # an import binds a module in its package, too: both get back the one there was
        monkeypatch.setattr(name, sys.modules[name])
    for name in anew:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    assert main([command]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    extras = "cli,simulator" if package == "numpy" else "cli"
    assert f'pip install "soundpiece-async[{extras}]"' in err
    assert list(tmp_path.iterdir()) == []


def test_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output into a closed pipe fails without a message, also when the interpreter flushes at exit."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "stderr", closed)
        assert main(["--help"]) == FAILED
        assert main(["sing"]) == USAGE


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["--help"], 0), (["sing"], USAGE)])
def test_no_streams_at_all(arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without standard streams has None for them, and works all the same."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(arguments) == code
    for stream in (sys.stdout, sys.stderr):
        stream.close()  # type: ignore[union-attr]  # it leads nowhere, but it is one


def test_started_with_its_input_closed(tmp_path: Path) -> None:
    """The event loop must not get the number of standard input: uvloop would abort the process (exit code 134)."""
    program = f"exec {sys.executable} -c 'from soundpiece_async.cli import main; raise SystemExit(main())'"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SOUNDPIECE")}
    done = subprocess.run(  # noqa: S603 - our own words
        ["/bin/sh", "-c", f"{program} run create.new_fx --prompt x --duration 1 <&-"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("soundpiece: ")
    assert done.returncode == USAGE


@pytest.mark.parametrize("limit", [8, 20])
def test_too_few_descriptors(limit: int, tmp_path: Path) -> None:
    """The message names the limit and how to raise it, before anything is done; no traceback, no abort by uvloop."""
    program = "from soundpiece_async.cli import main; raise SystemExit(main())"
    command = f"ulimit -n {limit}; exec {sys.executable} -c '{program}' demo {tmp_path}/out"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    assert done.returncode == FAILED
    assert done.stderr == (
        f"soundpiece: too few file descriptors: fewer than 20 of {limit} are free; nothing was done. "
        f"Raise the limit: ulimit -n {limit + 256}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_event_loop_that_cannot_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a working uvloop, asyncio's loop is used; without that, one line explains."""
    reasons = [OSError(errno.EPERM, "Operation not permitted")]

    def refuse(*_: object) -> None:
        raise reasons[0]

    monkeypatch.setitem(sys.modules, "uvloop", None)
    make_event_loop().close()
    monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    assert main(["status", "nowhere"]) == FAILED
    monkeypatch.setattr(socket, "socketpair", refuse)
    assert main(["status", "nowhere"]) == FAILED
    reasons[:] = [OSError(errno.EMFILE, "Too many open files")]
    assert main(["status", "nowhere"]) == FAILED
    why = "[Errno 1] Operation not permitted; nothing was done\n"
    assert capsys.readouterr().err.startswith(
        f"soundpiece: cannot start an event loop: {why}"
        f"soundpiece: cannot open files and sockets: {why}"
        "soundpiece: too few file descriptors: "
    )


def test_no_more_threads() -> None:
    """As in a container with a small limit of processes."""
    code, why = format_error(RuntimeError("can't start new thread"))
    assert (code, "ulimit -u" in why) == (FAILED, True)


FULL = "soundpiece: cannot write to standard output: No space left on device; "


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_streams(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names standard output and the saved files; errors of standard error are ignored."""
    serve()
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"route": "create.new_fx", "prompt": "door", "duration": 0.5}\n' * 2)
    words = ["run", "create.new_fx", "--prompt", "x", "--duration", "1", "--save-to"]
    for command, kept in {
        ("run", *words[1:], f"{tmp_path}/a", "--name", "x"): f"saved: {tmp_path}/a/x.flac; ",
        ("bulk", str(jobs), f"{tmp_path}/b"): "the journal is complete",
        ("bulk", str(jobs), f"{tmp_path}/c", "--json"): "the journal is complete",
        ("status", f"{tmp_path}/b"): "redirect it elsewhere",
        ("--help",): "redirect it elsewhere",
    }.items():
        with Path("/dev/full").open("w") as full, io.StringIO() as err, monkeypatch.context() as changed:
            changed.setattr(sys, "stdout", full)
            changed.setattr(sys, "stderr", err)
            assert main(command) == FAILED
            assert f"{FULL}{kept}" in err.getvalue()
    reading, writing = os.pipe()
    os.close(reading)
    for number, path in enumerate([os.open("/dev/full", os.O_WRONLY), writing]):
        with os.fdopen(path, "w") as lost, monkeypatch.context() as changed:
            changed.setattr(sys, "stderr", lost)
            main([*words, str(tmp_path), "--name", str(number)])
            main(["demo", "--help"])
            DemoDisplay("x").show("x", DemoStage.QUEUED)
        assert (tmp_path / f"{number}.flac").exists()


def test_bugs_keep_their_traceback() -> None:
    """An unexpected error keeps its traceback; of several errors the first is reported."""
    with pytest.raises(ZeroDivisionError):
        format_error(ZeroDivisionError())
    group = ExceptionGroup("", [ExceptionGroup("", [InvalidRequest("no", field="x")]), OSError("late")])
    assert format_error(group) == (USAGE, "soundpiece: no")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("a prompt too long", field="prompt"), USAGE),
        (SettingsError("no key"), USAGE),
        (SettingsError("the store was closed meanwhile").about(Handle("create.new_fx", "op_1")), FAILED),
        (AuthenticationError("401", status=401), ACCOUNT_ERROR),
        (InsufficientCredits("402", status=402), ACCOUNT_ERROR),
        (TransportError("no response"), FAILED),
    ],
    ids=str,
)
def test_one_exit_code_for_one_kind_of_error(error: SoundpieceError, code: int) -> None:
    """For every command: 2: nothing was sent; 3: account error (E8)."""
    assert format_error(error)[0] == code


def test_help_without_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    """``PYTHONOPTIMIZE=2`` removes docstrings, which are restored from the source (E15)."""
    for thing in (run, RequestFlags):
        was = thing.__doc__
        monkeypatch.setattr(thing, "__doc__", None)
        prepare_docstring(thing)
        assert inspect.cleandoc(str(thing.__doc__)) == inspect.cleandoc(str(was))
    unknown = type("Unknown", (), {})  # it has no source
    prepare_docstring(unknown)
    assert unknown.__doc__ == ""


def read_late(reading: int, writing: int) -> str:
    """Read a pipe to its end, from when it is full."""
    while select.select([], [writing], [], 0)[1]:
        time.sleep(0.001)
    with os.fdopen(reading) as pipe:
        return pipe.read()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_that_does_not_block(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader may be slow: every line arrives complete (E2)."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines = [f"{number} {'x' * 1000}" for number in range(400)]
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as changed, ThreadPoolExecutor() as reader:
        changed.setattr(sys, stream, pipe)
        ensure_std_streams()
        opened = getattr(sys, stream)
        assert (opened.fileno(), opened.isatty(), os.get_blocking(writing)) == (writing, False, False)
        received = reader.submit(read_late, reading, writing)
        for line in lines:
            (print_result if stream == "stdout" else print_status)(line)
        opened.close()
        pipe.close()
        assert received.result().splitlines() == lines


def test_signal_before_the_loop() -> None:
    """A signal that comes before there is a loop ends the work at its first await."""
    begun: list[str] = []

    async def work() -> None:
        begun.append("before")
        await anyio.lowlevel.checkpoint()
        begun.append("after")

    with SignalHandler() as handler:
        os.kill(os.getpid(), signal.SIGTERM)
        assert anyio.run(handler.run_until_signal, work) is None
        assert "received=True" in repr(handler)
    assert begun == ["before"]


def test_second_signal() -> None:
    """A second signal does not disturb the cleanup after the first, and a late one is ignored."""
    ended: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep(5)
        finally:
            with anyio.CancelScope(shield=True):
                os.kill(os.getpid(), signal.SIGINT)
                await anyio.sleep(0.01)
                ended.append("clean")

    with SignalHandler() as handler:
        assert anyio.run(handler.run_until_signal, work) is None
        os.kill(os.getpid(), signal.SIGINT)
    assert ended == ["clean"]


def test_another_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """A program may run the command line in a thread, which receives no signals; its handlers stay."""
    before = [signal.getsignal(number) for number in SIGNALS]
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["status", "nowhere"])))
    thread.start()
    thread.join()
    assert codes == [USAGE]
    assert "nowhere" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("last", [True, False])
def test_handlers_are_restored(*, last: bool) -> None:
    """Unless the process is about to end: then signals are ignored."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with SignalHandler(last=last):
        pass
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert after == ([signal.SIG_IGN] * len(SIGNALS) if last else before)


def test_nohup() -> None:
    """SIGHUP is ignored before, within and after the block."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalHandler():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

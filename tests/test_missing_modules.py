"""What only POSIX systems have is not needed: a session, a download, a journal and the command line do without."""

import json
import subprocess
import sys
from pathlib import Path

from helpers.simulation import Serve

HIDE = """
import os, select, signal, sys
for name in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "readline"):
    sys.modules[name] = None
for module, names in {
    os: ("writev", "O_NOFOLLOW", "sync", "geteuid", "getuid", "fork", "killpg", "getpgid", "sched_getaffinity"),
    select: ("poll",),
    signal: ("SIGHUP", "SIGKILL", "SIGUSR1", "setitimer", "pthread_sigmask", "pthread_kill"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
os.supports_effective_ids.discard(os.access)
import asyncio
def refuse(*_, **__):
    raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = refuse
"""
LIBRARY = """
from soundpiece_async import *

async def main():
    async with Session() as session, Journal.open(sys.argv[1]) as journal:
        wishes = [NewFx(f"door {n}", duration=0.5) for n in range(5)]
        async with session.run_many(wishes, save_to=sys.argv[1], journal=journal) as results:
            print(sum([isinstance(result, Succeeded) async for result in results]))
        done = await session.run(NewFx("window", duration=0.5), save_to=sys.argv[1])
        print(done.files[0].path.exists())
        try:
            await Journal.open(sys.argv[1])
        except JournalError as error:
            print("locked by process" in str(error))

asyncio.run(main())
"""
COMMAND = """
from soundpiece_async.cli import main
for _ in range(2):
    assert main(["bulk", *sys.argv[1:]]) == 0
"""


def run(program: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", HIDE + program, *words], capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_works(serve: Serve, tmp_path: Path) -> None:
    """Locks are files, limits are not fitted, blocks are written one by one."""
    simulator = serve()
    assert run(LIBRARY, str(tmp_path)).split() == ["5", "True", "True"]
    assert len(simulator.operations) == len(list(tmp_path.glob("*.flac"))) == 6
    assert not list(tmp_path.glob("*.held"))


def test_the_command_line_works(serve: Serve, tmp_path: Path) -> None:
    """A bulk run, and once more, which buys nothing."""
    simulator, jobs = serve(), tmp_path / "jobs.jsonl"
    jobs.write_text(f"{json.dumps({'route': 'create.new_fx', 'prompt': 'door', 'duration': 0.5})}\n" * 3)
    lines = run(COMMAND, str(jobs), str(tmp_path / "out"), "--all").splitlines()
    assert sorted(lines[:3]) == sorted(lines[3:])
    assert len(lines) == 6
    assert len(simulator.operations) == 3

"""A process that runs bulk runs and may be killed at any moment; `killable` is the test's side of it.

It loads the library once and forks for each run, because starting an interpreter takes longer than a run. One line of
JSON on its standard input is one run; it answers ``begun <process id>`` and ``ended <status>``.
"""

import asyncio
import json
import os
import pickle
import runpy
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from soundpiece_async import Failed, Journal, NewFx, Request, SeparateStems, Session, Settings, cli
from soundpiece_async._download import partfile
from soundpiece_async._journal import postgres_store  # loaded here, once, and not by every child
from soundpiece_async._journal.store import TakenOver
from soundpiece_async.cli import commands

LOADED = commands.app, postgres_store
TAKEN_OVER = 4
"""The exit status of a process that lost a job to another one."""
SOURCE = "https://media.example.com/mix.wav"


def lines() -> list[Request]:
    """Return a request with four outputs, and two equal ones with one."""
    return [SeparateStems(SOURCE), NewFx("door", duration=0.1), NewFx("door", duration=0.1)]


def die_at(step: int, connection: sqlite3.Connection) -> None:
    """Kill this process at the n-th boundary of a transaction that changes something: before, and after, its commit."""
    changes = connection.total_changes
    passed = 0
    changing = False

    def trace(statement: str) -> None:
        nonlocal changes, passed, changing
        after = changing and statement.startswith("PRAGMA synchronous")
        changing = connection.total_changes > changes
        if after:
            changes, changing = connection.total_changes, False
        before = changing and statement == "COMMIT"
        passed += before or after
        if passed == step and (before or after):
            os.kill(os.getpid(), signal.SIGKILL)

    connection.set_trace_callback(trace)


def pause_at(step: int, store: Any) -> None:
    """Pause this process at the n-th boundary of a statement in Postgres: before it is sent, or after its answer."""
    fetch, passed = store._database.fetch, 0

    def pass_one() -> None:
        nonlocal passed
        passed += 1
        if passed == step:
            os.kill(os.getpid(), signal.SIGSTOP)

    async def traced(*words: Any, **how: Any) -> Any:
        pass_one()
        rows = await fetch(*words, **how)
        pass_one()
        return rows

    store._database.fetch = traced


def open_journal(command: dict[str, Any]) -> Journal:
    """Open the journal of the run's folder, or the run in a database."""
    if "database" in command:
        return Journal.open(command["database"], run=command["run"])
    return Journal.open(command["folder"])


async def run(command: dict[str, Any]) -> int:
    """Run so many of the lines once; or the requests that come pickled, with what settings they need."""
    more, requests = pickle.loads(bytes.fromhex(command["pickled"])) if "pickled" in command else ({}, lines())  # noqa: S301 - a test's
    settings = Settings(api_key=command["api_key"], base_url=command["url"], **more)
    folder = Path(command["folder"])
    taken_over = 0
    async with Session(settings) as session, open_journal(command) as journal:
        store: Any = journal.store
        if command.get("pause_at"):
            pause_at(command["pause_at"], store)
        if command.get("die_at"):
            die_at(command["die_at"], store._database._connection)
        given: Any = journal.jobs(part=(1, 1)) if command.get("part") else requests[: command.get("count")]
        try:
            async with session.run_many(given, save_to=folder, journal=journal) as results:
                async for result in results:
                    taken_over += isinstance(result, Failed) and isinstance(result.error, TakenOver)
        except TakenOver:
            taken_over += 1
    return TAKEN_OVER if taken_over else 0


def call(command: dict[str, Any]) -> int:
    """Be the command line, or an example, which print into a file: our own standard output is spoken for."""
    os.environ |= {"SOUNDPIECE_API_KEY": command["api_key"], "SOUNDPIECE_BASE_URL": command["url"]}
    os.environ |= command.get("environ", {})
    os.chdir(command.get("cwd", "."))
    with Path(command["folder"]).with_suffix(".printed").open("a") as printed:
        os.dup2(printed.fileno(), sys.stdout.fileno())
        os.dup2(printed.fileno(), sys.stderr.fileno())
    if "example" not in command:
        return cli.main(command["arguments"])
    path = Path(__file__).parents[2] / "examples" / f"{command['example']}.py"
    sys.argv = [str(path), *command["arguments"]]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def main() -> None:
    """Fork for each command, and say how the child ended."""
    partfile.STALLED_SECONDS = 0.3  # the lock of a paused process is waited for in tests
    for line in sys.stdin:
        child = os.fork()
        if not child:
            command = json.loads(line)
            os._exit(call(command) if "arguments" in command else asyncio.run(run(command)))
        print("begun", child, flush=True)  # noqa: T201 - it is spoken to
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - it is spoken to


if __name__ == "__main__":
    main()

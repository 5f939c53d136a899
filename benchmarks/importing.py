"""How long it takes to import the package, and until `soundpiece --help` has answered.

    python benchmarks/importing.py            a minute
    python benchmarks/importing.py --quick    a quarter of it

Each program runs in a fresh interpreter, in turns, with its bytecode written before, to a folder of its own, whatever
`PYTHONDONTWRITEBYTECODE` says; the figure is the median of the ratios of CPU seconds (user and system) between
neighbours. What an empty interpreter takes to start is in all of them.
A bare `import soundpiece_async` loads next to nothing, so `from soundpiece_async import Session` stands beside it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import _figures
from _figures import Figure

CORE = "import aiohttp, attrs, cattrs, anyio"
WHOLE = "import aiohttp, attrs, cattrs, anyio, aiofiles, cyclopts, rich"
OURS = "from soundpiece_async import Session"
BARE = "import soundpiece_async"
HELP = "import sys; from soundpiece_async.cli import main; sys.exit(main(['--help']))"
PROGRAMS = ("pass", BARE, CORE, OURS, WHOLE, HELP)


def run(program: str, *, bytecode: str) -> float:
    """Run a program in an interpreter of its own, with its bytecode in that folder, and return its CPU seconds."""
    words = [sys.executable, "-c", program]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = bytecode
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environ)  # noqa: S603 - our own words
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program!r} failed with {process.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure in turns; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _figures.add_options(parser, quick="7 rounds instead of 31")
    options = parser.parse_args()
    count = 7 if options.quick else 31
    with tempfile.TemporaryDirectory() as folder:
        for program in PROGRAMS:
            run(program, bytecode=folder)
        rounds = [{program: run(program, bytecode=folder) for program in PROGRAMS} for _ in range(count)]
    for program in PROGRAMS:
        print(f"{1000 * statistics.median(row[program] for row in rounds):6.0f} ms  {program}")
    figures = (
        ("import of the package, to its four packages alone", BARE, CORE, 1.15),
        ("import of Session, to its four packages alone", OURS, CORE, 1.35),
        ("--help, to importing all packages of the command line", HELP, WHOLE, 1.2),
    )
    return _figures.report(
        (
            Figure.at_most(name, goal, statistics.median(row[ours] / row[theirs] for row in rounds))
            for name, ours, theirs, goal in figures
        ),
        options,
    )


if __name__ == "__main__":
    sys.exit(main())

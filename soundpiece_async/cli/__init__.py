"""The command line ``soundpiece``: ``demo``, ``run`` and ``simulate``, each in the file of its name; extra ``cli``.

Standard output carries results, standard error everything else.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress

import anyio

from soundpiece_async.cli.endings import DONE, FAILED, INTERRUPTED, explain
from soundpiece_async.cli.interruption import Interruption
from soundpiece_async.cli.speech import drain, tell

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and give its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Every foreseeable failure is one line on standard error; only a fault of this library itself shows a traceback.

    Args:
        arguments: what follows the program's name; by default those of this process, and then signals are ignored
            afterwards, until it is gone: a late Ctrl-C cannot disturb the interpreter's own end.
    """
    with Interruption(last=arguments is None) as interruption:
        try:
            code = _perform(sys.argv[1:] if arguments is None else arguments, interruption)
        except Exception as error:  # noqa: BLE001 - explain raises again what it cannot explain
            code, why = explain(error)
        else:
            why = "interrupted" if code == INTERRUPTED else ""
    with suppress(BrokenPipeError):
        if why:
            tell(why)
    return code if drain() else code or FAILED


def _perform(arguments: Sequence[str], interruption: Interruption) -> int:
    """Read the command line and do what it says; a signal that comes before the loop runs counts once it does."""
    from soundpiece_async.cli.commands import parse  # noqa: PLC0415 - cyclopts may be missing, and that is explained

    work = parse(arguments)
    return DONE if work is None else anyio.run(interruption.guard, work)

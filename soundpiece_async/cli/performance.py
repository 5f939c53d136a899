"""One command line from its words to its exit code."""

import sys
from collections.abc import Sequence

import anyio

from soundpiece_async.cli.console import DONE, FAILED, INTERRUPTED, drain, explain, open_streams, tell
from soundpiece_async.cli.interruption import Interruption
from soundpiece_async.cli.loops import demand_descriptors, make_loop


def perform(arguments: Sequence[str] | None, interruption: Interruption) -> int:
    """Do what a command line says, and say how it ended; None stands for this process's own."""
    open_streams()
    try:
        code = _try(sys.argv[1:] if arguments is None else arguments, interruption)
    except Exception as error:  # noqa: BLE001 - explain raises again what it cannot explain
        code, why = explain(error)
    else:
        why = "interrupted" if code == INTERRUPTED else ""
    if why:
        tell(why)
    return code if drain() else code or FAILED


def _try(arguments: Sequence[str], interruption: Interruption) -> int:
    """Read the command line and do it; a signal that comes before the loop runs counts once it does."""
    from soundpiece_async.cli.commands import parse  # noqa: PLC0415 - cyclopts may be missing, and that is explained

    work = parse(arguments)
    if work is None:
        return DONE
    demand_descriptors()
    code = anyio.run(interruption.guard, work, backend_options={"loop_factory": make_loop})
    return INTERRUPTED if code is None else code

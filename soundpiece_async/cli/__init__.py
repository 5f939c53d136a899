"""The command line ``soundpiece`` (extra ``cli``): each command is in the file of its name.

Results go to standard output, everything else to standard error. This file and ``signals`` import next to nothing:
until ``main`` handles signals, Ctrl-C ends in a traceback of Python.
"""

from soundpiece_async.cli.signals import SignalHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command and return its exit code.

    Expected failures print one line on standard error; only a bug of this library prints a traceback.

    Args:
        arguments: without the name of the program; None: those of this process, and then signals are ignored
            afterwards, so that a late Ctrl-C cannot disturb the exit of the interpreter.
    """
    with SignalHandler(last=arguments is None) as handler:
        from soundpiece_async.cli.dispatch import run_command_line  # slow import, so only once signals are handled

        return run_command_line(arguments, handler)

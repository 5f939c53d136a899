"""The command line ``soundpiece``: each command is in the file of its name; extra ``cli``.

Standard output carries results, standard error everything else. This file and the first it imports are short and need
next to nothing: until ``main`` has the signals in its hands, Ctrl-C would end in Python's own traceback.
"""

from soundpiece_async.cli.signals import SignalHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Carry out one command line and give its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    ``bulk`` and ``resume`` also give 3: stopped by the account.

    Every foreseeable failure is one line on standard error; only a fault of this library itself shows a traceback.

    Args:
        arguments: what follows the program's name; by default those of this process, and then signals are ignored
            afterwards, until it is gone: a late Ctrl-C cannot disturb the interpreter's own end.
    """
    with SignalHandler(last=arguments is None) as handler:
        from soundpiece_async.cli.dispatch import run_command_line  # noqa: PLC0415 - takes its time, so with signals in hand

        return run_command_line(arguments, handler)

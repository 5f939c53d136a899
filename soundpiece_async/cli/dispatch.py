"""One command line from its words to its exit code, and the event loop that it runs on.

The loop is uvloop's where it is installed and can be loaded (extra ``fast``), else asyncio's. A loop that runs short of
descriptors while it starts ends in a traceback, and uvloop's may abort the process. So their number is checked before.
"""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import anyio

from soundpiece_async._core.settings import MARGIN
from soundpiece_async._descriptors import read_limit
from soundpiece_async.cli.console import (
    DONE,
    FAILED,
    INTERRUPTED,
    StartError,
    ensure_std_streams,
    flush_std_streams,
    format_error,
    print_status,
)
from soundpiece_async.cli.signals import SignalHandler


def run_command_line(arguments: Sequence[str] | None, handler: SignalHandler) -> int:
    """Do what a command line says, and say how it ended; None stands for this process's own."""
    ensure_std_streams()
    try:
        code = _dispatch(sys.argv[1:] if arguments is None else arguments, handler)
    except Exception as error:  # noqa: BLE001 - explain raises again what it cannot explain
        code, why = format_error(error)
    else:
        why = "interrupted" if code == INTERRUPTED else ""
    if why:
        print_status(why)
    return code if flush_std_streams() else code or FAILED


def _dispatch(arguments: Sequence[str], handler: SignalHandler) -> int:
    """Read the command line and do it; a signal that comes before the loop runs counts once it does."""
    from soundpiece_async.cli.commands import parse_command  # noqa: PLC0415 - cyclopts may be missing, and that is explained

    work = parse_command(arguments)
    if work is None:
        return DONE
    require_descriptors()
    code = anyio.run(handler.run_until_signal, work, backend_options={"loop_factory": make_event_loop})
    return INTERRUPTED if code is None else code


def require_descriptors() -> None:
    """Check that enough files can be opened for an event loop, a connection and a journal.

    Raises:
        StartError: they cannot; the message names the limit.
    """
    try:
        with ExitStack() as opened:
            for end in socket.socketpair():  # as every event loop opens one
                opened.callback(end.close)
            for _ in range(MARGIN - 2):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        most = read_limit()
        if error.errno == errno.EMFILE and most is not None:
            raise StartError(
                f"this process may open {most} files at a time, and fewer than {MARGIN} of them are free; nothing was "
                f"done; raise the limit, as by: ulimit -n {most + 256}"
            ) from error
        raise StartError(f"files and sockets cannot be opened here: {error}; nothing was done") from error


def make_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop.

    Raises:
        StartError: neither kind can be made.
    """
    try:
        import uvloop  # noqa: PLC0415 - it may be missing, or made for another machine

        return uvloop.new_event_loop()
    except (ImportError, OSError, RuntimeError):
        """Asyncio's needs less."""
    try:
        return asyncio.new_event_loop()
    except (OSError, RuntimeError) as error:
        raise StartError(f"no event loop can be started here: {error}; nothing was done") from error

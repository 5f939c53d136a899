"""Runs one command line, on uvloop's event loop if it can be loaded (extra ``fast``), else on asyncio's.

An event loop that runs out of descriptors while it starts raises a traceback, and uvloop may abort the process, so
their number is checked before.
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
    """Run a command line, print how it ended if it failed, and return its exit code; None: that of this process."""
    ensure_std_streams()
    try:
        code = _dispatch(sys.argv[1:] if arguments is None else arguments, handler)
    except Exception as error:  # noqa: BLE001 - format_error re-raises unexpected errors
        code, why = format_error(error)
    else:
        why = "interrupted" if code == INTERRUPTED else ""
    if why:
        print_status(why)
    return code if flush_std_streams() else code or FAILED


def _dispatch(arguments: Sequence[str], handler: SignalHandler) -> int:
    """Parse and run a command line; a signal that came before the loop runs takes effect once it does."""
    from soundpiece_async.cli.commands import parse_command  # cyclopts may be missing

    work = parse_command(arguments)
    if work is None:
        return DONE
    require_descriptors()
    code = anyio.run(handler.run_until_signal, work, backend_options={"loop_factory": make_event_loop})
    return INTERRUPTED if code is None else code


def require_descriptors() -> None:
    """Check that enough files can be opened for an event loop, a connection and a journal.

    Raises:
        StartError: too few; the message names the limit.
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
                f"too few file descriptors: fewer than {MARGIN} of {most} are free; nothing was done. Raise the limit: "
                f"ulimit -n {most + 256}"
            ) from error
        raise StartError(f"cannot open files and sockets: {error}; nothing was done") from error


def make_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop.

    Raises:
        StartError: neither loop can be created.
    """
    try:
        import uvloop  # it may be missing or unusable

        return uvloop.new_event_loop()
    except (ImportError, OSError, RuntimeError):
        """Fall back to asyncio, which needs less."""
    try:
        return asyncio.new_event_loop()
    except (OSError, RuntimeError) as error:
        raise StartError(f"cannot start an event loop: {error}; nothing was done") from error

"""Messages and exit codes: results on standard output, everything else on standard error, the key on neither."""

import difflib
import io
import os
import select
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from soundpiece_async import (
    AuthenticationError,
    InsufficientCredits,
    InvalidRequest,
    OperationFailed,
    SettingsError,
    SoundpieceError,
)
from soundpiece_async._core.redaction import redact_message

DONE = 0
FAILED = 1
USAGE = 2
"""Wrong usage, wrong input, a setting or a journal that is missing: nothing was sent."""
REFUSED = 3
"""The account was refused: a wrong key, or no credits."""
INTERRUPTED = 130
"""128 and the number of SIGINT, as shells have it."""

EXTRAS: Mapping[str, str] = {"cyclopts": "cli", "rich": "cli", "numpy": "cli,simulator", "soundfile": "cli,simulator"}
"""Packages that may be missing, and the extras that bring them."""


def translate_advice(message: str, *, flag: str | None = "--overwrite") -> str:
    """Return what the library advises, in terms of the command line; ``flag`` replaces files, None: nothing does."""
    if flag is None:
        message = message.replace(", or pass overwrite=True", "")
    message = message.replace("overwrite=True", str(flag))
    return message.replace("or pass Session(api_key=...)", "or try without one, on this machine: soundpiece simulate")


class UsageError(Exception):
    """The command line asks for something there is not; nothing was done."""


class StartError(Exception):
    """The machine does not let a command begin; nothing was done."""


class StreamError(Exception):
    """Standard output cannot be written to."""


def format_error(error: Exception) -> tuple[int, str]:
    """Return the exit code and the one line for the error that ended a command; of several errors, the first.

    Raises:
        Exception: the error itself, if it is unforeseen: then it is a bug, and its traceback must be seen.
    """
    match error:
        case ExceptionGroup(exceptions=(first, *_)):
            return format_error(first)
        case UsageError():
            return USAGE, f"soundpiece: {error}"
        case ModuleNotFoundError(name=str(module)) if (package := module.partition(".")[0]) in EXTRAS:
            return USAGE, f'soundpiece: {package} is not installed: pip install "soundpiece-async[{EXTRAS[package]}]"'
        case BrokenPipeError():
            return FAILED, ""  # whoever read our output has left, and wants to hear no more
        case RuntimeError(args=("can't start new thread",)):
            return FAILED, "soundpiece: no more threads can be started: raise the limit (ulimit -u, or the container's)"
        case SoundpieceError() | OSError() | StartError() | StreamError():
            told = "; ".join([str(error), *getattr(error, "__notes__", ()), *_resume_hint(error)])
            return _exit_code(error), f"soundpiece: {translate_advice(told)}"
        case _:
            raise error


def _exit_code(error: Exception) -> int:
    """Return the exit code of an error: one for one kind of mistake, whichever command it is made in."""
    match error:
        case AuthenticationError() | InsufficientCredits():
            return REFUSED
        case InvalidRequest() | SettingsError() if error.handle is None:  # nothing was sent
            return USAGE
        case _:
            return FAILED


def _resume_hint(error: Exception) -> list[str]:
    """Name the command that goes on with the operation an error is about, unless the service has given up on it."""
    handle = error.handle if isinstance(error, SoundpieceError) and not isinstance(error, OperationFailed) else None
    return [] if handle is None else [f"to come back to it: soundpiece get {handle}"]


UNITS = ("B", "kB", "MB", "GB", "TB")


def print_result(line: str, *, kept: str = "") -> None:
    """Print a result; what the encoding of standard output cannot express (as in a path) is escaped.

    Args:
        line: without its end.
        kept: what the work has led to all the same, for the error.

    Raises:
        BrokenPipeError, StreamError: it cannot be printed.
    """
    encoding = sys.stdout.encoding or "utf-8"
    text = line.encode(encoding, "backslashreplace").decode(encoding)
    with translating_stdout_errors(kept):
        print(text, flush=True)  # noqa: T201 - it is a command line


def print_status(line: str) -> None:
    """Print a line of news or of complaint on standard error, without a key that was typed."""
    with ignoring_stderr_errors():
        print(redact_message(line), file=sys.stderr, flush=True)  # noqa: T201 - it is a command line


@contextmanager
def translating_stdout_errors(kept: str = "") -> Iterator[None]:
    """Name standard output in the error of a write to it.

    Raises:
        BrokenPipeError: its reader has left, and wants no message.
        StreamError: it cannot be written to.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = f"standard output cannot be written to: {error.strerror or error}"
        raise StreamError(
            "; ".join(filter(None, (why, kept, "send it elsewhere, as to a file on another disk")))
        ) from error


def ignoring_stderr_errors() -> AbstractContextManager[None]:
    """Ignore errors of writes to standard error; ``flush_std_streams`` reports them."""
    return suppress(OSError)


class BlockingWriter(io.RawIOBase):
    """Writes to a descriptor that may be non-blocking, and waits for its reader: a line is written whole, or an error.

    Whether a descriptor blocks belongs to all processes that share it, so it is not changed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal's."""
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        """Write some of the bytes, at least one."""
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                select.select([], [self._descriptor], [])


def ensure_std_streams() -> None:
    """Make the standard streams usable, however this process was started.

    For those that it was started without (``>&-``), Python has None: they get streams that lead nowhere. So does the
    input: the loop would get its number for something of its own, and uvloop aborts when it closes that. Output that
    does not block would lose what its reader is too slow for.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif mode == "w" and not _is_blocking(stream):
            writer = io.BufferedWriter(BlockingWriter(stream.fileno()))
            lasting = io.TextIOWrapper(writer, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
            setattr(sys, name, lasting)


def _is_blocking(stream: io.TextIOBase) -> bool:
    try:
        return os.get_blocking(stream.fileno())
    except OSError:  # it has no descriptor, as in a test or a notebook
        return True


def flush_std_streams() -> bool:
    """Write out what is buffered; False when it cannot be: a reader has left, a terminal was closed, a disk is full.

    What cannot be written goes nowhere then, or the interpreter would try again at its end, and complain.
    """
    complete = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            complete = False
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return complete


def format_size(length: int) -> str:
    """Write a number of bytes for people, as the report does."""
    amount, units = float(length), iter(UNITS)
    unit = next(units)
    while amount >= 999.5 and unit != UNITS[-1]:  # noqa: PLR2004 - what would be rounded to 1000
        amount, unit = amount / 1000, next(units)
    return f"{amount:.1f} {unit}" if amount < 10 and unit != UNITS[0] else f"{amount:.0f} {unit}"  # noqa: PLR2004 - two digits say enough


def format_count(files: Sized) -> str:
    """Write how many files there are."""
    return f"{len(files)} file{'s' * (len(files) != 1)}"


def format_duration(seconds: float) -> str:
    """Write a length of time for people."""
    minutes = round(seconds / 60)
    if seconds < 100:  # noqa: PLR2004 - what still reads well
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004 - the same


def format_echo_differences(counts: Mapping[str, int]) -> str:
    """Write how often the service echoed which member otherwise than it was sent, or nothing."""
    if not counts:
        return ""
    listed = ", ".join(f"{name} ({number})" for name, number in sorted(counts.items()))
    return f"echoed by the service otherwise than sent: {listed}; this is no failure: listen before you buy again"


def pluralize(number: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{number} {noun}{'s' * (number != 1)}"


_SIMILARITY = 0.65
"""How much of two names must be alike: ``promt`` and ``prompt`` are, ``text`` and ``prompt`` are not."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` with the known name that is closest, or nothing when none is close.

    A route is found by what stands behind its dot, as ``create.new_fx`` by ``new-fx`` or ``fx``.
    """
    given = name.strip().lower().replace("-", "_").rpartition(".")[2]
    names = {one.rpartition(".")[2].lower(): one for one in known}
    close = difflib.get_close_matches(given, names, n=1, cutoff=_SIMILARITY)
    close = close or [one for one in names if one.endswith(f"_{given}")]
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


VERIFY_LEVELS = {
    "full": "every frame was decoded",
    "header": "size and FLAC header were checked, and not the audio behind it",
    "none": "the size was checked, and nothing else",
    "": "an earlier version saved them",
}
"""What each level means, the strictest first; an empty one is not on record."""


def format_verify_levels(counts: Mapping[str, int], *, out: object) -> list[str]:
    """Return lines on how many files have passed which checks, and how the others pass them."""
    known = [level for level in VERIFY_LEVELS if counts.get(level)]
    if not known:
        return []
    parts = [f"{counts[level]} {level or 'unknown'} ({VERIFY_LEVELS[level]})" for level in known]
    lines = [f"checks passed: {'; '.join(parts)}"]
    if known != ["full"]:
        lines.append(f"soundpiece verify {shlex.quote(str(out))} --full decodes every frame")
    return lines

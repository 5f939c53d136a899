"""Output and exit codes: results go to standard output, status to standard error, the API key to neither."""

import difflib
import io
import os
import select
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from soundpiece_async import (
    AuthenticationError,
    InsufficientCredits,
    InvalidRequest,
    OperationFailed,
    SettingsError,
    SoundpieceError,
)
from soundpiece_async._core.json_types import JsonValue
from soundpiece_async._core.redaction import redact_message

DONE = 0
FAILED = 1
USAGE = 2
"""Usage error, invalid input, a missing setting or journal; nothing was sent."""
ACCOUNT_ERROR = 3
"""Account error (401, 402, 403): invalid key or no credits."""
TAKEN_OVER = 4
"""Another process has taken jobs over, and continues them: whatever started this one must not start it again."""
INTERRUPTED = 130
"""128 + SIGINT, the convention of shells."""

EXTRAS: Mapping[str, str] = {"cyclopts": "cli", "rich": "cli", "numpy": "cli,simulator", "soundfile": "cli,simulator"}
"""Optional packages, and the extras that install them."""


def translate_advice(message: str, *, flag: str | None = "--overwrite") -> str:
    """Return a message of the library with its advice in terms of the command line.

    Args:
        message: of an error.
        flag: the option that overwrites files, or None.
    """
    if flag is None:
        message = message.replace(", remove it, or pass overwrite=True", ", or remove it")
        message = message.replace(", or pass overwrite=True", "")
    message = message.replace("overwrite=True", str(flag))
    return message.replace("or pass Session(api_key=...)", "or try a local simulation: soundpiece simulate")


class UsageError(Exception):
    """The command line or its input is invalid; nothing was done."""


class StartError(Exception):
    """The machine lacks what a command needs to start; nothing was done."""


class StreamError(Exception):
    """Standard output is not writable."""


def format_error(error: Exception) -> tuple[int, str]:
    """Return the exit code and the one line about the error that ended a command; of several errors, the first.

    Raises:
        Exception: the error itself, if it is unexpected: its traceback shows the bug.
    """
    match error:
        case ExceptionGroup(exceptions=(first, *_)):
            return format_error(first)
        case UsageError():
            return USAGE, f"soundpiece: {error}"
        case ModuleNotFoundError(name=str(module)) if (package := module.partition(".")[0]) in EXTRAS:
            return USAGE, f'soundpiece: {package} is not installed: pip install "soundpiece-async[{EXTRAS[package]}]"'
        case BrokenPipeError():
            return FAILED, ""  # the reader of our output has closed the pipe
        case RuntimeError(args=("can't start new thread",)):
            return (
                FAILED,
                "soundpiece: cannot start more threads; raise the limit (ulimit -u, or that of the container)",
            )
        case SoundpieceError() | OSError() | StartError() | StreamError():
            message = "; ".join([str(error), *getattr(error, "__notes__", ()), *_resume_hint(error)])
            return _exit_code(error), f"soundpiece: {translate_advice(message)}"
        case _:
            raise error


def _exit_code(error: Exception) -> int:
    """Return the exit code of an error, the same for every command."""
    match error:
        case AuthenticationError() | InsufficientCredits():
            return ACCOUNT_ERROR
        case InvalidRequest() | SettingsError() if error.handle is None:  # nothing was sent
            return USAGE
        case _:
            return FAILED


def _resume_hint(error: Exception) -> list[str]:
    """Return the command that resumes the operation of an error, unless the operation has failed."""
    handle = error.handle if isinstance(error, SoundpieceError) and not isinstance(error, OperationFailed) else None
    return [] if handle is None else [f"resume with: soundpiece get {handle}"]


UNITS = ("B", "kB", "MB", "GB", "TB")


def print_result(line: str, *, kept: str = "") -> None:
    """Print a result; characters that the encoding of standard output lacks are escaped.

    Args:
        line: without its end.
        kept: what was achieved nevertheless, for the message of an error.

    Raises:
        BrokenPipeError, StreamError: standard output is not writable.
    """
    encoding = sys.stdout.encoding or "utf-8"
    text = line.encode(encoding, "backslashreplace").decode(encoding)
    with translating_stdout_errors(kept):
        print(text, flush=True)  # noqa: T201 - it is a command line


def print_status(line: str) -> None:
    """Print a line on standard error, with any API key redacted."""
    with ignoring_stderr_errors():
        print(redact_message(line), file=sys.stderr, flush=True)  # noqa: T201 - it is a command line


@contextmanager
def translating_stdout_errors(kept: str = "") -> Iterator[None]:
    """Translate errors of writes to standard output.

    Raises:
        BrokenPipeError: its reader has closed the pipe.
        StreamError: any other error.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = f"cannot write to standard output: {error.strerror or error}"
        raise StreamError("; ".join(filter(None, (why, kept, "redirect it elsewhere")))) from error


def ignoring_stderr_errors() -> AbstractContextManager[None]:
    """Ignore errors of writes to standard error; ``flush_std_streams`` reports them."""
    return suppress(OSError)


class BlockingWriter(io.RawIOBase):
    """Writes to a non-blocking descriptor and waits for its reader, so that lines are written whole.

    The descriptor stays non-blocking: its mode is shared with other processes.
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
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: JsonValue, /) -> int:
        """Write some of the bytes, at least one."""
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                select.select([], [self._descriptor], [])


def ensure_std_streams() -> None:
    """Make the standard streams usable, however the process was started.

    Closed streams (``>&-``) are None in Python and become the null device; so does the input, because the event loop
    would reuse its number and uvloop aborts when it closes that. Non-blocking output would lose data when its reader is
    slow, and gets a ``BlockingWriter``.
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
    except OSError:  # no descriptor, as in a test or a notebook
        return True


def flush_std_streams() -> bool:
    """Flush the standard streams; return whether that succeeded.

    A stream that fails is redirected to the null device, or the interpreter would try again at exit and complain.
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
    """Return a number of bytes as text, as the report shows it."""
    amount, units = float(length), iter(UNITS)
    unit = next(units)
    while amount >= 999.5 and unit != UNITS[-1]:  # rounds to 1000
        amount, unit = amount / 1000, next(units)
    return f"{amount:.1f} {unit}" if amount < 10 and unit != UNITS[0] else f"{amount:.0f} {unit}"  # two digits


def format_duration(seconds: float) -> str:
    """Return a duration as text."""
    minutes = round(seconds / 60)
    if seconds < 100:  # still readable
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def format_echo_differences(counts: Mapping[str, int]) -> str:
    """Return a note on the fields that the service echoed with different values; or ""."""
    if not counts:
        return ""
    listed = ", ".join(f"{name} ({number})" for name, number in sorted(counts.items()))
    return f"fields echoed by the service with different values: {listed}; not a failure, but check the results"


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'s' * (number != 1)}"


_SIMILARITY = 0.65
"""Threshold of similar names: ``promt`` and ``prompt`` are, ``text`` and ``prompt`` are not."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` with the most similar known name; empty if none is similar.

    A route is found by the part after its dot, such as ``create.new_fx`` by ``new-fx`` or ``fx``.
    """
    given = name.strip().lower().replace("-", "_").rpartition(".")[2]
    names = {one.rpartition(".")[2].lower(): one for one in known}
    close = difflib.get_close_matches(given, names, n=1, cutoff=_SIMILARITY)
    close = close or [one for one in names if one.endswith(f"_{given}")]
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


VERIFY_LEVELS = {
    "full": "every frame decoded",
    "header": "size and FLAC header checked, audio not decoded",
    "none": "only the size checked",
    "": "saved by an earlier version",
}
"""Meaning of each level, the strictest first; the level of an empty name was not recorded."""


def format_verify_levels(counts: Mapping[str, int], *, arguments: str) -> list[str]:
    """Return lines on the checks that files have passed, and the command for the full check, with its arguments."""
    known = [level for level in VERIFY_LEVELS if counts.get(level)]
    if not known:
        return []
    parts = [f"{counts[level]} {level or 'unknown'} ({VERIFY_LEVELS[level]})" for level in known]
    lines = [f"checks passed: {'; '.join(parts)}"]
    if known != ["full"]:
        lines.append(f"soundpiece verify {arguments} --full decodes every frame")
    return lines

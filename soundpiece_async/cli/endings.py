"""How a command line ends: the exit codes, and the one line that says why."""

from collections.abc import Mapping

from soundpiece_async import (
    AuthenticationError,
    InsufficientCredits,
    InvalidRequest,
    OperationFailed,
    SettingsError,
    SoundpieceError,
)

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


def advise(message: str, *, flag: str | None = "--overwrite") -> str:
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


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the one line for the error that ended a command; of several errors, the first.

    Raises:
        Exception: the error itself, if it is unforeseen: then it is a bug, and its traceback must be seen.
    """
    match error:
        case ExceptionGroup(exceptions=(first, *_)):
            return explain(first)
        case UsageError():
            return USAGE, f"soundpiece: {error}"
        case ModuleNotFoundError(name=str(module)) if (package := module.partition(".")[0]) in EXTRAS:
            return USAGE, f'soundpiece: {package} is not installed: pip install "soundpiece-async[{EXTRAS[package]}]"'
        case BrokenPipeError():
            return FAILED, ""  # whoever read our output has left, and wants to hear no more
        case RuntimeError(args=("can't start new thread",)):
            return FAILED, "soundpiece: no more threads can be started: raise the limit (ulimit -u, or the container's)"
        case SoundpieceError() | OSError() | StartError() | StreamError():
            told = "; ".join([str(error), *getattr(error, "__notes__", ()), *_way_back(error)])
            return _choose_code(error), f"soundpiece: {advise(told)}"
        case _:
            raise error


def _choose_code(error: Exception) -> int:
    """Return the exit code of an error: one for one kind of mistake, whichever command it is made in."""
    match error:
        case AuthenticationError() | InsufficientCredits():
            return REFUSED
        case InvalidRequest() | SettingsError() if error.handle is None:  # nothing was sent
            return USAGE
        case _:
            return FAILED


def _way_back(error: Exception) -> list[str]:
    """Name the command that goes on with the operation an error is about, unless the service has given up on it."""
    handle = error.handle if isinstance(error, SoundpieceError) and not isinstance(error, OperationFailed) else None
    return [] if handle is None else [f"to come back to it: soundpiece get {handle}"]

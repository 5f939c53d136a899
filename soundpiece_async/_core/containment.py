"""Converts any exception that ends a job into an error of the library.

1. Of a group, the most specific error is used: one of the journal, else another of ours, else the first. The others
   become notes.
2. A foreign exception is the cause of the error, unless a text in its chain holds a key or the signature of a URL.
"""

from collections.abc import Iterator, Sequence

from soundpiece_async._core.errors import JournalError, SoundpieceError
from soundpiece_async._core.redaction import hide_secrets, redact_text

MAX_NOTES = 5
"""Further errors that are noted one by one; an operation may have thousands of outputs."""


def contain(fault: Exception, *, what: str) -> tuple[SoundpieceError, bool]:
    """Return the library error for the exception that ended a job, and whether that exception was unexpected.

    Args:
        fault: the exception; a group is searched.
        what: the name of the job in the message.
    """
    faults = list(_flatten(fault))
    faults.sort(key=lambda one: 0 if isinstance(one, JournalError) else 1 if isinstance(one, SoundpieceError) else 2)
    first, *others = faults
    error = first if isinstance(first, SoundpieceError) else _explain(first, what=what)
    note_others(error, others)
    return error, error is not first


def note_others(error: Exception, others: Sequence[Exception]) -> None:
    """Add further errors to one as notes: the first ``MAX_NOTES``, and the number of the rest."""
    for other in others[:MAX_NOTES]:
        error.add_note(f"and: {type(other).__name__}: {redact_text(_read(other))}")
    if len(others) > MAX_NOTES:
        error.add_note(f"and {len(others) - MAX_NOTES} more")


def _explain(fault: Exception, *, what: str) -> SoundpieceError:
    text = _read(fault)
    error = SoundpieceError(
        f"{what}: an unexpected {type(fault).__name__}: {redact_text(text)}; the other jobs continue. "
        "Check what this one was given; if nothing is wrong with it, report this, with the traceback in the log"
    )
    error.__cause__ = fault if all(hide_secrets(told) == told for told in map(_read, _chain(fault))) else None
    error.__suppress_context__ = True
    return error


def _flatten(fault: Exception) -> Iterator[Exception]:
    if isinstance(fault, ExceptionGroup):
        for one in fault.exceptions:
            yield from _flatten(one)
    else:
        yield fault


def _chain(fault: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes and contexts, as a traceback shows them."""
    seen: set[int] = set()
    while fault is not None and id(fault) not in seen:
        yield fault
        seen.add(id(fault))
        fault = fault.__cause__ or fault.__context__


def _read(fault: BaseException) -> str:
    """Return the text of an exception, or nothing where its ``__str__`` fails."""
    try:
        return str(fault)
    except Exception:  # noqa: BLE001 - as above
        return ""

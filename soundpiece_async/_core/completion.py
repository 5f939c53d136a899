"""Whether an operation is over, and how: decided by its content, of which the status is only a part.

Rules (docs/api.md#final-status):

1. ``processing`` and its plain synonyms are never final, even with outputs, which may be partial.
2. Known final words end it, and the content decides how: with outputs it is ready, with a remark if there is an error,
   too; else an error, or a word that means failure, makes it failed.
3. A word that means success, with neither outputs nor error, is an operation without outputs; any other word with
   outputs or an error may be an end. Either is uncertain until two reads, ``AGREE_AFTER`` seconds apart or more, agree.
4. Case, blanks, hyphens and underscores are ignored. Empty containers count as absent.
"""

from collections.abc import Mapping

import attrs

from soundpiece_async._core.operations import AnyOperation, Status

AGREE_AFTER = 10.0
"""Seconds between two reads that confirm an uncertain end (rule 3)."""

_RUNNING = frozenset({"processing", "queued", "pending", "running", "inprogress", "generating"})
_SUCCESS = frozenset({"ready", "completed", "complete", "succeeded", "success", "successful", "done", "finished"})
_FAILURE = frozenset(
    {"failed", "failure", "cancelled", "canceled", "aborted", "expired", "error", "errored", "rejected"}
)
_OURS = {status.value: status for status in Status}
_PLAIN = _RUNNING | _SUCCESS | _FAILURE
_ENDS = dict.fromkeys(_SUCCESS, Status.READY) | dict.fromkeys(_FAILURE, Status.FAILED)


@attrs.frozen
class Ending:
    """Whether an operation has ended, and how.

    Attributes:
        status: the word as it came, or ``READY`` or ``FAILED`` where it is an end.
        shown: the status of the operation as long as ``status`` is not certain.
        certain: False: it is an end only when a later read says the same.
        unknown: the word, if this version does not know it.
        remark: a contradiction in the content, for the log.
    """

    status: Status
    shown: Status
    certain: bool = True
    unknown: str = ""
    remark: str = ""

    @property
    def over(self) -> bool:
        """Whether this response alone is final."""
        return self.certain and self.status.final


PLAIN_ENDINGS: Mapping[str, Ending] = {status: Ending(status, status) for status in Status}
"""The usual ones, made once, by the documented word."""


def is_running(word: object) -> bool:
    """Return whether a status means that the operation still runs (rule 1): then nothing else has to be read."""
    return isinstance(word, str) and (word in _RUNNING or _normalize(word) in _RUNNING)


def read_end(word: object) -> Status | None:
    """Return the end that a status means, regardless of the content; None: the operation runs, or it is unknown."""
    return _ENDS.get(_normalize(word)) if isinstance(word, str) else None


def read_status(word: str) -> Status:
    """Return the status that a word means, regardless of the content."""
    plain = _normalize(word)
    return _ENDS.get(plain) or _OURS.get(plain) or Status(word)


def decide(word: object, *, outputs: bool, error: bool) -> Ending:
    """Decide whether an operation has ended, and how.

    Args:
        word: its status as it came.
        outputs: whether there are outputs that can be fetched.
        error: whether an error is filled.
    """
    text = word if isinstance(word, str) else ""
    plain = _normalize(text)
    remark = "both outputs and an error are there: the outputs count" if outputs and error else ""
    end, told = Status.READY if outputs else Status.FAILED, _ENDS.get(plain)
    if told is Status.FAILED or (told is not None and (outputs or error)):
        return Ending(end, end, remark=remark) if remark else PLAIN_ENDINGS[end]
    if told is not None:
        return Ending(Status.READY, Status.READY, certain=False)
    shown = _OURS.get(plain) or (Status(text) if plain else Status.PROCESSING)
    if plain in _RUNNING:
        return PLAIN_ENDINGS.get(shown) or Ending(shown, shown)
    unknown = text if plain else "missing"
    if outputs or error:
        return Ending(end, shown, certain=False, unknown=unknown, remark=remark)
    return Ending(shown, shown, unknown=unknown)


def is_over(operation: AnyOperation) -> bool:
    """Return whether an operation is certainly over: failed, or ready with outputs (rule 3)."""
    return operation.status is Status.FAILED or (operation.status is Status.READY and bool(operation.outputs))


class Agreement:
    """The latest uncertain end of one operation, and the time of its first read (rule 3)."""

    def __init__(self) -> None:
        self._said: tuple[object, ...] | None = None
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Agreement on {self._said!r} since {self._since:.1f}>"

    def add(self, status: Status, operation: AnyOperation, *, now: float) -> bool:
        """Add a read, and return whether it agrees with one that is old enough.

        URLs may be signed again each time, so only the number of outputs counts.

        Args:
            status: how the operation would end.
            operation: as it was read.
            now: in seconds.
        """
        said = (status, len(operation.outputs), operation.error)
        if said != self._said:
            self._said, self._since = said, now
        return now - self._since >= AGREE_AFTER


def _normalize(word: str) -> str:
    return word if word in _PLAIN else "".join(filter(str.isalnum, word.casefold()))

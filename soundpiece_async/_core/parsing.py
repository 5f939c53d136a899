"""Parses the JSON of an operation, leniently: for PUTs, polls, refreshes and webhooks.

What happens when a field is missing from a response (absent, null or empty), or is malformed:

=====================  ===============================================================================================
``id`` of a poll       not needed: it is that of the handle
``id`` of a PUT        taken from a header or the location if one has it, else ``DecodeError`` (``wire.py``)
``status``             counts as running; with outputs or an error, two reads ``AGREE_AFTER`` seconds apart must agree
outputs, when ready    read again ``AGREE_AFTER`` seconds later; else ``wait`` raises ``NotReady``
``url`` of an output   that output is left out, with a warning
any other              missing: None, silently; malformed: None, with one warning per session (``Note``)
=====================  ===============================================================================================

``fields.py`` reads each value, and ``completion.py`` has the rules of the status.
"""

from collections.abc import Iterator, Mapping

import attrs

from soundpiece_async._core import codec, completion, fields
from soundpiece_async._core.completion import Ending
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.operations import AnyOperation, Operation, OperationError, Status
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._core.requests import Handle, Output, Request

_NAMES = ("outputs", "output")
_REASONS = ("errors", "failure", "failure_reason", "error_message", "reason", "message", "detail")


@attrs.frozen
class Note:
    """An oddity of a response that is no error: for the log, once for each ``about`` and session."""

    about: str
    text: str


@attrs.frozen(kw_only=True)
class ParsedOperation:
    """An operation as parsed from one response.

    Attributes:
        operation: final only where the response alone says so.
        ending: running, ended, or uncertain.
        notes: oddities of the response.
        suspicious: members whose echo differs from what was sent in more than its form.
    """

    operation: AnyOperation
    ending: Ending
    notes: tuple[Note, ...] = ()
    suspicious: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether this response alone is final."""
        return self.ending.certain and self.ending.status.final

    @property
    def undecided(self) -> bool:
        """Whether it is an end as soon as a later response says the same."""
        return not self.ending.certain

    def settle(self) -> AnyOperation:
        """Return the operation as ended: either with outputs or with an error."""
        failed = self.ending.status is Status.FAILED
        error = self.operation.error or OperationError(fields.INTERNAL_ERROR, "") if failed else None
        return attrs.evolve(self.operation, status=self.ending.status, error=error)


class _Notes:
    """Collects notes, each once."""

    def __init__(self) -> None:
        self._notes: dict[str, Note] = {}

    def add(self, about: str, text: str) -> None:
        self._notes.setdefault(about, Note(about, text))

    def keep(self, name: str, read: fields.Read[fields.T]) -> fields.T | None:
        """Return the value of a field, or record why it has no value."""
        value, reason = read
        if reason:
            self.add(name, f"{name} is invalid and left out: {reason}")
        return value

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes.values())


def parse_operation(found: Mapping[str, object], handle: Handle, *, request: Request | None) -> ParsedOperation:
    """Read an operation; only its id, which is in the handle, is required.

    Args:
        found: the JSON object.
        handle: of the operation.
        request: the request it answers; None: rebuild it from the echo, as far as that goes.
    """
    notes = _Notes()
    outputs = _read_outputs(found, handle, notes)
    error = _read_error(found)
    ending = completion.decide(found.get("status"), outputs=bool(outputs), error=error is not None)
    if ending.unknown:
        word = redact_text(ending.unknown)
        notes.add(f"status {word}", f"its status, {word!r}, is unknown to this version: it counts as running")
    elif not ending.certain:
        notes.add("no outputs", f"its status is {ending.status}, but it has no outputs: it is read again")
    if ending.remark:
        notes.add("outputs and error", ending.remark)
    operation = Operation(
        route=handle.route,
        id=handle.id,
        status=ending.shown,
        created_at=notes.keep("created_at", fields.read_time(found.get("created_at"))),
        idempotency_key=notes.keep("idempotency_key", fields.read_text(found.get("idempotency_key"))),
        request=request if request is not None else codec.request_from_echo(found, route=handle.route),
        outputs=outputs,
        error=error,
        raw=found,
    )
    reading = ParsedOperation(operation=operation, ending=ending, notes=tuple(notes))
    return attrs.evolve(reading, operation=reading.settle()) if reading.over else reading


def _read_outputs(found: Mapping[str, object], handle: Handle, notes: _Notes) -> tuple[Output, ...]:
    """Read ``outputs`` or the single ``output``, whichever has any (docs/api.md#routes), or else another member."""
    for name in (*_NAMES, *_list_other_names(found)):
        value = found.get(name)
        outputs = [_read_output(one, handle, index, notes) for index, one in enumerate(fields.find_outputs(value))]
        expected = len([one for one in value if not fields.is_empty(one)]) if isinstance(value, list) else 0
        if len(outputs) < expected or not (outputs or fields.is_empty(value)):
            notes.add(f"{name}[].url", f"{name} without a url are left out: {len(outputs)} remain")
        if outputs and name not in _NAMES:
            notes.add(f"outputs in {name}", f"its outputs are in another field, {redact_text(name)!r}")
        if outputs:
            return tuple(outputs)
    return ()


def _read_error(found: Mapping[str, object]) -> OperationError | None:
    """Read ``error``, or another field with the reason of an operation that failed."""
    error, word = fields.read_error(found.get("error")), found.get("status")
    if error is not None or not isinstance(word, str) or completion.read_status(word) is not Status.FAILED:
        return error
    return next((reason for name in _REASONS if (reason := fields.read_error(found.get(name))) is not None), None)


def _list_other_names(found: Mapping[str, object]) -> Iterator[str]:
    """Yield the other members that are named like a file, of an operation that is said to have ended well."""
    word = found.get("status")
    if isinstance(word, str) and completion.read_status(word) is Status.READY:
        yield from (name for name in found if fields.is_for_a_file(name) and name not in _NAMES)


def _read_output(found: JsonObject, handle: Handle, index: int, notes: _Notes) -> Output:
    return Output(
        url=found["url"],
        expires_at=notes.keep("outputs[].expires_at", fields.read_time(found.get("expires_at"))),
        duration=notes.keep("outputs[].duration", fields.read_duration(found.get("duration"))),
        kind=notes.keep("outputs[].kind", fields.read_kind(found.get("kind"))),
        handle=handle,
        index=index,
    )

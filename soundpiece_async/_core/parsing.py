"""Parses the JSON of an operation, leniently: for PUTs, polls, refreshes and webhooks.

What happens when a field is missing from a response (absent, null or empty), or is malformed:

=====================  ===============================================================================================
``id`` of a poll       not needed: it is that of the handle
``id`` of a PUT        taken from a header or the location if one has it, else ``DecodeError`` (``wire.py``)
``status``             counts as running; with outputs or an error, two reads ``AGREE_AFTER`` seconds apart must agree
outputs, when ready    read again ``AGREE_AFTER`` seconds later; else ``wait`` raises ``NotReady``
``url`` of an output   that output is left out, with a warning
``error``, if failed   an empty error of the code ``internal_error``
any other              missing: None, silently; malformed: None, with one warning per session (``ResponseNote``)
=====================  ===============================================================================================

``fields.py`` reads each value, and ``completion.py`` has the rules of the status. None of this is a structure hook of
cattrs: a hook gets a value and its type, and an operation is read with its handle, its request and a place for notes.
"""

from collections.abc import Mapping
from typing import TypeAlias

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
class ResponseNote:
    """An oddity of a response that is no error: for the log, once for each ``about`` and session."""

    about: str
    text: str


@attrs.define(kw_only=True)
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
    notes: tuple[ResponseNote, ...] = ()
    suspicious: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether this response alone is final."""
        return self.ending.over

    @property
    def undecided(self) -> bool:
        """Whether it is an end as soon as a later response says the same."""
        return not self.ending.certain

    def settle(self) -> AnyOperation:
        """Return the operation as ended: either with outputs or with an error."""
        error = _settle_error(self.ending, self.operation.error)
        return attrs.evolve(self.operation, status=self.ending.status, error=error)


def _settle_error(ending: Ending, error: OperationError | None) -> OperationError | None:
    """Return the error of an operation that has ended: there is one if it failed, and only then."""
    return (error or OperationError(fields.INTERNAL_ERROR, "")) if ending.status is Status.FAILED else None


Notes: TypeAlias = dict[str, ResponseNote]
"""Notes by what they are about, each once."""
Content: TypeAlias = tuple[tuple[Output, ...], OperationError | None, Ending]
"""Outputs, error, and whether the operation has ended."""


def _add_note(notes: Notes, about: str, text: str) -> None:
    notes.setdefault(about, ResponseNote(about, text))


def _note_invalid(notes: Notes, reasons: Mapping[str, str]) -> None:
    """Note the fields that have a reason why they have no value."""
    for name, reason in reasons.items():
        if reason:
            _add_note(notes, name, f"{name} is invalid and left out: {reason}")


def parse_operation(found: Mapping[str, object], handle: Handle, *, request: Request | None) -> ParsedOperation:
    """Read an operation; only its id, which is in the handle, is required.

    Args:
        found: the JSON object.
        handle: of the operation.
        request: the request it answers; None: rebuild it from the echo, as far as that goes.
    """
    notes: Notes = {}
    outputs, error, ending = read_documented(found, handle, notes) or read_leniently(found, handle, notes)
    created_at, no_time = fields.read_time(found.get("created_at"))
    key, no_key = fields.read_text(found.get("idempotency_key"))
    if no_time or no_key:
        _note_invalid(notes, {"created_at": no_time, "idempotency_key": no_key})
    operation = Operation(
        route=handle.route,
        id=handle.id,
        status=ending.shown,
        created_at=created_at,
        idempotency_key=key,
        request=request if request is not None else codec.request_from_echo(found, route=handle.route),
        outputs=outputs,
        error=error,
        raw=found,
    )
    return ParsedOperation(operation=operation, ending=ending, notes=tuple(notes.values()))


def read_documented(found: Mapping[str, object], handle: Handle, notes: Notes) -> Content | None:
    """Read outputs and status of an operation that runs or is ready, as documented; None: it has to be read leniently.

    Either way comes to the same; but most responses are as documented, and then this takes a third of the time.
    """
    word, listed = found.get("status"), found.get("outputs") or found.get("output") or []
    ending = completion.PLAIN_ENDINGS.get(word) if isinstance(word, str) else None
    if isinstance(listed, dict):
        listed = [listed]
    if ending is None or ending.status is Status.FAILED or found.get("error") is not None:
        return None
    ready = ending.status is Status.READY
    if not isinstance(listed, list) or bool(listed) is not ready or not all(map(_is_documented, listed)):
        return None
    return tuple([_read_output(one, handle, index, notes) for index, one in enumerate(listed)]), None, ending


def _is_documented(output: object) -> bool:
    """Return whether an output has its link to audio where it is documented, and a kind, if any."""
    if not isinstance(output, dict) or not isinstance(url := output.get("url"), str) or not url.strip():
        return False
    kind = output.get("kind")
    return (kind is None or bool(kind)) and not fields.leads_elsewhere(url)


def read_leniently(found: Mapping[str, object], handle: Handle, notes: Notes) -> Content:
    """Read outputs, error and status, wherever and whatever they are."""
    word = found.get("status")
    told = completion.read_end(word)
    outputs = _read_outputs(found, told, handle, notes)
    error = _read_error(found, told)
    ending = completion.decide(word, outputs=bool(outputs), error=error is not None)
    if ending.unknown:
        word = redact_text(ending.unknown)
        _add_note(notes, f"status {word}", f"its status, {word!r}, is unknown to this version: it counts as running")
    elif not ending.certain:
        _add_note(notes, "no outputs", f"its status is {ending.status}, but it has no outputs: it is read again")
    if ending.remark:
        _add_note(notes, "outputs and error", ending.remark)
    return outputs, _settle_error(ending, error) if ending.over else error, ending


def _read_outputs(found: Mapping[str, object], told: Status | None, handle: Handle, notes: Notes) -> tuple[Output, ...]:
    """Read ``outputs`` or the single ``output``, whichever has any (docs/api.md#routes).

    Of an operation that ended well by its status, another member that is named like a file will do.
    """
    for name in _NAMES:
        if outputs := _read_member(found.get(name), name, handle, notes):
            return outputs
    others = found if told is Status.READY else ()
    for name in (name for name in others if fields.is_for_a_file(name) and name not in _NAMES):
        if outputs := _read_member(found[name], name, handle, notes):
            _add_note(notes, f"outputs in {name}", f"its outputs are in another field, {redact_text(name)!r}")
            return outputs
    return ()


def _read_member(value: object, name: str, handle: Handle, notes: Notes) -> tuple[Output, ...]:
    """Read the outputs in a member of an operation."""
    if value is None:
        return ()
    outputs = tuple([_read_output(one, handle, index, notes) for index, one in enumerate(fields.find_outputs(value))])
    if _lost_some(value, len(outputs)):
        _add_note(notes, f"{name}[].url", f"{name} without a url are left out: {len(outputs)} remain")
    return outputs


def _lost_some(value: object, count: int) -> bool:
    """Return whether a value holds more than so many outputs, but for empty ones."""
    if not isinstance(value, list) or not count:
        return not (count or fields.is_empty(value))
    return count < len(value) and count < len([one for one in value if not fields.is_empty(one)])


def _read_error(found: Mapping[str, object], told: Status | None) -> OperationError | None:
    """Read ``error``, or another field with the reason of an operation that failed by its status."""
    error = fields.read_error(found.get("error"))
    if error is not None or told is not Status.FAILED:
        return error
    return next((reason for name in _REASONS if (reason := fields.read_error(found.get(name))) is not None), None)


def _read_output(found: JsonObject, handle: Handle, index: int, notes: Notes) -> Output:
    expires_at, no_time = fields.read_time(found.get("expires_at"))
    duration, no_duration = fields.read_duration(found.get("duration"))
    kind, no_kind = fields.read_kind(found.get("kind"))
    if no_time or no_duration or no_kind:
        reasons = {"expires_at": no_time, "duration": no_duration, "kind": no_kind}
        _note_invalid(notes, {f"outputs[].{name}": reason for name, reason in reasons.items()})
    return Output(url=found["url"], expires_at=expires_at, duration=duration, kind=kind, handle=handle, index=index)

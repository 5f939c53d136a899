"""Operations of the service, their status and their errors."""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.redaction import hide_secrets, redact_text, redacted_repr
from soundpiece_async._core.requests import Handle, Output, Request
from soundpiece_async._core.rich_display import Fields, Rows, html_cell, html_table

R_co = TypeVar("R_co", bound=Request | None, covariant=True)


class Status(StrEnum):
    """The status of an operation. Open: an unknown status is kept and counts as not final (docs/api.md#status)."""

    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"

    @classmethod
    def _missing_(cls, value: object) -> "Status | None":
        if not isinstance(value, str):
            return None
        status = str.__new__(cls, value)
        status._name_ = status._value_ = value
        return status

    def __repr__(self) -> str:
        return f"<Status.{redact_text(self.name)}: {redact_text(self.value)!r}>"

    @property
    def final(self) -> bool:
        """True when the operation will not change any more."""
        return self in _FINAL


_FINAL = (Status.READY, Status.FAILED)


@attrs.frozen
class OperationError:
    """The reason of a failure. The set of codes is open; code and message are as received.

    See docs/api.md#operation-errors.

    ``str(error)`` is one printable line of them without secrets, good for a log or a terminal.
    """

    code: str = attrs.field(repr=redacted_repr)
    message: str = attrs.field(repr=redacted_repr)

    def __str__(self) -> str:
        return redact_text(": ".join(part for part in (self.code, self.message) if part))


@attrs.frozen(kw_only=True)
class Operation(Generic[R_co]):
    """One operation of the service, as it was last read.

    Attributes:
        route: such as ``create.new_song``.
        id: opaque handle of the operation on its route.
        status: see ``Status``; unknown ones are kept and count as not final.
        created_at: the time of submission; None if the service did not name it.
        idempotency_key: the request's key, as echoed; None if the service did not echo it.
        request: the request object; of an operation known by its handle only, rebuilt from the echo, or None.
        outputs: the audio files, once ready; a single one is a tuple, too.
        error: the reason, once failed.
        echo_differences: names of the request's fields that the service echoed differently.
        raw: the JSON object as received, including unknown fields. Contains signed URLs; not in the repr.
    """

    route: str = attrs.field(repr=redacted_repr)
    id: str = attrs.field(repr=redacted_repr)
    status: Status
    created_at: datetime | None = None
    idempotency_key: str | None = attrs.field(default=None, repr=redacted_repr)
    request: R_co = attrs.field(repr=False)
    outputs: tuple[Output, ...] = ()
    error: OperationError | None = None
    echo_differences: tuple[str, ...] = ()
    raw: Mapping[str, JsonValue] = attrs.field(factory=dict, repr=False, eq=False)

    @property
    def handle(self) -> Handle:
        """Route and id: store them to find this operation again."""
        return Handle(self.route, self.id)

    def to_dict(self, *, urls: bool = False) -> JsonObject:
        """Return the operation as JSON values without secrets: for responses of web apps, logs and queues.

        ``Handle.parse`` of the field ``handle`` identifies the operation. The fields of the request are omitted,
        because lyrics may be private and sources signed.

        Args:
            urls: include the signed URLs of the outputs. Anyone with such a URL can fetch the file while it is valid.
        """
        return {
            "handle": str(self.handle),
            "route": self.route,
            "id": self.id,
            "status": self.status.value,
            "created_at": self.created_at and self.created_at.isoformat(),
            "idempotency_key": self.idempotency_key and str(self.idempotency_key),
            "outputs": [output.to_dict(urls=urls) for output in self.outputs],
            "error": self.error and {"code": self.error.code, "message": hide_secrets(self.error.message)},
        }

    def __rich_repr__(self) -> Fields:
        yield "handle", redact_text(str(self.handle))
        yield "status", redact_text(self.status.value)
        yield from _request_fields(self.request)
        if self.outputs:
            yield "outputs", [_name_output(output) for output in self.outputs]
        if self.error is not None:
            yield "error", str(self.error)

    def _repr_html_(self) -> str:
        return html_table(html_rows(self))


AnyOperation: TypeAlias = Operation[Any]
"""An operation of whichever request."""


_SHARED = frozenset({"idempotency_key", "callback_url"})
"""Members that all requests have, and that no table shows."""


def html_rows(operation: "AnyOperation") -> Rows:
    """Return the rows of an operation's table."""
    rows = [(name, html_cell(value)) for name, value in operation.__rich_repr__()]
    if operation.created_at is not None:
        rows.insert(2, ("created", html_cell(f"{operation.created_at:%Y-%m-%d %H:%M:%S %Z}")))
    return rows


def _request_fields(request: Request | None) -> Fields:
    """Yield the fields of a request as in its repr, which hides URLs."""
    if request is None:
        return
    for field in attrs.fields(type(request)):
        value = getattr(request, field.name)
        if field.name in _SHARED or value is None:
            continue
        if isinstance(value, Output):
            yield field.name, f"{_name_output(value)} of {redact_text(str(value.handle))}"
        elif callable(field.repr):
            yield field.name, field.repr(value)
        else:
            yield field.name, hide_secrets(value) if isinstance(value, str) else value


def _name_output(output: Output) -> str:
    length = "" if output.duration is None else f", {output.duration:.2f} s"
    return f"{redact_text(output.kind) if output.kind else f'output {output.index}'}{length}"


def match_outputs(fresh: Iterable[Output], known: Iterable[Output]) -> tuple[Output, ...]:
    """Return the outputs of a later response with the numbers they had in the first one, and in that order.

    The order of outputs is not promised, and a URL is signed again each time. So outputs are matched by the path of
    their URL, then by their kind, then by their duration, each time only where the value is unique; the rest by
    position, but never one kind with another. New outputs get the next numbers.

    Takes time in proportion to their number: one response may list thousands.
    """
    left, missing = dict(enumerate(fresh)), dict(enumerate(known))
    unused = max((old.index for old in missing.values()), default=-1) + 1
    numbered: list[Output] = []
    for find in (_match_paths, _match_kinds, _match_durations, _match_positions):
        for old, new in find(missing, left):
            numbered.append(_give_index(left.pop(new), missing.pop(old).index))
    numbered += [_give_index(new, unused + number) for number, new in enumerate(left.values())]
    return tuple(sorted(numbered, key=lambda output: output.index))


def _give_index(output: Output, index: int) -> Output:
    return output if output.index == index else attrs.evolve(output, index=index)


_Outputs: TypeAlias = dict[int, Output]
_Pairs: TypeAlias = list[tuple[int, int]]


def _match_paths(missing: _Outputs, left: _Outputs) -> _Pairs:
    return _match_only(missing, left, mark=lambda output: _cut_path(output.url))


def _cut_path(url: str) -> str:
    """Return the path of a URL, or any other text unchanged: ``Output.path`` at a tenth of its cost."""
    plain = url.partition("?")[0].partition("#")[0]
    _, mark, rest = plain.partition("://")
    return rest.partition("/")[2] if mark else plain


def _match_kinds(missing: _Outputs, left: _Outputs) -> _Pairs:
    return _match_only(missing, left, mark=lambda output: output.kind)


def _match_durations(missing: _Outputs, left: _Outputs) -> _Pairs:
    """Match by duration and kind: the stems of one mix all have the same duration."""
    return _match_only(
        missing, left, mark=lambda output: None if output.duration is None else (output.duration, output.kind)
    )


def _match_only(missing: _Outputs, left: _Outputs, *, mark: Callable[[Output], Hashable]) -> _Pairs:
    """Match the outputs whose mark is the same, and unique on both sides; None is no mark."""
    twins, found = _only(missing, mark), _only(left, mark)
    return [(old, found[shared]) for shared, old in twins.items() if shared in found]


def _only(outputs: _Outputs, mark: Callable[[Output], Hashable]) -> dict[Hashable, int]:
    """Return the outputs whose mark is unique, by mark."""
    marks = {position: mark(output) for position, output in outputs.items()}
    counts = Counter(marks.values())
    return {shared: position for position, shared in marks.items() if shared is not None and counts[shared] == 1}


def _match_positions(missing: _Outputs, left: _Outputs) -> _Pairs:
    """Match by position: one without a kind is matched by any, one with a kind by one of it, or by one without."""
    queues: dict[str | None, deque[int]] = {}
    for position, output in left.items():
        queues.setdefault(output.kind, deque()).append(position)
    anyone, taken, pairs = deque(left), set[int](), _Pairs()
    for old, output in missing.items():
        fitting = (anyone,) if output.kind is None else (queues.get(None), queues.get(output.kind))
        heads = [head for queue in fitting if (head := _peek(queue, taken)) is not None]
        if heads:
            taken.add(min(heads))
            pairs.append((old, min(heads)))
    return pairs


def _peek(queue: deque[int] | None, taken: set[int]) -> int | None:
    """Return the first of a queue that was not taken from another queue, or None."""
    while queue and queue[0] in taken:
        queue.popleft()
    return queue[0] if queue else None

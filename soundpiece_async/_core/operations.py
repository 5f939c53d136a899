"""Operations of the service, their status and their errors."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import attrs

from soundpiece_async._core.outputs import Handle, Output
from soundpiece_async._core.redaction import hide_secrets, redact_text, redacted_repr
from soundpiece_async._core.requests import Request
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
        return self in (Status.READY, Status.FAILED)


@attrs.frozen
class OperationError:
    """The reason of a failure. The set of codes is open; code and message are as they came.

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
        route: as ``create.new_song``.
        id: opaque handle of the operation on its route.
        status: see ``Status``; unknown ones are kept and count as not final.
        created_at: the time of submission; None if the service did not name it.
        idempotency_key: the request's key, as echoed; None if the service did not echo it.
        request: the request object; of an operation known by its handle only, rebuilt from the echo, or None.
        outputs: the audio files, once ready; a single one is a tuple, too.
        error: the reason, once failed.
        echo_differences: names of the request's members that the service echoed otherwise than they were sent.
        raw: the JSON object as it came, unknown members included. Holds signed URLs; not in the repr.
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
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @property
    def handle(self) -> Handle:
        """Route and id: store them to find this operation again."""
        return Handle(self.route, self.id)

    def to_dict(self, *, urls: bool = False) -> dict[str, Any]:
        """Return the operation as JSON values without secrets: for responses of web apps, logs and queues.

        ``Handle.parse`` of the member ``handle`` leads back to the operation. The members of the request are left out,
        because lyrics may be private and sources signed.

        Args:
            urls: include the signed URLs of the outputs. Anybody who has one can fetch the file while it is valid.
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


_SHARED = frozenset({"idempotency_key", "callback_url"})
"""Members that all requests have, and that no table shows."""


def html_rows(operation: Operation[Any]) -> Rows:
    """Return the rows of an operation's table."""
    rows = [(name, html_cell(value)) for name, value in operation.__rich_repr__()]
    if operation.created_at is not None:
        rows.insert(2, ("created", html_cell(f"{operation.created_at:%Y-%m-%d %H:%M:%S %Z}")))
    return rows


def _request_fields(request: Request | None) -> Fields:
    """Yield the members of a request in the words of its own repr, which hides URLs."""
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

"""Models to HTTP messages and back: what is asked, and what an answer means. No network here."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit
from uuid import UUID

import attrs

from soundpiece_async._core import codec, pacing
from soundpiece_async._core.errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    DecodeError,
    FieldError,
    InsufficientCredits,
    NotFound,
    OperationFailed,
    RateLimited,
    ServerError,
    TransportError,
    ValidationError,
)
from soundpiece_async._core.models import Operation, Status
from soundpiece_async._core.outputs import Handle
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._core.requests import ROUTES, Request

_OPERATION_ID = re.compile(r"op_[0-9a-z]{26}")


@attrs.frozen
class Call:
    """One request to the API. Its text says what was tried and with which id, for messages and logs.

    Args:
        method: PUT or GET.
        target: path and query below the base URL.
        body: JSON bytes, of a PUT.
        about: the idempotency key of a PUT, the operation id of a GET.
    """

    method: str
    target: str
    body: bytes | None = attrs.field(repr=False)
    about: str

    def __str__(self) -> str:
        what = "idempotency key" if self.method == "PUT" else "operation"
        return f"{self.method} {redact_text(self.target.partition('?')[0])} ({what} {redact_text(self.about)})"


@attrs.frozen
class Answer:
    """What came back: status, headers (names in lower case; of a success none, nobody asks) and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)


def submit(request: Request, body: bytes) -> Call:
    """Ask for a piece of work (contract section 3); ``body`` is what ``codec.encode_request`` made of it, once."""
    return Call("PUT", f"/v1/{request.route}", body, str(request.idempotency_key))


def poll(handle: Handle, *, wait: bool) -> Call:
    """Ask how an operation stands; ``wait`` lets the service hold the answer for up to 20 s (contract section 2.3)."""
    query = {"id": handle.id, "wait": "true"} if wait else {"id": handle.id}
    return Call("GET", f"/v1/{handle.route}?{urlencode(query)}", None, handle.id)


def read_submitted(answer: Answer, call: Call, *, request: Request) -> Operation[Any]:
    """Read the answer to a submit.

    Raises:
        TransportError: a 2xx that is not JSON; the same key may go again.
        ApiError: the service refused.
        DecodeError: not of the contract's shape, or it echoes another request than the one sent; ``operation`` then
            holds the id that is known nevertheless.
    """
    members = _open_envelope(_read_json(answer, call), route=request.route, call=call)
    operation = codec.decode_operation(members, route=request.route, request=request)
    sent = codec.decode_json(call.body or b"{}")
    for name, value in sent.items():
        echoed = members.get(name)
        if name == "callback_url" or echoed is None or _same(name, value, echoed):
            continue
        raise DecodeError(
            f"{call}: the answer echoes another {name} than was sent, so operation {operation.id} is not the work"
            " asked for; use a fresh idempotency key for every request",
            path=name,
            operation=operation,
        )
    return operation


def read_operation(answer: Answer, call: Call, *, handle: Handle, request: Request | None = None) -> Operation[Any]:
    """Read how an operation stands. Raises as ``read_submitted``."""
    return codec.decode_operation(_open_poll(answer, call, handle=handle), route=handle.route, request=request)


def read_final(answer: Answer, call: Call, *, handle: Handle, request: Request | None = None) -> Operation[Any] | None:
    """Read how an operation stands, or give None when it is not final yet: that is seen before anything is built.

    Raises as ``read_submitted``.
    """
    members = _open_poll(answer, call, handle=handle)
    if members.get("status") not in (Status.READY, Status.FAILED) and isinstance(members.get("status"), str):
        return None
    return codec.decode_operation(members, route=handle.route, request=request)


def _open_poll(answer: Answer, call: Call, *, handle: Handle) -> Mapping[str, Any]:
    members = _open_envelope(_read_json(answer, call), route=handle.route, call=call)
    found = members.get("id")
    if found != handle.id:
        other = redact_text(found) if isinstance(found, str) else "without an id"
        raise DecodeError(f"{call}: the answer is about another operation, {other}", path="id")
    return members


def _read_json(answer: Answer, call: Call) -> Any:
    if not 200 <= answer.status < 300:  # noqa: PLR2004 - what 2xx means
        raise read_refusal(answer, call)
    try:
        return codec.decode_json(answer.body)
    except ValueError as error:
        raise TransportError(f"{call}: status {answer.status}, but not JSON: {redact_text(answer.body)}") from error


def _open_envelope(data: Any, *, route: str, call: Call) -> Mapping[str, Any]:
    """Find the operation: by the known name, else as the only object whose id looks like one (contract section 2)."""
    if not isinstance(data, dict):
        raise DecodeError(f"{call}: the answer is JSON, but no object: {redact_text(str(data))}")
    kind = ROUTES.get(route)
    known = data.get(kind.envelope) if kind else None
    if isinstance(known, dict):
        return known
    found = [
        value
        for value in data.values()
        if isinstance(value, dict) and isinstance(value.get("id"), str) and _OPERATION_ID.fullmatch(value["id"])
    ]
    if len(found) != 1:
        names = redact_text(", ".join(data))
        raise DecodeError(f"{call}: the answer holds {len(found)} operations, not one; its members: {names}")
    return found[0]


def read_refusal(answer: Answer, call: Call) -> ApiError:  # noqa: PLR0911 - a table, one row a status
    """Make the error that an answer without success stands for (contract section 7)."""
    try:
        body: Any = codec.decode_json(answer.body)
    except ValueError:
        body = answer.body.decode("utf-8", "replace")
    detail = body.get("detail") if isinstance(body, dict) else None
    status = answer.status
    ids = "".join(f", {name}: {value}" for name, value in answer.headers.items() if "request-id" in name)
    told = f"{call}: status {status}{ids}: {_explain(detail, body)}"
    facts: dict[str, Any] = {"status": status, "detail": detail, "body": body, "headers": answer.headers}
    match status:
        case 400:
            return BadRequest(told, **facts)
        case 401 | 403:
            return AuthenticationError(f"{told}; check the API key (and the account's address allowlist)", **facts)
        case 402:
            return InsufficientCredits(f"{told}; top up the account, then send the same request again", **facts)
        case 404:
            return NotFound(f"{told}; check SOUNDPIECE_BASE_URL", **facts)
        case 422:
            return ValidationError(told, **facts, fields=_read_fields(detail))
        case 429:
            wait = pacing.retry_after(answer.headers.get("retry-after"), date=answer.headers.get("date"))
            return RateLimited(told, **facts, retry_after=wait)
        case _ if status >= 500:  # noqa: PLR2004 - what 5xx means
            return ServerError(told, **facts)
        case _ if 300 <= status < 400:  # noqa: PLR2004 - what 3xx means
            return ApiError(f"{told}; a redirect of the API is never followed: check SOUNDPIECE_BASE_URL", **facts)
    return ApiError(told, **facts)


def read_failure(operation: Operation[Any]) -> str:
    """Say why an operation failed, for ``OperationFailed``."""
    error = operation.error
    why = str(error) if error else "no reason given"
    handle = redact_text(str(operation.handle))
    return f"operation {handle} failed: {why}; to try again, make a new request (with a new idempotency key)"


def demand_ready(operation: Operation[Any]) -> Operation[Any]:
    """Give a final operation back.

    Raises:
        OperationFailed: it did not become what it should.
    """
    if operation.status is Status.FAILED:
        raise OperationFailed(read_failure(operation), operation=operation)
    return operation


def _read_fields(detail: object) -> tuple[FieldError, ...]:
    """Read the list of a 422, in the words of Pydantic; entries may carry more, or less, than the contract shows."""
    entries = detail if isinstance(detail, list) else []
    return tuple(_read_field(entry) for entry in entries if isinstance(entry, dict))


def _read_field(entry: Mapping[str, Any]) -> FieldError:
    loc = entry.get("loc")
    return FieldError(
        loc=tuple(part for part in loc if isinstance(part, str | int)) if isinstance(loc, list) else (),
        msg=str(entry.get("msg") or ""),
        type=str(entry.get("type") or ""),
    )


def _explain(detail: object, body: object) -> str:
    fields = _read_fields(detail)
    if fields:
        return redact_text(
            "; ".join(f"{'.'.join(map(str, field.loc))}: {field.msg} ({field.type})" for field in fields)
        )
    return redact_text(str(body if detail is None else detail))


def _same(name: str, sent: Any, echoed: Any) -> bool:
    """Compare as JSON values: 8 is 8.0, but true is not 1; an echoed object may have more members, or fewer."""
    match sent:
        case str() if sent == echoed:
            return True
        case dict():
            return isinstance(echoed, dict) and all(
                echoed.get(inner) is None or _same(inner, value, echoed[inner]) for inner, value in sent.items()
            )
        case str() if isinstance(echoed, str) and name == "idempotency_key":
            return _plain_key(sent) == _plain_key(echoed)
        case str() if isinstance(echoed, str) and name == "url":
            return _plain_url(sent) == _plain_url(echoed)
    return isinstance(sent, bool) == isinstance(echoed, bool) and bool(sent == echoed)


def _plain_key(key: str) -> str:
    """Undo the ways of writing one UUID."""
    try:
        return str(UUID(key))
    except ValueError:  # sent unvalidated
        return key


def _plain_url(url: str) -> str:
    """Undo what a URL type does to a URL it echoes: https://A.example/b c comes back as https://a.example/b%20c.

    The service reads URLs as such a type (its error ``url_parsing`` is Pydantic's, contract section 7). To take that
    for another request would give up paid work.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return url
    return unquote(f"{parts.scheme}://{parts.username}@{host}:{port}{parts.path or '/'}?{parts.query}")

"""The API as HTTP messages: requests are built here, and responses parsed into operations or errors. No network."""

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from urllib.parse import quote_plus

import attrs

from soundpiece_async._core import attempts, codec, completion, echoes, envelopes, fields, retry
from soundpiece_async._core.errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    DecodeError,
    FieldError,
    InsufficientCredits,
    NotFound,
    NotReady,
    OperationFailed,
    RateLimited,
    ServerError,
    TransportError,
    ValidationError,
)
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.operations import AnyOperation, Status
from soundpiece_async._core.parsing import ParsedOperation, ResponseNote, parse_operation
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._core.requests import Handle, Request

CHECK_KEY = "check the API key (and the account's address allowlist)"


@attrs.define
class ApiRequest:
    """One request to the API. Its text names method, route and id, for messages and logs.

    Args:
        method: PUT or GET.
        target: path and query below the base URL.
        body: JSON bytes, of a PUT.
        about: the idempotency key of a PUT, the operation id of a GET.
        renew_at: when a URL in the body is to be renewed, and the body built again; None: never.
    """

    method: str
    target: str
    body: bytes | None = attrs.field(repr=False)
    about: str
    renew_at: datetime | None = None

    def __str__(self) -> str:
        what = "idempotency key" if self.method == "PUT" else "operation"
        return f"{self.method} {redact_text(self.target.partition('?')[0])} ({what} {redact_text(self.about)})"


@attrs.define
class ApiResponse:
    """One response: status, headers (names in lower case) and the whole body."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)  # a Location may be signed
    body: bytes = attrs.field(repr=False)


def submit_request(request: Request, body: bytes, *, renew_at: datetime | None = None) -> ApiRequest:
    """Build the PUT of a request (docs/api.md#requests); ``body`` is what ``codec.encode_request`` made of it, once."""
    return ApiRequest("PUT", f"/v1/{request.route}", body, str(request.idempotency_key), renew_at)


def poll_request(handle: Handle, *, wait: bool) -> ApiRequest:
    """Build the GET that reads an operation; ``wait`` lets the service hold the response for up to 20 s.

    See docs/api.md#query-parameters.
    """
    held = "&wait=true" if wait else ""
    return ApiRequest("GET", f"/v1/{handle.route}?id={quote_plus(handle.id)}{held}", None, handle.id)


def parse_submit_response(
    response: ApiResponse, call: ApiRequest, *, request: Request, recorded: bool = False
) -> ParsedOperation:
    """Parse the response to a submit.

    Args:
        response: to ``call``.
        call: the PUT.
        request: of the submit.
        recorded: whether the bytes of the PUT come from a record, and may be those of another request.

    Raises:
        TransportError: a 2xx that is not JSON; the same key may go again.
        ApiError: the service rejected; ``handle`` is the operation that a 409 names.
        DecodeError: it has no operation; or it is the response to another idempotency key, and ``operation`` is the
            one that it names.
    """
    if 200 <= response.status < 300:
        data = _read_accepted(response, call)
        found = envelopes.find_enveloped(data, route=request.route)
        identity = None if found is None else fields.read_id(found.get("id"))
        if found is None or identity is None:
            hint = envelopes.find_in_headers(response.headers)
            found = envelopes.find_operation(data, route=request.route, key=request.idempotency_key, hint=hint)
            identity = None if found is None else fields.read_id(found.get("id"))
        if found is None or identity is None:
            raise _no_operation_error(data, response, call)
    else:
        data, found = _find_in_rejection(response, call, request)
        identity = str(fields.read_id(found["id"]))
    handle = Handle(request.route, identity)
    parsed = parse_with_echo(found, handle, request=request, body=call.body, recorded=recorded)
    if echoes.is_of_another(request.idempotency_key, found.get("idempotency_key")):
        raise DecodeError(
            f"{call}: the response is for another idempotency key, {redact_text(str(found['idempotency_key']))}, and "
            f"operation {parsed.operation.handle}; submit the same request again, or look for its operation in the "
            "dashboard",
            path="idempotency_key",
            body=data,
            operation=parsed.operation,
        )
    return parsed


def _find_in_rejection(
    response: ApiResponse, call: ApiRequest, request: Request
) -> tuple[JsonValue, Mapping[str, object]]:
    """Return the body and the operation of a rejection that names the operation of this request.

    A redirect does so by its link, others by an operation with the key; errors have ids, too, so that but for a
    conflict its id has to have the usual form.

    Raises:
        ApiError: it does not. A conflict that names one without its key is another's work perhaps, and only named.
    """
    rejection = error_from_response(response, call)
    conflict = response.status == HTTPStatus.CONFLICT
    key, hint = request.idempotency_key, envelopes.find_in_redirect(response.headers, route=request.route)
    data = {} if isinstance(rejection.body, str) else rejection.body
    found = envelopes.find_operation(data, route=request.route, key=key, hint=hint)
    if response.status in attempts.ACCOUNT or found is None or not envelopes.is_certain(found, key=key, hint=hint):
        raise rejection
    identity = str(fields.read_id(found["id"]))
    ours = echoes.is_same_key(key, found.get("idempotency_key"))
    if conflict and not ours:
        handle = Handle(request.route, identity)
        rejection.add_note(
            f"the response names operation {redact_text(str(handle))}: read it, it may belong to this request"
        )
        raise rejection.about(handle)
    usual = envelopes.USUAL_ID.fullmatch(identity) is not None
    if conflict or 300 <= response.status < 400 or (ours and usual):
        return data, found
    raise rejection


def parse_with_echo(
    found: Mapping[str, object], handle: Handle, *, request: Request, body: bytes | None, recorded: bool
) -> ParsedOperation:
    """Parse an operation, and compare its echo with the body of its PUT; ``recorded`` as in ``parse_submit_response``.

    As a rule, an echo has the values of the request that was sent, and its bytes need not be decoded.
    """
    parsed = parse_operation(found, handle, request=request)
    if not recorded and codec.is_echo(request, found):
        return parsed
    differences = tuple(echoes.compare(codec.decode_json(body or b"{}"), found))
    if not differences:
        return parsed
    notes = tuple(
        ResponseNote(
            f"echo of {one.field}", f"{one.field} is echoed with another value than was sent; the operation continues"
        )
        for one in differences
    )
    return attrs.evolve(
        parsed,
        operation=attrs.evolve(parsed.operation, echo_differences=tuple(one.field for one in differences)),
        notes=parsed.notes + notes,
        suspicious=tuple(one.field for one in differences if not one.slight),
    )


def key_of(operation: AnyOperation) -> str | None:
    """Return the idempotency key of an operation: as it was echoed, else that of its request; None: it is unknown."""
    request = operation.request
    return operation.idempotency_key or (None if request is None else str(request.idempotency_key))


def parse_poll_response(
    response: ApiResponse, call: ApiRequest, *, handle: Handle, request: Request | None = None, key: str | None = None
) -> ParsedOperation:
    """Parse the response to a poll.

    Args:
        response: to ``call``.
        call: the request.
        handle: of the operation.
        request: the one it answers, if that is known.
        key: its idempotency key, if that is known.

    Raises:
        TransportError, ApiError: as ``parse_submit_response``.
        DecodeError: no operation can be found in the response, or another one than was asked for.
    """
    data = _read_json(response, call)
    return _parse_polled(_find_polled(data, response, call, handle=handle, key=key), handle, request)


def parse_if_final(
    response: ApiResponse, call: ApiRequest, *, handle: Handle, request: Request | None = None, key: str | None = None
) -> ParsedOperation | None:
    """Parse the response to a poll, or return None while the operation runs, before anything is built.

    Takes and raises as ``parse_poll_response``.
    """
    data = _read_json(response, call, skim=True)
    found = envelopes.find_documented(data, route=handle.route, asked=handle.id)
    if found is not None and completion.is_running(found["status"]):
        return None
    if not codec.decode_json.is_exact(response.body):
        data = _read_json(response, call)
        found = envelopes.find_documented(data, route=handle.route, asked=handle.id)
    if found is None or envelopes.lacks_outputs(found):
        found = _find_polled(data, response, call, handle=handle, key=key)
    return None if completion.is_running(found.get("status")) else _parse_polled(found, handle, request)


def _parse_polled(found: Mapping[str, object], handle: Handle, request: Request | None) -> ParsedOperation:
    """Parse an operation that was polled by its id; another spelling of the id is a difference of the echo."""
    parsed = parse_operation(found, handle, request=request)
    if found.get("id") == handle.id or (identity := fields.read_id(found.get("id"))) in (None, handle.id):
        return parsed
    note = ResponseNote("echo of id", f"its id is echoed in another spelling: {redact_text(identity)}")
    operation = attrs.evolve(parsed.operation, echo_differences=("id",))
    return attrs.evolve(parsed, operation=operation, notes=(*parsed.notes, note))


def _find_polled(
    data: JsonValue, response: ApiResponse, call: ApiRequest, *, handle: Handle, key: str | None
) -> Mapping[str, object]:
    """Return the polled operation; a response without an id, or with its idempotency key, is about it.

    Services number their operations in several ways, and write an id in more than one.
    """
    found = envelopes.find_operation(data, route=handle.route, asked=handle.id, key=key)
    if found is None:
        raise _no_operation_error(data, response, call).about(handle)
    identity = found.get("id")
    if identity == handle.id or fields.is_empty(identity):
        return found
    if any(fields.is_same_id(one, handle.id) for one in envelopes.list_ids(found)):
        return found
    if echoes.is_same_key(key, found.get("idempotency_key")):
        return found
    raise DecodeError(
        f"{call}: the response is for another operation, {redact_text(str(identity))}", path="id", body=data
    ).about(handle)


def _no_operation_error(data: object, response: ApiResponse, call: ApiRequest) -> DecodeError | TransportError:
    if not codec.is_utf8(response.body):  # so it is not JSON either, and was only looked through for an operation
        return _not_json_error(response, call)
    what = "the response has no operation, or several"
    if not response.body.strip():
        what = f"the response has status {response.status}, no body, and no header that names an operation"
    elif not isinstance(data, dict | list):
        what = "expected a JSON object in the response"
    return DecodeError(f"{call}: {what}: {redact_text(str(data))}", body=data)


def _read_json(response: ApiResponse, call: ApiRequest, *, skim: bool = False) -> JsonValue:
    if not 200 <= response.status < 300:
        raise error_from_response(response, call)
    try:
        return codec.decode_response(response.body, skim=skim)
    except ValueError as error:
        raise _not_json_error(response, call) from error


def _read_accepted(response: ApiResponse, call: ApiRequest) -> JsonValue:
    """Return the JSON of a response to a PUT; {} if only its headers have an id, or if it has no body."""
    try:
        return _read_json(response, call)
    except TransportError:
        bare = response.status != HTTPStatus.OK and not response.body.strip()
        text = response.body.decode("ascii", "replace").strip()
        if envelopes.USUAL_ID.fullmatch(text):
            return text
        if not bare and envelopes.find_in_headers(response.headers) is None:
            raise
    return {}


def _not_json_error(response: ApiResponse, call: ApiRequest) -> TransportError:
    message = f"{call}: status {response.status}, but not JSON: {redact_text(response.body)}"
    return TransportError(message, kind="body", retry_after=_retry_after(response))


def error_from_response(response: ApiResponse, call: ApiRequest) -> ApiError:  # noqa: PLR0911 - a table, one row a status
    """Return the error for a response without success (docs/api.md#http-errors)."""
    try:
        body: JsonValue = codec.decode_json(response.body)
    except ValueError:
        body = response.body.decode("utf-8", "replace")
    detail = body.get("detail") if isinstance(body, dict) else None
    status = response.status
    ids = "".join(f", {name}: {value}" for name, value in response.headers.items() if "request-id" in name)
    message = f"{call}: status {status}{ids}: {_describe_rejection(detail, body)}"
    facts: JsonObject = {"status": status, "detail": detail, "body": body, "headers": dict(response.headers)}
    facts["retry_after"] = _retry_after(response)
    match status:
        case 400:
            return BadRequest(message, **facts)
        case 401 | 403:
            foreign = status == 403 and detail is None
            advice = "without the API's JSON, so it may be a firewall's" if foreign else CHECK_KEY
            return AuthenticationError(f"{message}; {advice}", **facts)
        case 402:
            return InsufficientCredits(f"{message}; top up the account, then send the same request again", **facts)
        case 404:
            return NotFound(f"{message}; check SOUNDPIECE_BASE_URL", **facts)
        case 422:
            return ValidationError(message, **facts, fields=_read_fields(detail))
        case 429:
            return RateLimited(message, **facts)
        case _ if status >= 500:
            return ServerError(message, **facts)
        case _ if 300 <= status < 400:
            return ApiError(f"{message}; a redirect of the API is never followed: check SOUNDPIECE_BASE_URL", **facts)
    return ApiError(message, **facts)


def _retry_after(response: ApiResponse) -> float | None:
    """Return the seconds that a response asks to wait, or None (docs/api.md#retry-after)."""
    return retry.retry_after(response.headers.get("retry-after"), date=response.headers.get("date"))


def failure_message(operation: AnyOperation) -> str:
    """Return why an operation failed, for ``OperationFailed``."""
    error = operation.error
    why = str(error) if error else "no reason given"
    handle = redact_text(str(operation.handle))
    return f"operation {handle} failed: {why}; to try again, make a new request (with a new idempotency key)"


def require_ready(operation: AnyOperation) -> AnyOperation:
    """Return a final operation.

    Raises:
        OperationFailed: the service gave up on it.
        NotReady: it is said to be ready, and has no outputs.
    """
    if operation.status is Status.FAILED:
        raise OperationFailed(failure_message(operation), operation=operation)
    if not operation.outputs:
        raise NotReady(
            f"operation {operation.handle} is {operation.status}, but has no outputs; it is paid for, so do not "
            "request it again: wait for it again later, and report it to the service if they do not come"
        ).about(operation=operation)
    return operation


def _read_fields(detail: object) -> tuple[FieldError, ...]:
    """Return the errors of a 422, in the form of Pydantic; entries may have more or fewer fields than documented."""
    entries = detail if isinstance(detail, list) else []
    return tuple(_read_field(entry) for entry in entries if isinstance(entry, dict))


def _read_field(entry: Mapping[str, object]) -> FieldError:
    loc = entry.get("loc")
    return FieldError(
        loc=tuple(part for part in loc if isinstance(part, str | int)) if isinstance(loc, list) else (),
        msg=str(entry.get("msg") or ""),
        type=str(entry.get("type") or ""),
    )


def _describe_rejection(detail: object, body: object) -> str:
    fields = _read_fields(detail)
    if fields:
        return redact_text(
            "; ".join(f"{'.'.join(map(str, field.loc))}: {field.msg} ({field.type})" for field in fields)
        )
    return redact_text(str(body if detail is None else detail))

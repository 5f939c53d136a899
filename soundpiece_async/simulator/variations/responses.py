"""Variations of the API's responses: envelopes and ids, errors, repeats of a key, long polls."""

import base64
import json
import re
import uuid
from collections.abc import Callable
from http import HTTPStatus
from random import Random
from urllib.parse import quote

import attrs

from soundpiece_async.simulator.operations import ServerOperation
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response, html_response, json_response
from soundpiece_async.simulator.schema import Document
from soundpiece_async.simulator.variations.variation import Table, Variation

Reject = Callable[[ReceivedRequest, ServerOperation | None], Response | None]
_EARLY_READS = 2
"""How many GETs of an operation are rejected before the service finds it."""
_RETRY_AFTER = {"Retry-After": "1"}
BLOCKED = b"<script"
"""What the firewall dislikes in a body."""


@attrs.frozen
class Hold:
    """How long a `wait=true` is held, as a share of the documented time, and what answers it if nothing ended."""

    share: float = 1.0
    status: int | None = None


HOLDS = {"none": Hold(0.0), "408": Hold(0.25, 408), "504": Hold(0.25, 504)}


# envelopes and ids


def _keep_beside(document: Document, _: str) -> Document:
    return {"request": {"id": "req_1f6c0a"}, "operation": document}


_ENVELOPE = {
    "renamed": ("the field is `operation` on every route", lambda document, _: {"operation": document}),
    "beside": ("as `renamed`, beside another object that has an `id`", _keep_beside),
    "nested": ("the documented envelope within `data`", lambda document, name: {"data": {name: document}}),
    "deep": (
        "three levels with names of their own",
        lambda document, _: {"response": {"data": {"operation": document}}},
    ),
    "bare": ("none: the operation object itself", lambda document, _: document),
}


def _make_uuid(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _make_base64(rng: Random) -> str:
    return base64.b64encode(b"\xfb\xff" + rng.randbytes(17)).decode()


# rejections


def _reject(status: int) -> Response:
    """Write a rejection; one that is to be retried soon says so; an operation not found yet is a 404."""
    headers = _RETRY_AFTER if status in (429, 503) else None
    return json_response(
        {"detail": "Operation not found" if status in (404, 422) else "Not now"}, status=status, headers=headers
    )


def _reject_reads(status: int, *, reads: float = _EARLY_READS) -> Reject:
    def reject(request: ReceivedRequest, operation: ServerOperation | None) -> Response | None:
        early = request.method == "GET" and operation is not None and request.earlier < reads
        return _reject(status) if early else None

    return reject


def _reject_long_polls(status: int) -> Reject:
    def reject(request: ReceivedRequest, _: ServerOperation | None) -> Response | None:
        return json_response({"detail": "Unknown parameter: wait"}, status=status) if request.wait else None

    return reject


def _reject_repeats(status: int, detail: str, *, only_in_progress: bool = True) -> Reject:
    def reject(request: ReceivedRequest, operation: ServerOperation | None) -> Response | None:
        if request.method != "PUT" or operation is None or (only_in_progress and operation.status != "processing"):
            return None
        return json_response({"detail": detail}, status=status)

    return reject


def _reject_first_submit(request: ReceivedRequest, _: ServerOperation | None) -> Response | None:
    return _reject(503) if request.method == "PUT" and request.earlier == 0 else None


def _block(request: ReceivedRequest, _: ServerOperation | None) -> Response | None:
    return html_response(403, "Forbidden") if request.method == "PUT" and BLOCKED in request.body else None


def _lose_first_answer(response: Response, request: ReceivedRequest) -> Response:
    accepted = request.method == "PUT" and request.earlier == 0 and response.status == HTTPStatus.OK
    return html_response(502, "Bad Gateway") if accepted else response


def _accept_with(status: int) -> Callable[[Response, ReceivedRequest], Response]:
    def change(response: Response, request: ReceivedRequest) -> Response:
        accepted = request.method == "PUT" and response.status == HTTPStatus.OK
        return attrs.evolve(response, status=status) if accepted else response

    return change


def _accept_in_headers(status: int, name: str) -> Callable[[Response, ReceivedRequest], Response]:
    """Send the id in a header, and nothing in the body."""

    def change(response: Response, request: ReceivedRequest) -> Response:
        if request.method != "PUT" or response.status != HTTPStatus.OK:
            return response
        identity = quote(_ID.findall(bytes(response.body).decode())[-1], safe="")
        headers = {**response.headers, name: f"{request.path}?id={identity}"}
        return attrs.evolve(response, status=status, body=b"", headers=headers)

    return change


def _conflict(response: Response, request: ReceivedRequest) -> Response:
    repeated = request.method == "PUT" and request.earlier > 0 and response.status == HTTPStatus.OK
    return attrs.evolve(response, status=409) if repeated else response


def _respell(change: Callable[[str], str]) -> Callable[[Response, ReceivedRequest], Response]:
    """Write an id in the response to a GET otherwise than it was asked for."""

    def respell(response: Response, request: ReceivedRequest) -> Response:
        asked = request.query.get("id")
        if request.method != "GET" or asked is None or response.status != HTTPStatus.OK:
            return response
        written = json.dumps(change(asked)).encode()
        return attrs.evolve(response, body=bytes(response.body).replace(json.dumps(asked).encode(), written))

    return respell


def _wrap(write: Callable[[bytes], bytes]) -> Callable[[Response, ReceivedRequest], Response]:
    """Write the JSON of a response of the API otherwise."""

    def wrap(response: Response, _: ReceivedRequest) -> Response:
        if (
            response.status >= HTTPStatus.MULTIPLE_CHOICES
            or response.content_type != "application/json"
            or not response.body
        ):
            return response
        return attrs.evolve(response, body=write(bytes(response.body)))

    return wrap


_ID = re.compile(r'"(?:_?id|operation_id|request_id|uuid|name)":"(?:operations/)?([^"]+)"')
_IN_PROGRESS = "A request with this idempotency_key is in progress"
_READS = (302, 400, 404, 405, 408, 409, 421, 422, 423, 425, 499, 500, 503)

RESPONSES: Table = {
    "envelope": {
        value: Variation(part="envelope", meaning=meaning, envelope=build)
        for value, (meaning, build) in _ENVELOPE.items()
    },
    "id": {
        "uuid": Variation(part="id", meaning="a UUID", identity=_make_uuid),
        "base64": Variation(part="id", meaning="base64, with `+`, `/` and `=`", identity=_make_base64),
    },
    "submit": {
        "201": Variation(part="submit.status", meaning="accepted with 201", response=_accept_with(201)),
        "202": Variation(part="submit.status", meaning="accepted with 202", response=_accept_with(202)),
        "location": Variation(
            part="submit.status",
            meaning="accepted with 202 and a `Location`, without a body",
            response=_accept_in_headers(202, "Location"),
        ),
        "204": Variation(
            part="submit.status",
            meaning="accepted with 204 and a `Content-Location`",
            response=_accept_in_headers(204, "Content-Location"),
        ),
        "303": Variation(
            part="submit.status",
            meaning="accepted with 303, a `Location` and no body",
            response=_accept_in_headers(303, "Location"),
        ),
        "502": Variation(
            part="submit.first",
            meaning="the first PUT of a key is accepted, its response lost",
            response=_lose_first_answer,
        ),
        "503": Variation(
            part="submit.first",
            meaning="the first PUT of a key is rejected, with `Retry-After: 1`",
            instead=_reject_first_submit,
        ),
    },
    "repeat": {
        **{
            str(status): Variation(
                part="repeat.progress",
                meaning="the response to a repeat while the operation is in progress",
                instead=_reject_repeats(status, _IN_PROGRESS),
            )
            for status in (408, 409, 422, 423, 425, 499)
        },
        "used": Variation(
            part="repeat",
            meaning="422 to every repeat, for ever",
            instead=_reject_repeats(422, "This idempotency_key was used before", only_in_progress=False),
        ),
        "named": Variation(
            part="repeat",
            meaning="409 to every repeat, with the operation in the body",
            response=_conflict,
        ),
        "snapshot": Variation(part="repeat.state", meaning="a repeat gets the operation as it was at first"),
    },
    "read": {
        **{
            str(status): Variation(
                part="read", meaning="the first two GETs of an operation", instead=_reject_reads(status)
            )
            for status in _READS
        },
        "gone": Variation(part="read", meaning="404 to every GET", instead=_reject_reads(404, reads=float("inf"))),
    },
    "read-id": {
        "upper": Variation(part="read-id", meaning="a GET writes the id in capitals", response=_respell(str.upper)),
        "urn": Variation(
            part="read-id", meaning="a GET writes the id as a URN", response=_respell(lambda text: f"urn:op:{text}")
        ),
    },
    "hold": {
        "none": Variation(part="hold", meaning="`wait=true` is answered at once"),
        "408": Variation(part="hold", meaning="408 after 5 s, when nothing has ended"),
        "504": Variation(part="hold", meaning="504 after 5 s, when nothing has ended"),
        "400": Variation(part="hold", meaning="400: there are no long polls", instead=_reject_long_polls(400)),
        "405": Variation(part="hold", meaning="405: there are no long polls", instead=_reject_long_polls(405)),
    },
    "body": {
        "guarded": Variation(
            part="body", meaning="`)]}',` before the JSON", response=_wrap(lambda body: b")]}',\n" + body)
        ),
        "padded": Variation(
            part="body",
            meaning="a byte order mark before the JSON, and NULs behind it",
            response=_wrap(lambda body: b"\xef\xbb\xbf" + body + b"\0\0"),
        ),
        "lines": Variation(
            part="body",
            meaning="the JSON twice, on two lines",
            response=_wrap(lambda body: b"\n".join([body, body, b""])),
        ),
        "function": Variation(
            part="body",
            meaning="a text in `body`, beside `statusCode`",
            response=_wrap(lambda body: json.dumps({"statusCode": 200, "body": body.decode()}).encode()),
        ),
    },
    "firewall": {
        "html": Variation(part="firewall", meaning="403 with HTML for a PUT with `<script` in it", instead=_block),
    },
}

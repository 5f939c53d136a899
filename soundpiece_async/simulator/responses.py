"""Responses: a status, headers and a body, independent of any HTTP library."""

import json
from collections.abc import Mapping
from typing import Literal

import attrs

from soundpiece_async.simulator.faults import ActiveFault, Fault


@attrs.frozen(kw_only=True)
class Response:
    """One response, whole, before it is sent or spoilt."""

    status: int = 200
    body: bytes | memoryview = attrs.field(default=b"", repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    content_type: str = "application/json"
    framing: Literal["length", "chunked", "closed"] = "length"
    """How the end of the body is marked: by its length, by chunks, or by the end of the connection."""


def json_response(document: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a JSON body."""
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return Response(status=status, body=body, headers=headers or {})


def html_response(status: int, reason: str) -> Response:
    """Return an HTML error, as a proxy in front of the API sends it (docs/api.md#http-errors)."""
    page = f"<html><head><title>{status} {reason}</title></head><body><h1>{status} {reason}</h1></body></html>\r\n"
    return Response(status=status, body=page.encode(), content_type="text/html")


def xml_response(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return an XML error, as object stores do; that of the real output host is unknown (docs/api.md#downloads)."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(status=status, body=body.encode(), headers=headers or {}, content_type="application/xml")


def rate_limited_response(seconds: int | None) -> Response:
    """Return a 429; without seconds it has no Retry-After (docs/api.md#rate-limits)."""
    if seconds is None:
        return json_response({"detail": "Rate limit exceeded"}, status=429)
    detail = f"Rate limit exceeded; retry in {seconds} seconds"
    return json_response({"detail": detail}, status=429, headers={"Retry-After": str(seconds)})


def fault_response(active: ActiveFault) -> Response:
    """Return the response to a request whose fault strikes before it takes effect."""
    match active.fault:
        case Fault.BAD_GATEWAY:
            return html_response(502, "Bad Gateway")
        case Fault.RATE_LIMITED:
            return rate_limited_response(None if active.seconds is None else round(active.seconds))
        case _:
            return json_response(
                {"detail": "Internal Server Error"}, status=active.status or 500, headers=active.headers
            )


def corrupt(response: Response, *, at: int) -> Response:
    """Return the same response with one wrong byte."""
    body = bytearray(response.body)
    body[at] ^= 0xFF
    return attrs.evolve(response, body=bytes(body))

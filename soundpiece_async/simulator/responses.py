"""What is answered: a status, a body, headers; nothing of any HTTP library."""

import json
from collections.abc import Mapping
from typing import Literal

import attrs

from soundpiece_async.simulator.faults import ActiveFault, Fault


@attrs.frozen(kw_only=True)
class Reply:
    """One answer, whole, before it is sent or spoilt."""

    status: int = 200
    body: bytes | memoryview = attrs.field(default=b"", repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    content_type: str = "application/json"
    framing: Literal["length", "chunked", "closed"] = "length"
    """How the end of the body is told: by its length, by chunks, or by the end of the connection."""


def reply_json(document: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer of the API."""
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return Reply(status=status, body=body, headers=headers or {})


def reply_html(status: int, reason: str) -> Reply:
    """An error as a proxy in front of the API words it (docs/api.md#http-errors)."""
    page = f"<html><head><title>{status} {reason}</title></head><body><h1>{status} {reason}</h1></body></html>\r\n"
    return Reply(status=status, body=page.encode(), content_type="text/html")


def reply_xml(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> Reply:
    """An error as object stores word it; what the output host really says is unknown (docs/api.md#downloads)."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status=status, body=body.encode(), headers=headers or {}, content_type="application/xml")


def reply_limited(seconds: int | None) -> Reply:
    """A 429 in the service's words; without seconds it has no Retry-After (docs/api.md#rate-limits)."""
    if seconds is None:
        return reply_json({"detail": "Rate limit exceeded"}, status=429)
    detail = f"Rate limit exceeded; retry in {seconds} seconds"
    return reply_json({"detail": detail}, status=429, headers={"Retry-After": str(seconds)})


def reply_instead(active: ActiveFault) -> Reply:
    """The answer to a request whose fault strikes before it takes effect."""
    match active.fault:
        case Fault.BAD_GATEWAY:
            return reply_html(502, "Bad Gateway")
        case Fault.RATE_LIMITED:
            return reply_limited(None if active.seconds is None else round(active.seconds))
        case _:
            return reply_json({"detail": "Internal Server Error"}, status=active.status or 500, headers=active.headers)


def spoil(reply: Reply, *, at: int) -> Reply:
    """The same answer with one wrong byte."""
    body = bytearray(reply.body)
    body[at] ^= 0xFF
    return attrs.evolve(reply, body=bytes(body))

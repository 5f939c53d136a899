"""Translates errors of aiohttp, TLS and the operating system to ``TransportError``.

aiohttp's messages may hold the whole URL or the headers that were sent. So a message repeats only text of the other
side, redacted and on one line, and never the key.
"""

import errno
import socket
import ssl
from collections.abc import Callable

import aiohttp

from soundpiece_async._core import os_errors
from soundpiece_async._core.errors import FailureKind, TransportError
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._http.connections import StaleConnection

NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""Errors of aiohttp before any byte of the request was written."""

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG")
_TLS_ALERT = r"b'\x15\x03"
_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "timed out",
}


class AnswerUnreadable(aiohttp.ClientPayloadError):
    """A response of the API that is too large, or cannot be decoded."""


def hide_text(text: str) -> str:
    """Return a text of an output host without its characters: it may be any host."""
    return f"{len(text)} characters, not shown"


def to_transport_error(what: str, error: Exception, *, redact: Callable[[str], str] = hide_text) -> TransportError:
    """Return the error for an attempt without a response.

    Args:
        what: the request, for the message.
        error: the original error; it is not chained, because it may hold secrets.
        redact: makes a text that may quote the other side fit for the message.
    """
    kind, why = _classify(error, redact)
    return TransportError(
        f"{what}: no usable response: {why}",
        sent=not isinstance(error, NOT_SENT),
        kind=kind,
        stale=isinstance(error, StaleConnection),
        local_shortage=os_errors.is_transient(_read_code(error)),
    )


def read_cause(error: Exception) -> Exception:
    """Return the error that prevented a connection; any other error is returned as it is."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return error.certificate_error  # our oldest aiohttp has no os_error here
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error


def _read_code(error: Exception) -> int | None:
    """Return the system's code of an error; those of name look-ups are of another table, whose numbers overlap."""
    cause = read_cause(error)
    return cause.errno if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) else None


def _classify(error: Exception, redact: Callable[[str], str]) -> tuple[FailureKind, str]:
    """Return the kind of an error, and its description."""
    match error:
        case aiohttp.ClientConnectorError():
            kind, why = _classify_connection(read_cause(error))
            return kind, f"cannot connect to {error.host}:{error.port}: {why}"
        case aiohttp.ConnectionTimeoutError():
            return "connect", "cannot connect: timed out"
        case TimeoutError():
            return "timeout", "timed out"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return _classify_response(error, redact)
        case ValueError() if not isinstance(error, OSError):
            return "response", type(error).__name__  # a URL, as a rule, which its text repeats
    return "drop", redact_text(str(error)) if str(error) else type(error).__name__


def _classify_response(
    error: aiohttp.ClientResponseError | aiohttp.ClientPayloadError, redact: Callable[[str], str]
) -> tuple[FailureKind, str]:
    match error:
        case aiohttp.ClientHttpProxyError(status=status):
            return "connect", f"the proxy refuses to connect: status {status}"
        case aiohttp.ClientResponseError() if _TLS_ALERT in error.message:
            return "address", "the server uses TLS: the base URL must begin with https"
        case aiohttp.ClientResponseError():
            return "response", f"it cannot be read: {redact(error.message)}"
        case AnswerUnreadable():
            return "response", f"it cannot be read: {error}"
    return "drop", f"the body was cut off: {redact(str(error))}"


def _classify_connection(error: Exception) -> tuple[FailureKind, str]:
    match error:
        case ssl.SSLCertVerificationError():
            return "address", f"its certificate is not trusted: {redact_text(error.verify_message)}"
        case ssl.SSLError(reason=str(reason)) if reason in _NO_TLS:
            return "address", "the server does not use TLS"
        case socket.gaierror(errno=number) if number in _NO_SUCH_NAME:
            return "address", "name not found"
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return "connect", "the name cannot be resolved at the moment"
    return "connect", _WORDS.get(getattr(error, "errno", None) or 0) or redact_text(str(error))

import socket
import ssl
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from yarl import URL

from soundpiece_async._core.errors import FailureKind
from soundpiece_async._http.errors import to_transport_error


def connector(error: OSError) -> aiohttp.ClientConnectorError:
    key = cast("Any", SimpleNamespace(host="api.example", port=443, ssl=True, is_ssl=True))
    return aiohttp.ClientConnectorError(key, error)


def response(
    message: str, *, kind: type[aiohttp.ClientResponseError] = aiohttp.ClientResponseError, status: int = 400
) -> Exception:
    info = aiohttp.RequestInfo(
        URL("http://h/?sig=SECRET"), "PUT", cast("Any", {"Authorization": "SECRET"}), URL("http://h")
    )
    return kind(info, (), status=status, message=message)


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "kind", "sent", "told"),
    [
        (connector(ConnectionRefusedError(111, "x")), "connect", False, "api.example:443: connection refused"),
        (connector(OSError(113, "x")), "connect", False, "host unreachable"),
        (connector(OSError(101, "x")), "connect", False, "network unreachable"),
        (connector(OSError(None, "odd")), "connect", False, "odd"),
        (connector(socket.gaierror(socket.EAI_NONAME, "x")), "address", False, "name not found"),
        (connector(socket.gaierror(socket.EAI_AGAIN, "x")), "connect", False, "cannot be resolved at the moment"),
        (connector(socket.gaierror(socket.EAI_FAIL, "broken")), "connect", False, "broken"),
        (connector(tls("WRONG_VERSION_NUMBER")), "address", False, "does not use TLS"),
        (connector(tls("TLSV1_ALERT_INTERNAL_ERROR")), "connect", False, "TLSV1_ALERT"),
        (aiohttp.ConnectionTimeoutError("x"), "connect", False, "cannot connect: timed out"),
        (aiohttp.SocketTimeoutError("x"), "timeout", True, "timed out"),
        (TimeoutError(), "timeout", True, "timed out"),
        (aiohttp.ClientConnectionError("Server disconnected"), "drop", True, "Server disconnected"),
        (aiohttp.ClientConnectionError(), "drop", True, "ClientConnectionError"),
        (aiohttp.InvalidURL("http://h/?sig=SECRET"), "response", True, "InvalidURL"),
        (response("odd SECRET"), "response", True, "it cannot be read: 10 characters, not shown"),
        (response("b'\\x15\\x03\\x03"), "address", True, "the server uses TLS"),
        (
            response("x", kind=aiohttp.ClientHttpProxyError, status=407),
            "connect",
            False,
            "refuses to connect: status 407",
        ),
        (aiohttp.ClientPayloadError("cut"), "drop", True, "the body was cut off"),
    ],
    ids=repr,
)
def test_a_fault_is_told_in_words(error: Exception, kind: FailureKind, *, sent: bool, told: str) -> None:
    """What the network did, what kind of fault that is, and nothing of what was sent or is signed."""
    failure = to_transport_error("GET x", error)
    assert (failure.kind, failure.sent) == (kind, sent)
    assert told in str(failure)
    assert "SECRET" not in str(failure)
    assert failure.__cause__ is None

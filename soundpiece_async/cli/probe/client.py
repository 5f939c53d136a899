"""Raw requests of the probe, without retries except after a 429."""

import json
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote
from uuid import uuid4

import anyio
import attrs

from soundpiece_async._core import codec, envelopes, retry
from soundpiece_async._core.errors import TransportError
from soundpiece_async._core.flac import FlacHeader, HeaderError, read_header
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.wire import ApiRequest, ApiResponse
from soundpiece_async._http.client import HttpClient

_RATE_LIMIT_PATIENCE = 60.0
"""Total seconds of waiting after 429."""
_TIMEOUT = 40.0
"""Seconds for one request: a long poll takes up to 20."""


@attrs.frozen(kw_only=True)
class Reply:
    """One response.

    Attributes:
        status: of HTTP; 0: no response.
        headers: names in lower case.
        data: JSON, or the text if it is not JSON.
        seconds: from sending to the last byte.
        plain: whether the body is JSON and nothing else.
    """

    status: int
    headers: Mapping[str, str]
    data: JsonValue
    seconds: float
    plain: bool = True

    @property
    def accepted(self) -> bool:
        """Whether it is a 2xx with JSON."""
        return 200 <= self.status < 300 and isinstance(self.data, dict | list)

    @property
    def members(self) -> JsonObject:
        """Fields of the operation; empty without one."""
        return dict(envelopes.find_operation(self.data, route="") or {}) if self.accepted else {}

    def describe(self) -> str:
        """Return the status and, for an error, the names of the fields in its body."""
        if self.accepted and not self.plain:
            return f"{self.status} (JSON with something around it)"
        if self.accepted or not self.status:
            return str(self.status or f"no response: {self.data}")
        names = ", ".join(sorted(self.data)) if isinstance(self.data, dict) else "not a JSON object"
        return f"{self.status} ({names})"


@attrs.frozen(kw_only=True)
class Download:
    """One response of the output host, with the length of its body and its FLAC header."""

    status: int
    headers: Mapping[str, str]
    bytes: int
    header: FlacHeader | None


class Client:
    """Sends requests with the API key of the account.

    Args:
        http: open.
    """

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self.limited: int = 0
        """Number of responses 429."""

    async def put(self, route: str, body: Mapping[str, JsonValue], *, key: str | None = None) -> Reply:
        """Submit fields without validation, with the given or a new key."""
        key = key or str(uuid4())
        content = json.dumps({"idempotency_key": key, **body}).encode()
        return await self._send(ApiRequest("PUT", f"/v1/{route}", content, key))

    async def get(self, route: str, identity: str, *, wait: bool = False) -> Reply:
        """Read an operation."""
        query = f"id={quote(identity, safe='')}{'&wait=true' if wait else ''}"
        return await self._send(ApiRequest("GET", f"/v1/{route}?{query}", None, identity))

    async def download(self, url: str, *, part: str | None = None) -> Download:
        """Download a file, or a range of it such as ``bytes=0-9``, without saving it."""
        headers = {"Range": part} if part else {}
        async with self._http.stream(url, headers=headers) as stream:
            body = b"".join([block async for block in stream.blocks])
        try:
            header = read_header(body)
        except HeaderError:
            header = None
        return Download(status=stream.status, headers=stream.headers, bytes=len(body), header=header)

    async def _send(self, call: ApiRequest) -> Reply:
        patience = _RATE_LIMIT_PATIENCE
        while True:
            started = anyio.current_time()
            try:
                response = await self._http.fetch(call, timeout=_TIMEOUT)
            except TransportError as error:
                why = str(error).rpartition("no usable response: ")[2]
                return Reply(status=0, headers={}, data=why, seconds=anyio.current_time() - started)
            seconds = anyio.current_time() - started
            if response.status != 429 or patience <= 0:  # too many requests
                return _read(response, seconds)
            self.limited += 1
            pause = retry.retry_after(response.headers.get("retry-after"), date=response.headers.get("date")) or 1.0
            await anyio.sleep(min(pause, patience))
            patience -= max(pause, 1.0)


def _read(response: ApiResponse, seconds: float) -> Reply:
    data, plain = response.body.decode("utf-8", "replace"), False
    with suppress(ValueError):
        data = codec.decode_response(response.body)
    with suppress(ValueError):
        codec.decode_json(response.body)
        plain = True
    return Reply(status=response.status, headers=response.headers, data=data, seconds=seconds, plain=plain)

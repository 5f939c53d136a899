"""Raw requests of the probe: every answer as it came, nothing tried again but after a 429."""

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

_PATIENCE = 60.0
"""Seconds that a 429 is waited out, in all."""
_TIMEOUT = 40.0
"""Seconds for one request: a long poll takes up to 20."""


@attrs.frozen(kw_only=True)
class Reply:
    """One answer.

    Attributes:
        status: of HTTP; 0: there was no answer.
        headers: of a GET that succeeds none are kept.
        data: the JSON, or the text that was none.
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
        """The operation in it, or nothing."""
        return dict(envelopes.find_operation(self.data, route="") or {}) if self.accepted else {}

    def describe(self) -> str:
        """Return the status, and of a refusal the names of its body's members."""
        if self.accepted and not self.plain:
            return f"{self.status} (JSON with something around it)"
        if self.accepted or not self.status:
            return str(self.status or f"no answer: {self.data}")
        names = ", ".join(sorted(self.data)) if isinstance(self.data, dict) else "no JSON object"
        return f"{self.status} ({names})"


@attrs.frozen(kw_only=True)
class Download:
    """One answer of the output host: its status, its headers, the length of its body, and the FLAC header in it."""

    status: int
    headers: Mapping[str, str]
    bytes: int
    header: FlacHeader | None


class Client:
    """Sends what the probe asks, with the account's key.

    Args:
        http: open.
    """

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self.limited: int = 0
        """Answers 429."""

    async def put(self, route: str, body: Mapping[str, JsonValue], *, key: str | None = None) -> Reply:
        """Submit members as they are, under a key, or under a new one."""
        key = key or str(uuid4())
        content = json.dumps({"idempotency_key": key, **body}).encode()
        return await self._send(ApiRequest("PUT", f"/v1/{route}", content, key))

    async def get(self, route: str, identity: str, *, wait: bool = False) -> Reply:
        """Read an operation."""
        query = f"id={quote(identity, safe='')}{'&wait=true' if wait else ''}"
        return await self._send(ApiRequest("GET", f"/v1/{route}?{query}", None, identity))

    async def download(self, url: str, *, part: str | None = None) -> Download:
        """Fetch a file, or a part of it as ``bytes=0-9``; nothing is saved."""
        headers = {"Range": part} if part else {}
        async with self._http.stream(url, headers=headers) as stream:
            body = b"".join([block async for block in stream.blocks])
        try:
            header = read_header(body)
        except HeaderError:
            header = None
        return Download(status=stream.status, headers=stream.headers, bytes=len(body), header=header)

    async def _send(self, call: ApiRequest) -> Reply:
        patience = _PATIENCE
        while True:
            started = anyio.current_time()
            try:
                answer = await self._http.fetch(call, timeout=_TIMEOUT)
            except TransportError as error:
                why = str(error).rpartition("no usable answer: ")[2]
                return Reply(status=0, headers={}, data=why, seconds=anyio.current_time() - started)
            seconds = anyio.current_time() - started
            if answer.status != 429 or patience <= 0:  # too many requests
                return _read(answer, seconds)
            self.limited += 1
            pause = retry.retry_after(answer.headers.get("retry-after"), date=answer.headers.get("date")) or 1.0
            await anyio.sleep(min(pause, patience))
            patience -= max(pause, 1.0)


def _read(answer: ApiResponse, seconds: float) -> Reply:
    data, plain = answer.body.decode("utf-8", "replace"), False
    with suppress(ValueError):
        data = codec.decode_response(answer.body)
    with suppress(ValueError):
        codec.decode_json(answer.body)
        plain = True
    return Reply(status=answer.status, headers=answer.headers, data=data, seconds=seconds, plain=plain)

"""The HTTP client: one attempt at a time, without retries.

Two sessions of aiohttp, because the key must never reach the output host: one sends the key, and only to the API's
origin; the other has no key. Neither limits connections: in a shared pool long polls starve submits (measured), so
each kind of request has its own limit.
"""

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from time import monotonic
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
import anyio
import attrs
from aiohttp import hdrs
from yarl import URL

from soundpiece_async._core import content_encoding, hosts, ranges
from soundpiece_async._core.content_encoding import UnpackingError
from soundpiece_async._core.errors import TransportError
from soundpiece_async._core.hosts import OutputRefused
from soundpiece_async._core.redaction import Secret, forget_frames, redact_text, redact_url, signed_url
from soundpiece_async._core.server_clock import ServerClock
from soundpiece_async._core.settings import Settings
from soundpiece_async._core.wire import ApiRequest, ApiResponse
from soundpiece_async._http.connections import Connector, Response
from soundpiece_async._http.errors import AnswerUnreadable, hide_text, read_cause, to_transport_error
from soundpiece_async._http.output_guard import OutputGuard, RefusedAddressError
from soundpiece_async._http.proxies import Proxy, route
from soundpiece_async._lifetime import TimeoutQueue
from soundpiece_async._logs import get_logger
from soundpiece_async._version import __version__

logger = get_logger("http")

MAX_REDIRECTS = 5
MAX_RESPONSE_BYTES = 8 << 20
"""Bytes of a response of the API, unpacked; an operation takes a few thousand."""
KEY_MARK = "spk_…"
"""What stands in place of the key."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@attrs.frozen
class Stream:
    """A response of the output host: status, headers (names in lower case), and the body in blocks as they arrive."""

    status: int
    headers: Mapping[str, str]
    blocks: AsyncGenerator[bytes]


class HttpClient:
    """Sends requests with aiohttp. Open it inside the event loop that uses it.

    Args:
        settings: origin, key and timeouts.
        trace_configs: passed through to aiohttp, so that instrumentation (OpenTelemetry's, for one) works.
    """

    def __init__(self, settings: Settings, *, trace_configs: Iterable[aiohttp.TraceConfig] = ()) -> None:
        self._clock = ServerClock()
        self._settings = settings
        self._proxy = Proxy.read(settings.proxy)
        # aiohttp's own name, as other strings are copied each time; a session's headers would go to the proxy, too
        self._headers: dict[str, str] = {hdrs.AUTHORIZATION: Secret(f"Bearer {settings.api_key}", f"Bearer {KEY_MARK}")}
        self._base = urlsplit(settings.base_url)
        self._outputs_from = OutputGuard(settings)
        self._traces = list(trace_configs)
        self._timeouts = cache(TimeoutQueue)
        self._put_url = cache(self._make_url)  # one for each route
        self._api: aiohttp.ClientSession | None = None
        self._outputs: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        state = "not open" if self._api is None else "closed" if self._api.closed else "open"
        return f"<HttpClient {self._settings.base_url} {state} {self._clock!r}>"

    @property
    def now(self) -> datetime:
        """The time by the service's clock, estimated from its ``Date`` headers; expiry times refer to it."""
        return self._clock.now(wall=datetime.now(UTC), steady=monotonic())

    async def __aenter__(self) -> Self:
        """Open the two aiohttp sessions; nothing is sent."""
        self._timeouts.cache_clear()  # they belong to an event loop
        connect = self._settings.timeouts.connect
        agent = f"soundpiece-async/{__version__} aiohttp/{aiohttp.__version__}"
        self._api = aiohttp.ClientSession(
            connector=self._make_connector(self._outputs_from.open_to_api),
            headers={hdrs.ACCEPT: "application/json", hdrs.ACCEPT_ENCODING: "gzip, deflate", hdrs.USER_AGENT: agent},
            timeout=aiohttp.ClientTimeout(total=None, connect=connect),  # the rest: ``fetch``
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=self._traces,
            response_class=Response,
            auto_decompress=False,  # it believes the header: ``_unpack``
        )
        self._outputs = aiohttp.ClientSession(
            connector=self._make_connector(
                self._outputs_from.open_to_output, headers_within=self._timeouts(self._settings.timeouts.read)
            ),
            headers={"User-Agent": agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=self._traces,
            response_class=Response,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close both sessions with their connections."""
        with anyio.CancelScope(shield=True):
            try:
                await _require_open(self._api).close()
            finally:  # a shield does not stop asyncio's own cancel, as at the end of a loop
                await _require_open(self._outputs).close()

    async def fetch(self, call: ApiRequest, *, timeout: float) -> ApiResponse:
        """Send a call, and return its whole response, bounded in time and size.

        Args:
            call: the request; redirects are not followed, because the key is for the API only.
            timeout: seconds from connecting (which has its own limit, too) to the last byte.

        Raises:
            TransportError: there was no complete response.
        """
        try:
            with self._timeouts(timeout).start():
                response = await self._send(call)
                body = _unpack(response, await _read_body(response))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = self._to_error(str(call), error, redact=self._redact)
        else:
            return self._to_response(call, response, body)
        raise failure  # outside of the handler, without a context: aiohttp's errors may hold the headers that were sent

    def _send(self, call: ApiRequest) -> Awaitable[aiohttp.ClientResponse]:
        if call.body is None:
            url, body = self._make_url(call.target), None
        else:
            url, body = self._put_url(call.target), aiohttp.BytesPayload(call.body, content_type="application/json")
        return _require_open(self._api).request(
            call.method, url, data=body, allow_redirects=False, **route(url, self._headers, proxy=self._proxy)
        )

    def _make_url(self, target: str) -> URL:
        path, _, query = target.partition("?")
        base = self._base  # of the URL only the path is a new string
        return URL.build(
            scheme=base.scheme, authority=base.netloc, path=base.path + path, query_string=query, encoded=True
        )

    def _to_response(self, call: ApiRequest, response: aiohttp.ClientResponse, body: bytes) -> ApiResponse:
        steady = monotonic()
        if self._clock.is_due(steady=steady) and (date := response.headers.get(hdrs.DATE)):
            self._clock.read(date, wall=datetime.now(UTC), steady=steady)
        logger.debug("%s: status %s, %d bytes", call, response.status, len(body))
        return self._hide_key(response, body)

    def _hide_key(self, response: aiohttp.ClientResponse, body: bytes) -> ApiResponse:
        """Return a response without the key, before any of it can reach an exception or a log."""
        headers: Mapping[str, str] = ResponseHeaders(response)
        key = self._settings.api_key.encode()
        for _, value in response.raw_headers:
            if key in value:
                headers = {name: text.replace(key.decode(), KEY_MARK) for name, text in headers.items()}
                break
        return ApiResponse(response.status, headers, body.replace(key, KEY_MARK.encode()))

    @asynccontextmanager
    async def stream(self, url: str, *, headers: Mapping[str, str] | None = None) -> AsyncGenerator[Stream]:
        """Open a signed URL, without the key (``_core.hosts`` decides its encoding and which hosts are allowed).

        Redirects are followed, never from https to http.

        Raises:
            OutputRefused: the URL, or a redirect, leads to a host that is not allowed.
            TransportError: no usable response, or the stream broke while ``blocks`` were read.
        """
        url, what = signed_url(url), f"GET {redact_url(url)}"
        response, first = await self._open(url, headers=headers, what=what)
        async with response:
            names = {k.lower(): v for k, v in response.headers.items()}
            yield Stream(response.status, names, self._read_blocks(response, what, first))

    async def _open(
        self, url: str, *, headers: Mapping[str, str] | None, what: str
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Follow redirects, and read the first block of the response."""
        times = self._settings.timeouts
        timeout = aiohttp.ClientTimeout(total=None, connect=times.connect)  # ``sock_read`` costs a timer for each read
        url = signed_url(hosts.quote(url))
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self._outputs_from.check(url, what)
                with self._timeouts(times.connect + times.read).start():  # for the headers
                    response = await self._get(url, headers or {}, timeout)
                async with AsyncExitStack() as left:
                    await left.enter_async_context(response)
                    target = signed_url(response.headers.get("Location", "")) if response.status in REDIRECTS else None
                    if not target:
                        with self._timeouts(times.read).start():
                            first = await response.content.readany()
                        left.pop_all()
                        return response, first
                    url = _follow(url, target)
            failure = TransportError(f"{what}: more than {MAX_REDIRECTS} redirects")
        except OutputRefused as error:
            failure = forget_frames(error)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = self._to_stream_error(what, error)
        raise failure from None  # outside of the handler, without a context: aiohttp's errors may hold the signed URL

    async def _read_blocks(self, response: aiohttp.ClientResponse, what: str, block: bytes) -> AsyncGenerator[bytes]:
        """Yield the blocks of a body, beginning with the one that was read already."""
        patience = self._timeouts(self._settings.timeouts.read)
        try:
            while block:
                yield block
                with patience.start():
                    block = await response.content.readany()
        except aiohttp.ClientPayloadError:
            why = "the body was cut off"  # the cause may quote the request
            failure = TransportError(f"{what}: no usable response: {why}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = to_transport_error(what, error)
        else:
            return
        raise failure

    def _get(
        self, url: str, headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> Awaitable[aiohttp.ClientResponse]:
        address = URL(url, encoded=True)
        return _require_open(self._outputs).get(
            address, timeout=timeout, allow_redirects=False, **route(address, headers, proxy=self._proxy)
        )

    def close_idle(self) -> None:
        """Close idle connections, because this process is short of descriptors."""
        for session in (self._api, self._outputs):
            if session is not None and isinstance(session.connector, Connector):
                session.connector.close_idle()

    def _redact(self, text: str) -> str:
        """Return a text of the API for a message: without the key."""
        return redact_text(text.replace(self._settings.api_key, "…"))

    def _to_error(self, what: str, error: Exception, *, redact: Callable[[str], str] = hide_text) -> TransportError:
        """Return the error of an attempt without a response; close idle connections if descriptors ran out."""
        failure = to_transport_error(what, error, redact=redact)
        if failure.local_shortage:
            self.close_idle()
        return failure

    def _to_stream_error(self, what: str, error: Exception) -> TransportError:
        """Return the error of an output's URL that could not be opened."""
        refused = read_cause(error)
        if isinstance(refused, RefusedAddressError):
            return OutputRefused(f"{what}: refused: {refused.strerror}")
        if isinstance(error, aiohttp.ClientPayloadError):
            why = "the body was cut off"  # the cause may quote the request
            return TransportError(f"{what}: no usable response: {why}")
        return self._to_error(what, error)

    def _make_connector(
        self, make_socket: Callable[[Any], socket.socket], *, headers_within: TimeoutQueue | None = None
    ) -> Connector:
        connector = Connector(limit=0, ssl=self._settings.ssl_context or True, socket_factory=make_socket)
        connector.headers_within = headers_within
        return connector


class ResponseHeaders(Mapping[str, str]):
    """The headers of a response, names in lower case; made when they are read, as few ever are."""

    __slots__ = ("_given",)

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._given = response.headers

    def __getitem__(self, name: str) -> str:
        return self._given.getall(name)[-1]  # aiohttp's names have no case; of several the last one counts

    def __iter__(self) -> Iterator[str]:
        return iter({name.lower(): None for name in self._given})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"<ResponseHeaders {', '.join(self)}>"


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a whole response, whose last byte releases its connection; ``async with`` would cost a tenth of a submit."""
    content, body, announced = response.content, b"", response.content_length or 0
    try:
        while max(announced, len(body)) <= MAX_RESPONSE_BYTES:
            if content.at_eof():
                return body
            body += await content.readany()
    except BaseException:
        response.close()
        raise
    response.close()
    raise AnswerUnreadable(f"the response is larger than {MAX_RESPONSE_BYTES} bytes")


def _unpack(response: aiohttp.ClientResponse, body: bytes) -> bytes:
    """Decode the content encoding; the bytes show whether there is one, and the header which."""
    header = response.headers.get(hdrs.CONTENT_ENCODING, "")
    if not header and body[:1] in (b"{", b"["):
        return body
    try:
        encodings = ranges.read_encodings({"content-encoding": header})
        return content_encoding.unpack(body, encodings, limit=MAX_RESPONSE_BYTES)
    except UnpackingError as error:
        raise AnswerUnreadable(str(error)) from None


def _follow(url: str, target: str) -> str:
    """Return the target of a redirect, if it is allowed."""
    following = hosts.quote(urljoin(url, hosts.quote(target)))
    scheme = urlsplit(following).scheme
    if scheme not in ("http", "https") or (scheme == "http" and urlsplit(url).scheme == "https"):
        raise OutputRefused(f"GET {redact_url(url)}: refusing a redirect to {redact_url(following)}")
    return signed_url(following)


def _require_open(session: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    if session is None:
        raise RuntimeError("the transport is not open")
    return session

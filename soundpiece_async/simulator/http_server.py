"""The HTTP server of both hosts: logs each request, calls the hook, applies faults, answers, counts.

Rules:

1. A request is in the log from the moment its head arrived, and open until its response is ready or its client gone.
2. The hook sees it before anything takes effect.
3. Every request runs in a cancel scope of its own, so that closing ends those that are held.
"""

import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import attrs
from aiohttp import web

from soundpiece_async.simulator.faults import BEFORE, ActiveFault, Fault, FaultInjector, HostName
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response, corrupt, fault_response, html_response, json_response

RequestHook = Callable[[ReceivedRequest], Awaitable[None] | None]
_BLOCK = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class Host:
    """One host: `identify` notes in the log what a request is about, `answer` processes it."""

    host: HostName
    identify: Callable[[ReceivedRequest], None]
    answer: Callable[[ReceivedRequest, ActiveFault | None], Awaitable[Response]]


@attrs.define(eq=False, kw_only=True)
class HttpServer:
    """Receives requests; `pace` is the bytes per second a download gets at most, `date` makes a Date header."""

    injector: FaultInjector
    hook: RequestHook | None = None
    pace: float | None = None
    date: Callable[[], str] | None = None
    log: list[ReceivedRequest] = attrs.field(factory=list, init=False)
    open_requests: int = attrs.field(default=0, init=False)
    open_polls: int = attrs.field(default=0, init=False)
    peak_polls: int = attrs.field(default=0, init=False)
    bytes_sent: int = attrs.field(default=0, init=False)
    counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _seen: Counter[str] = attrs.field(factory=Counter, init=False)
    _scopes: set[anyio.CancelScope] = attrs.field(factory=set, init=False)

    def __repr__(self) -> str:
        """Show the requests that are open now, and the highest number of polls."""
        return f"<HttpServer {self.open_requests} open, {self.open_polls} polls (peak {self.peak_polls})>"

    async def handle(self, request: web.BaseRequest, host: Host) -> web.StreamResponse:
        """Answer one request, or reset its connection."""
        url = request.rel_url
        arrived = anyio.current_time()
        entry = ReceivedRequest(
            host=host.host,
            method=request.method,
            path=url.path,
            query=url.query,
            arrived=arrived,
            headers=request.headers,
        )
        self._enter(entry)
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await self._process(request, entry, host)
            except ConnectionResetError:
                pass  # the client has left: nobody is there to be answered
            except web.HTTPRequestEntityTooLarge as error:
                entry.status = error.status
                return _respond(json_response({"detail": error.reason}, status=error.status))
            finally:
                self._scopes.discard(scope)
                self._leave(entry)
        return _hang_up(request)

    def close(self) -> None:
        """Reset the connections of all open requests."""
        for scope in self._scopes:
            scope.cancel()

    def _enter(self, entry: ReceivedRequest) -> None:
        self.log.append(entry)
        self.counts[f"{entry.host} {entry.method}"] += 1
        self.open_requests += 1
        if _is_poll(entry):
            self.open_polls += 1
            self.peak_polls = max(self.peak_polls, self.open_polls)

    def _count(self, entry: ReceivedRequest) -> int:
        """Count a request, and return the number of earlier ones with the same key, operation or path."""
        about = f"{entry.host} {entry.method} {entry.key or entry.operation or ''} {entry.path}"
        self._seen[about] += 1
        return self._seen[about] - 1

    def _leave(self, entry: ReceivedRequest) -> None:
        entry.held = anyio.current_time() - entry.arrived
        self.open_requests -= 1
        self.bytes_sent += entry.sent
        if _is_poll(entry):
            self.open_polls -= 1

    async def _process(self, request: web.BaseRequest, entry: ReceivedRequest, host: Host) -> web.StreamResponse:
        entry.body = await request.read()
        host.identify(entry)
        entry.earlier = self._count(entry)
        if self.hook is not None and (waiting := self.hook(entry)) is not None:
            await waiting
        active = self.injector.choose(entry)
        if active is None:
            return await self._send(request, entry, await host.answer(entry, None), None)
        before = active.fault in BEFORE
        response = fault_response(active) if before else await host.answer(entry, active)
        match active.fault:
            case Fault.RESET_BEFORE | Fault.RESET_AFTER:
                return _hang_up(request)
            case Fault.GATEWAY_TIMEOUT:
                response = html_response(504, "Gateway Timeout")
            case Fault.CORRUPT:
                at = self.injector.position(len(response.body)) if active.at is None else active.at
                response = corrupt(response, at=min(at, len(response.body) - 1))
            case Fault.STALL if entry.host == "api":
                await anyio.sleep(self._stall_seconds(active))
                active = None
        return await self._send(request, entry, response, active)

    async def _send(
        self, request: web.BaseRequest, entry: ReceivedRequest, response: Response, active: ActiveFault | None
    ) -> web.StreamResponse:
        """Send a response: in one piece, unless it is a download or a fault breaks it."""
        if self.date is not None:
            response = attrs.evolve(response, headers={**response.headers, "Date": self.date()})
        entry.status = response.status
        broken = active is not None and active.fault in (Fault.CUT, Fault.STALL)
        download = entry.host == "output" and response.status in (200, 206)
        if entry.method != "HEAD" and (broken or download):
            return await self._stream(request, entry, response, active)
        entry.sent = len(response.body)
        return _respond(response)

    async def _stream(
        self, request: web.BaseRequest, entry: ReceivedRequest, response: Response, active: ActiveFault | None
    ) -> web.StreamResponse:
        """Send a body block by block, interrupted where a fault says so."""
        stream = _FRAMINGS[response.framing](
            status=response.status, headers={**response.headers, "Content-Type": response.content_type}
        )
        if response.framing == "length":
            stream.content_length = len(response.body)
        await stream.prepare(request)
        body = memoryview(response.body)
        fault = None if active is None else active.fault
        if active is not None and fault in (Fault.CUT, Fault.STALL):
            at = len(body) // 2 if active.at is None else min(active.at, len(body))
            await self._write(stream, entry, body[:at])
            if fault is Fault.CUT:
                _close(request)
                return stream
            await anyio.sleep(self._stall_seconds(active))
            body = body[at:]
        await self._write(stream, entry, body)
        if response.framing == "closed":
            _close(request)
        return stream

    async def _write(self, stream: web.StreamResponse, entry: ReceivedRequest, body: memoryview) -> None:
        for start in range(0, len(body), _BLOCK):
            block = body[start : start + _BLOCK]
            await stream.write(block)
            entry.sent += len(block)
            if self.pace is not None:
                await anyio.sleep(len(block) / self.pace)

    def _stall_seconds(self, active: ActiveFault) -> float:
        return self.injector.faults.stall_seconds if active.seconds is None else active.seconds


class _Unmeasured(web.StreamResponse):
    """A body of no known length, which ends when its connection does."""

    _length_check = False  # aiohttp would send it in chunks


_FRAMINGS = {"length": web.StreamResponse, "chunked": web.StreamResponse, "closed": _Unmeasured}


def _is_poll(entry: ReceivedRequest) -> bool:
    return entry.host == "api" and entry.method == "GET"


def _respond(response: Response) -> web.Response:
    return web.Response(
        status=response.status, body=response.body, headers=response.headers, content_type=response.content_type
    )


def _hang_up(request: web.BaseRequest) -> web.Response:
    """Reset the connection; the response returned is never sent."""
    transport = request.transport
    if transport is not None:
        # without lingering the kernel sends RST instead of FIN: a reset, not an orderly end
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    return web.Response()


def _close(request: web.BaseRequest) -> None:
    """Close the connection once everything written has been sent."""
    if request.transport is not None:
        request.transport.close()

"""What comes in, without the rest of the simulator."""

import random

import aiohttp
import pytest
from aiohttp import web

from soundpiece_async.simulator import Faults
from soundpiece_async.simulator.faults import ActiveFault, FaultInjector
from soundpiece_async.simulator.http_server import Host, HttpServer
from soundpiece_async.simulator.lifetime import listen
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response

pytestmark = pytest.mark.anyio


async def test_a_client_that_is_gone_is_no_error() -> None:
    """A connection that was lost just before its answer is hung up on, and the request is open no longer."""
    http_server = HttpServer(injector=FaultInjector(Faults(), rng=random.Random(1)))

    async def answer(_entry: ReceivedRequest, _strike: ActiveFault | None) -> Response:
        return Response(body=b"fLaC")

    async def receive(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return await http_server.handle(request, Host(host="output", identify=lambda _: None, answer=answer))

    async with listen(receive, host="127.0.0.1", port=0) as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(url)  # a GET is sent again by aiohttp itself
    (request,) = http_server.log
    assert (http_server.open_requests, request.status, request.held is not None) == (0, 200, True)

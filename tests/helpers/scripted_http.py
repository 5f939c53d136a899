"""The API without sockets: a script in place of ``HttpClient.fetch``, through which every call of the API passes.

Each call is answered by the next item of the script, and honestly when the script is used up: one operation for each
idempotency key, ready when ``ready`` is set; a long poll is held until then. For what is about the wire itself, see
``raw_api``.
"""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import attrs
import pytest

from soundpiece_async import Settings, Timeouts
from soundpiece_async._core.wire import ApiRequest, ApiResponse
from soundpiece_async._http.client import HttpClient
from soundpiece_async._http.errors import to_transport_error

LOST = ConnectionResetError("the peer reset the connection")
"""The answer is lost, and whether the request took effect is unknown."""


def respond(document: object = None, *, status: int = 200, body: bytes | None = None, **headers: str) -> ApiResponse:
    """Return a response with a JSON body, or these bytes; ``retry_after`` is the header Retry-After."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return ApiResponse(status, names, json.dumps(document).encode() if body is None else body)


@attrs.define(eq=False)
class ScriptedHttp:
    """Answers calls from a script.

    Attributes:
        script: responses, exceptions to be raised as of the network, and numbers: seconds by which an answer is late.
        calls: every call, in order.
        created: the operations' ids by idempotency key.
        open_polls: GETs that are open now.
        peak_polls: how many of them were open at once, at most.
        ready: whether operations are ready.
    """

    script: deque[ApiResponse | Exception | float] = attrs.field(factory=deque)
    calls: list[ApiRequest] = attrs.field(factory=list)
    created: dict[str, str] = attrs.field(factory=dict)
    open_polls: int = 0
    peak_polls: int = 0
    ready: bool = True
    _finished: anyio.Event = attrs.field(factory=anyio.Event)

    @property
    def puts(self) -> list[bytes | None]:
        """The bodies of all PUTs."""
        return [call.body for call in self.calls if call.method == "PUT"]

    @property
    def polls(self) -> list[ApiRequest]:
        """Every GET, in order."""
        return [call for call in self.calls if call.method == "GET"]

    def finish(self) -> None:
        """End every operation, and answer the long polls that are held."""
        self.ready = True
        self._finished.set()

    async def fetch(self, call: ApiRequest, *, timeout: float) -> ApiResponse:
        """Stand in for ``HttpClient.fetch``."""
        self.calls.append(call)
        failure: Exception
        try:
            with anyio.fail_after(timeout), self._count(call):
                item = self.script.popleft() if self.script else 0.0
                await anyio.sleep(item) if isinstance(item, float) else await anyio.lowlevel.checkpoint()
                if isinstance(item, ApiResponse):
                    return item
                if isinstance(item, float):
                    return await self._answer(call)
                failure = item
        except TimeoutError as error:
            failure = error
        raise to_transport_error(str(call), failure)

    @contextmanager
    def _count(self, call: ApiRequest) -> Iterator[None]:
        poll = call.method == "GET"
        self.open_polls += poll
        self.peak_polls = max(self.peak_polls, self.open_polls)
        try:
            yield
        finally:
            self.open_polls -= poll

    async def _answer(self, call: ApiRequest) -> ApiResponse:
        if call.body is not None:
            fields = json.loads(call.body)
            identity = self.created.setdefault(fields["idempotency_key"], f"op_{len(self.created):026d}")
            return respond({"fx": fields | {"id": identity, "status": "processing"}})
        if not self.ready and "wait=true" in call.target:
            await self._finished.wait()
        output = {"url": "http://127.0.0.1:9/a.flac?sig=1", "expires_at": None, "duration": 1.0}
        ended = {"status": "ready", "output": output, "error": None} if self.ready else {"status": "processing"}
        return respond({"fx": {"id": call.about, **ended}})


@contextmanager
def scripted(*script: ApiResponse | Exception | float) -> Iterator[ScriptedHttp]:
    """Answer the calls of every session opened inside from a script."""
    http = ScriptedHttp(deque(script))

    async def fetch(_: HttpClient, call: ApiRequest, *, timeout: float) -> ApiResponse:
        return await http.fetch(call, timeout=timeout)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HttpClient, "fetch", fetch)
        yield http


def settings(**changes: object) -> Settings:
    """Return settings of a session whose calls never reach a network."""
    defaults = {"api_key": "spk_for_tests", "base_url": "http://127.0.0.1:9", "timeouts": Timeouts(submit=5, poll=5)}
    return Settings(**defaults | changes)

"""A site in several worker processes: any of them accepts a request, a webhook, or a client that waits for another's.

    export SOUNDPIECE_API_KEY=spk_... SOUNDPIECE_WEBHOOK_SECRET=whsec_... SITE=https://studio.example
    export SOUNDPIECE_SHARED=redis://localhost/0
    uvicorn --app-dir examples --workers 4 processes:app

The processes share the account's rate limit, and a result that one of them receives wakes the waiters of all. Needs
fastapi, uvicorn, and the extra ``redis`` (or ``postgres``, with a ``postgresql://`` URL).
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.routing import Route

from soundpiece_async import Handle, NewFx, Operation, OperationFailed, Session, WaitTimeout
from soundpiece_async.webhooks import Webhooks, asgi_app

SITE = os.environ["SITE"]
KEEP_ALIVE = 15.0  # seconds between two comments: proxies close a stream that is silent for a minute

webhooks = Webhooks([os.environ["SOUNDPIECE_WEBHOOK_SECRET"]])


@asynccontextmanager
async def live(app: FastAPI) -> AsyncIterator[None]:
    """Open one session per process; they share the store that SOUNDPIECE_SHARED names."""
    async with Session() as app.state.session:
        yield


app = FastAPI(lifespan=live)


@app.post("/doors")
async def order_door() -> dict[str, str]:
    """Submit an effect; another process can wait for it by its handle."""
    request = NewFx("door slams", duration=2.5, callback_url=f"{SITE}/hooks/soundpiece")
    operation = await app.state.session.submit(request)
    return {"handle": str(operation.handle)}


@app.get("/doors/{handle:path}")
async def watch_door(handle: str) -> StreamingResponse:
    """Send server-sent events until the operation has ended."""
    return StreamingResponse(follow(Handle.parse(handle)), media_type="text/event-stream")


@app.get("/health")
async def show_health() -> dict[str, object]:
    """Return the state of the account's rate limiter."""
    now = app.state.session.statistics()
    return {"process": os.getpid(), "peers": now.peers, "rate": now.rate, "store_unavailable": now.store_unavailable}


async def follow(handle: Handle) -> AsyncIterator[str]:
    """Wait, whichever process submitted it, and whichever receives the webhook."""
    yield f": process {os.getpid()}\n\n"
    while True:
        try:
            operation = await app.state.session.wait(handle, timeout=KEEP_ALIVE)
        except WaitTimeout:
            yield ": processing\n\n"
        except OperationFailed as error:
            yield f"event: failed\ndata: {error}\n\n"
            return
        else:
            yield f"event: ready\ndata: {json.dumps(operation.to_dict())}\n\n"
            return


def deliver(operation: Operation[Any]) -> None:
    """Deliver a webhook to the waiters of all processes."""
    app.state.session.deliver(operation)


app.router.routes.append(Route("/hooks/soundpiece", asgi_app(webhooks, deliver), methods=["POST"]))

"""A site in several worker processes: any of them takes an order, a webhook, or a visitor who waits for another's.

    export SOUNDPIECE_API_KEY=spk_... SOUNDPIECE_WEBHOOK_SECRET=whsec_... SITE=https://studio.example
    export SOUNDPIECE_SHARED=redis://localhost/0
    uvicorn --app-dir examples --workers 4 processes:app

The processes share the account's rate limit, and what one of them learns of an operation the others know at once. Needs
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
ALIVE = 15.0  # seconds between two signs of life: proxies close a stream that is silent for a minute

webhooks = Webhooks([os.environ["SOUNDPIECE_WEBHOOK_SECRET"]])


@asynccontextmanager
async def live(app: FastAPI) -> AsyncIterator[None]:
    """Open one session in each process; they meet in the store that SOUNDPIECE_SHARED names."""
    async with Session() as app.state.session:
        yield


app = FastAPI(lifespan=live)


@app.post("/doors")
async def order_door() -> dict[str, str]:
    """Order an effect; the handle is all that another process needs to wait for it."""
    request = NewFx("door slams", duration=2.5, callback_url=f"{SITE}/hooks/soundpiece")
    operation = await app.state.session.submit(request)
    return {"handle": str(operation.handle)}


@app.get("/doors/{handle:path}")
async def watch_door(handle: str) -> StreamingResponse:
    """Tell a visitor by server-sent events when it is ready."""
    return StreamingResponse(tell(Handle.parse(handle)), media_type="text/event-stream")


@app.get("/health")
async def show_health() -> dict[str, object]:
    """Show what this process knows of the account's gate."""
    now = app.state.session.statistics()
    return {"process": os.getpid(), "peers": now.peers, "rate": now.rate, "store_away": now.store_away}


async def tell(handle: Handle) -> AsyncIterator[str]:
    """Wait, whichever process ordered it, and whichever gets the webhook."""
    yield f": process {os.getpid()}\n\n"
    while True:
        try:
            operation = await app.state.session.wait(handle, timeout=ALIVE)
        except WaitTimeout:
            yield ": still being made\n\n"
        except OperationFailed as error:
            yield f"event: failed\ndata: {error}\n\n"
            return
        else:
            yield f"event: ready\ndata: {json.dumps(operation.to_dict())}\n\n"
            return


def deliver(operation: Operation[Any]) -> None:
    """Pass a webhook on to the visitors of all processes."""
    app.state.session.deliver(operation)


app.router.routes.append(Route("/hooks/soundpiece", asgi_app(webhooks, deliver), methods=["POST"]))

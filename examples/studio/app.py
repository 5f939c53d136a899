"""The web application: one session per process, opened at startup and closed at shutdown; its page and routes."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, closing, suppress
from functools import partial
from pathlib import Path

import anyio
from aiohttp import web
from guard import make_guard, own_origins, protect
from kinds import InvalidFormError, parse_form, parse_title
from service import HOOK, open_service, restore
from store import Store
from work import Studio
from yarl import URL

from soundpiece_async import Session
from soundpiece_async.webhooks import Webhooks, aiohttp_handler

STATIC = Path(__file__).parent / "static"
STUDIO = web.AppKey("studio", Studio)
FOLDER = web.AppKey("folder", Path)
SESSION = web.AppKey("session", Session)
WEBHOOKS = web.AppKey("webhooks", Webhooks)
MAX_FORM_BYTES = 1 << 18
NUMBER = "{id:[0-9]{1,15}}"
write_json = partial(json.dumps, allow_nan=False)  # browsers reject NaN and Infinity


def make_app(folder: Path, *, own_url: str, speed: float, other_urls: Iterable[str] = ()) -> web.Application:
    """Build the application.

    Args:
        folder: for the database and the audio.
        own_url: its address on this machine.
        speed: of the simulated service.
        other_urls: further addresses, such as that of a proxy in front of it.
    """

    async def live(app: web.Application) -> AsyncIterator[None]:
        """Open the resources of the process, in this order, and close them in reverse."""
        await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            store = stack.enter_context(closing(Store(folder / "studio.sqlite")))
            service = await stack.enter_async_context(open_service(os.environ, own_url=own_url, speed=speed))
            session = app[SESSION] = await stack.enter_async_context(Session(service.settings))
            sounds = await store.load()
            if service.simulator is not None:
                sounds = await restore(service.simulator, session, store, sounds)
            studio = app[STUDIO] = Studio(session, store, app[FOLDER], callback=service.callback, service=service.name)
            if service.webhooks is not None:
                app[WEBHOOKS] = service.webhooks
            work = asyncio.create_task(studio.run(sounds))
            yield
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    origins = own_origins(URL(own_url).port or 80, other_urls)
    app = web.Application(middlewares=[make_guard(origins)], client_max_size=MAX_FORM_BYTES)
    app[FOLDER] = folder / "audio"
    app.cleanup_ctx.append(live)
    app.on_shutdown.append(_close_streams)
    app.on_response_prepare.append(protect)
    app.add_routes(
        [
            web.get("/", _show_page),
            web.get("/events", _follow),
            web.post("/sounds", _submit),
            web.post(f"/sounds/{NUMBER}/again", _try_again),
            web.patch(f"/sounds/{NUMBER}", _rename),
            web.delete(f"/sounds/{NUMBER}", _delete),
            web.get(r"/audio/{name:[\w-]{1,200}\.flac}", _send_audio),
            web.post(HOOK, _receive),
            web.get(r"/static/{name:[a-z]{1,40}\.[a-z]{2,4}}", _send_static),
        ]
    )
    return app


async def _close_streams(app: web.Application) -> None:
    """End the event streams first, or the server would wait for them."""
    app[STUDIO].close()


async def _show_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html")


async def _send_static(request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / request.match_info["name"])


async def _follow(request: web.Request) -> web.StreamResponse:
    """Send server-sent events: first the whole state, then changes; after a reconnect the whole state again."""
    studio = request.app[STUDIO]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    seen = 0
    with suppress(ConnectionError):  # the browser disconnected
        await response.write(b"retry: 1000\n\n")
        while not studio.closing:
            changes = studio.changes(since=seen)
            seen = changes["revision"]
            await response.write(f"data: {write_json(changes)}\n\n".encode())
            await studio.changed(seen)
    return response


async def _submit(request: web.Request) -> web.Response:
    """Store a form and start its operation before the response, so that a disconnect does not matter."""
    studio = request.app[STUDIO]
    try:
        form = parse_form(await request.read(), parents=studio.sounds, callback=studio.callback)
    except InvalidFormError as error:
        return web.json_response({"problem": str(error)}, status=400, dumps=write_json)
    sound = await asyncio.shield(studio.begin(form))
    return web.json_response({"id": sound.id}, status=201, dumps=write_json)


async def _try_again(request: web.Request) -> web.Response:
    await asyncio.shield(request.app[STUDIO].try_again(int(request.match_info["id"])))
    return web.Response(status=204)


async def _rename(request: web.Request) -> web.Response:
    try:
        title = parse_title(await request.read())
    except InvalidFormError as error:
        return web.json_response({"problem": str(error)}, status=400, dumps=write_json)
    await asyncio.shield(request.app[STUDIO].rename(int(request.match_info["id"]), title))
    return web.Response(status=204)


async def _delete(request: web.Request) -> web.Response:
    if await asyncio.shield(request.app[STUDIO].delete(int(request.match_info["id"]))):
        return web.Response(status=204)
    problem = "It is in use by a running operation. Delete it later."
    return web.json_response({"problem": problem}, status=409, dumps=write_json)


async def _send_audio(request: web.Request) -> web.FileResponse:
    """Send a file, or the part of it that a player requests."""
    headers = {"Content-Type": "audio/flac", "Cache-Control": "private, max-age=31536000, immutable"}
    return web.FileResponse(request.app[FOLDER] / request.match_info["name"], headers=headers)


async def _receive(request: web.Request) -> web.Response:
    """Receive a webhook, if webhooks are configured."""
    app = request.app
    if WEBHOOKS not in app:
        raise web.HTTPNotFound
    return await aiohttp_handler(app[WEBHOOKS], app[SESSION].deliver)(request)

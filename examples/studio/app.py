"""The web application: one session per process, opened at start, closed at shutdown; a page, and what it asks for."""

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
from kinds import UnclearWishError, read_title, read_wish
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
LARGEST_WISH = 1 << 18
NUMBER = "{id:[0-9]{1,15}}"
write_json = partial(json.dumps, allow_nan=False)  # NaN and Infinity, which Python would write, no browser reads


def make_app(folder: Path, *, own_url: str, speed: float, other_urls: Iterable[str] = ()) -> web.Application:
    """Build the application.

    Args:
        folder: for the database and the audio.
        own_url: where it will be reached on this machine.
        speed: of the simulated service.
        other_urls: other addresses it may be reached by, such as that of a proxy in front of it.
    """

    async def live(app: web.Application) -> AsyncIterator[None]:
        """Open what lives as long as the process, in this order, and close it in the other."""
        await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            store = stack.enter_context(closing(Store(folder / "studio.sqlite")))
            service = await stack.enter_async_context(open_service(os.environ, own_url=own_url, speed=speed))
            session = app[SESSION] = await stack.enter_async_context(Session(service.settings))
            pieces = await store.load()
            if service.simulator is not None:
                pieces = await restore(service.simulator, session, store, pieces)
            studio = app[STUDIO] = Studio(session, store, app[FOLDER], callback=service.callback, service=service.name)
            if service.webhooks is not None:
                app[WEBHOOKS] = service.webhooks
            work = asyncio.create_task(studio.run(pieces))
            yield
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    origins = own_origins(URL(own_url).port or 80, other_urls)
    app = web.Application(middlewares=[make_guard(origins)], client_max_size=LARGEST_WISH)
    app[FOLDER] = folder / "audio"
    app.cleanup_ctx.append(live)
    app.on_shutdown.append(_let_go)
    app.on_response_prepare.append(protect)
    app.add_routes(
        [
            web.get("/", _show_page),
            web.get("/events", _follow),
            web.post("/pieces", _begin),
            web.post(f"/pieces/{NUMBER}/again", _try_again),
            web.patch(f"/pieces/{NUMBER}", _rename),
            web.delete(f"/pieces/{NUMBER}", _delete),
            web.get(r"/audio/{name:[\w-]{1,200}\.flac}", _send_audio),
            web.post(HOOK, _hear),
            web.get(r"/static/{name:[a-z]{1,40}\.[a-z]{2,4}}", _send_static),
        ]
    )
    return app


async def _let_go(app: web.Application) -> None:
    """End the event streams first, or the server would wait for browsers that never leave."""
    app[STUDIO].close()


async def _show_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html")


async def _send_static(request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / request.match_info["name"])


async def _follow(request: web.Request) -> web.StreamResponse:
    """Server-sent events: first everything, then whatever changes; a browser that comes back begins anew."""
    studio = request.app[STUDIO]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    seen = 0
    with suppress(ConnectionError):  # the browser has left
        await response.write(b"retry: 1000\n\n")
        while not studio.closing:
            news = studio.news(since=seen)
            seen = news["revision"]
            await response.write(f"data: {write_json(news)}\n\n".encode())
            await studio.changed(seen)
    return response


async def _begin(request: web.Request) -> web.Response:
    """Take a wish. It is stored, and will be made whatever becomes of this browser, before this is answered."""
    studio = request.app[STUDIO]
    try:
        wish = read_wish(await request.read(), parents=studio.pieces, callback=studio.callback)
    except UnclearWishError as error:
        return web.json_response({"problem": str(error)}, status=400, dumps=write_json)
    piece = await asyncio.shield(studio.begin(wish))
    return web.json_response({"id": piece.id}, status=201, dumps=write_json)


async def _try_again(request: web.Request) -> web.Response:
    await asyncio.shield(request.app[STUDIO].try_again(int(request.match_info["id"])))
    return web.Response(status=204)


async def _rename(request: web.Request) -> web.Response:
    try:
        title = read_title(await request.read())
    except UnclearWishError as error:
        return web.json_response({"problem": str(error)}, status=400, dumps=write_json)
    await asyncio.shield(request.app[STUDIO].rename(int(request.match_info["id"]), title))
    return web.Response(status=204)


async def _delete(request: web.Request) -> web.Response:
    if await asyncio.shield(request.app[STUDIO].delete(int(request.match_info["id"]))):
        return web.Response(status=204)
    problem = "It is still being made, or something is being made of it: delete it later."
    return web.json_response({"problem": problem}, status=409, dumps=write_json)


async def _send_audio(request: web.Request) -> web.FileResponse:
    """Send a file, or the part of it that a player asks for."""
    headers = {"Content-Type": "audio/flac", "Cache-Control": "private, max-age=31536000, immutable"}
    return web.FileResponse(request.app[FOLDER] / request.match_info["name"], headers=headers)


async def _hear(request: web.Request) -> web.Response:
    """Take the service's news, if any is expected."""
    app = request.app
    if WEBHOOKS not in app:
        raise web.HTTPNotFound
    return await aiohttp_handler(app[WEBHOOKS], app[SESSION].deliver)(request)

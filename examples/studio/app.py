"""The web application: one session per process, opened at start, closed at shutdown; a page, and what it asks for."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path

import anyio
from aiohttp import web
from kinds import UnclearWishError, read_wish
from service import HOOK, open_service, restore
from store import Store
from work import Studio

from soundpiece_async import Session
from soundpiece_async.webhooks import Webhooks, aiohttp_handler

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATIC = Path(__file__).parent / "static"
STUDIO = web.AppKey("studio", Studio)
FOLDER = web.AppKey("folder", Path)
SESSION = web.AppKey("session", Session)
WEBHOOKS = web.AppKey("webhooks", Webhooks)
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


def make_app(folder: Path, *, own_url: str, speed: float) -> web.Application:
    """Make the application.

    Args:
        folder: for the database and the audio.
        own_url: where it will be reached on this machine.
        speed: of the simulated service.
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

    app = web.Application(middlewares=[_keep_strangers_out])
    app[FOLDER] = folder / "audio"
    app.cleanup_ctx.append(live)
    app.on_shutdown.append(_let_go)
    app.on_response_prepare.append(_protect)
    app.add_routes(
        [
            web.get("/", _show_page),
            web.get("/events", _follow),
            web.post("/pieces", _begin),
            web.post(r"/pieces/{id:\d+}/again", _try_again),
            web.delete(r"/pieces/{id:\d+}", _dismiss),
            web.get(r"/audio/{name:[\w-]+\.flac}", _send_audio),
            web.post(HOOK, _hear),
            web.static("/static", STATIC),
        ]
    )
    return app


async def _let_go(app: web.Application) -> None:
    """End the event streams first, or the server would wait for browsers that never leave."""
    app[STUDIO].close()


@web.middleware
async def _keep_strangers_out(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let no page of another site spend the credits of whoever visits it."""
    if request.method != "GET" and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise web.HTTPForbidden
    return await handler(request)


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-cache")


async def _show_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html")


async def _follow(request: web.Request) -> web.StreamResponse:
    """Server-sent events: first everything, then whatever changes; a browser that comes back begins anew."""
    studio = request.app[STUDIO]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"retry: 1000\n\n")
    seen = 0
    while not studio.closing:
        news = studio.news(since=seen)
        seen = news["revision"]
        await response.write(f"data: {json.dumps(news)}\n\n".encode())
        await studio.changed(seen)
    return response


async def _begin(request: web.Request) -> web.Response:
    """Take a wish. It is stored, and will be made whatever becomes of this browser, before this is answered."""
    studio = request.app[STUDIO]
    try:
        wish = read_wish(await request.read(), parents=studio.pieces, callback=studio.callback)
    except UnclearWishError as error:
        return web.json_response({"problem": str(error)}, status=400)
    piece = await asyncio.shield(studio.begin(wish))
    return web.json_response({"id": piece.id}, status=201)


async def _try_again(request: web.Request) -> web.Response:
    await asyncio.shield(request.app[STUDIO].try_again(int(request.match_info["id"])))
    return web.Response(status=204)


async def _dismiss(request: web.Request) -> web.Response:
    await asyncio.shield(request.app[STUDIO].dismiss(int(request.match_info["id"])))
    return web.Response(status=204)


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

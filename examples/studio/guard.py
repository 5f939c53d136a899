"""Access checks: only requests for the studio's own name, from its own page or from no page."""

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from yarl import URL

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
OUR_SITES = ("none", "same-origin")


def own_origins(port: int, urls: Iterable[str]) -> frozenset[str]:
    """Return the origins of the studio: those of this machine at its port, and those of its other URLs.

    Raises:
        ValueError: one is not an absolute http(s) URL.
    """
    here = (f"http://{name}:{port}" for name in LOOPBACK)
    return frozenset(str(URL(url).origin()) for url in (*here, *urls))


def make_guard(origins: frozenset[str]) -> Middleware:
    """Return the middleware that rejects requests of other sites.

    ``Host``: a page of another name that resolves to this machine (DNS rebinding) would be of one origin with the
    studio. ``Origin``: a browser sends it with every request that a page of another site causes, also without
    ``Sec-Fetch-Site``. A program sends neither, and cannot act for a user.
    """
    hosts = {origin.partition("://")[2] for origin in origins}

    @web.middleware
    async def reject_other_sites(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = request.headers.getall(hdrs.HOST, [])
        if len(named) != 1 or named[0].lower() not in hosts:
            raise web.HTTPMisdirectedRequest(text="Unknown host name: set STUDIO_PUBLIC_URL.\n")
        if any(origin.lower() not in origins for origin in request.headers.getall(hdrs.ORIGIN, [])):
            raise web.HTTPForbidden(text="A page of another site may not use the studio.\n")
        opens_page = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if not opens_page and request.headers.get("Sec-Fetch-Site", "none") not in OUR_SITES:
            raise web.HTTPForbidden(text="A page of another site may not use the studio.\n")
        return await handler(request)

    return reject_other_sites


async def protect(_: web.Request, response: web.StreamResponse) -> None:
    """Add headers that restrict the browser to what the page needs."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    response.headers.setdefault("Cache-Control", "no-cache")

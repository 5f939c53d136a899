"""Sends requests directly, or through a proxy whose password is in no frame that an error reporter sends."""

from base64 import b64encode
from collections.abc import Mapping
from typing import TypedDict

import attrs
from yarl import URL

from soundpiece_async._core.redaction import Secret
from soundpiece_async._core.settings import LOOPBACK


@attrs.frozen
class Proxy:
    """A proxy and its headers; aiohttp would keep a password in its URL as it is.

    Attributes:
        url: without user and password.
        headers: with user and password.
    """

    url: str
    headers: Mapping[str, str]

    @classmethod
    def read(cls, url: str | None) -> "Proxy | None":
        """Return a proxy's URL, or None."""
        if url is None:
            return None
        parts = URL(url)
        if parts.user is None and parts.password is None:
            return cls(url, {})
        login = b64encode(f"{parts.user or ''}:{parts.password or ''}".encode()).decode()
        return cls(str(parts.with_user(None)), {"Proxy-Authorization": Secret(f"Basic {login}", "Basic …")})


class RequestOptions(TypedDict, total=False):
    """Keyword arguments of a request of aiohttp."""

    headers: Mapping[str, str]
    proxy: str
    proxy_headers: Mapping[str, str]


def route(url: URL, headers: Mapping[str, str], *, proxy: Proxy | None) -> RequestOptions:
    """Return the arguments that send a request through the proxy, if there is one and the host is not this machine."""
    if proxy is None or url.host in LOOPBACK:
        return {"headers": headers}
    if url.scheme == "https":
        return {"headers": headers, "proxy": proxy.url, "proxy_headers": proxy.headers}
    return {"headers": {**headers, **proxy.headers}, "proxy": proxy.url}  # the proxy removes them

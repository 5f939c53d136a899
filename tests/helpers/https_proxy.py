"""A proxy that tunnels to a simulator behind TLS, with certificates of a test authority, and records what it sees."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import attrs
import trustme

from helpers.simulation import settings
from soundpiece_async import RetryPolicy, Settings
from soundpiece_async.simulator import Simulator

API, FILES = "api.soundpiece.test", "files.soundpiece.test"
AUTHORITY = trustme.CA()


@attrs.define
class Proxy:
    """A proxy that tunnels to the two hosts of a simulator, each behind TLS, and keeps what it sees."""

    ports: dict[str, int] = attrs.field(factory=dict)
    url: str = ""
    refuse: bytes = b""
    asked: list[str] = attrs.field(factory=list)
    seen: bytearray = attrs.field(factory=bytearray)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen += head
        self.asked.append(head.partition(b"\r\n")[0].decode())
        if self.refuse:
            writer.write(self.refuse)
            writer.close()
            return
        host = head.split()[1].decode().partition(":")[0]
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await pipe(reader, writer, self.ports[host], tap=self.seen)


async def pipe(reader: Any, writer: Any, port: int, *, tap: bytearray | None = None) -> None:
    """Join a connection to a port of this machine, until both ends have gone."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: Any, target: Any) -> None:
        try:
            while data := await source.read(65_536):
                if tap is not None:
                    tap.extend(data)
                target.write(data)
        except (OSError, ssl.SSLError):
            pass
        target.close()

    async with anyio.create_task_group() as group:
        group.start_soon(copy, reader, far_writer)
        group.start_soon(copy, far_reader, writer)


@asynccontextmanager
async def listen(port: Any, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Put TLS in front of a port of this machine."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.start_tls(context)
        except OSError:  # a client that does not trust us; with ``ssl=`` asyncio itself would complain of it
            writer.close()
        else:
            await pipe(reader, writer, port)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def far(sim: Simulator, proxy: Proxy, **changes: Any) -> Settings:
    """Settings for the simulator as it is behind the proxy."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    hard = {"retries": RetryPolicy(submit_max_elapsed=0), "proxy": proxy.url, "ssl_context": context}
    return settings(sim, base_url=f"https://{API}", **{**hard, **changes})


@asynccontextmanager
async def proxied(sim: Simulator) -> AsyncIterator[Proxy]:
    """Serve a simulator as two https hosts that only this proxy can resolve."""
    proxy, context = Proxy(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(API, FILES).configure_cert(context)
    async with AsyncExitStack() as opened:
        for host, origin in ((API, sim.url), (FILES, sim.output_url)):
            proxy.ports[host] = await opened.enter_async_context(listen(urlsplit(origin).port, context))
        server = await opened.enter_async_context(await asyncio.start_server(proxy.serve, "127.0.0.1", 0))
        proxy.url = f"http://me:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sim._world.signer.origin = f"https://{FILES}"
        yield proxy

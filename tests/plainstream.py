"""What the downloader needs of a transport, over aiohttp alone: for programs that must start fast."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import aiohttp
import attrs
from yarl import URL

from soundpiece_async._core.errors import TransportError


@attrs.frozen
class Stream:
    """As the transport's."""

    status: int
    headers: Mapping[str, str]
    blocks: AsyncIterator[bytes]


class Opener(Protocol):
    """Opens a URL."""

    def __call__(self, url: str, *, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Stream]:
        """Send the GET; leaving the context closes the connection."""


@asynccontextmanager
async def plain_stream(*, read: float = 5.0) -> AsyncGenerator[Opener]:
    """Give a callable that opens URLs; ``read`` is in seconds without a byte."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=read)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:

        @asynccontextmanager
        async def stream(url: str, *, headers: Mapping[str, str]) -> AsyncGenerator[Stream]:
            try:
                async with session.get(URL(url, encoded=True), headers=headers) as response:
                    names = {name.lower(): value for name, value in response.headers.items()}
                    yield Stream(response.status, names, read_blocks(response))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise TransportError(f"no usable answer: {error!r}") from error

        yield stream


async def read_blocks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        while block := await response.content.readany():
            yield block
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TransportError(f"the stream broke: {error!r}") from error

"""Requests as callers pass them: any iterable of either kind, with or without the names of their files."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import TypeAlias, TypeVar

from soundpiece_async._core.requests import Request

R = TypeVar("R", bound=Request)
T = TypeVar("T")
Named: TypeAlias = R | tuple[R, str | None]
"""A request, or a pair of a request and the name of its files."""
Requests: TypeAlias = Iterable[Named[R]] | AsyncIterable[Named[R]]


def split_name(item: Named[R]) -> tuple[R, str | None]:
    """Return a request and its name; what is neither is refused where requests are checked."""
    match item:
        case (request, str() | None as name):
            return request, name
    return item, None


@asynccontextmanager
async def open_requests(requests: Requests[R]) -> AsyncGenerator[AsyncIterator[Named[R]]]:
    """Read either kind; a generator is closed at the end, because nobody else can know when that is."""
    try:
        if isinstance(requests, AsyncIterable):
            yield aiter(requests)
        else:
            async with aclosing(_walk(requests)) as walked:
                yield walked
    finally:
        if isinstance(requests, AsyncGenerator):
            await requests.aclose()
        elif isinstance(requests, Generator):
            requests.close()


async def _walk(requests: Iterable[T]) -> AsyncGenerator[T]:
    for request in requests:
        yield request

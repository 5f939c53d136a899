"""The one door to the network; the only client file that imports aiohttp.

Two sessions of aiohttp, because the key must never reach the output host: one carries it and knows only the API's
origin, the other is bare. Neither limits connections by itself: a shared pool lets long polls stop every submit
(measured), so the limits are ours, one for each kind of request.
"""

import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Self, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
import anyio
import attrs
from yarl import URL

from soundpiece_async._core import pacing
from soundpiece_async._core.errors import RateLimited, SoundpieceError, TransportError, redact
from soundpiece_async._core.pacing import Turn
from soundpiece_async._core.settings import Settings
from soundpiece_async._core.wire import Answer, Call
from soundpiece_async._pacer import Pacer

T = TypeVar("T")

logger = logging.getLogger("soundpiece_async.transport")

MOST_REDIRECTS = 5
BACKOFF_BASE = 0.5
BACKOFF_CAP = 20.0
"""Seconds between attempts without a usable answer: doubled each time, up to the cap, with jitter."""
SKEW_EVERY = 60.0
"""Seconds between two looks at the service's clock."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@attrs.frozen
class Stream:
    """An answer of the output host: status, headers (names in lower case), and the body in the blocks it arrives in."""

    status: int
    headers: Mapping[str, str]
    blocks: AsyncIterator[bytes]


class Transport:
    """Sends what ``wire`` describes. Open it inside the event loop that uses it.

    Args:
        settings: origin, key, limits, timeouts and retry rules.
        trace_configs: passed through to aiohttp, so that instrumentation (OpenTelemetry's, for one) works.
    """

    def __init__(self, settings: Settings, *, trace_configs: Iterable[aiohttp.TraceConfig] = ()) -> None:
        self.pacer = Pacer(ceiling=settings.limits.requests_per_second)
        self.polls_out = 0
        self._skew = timedelta()
        self._skew_read = -SKEW_EVERY
        self._settings = settings
        self._traces = list(trace_configs)
        self._submits = anyio.CapacityLimiter(settings.limits.submits)
        self._reads = anyio.CapacityLimiter(settings.limits.submits)
        self._api: aiohttp.ClientSession | None = None
        self._outputs: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Transport {self._settings.base_url} submits={self.submits_out} polls={self.polls_out} {self.pacer!r}>"

    @property
    def now(self) -> datetime:
        """The time by the service's clock, as far as its ``Date`` headers tell; expiry is meant by that clock."""
        return datetime.now(UTC) + self._skew

    @property
    def submits_out(self) -> int:
        """PUTs holding a slot now."""
        return self._submits.borrowed_tokens

    async def __aenter__(self) -> Self:
        """Make the two sessions; nothing is sent."""
        agent = f"soundpiece-async/{version('soundpiece-async')} aiohttp/{aiohttp.__version__}"
        self._api = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={
                "Authorization": f"Bearer {self._settings.api_key}",
                "Accept": "application/json",
                "User-Agent": agent,
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=self._traces,
        )
        self._outputs = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"User-Agent": agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=self._traces,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close both sessions and every connection of theirs."""
        with anyio.CancelScope(shield=True):
            await _opened(self._api).close()
            await _opened(self._outputs).close()

    async def ask(
        self, call: Call, *, turn: Turn, read: Callable[[Answer], T], check: Callable[[], None] = lambda: None
    ) -> T:
        """Send a call until it is answered for good: the one place where submits and single reads are tried again.

        The same bytes every time. Connection faults, timeouts, 5xx and a 2xx that is no JSON use up
        ``RetryRules.submit_for``; a 429 does not, the gate waits for it.

        Args:
            call: what to send.
            turn: who goes first at the gate; submits have slots of their own.
            read: makes the result of an answer, or raises what it stands for.
            check: called when it is this call's turn to be sent; may raise, and nothing is sent.

        Raises:
            SoundpieceError: what ``read`` makes of the answer; retryable ones only when the budget is used up.
        """
        slots = self._submits if turn is Turn.SUBMIT else self._reads
        attempts, spent = 0, 0.0
        while True:
            started = anyio.current_time()
            try:
                async with slots:
                    ticket = await self.pacer.take(turn)
                    started = anyio.current_time()  # again: no time in our own queues counts
                    return read(await self._exchange(call, ticket, check, timeout=self._settings.timeouts.submit))
            except RateLimited:
                continue  # the gate is closed now, and waiting in it is the whole answer to a 429
            except SoundpieceError as error:
                if not error.retryable:
                    raise
                spent += anyio.current_time() - started
                delay = pacing.backoff(attempts, base=BACKOFF_BASE, cap=BACKOFF_CAP, jitter=random.random())  # noqa: S311 - spreads requests, guards nothing
                attempts, spent = attempts + 1, spent + delay
                if spent > self._settings.retries.submit_for:
                    error.add_note(
                        f"gave up after {attempts} attempts; sent again, the same object is one piece of work"
                    )
                    raise
                logger.info("%s: trying again in %.1f s: %s", call, delay, error)
            await anyio.sleep(delay)

    async def poll(self, call: Call, ticket: pacing.Ticket) -> Answer:
        """Send one poll with a permit already taken; a failure is the scheduler's to repeat."""
        self.polls_out += 1
        try:
            return await self._exchange(call, ticket, lambda: None, timeout=self._settings.timeouts.poll)
        finally:
            self.polls_out -= 1

    async def _exchange(
        self, call: Call, ticket: pacing.Ticket, check: Callable[[], None], *, timeout: float
    ) -> Answer:
        """Put one attempt on the wire, and tell the gate what became of it."""
        session = _opened(self._api)
        limits = aiohttp.ClientTimeout(
            total=None,
            connect=self._settings.timeouts.connect,
            sock_connect=self._settings.timeouts.connect,
            sock_read=timeout,
        )
        headers = {"Content-Type": "application/json"} if call.body is not None else None
        url = URL(self._settings.base_url + call.target, encoded=True)
        sent = False
        try:
            check()
            sent = True
            async with session.request(
                call.method, url, data=call.body, headers=headers, timeout=limits, allow_redirects=False
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.pacer.unanswered(ticket)
            raise _no_answer(str(call), error) from _safe_cause(error)
        except BaseException:  # cancelled, or refused by the check
            self.pacer.give_back(ticket, sent=sent)
            raise
        answer = self._scrub(Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, body))
        self._read_clock(answer.headers.get("date"))
        wait = pacing.retry_after(answer.headers.get("retry-after"), date=answer.headers.get("date"))
        self.pacer.answered(ticket, status=answer.status, retry_after=wait)
        logger.debug("%s: status %s, %d bytes", call, answer.status, len(body))
        return answer

    def _scrub(self, answer: Answer) -> Answer:
        """Take the key out of an answer that repeats it, before any of it can reach an exception or a log."""
        key = self._settings.api_key
        if key.encode() not in answer.body and not any(key in value for value in answer.headers.values()):
            return answer
        return Answer(
            answer.status,
            {name: value.replace(key, "spk_…") for name, value in answer.headers.items()},
            answer.body.replace(key.encode(), "spk_…".encode()),
        )

    def _read_clock(self, date: str | None) -> None:
        if date is None or anyio.current_time() - self._skew_read < SKEW_EVERY:
            return
        try:
            skew = parsedate_to_datetime(date) - datetime.now(UTC)
        except (ValueError, TypeError):  # junk, or a date without a zone
            return
        self._skew_read = anyio.current_time()
        self._skew = skew if abs(skew) > timedelta(seconds=2) else timedelta()  # a Date has whole seconds

    @asynccontextmanager
    async def stream(self, url: str, *, headers: Mapping[str, str] | None = None) -> AsyncGenerator[Stream]:
        """Open a signed URL, exactly as it is given, without the key.

        Redirects are followed within http(s), never from https to http.

        Raises:
            TransportError: no usable answer, or the stream broke while ``blocks`` were read.
        """
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=self._settings.timeouts.connect,
            sock_connect=self._settings.timeouts.connect,
            sock_read=self._settings.timeouts.read,
        )
        what = f"GET {redact(url)}"
        try:
            for _ in range(MOST_REDIRECTS + 1):
                async with _opened(self._outputs).get(
                    URL(url, encoded=True), headers=headers, timeout=timeout, allow_redirects=False
                ) as response:
                    target = response.headers.get("Location") if response.status in REDIRECTS else None
                    if target is None:
                        names = {k.lower(): v for k, v in response.headers.items()}
                        yield Stream(response.status, names, _read_blocks(response, what))
                        return
                    url = _follow(url, target)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _no_answer(what, error) from _safe_cause(error)
        raise TransportError(f"{what}: more than {MOST_REDIRECTS} redirects")


async def _read_blocks(response: aiohttp.ClientResponse, what: str) -> AsyncIterator[bytes]:
    try:
        while block := await response.content.readany():
            yield block
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _no_answer(what, error) from _safe_cause(error)


def _follow(url: str, target: str) -> str:
    """Give the address a redirect leads to, if it is one we may go to."""
    following = urljoin(url, target)
    scheme = urlsplit(following).scheme
    if scheme not in ("http", "https") or (scheme == "http" and urlsplit(url).scheme == "https"):
        raise TransportError(f"GET {redact(url)}: refusing a redirect to {redact(following)}")
    return following


def _opened(session: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    if session is None:
        raise RuntimeError("the transport is not open")
    return session


def _no_answer(what: str, error: Exception) -> TransportError:
    why = "timed out" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | ValueError):
        why = type(error).__name__  # their text holds the whole URL, or the headers sent
    return TransportError(f"{what}: no usable answer: {why}")


def _safe_cause(error: Exception) -> Exception | None:
    """Leave out of the chain what would show a signed URL or the key in a traceback."""
    return None if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | ValueError) else error

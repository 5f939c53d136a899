"""Connects a session to the store of its account: queries it for the shared gate, and listens for messages."""

import random
from contextlib import suppress
from time import monotonic

import anyio

from soundpiece_async._core.errors import SharedStoreError
from soundpiece_async._core.rate_control import describe_rate
from soundpiece_async._core.shared_gate import SharedPace
from soundpiece_async._logs import get_logger
from soundpiece_async._pacer import Pacer
from soundpiece_async._shared.news import News
from soundpiece_async._shared.store import GATE, Store

logger = get_logger("shared")

FIRST_SECONDS = 5.0
"""The longest time that the start of a session waits for the store's first response."""
PAUSE, PAUSE_MOST = 0.1, 1.0
"""Seconds between two attempts to connect to an unavailable store, doubled each time."""


class Link:
    """One per session that shares its account's gate; ``run`` is a child of the session's root task.

    Args:
        store: the shared store; not opened yet.
        pace: the state of the shared gate.
        pacer: its requests wait for permits.
        news: results to publish and to read.
    """

    def __init__(self, store: Store, *, pace: SharedPace, pacer: Pacer, news: News) -> None:
        self._store = store
        self._pace = pace
        self._pacer = pacer
        self._news = news
        self._tried = anyio.Event()
        self._reached = False
        self._pause = PAUSE

    def __repr__(self) -> str:
        return f"<Link {self._store!r} {self._pace!r} {self._news!r}>"

    async def connect(self) -> None:
        """Wait until the store has answered or failed: until then the rate is that of an unknown limit."""
        with anyio.move_on_after(FIRST_SECONDS):
            await self._tried.wait()

    async def run(self) -> None:
        """Stay connected until cancelled; the connection to an unavailable store is retried."""
        try:
            await self._keep_serving()
        finally:
            with anyio.CancelScope(shield=True):
                if not self._pace.away:
                    with suppress(SharedStoreError):
                        await self._store.depart()
                await self._store.close()

    async def _keep_serving(self) -> None:
        while True:
            try:
                await self._serve()
            except* SharedStoreError as errors:
                self._lose(_find_first(errors))
            self._tried.set()
            await self._store.close()
            await anyio.sleep(self._pause * (0.5 + random.random()))
            self._pause = min(2 * self._pause, PAUSE_MOST)

    async def _serve(self) -> None:
        """Connect, and serve until the store fails."""
        await self._store.open()
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            group.start_soon(self._news.serve, self._store)
            await self._ask()

    async def _ask(self) -> None:
        """Send the queries of the shared gate to the store."""
        gate = self._pacer.gate
        while True:
            now = monotonic()
            action = self._pace.next_action(now, waiting=gate.waiting, since=gate.waiting_since)
            if action is None:
                with anyio.move_on_after(max(0.0, self._pace.next_wakeup(now) - now)):
                    await self._pacer.wait_for_change()
                continue
            seen = await self._store.perform(action)
            after = monotonic()
            if self._pace.away:
                self._greet()
            self._pace.answer(action, seen, now=after, took=after - now)
            if seen.closed:
                gate.close(after + seen.closed)
            self._tried.set()
            self._pacer.wake()

    async def _listen(self) -> None:
        """Read the messages of the other processes."""
        while True:
            message = await self._store.next_message()
            if message == GATE:
                self._pace.alarm()
                self._pacer.wake()
            else:
                self._news.note(message)

    def _greet(self) -> None:
        self._pause = PAUSE
        self._news.seek_all()
        if self._reached:
            logger.info("%r is available again", self._store)
        self._reached = True

    def _lose(self, error: SharedStoreError) -> None:
        """Continue without the store; log one warning per outage."""
        first = not (self._pace.away and self._tried.is_set())
        self._pace.lose(monotonic(), jitter=random.random())
        self._pacer.wake()
        if not first:
            return
        if not self._reached:
            goes = f"has not answered yet, so this process sends at most {describe_rate(self._pace.rate)}"
        elif self._pace.rate is None:
            goes = "is unavailable, and no limit is known: this process continues without it"
        else:
            goes = f"is unavailable, so this process sends at most {describe_rate(self._pace.rate)}"
        logger.warning("the shared store %s; retrying: %s", goes, error)


def _find_first(errors: BaseExceptionGroup[SharedStoreError]) -> SharedStoreError:
    """Return one of the errors; when a store fails, each of its tasks raises one."""
    error = errors.exceptions[0]
    return _find_first(error) if isinstance(error, BaseExceptionGroup) else error

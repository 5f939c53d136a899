"""Keeps a session in touch with the others of its account: connects, asks what the pace wants to know, and listens."""

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
"""For which the start of a session waits for the store's first answer, at most."""
PAUSE, PAUSE_MOST = 0.1, 1.0
"""Seconds between two attempts to reach a store that is away, doubled each time."""


class Link:
    """One per session that shares its account's gate; ``run`` is a child of the session's root task.

    Args:
        store: where the processes meet; not opened yet.
        pace: what is known of the gate there.
        pacer: whose requests wait for permits.
        news: to be told, and sought.
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

    async def meet(self) -> None:
        """Wait until the store has answered, or has failed to: a newcomer's pace is that of one who knows nothing."""
        with anyio.move_on_after(FIRST_SECONDS):
            await self._tried.wait()

    async def run(self) -> None:
        """Stay in touch until cancelled; a store that is away is tried again and again."""
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
            await anyio.sleep(self._pause * (0.5 + random.random()))  # noqa: S311 - spreads attempts
            self._pause = min(2 * self._pause, PAUSE_MOST)

    async def _serve(self) -> None:
        """Connect, and do all that there is to do until the store fails."""
        await self._store.open()
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            group.start_soon(self._news.serve, self._store)
            await self._ask()

    async def _ask(self) -> None:
        """Ask the store whatever the pace wants to know."""
        gate = self._pacer.gate
        while True:
            now = monotonic()
            action = self._pace.next_action(now, waiting=gate.waiting, since=gate.waiting_since)
            if action is None:
                with anyio.move_on_after(max(0.0, self._pace.wakes_at(now) - now)):
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
        """Hear what the others have to say."""
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
            logger.info("%r is back", self._store)
        self._reached = True

    def _lose(self, error: SharedStoreError) -> None:
        """Go on without the store; one warning for each time that it goes away."""
        first = not (self._pace.away and self._tried.is_set())
        self._pace.lose(monotonic(), jitter=random.random())  # noqa: S311 - spreads requests
        self._pacer.wake()
        if not first:
            return
        if not self._reached:
            goes = f"has not answered yet, so this process sends at most {describe_rate(self._pace.rate)}"
        elif self._pace.rate is None:
            goes = "is away, and no limit is known: this process goes on as without it"
        else:
            goes = f"is away, so this process sends at most {describe_rate(self._pace.rate)}"
        logger.warning("the shared store %s; it is tried again and again: %s", goes, error)


def _find_first(errors: BaseExceptionGroup[SharedStoreError]) -> SharedStoreError:
    """Return one of the errors; when a store goes away, all who use it have one."""
    error = errors.exceptions[0]
    return _find_first(error) if isinstance(error, BaseExceptionGroup) else error

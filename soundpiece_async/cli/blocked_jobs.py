"""The blocked jobs of a run in its journal: a page at a time, so that memory does not grow with their number."""

from collections.abc import AsyncGenerator

from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._journal.store import JobStore

PAGE_JOBS = 500
"""Blocked jobs that are in memory at a time."""
_PAGES = "blocked_pages"


class BlockedJobs:
    """Records the blocked jobs of one run, in place of those of the run before.

    Args:
        store: of the journal; None: nothing is recorded, as by one of several processes of a run.
    """

    def __init__(self, store: JobStore | None) -> None:
        self._store = store
        self._page: list[JsonObject] = []
        self._pages = 0

    def __repr__(self) -> str:
        return f"<BlockedJobs pages={self._pages} pending={len(self._page)}>"

    async def add(self, job: JsonObject) -> None:
        """Add a job; a full page is written."""
        if self._store is None:
            return
        self._page.append(job)
        if len(self._page) == PAGE_JOBS:
            await self.flush()

    async def flush(self) -> None:
        """Record the jobs of the last page, and how many pages there are."""
        if self._store is None:
            return
        pages = {_page_name(self._pages): self._page} if self._page else {}
        self._pages, self._page = self._pages + len(pages), []
        await self._store.save_run_info(**{**pages, _PAGES: self._pages})


async def read_blocked_jobs(store: JobStore) -> AsyncGenerator[list[JsonObject]]:
    """Yield the blocked jobs of the latest run, page by page."""
    pages = (await store.load_run_info(_PAGES)).get(_PAGES)
    for number in range(pages if isinstance(pages, int) else 0):
        name = _page_name(number)
        yield (await store.load_run_info(name))[name]


def _page_name(number: int) -> str:
    return f"blocked_{number}"

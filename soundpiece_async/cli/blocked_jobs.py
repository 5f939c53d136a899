"""The blocked jobs of a run in its journal: a page at a time, so that memory does not grow with their number.

Each process of a run records those of its part, and the number of parts, by which the parts of the latest split are
found: those of earlier splits are not read any more.
"""

from collections.abc import AsyncGenerator

from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._journal.store import JobStore

PAGE_JOBS = 500
"""Blocked jobs that are in memory at a time."""
_PARTS = "blocked_parts"


class BlockedJobs:
    """Records the blocked jobs of one part of a run, in place of those of the run before.

    Args:
        store: of the journal.
        part: ``(k, n)``: the k-th of n parts of the jobs file.
    """

    def __init__(self, store: JobStore, *, part: tuple[int, int]) -> None:
        self._store = store
        self._part, self._parts = part
        self._page: list[JsonObject] = []
        self._pages = 0

    def __repr__(self) -> str:
        return f"<BlockedJobs {self._part}/{self._parts} pages={self._pages} pending={len(self._page)}>"

    async def add(self, job: JsonObject) -> None:
        """Add a job; a full page is written."""
        self._page.append(job)
        if len(self._page) == PAGE_JOBS:
            await self.flush()

    async def flush(self) -> None:
        """Record the jobs of the last page, and how many pages there are."""
        name = _part_name(self._part, self._parts)
        pages = {f"{name}_{self._pages}": self._page} if self._page else {}
        self._pages, self._page = self._pages + len(pages), []
        await self._store.save_run_info(**pages, **{name: self._pages, _PARTS: self._parts})


async def read_blocked_jobs(store: JobStore) -> AsyncGenerator[list[JsonObject]]:
    """Yield the blocked jobs of the latest run, page by page."""
    known = (await store.load_run_info(_PARTS)).get(_PARTS)
    parts = known if isinstance(known, int) else 0
    names = [_part_name(part, parts) for part in range(1, parts + 1)]
    counts = await store.load_run_info(*names) if names else {}
    for name in names:
        pages = counts.get(name)
        for number in range(pages if isinstance(pages, int) else 0):
            page = f"{name}_{number}"
            yield (await store.load_run_info(page))[page]


def _part_name(part: int, parts: int) -> str:
    return f"blocked_{part}_of_{parts}"

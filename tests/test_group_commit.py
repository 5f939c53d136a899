"""What many callers write is collected into few commits, and nobody waits for what will not come."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import attrs
import pytest
from helpers.idle import until

from soundpiece_async._journal import group_commit
from soundpiece_async._journal.group_commit import GroupCommit
from soundpiece_async._locks import KeyedLocks

pytestmark = pytest.mark.anyio


@attrs.define
class Writer:
    """Callers with one job each, and the groups that were written for them."""

    stack: AsyncExitStack
    groups: list[list[str]] = attrs.field(factory=list)
    at_work: KeyedLocks = attrs.field(factory=KeyedLocks)
    commit: GroupCommit[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.commit = GroupCommit(self._write, self.at_work)

    async def _write(self, steps: list[str], _: bool) -> list[Any]:  # noqa: FBT001 - as a store writes
        await anyio.lowlevel.checkpoint()
        self.groups.append(steps)
        return [step.upper() for step in steps]

    async def begin(self, jobs: int) -> None:
        """Have so many jobs at work."""
        for number in range(jobs):
            await self.stack.enter_async_context(self.at_work.acquire(number))


@pytest.fixture
async def writer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Writer]:
    """A writer whose interval is never over by itself; one group was written already."""
    monkeypatch.setattr(group_commit, "INTERVAL", 1000.0)
    async with AsyncExitStack() as stack:
        made = Writer(stack)
        assert await made.commit.execute("first") == "FIRST"
        yield made


async def test_alone_a_caller_waits_for_nobody(writer: Writer) -> None:
    """Nor does the only one that has something to write, as often as it comes."""
    await writer.begin(1)
    for step in "ab":
        assert await writer.commit.execute(step) == step.upper()
    assert writer.groups == [["first"], ["a"], ["b"]]


async def test_a_group_is_written_when_all_jobs_wait_for_it(writer: Writer) -> None:
    """And not before: the others may have something to add."""
    await writer.begin(4)
    async with anyio.create_task_group() as group:
        for step in "abc":
            group.start_soon(writer.commit.execute, step)
        await anyio.wait_all_tasks_blocked()
        assert len(writer.groups) == 1
        assert await writer.commit.execute("d") == "D"
    assert writer.groups[1:] == [["a", "b", "c", "d"]]


async def test_submits_do_not_wait_long(writer: Writer) -> None:
    """Half of those that may be on their way are enough: nobody else can send anything meanwhile."""
    await writer.begin(100)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.commit.execute, "ready")
        for step in ("one", "two", "three"):
            group.start_soon(lambda step=step: writer.commit.execute(step, submits=6))
        await until(lambda: len(writer.groups) == 2)
    assert writer.groups[1:] == [["ready", "one", "two", "three"]]


async def test_the_last_jobs_of_many_are_collected_as_those_were(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is how many there have been lately, for as long as any other job could come."""
    await writer.begin(100)
    monkeypatch.setattr(group_commit, "INTERVAL", 1e-6)
    await writer.commit.execute("many")
    await writer.stack.aclose()
    await writer.begin(2)
    monkeypatch.setattr(group_commit, "INTERVAL", 20.0)  # for two jobs alone it would be over
    async with anyio.create_task_group() as group:
        group.start_soon(writer.commit.execute, "a")
        await anyio.wait_all_tasks_blocked()
        assert writer.groups[2:] == []
        await writer.commit.execute("b")
    assert writer.groups[1:] == [["many"], ["a", "b"]]

"""What must not be left half done is done to its end, whoever cancels."""

from collections.abc import Awaitable, Callable

import anyio


async def see_through(work: Callable[[], Awaitable[None]]) -> None:
    """Do work that must not be left half done: a cancellation goes on only when it has ended.

    A shield alone does not hold against asyncio's own ``task.cancel()``, but that never hits a task group's child.
    """
    faults: list[Exception] = []

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - raised again below, without a group around it
                faults.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(shielded)
    if faults:
        raise faults[0]

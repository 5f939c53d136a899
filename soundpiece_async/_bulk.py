"""Runs many requests at once: reads them no faster than results are taken, and yields results as they complete."""

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import anyio
import anyio.lowlevel
import attrs
from anyio.abc import TaskGroup

from soundpiece_async._core.containment import contain
from soundpiece_async._core.errors import JournalError, SessionClosed, SoundpieceError
from soundpiece_async._core.requests import Handle, Request
from soundpiece_async._core.results import Failed, Succeeded
from soundpiece_async._download.destinations import Destination
from soundpiece_async._engine import Engine, InFlight, RunFiles
from soundpiece_async._inputs import Named, Requests, open_requests, split_name
from soundpiece_async._lifetime import CancelHandle, StopSignal, run_shielded
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from soundpiece_async._journal.journal import Journal
    from soundpiece_async._journal.recorded_run import RecordedRun

R = TypeVar("R", bound=Request)

logger = get_logger("bulk")


class RunMany(Generic[R]):
    """The results of ``Session.run_many``: enter it, and iterate.

    Its host task is a child of the session's root task; leaving the context cancels and awaits it. So nothing yields
    inside a task group (PEP 789), and errors are not wrapped in groups.
    """

    def __init__(
        self,
        requests: Requests[R],
        *,
        engine: Engine,
        journal: "Journal | None",
        save_to: Destination | None,
        timeout: float | None,
        limit: int,
        ordered: bool,
    ) -> None:
        self._requests = requests
        self._engine = engine
        self._stop = StopSignal()
        self._files = RunFiles(engine, save_to)
        self._timeout = timeout
        self._recorded_run: RecordedRun[R] | None = None
        if journal is not None:
            from soundpiece_async._journal import recorded_run  # a caller with a journal has loaded the rest

            self._recorded_run = recorded_run.RecordedRun(
                journal, engine=engine, stop=self._stop, files=self._files, timeout=timeout
            )
        self._limit = limit
        self._ordered = ordered
        self._jobs: dict[int, InFlight[R]] = {}
        self._results: deque[tuple[int, Succeeded[R] | Failed[R]]] = deque()
        self._out_of_order: dict[int, Succeeded[R] | Failed[R]] = {}
        self._read = self._yielded = 0
        self._fault: BaseException | None = None
        self._reading: CancelHandle | None = None
        self._entered = self._done = False

    def __repr__(self) -> str:
        return f"<RunMany read={self._read} running={len(self._jobs)} yielded={self._yielded}>"

    @property
    def pending(self) -> tuple[Handle, ...]:
        """Handles of the operations that were submitted and have not ended; also after leaving early."""
        return tuple(job.operation.handle for job in self._jobs.values() if job.operation is not None)

    def stop(self, error: SoundpieceError) -> None:
        """Send nothing more; operations in flight finish, and are yielded as usual.

        As after a 401 or 402, each request that was not sent yet gets a ``Failed`` with a copy of ``error``, at once if
        it waits for its turn. Reading goes on: end the iterable, too, to end the run. With a journal, the same run can
        be resumed later.
        """
        self._stop.set(error)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a run_many can be entered only once: call session.run_many again")
        self._entered = True
        self._in_flight_slots = anyio.Semaphore(self._limit)
        self._changed, self._scope = anyio.Event(), anyio.CancelScope()
        await self._engine.check_destination(self._files.to)
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._ended = self._engine.life.start_child(
            self._host
        )  # nothing is awaited from here on: ``__aexit__`` will follow
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel()
        with anyio.CancelScope(shield=True):  # the host was cancelled, and ends by itself
            await run_shielded(self._ended.wait)
        if error is None:
            self._raise_fault()

    def __aiter__(self) -> AsyncIterator[Succeeded[R] | Failed[R]]:
        return self

    async def __anext__(self) -> Succeeded[R] | Failed[R]:
        """Return the next result, and release its slot for the next request.

        Raises:
            SessionClosed: the session was closed meanwhile.
            Exception: the error of the iterable, once the results of all requests in flight were yielded.
        """
        if not self._entered:
            raise RuntimeError("use 'async with session.run_many(...) as results'")
        with self._engine.life.guarded():
            while (result := self._pop_result()) is None:
                if self._done:
                    self._raise_fault()
                    raise StopAsyncIteration
                if self._changed.is_set():  # others may wait for the same event
                    self._changed = anyio.Event()
                await self._changed.wait()
        self._yielded += 1
        self._in_flight_slots.release()
        return result

    async def succeeded(self, on_failure: Callable[[Failed[R]], object]) -> AsyncGenerator[Succeeded[R]]:
        """Iterate over the results that succeeded, in a stage that other stages read from.

        Args:
            on_failure: called with each ``Failed``, as ``failures.append``.
        """
        async for result in self:
            if isinstance(result, Failed):
                on_failure(result)
            else:
                yield result

    def _raise_fault(self) -> None:
        """Raise the error that ended the run, once."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _pop_result(self) -> Succeeded[R] | Failed[R] | None:
        if not self._ordered:
            return self._results.popleft()[1] if self._results else None
        while self._results:
            number, result = self._results.popleft()
            self._out_of_order[number] = result
        return self._out_of_order.pop(self._yielded, None)

    async def _host(self) -> None:
        """Read requests, one slot at a time, and run each in a task of its own; a child of the session's root task."""
        try:
            with self._scope, self._engine.transport.stopping(self._stop):
                async with anyio.create_task_group() as jobs:
                    await self._read_all(jobs)
        finally:
            self._done = True
            self._changed.set()

    async def _read_all(self, jobs: TaskGroup) -> None:
        """Read until the end, or until the run is left or the session closed.

        The iterable is the caller's: it is cancelled once, as asyncio does it, and its cleanup is not interrupted.
        """
        with anyio.CancelScope(shield=True):
            try:
                async with open_requests(self._requests) as requests:
                    await self._read_until_cancelled(requests, jobs)
            except BaseException as fault:  # noqa: BLE001 - what closing the iterable raises is the caller's, a cancellation too
                self._fault = self._fault or fault

    async def _read_until_cancelled(self, requests: AsyncIterator[Named[R]], jobs: TaskGroup) -> None:
        with suppress(SessionClosed), self._engine.life.cancellable() as reading:
            self._reading = reading
            try:
                if not self._scope.cancel_called:  # as it is when the run was left before this task had its first turn
                    await self._read_each(requests, jobs, reading)
            finally:
                self._reading = None

    async def _read_each(self, requests: AsyncIterator[Named[R]], jobs: TaskGroup, reading: CancelHandle) -> None:
        while True:
            await self._in_flight_slots.acquire()
            try:
                request, name = split_name(await anext(requests))
            except StopAsyncIteration:
                return
            except BaseException as fault:
                if reading.cancelled:
                    raise
                self._fault = fault  # also a cancellation: of something that the iterable waited for
                return
            if reading.cancelled:
                return  # the iterable would go on as if nothing had happened
            job = self._jobs[self._read] = InFlight(request, name)
            jobs.start_soon(self._run, self._read, job)
            self._read += 1

    def _cancel(self) -> None:
        """Cancel the jobs, and the reading."""
        self._scope.cancel()
        if self._reading is not None:
            self._reading.cancel()

    async def _run(self, number: int, job: InFlight[R]) -> None:
        try:
            result = await self._complete(job)
        except Exception as fault:  # noqa: BLE001 - the journal's, or a fault of ours: ends this run, and not the session
            self._fault = fault
            self._cancel()
            return
        del self._jobs[number]
        self._results.append((number, result))
        self._changed.set()

    async def _complete(self, job: InFlight[R]) -> Succeeded[R] | Failed[R]:
        """Run a job, and return its failure instead of raising it; an error that concerns all of them stops the run."""
        try:
            result = await (self._submit(job) if self._recorded_run is None else self._recorded_run.run(job))
            return result if job.name is None else attrs.evolve(result, name=job.name)
        except Exception as fault:
            known = job.operation
            what = getattr(job.request, "route", "request") if known is None else str(known.handle)
            error, unexpected = contain(fault, what=what)
            if unexpected:
                logger.log(logging.ERROR, "%s", error, exc_info=error.__cause__)
        if isinstance(error, JournalError) and error.ends_run:  # a run that cannot be recorded must end
            raise error
        if error.stops_run:
            self._stop.set(error)
        operation = error.operation or known
        return Failed(request=job.request, operation=operation, error=error.about(operation=known), name=job.name)

    async def _submit(self, job: InFlight[R]) -> Succeeded[R]:
        """Submit, wait and download."""
        self._stop.check()
        job.operation = await self._engine.submit(job.request, stop=self._stop)
        operation = await self._engine.wait(job.operation, timeout=self._timeout)
        name = self._files.choose_name(operation, job.name)
        files = await self._files.save(operation, name=name)
        return Succeeded(request=job.request, operation=operation, files=files)

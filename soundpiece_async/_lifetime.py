"""Tasks and how they end: a session's lifetime, cancelling, timeouts, shielding, StopSignal.

A session has one root task, so that it may be opened in one task and closed in another. No cancel scope spans
``start`` and ``close``. Background work runs in children of the root task; calls run in the caller's own task, inside
``guarded`` or ``cancellable``, and are cancelled there when the session closes.

This is the only file that imports asyncio, apart from the command line and the simulator. Every submit can be ended by
a timeout and by the closing of its session. A scope of anyio for the one and a timer of aiohttp for the other took a
fifth of its time, so a ``CancelHandle`` does what ``asyncio.timeout`` does, and a ``TimeoutQueue`` has one timer for
all calls of the same length. Unlike scopes they have no nesting and no shielding.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context, ContextVar
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

import anyio

from soundpiece_async._core.errors import AuthenticationError, SessionClosed, SoundpieceError, copy_error, detach
from soundpiece_async._logs import get_logger

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

T = TypeVar("T")
U = TypeVar("U")

Task: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
Child: TypeAlias = "asyncio.Task[None]"
Waiter: TypeAlias = "asyncio.Future[None]"

logger = get_logger("lifetime")

NOT_OPEN = "the session is not open: use 'async with Session() as session', or await session.start()"

_CHILD: ContextVar[object] = ContextVar("the child of a soundpiece session that this task is, or came from")


class CancelHandle:
    """A ``with`` around a call of the running task; ``cancel`` ends it by ``raising``, and nothing else of the task.

    Args:
        leave: called at the end.
        raising: makes the error that is raised after ``cancel``.
    """

    __slots__ = ("_before", "_leave", "_raising", "_task", "cancelled")

    def __init__(self, leave: "Callable[[CancelHandle], object]", raising: Callable[[], Exception]) -> None:
        self._leave, self._raising = leave, raising
        self.cancelled: bool = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for type checkers: this runs in a task
        self._task, self._before = task, task.cancelling()
        return self

    def cancel(self) -> None:
        """Cancel the call at its current await; twice is allowed."""
        if not self.cancelled:
            self.cancelled = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._leave(self)
        if self.cancelled and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise self._raising() from None  # its frames are aiohttp's


class TimeoutQueue:
    """Raises TimeoutError in every call of the running event loop that takes longer than ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[CancelHandle, float] = {}  # the oldest first
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None

    def __repr__(self) -> str:
        return f"<TimeoutQueue {self._seconds:g} s for {len(self._due)} calls>"

    def start(self) -> CancelHandle:
        """Return the context of one call, whose time begins now."""
        call = CancelHandle(self._leave, TimeoutError)
        self._due[call] = due = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._on_timer)
        return call

    def _leave(self, call: CancelHandle) -> None:
        del self._due[call]
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        """Wait one more turn: after the loop was blocked, or stopped, what came meanwhile is handled first."""
        self._timer = self._loop.call_soon(self._end_due)

    def _end_due(self) -> None:
        self._timer = None
        for call, due in self._due.items():
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self._on_timer)
                break
            call.cancel()


class ChildTasks:
    """Plain tasks, children of the task that enters it: each takes 2 KiB less than one of a task group.

    1. A child that is cancelled before its first step runs none of its code: ``ended`` is called all the same.
    2. An error of a child ends the parent by that error. Leaving cancels all children, and waits for them.
    """

    def __init__(self) -> None:
        self._tasks: set[Child] = set()
        self._fault: BaseException | None = None

    def __repr__(self) -> str:
        return f"<ChildTasks {len(self._tasks)}>"

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for type checkers: this runs in a task
        self._parent = task
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(self._tasks)
        if self._fault is not None:
            raise self._fault from None

    def start(self, work: Coroutine[Any, Any, None], ended: Callable[..., object], *about: object) -> Child:
        """Start a child in the current context; ``ended`` is called with ``about`` once it has ended."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_end, ended, *about))
        return task

    def _on_end(self, ended: Callable[..., object], *about: Any) -> None:
        *args, task = about
        self._tasks.discard(task)
        ended(*args)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self._parent.cancel()


def make_waiter() -> Waiter:
    """Return what one task waits for, until another calls ``wake``: a tenth of an event, which has a queue."""
    return asyncio.get_running_loop().create_future()


def wake(waiters: Iterable[Waiter]) -> None:
    """End the wait of each."""
    for waiter in waiters:
        if not waiter.done():  # cancelled in this turn
            waiter.set_result(None)


def call_later(seconds: float, call: Callable[[], object]) -> Callable[[], None]:
    """Schedule a call after so many seconds; return the function that cancels it."""
    return asyncio.get_running_loop().call_later(seconds, call).cancel


async def run_shielded(work: Callable[[], Awaitable[None]]) -> None:
    """Run work to its end, even if the caller is cancelled; the cancellation is raised afterwards.

    A shield alone does not stop asyncio's own ``task.cancel()``, but that never reaches a child of a task group.
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


async def overlap(first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[U]]) -> tuple[T, U]:
    """Run two calls at the same time, the second one in this task, and return what both return.

    Raises:
        Exception: the error of one of them, not in a group; the other one was cancelled.
    """
    results: list[T] = []
    others: list[U] = []

    async def run_first() -> None:
        results.append(await first())

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(run_first)
            others.append(await second())
    except ExceptionGroup as several:
        (fault, *_) = several.exceptions
    else:
        return results[0], others[0]
    raise fault


class Lifetime:
    """The lifetime of a session: started once, closed once. It needs asyncio itself: anyio's tasks all have a scope."""

    def __init__(self) -> None:
        self.closed: bool = False
        self._stopping = False  # the root task has ended, or is about to
        self._root: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: TaskGroup | None = None
        self._calls: set[anyio.CancelScope | CancelHandle] = set()
        self._children: dict[object, anyio.Event] = {}

    def __repr__(self) -> str:
        state = "closed" if self.closed else "not started" if self._root is None else "open"
        return f"<Lifetime {state} calls={len(self._calls)}>"

    @property
    def started(self) -> bool:
        """True from the first ``start`` on."""
        return self._root is not None

    def check_new(self) -> None:
        """Raise ``SessionClosed`` if it was started, or closed, before."""
        if self._root is not None or self.closed:
            raise SessionClosed("a session can be started only once: create a new one")

    async def start(self, resources: AbstractAsyncContextManager[object], *background: Task) -> None:
        """Start the root task in the running loop; until ``close`` it holds ``resources`` open and runs ``background``.

        They run in an empty context: the session may outlive the tracing span or the request that opened it by days.
        """
        self._loop = asyncio.get_running_loop()
        self._stop, self._idle, opened = anyio.Event(), anyio.Event(), anyio.Event()
        live = self._run(resources, background, opened)
        self._root = asyncio.create_task(live, name="soundpiece session", context=Context())
        try:
            await opened.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise
        if self._group is None:
            self.closed = True
            self._root.result()  # raises the error that kept it from opening

    async def close(self) -> None:
        """End the root task, cancel every call, and wait until they have ended. A second close waits for the first.

        Raises:
            SessionClosed: called from another event loop or one of the session's own tasks, or the root task failed.
        """
        if self._root is None:
            self.closed = True
            return
        self._check_loop()
        if _CHILD.get(None) in self._children:
            raise SessionClosed("cannot close the session from one of its own tasks (deadlock)")
        if not self.closed:
            self.closed, self._idle = True, anyio.Event()
        self._stop.set()
        self._cancel_calls()
        with anyio.CancelScope(shield=True):  # here as well, or a cancelled scope would replace the body's error
            await run_shielded(partial(self._await_end, self._root))
        if not self._root.cancelled() and (fault := self._root.exception()) is not None:
            raise SessionClosed(f"the session ended by an internal error: {fault!r}") from fault

    async def _await_end(self, root: "asyncio.Task[None]") -> None:
        """Wait until the root task and every call have ended; they were cancelled before."""
        await asyncio.wait((root,))
        if self._calls:
            await self._idle.wait()

    def check(self) -> "TaskGroup":
        """Return the root's task group; ``SessionClosed`` unless it is open, and open in the running event loop."""
        group = self._group
        if group is None or self.closed or self._stopping:
            raise SessionClosed(NOT_OPEN if self._root is None and not self.closed else "the session is closed")
        self._check_loop()
        return group

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Run a call of the session: raise ``SessionClosed`` unless it is open, and when it closes meanwhile."""
        self.check()
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                yield
            finally:
                self._leave(scope)
        if scope.cancelled_caught:
            raise _closed_meanwhile()

    def cancellable(self) -> CancelHandle:
        """Return the same as ``guarded`` at a tenth of the cost, for a call without shielded parts."""
        self.check()
        call = CancelHandle(self._leave, _closed_meanwhile)
        self._calls.add(call)
        return call

    def _leave(self, call: "anyio.CancelScope | CancelHandle") -> None:
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    def spawn(self, task: Task) -> None:
        """Start a child of the root task. Its errors are logged, and do not end the session."""

        async def guard() -> None:
            try:
                await task()
            except Exception:
                logger.exception("a background task failed")

        self.check().start_soon(guard)

    def start_child(self, task: Task) -> "anyio.Event":
        """Start a child of the root task, in the caller's context; it handles its own errors.

        Nothing is awaited here: ``TaskGroup.start`` can be cancelled half way, and then waits for the child, which
        may be shielded. A child always has its first turn, and may find itself cancelled.

        Returns:
            An event that is set when the child has ended.
        """
        mark, ended = object(), anyio.Event()

        async def child() -> None:
            _CHILD.set(mark)  # inherited by every task that is started from here, and some of them outlive it
            try:
                await task()
            finally:
                del self._children[mark]
                ended.set()

        self.check().start_soon(child)
        self._children[mark] = ended
        return ended

    async def _run(
        self,
        resources: AbstractAsyncContextManager[object],
        background: Iterable[Task],
        opened: "anyio.Event",
    ) -> None:
        try:
            async with resources, anyio.create_task_group() as group:
                try:
                    for task in background:
                        group.start_soon(task)
                    self._group = group
                    opened.set()
                    await self._stop.wait()
                finally:
                    self._stopping = True
                    self._cancel_calls()  # before the group waits for its children: one may be shielded
                    group.cancel_scope.cancel()
        finally:
            opened.set()
            for (
                ended
            ) in self._children.values():  # when a loop shuts down, a task may be cancelled before its first turn
                ended.set()

    def _cancel_calls(self) -> None:
        for call in tuple(self._calls):
            call.cancel()

    def _check_loop(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            raise SessionClosed(
                "this session belongs to another event loop: create one session per loop; from another thread, use "
                "loop.call_soon_threadsafe"
            )


def _closed_meanwhile() -> SessionClosed:
    return SessionClosed("the session was closed meanwhile")


class StopSignal:
    """Stops one run by an error that concerns all its requests: its tasks stop waiting, and send nothing more.

    Attributes:
        error: the first error that was set, without frames. Each task raises a copy.
    """

    def __init__(self) -> None:
        self.error: SoundpieceError | None = None
        self._waits: set[anyio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<StopSignal waits={len(self._waits)} error={self.error!r}>"

    def set(self, error: SoundpieceError) -> None:
        """Stop the run by an error, unless it was stopped before."""
        if self.error is None:
            self.error = detach(error)
            for scope in self._waits:
                scope.cancel()

    def check(self, *, reading: bool = False) -> None:
        """Raise a copy of the error, if there is one.

        Args:
            reading: the next request is a read, which an account without credits may still send.
        """
        if self.error is not None and (isinstance(self.error, AuthenticationError) or not reading):
            raise copy_error(self.error)

    @contextmanager
    def interrupts(self) -> Generator[anyio.CancelScope]:
        """Cancel the wait inside when the error is set, and raise a copy; the caller may set the scope's deadline."""
        self.check()
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield scope
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            self.check()


NEVER = StopSignal()
"""For requests outside of runs: it is never set."""

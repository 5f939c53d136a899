"""A session's lifetime: one root task, so that it may be opened in one task and closed in another.

No cancel scope spans ``start`` and ``close``. Whatever runs in the background is a child of the root task; whatever a
caller awaits runs in the caller's own task, inside ``inside``, and is interrupted from there when the session closes.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context, ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from soundpiece_async._core.errors import AuthenticationError, SessionClosed, SoundpieceError, detach, duplicate
from soundpiece_async._curfew import Call
from soundpiece_async._logs import get_logger
from soundpiece_async._shielding import see_through

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

Task: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

logger = get_logger("lifetime")

NOT_OPEN = "the session is not open: use 'async with Session() as session', or await session.start()"

_CHILD: ContextVar[object] = ContextVar("the child of a soundpiece session that this task is, or came from")


class Lifetime:
    """Open once, closed once. It needs asyncio itself: anyio's tasks all have a scope around them."""

    def __init__(self) -> None:
        self.closed: bool = False
        self._over = False  # the root task has ended, or is about to
        self._root: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: TaskGroup | None = None
        self._calls: set[anyio.CancelScope | Call] = set()
        self._children: dict[object, anyio.Event] = {}

    def __repr__(self) -> str:
        state = "closed" if self.closed else "not started" if self._root is None else "open"
        return f"<Lifetime {state} calls={len(self._calls)}>"

    @property
    def started(self) -> bool:
        """True from the first ``start`` on."""
        return self._root is not None

    def check_started(self) -> None:
        """Raise ``SessionClosed`` unless it was started, however it goes on."""
        if self._root is None:
            raise SessionClosed(NOT_OPEN)

    def check_new(self) -> None:
        """Raise ``SessionClosed`` if it was started, or closed, before."""
        if self._root is not None or self.closed:
            raise SessionClosed("a session is started once: make a new one")

    async def start(self, house: AbstractAsyncContextManager[object], *background: Task) -> None:
        """Start the root task in the running loop; until ``close`` it holds ``house`` open and runs ``background``.

        They run in an empty context: a tracing span or a request's variables are of who opened the session, and it may
        outlive them by days.
        """
        self._loop = asyncio.get_running_loop()
        self._stop, self._quiet, opened = anyio.Event(), anyio.Event(), anyio.Event()
        live = self._live(house, background, opened)
        self._root = asyncio.create_task(live, name="soundpiece session", context=Context())
        try:
            await opened.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise
        if self._group is None:
            self.closed = True
            self._root.result()  # raises what kept it from opening

    async def close(self) -> None:
        """End the root task, interrupt every call, and wait until both are gone. A second close waits for the first.

        Raises:
            SessionClosed: called from another event loop, or the root task ended by a fault of its own.
        """
        if self._root is None:
            self.closed = True
            return
        self._check_loop()
        if _CHILD.get(None) in self._children:
            raise SessionClosed("a session cannot be closed from inside one of its own runs: it would wait for itself")
        if not self.closed:
            self.closed, self._quiet = True, anyio.Event()
        self._stop.set()
        self._interrupt()
        with anyio.CancelScope(shield=True):  # outside of it, too, or a cancelled scope would win over the body's error
            await see_through(partial(self._await_end, self._root))
        if not self._root.cancelled() and (fault := self._root.exception()) is not None:
            raise SessionClosed(f"the session ended by a fault of its own: {fault!r}") from fault

    async def _await_end(self, root: "asyncio.Task[None]") -> None:
        """Wait until the root task and every call have ended: they have been told to, and will."""
        await asyncio.wait((root,))
        if self._calls:
            await self._quiet.wait()

    def check(self) -> "TaskGroup":
        """Give the root's task group; ``SessionClosed`` unless it is open, and open in the running event loop."""
        if not self.closed:
            self.check_started()
        if self.closed or self._over or self._group is None:
            raise SessionClosed("the session is closed")
        self._check_loop()
        return self._group

    @contextmanager
    def inside(self) -> Generator[None]:
        """Run a caller's call: refused unless the session is open, and ended by ``SessionClosed`` when it closes."""
        self.check()
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                yield
            finally:
                self._leave(scope)
        if scope.cancelled_caught:
            raise _closed_meanwhile()

    def briefly(self) -> Call:
        """Do the same at a tenth of the cost, for a call that has nothing to do behind a shield."""
        self.check()
        call = Call(self._leave, _closed_meanwhile)
        self._calls.add(call)
        return call

    def _leave(self, call: "anyio.CancelScope | Call") -> None:
        self._calls.discard(call)
        if not self._calls:
            self._quiet.set()

    def spawn(self, task: Task, *args: object) -> None:
        """Start a child of the root task. Its errors are logged: nobody waits for it, and the session lives on."""

        async def guard() -> None:
            try:
                await task(*args)
            except Exception:
                logger.exception("a background task failed")

        self.check().start_soon(guard)

    def start_child(self, task: Task) -> "anyio.Event":
        """Start a child of the root task, in the caller's context; its errors are its own, too.

        Nothing is awaited here: the handshake of ``TaskGroup.start`` can be cancelled half way, and then waits for the
        child, which may be behind a shield. A child has its first turn in any case, and may find it came too late.

        Returns:
            What is set when the child has ended.
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

    async def _live(
        self,
        house: AbstractAsyncContextManager[object],
        background: Iterable[Task],
        opened: "anyio.Event",
    ) -> None:
        try:
            async with house, anyio.create_task_group() as group:
                try:
                    for task in background:
                        group.start_soon(task)
                    self._group = group
                    opened.set()
                    await self._stop.wait()
                finally:
                    self._over = True
                    self._interrupt()  # before the group waits for its children: one may be behind a shield
                    group.cancel_scope.cancel()
        finally:
            opened.set()
            for (
                ended
            ) in self._children.values():  # when a loop shuts down, a task may be cancelled before its first turn
                ended.set()

    def _interrupt(self) -> None:
        for call in tuple(self._calls):
            call.cancel()

    def _check_loop(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            raise SessionClosed(
                "this session belongs to another event loop: make one session per loop; from a thread without one, use "
                "loop.call_soon_threadsafe"
            )


def _closed_meanwhile() -> SessionClosed:
    return SessionClosed("the session was closed meanwhile")


class StopSignal:
    """Stops one run: its tasks wait no longer for a turn, and send nothing more, once an error concerns them all.

    Attributes:
        error: the first error that was set, without frames. Each task raises a copy.
    """

    def __init__(self) -> None:
        self.error: SoundpieceError | None = None
        self._waits: set[anyio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<StopSignal waits={len(self._waits)} error={self.error!r}>"

    def set(self, error: SoundpieceError) -> None:
        """Stop by an error, unless another one came first."""
        if self.error is None:
            self.error = detach(error)
            for scope in self._waits:
                scope.cancel()

    def check(self, *, reading: bool = False) -> None:
        """Raise a copy of the error, if there is one.

        Args:
            reading: the caller is about to read, which an account without credits may still do.
        """
        if self.error is not None and (isinstance(self.error, AuthenticationError) or not reading):
            raise duplicate(self.error)

    @contextmanager
    def interrupts(self) -> Generator[anyio.CancelScope]:
        """End the wait inside by the error; the scope is the caller's, who may set its deadline."""
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
"""For requests of no run: nobody sets it."""

"""Operations that are waited for, and what is remembered of each between two waits."""

from contextvars import Context
from datetime import datetime

import attrs

from soundpiece_async._core import wire
from soundpiece_async._core.attempts import LongPolls, Streak, Verdict
from soundpiece_async._core.gate import Ticket
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.parsing import ParsedOperation
from soundpiece_async._core.requests import Handle, Request
from soundpiece_async._core.scheduler import WatchHistory
from soundpiece_async._core.wire import ApiRequest, ApiResponse
from soundpiece_async._lifetime import Child, Waiter


@attrs.define(eq=False)
class WaitState:
    """The state of an operation between two waits, which may be by its handle."""

    created_at: datetime | None = None
    webhook_expected: bool = False  # a webhook will report it
    history: WatchHistory = WatchHistory()  # noqa: RUF009 - frozen
    streaks: dict[Verdict, Streak] = attrs.field(factory=dict)  # of responses that end a wait when they persist
    long_polls: LongPolls = attrs.field(factory=LongPolls)


@attrs.define(eq=False)
class Watch:
    """An operation with waiters, or without since a moment ago; resolved once, with the final operation or an error."""

    handle: Handle
    request: Request | None
    idempotency_key: str | None  # of the request, as it was sent
    seen: float  # when it was last known to be processing
    state: WaitState
    waiters: dict[Waiter, Context] = attrs.field(factory=dict)  # the oldest first
    poll: Child = attrs.field(init=False)  # the latest one, once there is one
    unused: Ticket | None = None  # the permit of a poll before its first step
    result: AnyOperation | Exception | None = None
    fault: str = ""  # why the latest poll had no usable response, if it had none

    def read(self, answer: ApiResponse, call: ApiRequest) -> ParsedOperation | None:
        """Parse the response to a poll; None: the operation is still running."""
        return wire.parse_if_final(answer, call, handle=self.handle, request=self.request, key=self.idempotency_key)


def make_watch(handle: Handle, known: AnyOperation | None, state: WaitState, *, now: float) -> Watch:
    """Return the watch of an operation, with the request and the key of the known one."""
    if known is None:
        return Watch(handle, None, None, now, state)
    return Watch(handle, known.request, wire.key_of(known), now, state)

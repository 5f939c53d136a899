"""Who is polled next: the shipped scheduler, and what people write instead."""

import heapq
import math
import time
from collections import deque
from collections.abc import Callable

from _virtual import ONE_WAY, Policy, Work, World

from soundpiece_async._core.scheduler import POLL_COST, CancelPoll, Outcome, Poll, Scheduler, Sleep


class Ours:
    """The shipped scheduler, driven as the poller drives it: ask, take a permit, ask again, begin."""

    def __init__(self, world: World, *, poll_cost: float = POLL_COST) -> None:
        self._world = world
        self._scheduler = Scheduler[int](slots=world.slots, poll_cost=poll_cost)
        self._rate = None if math.isinf(world.rate) else world.rate
        self._works: dict[int, Work] = {}
        self.decisions = 0
        self.seconds = 0.0

    def join(self, work: Work) -> None:
        """Watch it."""
        self._works[work.name] = work
        self._scheduler.watch(work.name, route="/v1/song", now=self._world.now)

    def answer(self, work: Work, *, wait: bool, finished: bool) -> None:  # noqa: ARG002 - others need to know
        """Settle it."""
        outcome = Outcome.FINISHED if finished else Outcome.PROCESSING
        self._scheduler.settle(work.name, now=self._world.now, outcome=outcome)
        if finished:
            del self._works[work.name]

    def turn(self) -> None:
        """Do what the scheduler says until it says to sleep, or permits are out."""
        world, scheduler = self._world, self._scheduler
        while True:
            match self._decide():
                case Poll(key=name, wait=wait) as poll:
                    if (permit := world.permit_at()) > world.now:
                        return world.wake(permit)
                    scheduler.begin(poll, now=world.now)
                    world.send(self._works[name], wait=wait)
                case CancelPoll(key=name) as drop:
                    scheduler.begin(drop, now=world.now)
                    world.cancel(self._works[name])
                    scheduler.settle(name, now=world.now, outcome=Outcome.CANCELLED)
                case Sleep(until=until):
                    return world.wake(math.inf if until is None else until)

    def _decide(self) -> Poll[int] | CancelPoll[int] | Sleep:
        begun = time.process_time()
        action = self._scheduler.next_action(self._world.now, rate=self._rate)
        self.seconds += time.process_time() - begun
        self.decisions += 1
        return action


class Turns:
    """Polls in turn through all slots: long ones (a semaphore around `wait=true`) or short ones."""

    def __init__(self, world: World, *, wait: bool) -> None:
        self._world = world
        self._wait = wait
        self._queue: deque[Work] = deque()

    def join(self, work: Work) -> None:
        """Queue up."""
        self._queue.append(work)

    def answer(self, work: Work, *, wait: bool, finished: bool) -> None:  # noqa: ARG002 - others need to know
        """Queue up again."""
        if not finished:
            self._queue.append(work)

    def turn(self) -> None:
        """Poll while slots and permits last."""
        world = self._world
        while self._queue and world.out < world.slots:
            if (permit := world.permit_at()) > world.now:
                return world.wake(permit)
            world.send(self._queue.popleft(), wait=self._wait)
        return None


class Sleeps(Turns):
    """One loop per operation: a short poll, then a sleep that may grow.

    Args:
        world: The world.
        rest: From how many polls there have been to the seconds to sleep.
    """

    def __init__(self, world: World, *, rest: Callable[[int], float]) -> None:
        super().__init__(world, wait=False)
        self._rest = rest
        self._polls: dict[int, int] = {}

    def answer(self, work: Work, *, wait: bool, finished: bool) -> None:  # noqa: ARG002 - others need to know
        """Sleep, then queue up again."""
        polls = self._polls[work.name] = self._polls.get(work.name, 0) + 1
        if not finished:
            self._world.at(self._world.now + self._rest(polls), lambda: self._queue.append(work))


class Oracle:
    """Knows when everything finishes, and asks so as to be there in time: no policy can be better."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._due: list[tuple[float, int, Work]] = []

    def join(self, work: Work) -> None:
        """Note it down for the moment before it finishes."""
        when = max(self._world.now, work.ready - ONE_WAY)
        self._world.at(when, lambda: heapq.heappush(self._due, (work.ready, work.name, work)))

    def answer(self, work: Work, *, wait: bool, finished: bool) -> None:
        """Every answer is a result."""

    def turn(self) -> None:
        """Poll who finishes next."""
        world = self._world
        while self._due and world.out < world.slots:
            if (permit := world.permit_at()) > world.now:
                return world.wake(permit)
            world.send(heapq.heappop(self._due)[2], wait=True)
        return None


SIMPLE: dict[str, Callable[[World], Policy]] = {
    "FIFO long polls": lambda world: Turns(world, wait=True),
    "short polls in turn": lambda world: Turns(world, wait=False),
    "sleep 1 s": lambda world: Sleeps(world, rest=lambda _: 1.0),
    "backoff 1 to 10 s": lambda world: Sleeps(world, rest=lambda polls: min(10.0, 1.5 ** (polls - 1))),
}
POLICIES: dict[str, Callable[[World], Policy]] = {"ours": Ours, **SIMPLE, "oracle": Oracle}

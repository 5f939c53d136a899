"""The gate of an account as a store keeps it, in memory: what the script of Redis and the statements of Postgres do.

Tests hold the two against this one, and `benchmarks/pacing.py` plays it in virtual time. Permits are given by virtual
scheduling (GCRA): `due` is when the next one is there, at most `SAVED_SECONDS` of them are saved, and a reservation is
answered with the seconds until it may be used. `now` is the store's clock, which may step back: a `due` beyond what
live processes can have reserved, and a pause longer than it was reported, are cut.
"""

import attrs

from soundpiece_async._core.pacing import SAVED_SECONDS
from soundpiece_async._core.shared import PEER_SECONDS, TUNE_SECONDS, Action, Attend, Report, Seen, Take, Tune

TUNING_SECONDS = 1.0
"""For which a process that was chosen to tune has the time to do so; then another one is."""
SPARE_PERMITS = 8
"""Beyond those of the live processes, before a `due` is taken for that of another clock."""


@attrs.define
class AccountGate:
    """The state of one account, and its live processes: when each was last seen, and its ceiling."""

    rate: float | None = None
    ceiling: float | None = None
    due: float = 0.0
    closed: float = 0.0
    pause: float = 0.0
    epoch: int = 0
    version: int = 0
    spent: int = 0
    tuning: float = 0.0
    learned: str = ""
    peers: dict[str, tuple[float, float | None]] = attrs.field(factory=dict)

    def perform(self, action: Action, *, peer: str, now: float) -> Seen:
        """Do what a process asks, and return the state."""
        self.closed = min(self.closed, now + self.pause)
        match action:
            case Attend(ceiling=ceiling):
                self._attend(peer, ceiling, now)
                return self._show(now)
            case Take(count=count, waited=waited):
                return self._take(count, waited, now)
            case Report(epoch=epoch, pause=pause):
                return self._report(epoch, pause, now)
            case tuning:
                return self._tune(tuning, now)

    def depart(self, peer: str) -> None:
        """Forget a process that ends."""
        self.peers.pop(peer, None)

    def _attend(self, peer: str, ceiling: float | None, now: float) -> None:
        self.peers[peer] = (now, ceiling)
        self.peers = {one: sign for one, sign in self.peers.items() if now - sign[0] <= PEER_SECONDS}
        self.ceiling = min((least for _, least in self.peers.values() if least is not None), default=None)

    def _take(self, count: int, waited: float, now: float) -> Seen:
        if (pace := self._show(now).pace) is None:
            return self._show(now)
        opens = max(now, self.closed)
        wanted = now - self.due <= waited
        start = max(self.due, now - SAVED_SECONDS, self.closed)
        if start - opens > (max(1, len(self.peers)) * (count + 2) + SPARE_PERMITS) / pace:
            start = opens
        self.due = start + count / pace
        self.spent += count if wanted else 0
        chosen = self.rate is not None and self.spent >= max(1, pace * TUNE_SECONDS) and now >= self.tuning
        if chosen:
            self.tuning = now + TUNING_SECONDS
        return attrs.evolve(self._show(now), wait=max(0.0, start - now), chosen=chosen)

    def _report(self, epoch: int, pause: float, now: float) -> Seen:
        if now + pause > self.closed:
            self.closed, self.pause = now + pause, pause
        chosen = epoch == self.epoch
        if chosen:
            self.epoch += 1
            self.due = self.closed
        self.due = max(self.due, self.closed)
        return attrs.evolve(self._show(now), chosen=chosen)

    def _tune(self, tuning: Tune, now: float) -> Seen:
        chosen = tuning.version == self.version
        if chosen:
            self.version += 1
            self.rate, self.learned = tuning.rate, tuning.learned
            self.spent, self.tuning = max(0, self.spent - tuning.spent), 0.0
        return attrs.evolve(self._show(now), chosen=chosen)

    def _show(self, now: float) -> Seen:
        return Seen(
            rate=self.rate,
            ceiling=self.ceiling,
            closed=max(0.0, self.closed - now),
            epoch=self.epoch,
            version=self.version,
            spent=self.spent,
            learned=self.learned,
            peers=len(self.peers),
        )

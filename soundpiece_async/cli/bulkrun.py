"""One run of a jobs file: feeds its lines, takes the results, and knows how it has to end."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from soundpiece_async import (
    AuthenticationError,
    Failed,
    InsufficientCredits,
    Journal,
    Request,
    SettingsError,
    SoundpieceError,
    Succeeded,
    TransportError,
)
from soundpiece_async._download.disk import is_full
from soundpiece_async._journal.sqlite_store import measure_waits
from soundpiece_async.cli.console import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    advise,
    describe_echoes,
    plural,
    say,
    size,
    span,
    tell,
)
from soundpiece_async.cli.interruption import Politely
from soundpiece_async.cli.jobs_file import Job, demand_right, in_thread, read_jobs
from soundpiece_async.cli.knobs import Order
from soundpiece_async.cli.progress import Picture, beside
from soundpiece_async.cli.tally import Ending, Result, Stopped, Tally, describe

if TYPE_CHECKING:
    from soundpiece_async import RunMany, Session

KEPT = "the journal has it all, and the same command goes on: nothing is paid for twice"
"""What a run has led to when its results cannot be printed."""
SHOWN = 20
"""Failures that are told one by one."""


class Feed:
    """The requests of a jobs file, and the lines they came from, for as long as they are under way.

    Args:
        path: of the jobs file; checked before.
        journal: takes names and metadata.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self.ended: bool = False
        """Set this, and it gives no more."""
        self._path = path
        self._journal = journal
        self._jobs: dict[str, Job] = {}

    def __repr__(self) -> str:
        return f"<Feed {self._path} under way={len(self._jobs)}{' ended' * self.ended}>"

    async def read(self) -> AsyncGenerator[Request]:
        """Give the requests, in the order of their lines.

        Raises:
            UsageError: the file is not any more what it was when it was checked.
        """
        async with aclosing(in_thread(read_jobs(self._path))) as chunks:
            async for chunk in chunks:
                for line in chunk:
                    if self.ended:
                        return
                    job = demand_right(self._path, line)
                    self._journal.annotate(job.request, name=job.name, metadata=job.metadata, line=job.line)
                    self._jobs[job.request.idempotency_key] = job
                    yield job.request

    def take(self, request: Request) -> Job:
        """Give the line of a request, once."""
        return self._jobs.pop(request.idempotency_key)


class BulkRun:
    """Makes what the lines of a jobs file ask for.

    Args:
        order: what to do.
        lines: how many there are.
        journal, session: open.
    """

    def __init__(self, order: Order, *, lines: int, journal: Journal, session: "Session") -> None:
        self.tally: Tally = Tally(lines)
        self._order = order
        self._journal = journal
        self._feed = Feed(order.jobs, journal)
        self._told = 0
        self._interrupted = anyio.Event()
        self._started = anyio.current_time()
        self._statistics = session.statistics
        self._picture = Picture(self.tally, passed=journal.ledger.passed, statistics=session.statistics)
        self._results: RunMany[Request] = session.run_many(
            self._feed.read(),
            save_to=order.out,
            journal=journal,
            timeout=order.knobs.piece_timeout,
        )

    def __repr__(self) -> str:
        return f"<BulkRun {self._feed!r} {self.tally!r}>"

    async def carry_out(self) -> None:
        """Run to the end, whichever it is."""
        with Politely(self._interrupt):
            try:
                async with beside(self._picture.follow, self._explain_interruption), self._results:
                    async for result in self._results:
                        await self._take(result)
            except anyio.get_cancelled_exc_class():
                left = plural(len(self._results.pending), "piece")
                tell(f"stopped at once, with {left} in flight; {KEPT}: soundpiece resume {self._order.words}")
                raise

    async def _take(self, result: Result) -> None:
        """Count a result and print it, and stop where it says so."""
        job = self._feed.take(result.request)
        ending = self.tally.add(result)
        if self.tally.refusal is not None and not isinstance(self.tally.refusal, InsufficientCredits):
            self._feed.ended = True  # and after a 402 what was submitted earlier is still awaited, whatever its line
        if self.tally.fresh_failures >= self._order.terms.enough_failures:
            self._stop(Stopped("too many pieces failed"))
        if isinstance(result, Failed) and (is_full(result.error) or isinstance(result.error, SettingsError)):
            self._stop(Stopped("files cannot be written"))
        if ending is Ending.UNSENT or (result.from_journal and not self._order.terms.show_all):
            return
        if isinstance(result, Failed):
            self._told += 1
            if self._told <= SHOWN:
                tell(f"{self._order.jobs}:{job.line}: {ending}: {advise(str(result.error), flag=None)}")
        lines = [describe(job, result, ending)] if self._order.terms.as_json else _list_paths(result)
        if lines:
            # in a thread: a reader may let us wait for as long as it likes
            await anyio.to_thread.run_sync(partial(say, "\n".join(lines), kept=KEPT), abandon_on_cancel=True)

    def _interrupt(self) -> None:
        self._interrupted.set()
        self._stop(Stopped("the run was interrupted before this piece was sent"))

    def _stop(self, why: SoundpieceError) -> None:
        """Read and submit nothing more; what is in flight is finished."""
        self._feed.ended = True
        self._results.stop(why)

    async def _explain_interruption(self) -> None:
        """Say what a signal led to, and how long that takes."""
        await self._interrupted.wait()
        under_way = self._results.pending
        waits = await measure_waits(self._journal.ledger)
        longest = max((waits[handle.route].longest for handle in under_way if handle.route in waits), default=None)
        known = self._statistics()
        told = promise(len(under_way), longest=longest, paused_for=known.paused_for, unanswered=known.active_submits)
        tell(f"interrupted: nothing more is submitted; {told}")

    def end(self, *, lost: SoundpieceError | None = None) -> int:
        """Sum up, say how to go on, and give the exit code; ``lost``: why the next run will not find the journal."""
        tally, words = self.tally, self._order.words
        counts = tally.as_members()
        took = anyio.current_time() - self._started
        if self._order.terms.as_json:
            say(_sum_up(counts, seconds=took), kept=KEPT)
        told = ", ".join(f"{counts[name]} {name}" for name in ("saved", "failed", "unfinished", "uncertain", "left"))
        tell(f"{plural(tally.lines, 'line')}: {told}; {plural(tally.files, 'file')}, {size(tally.bytes)}, {span(took)}")
        if echoed := describe_echoes(tally.echo_differences):
            tell(echoed)
        if lost is not None:
            tell(f"stopped: {lost}")
            return FAILED
        for line in self._explain():
            tell(line)
        go_on = f"the same command, or soundpiece resume {words}, goes on with the same keys: nothing is paid for twice"
        if tally.refusal is not None:
            refused = isinstance(tally.refusal, AuthenticationError | InsufficientCredits)
            tell(f"stopped{' by the account' * refused}: {tally.refusal}")
            tell(f"{_advise(tally.refusal)}{go_on}")
            return INTERRUPTED if self._interrupted.is_set() else REFUSED if refused else FAILED
        if counts["left"] or counts["unfinished"]:
            tell(f"not all is done: {go_on}")
        if self._interrupted.is_set():
            return INTERRUPTED
        return FAILED if tally.failures else DONE

    def _explain(self) -> list[str]:
        """Return what to know about the counts: what was not printed, and what can be done about failures."""
        tally, lines = self.tally, []
        if tally.earlier and not self._order.terms.show_all:
            earlier = plural(tally.earlier, "line")
            lines.append(f"{tally.ended - tally.earlier} new; {earlier} of earlier runs not printed again: --all does")
        if self._told > SHOWN:
            words = self._order.words
            lines.append(f"the first {SHOWN} failures stand above; for the reasons of all: soundpiece status {words}")
        if tally.unsaved:
            lines.append(
                "what is made and was not saved is saved by the next run, at no cost: see above what to do until then"
            )
        if tally.endings[Ending.FAILED] > tally.unsaved:
            lines.append(
                "what failed for good stays so: edit its line, or buy it once more, with a new key, by --retry-failed"
            )
        return lines


def promise(pieces: int, *, longest: float | None, paused_for: float, unanswered: int = 0) -> str:
    """Return what happens to work in flight, and when.

    Args:
        pieces: operations that are under way.
        longest: seconds that one of their routes has taken so far.
        paused_for: seconds until the gate opens.
        unanswered: requests that were sent and not answered yet: operations that may exist.
    """
    told = f"{plural(pieces, 'piece')} in flight will be finished"
    if pieces:
        told += ", and how long that takes is not known" if longest is None else f", in up to about {span(longest)}"
        told += f", after the {span(paused_for)} that the service said to wait" if round(paused_for) else ""
    if unanswered:
        told += (
            f"; {plural(unanswered, 'request')} without an answer yet, which may have been accepted, will be repeated "
            "until there is one, or the service has been silent for too long"
        )
    return f"{told}. Interrupt again to stop at once: the journal has every key, and nothing is lost, either way"


def _sum_up(counts: dict[str, Any], *, seconds: float) -> str:
    """Write the last line of JSON."""
    return json.dumps({"summary": {**counts, "seconds": round(seconds, 3)}})


def _list_paths(result: Succeeded[Any] | Failed[Any]) -> list[str]:
    return [str(file.path) for file in result.files] if isinstance(result, Succeeded) else []


def _advise(refusal: SoundpieceError) -> str:
    """Return what comes before "the same command goes on"."""
    match refusal:
        case AuthenticationError():
            return "check SOUNDPIECE_API_KEY in the dashboard, and from which addresses it may be used; then "
        case InsufficientCredits():
            return "top the account up in the dashboard; then "
        case TransportError():
            return "check SOUNDPIECE_BASE_URL, and the network; then "
    return ""  # the settings: their error says what to do

"""The front room: submit, wait, download, run."""

import warnings
from collections.abc import AsyncIterable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import anyio
import attrs

from soundpiece_async._bulk import RunMany
from soundpiece_async._core import endings, wire
from soundpiece_async._core.attempts import STREAK_SECONDS
from soundpiece_async._core.models import Operation
from soundpiece_async._core.outputs import Handle, Output
from soundpiece_async._core.requests import Request
from soundpiece_async._core.results import SavedFile, Statistics, Succeeded
from soundpiece_async._core.settings import Settings
from soundpiece_async._core.shared import SharedPace
from soundpiece_async._core.tracebacks import forget_arguments
from soundpiece_async._core.validation import (
    demand_handle,
    demand_in_flight,
    demand_operation,
    demand_output,
    demand_timeout,
)
from soundpiece_async._descriptors import fit_to_process
from soundpiece_async._download.destinations import Destination, demand_place
from soundpiece_async._download.downloader import Downloader, UntilFull, deliver
from soundpiece_async._download.stream import AudioStream
from soundpiece_async._download.verify import demand_decoder
from soundpiece_async._journal.journal import Journal
from soundpiece_async._journal.recorded_run import Recording
from soundpiece_async._lifetime import Lifetime
from soundpiece_async._poller import Poller
from soundpiece_async._reader import Reader
from soundpiece_async._shared.link import Link
from soundpiece_async._shared.news import News
from soundpiece_async._shared.opening import demand_driver, open_store
from soundpiece_async._submitter import Submitter
from soundpiece_async._transport import Transport
from soundpiece_async._way import Way

if TYPE_CHECKING:
    from aiohttp import TraceConfig

R = TypeVar("R", bound=Request)
E = TypeVar("E", bound=Request | None)


class Session:
    """Everything one account does at the same time: one poll scheduler, one rate gate, one downloader.

    Use it as ``async with Session() as session``, or with ``start`` and ``aclose``, which may run in different tasks
    (as web frameworks do it). Any number of tasks of its event loop may use it at once; one session is enough.

    Args:
        settings: by default ``Settings()``, which reads the environment.
        api_key: instead of that of the settings or of ``SOUNDPIECE_API_KEY``.
        base_url: instead of that of the settings or of ``SOUNDPIECE_BASE_URL``.
        trace_configs: passed through to aiohttp, for instrumentation.

    Raises:
        SettingsError: no key is set, or a setting makes no sense; nothing was sent.
        SharedStoreError: the extra of the shared store is not installed; nothing was sent.
    """

    @forget_arguments
    def __init__(
        self,
        settings: Settings | None = None,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        trace_configs: "Iterable[TraceConfig]" = (),
    ) -> None:
        self._life = Lifetime()
        self._settings = _override(settings, api_key=api_key, base_url=base_url)
        demand_decoder(self._settings)
        if self._settings.shared is not None:
            demand_driver(self._settings.shared)
        self._traces = tuple(trace_configs)

    def __repr__(self) -> str:
        parts = (self._submitter, self._poller, self._downloader, self._transport) if self._life.started else ()
        return f"<Session {' '.join(map(repr, (self._life, *parts)))}>"

    async def start(self) -> None:
        """Open the session in the running event loop. Nothing is sent to the service.

        Limits that need more descriptors than this process may open are fitted to that, with a WARNING. A shared store
        has some seconds to answer; one that is away is another WARNING, and the session goes on without it.

        Raises:
            SessionClosed: it was started before.
        """
        self._life.check_new()
        self._settings = attrs.evolve(self._settings, limits=fit_to_process(self._settings.limits))
        shared, ceiling = self._settings.shared, self._settings.limits.requests_per_second
        self._pace = None if shared is None else SharedPace(ceiling=ceiling)
        news = None if shared is None else News(confirm=self._settings.confirm_webhooks)
        self._transport = Transport(self._settings, trace_configs=self._traces, pace=self._pace)
        self._reader = Reader(self._transport)
        self._submitter = Submitter(self._transport, self._reader, validate=self._settings.validate)
        self._poller = Poller(
            self._transport,
            self._reader,
            slots=self._settings.limits.polls,
            patience=min(STREAK_SECONDS, self._settings.retries.submit_max_elapsed),
            news=news,
        )
        self._downloader = Downloader(
            stream=self._transport.stream,
            renew=self._reader.renew,
            limit=self._settings.limits.downloads,
            verify=self._settings.verify,
            keep_corrupt=self._settings.keep_corrupt,
            max_bytes=self._settings.limits.max_bytes,
            max_elapsed=self._settings.retries.download_max_elapsed,
            slowest=self._settings.limits.min_bytes_per_second,
            window=self._settings.timeouts.read,
            close_idle=self._transport.close_idle,
        )
        background = [self._transport.pacer.run, self._poller.run]
        if self._pace is None or news is None:
            await self._life.start(self._transport, *background)
            return
        link = Link(open_store(self._settings), pace=self._pace, pacer=self._transport.pacer, news=news)
        await self._life.start(self._transport, *background, link.run, partial(self._poller.hear, news))
        try:
            await link.meet()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the session: polls end, every waiter gets ``SessionClosed``, nothing is left behind. Twice is fine.

        Raises:
            SessionClosed: called from another event loop, or a fault of this library ended the session early.
        """
        await self._life.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        life: Lifetime | None = getattr(self, "_life", None)  # a session whose making failed has none
        if life is not None and life.started and not life.closed:
            warnings.warn("a soundpiece session was not closed", ResourceWarning, source=self, stacklevel=1)

    async def submit(self, request: R) -> Operation[R]:
        """Ask for one piece of work; sent safely, with the request's own key, until it is answered.

        The same object is the same piece of work: submitted again, it gives the operation it already became.

        Raises:
            InvalidRequest: the contract rules it out; nothing was sent.
            ApiError: the service refused it; a 5xx only after ``RetryPolicy.submit_max_elapsed`` seconds of trying.
            TransportError: no usable answer in that time. It may have been accepted: submit the same object again.
            DecodeError: the answer is not of the contract's shape, or echoes another request.
            SessionClosed: the session is closed.
        """
        return await self._submit(request)

    @overload
    async def wait(self, operation: Operation[E], *, timeout: float | None = None) -> Operation[E]: ...

    @overload
    async def wait(self, operation: Handle, *, timeout: float | None = None) -> Operation[Request | None]: ...

    async def wait(self, operation: Operation[Any] | Handle, *, timeout: float | None = None) -> Operation[Any]:
        """Wait until an operation is ready. Any number of callers may wait for the same one: one poll serves them all.

        Cancelling a waiter only detaches it. Faults of the network and of the service are waited out.

        Args:
            operation: an operation, or the handle of one.
            timeout: seconds this caller is willing to wait; None: as long as it takes; 0: ask once. A short one in a
                loop costs no more than waiting once: an open poll outlives its last waiter by some seconds.

        Raises:
            OperationFailed: the service gave up on the work.
            NotReady: the service says that it is ready, and twice in 10 s or more showed no outputs.
            WaitTimeout: the timeout passed; the operation runs on, wait again later.
            ApiError, DecodeError: it cannot be read, and trying again would not help.
            SessionClosed: the session is closed.
        """
        known = operation if isinstance(operation, Operation) else None
        demand_timeout(timeout)
        with self._life.briefly():
            if known is None or not endings.is_over(known):
                final = await self._poller.wait(demand_handle(operation), known=known, timeout=timeout)
                known = known or final
                known = attrs.evolve(final, request=known.request, echo_differences=known.echo_differences)
        return wire.demand_ready(known)

    @overload
    async def refresh(self, operation: Operation[E]) -> Operation[E]: ...

    @overload
    async def refresh(self, operation: Handle) -> Operation[Request | None]: ...

    async def refresh(self, operation: Operation[Any] | Handle) -> Operation[Any]:
        """Ask once how an operation stands, whatever its status. Raises as ``submit``."""
        with self._life.inside():
            return await self._reader.refresh(operation)

    @overload
    async def download(
        self, what: Output, to: Destination, *, name: str | None = None, overwrite: bool = False
    ) -> SavedFile: ...

    @overload
    async def download(
        self, what: Operation[Any] | Handle, to: Destination, *, name: str | None = None, overwrite: bool = False
    ) -> list[SavedFile]: ...

    async def download(
        self,
        what: Operation[Any] | Handle | Output,
        to: Destination,
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[SavedFile] | SavedFile:
        """Bring the files of a ready operation, or one of them, to a folder or store; what has its name is whole.

        Args:
            what: an operation, its handle, or one of its outputs.
            to: the folder, made if it is missing, where ``~`` at the beginning of a text is the home folder; or, with
                the extra ``obstore``, the URL of one in an object store (``s3://bucket/songs``), or a store of
                obstore's: then nothing is written on this machine.
            name: what the files are called, instead of the operation's id; made safe.
            overwrite: replace another file that is in the way; the same file is never fetched again.

        Raises:
            NotReady: the operation has no outputs yet: wait for it first.
            InvalidRequest: there is no such place.
            OperationFailed: it never will be.
            DownloadError: a file could not be had; the others are there. ``CorruptAudio``: it is not what it claims.
            SettingsError: an extra or a store's credentials are missing; or ``verify="full"``, which needs files.
            SessionClosed: the session is closed.
        """
        with self._life.inside():
            return await deliver(
                what, to, name=name, overwrite=overwrite, reader=self._reader, downloader=self._downloader
            )

    def stream(self, output: Output, *, range: str | None = None, if_range: str | None = None) -> AudioStream:  # noqa: A002 - the name of the header
        """Pass an output on instead of saving it: ``async with session.stream(output) as audio``, then iterate.

        What comes out is checked as a file would be, and goes on by itself over drops and expired URLs; nothing is
        kept. An output that cannot be had is an error when the stream is entered. ``AudioStream`` says the rest.

        Args:
            output: one of an operation's.
            range: the ``Range`` header of the request that is answered, so that a player can seek: answer with
                ``audio.status`` and ``audio.headers``. None, several ranges, or nonsense: the whole file.
            if_range: its ``If-Range`` header.
        """
        self._life.check()
        return AudioStream(
            demand_output(output),
            wanted=range,
            if_range=if_range,
            open_passage=self._downloader.open,
            inside=self._life.inside,
            start=self._life.start_child,
        )

    async def run(
        self, request: R, *, save_to: Destination | None = None, timeout: float | None = None
    ) -> Succeeded[R]:
        """Submit, wait and, when ``save_to`` names a place, download. Raises as the three do.

        ``timeout`` is that of ``wait``: it begins once the work was accepted. The submit has
        ``RetryPolicy.submit_max_elapsed``.
        """
        demand_timeout(timeout)
        demand_place(save_to, verify=self._settings.verify)
        await self._demand(save_to)
        operation = await self.wait(await self.submit(request), timeout=timeout)
        files = () if save_to is None else tuple(await self.download(operation, save_to))
        return Succeeded(request=request, operation=operation, files=files)

    def run_many(
        self,
        requests: Iterable[R] | AsyncIterable[R],
        *,
        save_to: Destination | None = None,
        journal: Journal | None = None,
        timeout: float | None = None,
        max_in_flight: int | None = None,
        ordered: bool = False,
    ) -> RunMany[R]:
        """Run many pieces at once: ``async with session.run_many(...) as results: async for result in results``.

        Each result is a ``Succeeded`` or a ``Failed``: one bad piece never stops the others. After 401, 402 or 403
        nothing more is sent, and each request that is left is answered by a ``Failed`` with that error.

        Args:
            requests: any iterable or async iterable, read no further ahead than ``max_in_flight``. What it raises ends
                the reading; what is in flight is still given out, then its error is raised. A generator is closed, and
                what it awaits then runs to its end, however the run is left.
            save_to: the place for the files, as ``to`` of ``download``; None: nothing is downloaded.
            journal: records the run, so that the same call goes on with it after a crash, an outage or a 402. Equal
                requests are told apart by how often they occur; those with a key of their own by that. What has ended
                is given out without a request, and with an empty ``Operation.raw``.
            timeout: seconds to wait for each piece, once submitted.
            max_in_flight: pieces begun and not yet taken by the consumer; by default ``Limits.in_flight``.
            ordered: give results in the order of the requests instead of the order of completion.
        """
        demand_timeout(timeout)
        demand_in_flight(max_in_flight)
        demand_place(save_to, verify=self._settings.verify)
        wait, download = partial(self.wait, timeout=timeout), UntilFull(self.download)
        way: Way[R] = Way(submit=self._submit, wait=wait, download=download, save_to=save_to)
        recording = journal and Recording(journal, way=way, prepare=self._prepare, remember=self._reader.remember)
        return RunMany(
            requests,
            work=recording.run if recording else way.run,
            refusal=lambda: self._transport.refusal,
            recheck=lambda: self._transport.pacer.recheck(),  # noqa: PLW0108 - there is no transport before the start
            demand=partial(self._demand, save_to),
            life=self._life,
            limit=self._settings.limits.in_flight if max_in_flight is None else max_in_flight,
            ordered=ordered,
        )

    def deliver(self, operation: Operation[Any]) -> None:
        """Take a webhook's news: it wakes the same waiters a poll would. It may come before the PUT has answered.

        Raises TypeError for anything but an operation: a ``Delivery`` of an unknown type has none.
        """
        self._life.check()
        if not demand_operation(operation).status.final:
            return
        if self._settings.confirm_webhooks or not endings.is_over(operation):
            self._life.spawn(self._poller.confirm, operation.handle, operation.request)
        else:
            self._poller.deliver(operation)

    def statistics(self) -> Statistics:
        """Count what happened since the start; cheap enough to ask ten times a second.

        Any thread may ask, as exporters of metrics do, and also after the session was closed.

        Raises:
            SessionClosed: it was never started.
        """
        self._life.check_started()
        poller, gate = self._poller, self._transport.pacer.gate
        return Statistics(
            submitted=self._submitter.submitted,
            in_flight=poller.in_flight,
            active_submits=self._transport.active_submits,
            active_polls=self._poller.active_polls,
            ready=self._reader.ready,
            failed=self._reader.failed,
            active_downloads=self._downloader.streams_out,
            downloads=self._downloader.saved,
            bytes=self._downloader.received,
            requests=self._transport.pacer.sent,
            rate_limited=gate.limited_count,
            rate=gate.rate if self._pace is None else self._pace.account_rate,
            paused_for=self._transport.pacer.paused_for,
            queued=self._transport.queued,
            degraded=gate.probing,
            detection_lag=poller.lag_sum / max(1, poller.noticed),
            detection_lag_max=poller.lag_max,
            peers=0 if self._pace is None else self._pace.peers,
            store_away=self._pace is not None and self._pace.away,
            unknown_statuses=tuple(self._reader.unknown_statuses),
        )

    async def _demand(self, save_to: Destination | None) -> None:
        """Try the destination of a run, before anything is sent and paid for."""
        with self._life.inside():
            await self._downloader.demand(save_to)

    async def _submit(self, request: R, **how: Any) -> Operation[R]:
        with self._life.briefly():
            operation = await self._submitter.submit(request, **how)
        if request.callback_url is not None and not endings.is_over(operation):
            self._poller.expect(operation)
        return operation

    async def _prepare(self, request: Request) -> bytes:
        with self._life.inside():
            return await self._submitter.prepare(request)


def _override(settings: Settings | None, **given: str | None) -> Settings:
    """Return the settings with what the caller named beside them."""
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if settings is None:
        return Settings(**named)
    return attrs.evolve(settings, **named) if named and isinstance(settings, Settings) else settings

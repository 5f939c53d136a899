"""The collaborators of a session, made once: submit, wait, refresh, download.

``Session``, ``RunMany`` and a run with a journal call it directly. Arguments are
checked by ``Session``. When the session closes, every call here raises ``SessionClosed``.
"""

from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, overload

import anyio
import attrs

from soundpiece_async._core import completion, wire
from soundpiece_async._core.checks import check_handle
from soundpiece_async._core.errors import DownloadError
from soundpiece_async._core.filenames import UniqueNames, safe_stem
from soundpiece_async._core.operations import AnyOperation, Operation
from soundpiece_async._core.requests import Handle, Output, Request
from soundpiece_async._core.results import SavedFile, Statistics
from soundpiece_async._core.settings import Settings
from soundpiece_async._download.destinations import Destination
from soundpiece_async._download.downloader import Downloader, save_outputs
from soundpiece_async._download.partfile import is_full
from soundpiece_async._lifetime import NEVER, Lifetime, StopSignal
from soundpiece_async._operations import PreparedSubmit, Reader, Submitter
from soundpiece_async._poller import Poller
from soundpiece_async._transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import TraceConfig

    from soundpiece_async._shared.account import SharedAccount

R = TypeVar("R", bound=Request)


@attrs.define(eq=False)
class InFlight(Generic[R]):
    """A request of a run, the requested name of its files, and its operation as soon as that is known."""

    request: R
    name: str | None = None
    operation: Operation[R] | None = None


class Engine:
    """One per session, made in its event loop.

    Args:
        settings: of the session, with limits fitted to this process.
        life: runs the background tasks, and ends the calls when the session closes.
        trace_configs: passed through to aiohttp.
    """

    def __init__(self, settings: Settings, *, life: Lifetime, trace_configs: "Iterable[TraceConfig]" = ()) -> None:
        limits, retries = settings.limits, settings.retries
        self.life = life
        self.settings = settings
        self.shared: SharedAccount | None = None if settings.shared is None else _share(settings)
        pace, news = (None, None) if self.shared is None else (self.shared.pace, self.shared.news)
        self.transport: Transport = Transport(settings, trace_configs=trace_configs, pace=pace)
        self.reader: Reader = Reader(self.transport)
        self.submitter: Submitter = Submitter(self.transport, self.reader, validate=settings.validate)
        self.poller: Poller = Poller(self.transport, self.reader, settings=settings, news=news)
        self.downloader: Downloader = Downloader(
            stream=self.transport.stream,
            renew=self.reader.renew,
            limit=limits.downloads,
            verify=settings.verify,
            keep_corrupt=settings.keep_corrupt,
            max_bytes=limits.max_bytes,
            max_elapsed=retries.download_max_elapsed,
            slowest=limits.min_bytes_per_second,
            window=settings.timeouts.read,
            close_idle=self.transport.close_idle,
        )

    def __repr__(self) -> str:
        return f"<Engine {self.submitter!r} {self.poller!r} {self.downloader!r} {self.transport!r}>"

    async def start(self) -> None:
        """Start the background tasks; wait some seconds for a shared store, then start without it."""
        background = [self.transport.pacer.run, self.poller.run]
        if self.shared is None:
            await self.life.start(self.transport, *background)
            return
        link, receive = self.shared.link(self.transport.pacer), partial(self.poller.receive_news, self.shared.news)
        await self.life.start(self.transport, *background, link.run, receive)
        try:
            await link.connect()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.life.close()
            raise

    async def submit(
        self, request: R, *, stop: StopSignal = NEVER, prepared: PreparedSubmit | None = None
    ) -> Operation[R]:
        """Submit a request, or return its operation. Same arguments and errors as ``Submitter.submit``."""
        with self.life.cancellable():
            operation = await self.submitter.submit(request, stop=stop, prepared=prepared)
        if request.callback_url is not None and not completion.is_over(operation):
            self.poller.expect_webhook(operation)
        return operation

    async def prepare(self, request: Request, *, anew: bool = False) -> bytes:
        """Return the body that every PUT of a request has. Same arguments and errors as ``Submitter.prepare``."""
        with self.life.guarded():
            return await self.submitter.prepare(request, anew=anew)

    async def wait(self, operation: AnyOperation | Handle, *, timeout: float | None) -> AnyOperation:
        """Wait until an operation is ready, with the request it had; raises as ``Session.wait``."""
        known = operation if isinstance(operation, Operation) else None
        with self.life.cancellable():
            if known is None or not completion.is_over(known):
                final = await self.poller.wait(check_handle(operation), known=known, timeout=timeout)
                known = final if known is None else _keep_request(final, known)
        return wire.require_ready(known)

    async def refresh(self, operation: AnyOperation | Handle) -> AnyOperation:
        """Read an operation once, whatever its status; raises as ``Session.refresh``."""
        with self.life.guarded():
            return await self.reader.refresh(operation)

    @overload
    async def download(
        self, what: AnyOperation, to: Destination, *, name: str | None = None, overwrite: bool = False
    ) -> list[SavedFile]: ...

    @overload
    async def download(
        self,
        what: AnyOperation | Handle | Output,
        to: Destination,
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[SavedFile] | SavedFile: ...

    async def download(
        self,
        what: AnyOperation | Handle | Output,
        to: Destination,
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[SavedFile] | SavedFile:
        """Save the files of a ready operation, or one of them; raises as ``Session.download``."""
        with self.life.guarded():
            return await save_outputs(
                what, to, name=name, overwrite=overwrite, reader=self.reader, downloader=self.downloader
            )

    async def check_destination(self, to: Destination | None) -> None:
        """Check where a run is to save its files, before anything is sent and paid for.

        Raises:
            InvalidRequest, SettingsError: nothing can be saved there.
        """
        with self.life.guarded():
            await self.downloader.check_destination(to)

    def deliver(self, operation: AnyOperation) -> None:
        """Wake the waiters of an operation whose final state a webhook brought; other states are ignored."""
        if not operation.status.final:
            return
        if self.settings.confirm_webhooks or not completion.is_over(operation):
            self.life.spawn(partial(self.poller.confirm, operation.handle, operation.request))
        else:
            self.poller.deliver(operation)

    def statistics(self) -> Statistics:
        """Return the counts since the start."""
        poller, pacer = self.poller, self.transport.pacer
        pace = None if self.shared is None else self.shared.pace
        return Statistics(
            submitted=self.submitter.submitted,
            in_flight=poller.in_flight,
            active_submits=self.transport.active_submits,
            active_polls=poller.active_polls,
            ready=self.reader.ready,
            failed=self.reader.failed,
            active_downloads=self.downloader.active_streams,
            downloads=self.downloader.saved,
            bytes=self.downloader.received,
            requests=pacer.sent,
            rate_limited=pacer.gate.limited_count,
            rate=pacer.gate.rate if pace is None else pace.account_rate,
            paused_for=pacer.paused_for,
            queued=self.transport.queued,
            degraded=pacer.gate.half_open,
            detection_lag=poller.detection_lag_sum / max(1, poller.completed),
            detection_lag_max=poller.detection_lag_max,
            peers=0 if pace is None else pace.peers,
            store_unavailable=pace is not None and pace.away,
            unknown_statuses=tuple(self.reader.unknown_statuses),
        )


def _share(settings: Settings) -> "SharedAccount":
    from soundpiece_async._shared.account import SharedAccount  # most sessions share nothing

    return SharedAccount(settings)


def _keep_request(final: AnyOperation, known: AnyOperation) -> AnyOperation:
    """Return an operation with the request it had, and with the differences of its echo."""
    if final.request is known.request and final.echo_differences == known.echo_differences:
        return final
    return attrs.evolve(final, request=known.request, echo_differences=known.echo_differences)


class RunFiles:
    """Saves the files of one run. Once the disk is full, running and later downloads fail with that error.

    Otherwise each of ten thousand jobs would leave the beginning of a file on a full disk.

    Args:
        engine: of the session.
        to: the destination; None: files are not saved.
    """

    def __init__(self, engine: Engine, to: Destination | None) -> None:
        self.to = to
        self._engine = engine
        self._names = UniqueNames()
        self._running: set[anyio.CancelScope] = set()
        self._full: DownloadError | None = None

    def __repr__(self) -> str:
        return f"<RunFiles running={len(self._running)} full={self._full is not None}>"

    def choose_name(self, operation: AnyOperation, wanted: str | None) -> str:
        """Return a name that no other operation of this run has: the wanted one, or the operation's id."""
        return self._names.assign(operation, safe_stem(wanted or operation.id))

    async def save(self, operation: AnyOperation, *, name: str, overwrite: bool = False) -> tuple[SavedFile, ...]:
        """Save the files of a ready operation.

        Args:
            operation: the operation.
            name: the name of its files.
            overwrite: replace existing files.

        Raises:
            SoundpieceError: as ``Session.download``, or because the disk is full.
        """
        if self.to is None:
            return ()
        if self._full is None:
            with anyio.CancelScope() as scope:
                self._running.add(scope)
                try:
                    return tuple(await self._engine.download(operation, self.to, name=name, overwrite=overwrite))
                except DownloadError as error:
                    if is_full(error):
                        self._full = error
                        for other in self._running:
                            other.cancel()
                    raise
                finally:
                    self._running.discard(scope)
        raise DownloadError(
            f"{operation.handle}: its files were not saved: another job of this run found the disk full; free some "
            "space, then download it again",
            url="",
            path=str(self.to),
        ) from (self._full and self._full.__cause__)

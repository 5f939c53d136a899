"""The public session: submit, wait, download, run."""

import warnings
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import attrs

from soundpiece_async._bulk import RunMany
from soundpiece_async._core.checks import check_in_flight, check_operation, check_output, check_timeout
from soundpiece_async._core.errors import SessionClosed
from soundpiece_async._core.operations import AnyOperation, Operation
from soundpiece_async._core.redaction import forget_arguments
from soundpiece_async._core.requests import Handle, Output, Request
from soundpiece_async._core.results import SavedFile, Statistics, Succeeded
from soundpiece_async._core.settings import Settings
from soundpiece_async._descriptors import fit_to_process
from soundpiece_async._download.destinations import Destination, check_destination
from soundpiece_async._download.stream import AudioStream
from soundpiece_async._download.verify import require_decoder
from soundpiece_async._engine import Engine
from soundpiece_async._inputs import Requests
from soundpiece_async._lifetime import NOT_OPEN, Lifetime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import TraceConfig

    from soundpiece_async._journal.journal import Journal

R = TypeVar("R", bound=Request)
E = TypeVar("E", bound=Request | None)


class Session:
    """A client of the API for one account: one poll scheduler, one rate limiter, one downloader.

    Use it as ``async with Session() as session``, or with ``start`` and ``aclose``, which may run in different tasks
    (as web frameworks do it). Any number of tasks of its event loop may use it at once; one session is enough.

    Args:
        settings: by default ``Settings()``, which reads the environment.
        api_key: instead of that of the settings or of ``SOUNDPIECE_API_KEY``.
        base_url: instead of that of the settings or of ``SOUNDPIECE_BASE_URL``.
        trace_configs: passed through to aiohttp, for instrumentation.

    Raises:
        SettingsError: no key is set, or a setting is invalid; nothing was sent.
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
        self._started: Engine | None = None
        self._settings = _override(settings, api_key=api_key, base_url=base_url)
        require_decoder(self._settings)
        if self._settings.shared is not None:
            from soundpiece_async._shared.opening import demand_driver  # most sessions share nothing

            demand_driver(self._settings.shared)
        self._traces = tuple(trace_configs)

    def __repr__(self) -> str:
        return f"<Session {self._life!r}{'' if self._started is None else f' {self._started!r}'}>"

    @property
    def _engine(self) -> Engine:
        if self._started is None:
            raise SessionClosed(NOT_OPEN)
        return self._started

    async def start(self) -> None:
        """Open the session in the running event loop. Nothing is sent to the service.

        Limits that need more descriptors than this process may open are lowered, with a WARNING. A shared store has
        some seconds to answer; if it does not, a WARNING is logged, and the session starts without it.

        Raises:
            SessionClosed: it was started before.
        """
        self._life.check_new()
        self._settings = attrs.evolve(self._settings, limits=fit_to_process(self._settings.limits))
        self._started = Engine(self._settings, life=self._life, trace_configs=self._traces)
        await self._started.start()

    async def aclose(self) -> None:
        """Close the session: end all polls and tasks, and raise ``SessionClosed`` in every waiter. Twice is allowed.

        Raises:
            SessionClosed: called from another event loop, or an internal error ended the session early.
        """
        await self._life.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        life: Lifetime | None = getattr(self, "_life", None)  # missing if the constructor failed
        if life is not None and life.started and not life.closed:
            warnings.warn("a soundpiece session was not closed", ResourceWarning, source=self, stacklevel=1)

    async def submit(self, request: R) -> Operation[R]:
        """Submit a request, and retry it with its own idempotency key until it is answered.

        The same object is one operation: submitted again, it returns the operation that it already became.

        Raises:
            InvalidRequest: the request is invalid; nothing was sent.
            ApiError: the service rejected it; a 5xx only after ``RetryPolicy.submit_max_elapsed`` seconds of trying.
            TransportError: no usable response in that time. It may have been accepted: submit the same object again.
            DecodeError: the response has no readable operation, or echoes another request.
            SessionClosed: the session is closed.
        """
        return await self._engine.submit(request)

    @overload
    async def wait(self, operation: Operation[E], *, timeout: float | None = None) -> Operation[E]: ...

    @overload
    async def wait(self, operation: Handle, *, timeout: float | None = None) -> Operation[Request | None]: ...

    async def wait(self, operation: AnyOperation | Handle, *, timeout: float | None = None) -> AnyOperation:
        """Wait until an operation is ready. Any number of callers may wait for the same one; they share its polls.

        Cancelling a waiter only detaches it. Outages of the network and of the service do not end the wait.

        Args:
            operation: an operation, or the handle of one.
            timeout: seconds; None: no limit; 0: poll once. A short one in a loop costs no more than a single wait: an
                open poll outlives its last waiter by some seconds.

        Raises:
            OperationFailed: the operation failed.
            NotReady: the service reports it as ready, and listed no outputs in two reads 10 s or more apart.
            WaitTimeout: the timeout passed; the operation is still running, wait again later.
            ApiError, DecodeError: it cannot be read, and retrying would not help.
            SessionClosed: the session is closed.
        """
        check_timeout(timeout)
        return await self._engine.wait(operation, timeout=timeout)

    @overload
    async def refresh(self, operation: Operation[E]) -> Operation[E]: ...

    @overload
    async def refresh(self, operation: Handle) -> Operation[Request | None]: ...

    async def refresh(self, operation: AnyOperation | Handle) -> AnyOperation:
        """Read the current state of an operation once, whatever its status. Raises as ``submit``."""
        return await self._engine.refresh(operation)

    @overload
    async def download(
        self, what: Output, to: Destination, *, name: str | None = None, overwrite: bool = False
    ) -> SavedFile: ...

    @overload
    async def download(
        self, what: AnyOperation | Handle, to: Destination, *, name: str | None = None, overwrite: bool = False
    ) -> list[SavedFile]: ...

    async def download(
        self,
        what: AnyOperation | Handle | Output,
        to: Destination,
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> list[SavedFile] | SavedFile:
        """Download the files of a ready operation, or one of them, to a folder or store.

        Args:
            what: an operation, its handle, or one of its outputs.
            to: the folder, made if it is missing, where ``~`` at the beginning of a text is the home folder; or, with
                the extra ``obstore``, the URL of one in an object store (``s3://bucket/songs``), or a store of
                obstore's: then nothing is written on this machine.
            name: the stem of the file names, instead of the operation's id; made safe.
            overwrite: replace another file of that name; the same file is never downloaded again.

        Raises:
            NotReady: the operation has no outputs yet: wait for it first.
            InvalidRequest: the destination is invalid.
            OperationFailed: the operation failed.
            DownloadError: a file could not be saved; the others are saved. ``CorruptAudio``: it is not valid FLAC.
            SettingsError: an extra or a store's credentials are missing; or ``verify="full"``, which needs files.
            SessionClosed: the session is closed.
        """
        return await self._engine.download(what, to, name=name, overwrite=overwrite)

    def stream(self, output: Output, *, range: str | None = None, if_range: str | None = None) -> AudioStream:  # noqa: A002 - the name of the header
        """Stream an output instead of saving it: ``async with session.stream(output) as audio``, then iterate.

        The bytes are checked like a file, and resumed after drops and expired URLs; nothing is stored. Entering the
        stream raises if the output is not available. See ``AudioStream``.

        Args:
            output: an output of an operation.
            range: the ``Range`` header of the request that is answered, so that a player can seek: answer with
                ``audio.status`` and ``audio.headers``. None, several ranges, or an invalid one: the whole file.
            if_range: its ``If-Range`` header.
        """
        self._life.check()
        downloader = self._engine.downloader
        return AudioStream(
            check_output(output), downloader=downloader, life=self._life, wanted=range, if_range=if_range
        )

    async def run(
        self,
        request: R,
        *,
        save_to: Destination | None = None,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Succeeded[R]:
        """Submit, wait and, with ``save_to``, download. Raises as the three do.

        Args:
            request: the request.
            save_to: where to save the files, as ``to`` of ``download``; None: nothing is downloaded.
            name: the stem of the files, instead of the operation's id; made safe.
            timeout: seconds for ``wait``, from when the request was accepted. The submit has
                ``RetryPolicy.submit_max_elapsed``.
        """
        check_timeout(timeout)
        check_destination(save_to, verify=self._settings.verify)
        engine = self._engine
        await engine.check_destination(save_to)
        operation = await engine.wait(await engine.submit(request), timeout=timeout)
        files = () if save_to is None else tuple(await engine.download(operation, save_to, name=name))
        return Succeeded(request=request, operation=operation, files=files, name=name)

    def run_many(
        self,
        requests: Requests[R],
        *,
        save_to: Destination | None = None,
        journal: "Journal | None" = None,
        timeout: float | None = None,
        max_in_flight: int | None = None,
        ordered: bool = False,
    ) -> RunMany[R]:
        """Run many requests at once: ``async with session.run_many(...) as results: async for result in results``.

        Each result is a ``Succeeded`` or a ``Failed``: a failed one does not stop the others. After a 401, 402 or 403
        of the API nothing more is submitted, and each remaining request gets a ``Failed`` with a copy of that error.

        Args:
            requests: any iterable or async iterable of requests, or of pairs of a request and the name of its files
                (instead of the operation's id; made safe, and numbered where several want the same). It is read no
                further ahead than ``max_in_flight``. If it raises, requests in flight still finish, then its error is
                raised. A generator is closed, and is given time to finish, however the run is left.
            save_to: where to save the files, as ``to`` of ``download``; None: nothing is downloaded.
            journal: records the run, so that the same call resumes it after a crash, an outage or a 402. Equal
                requests are distinguished by their occurrence; those with an explicit key by that. Results
                that it already has need no request; their ``Operation.raw`` is empty.
            timeout: seconds to wait for each operation, once submitted.
            max_in_flight: requests that are read and whose results are not yet taken; by default ``Limits.in_flight``.
            ordered: yield results in the order of the requests instead of the order of completion.
        """
        check_timeout(timeout)
        check_in_flight(max_in_flight)
        check_destination(save_to, verify=self._settings.verify)
        return RunMany(
            requests,
            engine=self._engine,
            journal=journal,
            save_to=save_to,
            timeout=timeout,
            limit=self._settings.limits.in_flight if max_in_flight is None else max_in_flight,
            ordered=ordered,
        )

    def deliver(self, operation: AnyOperation) -> None:
        """Deliver a webhook's operation: it wakes the same waiters as a poll. It may come before the PUT is answered.

        Raises TypeError for anything but an operation: a ``Delivery`` of an unknown type has none.
        """
        self._life.check()
        self._engine.deliver(check_operation(operation))

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters since the start; cheap enough to call ten times a second.

        It may be called from any thread, as metrics exporters do, and after the session was closed.

        Raises:
            SessionClosed: it was never started.
        """
        return self._engine.statistics()


def _override(settings: Settings | None, **given: str | None) -> Settings:
    """Return the settings with the keyword arguments that were passed."""
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if settings is None:
        return Settings(**named)
    return attrs.evolve(settings, **named) if named and isinstance(settings, Settings) else settings

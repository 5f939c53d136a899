"""Async Python SDK for the Soundpiece AI music and audio generation API."""

from soundpiece_async._version import __version__ as __version__

TYPE_CHECKING = False  # as typing has it, which is slow to load
if TYPE_CHECKING:
    from soundpiece_async._bulk import RunMany
    from soundpiece_async._core.errors import (
        ApiError,
        AuthenticationError,
        BadRequest,
        CorruptAudio,
        DecodeError,
        DownloadError,
        FieldError,
        InsufficientCredits,
        InvalidRequest,
        JournalError,
        NotFound,
        NotReady,
        OperationFailed,
        RateLimited,
        ServerError,
        SessionClosed,
        SettingsError,
        SharedStoreError,
        SoundpieceError,
        TransportError,
        ValidationError,
        WaitTimeout,
        WebhookError,
    )
    from soundpiece_async._core.job_records import JobRecord, JobState
    from soundpiece_async._core.operations import Operation, OperationError, Status
    from soundpiece_async._core.requests import (
        AudioSource,
        AutoCutDown,
        Handle,
        NewFx,
        NewInstrumental,
        NewSample,
        NewSong,
        Output,
        RemixInstrumental,
        RemixSong,
        Request,
        SeparateStems,
    )
    from soundpiece_async._core.results import Failed, SavedFile, Statistics, Succeeded
    from soundpiece_async._core.settings import Limits, RetryPolicy, Settings, Timeouts
    from soundpiece_async._download.destinations import Destination
    from soundpiece_async._download.stream import AudioStream
    from soundpiece_async._download.upload import upload_source
    from soundpiece_async._journal.journal import Journal
    from soundpiece_async._session import Session

__all__ = [
    "ApiError",
    "AudioSource",
    "AudioStream",
    "AuthenticationError",
    "AutoCutDown",
    "BadRequest",
    "CorruptAudio",
    "DecodeError",
    "Destination",
    "DownloadError",
    "Failed",
    "FieldError",
    "Handle",
    "InsufficientCredits",
    "InvalidRequest",
    "JobRecord",
    "JobState",
    "Journal",
    "JournalError",
    "Limits",
    "NewFx",
    "NewInstrumental",
    "NewSample",
    "NewSong",
    "NotFound",
    "NotReady",
    "Operation",
    "OperationError",
    "OperationFailed",
    "Output",
    "RateLimited",
    "RemixInstrumental",
    "RemixSong",
    "Request",
    "RetryPolicy",
    "RunMany",
    "SavedFile",
    "SeparateStems",
    "ServerError",
    "Session",
    "SessionClosed",
    "Settings",
    "SettingsError",
    "SharedStoreError",
    "SoundpieceError",
    "Statistics",
    "Status",
    "Succeeded",
    "Timeouts",
    "TransportError",
    "ValidationError",
    "WaitTimeout",
    "WebhookError",
    "upload_source",
]

if not TYPE_CHECKING:  # or every misspelt name would be one to type checkers

    def __getattr__(name: str) -> object:
        """Load a public name when it is first asked for (PEP 562): the command line has to catch Ctrl-C before that.

        By import statements, which programs that freeze a package can see.
        """
        match name:
            case _ if name not in __all__:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
            case "AudioStream":
                from soundpiece_async._download import stream as module
            case "Destination":
                from soundpiece_async._download import destinations as module
            case "Journal":
                from soundpiece_async._journal import journal as module
            case "upload_source":
                from soundpiece_async._download import upload as module
            case "RunMany":
                from soundpiece_async import _bulk as module
            case "Session":
                from soundpiece_async import _session as module
            case _:
                from soundpiece_async._core import errors, job_records, operations, requests, results, settings

                modules = (errors, operations, requests, job_records, requests, results, settings)
                module = next(one for one in modules if hasattr(one, name))
        return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return [*globals(), *__all__]

"""Asyncio-first client for the Soundpiece audio API: fan out, poll under one limit, stream verified FLAC to disk."""

from importlib import import_module

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
        OperationFailed,
        RateLimited,
        ServerError,
        SessionClosed,
        SettingsError,
        SoundpieceError,
        TransportError,
        ValidationError,
        WaitTimeout,
        WebhookError,
    )
    from soundpiece_async._core.models import (
        Failed,
        Operation,
        OperationError,
        SavedFile,
        Statistics,
        Status,
        Succeeded,
    )
    from soundpiece_async._core.outputs import Handle, Output
    from soundpiece_async._core.requests import (
        AudioSource,
        AutoCutDown,
        NewFx,
        NewInstrumental,
        NewSample,
        NewSong,
        RemixInstrumental,
        RemixSong,
        Request,
        SeparateStems,
    )
    from soundpiece_async._core.settings import Limits, RetryRules, Settings, Timeouts
    from soundpiece_async._download.streaming import AudioStream
    from soundpiece_async._record.journal import Journal
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
    "DownloadError",
    "Failed",
    "FieldError",
    "Handle",
    "InsufficientCredits",
    "InvalidRequest",
    "Journal",
    "JournalError",
    "Limits",
    "NewFx",
    "NewInstrumental",
    "NewSample",
    "NewSong",
    "NotFound",
    "Operation",
    "OperationError",
    "OperationFailed",
    "Output",
    "RateLimited",
    "RemixInstrumental",
    "RemixSong",
    "Request",
    "RetryRules",
    "RunMany",
    "SavedFile",
    "SeparateStems",
    "ServerError",
    "Session",
    "SessionClosed",
    "Settings",
    "SettingsError",
    "SoundpieceError",
    "Statistics",
    "Status",
    "Succeeded",
    "Timeouts",
    "TransportError",
    "ValidationError",
    "WaitTimeout",
    "WebhookError",
]

_ROOMS = ("_core.errors", "_core.models", "_core.outputs", "_core.requests", "_core.settings")
_LARGE = {"AudioStream": "_download.streaming", "Journal": "_record.journal", "RunMany": "_bulk", "Session": "_session"}
"""Names whose rooms are loaded for nobody else's sake."""


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for (PEP 562): the command line has to catch Ctrl-C before that."""
    if name in __all__:
        rooms = (_LARGE[name],) if name in _LARGE else _ROOMS
        modules = (import_module(f"{__name__}.{room}") for room in rooms)
        return globals().setdefault(name, next(getattr(module, name) for module in modules if hasattr(module, name)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

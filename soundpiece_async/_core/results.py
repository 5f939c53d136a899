"""The results of requests: saved files, what succeeded and failed, and the statistics of a session."""

from pathlib import Path
from typing import Generic, Literal

import attrs

from soundpiece_async._core.errors import SoundpieceError
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.operations import Operation, R_co, html_rows
from soundpiece_async._core.requests import Output
from soundpiece_async._core.rich_display import (
    Fields,
    Rows,
    audio_player,
    format_channels,
    format_size,
    html_cell,
    html_table,
)


@attrs.frozen(kw_only=True)
class SavedFile:
    """A complete, verified file on disk, or object in a store.

    Attributes:
        path: of a file; None for an object in a store, which has a ``url``.
        bytes: its size.
        sha256: of its bytes, as hex.
        duration: length in seconds, by its own header.
        sample_rate: in Hz, by its own header.
        channels: by its own header.
        output: of the operation, that it was downloaded from.
        warnings: unusual properties that do not prevent saving it, as sentences.
        verified: the level of checks it has passed: ``"full"``: every frame was decoded and, if its header states one,
            the MD5 of its audio compared; ``"header"``: its size and its header; ``"none"``: its size.
        url: of an object, such as ``s3://bucket/songs/take.flac``; None for a file, which has a ``path``.
    """

    path: Path | None
    bytes: int
    sha256: str
    duration: float
    sample_rate: int
    channels: int
    output: Output
    warnings: tuple[str, ...] = ()
    verified: Literal["header", "full", "none"] = "none"
    url: str | None = None

    @property
    def location(self) -> str:
        """Where it is, as text: the path of a file, the URL of an object."""
        return self.url or str(self.path)

    @property
    def name(self) -> str:
        """Its file name."""
        return self.location.rpartition("/")[2] if self.path is None else self.path.name

    def to_dict(self, *, urls: bool = False) -> JsonObject:
        """Return it as JSON values; ``path`` is as it was given, ``output`` as ``Output.to_dict`` has it."""
        return {
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "url": self.url,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "duration": self.duration,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "warnings": list(self.warnings),
            "output": self.output.to_dict(urls=urls),
        }

    def __rich_repr__(self) -> Fields:
        yield "path", self.location
        yield "bytes", self.bytes
        yield "duration", self.duration
        yield "sample_rate", self.sample_rate
        yield "channels", self.channels

    def _repr_html_(self) -> str:
        return html_table(_file_rows(self))


@attrs.frozen(kw_only=True)
class Succeeded(Generic[R_co]):
    """A request that succeeded: its operation is ready, and its files are saved if a destination was named.

    Attributes:
        request: the caller's object.
        operation: ready.
        files: none without a destination.
        from_journal: True if an earlier run ended it, without a request in this run.
        name: the one that was passed with the request.
    """

    request: R_co
    operation: Operation[R_co]
    files: tuple[SavedFile, ...] = ()
    from_journal: bool = attrs.field(default=False, repr=False)
    name: str | None = None

    def to_dict(self, *, urls: bool = False) -> JsonObject:
        """Return the operation and the files as JSON values, as ``Operation.to_dict`` and ``SavedFile.to_dict``."""
        files = [file.to_dict(urls=urls) for file in self.files]
        return {"operation": self.operation.to_dict(urls=urls), "files": files}

    def __rich_repr__(self) -> Fields:
        yield "operation", self.operation
        yield "files", list(self.files)

    def _repr_html_(self) -> str:
        return html_table([*html_rows(self.operation), *(row for file in self.files for row in _file_rows(file))])


@attrs.frozen(kw_only=True)
class Failed(Generic[R_co]):
    """A request that did not succeed.

    Attributes:
        request: the caller's object.
        operation: the operation as it was last seen, or None.
        error: the reason.
        from_journal: True if an earlier run ended it, without a request in this run.
        name: the one that was passed with the request.
    """

    request: R_co
    operation: Operation[R_co] | None
    error: SoundpieceError
    from_journal: bool = False
    name: str | None = None

    def to_dict(self, *, urls: bool = False) -> JsonObject:
        """Return the operation, if there is one, and the error as JSON values, as ``Operation.to_dict``."""
        operation = self.operation and self.operation.to_dict(urls=urls)
        error = {"type": type(self.error).__name__, "message": str(self.error), "retryable": self.error.retryable}
        return {"operation": operation, "error": error, "from_journal": self.from_journal}


@attrs.frozen(kw_only=True)
class Statistics:
    """A snapshot of a session. Counts are since its start.

    Attributes:
        submitted: operations the service accepted from this session.
        in_flight: operations with waiters in this process now.
        active_submits, active_polls: requests on the wire now.
        ready, failed: operations seen to end so; one that is read again after 4096 others is counted again.
        active_downloads: streams open now.
        downloads: files saved.
        bytes: bytes received from the output host.
        requests: requests sent to the API, retries included.
        rate_limited: responses with status 429.
        rate: requests per second that the rate limiter allows now, for all processes that share it; None: unlimited.
        paused_for: seconds until the pause after a 429 ends; 0 without one.
        queued: requests that wait for a slot or a permit; polls, of which any number may be due, count as one.
        degraded: the service gives no usable responses; until it does, requests are sent singly, at growing intervals.
        detection_lag: mean seconds that ready operations can have gone unnoticed (0 for those seen inside a long poll).
        detection_lag_max: the worst of them.
        peers: live processes that share the rate limiter, including this one; 0 without a shared store
            (``Settings(shared=…)``).
        store_unavailable: the shared store does not answer; this process continues alone meanwhile.
        unknown_statuses: status values that this version does not know; polling continues.
    """

    submitted: int = 0
    in_flight: int = 0
    active_submits: int = 0
    active_polls: int = 0
    ready: int = 0
    failed: int = 0
    active_downloads: int = 0
    downloads: int = 0
    bytes: int = 0
    requests: int = 0
    rate_limited: int = 0
    rate: float | None = None
    paused_for: float = 0.0
    queued: int = 0
    degraded: bool = False
    detection_lag: float = 0.0
    detection_lag_max: float = 0.0
    peers: int = 0
    store_unavailable: bool = False
    unknown_statuses: tuple[str, ...] = ()


def _file_rows(file: SavedFile) -> Rows:
    sound = f"{file.duration:.2f} s, {file.sample_rate} Hz, {format_channels(file.channels)}, {format_size(file.bytes)}"
    rows = [("file", html_cell(file.location)), ("audio", html_cell(sound))]
    if file.path is not None and not file.path.is_absolute():
        rows.append(("", audio_player(file.path)))
    return rows

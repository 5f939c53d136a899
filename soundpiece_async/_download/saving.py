"""The way to downloads and streams, half of the package, which is loaded when the first of them is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soundpiece_async._core.models import Operation, SavedFile
    from soundpiece_async._core.outputs import Handle, Output
    from soundpiece_async._core.settings import Settings
    from soundpiece_async._download.downloader import Downloader
    from soundpiece_async._download.places import Place
    from soundpiece_async._download.streaming import AudioStream
    from soundpiece_async._lifetime import Lifetime
    from soundpiece_async._reader import Reader
    from soundpiece_async._transport import Transport


class Saving:
    """One per session."""

    def __init__(self, settings: Settings, *, transport: Transport, reader: Reader) -> None:
        self._settings = settings
        self._transport = transport
        self._reader = reader
        self._downloader: Downloader | None = None

    def __repr__(self) -> str:
        return "<Downloader not asked for>" if self._downloader is None else repr(self._downloader)

    @property
    def streams_out(self) -> int:
        """Streams open now."""
        return 0 if self._downloader is None else self._downloader.streams_out

    @property
    def saved(self) -> int:
        """Files saved."""
        return 0 if self._downloader is None else self._downloader.saved

    @property
    def received(self) -> int:
        """Bytes of bodies that came from the output host."""
        return 0 if self._downloader is None else self._downloader.received

    async def deliver(
        self, what: Operation[Any] | Handle | Output, to: Place, *, name: str | None, overwrite: bool
    ) -> list[SavedFile] | SavedFile:
        """Save files; as ``Session.download``."""
        from soundpiece_async._download.delivery import deliver  # noqa: PLC0415 - loaded when first asked for

        downloader = self._load()
        return await deliver(what, to, name=name, overwrite=overwrite, reader=self._reader, downloader=downloader)

    def stream(self, output: Output, *, life: Lifetime) -> AudioStream:
        """Pass an output on; as ``Session.stream``."""
        from soundpiece_async._download.streaming import AudioStream  # noqa: PLC0415 - loaded when first asked for

        return AudioStream(output, open_passage=self._load().open, inside=life.inside, start=life.start_child)

    def _load(self) -> Downloader:
        from soundpiece_async._download.downloader import Downloader  # noqa: PLC0415 - loaded when first asked for

        if self._downloader is None:
            self._downloader = Downloader(
                stream=self._transport.stream,
                renew=self._reader.renew,
                limit=self._settings.limits.downloads,
                verify=self._settings.verify,
                keep_corrupt=self._settings.keep_corrupt,
                max_bytes=self._settings.limits.max_bytes,
                stalls=self._settings.retries.download_stalls,
            )
        return self._downloader

"""Where the files of recorded pieces are: what is written down of them, and what is still there."""

import os
from pathlib import Path

import attrs

from soundpiece_async._core.addresses import read_path
from soundpiece_async._core.models import SavedFile
from soundpiece_async._core.pieces import FileRecord, JobRecord
from soundpiece_async._download.places import Destination, Whereabouts, locate, read_place


@attrs.frozen
class Found:
    """What a look at the files of a piece gave.

    Attributes:
        files: all of them, if nothing more has to be fetched; None: something has.
        ours: whether what is in their place was saved by a run on record, and so may be replaced.
    """

    files: tuple[SavedFile, ...] | None
    ours: bool = False


class Shelf:
    """Files as a run wants them, beside files as the journal has them on record.

    Args:
        folder: the journal's, which paths on record are relative to.
        wanted_in: where this run wants the files; None: it wants none.
    """

    def __init__(self, folder: Path, *, wanted_in: Destination | None) -> None:
        self._folder = folder
        self._wanted_in = wanted_in

    def __repr__(self) -> str:
        return f"<Shelf {self._folder} wanted in={self._wanted_in!r}>"

    def look(self, piece: JobRecord) -> Found:
        """Look for the files of a piece; an object in a store is believed to be there. Blocks.

        To ask for each would cost a request; ``soundpiece verify`` does, and writes down what is missing.
        """
        if self._wanted_in is None:
            return Found(() if piece.outputs else None)
        wanted = read_place(self._wanted_in)
        where = Whereabouts(_normalise(wanted), None) if isinstance(wanted, Path) else locate(wanted)
        if not piece.files or any(self._locate(file) != where for file in piece.files):
            return Found(None)
        numbers = {output.index for output in piece.outputs}
        if not all(file.index in numbers and self._is_whole(file) for file in piece.files):
            return Found(None, ours=True)
        folder = wanted if isinstance(wanted, Path) else None
        return Found(tuple(_restore(piece, file, folder=folder) for file in piece.files), ours=True)

    def record(self, files: tuple[SavedFile, ...]) -> tuple[FileRecord, ...]:
        """Return what is written down of saved files."""
        wanted = None if self._wanted_in is None else read_place(self._wanted_in)
        endpoint = None if wanted is None or isinstance(wanted, Path) else locate(wanted).endpoint
        return tuple(
            FileRecord(
                path=file.name if file.path is None else os.path.relpath(file.path, self._folder),
                bytes=file.bytes,
                sha256=file.sha256,
                duration=file.duration,
                sample_rate=file.sample_rate,
                channels=file.channels,
                index=file.output.index,
                url=file.url,
                endpoint=endpoint,
                warnings=file.warnings,
                verified=file.verified,
            )
            for file in files
        )

    def _locate(self, file: FileRecord) -> Whereabouts:
        """Return in which folder, or store, a file on record is."""
        if file.url is not None:
            return Whereabouts(f"{file.url.rpartition('/')[0]}/", file.endpoint)
        return Whereabouts(_normalise((self._folder / file.path).parent), None)

    def _is_whole(self, file: FileRecord) -> bool:
        if file.url is None:
            return _size(self._folder / file.path) == file.bytes
        if file.url.startswith("file:///"):
            return _size(read_path(file.url)) == file.bytes
        # without a bucket it was this process's memory, or its place is unknown
        return not file.missing and ":///" not in file.url


def _normalise(folder: Path) -> str:
    return os.path.normpath(folder.absolute())


def _restore(piece: JobRecord, file: FileRecord, *, folder: Path | None) -> SavedFile:
    name = Path(file.path).name
    (output,) = (output for output in piece.outputs if output.index == file.index)
    return SavedFile(
        path=_local_path(file) if folder is None else folder / name,
        bytes=file.bytes,
        sha256=file.sha256,
        duration=file.duration,
        sample_rate=file.sample_rate,
        channels=file.channels,
        output=output,
        warnings=file.warnings,
        verified=file.verified or "none",
        url=file.url,
    )


def _local_path(file: FileRecord) -> Path | None:
    """Return the path of an object in a store that is a folder of this machine."""
    return read_path(file.url) if file.url and file.url.startswith("file://") else None


def _size(path: Path) -> int | None:
    """Give the size of a file, or None if there is none. Blocks."""
    try:
        return path.stat().st_size
    except OSError:
        return None

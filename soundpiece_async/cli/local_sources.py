"""Local files that jobs of a file take as their sources: uploaded to a bucket of the user's before the job is sent."""

import stat
from pathlib import Path

from soundpiece_async import AudioSource, InvalidRequest, SoundpieceError, upload_source
from soundpiece_async._download.destinations import expand_home
from soundpiece_async._download.upload import digest_file
from soundpiece_async.cli.console import UsageError
from soundpiece_async.cli.jobs_file import PENDING, Job

EXPIRES = 24 * 3600.0
"""Seconds for which URLs are signed."""


class LocalSources:
    """Finds and uploads the files of a jobs file.

    Args:
        folder: paths are relative to it: that of the jobs file, or the current one for standard input.
        via: URL of a folder in a bucket; None: local files are refused.
    """

    def __init__(self, folder: Path = Path(), via: str | None = None) -> None:
        self._folder = folder
        self._via = via

    def __repr__(self) -> str:
        return f"<LocalSources {self._folder} via={self._via is not None}>"

    def check(self) -> None:
        """Check that files can be uploaded there.

        Raises:
            UsageError: they cannot.
        """
        if self._via is not None:
            try:
                upload_source(self._folder, self._via)
            except SoundpieceError as error:
                raise UsageError(f"--via: {error}") from error

    def find_fault(self, file: str) -> str:
        """Return why a file cannot be a source, or nothing. Blocks."""
        if self._via is None:
            return "to upload a local file, add --via s3://bucket/folder"
        try:
            path = self._locate(file)
        except InvalidRequest as error:
            return str(error)
        try:
            found = stat.S_ISREG(path.stat().st_mode)
        except (OSError, ValueError):  # ValueError: such as a null character
            return f"no such file: {path}"
        return "" if found else f"not a regular file: {path}"

    def identify(self, job: Job) -> Job:
        """Return a job with the source that identifies it, without an upload. Blocks.

        Raises:
            UsageError: the file cannot be read.
        """
        if job.file is None:
            return job
        path = self._locate(job.file)
        try:
            return job.with_source(AudioSource(PENDING.url, sha256=digest_file(path)))
        except OSError as error:
            raise _unreadable(path, error) from error

    async def upload(self, job: Job) -> Job:
        """Return a job with a source that the service can fetch.

        Raises:
            UsageError: the file cannot be read.
            SoundpieceError: it cannot be uploaded.
        """
        if job.file is None or self._via is None:
            return job
        path = self._locate(job.file)
        try:
            return job.with_source(await upload_source(path, self._via, expires=EXPIRES))
        except OSError as error:
            raise _unreadable(path, error) from error

    def _locate(self, file: str) -> Path:
        """Return the path of a file of the jobs file.

        Raises:
            InvalidRequest: it is in the home folder of an unknown user.
        """
        return self._folder / expand_home(file, field="file")


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror}")

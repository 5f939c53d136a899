"""Where a bulk run and its journal are: in one folder, in two, or in a database, which many processes share."""

import os
import shlex
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import attrs
from cyclopts import Parameter, Token

from soundpiece_async import Journal, JournalError
from soundpiece_async._core.redaction import Secret, redact_url
from soundpiece_async._journal.folder_lock import LOCK, FolderLock
from soundpiece_async._journal.journal import JOURNAL, is_database
from soundpiece_async._journal.store import ExtraMissing, NoSuchRun, Outdated
from soundpiece_async.cli.arguments import parse_folder
from soundpiece_async.cli.console import UsageError

VARIABLE = "SOUNDPIECE_JOURNAL"
"""The environment variable for the URL of the database: an argument can be seen by every user of the machine."""


def parse_journal(kind: object, tokens: Sequence[Token]) -> str | Path:
    """Parse the place of a journal: a folder, or the URL of a database, whose password no message shows."""
    text = tokens[0].value
    return Secret(text, redact_url(text)) if is_database(text) else parse_folder(kind, tokens)


def check_run_name(_: object, name: str | None) -> None:
    """Raise ValueError if the name of a run is blank, as that of an unset variable is."""
    if name is not None and not name.strip():
        raise ValueError("The name of the run is empty.")


@attrs.frozen(kw_only=True)
class RunLocation:
    """Where a run is.

    Attributes:
        out: folder, or URL in an object store, of the files.
        where: of the journal: a folder, or the URL of a database.
        run: name of the run in the database; None: the journal is in a folder.
        arguments: that name all of it on a command line, without a password.
    """

    out: str | Path
    where: str | Path
    run: str | None
    arguments: str

    def __str__(self) -> str:
        return str(self.where) if self.run is None else f"the run {self.run!r} in {redact_url(str(self.where))}"

    @property
    def folder(self) -> Path:
        """Folder of the journal, if it is in one, or of the files.

        Raises:
            UsageError: both are elsewhere.
        """
        folder = self.out if self.run else self.where
        if isinstance(folder, Path):
            return folder
        raise UsageError(f"{redact_url(folder)} is not a local folder")

    async def open(self, **how: bool) -> Journal:
        """Open the journal.

        Args:
            how: as ``Journal.open`` has it.

        Raises:
            NoSuchRun: it is to be read, and the database has no such run.
            UsageError: the folder cannot be used, or an extra is missing.
            JournalError: the database cannot be used.
        """
        with self._usage_errors():
            return await Journal.open(self.where, run=self.run, **how)

    @asynccontextmanager
    async def reading(self, *, migrate: bool = False) -> AsyncGenerator[Journal]:
        """Open the journal to read it.

        Args:
            migrate: open it to write first if it is of an earlier version, for a command that will write it.

        Raises:
            UsageError: there is no such run, or the folder or what is in it cannot be used.
            JournalError: the database cannot be used.
        """
        with self._usage_errors(NoSuchRun):
            async with await self._open_to_read(migrate=migrate) as journal:
                yield journal

    async def _open_to_read(self, *, migrate: bool) -> Journal:
        try:
            return await Journal.open(self.where, run=self.run, read_only=True)
        except Outdated:
            if not migrate:
                raise
        await (await Journal.open(self.where, run=self.run)).aclose()
        return await Journal.open(self.where, run=self.run, read_only=True)

    async def open_existing(self) -> Journal | None:
        """Open the journal to read it; None: it does not exist yet. Raises as ``reading``."""
        if self.run is None and not await anyio.Path(self.folder, JOURNAL).exists():
            return None
        try:
            return await self.open(read_only=True)
        except NoSuchRun:
            return None

    @contextmanager
    def _usage_errors(self, *kinds: type[JournalError]) -> Iterator[None]:
        """Turn errors that the command line can avert into usage errors; a database may be back soon."""
        try:
            yield
        except JournalError as error:
            if self.run is None or isinstance(error, (ExtraMissing, Outdated, *kinds)):
                raise UsageError(str(error)) from error
            raise

    async def find_holder(self) -> str | None:
        """Return the process that works in the folder; None: none, or the journal is in a database.

        Raises:
            UsageError: the folder cannot be read.
        """
        if self.run is not None:
            return None
        with self._usage_errors():
            return await anyio.to_thread.run_sync(FolderLock(self.folder / LOCK).holder)

    def require_database(self, what: str) -> None:
        """Raise UsageError if the journal is in a folder, where one process works at a time."""
        if self.run is None:
            raise UsageError(
                f"{what} needs a journal in Postgres: --journal postgresql://user@host/name --run NAME; a journal in a "
                "folder has one process at a time"
            )


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class JournalOptions:
    """Where the journal is.

    Args:
        journal: folder for the journal and the report, if not OUT; or, with --run, the URL of a Postgres database,
            postgresql://user:password@host/name (default: SOUNDPIECE_JOURNAL). Later commands need the same options.
        run: name of the run in that database, where any number of processes may work on it.
    """

    journal: Annotated[str | Path | None, Parameter(converter=parse_journal)] = None
    run: Annotated[str | None, Parameter(validator=check_run_name)] = None

    def locate(self, out: str | Path) -> RunLocation:
        """Return where the run is whose files are in a folder, or in an object store.

        Raises:
            UsageError: the options contradict each other.
        """
        if self.run is not None:
            return self._locate_in_database(out, self.run)
        if isinstance(self.journal, str):
            raise UsageError(f"--journal {redact_url(self.journal)}: add --run NAME, the name of the run")
        where = self.journal or out
        if not isinstance(where, Path):
            raise UsageError(
                f"{redact_url(where)} is not a local folder, and the journal needs one: add --journal FOLDER, or "
                "--journal postgresql://user@host/name --run NAME"
            )
        arguments = [str(out), *(["--journal", str(self.journal)] if self.journal else [])]
        return RunLocation(out=out, where=where, run=None, arguments=shlex.join(arguments))

    def _locate_in_database(self, out: str | Path, run: str) -> RunLocation:
        given = self.journal
        where = os.environ.get(VARIABLE, "") if given is None else given
        if not isinstance(where, str) or not is_database(where):
            named = f"{VARIABLE} is not one" if where and given is None else "name it"
            raise UsageError(
                f"--run {run} needs the URL of a Postgres database, and {named}: --journal "
                f"postgresql://user@host/name, or in {VARIABLE}"
            )
        url = Secret(where, redact_url(where))
        arguments = [str(out), *([] if given is None else ["--journal", redact_url(where)]), "--run", run]
        return RunLocation(out=out, where=url, run=run, arguments=shlex.join(arguments))


DEFAULT_JOURNAL = JournalOptions()

"""The options of a bulk run: how hard it works, which the journal remembers, and on what terms, which it does not."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
from cyclopts import Parameter
from cyclopts.validators import Number

from soundpiece_async import Limits, RetryPolicy, Settings, SettingsError
from soundpiece_async.cli.arguments import POSITIVE
from soundpiece_async.cli.console import UsageError

if TYPE_CHECKING:
    from soundpiece_async import Session


OUTAGE_PATIENCE = 3600.0
"""Seconds an outage may last before pieces are left to the next run. A job of one night has that time."""

Count = Annotated[int | None, Parameter(validator=Number(gte=1))]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class LoadOptions:
    """How hard a run works; None: what the library does by itself.

    Args:
        in_flight: pieces that are begun and not finished yet, at most (1000).
        polls: polls on the wire, at most (100).
        downloads: files fetched at a time (8).
        requests_per_second: a ceiling; by default the account's limit is learned.
        piece_timeout: seconds to wait for a piece once it is submitted; the next run waits for it again (for ever).
        verify: what is checked of each file: none: its size; header: its FLAC header, too; full: every frame is decoded
            (header).
    """

    in_flight: Count = None
    polls: Count = None
    downloads: Count = None
    requests_per_second: Annotated[float | None, POSITIVE] = None
    piece_timeout: Annotated[float | None, POSITIVE] = None
    verify: Literal["header", "full", "none"] | None = None

    @property
    def explicit(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not None}

    def with_defaults(self, remembered: Mapping[str, Any]) -> "LoadOptions":
        """Fill in what is not given here from what an earlier run was given."""
        known = {name: value for name, value in remembered.items() if name in attrs.fields_dict(LoadOptions)}
        return LoadOptions(**{**known, **self.explicit})

    @property
    def limits(self) -> Limits:
        """Those that are limits of a session, with its defaults."""
        names = ("in_flight", "polls", "downloads", "requests_per_second")
        try:
            return Limits(**{name: value for name, value in self.explicit.items() if name in names})
        except SettingsError as error:
            raise UsageError(str(error)) from error

    def make_session(self) -> "Session":
        """Make a session of the environment and these; it is not open yet.

        Raises:
            UsageError: they make no sense, or the key is not set.
        """
        from soundpiece_async import Session  # noqa: PLC0415 - it brings aiohttp, and --help needs neither

        try:
            settings = Settings.from_environ(os.environ)
            return Session(
                attrs.evolve(
                    settings,
                    limits=self.limits,
                    retries=RetryPolicy(submit_max_elapsed=OUTAGE_PATIENCE),
                    verify=self.verify or settings.verify,
                )
            )
        except SettingsError as error:
            raise UsageError(str(error)) from error


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class RunPolicy:
    """On what terms a run works.

    Args:
        retry_failed: buy pieces that failed for good once more, with new keys. Nothing else makes a new key.
        resubmit_uncertain: send again what was sent over a day ago and never answered, or what the service does not
            know any more; it may be paid for twice.
        fail_fast: stop submitting at the first failure.
        max_failures: stop submitting after so many failures.
        dry_run: say what there is to do, and send nothing.
        show_all: print what earlier runs ended, too.
        as_json: print one line of JSON for each result, and a summary as the last one.
    """

    retry_failed: bool = False
    resubmit_uncertain: bool = False
    fail_fast: bool = False
    max_failures: Count = None
    dry_run: bool = False
    show_all: Annotated[bool, Parameter(name="--all", show_default=False)] = False
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False

    @property
    def failure_limit(self) -> float:
        """After how many failures to stop."""
        return 1 if self.fail_fast else self.max_failures or float("inf")


@attrs.frozen(kw_only=True)
class BulkOptions:
    """What is to be done.

    Attributes:
        jobs: the file.
        out: the folder for the files.
        journal: the folder for the journal; None: the same one.
        spooled: whether the file holds what standard input brought, and is not kept yet.
        knobs, policy: how.
    """

    jobs: Path
    out: Path
    journal: Path | None = None
    spooled: bool = False
    load: LoadOptions
    policy: RunPolicy

    @property
    def journal_folder(self) -> Path:
        """The folder of the journal."""
        return self.journal or self.out

    @property
    def jobs_title(self) -> str:
        """The jobs file as messages name it."""
        return "standard input" if self.spooled else str(self.jobs)

    @property
    def arguments(self) -> str:
        """What names both in a command."""
        return shlex.join([str(self.out), *(["--journal", str(self.journal)] if self.journal else [])])


DEFAULT_LOAD = LoadOptions()
DEFAULT_POLICY = RunPolicy()

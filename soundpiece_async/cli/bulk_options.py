"""Options of ``bulk``: load limits (saved in the journal) and policy (not saved)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
from cyclopts import Parameter
from cyclopts.validators import Number

from soundpiece_async import Journal, Limits, RetryPolicy, Settings, SettingsError
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async.cli.arguments import POSITIVE, WHOLE
from soundpiece_async.cli.console import UsageError
from soundpiece_async.cli.journal_options import RunLocation

if TYPE_CHECKING:
    from soundpiece_async import Session


OUTAGE_PATIENCE = 3600.0
"""Seconds an outage may last before jobs are left to the next run."""

Count = Annotated[int | None, Parameter(validator=Number(gte=1))]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class LoadOptions:
    """Load limits; None selects the default of the library.

    Args:
        in_flight: maximum number of unfinished jobs in flight (default: 1000).
        polls: maximum number of concurrent polls (default: 100).
        downloads: maximum number of concurrent downloads (default: 8).
        requests_per_second: maximum request rate (default: learned from the service).
        job_timeout: seconds to wait per job after submission; unfinished jobs resume next run (default: no limit).
        verify: check of each file: none (its size), header (and its FLAC header) or full (and every frame) (default:
            header).
        via: folder in a bucket, such as s3://bucket/inbox, to which local files that are sources are uploaded.
    """

    in_flight: Count = None
    polls: Count = None
    downloads: Count = None
    requests_per_second: Annotated[float | None, POSITIVE] = None
    job_timeout: Annotated[float | None, POSITIVE] = None
    verify: Literal["header", "full", "none"] | None = None
    via: str | None = None

    @property
    def explicit(self) -> dict[str, Any]:
        """The options that are not None."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not None}

    def with_defaults(self, remembered: Mapping[str, Any]) -> "LoadOptions":
        """Return these options, with those of an earlier run where they are None."""
        known = {name: value for name, value in remembered.items() if name in attrs.fields_dict(LoadOptions)}
        return LoadOptions(**{**known, **self.explicit})

    @property
    def limits(self) -> Limits:
        """Limits of the session."""
        names = ("in_flight", "polls", "downloads", "requests_per_second")
        try:
            return Limits(**{name: value for name, value in self.explicit.items() if name in names})
        except SettingsError as error:
            raise UsageError(str(error)) from error

    def make_session(self) -> "Session":
        """Return a session, not open yet, from the environment and these options.

        Raises:
            UsageError: an option is invalid, or the key is not set.
        """
        from soundpiece_async import Session  # it brings aiohttp, and --help needs neither

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
    """When a run retries, stops and prints.

    Args:
        retry_failed: run failed jobs again with new keys (charges again); no other option generates new keys.
        resubmit_uncertain: resend jobs that were sent over a day ago without a response, or that the service no longer
            knows; they may be charged twice.
        fail_fast: stop submitting after the first failure.
        max_failures: stop submitting after this many failures.
        dry_run: report what would be done and send nothing.
        show_all: print the results of earlier runs too.
        as_json: print one line of JSON for each result, and a summary as the last line.
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
        """Number of failures after which the run stops."""
        return 1 if self.fail_fast else self.max_failures or float("inf")


@attrs.frozen(kw_only=True)
class BulkOptions:
    """All options of a bulk run.

    Attributes:
        location: of the files and the journal.
        load, policy: see there.
    """

    location: RunLocation
    load: LoadOptions
    policy: RunPolicy

    def with_defaults(self, kept: JsonObject) -> "BulkOptions":
        """Return these options, with the limits of an earlier run, of what its journal keeps, where they are None."""
        known = kept.get("options")
        return attrs.evolve(self, load=self.load.with_defaults(known if isinstance(known, dict) else {}))

    async def open_journal(self) -> Journal:
        """Open the journal to write it; raises as ``RunLocation.open``."""
        return await self.location.open(
            resubmit_uncertain=self.policy.resubmit_uncertain, retry_failed=self.policy.retry_failed
        )


@attrs.frozen(kw_only=True)
class JobsFile:
    """A jobs file.

    Attributes:
        path: of the file.
        spooled: whether it is a temporary copy of standard input.
        sources: folder of the local files that jobs name by relative paths; None: that of the jobs file.
        part: the part of it that is run.
    """

    path: Path
    spooled: bool = False
    sources: Path | None = None
    part: tuple[int, int] = WHOLE

    def __str__(self) -> str:
        return "standard input" if self.spooled else str(self.path)


DEFAULT_LOAD = LoadOptions()
DEFAULT_POLICY = RunPolicy()

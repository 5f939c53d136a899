"""Results of a bulk run: classified, counted, and formatted as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import attrs

from soundpiece_async import (
    DownloadError,
    Failed,
    InvalidRequest,
    JournalError,
    NotFound,
    Operation,
    Request,
    SavedFile,
    SettingsError,
    SoundpieceError,
    Succeeded,
)
from soundpiece_async._core import job_records
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._journal.store import TakenOver
from soundpiece_async.cli.dependents import Blocked
from soundpiece_async.cli.jobs_file import Job

Result = Succeeded[Request] | Failed[Request]


class JobOutcome(StrEnum):
    """Possible outcomes of a job."""

    SAVED = "saved"
    FAILED = "failed"
    """Permanently: only ``--retry-failed`` runs it again."""
    UNFINISHED = "unfinished"
    """Not done in this run; the next run resumes it."""
    UNCERTAIN = "uncertain"
    """Sent long ago without a response, or unknown to the service; ``--resubmit-uncertain`` sends it again."""
    BLOCKED = "blocked"
    """Not sent: its source has no output for it."""
    TAKEN_OVER = "taken_over"
    """Another process continues it, and has its result."""
    UNSENT = "unsent"
    """The run was stopped before."""


class RunStopped(SoundpieceError):
    """A run stops submitting for its own reasons: a signal, or too many failures."""


def classify_result(result: Result) -> JobOutcome:
    """Return the outcome of a job."""
    match result:
        case Succeeded():
            return JobOutcome.SAVED
        case Failed(error=SettingsError(), operation=Operation()):
            return JobOutcome.UNFINISHED  # its files have no destination
        case Failed(error=RunStopped() | SoundpieceError(stops_run=True)):
            return JobOutcome.UNSENT
        case Failed(error=TakenOver()):
            return JobOutcome.TAKEN_OVER
        case Failed(error=JournalError()) | Failed(error=NotFound(), operation=Operation()):
            return JobOutcome.UNCERTAIN
    error, submitted = result.error, result.operation is not None
    refused = isinstance(error, InvalidRequest)  # the journal has its key for another route
    final = refused or result.from_journal or job_records.classify_failure(error, submitted=submitted)
    return JobOutcome.FAILED if final else JobOutcome.UNFINISHED


@attrs.define
class ResultCounts:
    """Counts of the results so far.

    Attributes:
        lines: lines of the jobs file.
        outcomes: jobs by outcome.
        earlier: jobs that were done in earlier runs.
        fresh_failures: failures of this run.
        unsaved: failures whose outputs exist and could not be saved.
        files, bytes: saved.
        echo_differences: how often each field was echoed with another value.
        stop_error: the error that stopped the run.
    """

    lines: int
    outcomes: Counter[JobOutcome] = attrs.field(factory=Counter)
    earlier: int = 0
    fresh_failures: int = 0
    unsaved: int = 0
    files: int = 0
    bytes: int = 0
    echo_differences: Counter[str] = attrs.field(factory=Counter)
    stop_error: SoundpieceError | None = None

    @property
    def failures(self) -> int:
        """Jobs without files that were this process's, for any reason except that the run was stopped."""
        others = (JobOutcome.SAVED, JobOutcome.TAKEN_OVER, JobOutcome.UNSENT)
        return sum(self.outcomes[one] for one in JobOutcome if one not in others)

    @property
    def ended(self) -> int:
        """Jobs with a result, or that another process has."""
        return self.outcomes[JobOutcome.SAVED] + self.outcomes[JobOutcome.TAKEN_OVER] + self.failures

    def add(self, result: Result) -> JobOutcome:
        """Count a result and return its outcome."""
        outcome = classify_result(result)
        self.outcomes[outcome] += 1
        self.earlier += result.from_journal
        self.echo_differences.update(result.operation.echo_differences if result.operation else ())
        match result:
            case Succeeded(files=files):
                self.files += len(files)
                self.bytes += sum(file.bytes for file in files)
            case Failed(error=SoundpieceError(stops_run=True) as stop_error):
                self.stop_error = self.stop_error or stop_error
            case Failed(from_journal=False, error=error) if outcome not in (JobOutcome.UNSENT, JobOutcome.TAKEN_OVER):
                self.fresh_failures += 1
                self.unsaved += outcome is JobOutcome.FAILED and isinstance(error, DownloadError)
        return outcome

    def to_json(self) -> JsonObject:
        """Return the counts as a JSON object; ``left`` is the number of lines without a result."""
        counts = {str(one): self.outcomes[one] for one in JobOutcome if one is not JobOutcome.UNSENT}
        left = self.lines - self.ended
        return {
            "lines": self.lines,
            **counts,
            "left": left,
            "earlier": self.earlier,
            "files": self.files,
            "bytes": self.bytes,
            "echo_differences": dict(self.echo_differences),
        }


def format_blocked(blocked: Blocked) -> str:
    """Return one line of JSON about a blocked job."""
    return json.dumps(
        {
            "line": blocked.line,
            "name": blocked.name,
            "route": blocked.route,
            "status": JobOutcome.BLOCKED,
            "source": {"line": blocked.source},
            "blocked_by": {"line": blocked.blocked_by},
            "error": {"kind": "Blocked", "text": blocked.reason},
        }
    )


def format_json_line(job: Job, result: Result, outcome: JobOutcome) -> str:
    """Return one line of JSON about a result, without signed URLs."""
    operation = result.operation
    members: JsonObject = {
        "line": job.line or None,
        "name": job.name,
        "metadata": job.metadata,
        "route": job.request.route,
        "status": outcome,
        "from_journal": result.from_journal,
        "id": operation and operation.id,
        "idempotency_key": operation and operation.idempotency_key,
        "echo_differences": list(operation.echo_differences) if operation else [],
        "files": files_to_json(result.files) if isinstance(result, Succeeded) else [],
    }
    if isinstance(result, Failed):
        members["error"] = {"kind": type(result.error).__name__, "text": str(result.error)}
    return json.dumps(members)


def format_saved(files: Sequence[SavedFile]) -> str:
    """Return the locations of saved files as part of a message, or ""."""
    return f"saved: {', '.join(file.location for file in files)}" if files else ""


def files_to_json(files: Sequence[SavedFile]) -> list[JsonObject]:
    """Return the records of files as JSON objects."""
    return [
        {
            "path": file.location,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "duration": file.duration,
            "sample_rate": file.sample_rate,
            "channels": file.channels,
            "kind": file.output.kind,
        }
        for file in files
    ]

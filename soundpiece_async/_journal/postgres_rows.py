"""What is read from and written to the rows of a journal in Postgres."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence

from soundpiece_async._core import job_records
from soundpiece_async._core.job_records import (
    Failure,
    FileRecord,
    JobIdentity,
    JobRecord,
    JobState,
)
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.redaction import SecretBytes
from soundpiece_async._journal.store import (
    Overview,
    PlannedJob,
    Refusal,
    make_group,
    read_counts,
    read_job,
    replace_surrogates,
)


def read_record(row: JsonObject) -> JobRecord:
    """Make a job of its row."""
    return read_job(row, attempt=row["attempt"], taken=row["taken"])


def read_refusal(text: str | None) -> Refusal | None:
    """Read what stops all processes of a run."""
    if text is None:
        return None
    status, key, at = text.split()
    return Refusal(int(status), key, float(at))


def storable(text: str) -> str:
    """Return text as Postgres can store it."""
    return replace_surrogates(text).replace("\0", "\ufffd")


def identity_values(identity: JobIdentity) -> JsonObject:
    """Return the values that find a job; a key that was given is all of them."""
    key = None if identity.key is None else storable(identity.key)
    return {"digest": identity.digest, "occurrence": identity.occurrence, "key": key}


def new_values(job: PlannedJob) -> JsonObject:
    """Return the values of a job that is to be recorded."""
    name, metadata, line, source = job.annotation.as_row()
    named = {"name": None if name is None else storable(name), "metadata": metadata, "line": line, "source": source}
    return {
        **identity_values(job.identity),
        "new_key": storable(job.key),
        "route": job.route,
        "body": SecretBytes(job.body),
        **named,
    }


def failure_values(failure: Failure) -> JsonObject:
    """Return the values of a failure."""
    code, text = storable(failure.code), storable(failure.text)
    return {"error": failure.kind, "code": code, "text": text, "retryable": failure.retryable}


def files_values(files: tuple[FileRecord, ...]) -> JsonObject:
    """Return the values of saved files."""
    return {"files": job_records.write_files(files), "verified": ",".join(file.verified or "" for file in files)}


def read_overview(rows: Sequence[JsonObject]) -> Overview:
    """Sum up groups of jobs that are alike, as ``LOOK_OVER`` counts them.

    Raises:
        JournalError: one is in a state that there is not.
    """
    routes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    dependents, verified, differences = Counter[str](), Counter[str](), Counter[str]()
    numbers, texts = Counter[tuple[str, str]](), dict[tuple[str, str], str]()
    for row in rows:
        state, jobs = row["now_state"], row["jobs"]
        routes[row["route"]][state] += jobs
        if row["dependents"]:
            dependents[state] += row["dependents"]
        if state == JobState.SAVED and row["verified"] is not None:
            for level in row["verified"].split(","):
                verified[level] += jobs
        for member in json.loads(row["echo_differences"] or "[]"):
            differences[member] += jobs
        if state == JobState.FAILED:
            reason = row["error_kind"], row["error_code"]
            numbers[reason] += jobs
            texts[reason] = min(texts.get(reason, row["text"]), row["text"])
    commonest = sorted(numbers, key=lambda reason: (-numbers[reason], reason))
    return Overview(
        routes={route: read_counts(list(routes[route].items())) for route in sorted(routes)},
        dependents=read_counts(list(dependents.items())),
        failures=tuple(make_group(*reason, texts[reason], numbers[reason]) for reason in commonest),
        verified=dict(sorted(verified.items())),
        echo_differences=dict(sorted(differences.items())),
        ended=sum(row["ended"] for row in rows),
    )

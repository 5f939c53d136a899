"""Writes the report of a bulk run, ``report.html`` and ``report.json``, beside its files.

1. The journal is read once, a page at a time, and rows are written as they come: memory does not grow with the run.
2. Each file is replaced atomically.
3. Foreign text stays text: every ``<`` of it is escaped in the page, whose policy allows no script but its own, and no
   resource but the files beside it.
4. Signatures of URLs and API keys are redacted everywhere, except in the paths of files, which must stay correct.
"""

import json
import os
import re
import shlex
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import anyio.to_thread

from soundpiece_async import Journal
from soundpiece_async._core.job_records import JobRecord
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._regularfiles import NO_LINK, open_regular
from soundpiece_async._version import __version__
from soundpiece_async.cli.blocked_jobs import read_blocked_jobs
from soundpiece_async.cli.report.rows import blocked_row, blocked_to_json, job_to_json, redact_json, table_row, to_iso
from soundpiece_async.cli.report.summary import Summary

HTML, JSON = "report.html", "report.json"
PAGE_JOBS = 500
"""Jobs that are in memory at a time."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


async def write_report(journal: Journal, *, folder: Path | None = None, resume: str | None = None) -> Path:
    """Write both files into a folder, and return the path of ``report.html``.

    Args:
        journal: of the run.
        folder: that of the files; None: that of the journal.
        resume: the command that resumes the run, shown on the page; default: ``soundpiece resume`` with the folder.

    Raises:
        JournalError: the journal cannot be read.
        OSError: the folder is not writable; earlier reports are unchanged.
    """
    folder = journal.folder if folder is None else folder
    command = resume or f"soundpiece resume {shlex.quote(str(folder))}"
    title = journal.run or folder.name
    with ExitStack() as stack:
        report = await anyio.to_thread.run_sync(
            lambda: stack.enter_context(_Report(folder, title=title, resume=command, now=journal.store.now))
        )
        after = 0
        while jobs := await journal.jobs(after=after, limit=PAGE_JOBS):
            await anyio.to_thread.run_sync(report.add, jobs)
            after = jobs[-1].number
        async with aclosing(read_blocked_jobs(journal.store)) as pages:
            async for page in pages:
                await anyio.to_thread.run_sync(report.add_blocked, page)
        return await anyio.to_thread.run_sync(report.finish)


class _Report:
    """The two files while they are written; everything here blocks."""

    def __init__(self, folder: Path, *, title: str, resume: str, now: float) -> None:
        self._folder = folder
        self._title = title
        self._resume = resume
        self._sums = Summary(now=now)
        with ExitStack() as stack:
            self._lines = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            self._blocks = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, jobs: Sequence[JobRecord]) -> None:
        """Write a page of jobs."""
        block = []
        for job in jobs:
            reason = self._sums.add(job)
            described = job_to_json(job, now=self._sums.now)
            self._lines.write(b",\n" if self._lines.tell() else b"")
            self._lines.write(_to_json(described))
            block.append(table_row(job, described, route=self._sums.routes[job.route], reason=reason))
        self._blocks.write(b'<script type="application/json" data-jobs>%s</script>\n' % _to_embedded_json(block))

    def add_blocked(self, jobs: Sequence[Mapping[str, JsonValue]]) -> None:
        """Write the jobs that could not be sent, because of their source."""
        block = []
        for job in jobs:
            self._sums.add_blocked(str(job["route"]))
            described = blocked_to_json(job)
            self._lines.write(b",\n" if self._lines.tell() else b"")
            self._lines.write(_to_json(described))
            block.append(blocked_row(described, route=self._sums.routes[described["route"]]))
        self._blocks.write(b'<script type="application/json" data-jobs>%s</script>\n' % _to_embedded_json(block))

    def finish(self) -> Path:
        """Assemble the files, and once both are on disk, rename them into place."""
        summary = {"made_at": self._sums.now, "version": __version__, **self._sums.to_json()}
        head = b'{"summary": %s,\n"jobs": [\n' % _to_json(redact_json(_with_iso_times(summary)))
        shown = {**summary, "folder": self._title, "resume": self._resume, "routes": list(self._sums.routes)}
        with ExitStack() as leftovers:
            for name, parts in ((JSON, (head, self._lines, b"\n]}\n")), (HTML, self._fill_page(redact_json(shown)))):
                leftovers.callback(self._part(name).unlink, missing_ok=True)
                _write_file(self._part(name), parts)
            for name in (JSON, HTML):
                self._part(name).replace(self._folder / name)
        return self._folder / HTML

    def _part(self, name: str) -> Path:
        return self._folder / f".{name}.part"

    def _fill_page(self, shown: JsonObject) -> Iterable[bytes | BinaryIO]:
        """Yield the template with its placeholders filled in; inserted text is not searched for placeholders."""
        style, script = _asset("report.css"), _asset("report.js")
        policy = (
            f"default-src 'none'; script-src '{_csp_hash(script)}'; style-src '{_csp_hash(style)}'; img-src data:; "
            "media-src 'self' file:; base-uri 'none'; form-action 'none'"
        )
        values: dict[str, bytes | BinaryIO] = {
            "policy": policy.encode(),
            "title": escape(f"{self._title}: bulk run").encode(errors="replace"),
            "style": style.encode(),
            "script": script.encode(),
            "summary": _to_embedded_json(shown),
            "jobs": self._blocks,
        }
        for number, part in enumerate(_PLACEHOLDER.split(_asset(HTML))):
            yield values[part] if number % 2 else part.encode()


def _write_file(path: Path, parts: Iterable[bytes | BinaryIO]) -> None:
    """Write a file and fsync it."""
    with os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK), "wb") as file:
        for part in parts:
            if isinstance(part, bytes):
                file.write(part)
            else:
                part.seek(0)
                shutil.copyfileobj(part, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _with_iso_times(summary: JsonObject) -> JsonObject:
    """Return the summary with times in ISO 8601, as ``report.json`` has them."""
    throughput = summary["throughput"]
    bins = [{"from": to_iso(start), "saved": saved, "failed": failed} for start, saved, failed in throughput["bins"]]
    return {
        **summary,
        **{name: to_iso(summary[name]) for name in ("made_at", "began", "ended")},
        "throughput": {"seconds": throughput["width"], "bins": bins},
    }


def _to_json(value: JsonValue) -> bytes:
    """Return JSON; lone surrogates become question marks."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")


def _to_embedded_json(value: JsonValue) -> bytes:
    """Return JSON for a page: it contains no ``<`` (rule 3)."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").encode(errors="replace")


def _csp_hash(text: str) -> str:
    """Return the hash of a script or style for the policy."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return files("soundpiece_async.cli.report").joinpath(name).read_text(encoding="utf-8")

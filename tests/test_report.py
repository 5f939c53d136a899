"""The report of a bulk run: what it says, that hostile words stay words, and that nothing secret is in it."""

import json
import os
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest
from helpers.reports import BEGAN, FAILED, SIGNATURE, STEMS, make_journal, saved
from helpers.simulation import simulate
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async import Journal
from soundpiece_async._core.job_records import Failure, JobRecord, JobState
from soundpiece_async.cli.bulk import bulk, resume
from soundpiece_async.cli.report import write_report
from soundpiece_async.cli.report.rows import job_to_json, redact_json, table_row
from soundpiece_async.cli.report.summary import MAX_BINS, MAX_FAILURE_GROUPS, Histogram, Summary

pytestmark = pytest.mark.anyio

HOSTILE = "</script><script>alert(1)</script><!-- <script> ]]> \u2028 \x00 & \" '"


class Page(HTMLParser):
    """Reads the elements of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[tuple[Mapping[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_data(self, data: str) -> None:
        """Note the text of a script."""
        if self.lasttag == "script" and data.strip():
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))

    @property
    def summary(self) -> dict[str, Any]:
        """What the page says of the run as a whole."""
        return next(json.loads(text) for attributes, text in self.scripts if attributes.get("id") == "summary")

    @property
    def rows(self) -> list[list[Any]]:
        """Rows of the jobs in the page."""
        return [row for attributes, text in self.scripts if "data-jobs" in attributes for row in json.loads(text)]


async def report(folder: Path, *rows: Mapping[str, Any]) -> tuple[dict[str, Any], Page]:
    """Write the report of a journal with these rows, and read it."""
    await make_journal(folder, list(rows))
    async with Journal.open(folder, read_only=True) as journal:
        assert await write_report(journal) == folder / "report.html"
    return json.loads((folder / "report.json").read_bytes()), Page((folder / "report.html").read_text())


def planned(**changes: Any) -> JobRecord:
    """Return a job that was only planned."""
    made = JobRecord(number=1, digest=b"", key="k", route="create.new_fx", body=b"{}", state=JobState.PLANNED)
    return attrs.evolve(made, **changes)


async def test_a_report_counts_the_jobs_of_the_journal(tmp_path: Path) -> None:
    """By state, with files, bytes, seconds, and the times of begin and end."""
    rows = [saved("a"), saved("b", kinds=STEMS, began=BEGAN + 60, wait=20), FAILED | {"ended_at": BEGAN + 9.5}, {}]
    found, page = await report(tmp_path, *rows)
    summary = found["summary"]
    assert summary["jobs"] == 4
    assert summary["counts"] == {"planned": 1, "saved": 2, "failed": 1}
    assert (summary["files"], summary["bytes"], summary["seconds"]) == (5, 441_000, 10.0)
    assert summary["began"] == "2026-05-28T20:26:40.000+00:00"
    assert summary["ended"] == "2026-05-28T20:28:00.750+00:00"
    assert summary["throughput"] == {
        "seconds": 1,
        "bins": [
            {"from": "2026-05-28T20:26:45.000+00:00", "saved": 1, "failed": 0},
            {"from": "2026-05-28T20:26:49.000+00:00", "saved": 0, "failed": 1},
            {"from": "2026-05-28T20:28:00.000+00:00", "saved": 1, "failed": 0},
        ],
    }
    assert page.summary["counts"] == summary["counts"]
    assert page.summary["began"] == BEGAN
    assert [row[3] for row in page.rows] == ["saved", "saved", "failed", "planned"]


async def test_a_report_has_waiting_times_by_route(tmp_path: Path) -> None:
    """Quantiles by rank; jobs without both times, or with a clock set back, do not count."""
    waits = [saved(str(n), wait=float(n)) for n in range(1, 101)]
    odd = [saved("back", wait=-3.0), saved("old") | {"submitted_at": None}]
    found, _ = await report(tmp_path, *waits, *odd, saved("song", wait=40.0) | {"route": "create.new_song"})
    fx, song = found["summary"]["waiting"]
    assert fx == {"route": "create.new_fx", "jobs": 100} | {
        "p5": 6.0,
        "p25": 26.0,
        "median": 51.0,
        "p75": 76.0,
        "p95": 96.0,
        "longest": 100.0,
    }
    assert (song["route"], song["median"]) == ("create.new_song", 40.0)
    assert found["jobs"][0]["waited"] == 1.0
    assert found["jobs"][100]["waited"] is None


async def test_failures_are_grouped_by_reason(tmp_path: Path) -> None:
    """The most frequent first; each failed job refers to its group and has its own message."""
    own = FAILED | {"error_code": "policy", "error_text": "not this"}
    found, page = await report(tmp_path, FAILED, own, own | {"error_text": "nor that"})
    assert found["summary"]["failures"] == [
        {"id": 1, "kind": "OperationFailed", "code": "policy", "text": "not this", "retryable": True, "jobs": 2},
        {"id": 0, "kind": "OperationFailed", "code": "busy", "text": "later", "retryable": True, "jobs": 1},
    ]
    assert [(row[9], row[10]) for row in page.rows] == [(0, "later"), (1, "not this"), (1, "nor that")]
    assert found["jobs"][2]["error"] == {
        "kind": "OperationFailed",
        "code": "policy",
        "text": "nor that",
        "retryable": True,
    }


async def test_a_job_that_was_sent_long_ago_is_uncertain(tmp_path: Path) -> None:
    """As in ``count``."""
    found, page = await report(tmp_path, {"state": "sending", "sent_at": BEGAN - 1e8})
    assert found["summary"]["counts"] == {"uncertain": 1}
    assert page.rows[0][3] == found["jobs"][0]["state"] == "uncertain"


async def test_an_empty_report_is_complete(tmp_path: Path) -> None:
    """A run without lines writes both files."""
    found, page = await report(tmp_path)
    assert found["jobs"] == page.rows == []
    assert found["summary"]["began"] is None
    assert sorted(path.name for path in tmp_path.iterdir() if "journal" not in path.name) == [
        "report.html",
        "report.json",
    ]


async def test_jobs_keep_their_order_over_many_pages(tmp_path: Path) -> None:
    """The journal is read a page at a time; no job is lost or doubled between pages."""
    found, page = await report(tmp_path, *[{}] * 1001)
    assert [job["number"] for job in found["jobs"]] == [row[0] for row in page.rows] == list(range(1, 1002))


async def test_foreign_text_stays_text(tmp_path: Path) -> None:
    """No element of the page comes from a line, a name, the service or the folder."""
    words = {
        "name": HOSTILE,
        "title": HOSTILE,
        "metadata": json.dumps({HOSTILE: [HOSTILE]}),
        "body": json.dumps({"prompt": HOSTILE}).encode(),
        "route": HOSTILE,
    }
    folder = tmp_path / "<script>alert(2)<"
    folder.mkdir()
    plain, hostile = tmp_path / "plain", folder
    plain.mkdir()
    _, expected = await report(plain, saved("a"), FAILED)
    found, page = await report(
        hostile, saved("a") | words, FAILED | words | {"error_text": HOSTILE, "error_code": HOSTILE}
    )
    assert page.tags == expected.tags
    assert page.summary["folder"] == folder.name
    assert [row[1] for row in page.rows] == [HOSTILE] * 2
    assert page.rows[1][10] == HOSTILE
    assert found["jobs"][0]["metadata"] == {HOSTILE: [HOSTILE]}
    assert "alert(1)</script>" not in (folder / "report.html").read_text()


async def test_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    """Its policy names script and style by their hashes, and allows no other resources."""
    await report(tmp_path, {})
    text = (tmp_path / "report.html").read_text()
    (policy,) = [line for line in text.splitlines() if "Content-Security-Policy" in line]
    assert "default-src 'none'; script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert "http" not in policy.replace("http-equiv", "")


async def test_no_signature_and_no_key_is_in_a_report(tmp_path: Path) -> None:
    """URLs lose their queries, also inside a text, and keys are redacted."""
    url = f"https://user:word@media.example.com/a.wav?{SIGNATURE}"
    key = "spk_a_key_that_nobody_may_ever_see"
    words = {
        "name": f"see {key}",
        "body": json.dumps(
            {
                "prompt": f"as in {url}, with {key}",
                "source": {"url": f"https://x.example/a b?{SIGNATURE}"},
                "callback_url": f"https://x.example/ c?{SIGNATURE}",
            }
        ).encode(),
        "metadata": json.dumps({"from": url, f"{key} {url}": [key]}),
    }
    row = saved("a", **words)
    failed = FAILED | words | {"error_text": f"GET {url}: 403 {key}", "error_code": key}
    found, page = await report(tmp_path, row, failed)
    for name in ("report.html", "report.json"):
        text = (tmp_path / name).read_text()
        assert SIGNATURE not in text
        assert "user:word" not in text
        assert key not in text
    assert found["jobs"][0]["request"]["source"] == {"url": "https://x.example/a b?…"}
    assert found["jobs"][1]["error"]["text"] == "GET https://media.example.com/a.wav?… 403 spk_…"
    assert page.rows[0][4].startswith("as in https://media.example.com/a.wav?… with spk_…")


async def test_links_to_files_are_quoted(tmp_path: Path) -> None:
    """Names may contain characters with a meaning in URLs; a file in a store has no player."""
    names = ["100% #1?.flac", "a/ä.flac", os.fsdecode(b"\xff.flac")]
    row = saved("a", kinds=(None, None, None, None))
    files = json.loads(row["files"])
    for file, name in zip(files, names, strict=False):
        file["path"] = name
    files[3] |= {"url": "s3://bucket/b.flac", "duration": float("inf")}
    found, page = await report(tmp_path, row | {"files": json.dumps(files)})
    assert [file[:2] for file in page.rows[0][8]] == [
        ["100%25%20%231%3F.flac", "100% #1?.flac"],
        ["a/%C3%A4.flac", "ä.flac"],
        ["%FF.flac", "?.flac"],
        [None, "s3://bucket/b.flac"],
    ]
    assert found["jobs"][0]["files"][1]["path"] == "a/ä.flac"
    assert found["jobs"][0]["files"][3]["duration"] is None


async def test_the_page_shows_the_best_name_of_a_job(tmp_path: Path) -> None:
    """The stem of its files, else the name, else its prompt or lyrics; long texts are shortened."""
    long = {
        "body": json.dumps({"lyrics": "la " * 500, "reference": {"url": "https://x.example/y"}, "source": 1}).encode()
    }
    remix = json.dumps({"source": {"url": f"https://x.example/y?{SIGNATURE}"}, "prompt": "as\n a waltz"}).encode()
    rows = [saved("a") | {"title": "a-2"}, {"name": "b", "body": remix}, {"operation": "op_1"}, long]
    found, page = await report(tmp_path, *rows)
    assert [row[1] for row in page.rows] == ["a-2", "b", "", ""]
    assert page.rows[1][4] == "as a waltz · https://x.example/y?…"
    assert len(page.rows[3][4]) == 160
    assert found["jobs"][3]["request"]["lyrics"] == "la " * 500


async def test_an_earlier_report_stays_when_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    """Both files are replaced, or neither; no partial file is left."""
    await report(tmp_path, {})
    before = {path.name: path.read_bytes() for path in tmp_path.glob("report.*")}
    blocked = tmp_path / ".report.html.part"
    blocked.mkdir()
    async with Journal.open(tmp_path) as journal:
        with pytest.raises(OSError, match="directory"):
            await write_report(journal)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("report.*")} == before
    assert list(tmp_path.glob(".*")) == [blocked]


def test_invalid_json_values_are_left_out() -> None:
    """Metadata may be deep, and a journal may have been edited; the report is written all the same."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    odd = planned(metadata=deep, body=b"{", sent_at=1e300, ended_at=-1.0, state=JobState.SAVED)
    assert job_to_json(attrs.evolve(odd, body=b"[]"), now=BEGAN)["request"] == {}
    described = job_to_json(odd, now=BEGAN)
    assert described["metadata"] == "(nested too deeply to be shown)"
    assert described["request"] == {}
    assert described["sent_at"] is described["ended_at"] is None
    assert redact_json({"n": [float("nan"), 1.5, None, True]}) == {"n": [None, 1.5, None, True]}
    summary = Summary(now=BEGAN)
    assert summary.add(odd) is None
    assert summary.to_json()["ended"] is None
    while deep:
        deep = deep.pop()  # or the interpreter's stack would have to hold it all when it goes


def test_an_error_without_a_message_shows_its_kind() -> None:
    """The service need not give a reason."""
    failed = planned(state=JobState.FAILED, failure=Failure("CorruptAudio", "", "", retryable=True))
    assert table_row(failed, job_to_json(failed, now=BEGAN), route=0, reason=None)[10] == "CorruptAudio"


def test_failure_groups_are_bounded() -> None:
    """Codes come from the service, and there may be many."""
    summary = Summary(now=BEGAN)
    for number in range(2 * MAX_FAILURE_GROUPS):
        summary.add(planned(state=JobState.FAILED, failure=Failure("OperationFailed", str(number), "", retryable=True)))
    found = summary.to_json()["failures"]
    assert len(found) == MAX_FAILURE_GROUPS + 1
    assert (found[0]["kind"], found[0]["jobs"]) == ("other reasons", MAX_FAILURE_GROUPS)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.booleans()), min_size=1))
def test_a_histogram_has_few_bins_and_loses_nothing(ends: list[tuple[float, bool]]) -> None:
    """The chart of any run can be drawn; each job is in the bin of its time."""
    timeline = Histogram()
    for moment, was_saved in ends:
        timeline.add(moment, saved=was_saved)
    rows = timeline.rows()
    assert (rows[-1][0] - rows[0][0]) / timeline.width < MAX_BINS
    expected: dict[int, list[int]] = {}
    for moment, was_saved in ends:
        counts = expected.setdefault(int(moment // timeline.width) * timeline.width, [0, 0])
        counts[not was_saved] += 1
    assert rows == [(start, *counts) for start, counts in sorted(expected.items())]


async def test_a_bulk_run_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a resumed one; a run that cannot write it prints a message and fails."""
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    jobs.write_text('\n{"route": "create.new_fx", "prompt": "door", "duration": 1, "name": "door", "metadata": [7]}\n')
    async with simulate() as sim:
        for name, value in sim.environ.items():
            monkeypatch.setenv(name, value)
        assert await bulk(jobs, out) == 0
        (found,) = json.loads((out / "report.json").read_bytes())["jobs"]
        assert (found["name"], found["metadata"], found["state"], found["line"]) == ("door", [7], "saved", 2)
        assert (out / found["files"][0]["path"]).stat().st_size == found["files"][0]["bytes"]
        assert found["waited"] is not None
        for name in ("report.json", "report.html"):
            text = (out / name).read_text()
            assert sim.api_key not in text
            assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
        assert str(out / "report.html") in capsys.readouterr().err
        (out / ".report.html.part").mkdir()
        assert await resume(out) == 1
    assert "cannot write the report" in capsys.readouterr().err

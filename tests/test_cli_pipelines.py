"""Jobs of a file that take their source from other jobs: checked as a whole, sent when it is ready, and resumed."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers.object_stores import BUCKET, serve_bucket
from helpers.simulation import Serve

from soundpiece_async import SeparateStems
from soundpiece_async._core.requests import ROUTES
from soundpiece_async.cli import bulk_check, main
from soundpiece_async.cli.bulk_options import BulkOptions, JobsFile
from soundpiece_async.cli.console import UsageError
from soundpiece_async.cli.dependents import Dependents
from soundpiece_async.cli.jobs_file import Job
from soundpiece_async.cli.local_sources import LocalSources
from soundpiece_async.simulator import Fault, Simulator
from soundpiece_async.simulator.request_log import ReceivedRequest

Streams = pytest.CaptureFixture[str]

FAST: dict[str, Any] = {"speed": 2000.0, "track_seconds": (0.1, 0.2)}
KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"
URL = "https://media.example.com/mix.wav"
KINDS = ("bass", "drums", "other", "vocals")

BED = {"id": "bed", "route": "create.new_instrumental", "prompt": "ambient, slow", "name": "bed"}
STEMS = {"id": "stems", "route": "adapt.separate_stems", "source": {"job": "bed", "output": 0}, "name": "bed"}
CUT = {
    "route": "adapt.auto_cut_down",
    "target_duration": 0.1,
    "source": {"job": "stems", "kind": "drums"},
    "name": "bed-drums-15",
}
REMIX = {"id": "remix", "route": "create.remix_instrumental", "source": {"job": "bed"}, "n_variations": 2}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


def write(lines: Iterable[object], name: str = "jobs.jsonl") -> str:
    Path(name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return name


def bulk(*flags: str) -> int:
    return main(["bulk", "jobs.jsonl", "out", *flags])


def puts(simulator: Simulator) -> list[str]:
    return [request.path.rpartition("/")[2] for request in simulator.log if request.method == "PUT"]


def files() -> set[str]:
    return {path.name for path in Path("out").glob("*.flac")}


def rehearse(capsys: Streams, *flags: str) -> dict[str, Any]:
    """Return what a dry run says."""
    capsys.readouterr()
    assert bulk("--dry-run", "--json", *flags) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)["dry_run"]
    return said


def read_status(capsys: Streams) -> dict[str, Any]:
    """Return what ``status`` says."""
    capsys.readouterr()
    assert main(["status", "out", "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_a_pipeline_runs_whatever_the_order_of_its_lines(serve: Serve, capsys: Streams) -> None:
    """The same command again sends nothing; a line that is added takes the source that is there."""
    simulator = serve(**FAST)
    write([CUT, STEMS, BED])
    assert bulk("--verify", "none") == 0
    out, err = capsys.readouterr()
    assert "3 lines: 3 saved, 0 failed, 0 unfinished, 0 uncertain, 0 left; 7 files" in err
    assert puts(simulator) == ["create.new_instrumental", "adapt.separate_stems", "adapt.auto_cut_down"]
    expected = {"bed-1.flac", "bed-2.flac", "bed-drums-15.flac", *(f"bed-{kind}.flac" for kind in KINDS)}
    assert files() == expected
    assert len(out.splitlines()) == 7
    write([BED, STEMS, {**CUT, "source": {"job": "stems", "kind": "bass"}, "name": "bass"}, CUT])
    assert rehearse(capsys)["at_least"] == 1
    assert bulk() == 0
    assert len(simulator.operations) == 4
    assert files() == {*expected, "bass.flac"}


def test_a_csv_file_names_sources_in_its_cells(serve: Serve, capsys: Streams) -> None:
    simulator = serve(**FAST)
    Path("jobs.csv").write_text(
        "id,route,prompt,source,target_duration\n"
        "bed,create.new_instrumental,ambient,,\n"
        'stems,adapt.separate_stems,,"{""job"": ""bed""}",\n'
        ',adapt.auto_cut_down,,"{""job"": ""stems"", ""output"": ""*""}",0.1\n'
        ',adapt.auto_cut_down,,"{""job"": ""stems"",}",0.1\n'
    )
    assert main(["bulk", "jobs.csv", "out"]) == 2
    assert "jobs.csv:5: source: invalid JSON" in capsys.readouterr().err
    lines = Path("jobs.csv").read_text().splitlines(keepends=True)
    Path("jobs.csv").write_text("".join(lines[:-1]))
    assert main(["bulk", "jobs.csv", "out"]) == 0
    assert "3 lines, 6 jobs: 6 saved" in capsys.readouterr().err
    assert len(simulator.operations) == 6


def test_one_job_is_made_of_each_output(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes from such a line is as many jobs again, each with its own name; a dry run says how many as it can."""
    monkeypatch.setattr("soundpiece_async.cli.job_reader.CHUNK_LINES", 3)
    simulator = serve(**FAST)
    write(
        [
            BED,
            STEMS,
            {**CUT, "id": "cuts", "source": {"job": "stems", "output": "*"}, "name": "cut"},
            {**CUT, "source": {"job": "cuts"}, "target_duration": 0.05, "name": "short"},
            REMIX,
            {**CUT, "source": {"job": "remix", "output": "*"}, "name": "remixed"},
        ]
    )
    said = rehearse(capsys)
    assert (said["at_least"], said["at_most"]) == (6, None)
    assert bulk("--dry-run") == 0
    assert "at least 6 jobs: some lines are one job per output" in capsys.readouterr().out
    assert bulk() == 0
    assert "6 lines, 13 jobs: 13 saved" in capsys.readouterr().err
    assert len(simulator.operations) == 13
    assert {f"cut-{kind}.flac" for kind in KINDS} | {f"short-{kind}.flac" for kind in KINDS} <= files()
    assert {"remixed-1.flac", "remixed-2.flac"} <= files()
    said = rehearse(capsys)
    assert (said["at_least"], said["at_most"]) == (0, 0)
    assert said["routes"]["adapt.auto_cut_down"] == {"lines": 10, "saved": 10, "to_do": 0}
    assert bulk() == 0
    assert len(simulator.operations) == 13


def test_how_many_jobs_there_are_at_most_may_be_known(serve: Serve, capsys: Streams) -> None:
    serve(**FAST)
    write([{**REMIX, "source": "https://media.example.com/a.wav"}, {**CUT, "source": {"job": "remix", "output": "*"}}])
    said = rehearse(capsys)
    assert (said["at_least"], said["at_most"]) == (2, 3)
    assert bulk("--dry-run") == 0
    assert "at least 2 jobs, at most 3: " in capsys.readouterr().out


def test_a_whole_graph_is_checked_before_anything_is_sent(serve: Serve, capsys: Streams) -> None:
    """Unknown ids, cycles, wrong selectors, ids that stand twice: each by its line."""
    simulator = serve(**FAST)
    write(
        [
            {**BED, "name": None},
            {**STEMS, "source": {"job": "beds"}},
            {**STEMS, "id": "a", "source": {"job": "b"}},
            {**STEMS, "id": "b", "source": {"job": "a"}},
            {**BED, "prompt": "another"},
            {**CUT, "source": {"job": "bed", "kind": "drums"}},
            {**CUT, "source": {"job": "bed", "output": "*"}, "idempotency_key": KEY},
            {**CUT, "source": {"job": "bed", "output": 1.5}},
            {**CUT, "source": {"job": "bed", "stem": "drums"}},
            {**CUT, "source": {"link": "https://media.example.com/a.wav"}},
            {**BED, "id": ["bed"]},
            {**BED, "id": "cousin", "prompt": None, "reference": {"job": "nobody"}},
            {**BED, "id": "wrong", "prompt": ""},
            {**STEMS, "id": "of the wrong one", "source": {"job": "wrong"}},
        ]
    )
    assert bulk() == 2
    faults = capsys.readouterr().err
    assert "jobs.jsonl: 11 of 14 lines invalid; nothing was sent" in faults
    for line, fault in [
        (2, "source: no line has the id 'beds'"),
        (3, "source: takes its source from itself, by line 4"),
        (5, "id: already used on line 1"),
        (6, "source: line 1 has no kinds of outputs: only adapt.separate_stems has"),
        (7, "source: an idempotency_key belongs to one job"),
        (8, 'source: output must be a number from 0, or "*" for every output, not 1.5'),
        (9, "source: unknown field 'stem'"),
        (10, 'source: must be a URL, {"url": "..."}, {"job": "id of another line"} or {"file": "path on this'),
        (11, "id: must be text that is not blank"),
        (12, "reference: no line has the id 'nobody'"),
        (13, "prompt: "),
    ]:
        assert f"jobs.jsonl:{line}: {fault}" in faults
    assert simulator.log == []


def test_what_depends_on_a_failure_is_blocked_until_a_run_repairs_it(serve: Serve, capsys: Streams) -> None:
    """It is reported with the reason, not sent, and not counted as failed; other branches are not held up."""
    simulator = serve(**FAST)
    simulator.inject(Fault.FAIL, route="adapt.separate_stems")
    write([BED, STEMS, CUT, {**CUT, "source": {"job": "bed"}, "name": "bed-15"}])
    assert bulk("--json") == 1
    out, err = capsys.readouterr()
    assert "4 lines: 2 saved, 1 failed, 0 unfinished, 0 uncertain, 1 blocked, 0 left" in err
    assert "jobs.jsonl:3: blocked by line 2: failed: operation adapt.separate_stems/op_" in err
    results = {line.get("line"): line for line in map(json.loads, out.splitlines())}
    blocked = results[3]
    assert (blocked["status"], blocked["source"], blocked["name"]) == ("blocked", {"line": 2}, "bed-drums-15")
    assert results[None]["summary"]["blocked"] == 1
    printed = read_status(capsys)
    assert printed["dependents"] == {"lines": 3, "states": {"failed": 1, "saved": 1}}
    assert [(one["blocked_by"], one["jobs"]) for one in printed["blocked"]] == [({"line": 2}, 1)]
    assert printed["unread"] == 0
    assert main(["status", "out"]) == 0
    printed = capsys.readouterr().out
    assert "3 lines made from outputs of others: 2 jobs started, 1 of them saved" in printed
    assert "1 blocked by line 2: failed: operation" in printed
    report = json.loads(Path("out/report.json").read_text())
    assert report["summary"]["counts"] == {"saved": 2, "failed": 1, "blocked": 1}
    jobs = {job["line"]: job for job in report["jobs"]}
    assert jobs[2]["source"] == jobs[4]["source"] == {"operation": jobs[1]["operation"], "output": 0}
    assert (jobs[1]["source"], jobs[3]["state"], jobs[3]["source"]) == (None, "blocked", {"line": 2})
    said = rehearse(capsys)
    assert (said["at_least"], said["at_most"]) == (0, 0)
    assert said["routes"]["adapt.auto_cut_down"] == {"lines": 2, "saved": 1, "blocked": 1, "to_do": 0}
    assert rehearse(capsys, "--retry-failed")["at_least"] == 2
    assert bulk() == 1
    assert len(simulator.operations) == 3
    assert "1 blocked" in capsys.readouterr().err
    assert bulk("--retry-failed") == 0
    assert len(simulator.operations) == 5
    assert read_status(capsys)["blocked"] == []
    assert "bed-drums-15.flac" in files()


def test_a_kind_that_is_not_there_blocks_what_asks_for_it(
    serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds are the service's, so only the outputs say which there are; all are recorded, page by page."""
    monkeypatch.setattr("soundpiece_async.cli.blocked_jobs.PAGE_JOBS", 2)
    simulator = serve(**FAST)
    write(
        [
            BED,
            STEMS,
            {**CUT, "id": "cut", "source": {"job": "stems", "kind": "drum"}},
            {**CUT, "source": {"job": "cut"}},
            {**CUT, "source": {"job": "bed", "output": 7}},
        ]
    )
    assert bulk() == 1
    err = capsys.readouterr().err
    assert (
        "jobs.jsonl:3: blocked by line 2: no output of kind 'drum': its outputs are bass, drums, other, vocals" in err
    )
    assert "jobs.jsonl:4: blocked by line 2: " in err
    assert "jobs.jsonl:5: blocked by line 1: no output 7: the operation has 2 outputs" in err
    assert "5 lines: 2 saved, 0 failed, 0 unfinished, 0 uncertain, 3 blocked, 0 left" in err
    assert len(simulator.operations) == 2
    assert rehearse(capsys)["routes"]["adapt.auto_cut_down"] == {"lines": 3, "blocked": 3, "to_do": 0}
    assert sum(one["jobs"] for one in read_status(capsys)["blocked"]) == 3
    report = json.loads(Path("out/report.json").read_text())
    assert sorted(job["line"] for job in report["jobs"] if job["state"] == "blocked") == [3, 4, 5]
    assert all(job["error"]["text"] for job in report["jobs"] if job["state"] == "blocked")
    write([BED])
    assert bulk() == 0
    assert read_status(capsys)["blocked"] == []


def test_a_dependent_is_sent_before_the_files_of_its_source_are_saved(serve: Serve) -> None:
    """What matters is that the source is ready; and it takes no place in flight while it waits."""
    seen: list[str] = []

    def note(request: ReceivedRequest) -> None:
        seen.append(f"{request.host} {request.method}")

    simulator = serve(on_request=note, **FAST)
    simulator.inject(Fault.STALL, host="output", seconds=1.0, times=2)
    write([BED, STEMS])
    assert bulk() == 0
    second = seen.index("api PUT", 1)
    assert "output GET" not in seen[:second] or seen[second:].count("output GET") >= 4
    more = [{"route": "create.new_fx", "prompt": f"door {number}", "duration": 0.1} for number in (1, 2)]
    write([BED, STEMS, CUT, {**CUT, "source": {"job": "stems", "output": "*"}, "target_duration": 0.05}, *more])
    assert bulk("--in-flight", "1") == 0
    assert len(simulator.operations) == 9
    assert puts(simulator)[2:] == [*["adapt.auto_cut_down"] * 5, *["create.new_fx"] * 2]  # before lines not read yet


def test_an_account_that_refuses_leaves_dependents_and_blocks_none(serve: Serve, capsys: Streams) -> None:
    """They are left, as lines that were not read; the same command takes them up."""
    simulator = serve(credits=1, **FAST)
    write([BED, STEMS, CUT, {**BED, "id": "more", "prompt": "more"}, {**CUT, "source": {"job": "more"}}])
    assert bulk() == 3
    assert "5 lines: 1 saved, 0 failed, 0 unfinished, 0 uncertain, 4 left" in capsys.readouterr().err
    simulator.top_up(9)
    assert bulk() == 0
    assert len(simulator.operations) == 5
    write([{**STEMS, "source": URL}, {**CUT, "source": {"job": "stems", "output": "*"}}])
    simulator.top_up(-5)
    assert bulk("--json") == 3
    out, err = capsys.readouterr()
    assert "2 lines: 0 saved, 0 failed, 0 unfinished, 0 uncertain, at least 2 left" in err
    assert json.loads(out.splitlines()[-1])["summary"]["left_is_minimum"]
    assert main(["status", "out"]) == 0
    assert "not started, and lines that are one job per output may have more jobs" in capsys.readouterr().out


def test_a_run_that_is_stopped_waits_for_no_source(serve: Serve, capsys: Streams) -> None:
    """What is in flight is finished; its dependents are left to the next run, and blocked by nothing."""
    durations = {**dict.fromkeys(ROUTES, 1.0), "create.new_instrumental": 2000.0}
    simulator = serve(durations=durations, **FAST)
    simulator.inject(Fault.FAIL, route="create.new_fx")
    write([BED, STEMS, {"route": "create.new_fx", "prompt": "door", "duration": 0.1}])
    assert bulk("--fail-fast") == 1
    assert "3 lines: 1 saved, 1 failed, 0 unfinished, 0 uncertain, 1 left" in capsys.readouterr().err
    said = rehearse(capsys, "--retry-failed")
    assert (said["at_least"], said["at_most"]) == (2, 2)
    assert repr(Dependents()) == "<Dependents <JobGraph jobs=0 dependents=0>>"


def test_a_file_that_changes_after_its_check_ends_the_run(
    serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line must not become a dependent, or cease to be one, after the graph was checked."""

    async def check(file: JobsFile, options: BulkOptions) -> tuple[int, Dependents]:
        found = await bulk_check.validate_file(file, options)
        write([BED, {**STEMS, "source": "https://media.example.com/a.wav"}])
        return found

    serve(**FAST)
    monkeypatch.setattr("soundpiece_async.cli.bulk.validate_file", check)
    write([BED, STEMS])
    assert bulk() == 2
    assert "jobs.jsonl was changed during the run; jobs.jsonl:2: its source has changed" in capsys.readouterr().err


def test_a_local_file_is_uploaded_and_known_by_its_content(
    serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path is relative to the jobs file; renamed it is the same job; ``resume`` remembers the bucket."""
    simulator = serve(**FAST)
    Path("mix.wav").write_bytes(bytes(1000))
    split = {"id": "mix", "route": "adapt.separate_stems", "source": {"file": "mix.wav"}, "name": "mix"}
    write([split, {**CUT, "source": {"job": "mix", "kind": "drums"}, "name": "cut"}])
    assert bulk() == 2
    assert "jobs.jsonl:1: source: to upload a local file, add --via s3://bucket/folder" in capsys.readouterr().err
    assert bulk("--via", "out") == 2
    assert "--via: a local folder cannot be read by the service" in capsys.readouterr().err
    with serve_bucket() as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        via = ("--via", f"s3://{BUCKET}/inbox")
        assert rehearse(capsys, *via)["at_least"] == 2
        assert bulk(*via) == 0
        assert len(bucket.objects) == 1
        Path("mix.wav").rename("final.wav")
        assert bulk(*via) == 2
        assert "jobs.jsonl:1: source: no such file: final.wav" not in capsys.readouterr().err
        write([{**split, "source": {"file": "final.wav"}}, {**CUT, "source": {"job": "mix", "kind": "bass"}}])
        assert rehearse(capsys, *via)["at_least"] == 1
        assert main(["resume", "out"]) == 0
        assert len(bucket.objects) == 1
        assert len(simulator.operations) == 3
        write(
            [{**split, "source": {"file": " "}}, {**split, "id": "other", "source": {"file": "final.wav", "url": URL}}]
        )
        assert bulk(*via) == 2
        faults = capsys.readouterr().err
        assert "jobs.jsonl:1: source: file must be a path" in faults
        assert "jobs.jsonl:2: source: must be a URL" in faults


def test_where_the_paths_of_local_files_begin(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the folder of the jobs file; for standard input at the current one, whichever that of ``resume`` is."""
    simulator = serve(**FAST)
    for name in ("here", "elsewhere", "home"):
        Path(name).mkdir()
        Path(name, "mix.wav").write_bytes(name.encode() * 100)
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    split = {"route": "adapt.separate_stems", "source": {"file": "mix.wav"}}
    write([split, {**split, "source": {"file": "~/mix.wav"}}], "elsewhere/jobs.jsonl")
    with serve_bucket() as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        via = ("--via", f"s3://{BUCKET}/inbox")
        monkeypatch.chdir("here")
        with Path("../elsewhere/jobs.jsonl").open() as file, monkeypatch.context() as changed:
            changed.setattr(sys, "stdin", file)
            assert main(["bulk", "-", "out", *via]) == 0
        monkeypatch.chdir("..")
        assert main(["resume", "here/out"]) == 0
        assert (len(bucket.objects), len(simulator.operations)) == (2, 2)
        assert main(["bulk", "elsewhere/jobs.jsonl", "here/out", *via]) == 0
        assert (len(bucket.objects), len(simulator.operations)) == (3, 3)
        assert main(["resume", "here/out"]) == 0
        assert (len(bucket.objects), len(simulator.operations)) == (3, 3)
        files = ["nothing.wav", "here", "a\0b", "~nobody-of-that-name/mix.wav", "x" * 5000]
        write({**split, "source": {"file": one}} for one in files)
        capsys.readouterr()
        assert bulk(*via) == 2
    faults = capsys.readouterr().err
    for line, fault in enumerate(
        ("no such file: ", "not a regular file: ", "no such file: ", "'~nobody-of", "no such")
    ):
        assert f"jobs.jsonl:{line + 1}: source: {fault}" in faults


@pytest.mark.anyio
async def test_a_file_that_vanishes_before_its_upload_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the jobs file was validated; a dry run, or a part of a run, reads it, too."""
    sources = LocalSources(tmp_path, f"s3://{BUCKET}/inbox")
    job = Job(1, SeparateStems(URL), None, None, file="gone.wav")
    with serve_bucket() as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match=r"gone.wav cannot be read: No such file"):
            await sources.upload(job)
        with pytest.raises(UsageError, match=r"gone.wav cannot be read: No such file"):
            sources.identify(job)
    assert repr(sources) == f"<LocalSources {tmp_path} via=True>"

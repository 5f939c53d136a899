"""What a hostile service writes: wherever it is repeated it is one printable line, clipped, and without secrets."""

import json
import logging
import sqlite3
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import anyio
import pytest
import rich
from helpers.idle import opened
from helpers.raw_api import Peer, RawApi, http, raw_settings
from helpers.simulation import Serve, never_finishes, settings, simulate

from soundpiece_async import (
    Journal,
    NewFx,
    Operation,
    OperationError,
    OperationFailed,
    Session,
    SoundpieceError,
    Status,
    Succeeded,
)
from soundpiece_async.cli import main
from soundpiece_async.simulator import Fault

SIGNED = "https://me:PASSWORD@files.example/a.flac?X-Amz-Signature=SIGNATURE"
HOSTILE = (
    f"see {SIGNED}\r\nERROR root: all is lost\x1b[2J\x1b]0;owned\x07 \u202espk_THEIRS s3://k:PASSWORD@b "
    + "x" * 1_400_000
)
SECRETS = ("SIGNATURE", "PASSWORD", "THEIRS")


def check(text: str, *, most: int = 3000) -> None:
    """Refuse what no foreign text may bring anywhere; lines are the caller's."""
    assert not [secret for secret in SECRETS if secret in text]
    assert all(line.isprintable() for line in text.split("\n")), repr(text[:1000])
    assert len(text) < most


class HostileApi(RawApi):
    """Puts its text wherever the service may put one."""

    members: dict[str, Any]

    def _do(self, asked: Any) -> bytes:
        _, _, body = super()._do(asked).partition(b"\r\n\r\n")
        members = json.loads(body)["fx"] | (self.members if asked.method == "GET" else {})
        return http(json.dumps({"fx": members}).encode(), keep=True)


FAILED = {"status": "failed", "output": None, "error": {"code": HOSTILE, "message": HOSTILE}}
READY = {"status": "ready", "output": {"url": SIGNED + HOSTILE, "kind": HOSTILE, "expires_at": HOSTILE, "duration": 1}}
ANSWERS: dict[str, dict[str, Any]] = {
    "error": FAILED,
    "status": {"status": HOSTILE, "output": None},
    "kind": READY | {"outputs": [READY["output"]]},
    "id": {"id": HOSTILE, "status": "ready"},
    "key": {**READY, "idempotency_key": HOSTILE},
    "echo": {**READY, "prompt": HOSTILE, "duration": HOSTILE, "created_at": HOSTILE},
    "members": {HOSTILE: HOSTILE, "status": 5},
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", ANSWERS)
async def test_no_answer_brings_its_text_anywhere(name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Neither into messages, reprs and log lines, nor into notebooks and ``rich``."""
    caplog.set_level(logging.DEBUG, "soundpiece_async")
    shown: list[object] = []
    async with HostileApi() as api, opened(raw_settings(api.url)) as session:
        api.members = ANSWERS[name]
        operation = await session.submit(NewFx("door", duration=1))
        try:
            known = await session.refresh(operation)
            shown += [known, *known.outputs]
            with anyio.move_on_after(0.3):
                shown.append(await session.download(await session.wait(known, timeout=0.2), tmp_path))
        except SoundpieceError as error:
            shown += [error, error.operation, error.handle]
    for thing in shown:
        check(f"{thing!r}")
        if isinstance(thing, SoundpieceError):
            check(str(thing))
        if isinstance(thing, Operation):
            page = StringIO()
            rich.print(thing, file=page)
            check(page.getvalue(), most=8000)
            check(thing._repr_html_().replace("…", ""), most=8000)
    assert shown
    for record in caplog.records:
        if record.name.startswith("soundpiece_async"):
            check(record.getMessage())


@pytest.mark.anyio
async def test_what_came_is_kept_for_programs() -> None:
    """The message of the exception is for people; ``code``, ``message`` and ``raw`` are as they came."""
    async with HostileApi() as api, opened(raw_settings(api.url)) as session:
        api.members = FAILED
        operation = await session.submit(NewFx("door", duration=1))
        with pytest.raises(OperationFailed) as caught:
            await session.wait(operation)
    failed = caught.value.operation
    assert failed is not None
    assert failed.error == OperationError(code=HOSTILE, message=HOSTILE)
    assert failed.raw["error"]["message"] == HOSTILE
    check(str(failed.error))
    check(str(caught.value))


@pytest.mark.anyio
@pytest.mark.parametrize("status", ["400 Bad", "401 No", "402 Pay", "404 No", "422 No", "500 Oh"])
@pytest.mark.parametrize("body", [HOSTILE, json.dumps({"detail": HOSTILE}), json.dumps({"detail": [{"msg": HOSTILE}]})])
async def test_no_refusal_brings_its_text_anywhere(status: str, body: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also not by the entries of a 422; ``body`` is as it came."""
    caplog.set_level(logging.DEBUG, "soundpiece_async")

    async def refuse(peer: Peer, _: bytes) -> None:
        await peer.send(http(body.encode(), status=status, headers=f"x-request-id: spk_THEIRS {SIGNED}\r\n"))

    async with RawApi() as api, opened(raw_settings(api.url)) as session:
        api.always = refuse
        with pytest.raises(SoundpieceError) as caught:
            await session.submit(NewFx("door", duration=1))
    check(f"{caught.value!r}")
    check(f"{getattr(caught.value, 'fields', ())!r}")
    assert HOSTILE in str(getattr(caught.value, "body", HOSTILE)) or "detail" in getattr(caught.value, "body", {})
    for record in caplog.records:
        if record.name.startswith("soundpiece_async"):
            check(record.getMessage())


def test_the_command_line_repeats_no_foreign_text(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not on either stream, not as JSON, not in the journal's columns, not in the report."""
    monkeypatch.chdir(tmp_path)
    simulator = serve(speed=2000.0, track_seconds=(0.1, 0.2))
    metadata = {"from": SIGNED, "store": "s3://key:PASSWORD@bucket/x", "bare": "files.example/a?Signature=SIGNATURE"}
    job = {"route": "create.new_fx", "prompt": "door", "duration": 0.1, "metadata": metadata}
    Path("jobs.jsonl").write_text(json.dumps(job) + "\n")

    def run(*arguments: str) -> None:
        assert main(list(arguments)) in {0, 1}
        out, err = capsys.readouterr()
        check(err, most=8000)
        check(out.replace(json.dumps(metadata), ""), most=8000)

    simulator.inject(Fault.FAIL, code=HOSTILE)
    run("run", "create.new_fx", "--prompt=door", "--duration=0.1")
    simulator.inject(Fault.FAIL, code=HOSTILE)
    run("run", "create.new_fx", "--prompt=door", "--duration=0.1", "--json")
    simulator.inject(Fault.FAIL, code=HOSTILE)
    run("bulk", "jobs.jsonl", "out")
    run("status", "out")
    run("status", "out", "--json")
    for page in ("report.html", "report.json"):
        text = (tmp_path / "out" / page).read_text()
        assert not [secret for secret in SECRETS if secret in text], page
        assert "x" * 2000 not in text
    with closing(sqlite3.connect(tmp_path / "out" / "journal.sqlite3")) as journal:
        (row,) = journal.execute("SELECT error_kind, error_code, error_text FROM job").fetchall()
    for column in row:
        check(column)


@pytest.mark.anyio
async def test_the_journal_holds_no_foreign_text_but_urls_that_are_needed(tmp_path: Path) -> None:
    """A URL is kept as it came while its file is still to be saved."""
    async with HostileApi() as api, opened(raw_settings(api.url)) as session:
        api.members = READY
        async with Journal.open(tmp_path) as journal:
            async with session.run_many([NewFx("door", duration=1)], journal=journal) as results:
                await anext(results)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as database:
        ((text,),) = database.execute("SELECT outputs FROM job").fetchall()
    (output,) = json.loads(text)
    assert output.pop("url") == SIGNED + HOSTILE
    check(output["kind"])
    check(str(output))


@pytest.mark.anyio
async def test_a_finished_journal_signs_no_url(tmp_path: Path) -> None:
    """Not even in what the database has overwritten; a file that is lost is fetched again with a fresh URL."""
    async with simulate() as sim, Session(settings(sim)) as session:
        for number in range(3):
            async with Journal.open(tmp_path) as journal:
                requests = [NewFx("door", duration=0.5)]
                async with session.run_many(requests, journal=journal, save_to=tmp_path) as results:
                    result = await anext(results)
            assert isinstance(result, Succeeded)
            ((file,), (output,)) = result.files, result.operation.outputs
            assert ("signature=" in output.url) == (number == 0)
            assert b"signature=" not in (tmp_path / "journal.sqlite3").read_bytes()
            assert file.path is not None
            if number == 1:  # all of it came out of the journal
                await session.download(output, tmp_path / "elsewhere")
                file.path.unlink()
        assert len(sim.operations) == 1
        assert {path.suffix for path in tmp_path.iterdir()} >= {".flac"}


@pytest.mark.anyio
async def test_a_destination_shows_no_password() -> None:
    """``s3://key:secret@bucket`` is a common mistake, and is not repeated."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(NewFx("door", duration=1))
        sim.finish(operation.id)
        ready = await session.wait(operation)
        for to in (
            *("s3://key:PASSWORD@bucket", "odd://key:PASSWORD@bucket/x", "s3:/key:PASSWORD@b"),
            *("file://key:PASSWORD@host/x", "file://key:PASSWORD@localhost/x"),
        ):
            with pytest.raises((SoundpieceError, ValueError)) as caught:
                await session.download(ready, to)
            check(f"{caught.value!r}")


def test_an_unknown_status_is_shown_as_any_foreign_text() -> None:
    """Its repr too; its value is as it came."""
    status = Status(HOSTILE)
    assert status == HOSTILE
    check(f"{status!r}")

"""A journal of version 0.1.0 (``data/journal-0.1.0.sql``, written by commit e1f334b) is taken up by the next run.

Its pieces were made of ``fx(1)`` to ``fx(7)``, and answered as ``WAS`` says.
"""

import json
import sqlite3
import time
from pathlib import Path

import pytest
from helpers.idle import opened
from helpers.raw_api import RawApi, http
from helpers.sample_requests import fx

from soundpiece_async import (
    DecodeError,
    Failed,
    JobState,
    Journal,
    Limits,
    OperationFailed,
    RetryPolicy,
    Settings,
    Succeeded,
    ValidationError,
)

pytestmark = pytest.mark.anyio

WAS = {
    1: "another prompt in the echo: failed",
    2: "another key in the echo: failed",
    3: "the service gave up on it: failed",
    4: "ready",
    5: "ready without outputs: ready",
    6: "refused: failed",
    7: "a created_at nobody could read: submitted",
}


def restore(folder: Path, *, sent_at: float | None = None) -> dict[str, str]:
    """Write the journal into a folder; returns the prompts of its keys."""
    path = folder / "journal.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "data" / "journal-0.1.0.sql").read_text(encoding="utf-8"))
    connection.execute("UPDATE piece SET sent_at = ?", (time.time() if sent_at is None else sent_at,))
    connection.commit()
    keys = {key: json.loads(body)["prompt"] for key, body in connection.execute("SELECT key, body FROM piece")}
    connection.close()
    return keys


async def test_what_was_given_up_is_taken_up_without_a_new_key(tmp_path: Path) -> None:
    """Only what the service itself refused or failed stays so; one PUT goes again, with the key that it had."""
    keys = restore(tmp_path)
    async with RawApi() as api:
        settings = Settings(
            api_key="spk_for_tests", base_url=api.url, limits=Limits(), retries=RetryPolicy(submit_max_elapsed=0)
        )
        async with opened(settings) as session, Journal.open(tmp_path) as journal:
            requests = [fx(number) for number in WAS]
            async with session.run_many(requests, journal=journal, ordered=True) as results:
                got = dict(zip(WAS, [result async for result in results], strict=True))
            states = {json.loads(job.body)["prompt"]: job.state for job in await journal.jobs()}
        puts = [json.loads(body) for body in api.puts]

    assert [number for number, result in got.items() if isinstance(result, Succeeded)] == [1, 2, 4, 5, 7]
    assert isinstance(got[3], Failed)
    assert isinstance(got[3].error, OperationFailed)
    assert isinstance(got[6], Failed)
    assert isinstance(got[6].error, ValidationError)
    assert [(keys[put["idempotency_key"]], put["prompt"]) for put in puts] == [("door 2", "door 2")]
    polled = sorted(asked.target.rpartition("op_")[2] for asked in api.requests if asked.method == "GET")
    assert len(polled) == 4  # one each, but for the one that was ready with outputs
    assert states == {
        **{f"door {number}": JobState.READY for number in (1, 2, 4, 5, 7)},
        **{f"door {number}": JobState.FAILED for number in (3, 6)},
    }


async def test_the_answer_to_another_request_is_none_to_ours(tmp_path: Path) -> None:
    """Sent too long ago, whether its key is still known is uncertain: that is for the user to decide, as ever."""
    restore(tmp_path, sent_at=1000.0)
    async with Journal.open(tmp_path) as journal:
        (job,) = await journal.jobs(JobState.UNCERTAIN)

    assert json.loads(job.body)["prompt"] == "door 2"
    assert job.operation is None


async def test_another_key_in_the_echo_today(tmp_path: Path) -> None:
    """The job stays as sent, and the next run sends it again with its key: never failed, and never another's audio."""

    async def speak_of_another(peer: object, honest: bytes) -> None:
        body = json.loads(honest.partition(b"\r\n\r\n")[2])["fx"]
        body["idempotency_key"] = "4c1c0c3e-0000-4000-8000-000000000000"
        await peer.send(http(json.dumps({"fx": body}).encode()))  # type: ignore[attr-defined]

    async with RawApi(speak_of_another) as api:
        settings = Settings(api_key="spk_for_tests", base_url=api.url, retries=RetryPolicy(submit_max_elapsed=0))
        for expected in (Failed, Succeeded):
            async with opened(settings) as session, Journal.open(tmp_path) as journal:
                async with session.run_many([fx(1)], journal=journal) as results:
                    (result,) = [result async for result in results]
                assert isinstance(result, expected)
                if isinstance(result, Failed):
                    assert isinstance(result.error, DecodeError)
                    assert result.error.handle is not None
                    assert await journal.count() == {JobState.SENDING: 1}
        assert len(set(api.puts)) == len(api.created) == 1

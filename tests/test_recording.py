import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest
from helpers.idle import until
from helpers.journals import edit_journal, open_journal
from helpers.object_stores import serve_bucket
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, puts, settings, simulate
from obstore.store import LocalStore, MemoryStore

from soundpiece_async import (
    AudioSource,
    AuthenticationError,
    CorruptAudio,
    DecodeError,
    Failed,
    InsufficientCredits,
    InvalidRequest,
    Journal,
    JournalError,
    Limits,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    Operation,
    OperationFailed,
    Output,
    Request,
    RetryPolicy,
    SavedFile,
    SeparateStems,
    Session,
    SoundpieceError,
    Status,
    Succeeded,
    TransportError,
    ValidationError,
    WaitTimeout,
)
from soundpiece_async._core.job_records import EXPIRED, KEY_LIFETIME, JobIdentity, JobState
from soundpiece_async._engine import Engine, InFlight, RunFiles
from soundpiece_async._journal.recorded_run import RecordedRun
from soundpiece_async._lifetime import StopSignal
from soundpiece_async._operations import PreparedSubmit
from soundpiece_async.simulator import Fault, Simulator

pytestmark = pytest.mark.anyio
BOTH = pytest.mark.usefixtures("journals")

KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"
Result = Succeeded[Any] | Failed[Any]


async def run(sim: Simulator, folder: Path, requests: Iterable[Request], **how: Any) -> list[Result]:
    """Run pieces as a new process would: with a new session and a newly opened journal."""
    opening = {name: how.pop(name) for name in ("resubmit_uncertain", "retry_failed") if name in how}
    changes = {name: how.pop(name) for name in ("retries", "validate", "api_key", "base_url") if name in how}
    async with Session(settings(sim, **changes)) as session, open_journal(folder, **opening) as journal:
        async with session.run_many(
            requests, **{"save_to": folder, "journal": journal, "ordered": True, **how}
        ) as done:
            return [result async for result in done]


def tell(result: Succeeded[Any]) -> list[SavedFile]:
    """Return the files of a result without the URLs they came from, which the journal does not keep."""
    return [attrs.evolve(file, output=attrs.evolve(file.output, url="", expires_at=None)) for file in result.files]


def succeeded(results: Iterable[Result]) -> list[Succeeded[Any]]:
    found = list(results)
    assert [result for result in found if isinstance(result, Failed)] == []
    return [result for result in found if isinstance(result, Succeeded)]


def the_failure(results: Iterable[Result]) -> SoundpieceError:
    (result,) = results
    assert isinstance(result, Failed)
    return result.error


async def states(folder: Path) -> dict[JobState, int]:
    async with open_journal(folder) as journal:
        return await journal.count()


@BOTH
async def test_what_is_finished_is_given_out_without_a_request(sim: Simulator, tmp_path: Path) -> None:
    """The second run sends nothing at all, and gives the same operations and files, of the caller's own requests."""
    first = succeeded(await run(sim, tmp_path, [fx(1), NewSong("la", prompt="pop"), fx(2)]))
    before = len(sim.log)
    wanted = [fx(1), NewSong("la", prompt="pop"), fx(2)]
    second = succeeded(await run(sim, tmp_path, wanted))

    assert len(sim.log) == before
    assert [result.request is request for result, request in zip(second, wanted, strict=True)] == [True] * 3
    for old, new in zip(first, second, strict=True):
        assert tell(new) == tell(old)
        assert new.operation.handle == old.operation.handle
        assert (new.operation.status, new.operation.raw) == (Status.READY, {})
        assert new.operation == attrs.evolve(old.operation, request=new.request, outputs=new.operation.outputs)
    assert await states(tmp_path) == {JobState.SAVED: 3}


@BOTH
async def test_equal_requests_are_told_apart_by_their_number(sim: Simulator, tmp_path: Path) -> None:
    """Two equal lines are two pieces; an inserted line moves none, an edited one is new, later ones are added."""
    await run(sim, tmp_path, [fx(1), fx(1), fx(2)])
    assert len(sim.operations) == 3
    again = succeeded(await run(sim, tmp_path, [fx(2), fx(3), fx(1), fx(1)]))
    assert len(sim.operations) == 4
    assert len({result.operation.id for result in again}) == 4
    await run(sim, tmp_path, [fx(1), fx(1), fx(1), fx(2)])
    assert len(sim.operations) == 5


@BOTH
async def test_the_same_object_twice_is_one_piece(sim: Simulator, tmp_path: Path) -> None:
    """With a journal as without one: one operation, one file, two results; and so it is in the next run."""
    for _ in range(2):
        request = fx(1)
        first, second = succeeded(await run(sim, tmp_path, [request, request]))
        assert tell(first) == tell(second)
        assert first.operation.handle == second.operation.handle
    assert len(sim.operations) == len(puts(sim)) == 1
    assert len(list(tmp_path.glob("*.flac"))) == 1


@BOTH
async def test_an_evolved_request_is_a_piece_of_its_own(sim: Simulator, tmp_path: Path) -> None:
    """It has other content, and so gets another key, although it took over that of a recorded piece."""
    first = fx(1)
    second = attrs.evolve(first, prompt="window")
    (one,) = succeeded(await run(sim, tmp_path, [first]))
    (two,) = succeeded(await run(sim, tmp_path, [second]))

    assert len(sim.operations) == 2
    assert one.operation.idempotency_key != two.operation.idempotency_key
    assert two.request is second


@BOTH
async def test_a_given_key_wins(sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the whole identity: whatever the line says by now, its piece is the one with that key."""
    (first,) = succeeded(await run(sim, tmp_path, [fx(1, idempotency_key=KEY)]))
    with caplog.at_level(logging.WARNING):
        edited, other, plain = succeeded(
            await run(sim, tmp_path, [fx(2, idempotency_key=KEY), fx(1, idempotency_key=uuid4()), fx(1)])
        )

    assert edited.operation.handle == first.operation.handle
    assert KEY in caplog.text
    assert len({first.operation.id, other.operation.id, plain.operation.id}) == len(sim.operations) == 3


@BOTH
async def test_a_key_taken_from_an_earlier_result_finds_its_piece(sim: Simulator, tmp_path: Path) -> None:
    """A key the journal made is as good as one that was given."""
    (first,) = succeeded(await run(sim, tmp_path, [fx(1)]))
    (again,) = succeeded(await run(sim, tmp_path, [fx(1, idempotency_key=first.operation.idempotency_key)]))
    assert tell(again) == tell(first)
    assert len(sim.operations) == 1


@BOTH
async def test_a_given_key_stays_on_its_route(sim: Simulator, tmp_path: Path) -> None:
    """A piece of another kind cannot be the same piece."""
    await run(sim, tmp_path, [fx(1, idempotency_key=KEY)])
    error = the_failure(await run(sim, tmp_path, [NewInstrumental("calm", idempotency_key=KEY)]))
    assert isinstance(error, InvalidRequest)
    assert error.field == "idempotency_key"
    assert len(sim.operations) == 1


@BOTH
async def test_what_was_submitted_is_awaited(tmp_path: Path) -> None:
    """Once an operation exists, nothing is submitted again; who leaves early learns what still runs."""
    async with simulate(durations=never_finishes) as sim:
        first = await run(sim, tmp_path, [fx(1), fx(2)], timeout=0.1)
        assert [type(result.error) for result in first if isinstance(result, Failed)] == [WaitTimeout, WaitTimeout]
        assert await states(tmp_path) == {JobState.SUBMITTED: 2}
        async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
            async with session.run_many([fx(2), fx(1)], save_to=tmp_path, journal=journal) as results:
                with anyio.fail_after(30):
                    while len(results.pending) < 2:
                        await anyio.sleep(0.01)
            assert {handle.id for handle in results.pending} == set(sim.operations)
        for operation in sim.operations:
            sim.finish(operation)
        succeeded(await run(sim, tmp_path, [fx(1), fx(2)]))
        assert len(puts(sim)) == len(sim.operations) == 2


@BOTH
async def test_an_empty_account_stops_and_the_same_run_goes_on(tmp_path: Path) -> None:
    """After 402 nothing is lost and nothing uncertain: topped up, the same keys and bytes go again."""
    async with simulate(credits=5) as sim:
        async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
            lines = (fx(number) for number in range(30))
            async with session.run_many(lines, save_to=tmp_path, journal=journal) as results:
                done = [result async for result in results]
        refused = [result for result in done if isinstance(result, Failed)]
        assert len(refused) == 25
        assert {type(result.error) for result in refused} == {InsufficientCredits}
        assert len(puts(sim)) <= 5 + 16
        found = await states(tmp_path)
        assert found[JobState.SAVED] == 5
        assert set(found) == {JobState.SAVED, JobState.PLANNED}
        sim.top_up(25)
        again = succeeded(await run(sim, tmp_path, [fx(number) for number in reversed(range(30))]))
        assert len({result.operation.id for result in again}) == len(sim.operations) == 30
        bodies = dict(puts(sim))
        assert Counter(puts(sim)).keys() == set(bodies.items())  # one body for each key, however often it went
        assert len(bodies) == 30


@BOTH
async def test_after_402_what_is_in_the_journal_is_still_finished(tmp_path: Path) -> None:
    """Saved pieces are given out, submitted ones awaited; only what would have to be sent is not."""
    async with simulate(credits=2, durations=never_finishes) as sim:
        await run(sim, tmp_path, [fx(1)], timeout=0.1)
        await run(sim, tmp_path, [fx(2)], timeout=0.1)
        for operation in sim.operations:
            sim.finish(operation)
        succeeded(await run(sim, tmp_path, [fx(2)]))
        done = await run(sim, tmp_path, [fx(3), fx(2), fx(1), fx(4)], max_in_flight=1)
        assert [type(result) for result in done] == [Failed, Succeeded, Succeeded, Failed]
        assert sum(key is not None for key, _ in puts(sim)) == 3


@BOTH
async def test_a_wrong_key_asks_no_more(tmp_path: Path) -> None:
    """After 401 what would have to be asked for is refused without a request; what is on disk needs none."""
    async with simulate(durations=never_finishes) as sim:
        await run(sim, tmp_path, map(fx, range(6)), timeout=0.1, max_in_flight=1)
        sim.finish(next(iter(sim.operations)))  # the first one's
        await run(sim, tmp_path, [fx(0)])
        assert await states(tmp_path) == {JobState.SAVED: 1, JobState.SUBMITTED: 5}
        before = len(sim.log)
        done = await run(sim, tmp_path, map(fx, range(8)), api_key="spk_wrong", max_in_flight=1)
        refused = [type(result.error) for result in done if isinstance(result, Failed)]
        assert refused == [AuthenticationError] * 7
        assert len(sim.log) == before + 1
        assert await states(tmp_path) == {JobState.SAVED: 1, JobState.SUBMITTED: 5}


@BOTH
@pytest.mark.parametrize("spoil", [Path.unlink, partial(Path.write_bytes, data=b"fLaC")])
async def test_a_file_that_is_missing_or_of_another_size_is_fetched_again(
    sim: Simulator, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """The work is not bought again; the file is the one that was recorded."""
    (first,) = succeeded(await run(sim, tmp_path, [fx(1)]))
    spoil(first.files[0].path)
    (second,) = succeeded(await run(sim, tmp_path, [fx(1)]))
    assert second.files[0].sha256 == first.files[0].sha256
    assert second.files[0].path.stat().st_size == first.files[0].bytes
    assert len(puts(sim)) == 1


@BOTH
async def test_a_strangers_file_is_not_replaced(sim: Simulator, tmp_path: Path) -> None:
    """Only what was recorded may be; and the piece goes on once the way is free."""
    (first,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=None))
    path = tmp_path / f"{first.operation.id}.flac"
    path.write_bytes(b"not ours")
    error = the_failure(await run(sim, tmp_path, [fx(1)]))
    assert "different content" in str(error)
    assert path.read_bytes() == b"not ours"
    path.unlink()
    succeeded(await run(sim, tmp_path, [fx(1)]))


@BOTH
async def test_files_may_be_wanted_elsewhere_or_not_at_all(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run says where it wants them; the same folder may be spelt in another way."""
    (nowhere,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=None))
    assert nowhere.files == ()
    assert await states(tmp_path) == {JobState.READY: 1}
    before = len(puts(sim))
    (here,) = succeeded(await run(sim, tmp_path, [fx(1)]))
    (there,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=tmp_path / "there"))
    requests = len(sim.log)
    monkeypatch.chdir(tmp_path)
    (spelt,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to="here/../there"))
    (none,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=None))

    assert (len(puts(sim)), len(sim.log)) == (before, requests)
    assert here.files[0].path.parent == tmp_path
    assert there.files[0].path.parent == tmp_path / "there"
    assert spelt.files[0].path == Path("here/../there", there.files[0].path.name)
    assert none.files == ()


async def test_objects_in_a_store_are_on_record_too(sim: Simulator, tmp_path: Path) -> None:
    """A store that is a folder of this machine is looked into; one in memory is another one in the next process."""
    store = LocalStore(tmp_path / "store", mkdir=True)
    (first,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=store))
    before = len(sim.log)
    (again,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=store))
    (local,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=LocalStore(tmp_path / "store")))
    assert len(sim.log) == before
    assert tell(again) == tell(first)
    assert first.files[0].url == f"file://{tmp_path}/store/{first.operation.id}.flac"
    first.files[0].path.unlink()
    assert tell(local) == tell(succeeded(await run(sim, tmp_path, [fx(1)], save_to=store))[0]) == tell(first)
    for _ in range(2):
        before = len(sim.log)
        succeeded(await run(sim, tmp_path, [fx(1)], save_to=MemoryStore()))
        assert len(sim.log) > before
    assert len(puts(sim)) == 1


@BOTH
async def test_an_object_in_a_bucket_is_believed_to_be_there(sim: Simulator, tmp_path: Path) -> None:
    """To ask for each of a hundred thousand costs as many requests; the journal knows whose bucket it was (F12)."""
    with serve_bucket() as one, serve_bucket() as other:
        (first,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=one.store(prefix="out")))
        before = len(sim.log)
        one.objects.clear()
        (again,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=one.store(prefix="out")))
        assert tell(again) == tell(first)
        assert len(sim.log) == before

        (elsewhere,) = succeeded(await run(sim, tmp_path, [fx(1)], save_to=other.store(prefix="out")))
        assert tell(elsewhere) == tell(first)
        assert list(other.objects) == [f"out/{first.operation.id}.flac"]
    assert len(puts(sim)) == 1


async def test_a_folder_may_be_moved(sim: Simulator, tmp_path: Path) -> None:
    """Recorded paths are relative to the journal's folder."""
    folder, moved = tmp_path / "out", tmp_path / "moved"
    (first,) = succeeded(await run(sim, folder, [fx(1)]))
    before = len(sim.log)
    folder.rename(moved)
    (second,) = succeeded(await run(sim, moved, [fx(1)]))
    assert len(sim.log) == before
    assert second.files[0].path == moved / first.files[0].path.name


async def test_outputs_keep_their_numbers(tmp_path: Path) -> None:
    """Their order is not promised; a later process still gives each file the number it had at first."""
    async with simulate(variations=["outputs=shuffled"], n_variations=6, url_lifetime=30.0) as sim:
        (first,) = succeeded(await run(sim, tmp_path, [NewInstrumental("calm")], save_to=None))
        (second,) = succeeded(await run(sim, tmp_path, [NewInstrumental("calm")]))
    expected = {output.index: output.path for output in first.operation.outputs}
    assert {file.output.index: file.output.path for file in second.files} == expected
    assert [file.path.stem.rpartition("-")[2] for file in second.files] == ["1", "2", "3", "4", "5", "6"]


async def test_an_output_from_the_journal_is_a_source(tmp_path: Path) -> None:
    """Its URL may have expired meanwhile: it is signed afresh, and what is sent then is recorded."""
    async with simulate(url_lifetime=30.0) as sim:
        await run(sim, tmp_path, [fx(1)])
        (first,) = succeeded(await run(sim, tmp_path, [fx(1)]))
        sim.expire_urls()
        stems = succeeded(await run(sim, tmp_path, [SeparateStems(first.operation.outputs[0])]))
        await run(sim, tmp_path, [SeparateStems(attrs.evolve(first.operation.outputs[0], url="https://a.example/b"))])
        assert len(stems[0].files) == 4
        assert len(sim.operations) == 2


@BOTH
async def test_a_failed_operation_is_not_tried_again(tmp_path: Path) -> None:
    """It is given out with the words of the service, without a request; to try again takes a new request."""
    async with simulate() as sim:
        sim.inject(Fault.FAIL, code="too_loud")
        first = the_failure(await run(sim, tmp_path, [fx(1)]))
        before = len(sim.log)
        (again,) = await run(sim, tmp_path, [fx(1)])
        assert len(sim.log) == before
    assert isinstance(again, Failed)
    assert again.operation is not None
    assert again.operation.status is Status.FAILED
    assert isinstance(again.error, OperationFailed)
    assert (str(again.error), type(again.error)) == (str(first), type(first))
    assert await states(tmp_path) == {JobState.FAILED: 1}


@BOTH
@pytest.mark.parametrize("key", [None, KEY])
async def test_only_retry_failed_buys_anew(tmp_path: Path, key: str | None) -> None:
    """With a new key and new bytes, once in a run; the line still finds its piece, whatever key it gives."""
    how: dict[str, Any] = {} if key is None else {"idempotency_key": key}
    async with simulate() as sim:
        for _ in range(3):
            sim.inject(Fault.FAIL)
            the_failure(await run(sim, tmp_path, [fx(1, **how)], retry_failed=True))
        assert await states(tmp_path) == {JobState.FAILED: 1}
        (known,) = await run(sim, tmp_path, [fx(1, **how)])
        assert isinstance(known, Failed)
        assert len(puts(sim)) == 3
        twice = fx(1, **how)
        (one, two) = succeeded(await run(sim, tmp_path, [twice, twice], retry_failed=True))
        succeeded(await run(sim, tmp_path, [fx(1, **how)], retry_failed=True))
        sent = puts(sim)
        assert tell(one) == tell(two)
        assert one.request is twice
        assert len(set(sent)) == len(dict(sent)) == len(sent) == len(sim.operations) == 4
        assert all(str(sent_key).encode() in body for sent_key, body in sent)
        assert await states(tmp_path) == {JobState.SAVED: 1}


@BOTH
async def test_what_fails_again_in_one_run_is_tried_once(tmp_path: Path) -> None:
    """The same object twice in a run is one piece, and one more purchase, and not two."""
    async with simulate() as sim:
        for _ in range(2):
            sim.inject(Fault.FAIL, times=1)
            request = fx(1)
            await run(sim, tmp_path, [request, request], retry_failed=True, max_in_flight=1)
        assert len(puts(sim)) == 2


@BOTH
async def test_a_refused_request_is_not_sent_again(sim: Simulator, tmp_path: Path) -> None:
    """The same bytes would be refused again; the reason is recorded."""
    first = the_failure(await run(sim, tmp_path, [NewFx("", duration=1)], validate=False))
    before = len(sim.log)
    again = the_failure(await run(sim, tmp_path, [NewFx("", duration=1)], validate=False))
    assert len(sim.log) == before
    assert (type(again), str(again)) == (type(first), str(first))
    assert isinstance(again, ValidationError)
    assert again.status == 422


@BOTH
async def test_what_is_refused_here_is_not_on_record(sim: Simulator, tmp_path: Path) -> None:
    """A request that is invalid, or not a request, was never sent, and may be valid for a later version."""
    requests: list[Any] = [NewFx("", duration=1), "no request", NewSample("a", duration={1})]  # type: ignore[arg-type]  # junk on purpose
    done = await run(sim, tmp_path, requests)
    fields = [
        result.error.field for result in done if isinstance(result, Failed) and isinstance(result.error, InvalidRequest)
    ]
    assert fields == ["prompt", "request", "duration"]
    assert await states(tmp_path) == {}


async def test_a_damaged_file_is_tried_again_by_the_next_run(sim: Simulator, tmp_path: Path) -> None:
    """It counts as failed, but the work is paid for and a download costs nothing."""
    sim.inject(Fault.CORRUPT, at=0, host="output", times=2)
    assert isinstance(the_failure(await run(sim, tmp_path, [fx(1)])), CorruptAudio)
    assert await states(tmp_path) == {JobState.FAILED: 1}
    succeeded(await run(sim, tmp_path, [fx(1)]))
    assert await states(tmp_path) == {JobState.SAVED: 1}
    assert len(puts(sim)) == 1


@BOTH
async def test_an_outage_leaves_the_state(sim: Simulator, tmp_path: Path) -> None:
    """Nobody knows whether the PUT was accepted, so the next run sends the same bytes; it is made once."""
    sim.inject(Fault.RESET_AFTER, method="PUT")
    error = the_failure(await run(sim, tmp_path, [fx(1)], retries=RetryPolicy(submit_max_elapsed=0.001)))
    assert isinstance(error, TransportError)
    assert await states(tmp_path) == {JobState.SENDING: 1}
    succeeded(await run(sim, tmp_path, [fx(1)]))
    first, second = puts(sim)
    assert first == second
    assert len(sim.operations) == 1


@BOTH
async def test_a_refusal_after_an_outage_leaves_the_doubt(tmp_path: Path) -> None:
    """One PUT of the piece was never answered: that a later one was refused does not undo it."""
    async with simulate(credits=0) as sim:
        sim.inject(Fault.RESET_BEFORE, method="PUT")
        error = the_failure(await run(sim, tmp_path, [fx(1)]))
        assert isinstance(error, InsufficientCredits)
        assert len(puts(sim)) == 2
        assert await states(tmp_path) == {JobState.SENDING: 1}


async def test_a_rate_limit_leaves_no_doubt(tmp_path: Path) -> None:
    """A 429 is an answer: no work began, so a refusal after it leaves the piece planned."""
    async with simulate(credits=0) as sim:
        sim.inject(Fault.RATE_LIMITED, method="PUT", seconds=0)
        await run(sim, tmp_path, [fx(1)])
        assert len(puts(sim)) == 2
        assert await states(tmp_path) == {JobState.PLANNED: 1}


async def test_a_connection_that_was_refused_leaves_no_doubt(sim: Simulator, tmp_path: Path) -> None:
    """Nothing left this machine, so a day of such an outage makes nothing uncertain; a lost answer is another thing."""
    url = "http://127.0.0.1:9"
    patience = RetryPolicy(submit_max_elapsed=0.5)
    await run(sim, tmp_path, [fx(1)], retries=patience, base_url=url)
    assert await states(tmp_path) == {JobState.PLANNED: 1}
    sim.inject(Fault.RESET_BEFORE, method="PUT")
    await run(sim, tmp_path, [fx(1)], retries=RetryPolicy(submit_max_elapsed=0.001))
    assert await states(tmp_path) == {JobState.SENDING: 1}
    await run(sim, tmp_path, [fx(1)], retries=patience, base_url=url)
    assert await states(tmp_path) == {JobState.SENDING: 1}  # by the PUT of before


async def test_who_is_cancelled_at_a_closed_gate_leaves_no_doubt(tmp_path: Path) -> None:
    """It was about to be sent, and never was."""
    async with simulate() as sim, Session(settings(sim)) as session, open_journal(tmp_path) as journal:
        sim.inject(Fault.RATE_LIMITED, method="PUT", times=9, seconds=3600)
        async with session.run_many(map(fx, range(3)), journal=journal):
            with anyio.fail_after(30):
                while session.statistics().queued < 3:
                    await anyio.sleep(0.01)
            assert await journal.count() == {JobState.SENDING: 3}
        assert await journal.count() == {JobState.PLANNED: 3}


@BOTH
async def test_what_was_sent_long_ago_is_not_sent_again_unasked(sim: Simulator, tmp_path: Path) -> None:
    """How long a key is remembered is unknown: after a day the piece is uncertain, and only the user may say send."""
    sim.inject(Fault.RESET_AFTER, method="PUT")
    await run(sim, tmp_path, [fx(1)], retries=RetryPolicy(submit_max_elapsed=0.001))
    await edit_journal(tmp_path, "UPDATE job SET sent_at = sent_at - ?", KEY_LIFETIME)
    error = the_failure(await run(sim, tmp_path, [fx(1)]))
    assert isinstance(error, JournalError)
    assert "resubmit_uncertain" in str(error)
    assert len(puts(sim)) == 1
    assert await states(tmp_path) == {JobState.UNCERTAIN: 1}
    succeeded(await run(sim, tmp_path, [fx(1)], resubmit_uncertain=True))
    first, second = puts(sim)
    assert first == second


def songs() -> list[Request]:
    return [NewSong("la " * 900, prompt=f"song {number}") for number in range(8)]


def forbid_growth(connection: sqlite3.Connection) -> None:
    """Limit the file to its current number of pages."""
    connection.execute("PRAGMA max_page_count = 1").fetchone()


async def test_a_run_that_cannot_be_recorded_ends(sim: Simulator, tmp_path: Path) -> None:
    """A full disk is a bare JournalError; with free space the same run resumes, and nothing was paid for twice."""
    done = 0
    with pytest.raises(JournalError, match="the disk is full: free some space"):
        async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
            async with session.run_many(songs(), save_to=tmp_path, journal=journal, max_in_flight=4) as results:
                async for _ in results:
                    done += 1
                    if done == 2:
                        await journal.store._execute(forbid_growth)
    assert len(sim.operations) < 8
    again = succeeded(await run(sim, tmp_path, songs()))
    assert len({result.operation.id for result in again}) == len(sim.operations) == 8


@pytest.mark.parametrize("way", ["moved", "removed", "replaced", "in the way"])
async def test_nothing_is_sent_that_only_a_lost_journal_would_know(sim: Simulator, tmp_path: Path, way: str) -> None:
    """SQLite writes on into a file that nobody will find; what was sent is finished, and the rest is not sent."""
    folder, elsewhere, files = tmp_path / "record", tmp_path / "elsewhere", tmp_path / "files"
    results: list[Result] = []
    async with Session(settings(sim)) as session, open_journal(folder) as journal:
        requests = [fx(number) for number in range(12)]
        async with session.run_many(requests, save_to=files, journal=journal, max_in_flight=2) as given:
            async for result in given:
                results.append(result)
                if len(results) == 3:
                    folder.rename(elsewhere)
                    if way == "replaced":
                        (folder / "journal.sqlite3").mkdir(parents=True)
                    elif way == "in the way":
                        folder.touch()
                    elif way == "removed":
                        rmtree(elsewhere)
        loss = await journal.store.find_loss()
    lost = [result.error for result in results if isinstance(result, Failed)]
    assert len(results) == 12
    assert 7 <= len(lost) <= 9
    assert len(puts(sim)) == 12 - len(lost)
    for error in (*lost, loss):
        assert isinstance(error, JournalError)
        assert error.stops_run
        assert f"{folder}/journal.sqlite3 was moved, removed or replaced while" in str(error)
    if way != "removed":
        succeeded(await run(sim, elsewhere, [fx(number) for number in range(12)], save_to=files))
        assert len({key for key, _ in puts(sim)}) == len(sim.operations) == 12


async def test_the_key_of_the_account_is_nowhere(sim: Simulator, tmp_path: Path) -> None:
    """Not in the journal, its log, or the lock."""
    async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
        async with session.run_many([fx(1)], save_to=tmp_path, journal=journal) as results:
            succeeded([result async for result in results])
        for path in tmp_path.iterdir():
            assert sim.api_key.encode() not in path.read_bytes(), path


async def test_it_is_counted_what_came_how_far(tmp_path: Path) -> None:
    """Those of an earlier run included: that is what a progress bar shows."""
    async with simulate() as sim:
        await run(sim, tmp_path, [fx(1)])
        await run(sim, tmp_path, [fx(2)], save_to=None)
        sim.inject(Fault.FAIL)
        await run(sim, tmp_path, [fx(3)])
        sim.inject(Fault.FAIL)
        async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
            for _ in range(2):
                async with session.run_many(map(fx, range(1, 5)), save_to=tmp_path, journal=journal) as results:
                    assert len([result async for result in results]) == 4
            assert journal.store.progress == {JobState.SUBMITTED: 8, JobState.READY: 4}


@BOTH
async def test_names_and_metadata_are_kept_and_count_for_nothing(sim: Simulator, tmp_path: Path) -> None:
    """Files are called as was said, in the next run too; a line that was only renamed is bought no second time."""

    async def run_named(*names: str | None) -> list[str]:
        requests = [fx(number) for number, _ in enumerate(names)]
        async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
            for number, name in enumerate(names):
                if name is not None:
                    journal.annotate(requests[number], metadata={"line": number, "name": name})
            named = zip(requests, names, strict=True)
            async with session.run_many(named, save_to=tmp_path, journal=journal, ordered=True) as results:
                done = succeeded([result async for result in results])
        return [file.name for result in done for file in result.files]

    files = await run_named("take", "take", "../journal.sqlite3")
    assert sorted(files[:2]) == ["take-2.flac", "take.flac"]
    assert files[2] == "_journal.sqlite3.flac"
    (tmp_path / "take-2.flac").unlink()
    assert await run_named("other", "take", None) == files
    assert await run_named("other", "take", None, "take") == [*files, "take-3.flac"]
    assert len(sim.operations) == 4
    async with open_journal(tmp_path) as journal:
        found = sorted(await journal.jobs("saved"), key=lambda piece: piece.metadata["line"])
        assert [piece.metadata["name"] for piece in found] == ["other", "take", "../journal.sqlite3", "take"]
        assert journal._annotations == {}
        for piece in found:
            times = (piece.sent_at, piece.submitted_at, piece.ready_at, piece.ended_at)
            assert times == tuple(sorted(time or 0 for time in times))


@BOTH
async def test_a_journal_must_be_open_and_for_writing(sim: Simulator, session: Session, tmp_path: Path) -> None:
    """That is said before anything is read or sent."""
    with pytest.raises(JournalError, match="is not open"):
        session.run_many([fx(1)], journal=open_journal(tmp_path))
    await run(sim, tmp_path, [])
    async with open_journal(tmp_path, read_only=True) as journal:
        with pytest.raises(JournalError, match="read only"):
            session.run_many([fx(1)], journal=journal)


def recording(journal: Journal, engine: Engine) -> RecordedRun[Any]:
    return RecordedRun(journal, engine=engine, stop=StopSignal(), files=RunFiles(engine, None), timeout=None)


@BOTH
@pytest.mark.parametrize("operation", ["op_1", None])
async def test_an_answer_to_another_request_ends_nothing(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, operation: str | None
) -> None:
    """The id in it is not ours, so none is recorded; the PUT may have been accepted, and goes again with its key."""

    async def submit(request: Request, *, stop: StopSignal, prepared: PreparedSubmit) -> Operation[Any]:
        await prepared.before_attempt()
        stop.check()
        prepared.attempts.started += 1
        known = operation and Operation(route=request.route, id=operation, status=Status.PROCESSING, request=request)
        raise DecodeError("strange", operation=known or None)

    monkeypatch.setattr(session._engine, "submit", submit)
    async with open_journal(tmp_path) as journal:
        one = recording(journal, session._engine)
        with pytest.raises(DecodeError):
            await one.run(InFlight(fx(1)))
        (piece,) = await journal.jobs(JobState.SENDING)
        assert piece.operation is None
        assert "RecordedRun" in repr(one)
        assert "SavedFiles" in repr(one._saved_files)


@BOTH
async def test_a_given_key_wins_a_race_too(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another task makes a piece with this key at the same time, that is the piece."""
    async with open_journal(tmp_path) as journal:
        other = JobIdentity(digest=b"other", occurrence=1)

        async def prepare(request: Request) -> bytes:
            await journal.store.insert(other, key=KEY, route=request.route, body=b"first")
            return b"second"

        async def submit(request: Request, *, stop: StopSignal, prepared: PreparedSubmit) -> Operation[Any]:
            stop.check()
            assert (request.idempotency_key, prepared.body) == (KEY, b"first")
            raise TransportError("seen enough")

        monkeypatch.setattr(session._engine, "prepare", prepare)
        monkeypatch.setattr(session._engine, "submit", submit)
        one = recording(journal, session._engine)
        with pytest.raises(TransportError, match="seen enough"):
            await one.run(InFlight(fx(1, idempotency_key=KEY)))
        assert await journal.count() == {JobState.PLANNED: 1}


@BOTH
async def test_a_record_without_its_output_is_fetched_again(sim: Simulator, tmp_path: Path) -> None:
    """Whatever was edited in the journal, at worst a file is fetched once more."""
    await run(sim, tmp_path, [fx(1)])
    await edit_journal(tmp_path, "UPDATE job SET files = replace(files, '\"index\": 0', '\"index\": 7')")
    (again,) = succeeded(await run(sim, tmp_path, [fx(1)]))
    assert isinstance(again.files[0].output, Output)
    assert len(puts(sim)) == 1


@BOTH
@pytest.mark.parametrize("lifetime", [900.0, 30.0])
@pytest.mark.parametrize("key", [None, KEY])
async def test_bytes_that_created_nothing_are_made_anew_when_their_source_expires(
    tmp_path: Path, key: str | None, lifetime: float
) -> None:
    """With a new key, but for one that was given; also where the service signs URLs for less than a minute."""
    async with simulate(speed=2000, track_seconds=(0.1, 0.1), credits=1, url_lifetime=lifetime) as sim:
        (made,) = await run(sim, tmp_path, [NewInstrumental("calm")], save_to=None)
        assert isinstance(made, Succeeded)
        output = made.operation.outputs[0]
        given: dict[str, Any] = {} if key is None else {"idempotency_key": key}
        (refused,) = await run(sim, tmp_path, [SeparateStems(output, **given)])
        assert isinstance(refused, Failed)
        assert isinstance(refused.error, InsufficientCredits)
        sim.top_up(9)
        expired = attrs.evolve(output, url="https://media.example.com/a?sig=old", expires_at=EXPIRED)
        for _ in range(2):
            (done,) = await run(sim, tmp_path, [SeparateStems(expired, **given)])
            assert isinstance(done, Succeeded)
        _, first, second = [request for request in sim.log if request.method == "PUT"]
        assert first.body != second.body
        assert b"sig=old" not in second.body
        assert (first.key == second.key) is (key is not None)
        assert len(sim.operations) == 2


@BOTH
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("refused", [False, True])
async def test_bytes_are_made_anew_when_their_source_expires_at_the_gate(
    tmp_path: Path, key: str | None, *, refused: bool
) -> None:
    """A 429 to it, or to another request, pauses all for longer; the bytes of before are never sent again."""
    given: dict[str, Any] = {} if key is None else {"idempotency_key": key}
    async with simulate(speed=2000, track_seconds=(0.1, 0.1), url_lifetime=61.0) as sim:
        limits = Limits(requests_per_second=20)
        async with Session(settings(sim, limits=limits)) as session, open_journal(tmp_path) as journal:
            made = await session.run(NewInstrumental("calm"))
            sim.inject(Fault.RATE_LIMITED, route=SeparateStems.route if refused else NewFx.route, seconds=2)
            async with anyio.create_task_group() as group:
                group.start_soon(session.submit, fx(1))
                await until(lambda: refused or session.statistics().rate_limited == 1)
                request = SeparateStems(made.operation.outputs[0], **given)
                async with session.run_many([request], save_to=tmp_path, journal=journal) as results:
                    (done,) = succeeded([result async for result in results])
            assert await journal.count() == {JobState.SAVED: 1}
    sent = [asked for asked in sim.log if asked.method == "PUT" and asked.route == SeparateStems.route]
    assert len(sent) == 1 + refused
    assert done.operation.idempotency_key == sent[-1].key
    assert (sent[-1].key == request.idempotency_key) is (key is not None)
    assert made.operation.outputs[0].url.encode() not in sent[-1].body
    assert len({asked.body for asked in sent}) == len(sent)
    assert len(sim.operations) == 3


@BOTH
async def test_a_file_of_the_caller_is_one_job_however_its_url_is_signed(tmp_path: Path) -> None:
    """By its digest; bytes that created nothing get the URL of today, others stay as they are."""

    def sign(number: int) -> AudioSource:
        async def renew() -> AudioSource:
            raise AssertionError

        url = f"https://bucket.example.com/mix.wav?sig={number}"
        return AudioSource(url, expires_at=datetime.now(UTC) + timedelta(hours=1), sha256="0a" * 32, renew=renew)

    async with simulate(speed=2000, track_seconds=(0.1, 0.1), credits=0) as sim:
        (refused,) = await run(sim, tmp_path, [SeparateStems(sign(1))])
        assert isinstance(refused, Failed)
        sim.top_up(9)
        for number in (2, 3):
            (done,) = await run(sim, tmp_path, [SeparateStems(sign(number))])
            assert isinstance(done, Succeeded)
        first, second = [request for request in sim.log if request.method == "PUT"]
        assert b"sig=1" in first.body
        assert b"sig=2" in second.body
        assert len(sim.operations) == 1


@BOTH
async def test_bytes_that_may_have_been_accepted_never_change(tmp_path: Path) -> None:
    """Whatever became of the URLs in them: another body, or key, would be another request."""
    async with simulate(speed=2000, track_seconds=(0.1, 0.1)) as sim:
        (made,) = await run(sim, tmp_path, [NewInstrumental("calm")], save_to=None)
        assert isinstance(made, Succeeded)
        output = made.operation.outputs[0]
        sim.inject(Fault.RESET_AFTER, method="PUT")
        retries = RetryPolicy(submit_max_elapsed=0.001)
        (failed,) = await run(sim, tmp_path, [SeparateStems(output)], retries=retries)
        assert isinstance(failed, Failed)
        expired = attrs.evolve(output, url="https://media.example.com/a?sig=old", expires_at=EXPIRED)
        (done,) = await run(sim, tmp_path, [SeparateStems(expired)])
        assert isinstance(done, Succeeded)
        assert len({(request.key, request.body) for request in sim.log if request.method == "PUT"}) == 2
        assert len(sim.operations) == 2

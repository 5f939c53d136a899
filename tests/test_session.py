import asyncio
import gc
import logging
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import attrs
import pytest
from helpers.idle import assert_idle, until
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, puts, settings, simulate

from soundpiece_async import (
    AudioSource,
    AuthenticationError,
    AutoCutDown,
    Failed,
    Handle,
    InvalidRequest,
    Journal,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    NotFound,
    NotReady,
    Operation,
    OperationFailed,
    Output,
    RemixInstrumental,
    RemixSong,
    Request,
    SeparateStems,
    Session,
    SessionClosed,
    Settings,
    SettingsError,
    Status,
    ValidationError,
    WaitTimeout,
)
from soundpiece_async.simulator import Fault, Faults, Simulator

pytestmark = pytest.mark.anyio

SOURCE = "https://media.example.com/mix.wav"
EVERY_KIND = [
    NewSong("[Verse]\nRain again", prompt="synthwave"),
    NewInstrumental(reference=AudioSource(SOURCE)),
    NewSample("loop", duration=0.3, loopable=True),
    NewFx("door slams", duration=0.25),
    RemixSong(SOURCE, lyrics="Rain", prompt="drum and bass", n_variations=2),
    RemixInstrumental(SOURCE, n_variations=3),
    SeparateStems(SOURCE),
    AutoCutDown(SOURCE, target_duration=0.25),
]


def polls(sim: Simulator) -> int:
    return sum(request.method == "GET" and request.host == "api" for request in sim.log)


@pytest.mark.parametrize("request_", EVERY_KIND, ids=lambda request: request.route)
async def test_submit_wait_download_for_every_kind(
    sim: Simulator, session: Session, tmp_path: Path, request_: Request
) -> None:
    """The three steps work alike on all eight routes, and the request object comes along."""
    request = attrs.evolve(request_)
    operation = await session.submit(request)
    assert operation.status is Status.PROCESSING
    assert operation.request is request
    assert operation.idempotency_key == request.idempotency_key
    assert operation.id in sim.operations
    ready = await session.wait(operation, timeout=20)
    assert ready.status is Status.READY
    assert ready.request is request
    files = await session.download(ready, tmp_path)
    assert [file.output for file in files] == list(ready.outputs)
    assert all(file.path.parent == tmp_path and file.path.name.startswith(operation.id) for file in files)
    assert all(file.sample_rate == 44100 for file in files)
    assert ready.raw["id"] == operation.id


async def test_run_is_the_three_in_a_row(session: Session, tmp_path: Path) -> None:
    """``run`` gives the operation and its files; without a folder, no files."""
    saved = await session.run(fx(), save_to=tmp_path)
    assert saved.files[0].path.is_file()
    assert (await session.run(fx())).files == ()
    named = await session.run(fx(), save_to=tmp_path, name="a/door")
    assert (named.name, [file.name for file in named.files]) == ("a/door", ["a_door.flac"])


async def test_many_waiters_share_one_poll() -> None:
    """Any number of callers wait for the same operation with one poll out."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        got: list[Operation[NewFx]] = []

        async def wait() -> None:
            got.append(await session.wait(operation))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(wait)
            await until(lambda: sim.open_requests == 1)
            sim.finish(operation.id)
        assert len(got) == 20
        assert sim.peak_polls == 1


async def test_cancelling_a_waiter_only_detaches_it() -> None:
    """The poll goes on for the others, and ends with the last of them."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        async with anyio.create_task_group() as patient:
            patient.start_soon(session.wait, operation)
            with anyio.move_on_after(0.05):
                await session.wait(operation)
            await until(lambda: sim.open_requests == 1)
            assert session.statistics().in_flight == 1
            patient.cancel_scope.cancel()
        await until(lambda: sim.open_requests == 0)
        await assert_idle(session)
        sim.finish(operation.id)
        assert (await session.wait(operation)).status is Status.READY


async def test_a_timeout_loses_nothing() -> None:
    """``WaitTimeout`` carries what to come back with, and is a ``TimeoutError``."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        with pytest.raises(TimeoutError, match=operation.id) as caught:
            await session.wait(operation, timeout=0.05)
        assert isinstance(caught.value, WaitTimeout)
        assert caught.value.operation == operation
        sim.finish(operation.id)
        assert (await session.wait(caught.value.handle)).status is Status.READY


async def test_a_handle_is_all_it_takes(sim: Simulator, tmp_path: Path) -> None:
    """Another session comes back by the handle's text; the request is rebuilt from the echo."""
    async with Session(settings(sim)) as first:
        request = RemixSong(SOURCE, lyrics="Rain", prompt="x", n_variations=2)
        text = str((await first.submit(request)).handle)
    async with Session(settings(sim)) as second:
        operation = await second.wait(Handle.parse(text))
        assert operation.request == attrs.evolve(request, source=AudioSource(SOURCE))
        assert (await second.refresh(Handle.parse(text))).status is Status.READY
        assert len(await second.download(Handle.parse(text), tmp_path)) == 2


async def test_a_final_operation_is_waited_for_without_a_request(sim: Simulator, session: Session) -> None:
    """What is known to be ready, or to have failed, is not asked again."""
    ready = await session.wait(await session.submit(fx()))
    before = len(sim.log)
    assert await session.wait(ready) is ready
    failed = attrs.evolve(ready, status=Status.FAILED, outputs=())
    with pytest.raises(OperationFailed, match="no reason given"):
        await session.wait(failed)
    with pytest.raises(OperationFailed):
        await session.download(failed, "nowhere")
    assert len(sim.log) == before


@pytest.mark.parametrize("code", ["internal_error", "a_code_nobody_knows"])
async def test_a_failed_operation_says_why(code: str) -> None:
    """Known and unknown codes alike are shown unchanged."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        sim.finish(operation.id, failure=code)
        with pytest.raises(OperationFailed, match=code) as caught:
            await session.wait(operation)
        assert caught.value.operation.error is not None
        assert caught.value.operation.error.code == code
        assert session.statistics().failed == 1


async def test_an_operation_that_is_not_ready_is_not_downloaded() -> None:
    """Downloading too early is a clear error; so is an output of a failed operation by its handle."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        with pytest.raises(NotReady, match="wait for it"):
            await session.download(operation, "nowhere")
        sim.finish(operation.id, failure="internal_error")
        with pytest.raises(OperationFailed):
            await session.download(operation.handle, "nowhere")


async def test_one_output_gets_the_name_the_whole_operation_gives_it(
    sim: Simulator, session: Session, tmp_path: Path
) -> None:
    """``download`` of an ``Output`` writes the same file as that of its operation, in any session."""
    done = await session.wait(await session.submit(SeparateStems(SOURCE)))
    bass = next(output for output in done.outputs if output.kind == "bass")
    alone = await session.download(bass, tmp_path, name="mine")
    assert alone.path.name == "mine-bass.flac"
    async with Session(settings(sim)) as other:
        again = await other.download(bass, tmp_path / "other", name="mine")
    assert again.path.name == "mine-bass.flac"
    assert again.sha256 == alone.sha256
    assert {file.path.name for file in await session.download(done, tmp_path, name="mine")} == {
        f"mine-{kind}.flac" for kind in ("vocals", "drums", "bass", "other")
    }


async def test_the_same_object_is_submitted_once(sim: Simulator, session: Session) -> None:
    """Twice in a row, or twenty times at the same moment: one PUT, one operation."""
    request = fx()
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(session.submit, request)
    await session.submit(request)
    assert (len(puts(sim)), len(sim.operations)) == (1, 1)


async def test_what_was_submitted_is_forgotten_with_its_request_object(session: Session) -> None:
    """A long-lived session remembers a key only as long as somebody holds the request."""
    await session.submit(fx())
    gc.collect()
    assert "known=0" in repr(session)


async def test_one_key_never_stands_for_two_requests(sim: Simulator, session: Session) -> None:
    """Another body under a used key is refused before it is sent (docs/api.md#idempotency: what happens is UNKNOWN)."""
    request = fx()
    await session.submit(request)
    with pytest.raises(InvalidRequest, match="another request") as caught:
        await session.submit(NewFx("other", duration=1, idempotency_key=request.idempotency_key))
    assert caught.value.field == "idempotency_key"
    await session.submit(attrs.evolve(request))  # an equal one is the same piece of work
    assert len(puts(sim)) == 1


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (NewFx("", duration=1), "prompt"),
        (NewFx("x" * 1025, duration=1), "prompt"),
        (NewFx("x", duration=math.nan), "duration"),
        (NewSong("a", prompt="b", reference=SOURCE), "reference"),
        (NewSong("a"), "prompt"),
        (fx(callback_url="http://hooks.example.com/x"), "callback_url"),
        (fx(idempotency_key="seven"), "idempotency_key"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    sim: Simulator, session: Session, bad: Request, field: str
) -> None:
    """``InvalidRequest`` names the member, and the server hears nothing."""
    with pytest.raises(InvalidRequest) as caught:
        await session.submit(bad)
    assert caught.value.field == field
    assert sim.log == []


async def test_validation_can_be_switched_off_but_nan_cannot(sim: Simulator) -> None:
    """The service may loosen its rules; what JSON cannot say is refused even then."""
    async with Session(settings(sim, validate=False)) as session:
        with pytest.raises(ValidationError) as caught:
            await session.submit(NewFx("", duration=1))
        assert caught.value.fields[0].loc[-1] == "prompt"
        with pytest.raises(InvalidRequest, match="duration"):
            await session.submit(NewFx("x", duration=math.nan))
    assert len(puts(sim)) == 1


async def test_an_output_is_the_next_source_and_is_renewed_when_it_expires(tmp_path: Path) -> None:
    """A pipeline passes outputs on; one whose URL is about to expire is signed afresh before it is sent."""
    async with simulate(url_lifetime=30.0) as sim, Session(settings(sim)) as session:
        song = await session.run(NewInstrumental("calm"))
        (first, *_) = song.operation.outputs
        assert first.expires_at is not None
        assert first.expires_at - datetime.now(UTC) < timedelta(seconds=60)
        before = polls(sim)
        stems = await session.run(SeparateStems(first), save_to=tmp_path)
        assert len(stems.files) == 4
        assert polls(sim) > before + 1
        body = next(request.body for request in sim.log if request.route == "adapt.separate_stems" and request.body)
        assert first.url.encode() not in body
        assert first.path.encode() in body


async def test_urls_that_expired_meanwhile_are_renewed(tmp_path: Path) -> None:
    """A download much later just works: the URL is signed afresh on refusal, once for all files of an operation."""
    async with simulate() as sim, Session(settings(sim)) as session:
        done = await session.run(SeparateStems(SOURCE))
        sim.expire_urls()
        assert len(await session.download(done.operation, tmp_path)) == 4


async def test_the_order_of_outputs_is_fixed_at_first_sight(tmp_path: Path) -> None:
    """The service may list outputs in any order, each time another: numbers and names stay."""
    async with simulate(variations=["outputs=shuffled"]) as sim, Session(settings(sim)) as session:
        done = await session.run(RemixInstrumental(SOURCE, n_variations=3), save_to=tmp_path)
        for _ in range(5):
            again = await session.refresh(done.operation)
            assert [output.path for output in again.outputs] == [output.path for output in done.operation.outputs]
            assert [output.index for output in again.outputs] == [0, 1, 2]


async def test_an_object_submitted_again_leaves_its_outputs_as_they_are(tmp_path: Path) -> None:
    """Before it is ready the operation is counted all the same; after that numbers and fresh URLs stay."""
    async with simulate(variations=["outputs=shuffled"]) as sim, Session(settings(sim)) as session:
        for number in range(6):  # each time in another order: one of them would be mixed up
            request = NewInstrumental(f"take {number}")
            await session.submit(request)
            done = await session.wait(await session.submit(request))
            await session.submit(request)
            again = await session.refresh(done)
            assert [output.path for output in again.outputs] == [output.path for output in done.outputs]
        assert session.statistics().ready == 6
        files = await session.download(done, tmp_path / "before")
        await session.submit(request)
        sim.expire_urls()
        renewed = await session.download(done, tmp_path / "after")
        assert [file.sha256 for file in renewed] == [file.sha256 for file in files]


async def test_an_operation_that_was_ready_at_once_is_given_again_with_its_latest_urls() -> None:
    """A PUT may answer with a final operation: its URLs are of then, and those signed since are newer."""
    async with simulate(durations={"create.new_fx": 0.0}) as sim, Session(settings(sim)) as session:
        request = fx()
        sim.inject(Fault.RESET_AFTER, method="PUT")  # the PUT that is answered is a replay
        first = await session.submit(request)
        sim.expire_urls()
        (fresh,) = (await session.refresh(first)).outputs
        assert first.outputs != (fresh,)
        assert (await session.submit(request)).outputs == (fresh,)
        assert session.statistics().ready == 1


async def test_next_years_service_is_understood() -> None:
    """Unknown members, statuses and kinds do not break anything: a status that is unknown counts as not final."""
    async with simulate(forward=True) as sim, Session(settings(sim)) as session:
        for request in EVERY_KIND:
            assert (await session.run(attrs.evolve(request))).operation.status is Status.READY


async def test_a_webhook_wakes_the_waiters() -> None:
    """``deliver`` ends the wait as a poll would, before or after anybody waits; news that is not final is ignored."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        output = Output(url="https://h/a", handle=operation.handle)
        ready = attrs.evolve(operation, status=Status.READY, outputs=(output,))
        session.deliver(operation)
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                assert (await session.wait(operation)).status is Status.READY

            group.start_soon(wait)
            await until(lambda: sim.open_requests == 1)
            session.deliver(ready)
        await until(lambda: sim.open_requests == 0)
        session.deliver(ready)
        assert (await session.wait(operation)).status is Status.READY


async def test_a_webhook_is_believed_only_once_confirmed_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    """With ``confirm_webhooks`` one GET decides; a lie changes nothing."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim, confirm_webhooks=True)) as session:
        operation = await session.submit(fx())
        ready = attrs.evolve(operation, status=Status.READY)
        session.deliver(ready)
        with pytest.raises(WaitTimeout):
            await session.wait(operation, timeout=0.1)
        sim.finish(operation.id)
        session.deliver(ready)
        assert (await session.wait(operation, timeout=5)).outputs
        session.deliver(attrs.evolve(ready, id="op_" + "0" * 26))
        await until(lambda: "could not be confirmed" in caplog.text)
        assert sim.log[-1].operation == "op_" + "0" * 26


async def test_statistics_count_what_happened(session: Session, tmp_path: Path) -> None:
    """A snapshot of counts, for progress displays."""
    done = await session.run(fx(), save_to=tmp_path)
    now = session.statistics()
    assert (now.submitted, now.ready, now.failed, now.in_flight, now.downloads) == (1, 1, 0, 0, 1)
    assert now.bytes == done.files[0].bytes
    assert (now.rate, now.paused_for, now.rate_limited) == (None, 0.0, 0)
    assert now.requests >= 2
    assert "Session" in repr(session)


async def test_a_closed_session_says_so() -> None:
    """Before the start, after the end, twice started, never opened: a clear error, and closing twice is fine."""
    async with simulate() as sim:
        session = Session(settings(sim))
        assert "not started" in repr(session)
        for early in (session.statistics, lambda: session.deliver(None)):  # type: ignore[arg-type]
            with pytest.raises(SessionClosed, match="not open"):
                early()
        with pytest.raises(SessionClosed, match="not open"):
            await session.submit(fx())
        async with session:
            with pytest.raises(SessionClosed, match="once"):
                await session.start()
        for call in (lambda: session.submit(fx()), lambda: session.wait(Handle("create.new_fx", "op_1"))):
            with pytest.raises(SessionClosed, match="closed"):
                await call()
        assert session.statistics().submitted == 0
        await session.aclose()
        with pytest.raises(SessionClosed):
            await session.start()
        never = Session(settings(sim))
        await never.aclose()
        with pytest.raises(SessionClosed):
            await never.start()


async def test_closing_gives_every_waiter_session_closed_and_leaves_nothing() -> None:
    """Waiters, submits and downloads in flight all end with ``SessionClosed``; no task and no socket is left."""
    async with simulate(durations=never_finishes, faults=Faults(stall=1.0)) as sim:
        tasks = asyncio.all_tasks()
        session = Session(settings(sim))
        await session.start()
        ended = 0

        async def call(request: NewFx | Handle) -> None:
            nonlocal ended
            with pytest.raises(SessionClosed):
                await (session.wait(request) if isinstance(request, Handle) else session.submit(request))
            ended += 1

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(call, fx())
                group.start_soon(call, Handle("create.new_fx", f"op_{number:026d}"))
            await until(lambda: sim.open_requests == 10)
            await session.aclose()
        assert ended == 10
        await until(lambda: sim.open_requests == 0)
        await until(lambda: asyncio.all_tasks() <= tasks | {asyncio.current_task()})


async def test_a_session_opens_and_closes_in_different_tasks(sim: Simulator) -> None:
    """Web frameworks and fixtures do that."""
    session = Session(settings(sim))
    await asyncio.create_task(session.start())
    await session.run(fx())
    await asyncio.create_task(session.aclose())
    with pytest.raises(SessionClosed):
        await session.run(fx())


def test_a_session_belongs_to_one_event_loop() -> None:
    """Use from another loop is refused, and so is closing from there."""

    async def use(session: Session) -> None:
        with pytest.raises(SessionClosed, match="another event loop"):
            await session.submit(fx())
        with pytest.raises(SessionClosed, match="another event loop"):
            await session.aclose()

    async def main() -> None:
        async with simulate() as sim, Session(settings(sim)) as session:
            await anyio.to_thread.run_sync(lambda: asyncio.run(use(session)))
            await session.run(fx())

    asyncio.run(main())


def test_a_forgotten_close_is_a_resource_warning() -> None:
    """The loop's end cleans up, and the warning tells who forgot."""

    async def forget() -> None:
        async with simulate() as sim:
            session = Session(settings(sim))
            await session.start()
            await session.run(fx())
            del session

    with pytest.warns(ResourceWarning, match="was not closed"):
        asyncio.run(forget())


async def test_the_key_is_never_shown(
    sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in a log at DEBUG, a repr, an exception, or a file; nor a signed query; nor does the output host get it."""
    caplog.set_level(logging.DEBUG)
    told: list[object] = []
    sim.inject(Fault.SERVER_ERROR, method="PUT")
    async with Session(settings(sim)) as session:
        done = await session.run(fx(), save_to=tmp_path)
        told += [session, done, done.operation, done.files]
        told.append(await _error(session.submit(NewFx("", duration=1))))
        told.append(await _error(session.refresh(Handle("create.new_fx", "op_none"))))
    wrong = settings(sim, api_key="spk_wrong-and-secret")
    async with Session(wrong) as session:
        told.append(await _error(session.submit(fx())))
        told.append(wrong)
    signature = done.operation.outputs[0].url.partition("?")[2]
    shown = "".join(map(repr, told)) + "".join(map(str, told)) + caplog.text + "".join(capfd.readouterr())
    shown += "".join(path.read_text("latin-1") for path in tmp_path.iterdir())
    for secret in (sim.api_key, "wrong-and-secret", signature):
        assert secret
        assert secret not in shown
    assert all(not request.authorized for request in sim.log if request.host == "output")


async def _error(call: object) -> BaseException:
    try:
        await call  # type: ignore[misc]
    except Exception as error:  # noqa: BLE001 - any error must keep the secret
        return error
    raise AssertionError("it was refused")


async def test_errors_of_the_account_are_told_as_such(sim: Simulator) -> None:
    """A wrong key is an ``AuthenticationError`` at once; a wrong base URL a ``NotFound``."""
    async with Session(settings(sim, api_key="spk_wrong")) as session:
        with pytest.raises(AuthenticationError, match="check the API key"):
            await session.submit(fx())
    assert len(puts(sim)) == 1
    async with Session(settings(sim, base_url=f"{sim.url}/elsewhere")) as session:
        with pytest.raises(NotFound, match="SOUNDPIECE_BASE_URL"):
            await session.submit(fx())


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Session()`` reads two variables; without a key it refuses before anything is sent."""
    monkeypatch.delenv("SOUNDPIECE_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="SOUNDPIECE_API_KEY"):
        Session()
    monkeypatch.setenv("SOUNDPIECE_API_KEY", "spk_from_the_environment")
    assert "not started" in repr(Session())
    with pytest.raises(SettingsError):
        Session(Settings(api_key="sk-other"))
    with pytest.raises(SettingsError, match="Session\\(Settings"):
        Session("spk_the_key_itself")  # type: ignore[arg-type]  # the natural slip


def test_a_full_check_without_its_extra_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first download, when the work is paid for."""
    full = Settings(api_key="spk_x", verify="full")
    assert Session(full)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="soundpiece-async\\[verify\\]"):
        Session(full)


async def test_failed_pieces_keep_their_operation() -> None:
    """A ``Failed`` of a run knows the operation it was about."""
    async with simulate(faults=Faults(fail=1.0)) as broken, Session(settings(broken)) as session:
        async with session.run_many([fx()]) as results:
            (result,) = [result async for result in results]
    assert isinstance(result, Failed)
    assert isinstance(result.error, OperationFailed)
    assert result.operation is result.error.operation


async def test_a_session_takes_the_key_and_the_base_url_by_themselves(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside settings they override them; without, the rest is read from the environment. A mistake is one error."""
    async with Session(api_key=sim.api_key, base_url=sim.url) as session:
        await session.run(fx())
    async with Session(settings(sim, api_key="spk_wrong"), api_key=sim.api_key) as session:
        await session.run(fx())
    monkeypatch.setenv("SOUNDPIECE_BASE_URL", sim.url)
    async with Session(api_key=sim.api_key) as session:
        await session.run(fx())
    with pytest.raises(TypeError):
        Session(token="spk_x")  # type: ignore[call-arg]  # a mistake, whose object has no state to be warned of
    with pytest.raises(TypeError):
        Journal()  # type: ignore[call-arg]  # the same

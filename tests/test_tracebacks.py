"""Whatever a public call raises, its frames show neither the key nor a secret of webhooks, ours no signed URL."""

import asyncio
import base64
import json
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import attrs
import pytest
from helpers.https_proxy import Proxy, far, proxied
from helpers.idle import opened, until
from helpers.raw_api import KEY, RawApi, http, raw_settings
from helpers.raw_output_host import RawServer, ScriptedResponse
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate
from helpers.tracebacks import PACKAGE, captured, find
from standardwebhooks import Webhook

from soundpiece_async import (
    AudioSource,
    AutoCutDown,
    Handle,
    Journal,
    NewFx,
    NewSong,
    Operation,
    Output,
    Session,
    Settings,
    SoundpieceError,
)
from soundpiece_async.cli import commands
from soundpiece_async.cli import run as run_command
from soundpiece_async.simulator import Fault, Simulator
from soundpiece_async.webhooks import Webhooks

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

SIGNED = "https://elsewhere.example/mix.flac?X-Amz-Signature=SIGNATURE_OF_A_SOURCE"
SECRET = "whsec_" + base64.b64encode(b"a secret that nobody may see....").decode()
Call = Callable[[Session, Simulator, Path], Awaitable[object]]


async def ready(session: Session, sim: Simulator) -> Operation[Any]:
    """An operation with signed outputs."""
    operation = await session.submit(fx())
    sim.finish(operation.id)
    return await session.wait(operation)


async def submit(session: Session, *_: Any) -> object:
    return await session.submit(AutoCutDown(AudioSource(SIGNED), target_duration=3))


async def wait(session: Session, *_: Any) -> object:
    return await session.wait(await session.submit(fx()))


async def refresh(session: Session, *_: Any) -> object:
    return await session.refresh(Handle("create.new_fx", "op_none"))


async def run(session: Session, _: Simulator, folder: Path) -> object:
    return await session.run(AutoCutDown(AudioSource(SIGNED), target_duration=3), save_to=folder)


async def run_many(session: Session, _: Simulator, folder: Path) -> object:
    requests = [AutoCutDown(AudioSource(SIGNED), target_duration=3), fx()]
    async with session.run_many(requests, save_to=folder) as results:
        async for result in results:
            if (error := getattr(result, "error", None)) is not None:
                raise error
    return None


async def download(session: Session, sim: Simulator, folder: Path) -> object:
    return await session.download(await ready(session, sim), folder)


async def read(session: Session, output: Output, **how: str) -> None:
    async with session.stream(output, **how) as audio:
        async for _ in audio:
            pass


async def stream(session: Session, sim: Simulator, _: Path) -> object:
    return await read(session, (await ready(session, sim)).outputs[0])


async def stream_range(session: Session, sim: Simulator, _: Path) -> object:
    return await read(session, (await ready(session, sim)).outputs[0], range="bytes=1000-")


FETCHES: list[Call] = [download, stream, stream_range]
CALLS: list[Call] = [submit, wait, refresh, run, run_many, *FETCHES]


def refuse(sim: Simulator, status: int) -> None:
    sim.inject(Fault.SERVER_ERROR, status=status, host="api", times=99)


API_FAULTS: dict[str, Callable[[Simulator], object]] = {
    "401": lambda sim: refuse(sim, 401),
    "402": lambda sim: refuse(sim, 402),
    "422": lambda sim: refuse(sim, 422),
    "500": lambda sim: refuse(sim, 500),
    "reset": lambda sim: sim.inject(Fault.RESET_BEFORE, host="api", times=99),
    "hang-up": lambda sim: sim.inject(Fault.RESET_AFTER, host="api", times=99),
    "fail": lambda sim: sim.inject(Fault.FAIL, times=99),
}


def check(error: BaseException, *secrets: str, signed: tuple[str, ...] = ()) -> None:
    """Refuse frames that show a secret."""
    for secret in secrets:
        assert not find(error, secret)
    for signature in (urlsplit(SIGNED).query, *signed):
        assert not find(error, signature, ours=True, deep=False)


def once(sim: Simulator, **changes: Any) -> Settings:
    """Settings with which nothing is tried twice."""
    base = settings(sim, **changes)
    return attrs.evolve(base, retries=attrs.evolve(base.retries, submit_max_elapsed=0.0, download_max_elapsed=0.0))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("fault", API_FAULTS)
async def test_no_fault_of_the_service_shows_a_secret(call: Call, fault: str, tmp_path: Path) -> None:
    """Refusals, drops and failures of the work."""
    async with simulate() as sim, Session(once(sim)) as session:
        API_FAULTS[fault](sim)
        with pytest.raises(SoundpieceError) as caught:
            await call(session, sim, tmp_path)
            if fault == "fail":  # which the submit does not know yet
                await wait(session)
    check(caught.value, sim.api_key)
    assert any(frame.f_code.co_filename.startswith(PACKAGE) for frame, _, _ in captured(caught.value))


async def reach(session: Session, operation: Operation[Any] | None, call: Call, folder: Path) -> object:
    """Make a call, or the part of it that asks the output host."""
    if operation is None:
        return await call(session, None, folder)  # type: ignore[arg-type] - they use none
    if call is download:
        return await session.download(operation, folder)
    async with session.stream(operation.outputs[0], range="bytes=1000-" if call is stream_range else None):
        pytest.fail("it was entered")


async def interrupt(
    begin: Callable[[], Awaitable[object]],
    ending: str,
    *,
    ends: list[Callable[[], object]],
    caught: list[BaseException],
) -> None:
    """Make a call that is ended from outside, and keep what it raises where that is raised."""

    async def act() -> None:
        try:
            await begin()
        except BaseException as error:
            caught.append(error)
            raise

    if ending == "timeout":
        async with asyncio.timeout(None) as limit:
            ends.append(lambda: limit.reschedule(0.0))
            await act()
    with anyio.CancelScope() as scope:
        ends.append(scope.cancel)
        await act()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("ending", ["timeout", "cancel", "scope", "close"])
async def test_no_interruption_shows_a_secret(call: Call, ending: str, tmp_path: Path) -> None:
    """``asyncio.timeout``, a cancelled task or scope, and a session that closes: wherever the call stands just then."""
    async with simulate(durations=never_finishes) as sim:
        caught: list[BaseException] = []
        async with Session(once(sim)) as session:
            operation = await ready(session, sim) if call in FETCHES else None
            host = "api" if operation is None else "output"
            if call not in {wait, run_many}:
                sim.inject(Fault.STALL, host=host, seconds=30, times=99)
            before = len(sim.log)

            begin = partial(reach, session, operation, call, tmp_path)
            ends: list[Callable[[], object]] = []
            task = asyncio.create_task(interrupt(begin, ending, ends=ends, caught=caught))
            await until(lambda: len(sim.log) > before)
            match ending:
                case "cancel":
                    task.cancel()
                case "close":
                    await session.aclose()
                case _:
                    ends[0]()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            caught += [outcome] if isinstance(outcome, BaseException) else []
        assert caught
        signed = () if operation is None else tuple(urlsplit(output.url).query for output in operation.outputs)
        for error in caught:
            check(error, sim.api_key, signed=signed)


OUTPUT_FAULTS: dict[str, Callable[[Simulator], object]] = {
    "404": lambda sim: sim.inject(Fault.SERVER_ERROR, status=404, host="output", times=99),
    "500": lambda sim: sim.inject(Fault.SERVER_ERROR, status=500, host="output", times=99),
    "reset": lambda sim: sim.inject(Fault.RESET_BEFORE, host="output", times=99),
    "corrupt": lambda sim: sim.inject(Fault.CORRUPT, host="output", at=0, times=99),
}


@pytest.mark.parametrize("fault", OUTPUT_FAULTS)
@pytest.mark.parametrize("how", ["download", "stream", "range", "overwrite"])
async def test_no_fault_of_an_output_host_shows_a_secret(fault: str, how: str, tmp_path: Path) -> None:
    """Neither the key nor what signs the URL."""
    async with simulate() as sim, Session(once(sim)) as session:
        operation = (await session.run(fx())).operation
        if how == "overwrite":
            (tmp_path / f"{operation.id}.flac").write_bytes(b"something else")
        OUTPUT_FAULTS[fault](sim)
        with pytest.raises(SoundpieceError) as caught:
            if how == "stream":
                await read(session, operation.outputs[0])
            if how == "range":
                await read(session, operation.outputs[0], range="bytes=1000-")
            await session.download(operation, tmp_path)
    check(caught.value, sim.api_key, signed=tuple(urlsplit(output.url).query for output in operation.outputs))


COMMANDS: dict[str, Callable[[str, Path], Awaitable[object]]] = {
    "run": lambda _, folder: commands.run("create.new_fx", "door", save_to=folder),
    "get": lambda handle, folder: commands.get(handle, no_wait=True, save_to=folder),
    "probe": lambda _, __: commands.probe(),
    "doctor": lambda _, __: commands.doctor(),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", API_FAULTS)
async def test_no_command_shows_a_secret(
    command: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither what it raises, if that has to be, nor what it prints."""
    async with simulate() as sim, Session(once(sim)) as session:
        operation = await ready(session, sim)
        for name, value in sim.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(run_command, "SUBMIT_PATIENCE", 0.0)
        API_FAULTS[fault](sim)
        signed = tuple(urlsplit(output.url).query for output in operation.outputs)
        try:
            await COMMANDS[command](str(operation.handle), tmp_path)
        except SoundpieceError as error:
            check(error, sim.api_key, signed=signed)
    printed = str(capsys.readouterr())
    assert not any(secret in printed for secret in (sim.api_key, *signed))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd?S3CRET=1", "http://169.254.169.254/?S3CRET=1", "http://[/?S3CRET=1", "s3://b?S3CRET=1"]
)
async def test_no_refused_address_shows_what_signs_it(url: str, tmp_path: Path) -> None:
    """Also where the service redirects to one."""
    async with simulate() as sim, Session(once(sim)) as session:
        operation = (await session.run(fx())).operation
        moved = attrs.evolve(operation, outputs=(attrs.evolve(operation.outputs[0], url=url),))
        with pytest.raises(SoundpieceError) as caught:
            await session.download(moved.outputs[0], tmp_path)
    check(caught.value, sim.api_key, signed=("S3CRET",))


@pytest.mark.parametrize(
    "target", ["ftp://me:S3CRET@h/x?sig=S3CRET", "http://me:S3CRET@[/?sig=S3CRET", "//h:x/?sig=S3CRET"]
)
async def test_no_refused_redirect_shows_what_signs_it(target: str, tmp_path: Path) -> None:
    """Of an output: neither where it came from, nor where it leads."""
    moved = ScriptedResponse(status=302, headers={"Location": target})
    async with simulate() as sim, Session(once(sim)) as session, RawServer({}, default=moved) as host:
        operation = (await session.run(fx())).operation
        output = attrs.evolve(operation.outputs[0], url=host.url(query="sig=S3CRET"))
        with pytest.raises(SoundpieceError) as caught:
            await session.download(output, tmp_path)
        assert host.requests
    check(caught.value, sim.api_key, signed=("S3CRET",))


async def test_no_redirect_of_the_api_shows_what_signs_it() -> None:
    """It is refused, with the headers that it came with."""

    async def answer(peer: Any, _: bytes) -> None:
        await peer.send(
            http(SIGNED.encode(), status="307 Moved", headers=f"Location: {SIGNED}\r\nX-Request-Id: {SIGNED}\r\n")
        )

    async with RawApi() as api, opened(raw_settings(api.url)) as session:
        api.always = answer
        with pytest.raises(SoundpieceError, match="a redirect of the API is never followed") as caught:
            await session.submit(fx())
    check(caught.value)


ANSWERS = {
    "no JSON": b"<html>" + SIGNED.encode(),
    "no object": json.dumps([SIGNED]).encode(),
    "no operation": json.dumps({"a": {"link": SIGNED}, "b": {"link": SIGNED}}).encode(),
    "another id": json.dumps({"fx": {"id": "op_2", "status": "ready", "output": {"url": SIGNED}}}).encode(),
    "no output": json.dumps(
        {"fx": {"id": "op_1", "status": "ready", "output": {"page_link": SIGNED.replace(".flac", "")}}}
    ).encode(),
    "failed": json.dumps({"fx": {"id": "op_1", "status": "failed", "error": {"code": SIGNED}}}).encode(),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_no_answer_shows_its_urls(name: str) -> None:
    """Of what cannot be read, nothing is in a frame."""

    async def answer(peer: Any, _: bytes) -> None:
        await peer.send(http(ANSWERS[name]))

    async with RawApi() as api, opened(raw_settings(api.url)) as session:
        api.always = answer
        handle = Handle("create.new_fx", "op_1")
        with pytest.raises(SoundpieceError) as caught:
            await session.refresh(handle)
            await session.wait(handle, timeout=0.5)
        check(caught.value, KEY)
        with pytest.raises(SoundpieceError) as caught:
            await session.wait(handle, timeout=0.3)
        check(caught.value, KEY)


@pytest.fixture
async def proxy(sim: Simulator) -> AsyncIterator[Proxy]:
    async with proxied(sim) as opened:
        yield opened


async def test_no_proxy_shows_its_password(sim: Simulator, proxy: Proxy, tmp_path: Path) -> None:
    """Refused, silent or gone: neither it nor the key; and the proxy never sees the key."""
    proxy.refuse = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with Session(far(sim, proxy)) as session:
        for _ in range(2):
            with pytest.raises(SoundpieceError) as caught:
                await session.run(fx(), save_to=tmp_path)
            check(caught.value, sim.api_key, "secret@", "bWU6c2VjcmV0")
            proxy.refuse = b"junk\r\n\r\n"
    assert b"bWU6c2VjcmV0" in proxy.seen
    assert sim.api_key.encode() not in proxy.seen
    assert "secret" not in repr(far(sim, proxy))


def make_settings(**changes: Any) -> None:
    Settings(**{"api_key": "spk_SECRET_KEY", "base_url": "https://x.example", **changes})


WRONG: dict[str, Callable[[], object]] = {
    "base_url": lambda: make_settings(base_url="http://x.example"),
    "key": lambda: make_settings(api_key="spk_SECRET_KEY with blanks"),
    "limits": lambda: make_settings(limits="spk_SECRET_KEY"),
    "unknown": lambda: make_settings(unknown=5),
    "proxy": lambda: make_settings(proxy="odd://me:PASSWORD@x"),
    "environ": lambda: Settings.from_environ({"SOUNDPIECE_API_KEY": "spk_SECRET_KEY", "SOUNDPIECE_BASE_URL": "x"}),
    "session": lambda: Session(api_key="spk_SECRET_KEY", base_url="ftp://x"),
    "session settings": lambda: Session("spk_SECRET_KEY"),  # type: ignore[arg-type]
    "webhooks": lambda: Webhooks(["whsec_", "spk_SECRET_KEY"]),
    "webhooks tolerance": lambda: Webhooks([SECRET], tolerance=-1),
    "handle": lambda: Handle.parse("https://x/?spk_SECRET_KEY"),
}


@pytest.mark.parametrize("name", WRONG)
def test_no_constructor_shows_what_it_was_given(name: str) -> None:
    """A wrong setting beside the key; the frame of the caller is the caller's."""
    with pytest.raises((SoundpieceError, TypeError, ValueError)) as caught:
        WRONG[name]()
    check(caught.value, "SECRET_KEY", "PASSWORD", SECRET, "c2VjcmV0")


def test_no_delivery_shows_a_secret_of_webhooks() -> None:
    """Junk, a wrong signature, one that is too old, and a receiver of the user's that fails."""
    webhooks, other = Webhooks([SECRET]), Webhooks([SECRET], clock=lambda: 0.0)
    body = json.dumps(
        {"type": "create.new_fx.ready", "data": {"id": "op_1", "status": "ready", "output": {"url": SIGNED}}}
    )
    headers = sign_delivery(body)

    def deliver(_: object) -> None:
        raise ZeroDivisionError

    calls: list[Callable[[], object]] = [
        lambda: webhooks.verify({}, body.encode()),
        lambda: webhooks.verify({**headers, "webhook-signature": "v1,x"}, body.encode()),
        lambda: other.verify(headers, body.encode()),
        lambda: webhooks.handle(headers, body.encode(), deliver=deliver),
    ]
    for call in calls:
        with pytest.raises((SoundpieceError, ZeroDivisionError)) as caught:
            call()
        check(caught.value, SECRET, SECRET.removeprefix("whsec_"), "a secret that nobody")


def sign_delivery(body: str) -> dict[str, str]:
    now = datetime.now(tz=UTC)
    signature = Webhook(SECRET).sign("msg_1", now, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


@pytest.mark.parametrize("extensions", ["0", "1"], ids=["C", "Python"])
def test_the_masked_header_is_sent_as_it_is(extensions: str) -> None:
    """By both writers of aiohttp, that in C and that in Python, and by both of multidict's."""
    code = """
import asyncio, sys
from soundpiece_async import NewFx, Session, Settings
from soundpiece_async.simulator import Simulator
async def main():
    async with Simulator(speed=500) as sim:
        async with Session(Settings(api_key=sim.api_key, base_url=sim.url)) as session:
            await session.submit(NewFx("door", duration=1))
        print(sim.log[0].status)
asyncio.run(main())
"""
    environ = os.environ | {"AIOHTTP_NO_EXTENSIONS": extensions, "MULTIDICT_NO_EXTENSIONS": extensions}
    environ |= {"AIOHTTP_NO_EXTENSIONS": "1", "MULTIDICT_NO_EXTENSIONS": "1"} if extensions == "1" else {}
    environ = environ if extensions == "1" else {k: v for k, v in environ.items() if not k.endswith("NO_EXTENSIONS")}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.stdout.strip(), done.stderr) == ("200", "")


INVALID: dict[str, Callable[[], Any]] = {
    "length": lambda: AutoCutDown(AudioSource(SIGNED), target_duration=math.nan),
    "scheme": lambda: AutoCutDown(AudioSource(SIGNED.replace("https", "ftp")), target_duration=1),
    "text": lambda: AutoCutDown(SIGNED + " \ud800", target_duration=1),
    "both": lambda: NewSong(lyrics="x", prompt="x", reference=AudioSource(SIGNED)),
    "callback": lambda: NewFx("door", duration=1, callback_url=SIGNED.replace("https", "http")),
    "key": lambda: AutoCutDown(AudioSource(SIGNED), target_duration=1, idempotency_key="x"),
    "object": lambda: AutoCutDown(AudioSource(SIGNED), target_duration=object()),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.parametrize("validate", [True, False])
async def test_no_invalid_request_shows_its_urls(name: str, *, validate: bool) -> None:
    """A source is signed, too; whether it is checked here, or has no JSON form."""
    async with simulate() as sim, Session(once(sim, validate=validate)) as session:
        with pytest.raises((SoundpieceError, TypeError)) as caught:
            await session.submit(INVALID[name]())
            raise TypeError  # the service took it
    check(caught.value, sim.api_key)


async def test_no_failing_journal_shows_a_url(tmp_path: Path) -> None:
    """Its statements carry the bytes of requests."""
    async with simulate() as sim, Session(once(sim)) as session, Journal.open(tmp_path) as journal:
        with closing(
            sqlite3.connect(journal.path if hasattr(journal, "path") else tmp_path / "journal.sqlite3")
        ) as other:
            other.execute("DROP TABLE job")
            other.commit()
        with pytest.raises(SoundpieceError) as caught:
            async with session.run_many(
                [AutoCutDown(AudioSource(SIGNED), target_duration=1)], journal=journal
            ) as results:
                async for result in results:
                    raise result.error  # type: ignore[union-attr]
    check(caught.value, sim.api_key)

import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

import anyio
import attrs
import pytest
from helpers.idle import opened, until
from helpers.network_faults import EFFECTLESS, FAULTS, HEAVY, LIGHT
from helpers.raw_api import KEY, Peer, RawApi, Responder, raw_settings
from helpers.sample_requests import fx

from soundpiece_async import (
    AudioSource,
    DecodeError,
    Handle,
    Output,
    SeparateStems,
    ServerError,
    Session,
    Status,
    Timeouts,
    TransportError,
    WaitTimeout,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "short_pauses")]

BRISK = Timeouts(connect=2, submit=0.4, poll=0.4, read=0.4)
PATIENT = Timeouts(connect=2, submit=1, poll=1, read=1)  # for many at a time
SHORT = Timeouts(connect=0.2, submit=0.2, poll=0.2, read=0.2)
CERTIFICATE = Path(__file__).parent / "data" / "self-signed.pem"


settings = partial(raw_settings, timeouts=BRISK)


async def struck(name: str, call: Callable[[RawApi, Session], Awaitable[None]], *acts: Responder) -> None:
    """Make a call at a server with these acts; name the fault in what comes of it."""
    try:
        with anyio.fail_after(60):
            async with RawApi(*acts, blind=EFFECTLESS.values()) as api:
                async with opened(settings(api.url, elapsed=50, timeouts=PATIENT)) as session:
                    await call(api, session)
                while api.open:  # no socket is left
                    await anyio.sleep(0.002)
    except BaseException as error:
        error.add_note(f"the fault: {name}")
        raise


async def strike_all(call: Callable[[RawApi, Session], Awaitable[None]], *, names: Iterable[str] = LIGHT) -> None:
    """Make a call at as many servers as there are faults, all at the same time; the second attempt is answered."""
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(struck, name, call, FAULTS[name])


@pytest.mark.parametrize("name", FAULTS)
async def test_a_submit_says_what_happened_and_can_go_again(name: str) -> None:
    """The caller sees one of three errors, soon; the same object goes again with the same bytes and is made once."""
    async with RawApi(FAULTS[name], blind=EFFECTLESS.values()) as api, opened(settings(api.url)) as session:
        request = fx()
        with anyio.fail_after(30), pytest.raises((TransportError, ServerError, DecodeError)) as caught:
            await session.submit(request)
        assert f"PUT /v1/create.new_fx (idempotency key {request.idempotency_key})" in str(caught.value)
        assert len(str(caught.value)) < 700
        assert KEY not in repr(caught.value) + repr(caught.value.__cause__)
        assert caught.value.__notes__ == [
            "gave up after 1 attempt; retrying the same request object is safe (same idempotency key)"
        ]
        assert len(api.puts) == 1
        assert len(api.created) == (name not in EFFECTLESS)
        async with opened(raw_settings(api.url)) as patient:  # whose timeout is enough on a busy machine, too
            operation = await patient.submit(request)
        assert list(api.created.values()) == [operation.id]
        assert api.puts == [api.puts[0]] * 2


@pytest.mark.parametrize("name", ["floods", "floods as announced", "bomb"])
async def test_an_answer_without_end_is_broken_off(name: str) -> None:
    """At 8 MiB, unpacked, and not by the clock: a hostile or broken proxy takes neither memory nor time."""
    async with RawApi(*[FAULTS[name]] * 2) as api:
        generous = attrs.evolve(settings(api.url), timeouts=Timeouts(submit=30))
        async with opened(generous) as session:
            for call in (session.submit(fx()), session.refresh(Handle("create.new_fx", "op_1"))):
                with anyio.fail_after(30), pytest.raises(TransportError, match="response is larger than 8388608 bytes"):
                    await call


async def test_every_attempt_of_a_submit_is_one_request() -> None:
    """Also on a connection kept alive, which aiohttp by itself would repeat past the gate; the statistics agree.

    One that was closed in the moment of its use costs one attempt more, with the same key.
    """
    async with RawApi() as api, opened(settings(api.url, elapsed=20)) as session:
        for act in (FAULTS["hangs up later"], FAULTS["resets later"]):
            await session.submit(fx())
            api.script.append(act)
            before = len(api.requests)
            await session.submit(fx())
            assert len(api.requests) == before + 2
        assert session.statistics().requests == len(api.requests)
        assert len(set(api.puts)) == len(api.created) == 4


async def test_a_submit_survives_everything() -> None:
    """Within its budget the caller sees nothing of it."""

    async def submit(api: RawApi, session: Session) -> None:
        operation = await session.submit(fx())
        assert list(api.created.values()) == [operation.id]
        assert len(set(api.puts)) == 1

    await strike_all(submit)


async def test_a_wait_survives_everything() -> None:
    """A poll without a usable response is a later turn, and nothing is submitted again."""

    async def wait(api: RawApi, session: Session) -> None:
        operation = await session.wait(Handle("create.new_fx", "op_" + "7" * 26), timeout=20)
        assert operation.status is Status.READY
        assert len(api.requests) >= 2
        assert not api.puts

    await strike_all(wait)
    await strike_all(wait, names=HEAVY)


async def test_a_wait_keeps_to_its_own_deadline() -> None:
    """Whatever a poll is stuck in, the caller's clock decides, and nothing is lost."""

    async def wait(api: RawApi, session: Session) -> None:
        api.script.extend([api.script[0]] * 10)
        started = anyio.current_time()
        with pytest.raises(WaitTimeout) as caught:
            await session.wait(Handle("create.new_fx", "op_" + "7" * 26), timeout=0.2)
        assert anyio.current_time() - started < 10
        api.script.clear()
        assert (await session.wait(caught.value.handle, timeout=20)).status is Status.READY

    await strike_all(wait, names=[name for name in FAULTS if "stall" in name or "dribble" in name])


async def test_a_single_read_survives_everything() -> None:
    """``refresh`` tries again within the same budget as a submit."""

    async def refresh(api: RawApi, session: Session) -> None:
        assert (await session.refresh(Handle("create.new_fx", "op_" + "7" * 26))).status is Status.READY
        assert len(api.requests) >= 2

    await strike_all(refresh)


async def test_a_renewal_survives_everything() -> None:
    """A source about to expire is signed afresh, then sent: once, whatever happened to the renewal."""

    async def submit(api: RawApi, session: Session) -> None:
        source = Output(
            url="http://127.0.0.1:9/a.flac?sig=0",
            expires_at=None,
            duration=1.0,
            handle=Handle("create.new_fx", "op_" + "7" * 26),
            index=0,
        )
        renewed = await session._engine.reader.renew(source)
        assert renewed.url == api.output["url"]
        await session.submit(SeparateStems(AudioSource(renewed.url)))
        assert len(set(api.puts)) == len(api.created) == 1
        assert len(api.requests) >= 3

    await strike_all(submit)


@pytest.mark.parametrize(
    "name",
    [
        *("hangs up", "resets", "stalls", "stalls in the headers", "cut in the headers", "dribbles headers"),
        *("dribbles 1xx", "no HTTP", "a header without end"),
    ],
)
async def test_a_stream_says_what_happened(name: str) -> None:
    """An output host that sends no headers is an error soon, without the signature; the downloader resumes."""
    async with RawApi(FAULTS[name]) as api, opened(attrs.evolve(settings(api.url), timeouts=SHORT)) as session:
        with anyio.fail_after(30), pytest.raises(TransportError, match="no usable response") as caught:
            async with session._engine.transport.stream(f"{api.url}/a.flac?sig=secret"):
                pytest.fail("there was no response")
        assert "secret" not in repr(caught.value) + repr(caught.value.__cause__)
        await until(lambda: not api.open)


async def test_nobody_there(nowhere: str) -> None:
    """Refused connections and names that do not resolve: submits and reads say so, waits go on to their deadline."""
    for url in ("http://127.0.0.1:9", nowhere):
        async with opened(settings(url)) as session:
            handle = Handle("create.new_fx", "op_1")
            for call in (session.submit(fx()), session.refresh(handle)):
                with pytest.raises(TransportError, match="no usable response: cannot connect to"):
                    await call
            with pytest.raises(WaitTimeout):
                await session.wait(handle, timeout=0.1)


async def test_a_certificate_nobody_vouches_for_is_refused() -> None:
    """No request, and so no key, goes through a connection that cannot be trusted."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    async with RawApi(tls=context) as api, opened(settings(api.url)) as session:
        with pytest.raises(TransportError, match="self-signed certificate"):
            await session.submit(fx())
        assert api.requests == []
    async with RawApi() as api, opened(settings(api.url.replace("http:", "https:"))) as session:
        with pytest.raises(TransportError, match="no usable response"):  # and one that speaks no TLS at all
            await session.submit(fx())
        assert api.requests == []


async def mislabel(peer: Peer, honest: bytes, *, kind: str) -> None:
    await peer.send(honest.replace(b"application/json", kind.encode() + b"\r\nConnection: close"))


async def test_a_content_type_proves_nothing() -> None:
    """The body decides: good JSON is taken whatever it is called (docs/api.md#transport promises JSON only)."""
    async with RawApi() as api, opened(settings(api.url)) as session:
        for kind in ("text/html", "application/octet-stream", "text/plain; charset=utf-16"):
            api.script.append(partial(mislabel, kind=kind))
            assert (await session.submit(fx())).id in api.created.values()

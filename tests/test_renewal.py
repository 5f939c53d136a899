import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import attrs
import pytest
from helpers.idle import no_task_left, opened, until
from helpers.network_faults import hang_up, stall
from helpers.raw_api import Peer, RawApi, http, raw_settings
from helpers.simulation import puts, simulate
from helpers.simulation import settings as simulated

from soundpiece_async import (
    AudioSource,
    DownloadError,
    Handle,
    Limits,
    NewFx,
    NewInstrumental,
    Output,
    RetryPolicy,
    SeparateStems,
    Status,
    Timeouts,
    TransportError,
)
from soundpiece_async._core import completion
from soundpiece_async.simulator import Fault

pytestmark = pytest.mark.anyio

OLD = Output(url="http://a/b", expires_at=None, duration=1.0, handle=Handle("create.new_fx", "op_" + "7" * 26), index=0)


SHORT = Timeouts(submit=0.4)
settings = partial(raw_settings, timeouts=Timeouts(submit=5))


async def test_one_request_serves_all_who_wait() -> None:
    """Eight downloads of one operation have its URLs signed once; who comes later with the old one gets the new one."""
    async with no_task_left(), RawApi() as api, opened(settings(api.url)) as session:
        urls = []

        async def renew() -> None:
            urls.append((await session._engine.reader.renew(OLD)).url)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(renew)
        await renew()
        assert urls == [api.output["url"]] * 9
        assert len(api.requests) == 1


async def test_everybody_who_waits_shares_its_failure() -> None:
    """At a dead service eight waiters take one budget, not eight in a row; who comes after it tries again."""
    async with (
        no_task_left(),
        RawApi(stall) as api,
        opened(settings(api.url, timeouts=SHORT)) as session,
    ):
        errors = []

        async def renew() -> None:
            with pytest.raises(TransportError) as caught:
                await session._engine.reader.renew(OLD)
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(renew)
        assert len(api.requests) == 1
        assert len({str(error) for error in errors}) == 1
        assert len(set(map(id, errors))) == 8  # or one would collect the tracebacks of all
        assert (await session._engine.reader.renew(OLD)).url == api.output["url"]


@pytest.mark.parametrize(
    "refusal", [http(b'{"detail": "not found"}', status="404 No"), http(b"<html>", status="403 No")]
)
async def test_one_refusal_is_not_the_end(refusal: bytes) -> None:
    """A replica that lags behind, or a firewall, costs no file whose URL has expired."""

    async def refuse(peer: Peer, _: bytes) -> None:
        await peer.send(refusal)

    async with RawApi(refuse) as api:
        patient = attrs.evolve(settings(api.url), retries=RetryPolicy(submit_max_elapsed=60))
        async with opened(patient) as session:
            assert (await session._engine.reader.renew(OLD)).url == api.output["url"]
        assert len(api.requests) == 2


@pytest.mark.parametrize("leaver", [0, 1])
async def test_one_that_leaves_does_not_end_it_for_the_others(leaver: int) -> None:
    """When the one that asks is cancelled the next one asks; when one that waits is, nothing changes."""
    async with (
        no_task_left(),
        RawApi(stall) as api,
        opened(settings(api.url, timeouts=SHORT)) as session,
    ):
        scopes = [anyio.CancelScope(), anyio.CancelScope()]
        outcomes: list[object] = []

        async def renew(scope: anyio.CancelScope) -> None:
            with scope:
                try:
                    outcomes.append(await session._engine.reader.renew(OLD))
                except TransportError as error:
                    outcomes.append(error)

        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(renew, scope)
            await until(lambda: len(api.requests) == 1)
            scopes[leaver].cancel()
            await anyio.sleep(0.02)
            if leaver:
                group.start_soon(renew, anyio.CancelScope())  # joins the one that still asks
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == ([TransportError, TransportError] if leaver else [Output])
        assert len(api.requests) == (1 if leaver else 2)


async def test_an_output_that_is_gone_is_told() -> None:
    """The operation no longer lists it: there is no URL."""
    async with no_task_left(), RawApi() as api, opened(settings(api.url)) as session:
        api.ready = False
        with pytest.raises(DownloadError, match="output 0 no longer exists"):
            await session._engine.reader.renew(OLD)
        api.script.extend([hang_up] * 2)  # the first of them meets the connection that is kept, and costs no try
        with pytest.raises(TransportError):
            await session._engine.reader.renew(OLD)


@pytest.mark.parametrize("status", ["missing", "delivered"])
async def test_a_status_that_is_no_known_end_hides_no_fresh_urls(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two reads said that it is over; the one that signs its URLs afresh need not be confirmed by another."""
    monkeypatch.setattr(completion, "AGREE_AFTER", 0.05)
    async with simulate(variations={"status": status}) as sim, opened(simulated(sim)) as session:
        operation = await session.submit(NewFx("door", duration=0.2))
        ready = await session.wait(operation, timeout=20)
        sim.expire_urls()
        (file,) = await session.download(ready, tmp_path)
        assert file.bytes


@attrs.define
class Signer:
    """A source that signs its URL, and counts how often."""

    life: timedelta
    signed: int = 0

    async def sign(self) -> AudioSource:
        """Sign it anew."""
        self.signed += 1
        return AudioSource(f"https://bucket/mix.wav?sig={self.signed}", expires_at=datetime.now(UTC) + self.life)

    async def request(self) -> SeparateStems:
        """A request with the source as it is signed now."""
        return SeparateStems(attrs.evolve(await self.sign(), renew=self.sign))


async def test_a_source_is_signed_anew_before_its_submit() -> None:
    """When it expires within a minute; and the same object sent again has the bytes that it had."""
    async with no_task_left(), RawApi() as api, opened(settings(api.url)) as session:
        long, short = Signer(timedelta(hours=1)), Signer(timedelta(seconds=30))
        await session.submit(await long.request())
        request = await short.request()
        await session.submit(request)
        await session.submit(request)
        naive = AudioSource("https://a/b", expires_at=datetime(2020, 1, 1), renew=long.sign)  # noqa: DTZ001 - as users may
        await session.submit(NewInstrumental(reference=naive))
        assert (long.signed, short.signed) == (2, 2)
        assert [json.loads(body)["source"]["url"][-5:] for body in api.puts[:2]] == ["sig=1", "sig=2"]
        assert b"sig=2" in api.puts[2]
        assert len(api.puts) == 3


async def test_a_source_that_waits_is_signed_anew_until_it_was_sent() -> None:
    """In the queue for a slot its life runs out; bytes that were sent once never change."""
    go = anyio.Event()

    async def hold(peer: Peer, honest: bytes) -> None:
        await go.wait()
        await peer.send(honest)

    async def fail(peer: Peer, _: bytes) -> None:
        await anyio.sleep(0.5)
        await peer.send(http(b"{}", status="503 No"))

    async with no_task_left(), RawApi(hold, fail) as api:
        patient = attrs.evolve(
            settings(api.url),
            retries=RetryPolicy(submit_max_elapsed=60),
            limits=Limits(submits=1),
        )
        async with opened(patient) as session, anyio.create_task_group() as group:
            signer = Signer(timedelta(seconds=60.3))
            group.start_soon(session.submit, NewFx("door", duration=1))
            await until(lambda: len(api.requests) == 1)
            group.start_soon(session.submit, await signer.request())
            await until(lambda: session.statistics().queued == 1)
            await anyio.sleep(0.4)
            go.set()
    assert signer.signed >= 2
    assert len(api.puts) == 3
    assert api.puts[1] == api.puts[2]
    assert f"sig={signer.signed}".encode() in api.puts[1]


@pytest.mark.parametrize("lifetime", [61.0, 2.0])
async def test_an_output_that_waits_at_the_gate_is_renewed(lifetime: float) -> None:
    """A 429 to another request pauses all until its URL has expired, or soon will; nothing is bought twice."""
    limits = Limits(requests_per_second=20)
    async with no_task_left(), simulate(url_lifetime=lifetime) as sim, opened(simulated(sim, limits=limits)) as session:
        (output,) = (await session.wait(await session.submit(NewFx("door", duration=0.2)))).outputs
        sim.inject(Fault.RATE_LIMITED, route=NewFx.route, seconds=2)
        async with anyio.create_task_group() as group:
            group.start_soon(session.submit, NewFx("gong", duration=0.2))
            await until(lambda: session.statistics().rate_limited == 1)
            request = SeparateStems(output)
            stems = await session.wait(await session.submit(request))
        bodies = [body for key, body in puts(sim) if key == request.idempotency_key]
    assert stems.status is Status.READY
    assert len(bodies) == 1
    assert output.url.encode() not in bodies[0]
    assert len(sim.operations) == 3


async def test_a_url_that_comes_expired_is_signed_once() -> None:
    """What signs may be wrong about the time: the submit takes what it got."""
    async with no_task_left(), RawApi() as api, opened(settings(api.url)) as session:
        signer = Signer(timedelta(seconds=-1))
        await session.submit(await signer.request())
        assert signer.signed == 2
        assert len(api.puts) == 1


async def test_what_signs_must_return_a_source() -> None:
    """Anything else is a bug of the caller, and named."""

    async def sign() -> AudioSource:
        return "https://a/b"  # type: ignore[return-value] # what a user may return by mistake

    source = AudioSource("https://a/b", expires_at=datetime.now(UTC), renew=sign)
    async with RawApi() as api, opened(settings(api.url)) as session:
        with pytest.raises(TypeError, match="renew must return an AudioSource, not str"):
            await session.submit(SeparateStems(source))
        assert not api.requests

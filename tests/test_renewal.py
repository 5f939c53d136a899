from pathlib import Path

import anyio
import attrs
import pytest
from helpers.idle import no_task_left, opened, until
from helpers.network_faults import hang_up, stall
from helpers.raw_api import Peer, RawApi, http
from helpers.simulation import settings as simulated
from helpers.simulation import simulate

from soundpiece_async import DownloadError, Handle, NewFx, Output, RetryPolicy, Settings, Timeouts, TransportError
from soundpiece_async._core import completion

pytestmark = pytest.mark.anyio

OLD = Output(url="http://a/b", expires_at=None, duration=1.0, handle=Handle("create.new_fx", "op_" + "7" * 26), index=0)


def settings(url: str, *, submit: float = 5) -> Settings:
    return Settings(
        api_key="spk_for_tests",
        base_url=url,
        timeouts=Timeouts(submit=submit),
        retries=RetryPolicy(submit_max_elapsed=0),
    )


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
    async with no_task_left(), RawApi(stall) as api, opened(settings(api.url, submit=0.3)) as session:
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
    async with no_task_left(), RawApi(stall) as api, opened(settings(api.url, submit=0.5)) as session:
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
        with pytest.raises(DownloadError, match="lists no output 0 any more"):
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

"""A proxy and certificates of one's own: everything goes through a tunnel, and nothing secret is seen in it."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.https_proxy import API, FILES, Proxy, far, proxied
from helpers.simulation import settings, simulate

from soundpiece_async import NewFx, Session, Settings, SettingsError, TransportError
from soundpiece_async._transport import Transport
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with simulate(durations={"create.new_fx": 2.0}) as simulator:
        yield simulator


@pytest.fixture
async def proxy(sim: Simulator) -> AsyncIterator[Proxy]:
    async with proxied(sim) as opened:
        yield opened


async def test_a_piece_through_a_proxy(sim: Simulator, proxy: Proxy, tmp_path: Path) -> None:
    """Both hosts are reached by a tunnel, and neither the key nor a signed URL is in what the proxy sees."""
    async with Session(far(sim, proxy)) as session:
        done = await session.run(NewFx("door", duration=1), save_to=tmp_path)
    assert done.files[0].path.exists()
    assert {line.split()[1] for line in proxy.asked} == {f"{API}:443", f"{FILES}:443"}
    assert b"Basic " + b64encode(b"me:secret") in proxy.seen
    assert sim.api_key.encode() not in proxy.seen
    assert b"/v1/" not in proxy.seen
    assert urlsplit(done.operation.outputs[0].url).query.encode() not in proxy.seen


async def test_certificates_of_an_authority_nobody_knows(sim: Simulator, proxy: Proxy) -> None:
    """Without the context they are refused: nothing is sent."""
    async with Session(far(sim, proxy, ssl_context=None)) as session:
        with pytest.raises(TransportError, match="certificate is not trusted"):
            await session.submit(NewFx("door", duration=1))
    assert not sim.log


async def test_a_proxy_that_refuses(sim: Simulator, proxy: Proxy) -> None:
    """It is a fault of the network, and its password is not in the message."""
    proxy.refuse = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with Session(far(sim, proxy)) as session:
        with pytest.raises(TransportError) as caught:
            await session.submit(NewFx("door", duration=1))
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


async def test_this_machine_needs_no_proxy(sim: Simulator) -> None:
    """A proxy's "this machine" is another one."""
    async with Session(settings(sim, proxy="http://127.0.0.1:9")) as session:
        await session.run(NewFx("door", duration=1))


def test_a_proxys_password_is_not_shown() -> None:
    """Nor is anything of what cannot be read as one."""
    assert "secret" not in repr(Settings(api_key="spk_x", proxy="http://me:secret@proxy.example:3128"))
    assert "proxy=None" in repr(Settings(api_key="spk_x"))
    for wrong in ("socks5://me:secret@host:1", "me:secret", "http://:secret@", "http://[secret", 3128):
        with pytest.raises(SettingsError, match="proxy") as caught:
            Settings(api_key="spk_x", proxy=wrong)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)


def test_a_context_is_a_context() -> None:
    """Anything else would be an error of aiohttp's, later."""
    with pytest.raises(SettingsError, match=r"ssl_context must be an ssl\.SSLContext, not bool"):
        Settings(api_key="spk_x", ssl_context=False)  # type: ignore[arg-type]


def test_the_proxy_of_the_environment() -> None:
    """It has a name of its own, so that nothing changes where ``HTTPS_PROXY`` is set for others."""
    environ = {"SOUNDPIECE_API_KEY": "spk_x", "SOUNDPIECE_PROXY": "http://proxy.example:3128", "HTTPS_PROXY": "junk"}
    assert Settings.from_environ(environ).proxy == "http://proxy.example:3128"
    assert Settings.from_environ({"SOUNDPIECE_API_KEY": "spk_x", "SOUNDPIECE_PROXY": ""}).proxy is None


async def test_a_plain_url_is_asked_of_the_proxy(sim: Simulator) -> None:
    """Of http there is no tunnel: the proxy is sent the whole URL, and its own login, but never the key."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\naudio")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Transport(settings(sim, proxy=f"http://me:secret@127.0.0.1:{port}")) as transport:
            async with transport.stream("http://files.example/a.flac?sig=1") as answer:
                assert [block async for block in answer.blocks] == [b"audio"]
    assert seen.startswith(b"GET http://files.example/a.flac?sig=1 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + b64encode(b"me:secret") in seen
    assert sim.api_key.encode() not in seen

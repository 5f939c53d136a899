"""Network faults as responders of a ``RawApi``, sorted by whether they strike before the request takes effect."""

import functools
import gzip
import json
from itertools import repeat

import anyio

from helpers.raw_api import Peer, Responder, http

PAUSE = 0.02
"""Seconds between the drops of what dribbles: far less than any timeout, so that silence never ends it."""


def answer(reply: bytes) -> Responder:
    """Answer with these bytes."""

    async def respond(peer: Peer, _: bytes) -> None:
        await peer.send(reply)

    return respond


async def hang_up(_: Peer, __: bytes) -> None:
    """Close without a word."""


async def reset(peer: Peer, _: bytes) -> None:
    """Break off without a word."""
    peer.reset()


async def hang_up_later(_: Peer, __: bytes) -> None:
    """Close without a word about what was done."""


async def reset_later(peer: Peer, _: bytes) -> None:
    """Break off without a word about what was done."""
    peer.reset()


async def stall(_: Peer, __: bytes) -> None:
    """Never answer."""
    await anyio.sleep_forever()


async def stall_in_headers(peer: Peer, honest: bytes) -> None:
    """Stop in the middle of a header."""
    await peer.send(honest[:25])
    await anyio.sleep_forever()


async def stall_in_body(peer: Peer, honest: bytes) -> None:
    """Stop just before the end."""
    await peer.send(honest[:-5])
    await anyio.sleep_forever()


async def cut_in_headers(peer: Peer, honest: bytes) -> None:
    """Close in the middle of a header."""
    await peer.send(honest[:25])


async def cut_in_body(peer: Peer, honest: bytes) -> None:
    """Close just before the end."""
    await peer.send(honest[:-5])


async def reset_in_body(peer: Peer, honest: bytes) -> None:
    """Break off just before the end."""
    await peer.send(honest[:-5])
    await anyio.sleep(PAUSE)
    peer.reset()


async def dribble_headers(peer: Peer, _: bytes) -> None:
    """Send one more header now and then, for ever."""
    await peer.send(b"HTTP/1.1 200 OK\r\n", *repeat(b"X: 1\r\n", 1000), pause=PAUSE)


async def dribble_patience(peer: Peer, _: bytes) -> None:
    """Ask for patience now and then, for ever."""
    await peer.send(*repeat(b"HTTP/1.1 102 Processing\r\n\r\n", 1000), pause=PAUSE)


async def dribble_body(peer: Peer, _: bytes) -> None:
    """Send one more byte of JSON now and then, for ever."""
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *repeat(b"1\r\n \r\n", 1000), pause=PAUSE)


async def flood(peer: Peer, _: bytes) -> None:
    """Send a body without end, as fast as it is taken."""
    block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *repeat(block, 10_000))


async def flood_announced(peer: Peer, _: bytes) -> None:
    """Send a body that is long, and says so."""
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", *repeat(b" " * 0x10000, 10_000))


@functools.cache
def bomb() -> bytes:
    """Pack 64 MiB of blanks into 64 KiB."""
    return http(gzip.compress(b" " * (64 << 20)), headers="Content-Encoding: gzip\r\n")


async def explode(peer: Peer, _: bytes) -> None:
    """Answer with very much in very little."""
    await peer.send(bomb())


EFFECTLESS: dict[str, Responder] = {
    "hangs up": hang_up,
    "resets": reset,
    "500": answer(http(b'{"detail": "oops"}', status="500 Error")),
    "502, HTML": answer(http(b"<html>bad gateway</html>", status="502 Bad", headers="Content-Type: text/html\r\n")),
    "503, empty": answer(http(b"", status="503 Busy")),
    "200, a page": answer(http(b"<html>log in</html>", headers="Content-Type: text/html\r\n")),
}
"""Faults that strike before the request takes effect."""

LATER: dict[str, Responder] = {
    "hangs up later": hang_up_later,
    "resets later": reset_later,
    "stalls": stall,
    "stalls in the headers": stall_in_headers,
    "stalls in the body": stall_in_body,
    "cut in the headers": cut_in_headers,
    "cut in the body": cut_in_body,
    "reset in the body": reset_in_body,
    "dribbles headers": dribble_headers,
    "dribbles 1xx": dribble_patience,
    "dribbles a body": dribble_body,
    "floods": flood,
    "floods as announced": flood_announced,
    "bomb": explode,
    "broken gzip": answer(http(b"no gzip", headers="Content-Encoding: gzip\r\n")),
    "no HTTP": answer(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "a header without end": answer(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
    "half a JSON": answer(http(b'{"fx": {"id": "op_')),
    "no UTF-8": answer(http(b'{"fx": "\xff\xfe"}')),
    "nested": answer(http(b"[" * 100_000)),
    "nothing": answer(http(b"")),
    "204": answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    "501": answer(http(b"", status="501 No")),
    "504, HTML": answer(http(b"<html></html>", status="504 Late", headers="Content-Type: text/html\r\n")),
    "520": answer(http(json.dumps({"detail": ["?"]}).encode(), status="520 Odd")),
    "599": answer(http(b'"?"', status="599")),
}
"""Faults that strike when the request has taken effect; each loses or spoils the answer only."""

FAULTS = EFFECTLESS | LATER

HEAVY = ("floods", "floods as announced", "bomb", "nested", "a header without end")
LIGHT = tuple(name for name in FAULTS if name not in HEAVY)
"""Those that cost this machine something, and the others."""

"""Whether what is there already is what the host has: the head (42 bytes, and the tag before them), and the size.

Those bytes hold the MD5 of the audio (STREAMINFO), so that they tell one recording from another. Nothing is fetched
to find it out: a host that knows ranges sends just these.
"""

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import attrs

from soundpiece_async._core import flac, resuming
from soundpiece_async._core.errors import DownloadError
from soundpiece_async._core.resuming import Known, Take
from soundpiece_async._download.fetching import Setback, Source
from soundpiece_async._download.filling import demand
from soundpiece_async._download.unpacked import Unpacked, unpack

if TYPE_CHECKING:
    from soundpiece_async._network import Stream


@attrs.frozen
class First:
    """The head of a file, and how long that is, if it is known."""

    head: bytes
    size: int | None


async def find_difference(here: First, *, source: Source) -> DownloadError | None:
    """Compare what is there with what the host has; give the error that says why it must not be taken for it.

    Raises:
        SoundpieceError: the host could not be asked.
    """
    wanted = max(len(here.head), flac.HEADER_BYTES)
    asked = {"Accept-Encoding": "identity", "Range": f"bytes=0-{wanted - 1}"}
    remote = await source.persist(lambda: asked, partial(_read_first, asked=asked, wanted=wanted, source=source))
    if remote.size is None:
        return source.fail(
            "a file is there, and the host does not say how long its own is; remove it, or pass overwrite=True"
        )
    if remote != here:
        return source.fail(
            "a different file is already there; choose another name or folder, remove it, or pass overwrite=True"
        )
    return None


async def _read_first(stream: "Stream", *, asked: dict[str, str], wanted: int, source: Source) -> First:
    """Read the first bytes; a host without ranges sends more, which is read only where nothing else says how much."""
    verdict = demand(resuming.judge(stream.status, stream.headers, have=0, known=Known()))
    encodings = verdict.encodings if isinstance(verdict, Take) else ()
    body = await unpack(source.watch(stream), encodings)
    if isinstance(body, Unpacked) and asked.pop("Range", ""):
        raise Setback("the host encodes what it sends, and a part of that cannot be decoded")
    size = None if isinstance(body, Unpacked) else resuming.read_total(stream.headers)
    count_all = size is None and (isinstance(body, Unpacked) or "content-range" not in stream.headers)
    head, arrived = b"", 0
    async with aclosing(body):
        async for block in body:
            arrived += len(block)
            head += block[: wanted - len(head)]
            if len(head) == wanted and not count_all:
                break
            if arrived > source.bound():
                return First(head, None)
    if size is not None and len(head) < min(size, wanted):
        raise Setback(f"the body ended after {len(head)} bytes")
    return First(head, arrived if count_all else size)

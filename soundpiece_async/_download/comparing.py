"""Whether what is there already is what the host has: the first 42 bytes, and the size.

Those bytes hold the MD5 of the audio (STREAMINFO), so that they tell one recording from another. Nothing is fetched
to find it out: a host that knows ranges sends just these.
"""

from functools import partial
from typing import TYPE_CHECKING

import attrs

from soundpiece_async._core import flac, resuming
from soundpiece_async._core.errors import DownloadError
from soundpiece_async._core.resuming import Known
from soundpiece_async._download.fetching import Setback, Source
from soundpiece_async._download.filling import closing, demand

if TYPE_CHECKING:
    from soundpiece_async._network import Stream

_FIRST_BYTES = {"Accept-Encoding": "identity", "Range": f"bytes=0-{flac.HEADER_BYTES - 1}"}


@attrs.frozen
class First:
    """How a file begins, and how long it is, if that is known."""

    head: bytes
    size: int | None


async def find_difference(here: First, *, source: Source) -> DownloadError | None:
    """Compare what is there with what the host has; give the error that says why it must not be taken for it.

    Raises:
        SoundpieceError: the host could not be asked.
    """
    remote = await source.persist(lambda: _FIRST_BYTES, partial(_read_first, source=source))
    if remote.size is None:
        return source.fail(
            "a file is there, and the host does not say how long its own is; remove it, or pass overwrite=True"
        )
    if remote != here:
        return source.fail(
            "a different file is already there; choose another name or folder, remove it, or pass overwrite=True"
        )
    return None


async def _read_first(stream: "Stream", *, source: Source) -> First:
    """Read the first bytes; a host without ranges sends more, which is read only where nothing else says how much."""
    demand(resuming.judge(stream.status, stream.headers, have=0, known=Known()))
    size = resuming.read_total(stream.headers)
    count_all = size is None and "content-range" not in stream.headers
    head, arrived = b"", 0
    async with closing(stream.blocks):
        async for block in stream.blocks:
            source.receive(len(block))
            arrived += len(block)
            head += block[: flac.HEADER_BYTES - len(head)]
            if len(head) == flac.HEADER_BYTES and not count_all:
                break
    if size is not None and len(head) < min(size, flac.HEADER_BYTES):
        raise Setback(f"the body ended after {len(head)} bytes")
    return First(head, arrived if count_all else size)

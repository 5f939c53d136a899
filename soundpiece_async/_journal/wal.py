"""SQLite's write-ahead log, read as SQLite reads it when it opens a database that no process has open.

It believes the frames up to the first whose checksum is wrong, and forgets the rest without a word. After a process was
killed that is right: what is torn then is the last frame. When more frames of the same log follow, what is forgotten
was committed, and with it which keys were sent: a run would buy that again.

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import io
import struct
from pathlib import Path

from soundpiece_async._regularfiles import open_regular

_HEADER, _FRAME = 32, 24
_MAGIC = 0x377F0682
"""The last bit says how the checksums read their words: 1 is big-endian."""


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a log, or None: nothing is, it is not there, or it ends in the middle of a frame."""
    try:
        with io.FileIO(open_regular(path)) as file:
            data = file.readall()
    except FileNotFoundError:
        return None
    if len(data) < _HEADER + _FRAME:
        return None
    magic, _, size, _, *salts = struct.unpack(">6I", data[:24])
    order = ">" if magic & 1 else "<"
    state = _sum(data[:24], order, (0, 0))
    if magic & ~1 != _MAGIC or state != struct.unpack(">2I", data[24:_HEADER]):
        return "its header is damaged"
    starts = range(_HEADER, len(data) - _FRAME - size + 1, _FRAME + size)
    ours = [struct.unpack(">2I", data[start + 8 : start + 16]) == tuple(salts) for start in starts]
    for number, start in enumerate(starts):
        state = _sum(data[start : start + 8] + data[start + _FRAME : start + _FRAME + size], order, state)
        if not ours[number] or state != struct.unpack(">2I", data[start + 16 : start + _FRAME]):
            return (
                f"frame {number + 1} is damaged, and {sum(ours[number + 1 :])} more follow"
                if any(ours[number + 1 :])
                else None
            )
    return None


def _sum(data: bytes, order: str, state: tuple[int, int]) -> tuple[int, int]:
    """Return the checksum of data behind what ``state`` is the checksum of."""
    first, second = state
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second

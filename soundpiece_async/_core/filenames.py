"""File names: safe whatever the service or the user says, and unique among the operations of a run.

1. A name is one component: no separator, no ``..``, nothing a system reserves; so no file leaves its folder.
2. It is NFC and short enough for any file system, with ``.part.json`` behind it.
3. Two files of one operation never differ by case alone: some file systems would make them one.
4. A file system may still refuse a name: its encoding lacks characters, or it allows fewer bytes. Then the file has a
   plainer one, derived from the name, so that the next run finds it.
5. Two operations of a run never get the same file name, nor two that differ by case alone. The first one gets the name
   as it is, a later one a number behind it; asked again, each gets its own.
6. A run may have any number of operations, so only the latest names are remembered. An older one is found on the disk:
   the downloader writes over no file of other content.
"""

import unicodedata
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING

from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._core.requests import Output

MAX_STEM_BYTES = 200
"""Bytes of UTF-8. File systems stop at 255; ``-<kind>-<n>.flac.part.json`` has to fit behind it."""
MAX_KIND_BYTES = 24
MAX_PLAIN_NAME_BYTES = 96
"""Bytes of a plainer name: encrypting file systems stop at 143, and ``.part.json`` has to fit behind it, too."""
FALLBACK_STEM = "audio"
"""The stem when nothing of a name may stay."""

_ENDING = ".flac"
_FORBIDDEN = frozenset('/\\:*?"<>|')
# Cc control, Cs half a surrogate pair, Zl and Zp line and paragraph breaks
_DROPPED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# characters that change the direction of what follows, by which evil.exe can look like exe.flac
_DROPPED = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"}
)


def safe_stem(name: str) -> str:
    """Return a safe file name, without an extension, for any text; a safe one is unchanged.

    An ending ``.flac`` is taken off, because it is put there anyway.
    """
    return _clean(name, longest=MAX_STEM_BYTES)


def file_names(stem: str, outputs: Sequence[Output]) -> list[str]:
    """Name the files of a whole operation, in the order of ``outputs``.

    One is ``<stem>.flac``; several are ``<stem>-<n>.flac``, numbered from 1 by their index; stems of a track
    are ``<stem>-<kind>.flac``, and several of one kind ``<stem>-<kind>-<n>.flac``.
    """
    stem = safe_stem(stem)
    cleaned = {kind: _clean(kind, longest=MAX_KIND_BYTES) for kind in {output.kind for output in outputs} if kind}
    kinds = [cleaned.get(output.kind or "", "") for output in outputs]
    of_kind = Counter(kind.casefold() for kind in kinds)
    seen: Counter[str] = Counter()
    names = [""] * len(outputs)
    for position in sorted(range(len(outputs)), key=lambda position: outputs[position].index):
        kind = kinds[position]
        seen[kind.casefold()] += 1
        if not kind:
            parts = [stem, str(outputs[position].index + 1)] if len(outputs) > 1 else [stem]
        elif of_kind[kind.casefold()] > 1:
            parts = [stem, kind, str(seen[kind.casefold()])]
        else:
            parts = [stem, kind]
        names[position] = "-".join(parts)
    return [f"{name}{_ENDING}" for name in _deduplicate(names)]


def plainer_name(name: str) -> str:
    """Return a name for a file whose own is refused: ASCII, short, and another one for each name (rule 4)."""
    stem = name.removesuffix(_ENDING)
    mark = f"-{zlib.crc32(name.encode(errors='replace')):08x}"
    kept = "".join(character if character.isascii() else "_" for character in unicodedata.normalize("NFKD", stem))
    return f"{_clean(kept, longest=MAX_PLAIN_NAME_BYTES - len(mark) - len(_ENDING))}{mark}{_ENDING}"


def number_stem(stem: str, number: int) -> str:
    """Put a number behind a stem, which is cut where it would get too long."""
    mark = f"-{number}"
    return f"{_clean(stem, longest=MAX_STEM_BYTES - len(mark))}{mark}"


def _clean(text: str, *, longest: int) -> str:
    """Apply rules 1 and 2; ``longest`` is in bytes."""
    kept = (
        "_" if character in _FORBIDDEN else character
        for character in unicodedata.normalize("NFC", text)
        if character not in _DROPPED and unicodedata.category(character) not in _DROPPED_CATEGORIES
    )
    # normal again: what stood between two characters that belong together may be gone
    name = _strip(unicodedata.normalize("NFC", "".join(kept)))
    if name.partition(".")[0].rstrip().casefold() in _DEVICES:
        name = f"_{name}"
    name = _strip(name.encode()[:longest].decode(errors="ignore"))
    while name[-len(_ENDING) :].lower() == _ENDING:
        name = _strip(name[: -len(_ENDING)])
    return name or FALLBACK_STEM


def _strip(name: str) -> str:
    """Remove leading dots, which hide a file, and trailing characters that Windows drops."""
    return name.strip(". \u00a0\u3000")


def _deduplicate(names: Iterable[str]) -> list[str]:
    """Number what is left of equal names; ``Vocals`` and ``vocals`` are equal (rule 3)."""
    taken: set[str] = set()
    numbers = Counter[str]()  # the last one of each name, so that a thousand equal ones need a thousand steps
    distinct = []
    for name in names:
        free, plain = name, name.casefold()
        while free.casefold() in taken:
            numbers[plain] = max(numbers[plain], 1) + 1
            free = f"{name}-{numbers[plain]}"
        taken.add(free.casefold())
        distinct.append(free)
    return distinct


if TYPE_CHECKING:
    from soundpiece_async._core.requests import Handle

REMEMBERED_NAMES = 50_000
"""File names of one run that are remembered, about 200 bytes each, the oldest going first."""


class UniqueNames:
    """One per run."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, Handle] = OrderedDict()

    def __repr__(self) -> str:
        return f"<UniqueNames given={len(self._owners)}>"

    def assign(self, operation: AnyOperation, stem: str) -> str:
        """Return the stem that makes the file names of an operation unique."""
        titles = (numbered(stem, number) for number in count(1))
        return next(title for title in titles if self._claim(title, operation))

    def _claim(self, title: str, operation: AnyOperation) -> bool:
        """Reserve the names of an operation's files under a title, unless one of them is taken."""
        owner = operation.handle
        wanted = [name.casefold() for name in file_names(title, operation.outputs)]
        free = all(self._owners.get(name, owner) == owner for name in wanted)
        if free:
            self._owners.update(dict.fromkeys(wanted, owner))
            while len(self._owners) > max(REMEMBERED_NAMES, len(wanted)):
                self._owners.popitem(last=False)
        return free


def numbered(stem: str, number: int) -> str:
    """Return the n-th title of a stem, from 1."""
    return stem if number == 1 else number_stem(stem, number)


def first_free(is_free: Callable[[int], bool]) -> int:
    """Find a number from 1 that is free, with few questions also where a hundred thousand are taken without a gap."""
    taken, free = 0, 1
    while not is_free(free):
        taken, free = free, free * 2
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (taken, middle) if is_free(middle) else (middle, free)
    return free

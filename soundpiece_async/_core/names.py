"""File names that are safe whatever the service or the user says.

1. A name is one component: no separator, no ``..``, nothing a system reserves; so no file leaves its folder.
2. It is NFC and short enough for any file system, with room for ``.part.json`` behind it.
3. Two files of one operation never differ by case alone: some file systems would make them one.
4. A file system may refuse a name all the same: its encoding has not all characters, or it takes fewer bytes. Then the
   file has a plainer one, which follows from the name, so that the next run finds it.
"""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

from soundpiece_async._core.outputs import Output

LONGEST_STEM = 200
"""Bytes of UTF-8. File systems stop at 255; ``-<kind>-<n>.flac.part.json`` has to fit behind it."""
LONGEST_KIND = 24
LONGEST_PLAIN = 96
"""Bytes of a plainer name: encrypting file systems stop at 143, and ``.part.json`` has to fit behind it, too."""
NAMELESS = "audio"
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
    """Make a file name, without an ending, of any text; a safe one stays as it is.

    An ending ``.flac`` is taken off, because it is put there anyway.
    """
    return _clean(name, longest=LONGEST_STEM)


def file_names(stem: str, outputs: Sequence[Output]) -> list[str]:
    """Name the files of a whole operation, in the order of ``outputs``.

    One is ``<stem>.flac``; several are ``<stem>-<n>.flac``, numbered from 1 by their index; stems of a track
    are ``<stem>-<kind>.flac``, and several of one kind ``<stem>-<kind>-<n>.flac``.
    """
    stem = safe_stem(stem)
    cleaned = {kind: _clean(kind, longest=LONGEST_KIND) for kind in {output.kind for output in outputs} if kind}
    kinds = [cleaned.get(output.kind or "", "") for output in outputs]
    of_kind = Counter(kind.casefold() for kind in kinds)
    seen: Counter[str] = Counter()
    names = [""] * len(outputs)
    for place in sorted(range(len(outputs)), key=lambda place: outputs[place].index):
        kind = kinds[place]
        seen[kind.casefold()] += 1
        if not kind:
            parts = [stem, str(outputs[place].index + 1)] if len(outputs) > 1 else [stem]
        elif of_kind[kind.casefold()] > 1:
            parts = [stem, kind, str(seen[kind.casefold()])]
        else:
            parts = [stem, kind]
        names[place] = "-".join(parts)
    return [f"{name}{_ENDING}" for name in _tell_apart(names)]


def plainer_name(name: str) -> str:
    """Return a name for a file whose own is refused: ASCII, short, and another one for each name (rule 4)."""
    stem = name.removesuffix(_ENDING)
    mark = f"-{zlib.crc32(name.encode(errors='replace')):08x}"
    kept = "".join(character if character.isascii() else "_" for character in unicodedata.normalize("NFKD", stem))
    return f"{_clean(kept, longest=LONGEST_PLAIN - len(mark) - len(_ENDING))}{mark}{_ENDING}"


def number_stem(stem: str, number: int) -> str:
    """Put a number behind a stem, which is cut where it would get too long."""
    mark = f"-{number}"
    return f"{_clean(stem, longest=LONGEST_STEM - len(mark))}{mark}"


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
    return name or NAMELESS


def _strip(name: str) -> str:
    """Take off what hides a file at the left, and what Windows drops at the right."""
    return name.strip(". \u00a0\u3000")


def _tell_apart(names: Iterable[str]) -> list[str]:
    """Number what is left of equal names; ``Vocals`` and ``vocals`` are equal (rule 3)."""
    taken: set[str] = set()
    numbers: Counter[str] = (
        Counter()
    )  # the last one given to a name, so that a thousand equal ones ask a thousand times
    distinct = []
    for name in names:
        free, plain = name, name.casefold()
        while free.casefold() in taken:
            numbers[plain] = max(numbers[plain], 1) + 1
            free = f"{name}-{numbers[plain]}"
        taken.add(free.casefold())
        distinct.append(free)
    return distinct

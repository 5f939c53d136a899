"""The levels of checks that files have passed, in words; the word "verified" never stands without them."""

import shlex
from collections.abc import Mapping

CHECKS = {
    "full": "every frame was decoded",
    "header": "size and FLAC header were checked, and not the audio behind it",
    "none": "the size was checked, and nothing else",
    "": "an earlier version saved them",
}
"""What each level means, the strictest first; an empty one is not on record."""


def describe_levels(counts: Mapping[str, int], *, out: object) -> list[str]:
    """Return lines on how many files have passed which checks, and how the others pass them."""
    known = [level for level in CHECKS if counts.get(level)]
    if not known:
        return []
    parts = [f"{counts[level]} {level or 'unknown'} ({CHECKS[level]})" for level in known]
    lines = [f"checks passed: {'; '.join(parts)}"]
    if known != ["full"]:
        lines.append(f"soundpiece verify {shlex.quote(str(out))} --full decodes every frame")
    return lines

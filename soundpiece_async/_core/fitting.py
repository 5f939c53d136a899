"""How much may go on at once in a process that may open so many descriptors.

A poll or a submit is a socket; a download is a socket, two files (one that grows, one that is being put in its place)
and, when outputs come from several hosts, a connection that idles. Everything is made smaller in proportion, nothing
larger, and nothing smaller than one: what is short of descriptors all the same is waited out (`errnos`, rule 1).
"""

import attrs

from soundpiece_async._core.settings import Limits

MARGIN = 20
"""Descriptors left for a journal (4), notes and folders being synced (4), name look-ups, a report, and the program."""
PER_SUBMIT = 2
"""PUTs, and single reads, which have as many slots of their own."""
PER_DOWNLOAD = 4


def fit(limits: Limits, *, free: int) -> Limits:
    """Return limits that so many free descriptors are enough for; the same ones when they are enough already."""
    wanted = limits.polls + PER_SUBMIT * limits.submits + PER_DOWNLOAD * limits.downloads
    usable = max(0, free - MARGIN)
    if wanted <= usable:
        return limits
    fitted = {name: max(1, getattr(limits, name) * usable // wanted) for name in ("polls", "submits", "downloads")}
    return attrs.evolve(limits, **fitted)

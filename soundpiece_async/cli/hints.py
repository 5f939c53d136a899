"""Did you mean …: the closest known name for one that is not known."""

import difflib
from collections.abc import Iterable

_CLOSE = 0.65
"""How much of two names must be alike: ``promt`` and ``prompt`` are, ``text`` and ``prompt`` are not."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` with the known name that is closest, or nothing when none is close.

    A route is found by what stands behind its dot, as ``create.new_fx`` by ``new-fx`` or ``fx``.
    """
    given = name.strip().lower().replace("-", "_").rpartition(".")[2]
    names = {one.rpartition(".")[2].lower(): one for one in known}
    close = difflib.get_close_matches(given, names, n=1, cutoff=_CLOSE)
    close = close or [one for one in names if one.endswith(f"_{given}")]
    return f" (did you mean {names[close[0]]!r}?)" if close else ""

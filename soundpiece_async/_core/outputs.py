"""What names an operation, and the files it made. An ``Output`` may be the source of the next request."""

import re
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import urlsplit

import attrs

from soundpiece_async._core.errors import InvalidRequest, redact

_HANDLE = re.compile(r"(?P<route>[a-z_]+\.[a-z_]+)/(?P<id>[!-~]+)")


@attrs.frozen
class Handle:
    """All it takes to come back to an operation, later or elsewhere; ``str`` and ``Handle.parse`` round-trip."""

    route: str
    id: str

    def __str__(self) -> str:
        return f"{self.route}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> "Handle":
        """Read what ``str(handle)`` wrote.

        Raises:
            InvalidRequest: it was not written by ``str(handle)``.
        """
        match = _HANDLE.fullmatch(text)
        if match is None:
            raise InvalidRequest(f"not a handle: {text!r}; it reads <route>/<operation id>", field="handle")
        return cls(match["route"], match["id"])


@attrs.frozen(kw_only=True)
class Output:
    """One audio file of a ready operation.

    Attributes:
        url: signed, and a secret until ``expires_at``; not in the repr.
        expires_at: when ``url`` stops working; the session renews it by itself. None when the service did not say.
        duration: length in seconds, or None when the service did not say.
        kind: of a stem: ``vocals``, ``drums``, ``bass``, ``other`` (open).
        handle: the operation it belongs to.
        index: its number in that operation, from 0, fixed when the operation was first seen ready.
    """

    url: str = attrs.field(repr=redact)
    expires_at: datetime | None = None
    duration: float | None = None
    kind: str | None = None
    handle: Handle
    index: int = 0

    @property
    def path(self) -> str:
        """The URL's path, which stays the same when it is signed afresh."""
        return urlsplit(self.url).path


def renumber(fresh: Iterable[Output], known: Iterable[Output]) -> tuple[Output, ...]:
    """Give the outputs of a later answer the numbers they had in the first one, and that order.

    The order of outputs is not promised, and a URL is signed afresh each time: an output is found again by its URL's
    path, else by its kind, else by its duration when no other has the same, else by its position. New ones follow.
    """
    left = list(fresh)
    ordered: list[Output] = []
    missing: list[Output] = []
    for old in known:
        match = _find(old, left)
        if match is None:
            missing.append(old)
        else:
            left.remove(match)
            ordered.append(attrs.evolve(match, index=old.index))
    for old, match in zip(missing, tuple(left), strict=False):
        left.remove(match)
        ordered.append(attrs.evolve(match, index=old.index))
    start = max((output.index for output in ordered), default=-1) + 1
    ordered += [attrs.evolve(output, index=start + number) for number, output in enumerate(left)]
    return tuple(sorted(ordered, key=lambda output: output.index))


def _find(old: Output, fresh: list[Output]) -> Output | None:
    same_path = [output for output in fresh if output.path == old.path]
    same_kind = [output for output in fresh if old.kind is not None and output.kind == old.kind]
    same_length = [output for output in fresh if old.duration is not None and output.duration == old.duration]
    for candidates in (same_path, same_kind, same_length):
        if len(candidates) == 1:
            return candidates[0]
    return None

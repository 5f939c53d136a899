"""What names an operation, and the files it made. An ``Output`` may be the source of the next request."""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import attrs

from soundpiece_async._core.redaction import redact_text, redact_url, redacted_repr
from soundpiece_async._core.tracebacks import forget_arguments

_HANDLE = re.compile(r"(?P<route>[a-z_]+\.[a-z_]+)/(?P<id>[!-~]+)")


@attrs.frozen
class Handle:
    """All it takes to come back to an operation, later or elsewhere; ``str`` and ``Handle.parse`` round-trip."""

    route: str = attrs.field(repr=redacted_repr)
    id: str = attrs.field(repr=redacted_repr)

    def __str__(self) -> str:
        return f"{self.route}/{self.id}"

    @classmethod
    @forget_arguments
    def parse(cls, text: str) -> "Handle":
        """Read what ``str(handle)`` wrote.

        Raises:
            ValueError: the text is not of that form.
        """
        match = _HANDLE.fullmatch(text)
        if match is None:
            shown = redact_text(redact_url(text), limit=100)  # what was passed by mistake may be a signed URL
            raise ValueError(f"invalid handle {shown!r}: expected <route>/<operation id>")
        return cls(match["route"], match["id"])


def _show_url(url: object) -> str:
    return redact_url(url) if isinstance(url, str) else f"<{type(url).__name__}>"


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

    url: str = attrs.field(repr=_show_url)
    expires_at: datetime | None = None
    duration: float | None = None
    kind: str | None = attrs.field(default=None, repr=redacted_repr)
    handle: Handle
    index: int = 0

    @property
    def path(self) -> str:
        """The URL's path, which stays the same when it is signed afresh."""
        try:
            return urlsplit(self.url).path
        except ValueError:  # as 'http://[' does: then it stands for itself
            return self.url

    def to_dict(self, *, urls: bool = False) -> dict[str, Any]:
        """Return it as JSON values; with ``urls`` the signed URL, too, which is a secret while it is valid."""
        members = {
            "index": self.index,
            "kind": self.kind,
            "duration": self.duration,
            "expires_at": self.expires_at and self.expires_at.isoformat(),
        }
        return {**members, "url": self.url} if urls else members


def renumber(fresh: Iterable[Output], known: Iterable[Output]) -> tuple[Output, ...]:
    """Give the outputs of a later answer the numbers they had in the first one, and that order.

    The order of outputs is not promised, and a URL is signed afresh each time. So first all that can be found again by
    their URL's path are, then those by their kind, then those by their duration, each time only where no other has the
    same; the rest goes by position, but never one kind for another. New ones are numbered on.
    """
    left, missing = list(fresh), list(known)
    unused = max((old.index for old in missing), default=-1) + 1
    numbered: list[Output] = []
    for find in (_find_path, _find_kind, _find_duration, _find_position):
        for old in tuple(missing):
            new = find(old, missing, left)
            if new is not None:
                missing.remove(old)
                left.remove(new)
                numbered.append(attrs.evolve(new, index=old.index))
    numbered += [attrs.evolve(new, index=unused + number) for number, new in enumerate(left)]
    return tuple(sorted(numbered, key=lambda output: output.index))


def _find_path(old: Output, missing: list[Output], left: list[Output]) -> Output | None:
    return _find_only(old, missing, left, mark=lambda output: output.path)


def _find_kind(old: Output, missing: list[Output], left: list[Output]) -> Output | None:
    return None if old.kind is None else _find_only(old, missing, left, mark=lambda output: output.kind)


def _find_duration(old: Output, missing: list[Output], left: list[Output]) -> Output | None:
    """Find the same length and kind: the stems of one mix are all of one length."""
    if old.duration is None:
        return None
    return _find_only(old, missing, left, mark=lambda output: (output.duration, output.kind))


def _find_position(old: Output, _: list[Output], left: list[Output]) -> Output | None:
    return next((new for new in left if old.kind is None or new.kind in (None, old.kind)), None)


def _find_only(
    old: Output, missing: list[Output], left: list[Output], *, mark: Callable[[Output], object]
) -> Output | None:
    """Find what shares a mark with ``old``, where nothing else on either side does."""
    twins = [output for output in missing if mark(output) == mark(old)]
    found = [output for output in left if mark(output) == mark(old)]
    return found[0] if len(twins) == len(found) == 1 else None

"""The handle of an operation, and its outputs. An ``Output`` may be the source of the next request."""

import re
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import attrs

from soundpiece_async._core.redaction import redact_text, redact_url, redacted_repr
from soundpiece_async._core.tracebacks import forget_arguments

_HANDLE = re.compile(r"(?P<route>[a-z_]+\.[a-z_]+)/(?P<id>[!-~]+)")


@attrs.frozen
class Handle:
    """Route and id of an operation, to find it again later or elsewhere; ``str`` and ``Handle.parse`` round-trip."""

    route: str = attrs.field(repr=redacted_repr)
    id: str = attrs.field(repr=redacted_repr)

    def __str__(self) -> str:
        return f"{self.route}/{self.id}"

    @classmethod
    @forget_arguments
    def parse(cls, text: str) -> "Handle":
        """Parse the text that ``str(handle)`` returns.

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
        expires_at: the time at which ``url`` stops working; the session renews it. None if the service did not name it.
        duration: length in seconds; None if the service did not name it.
        kind: of a stem: ``vocals``, ``drums``, ``bass``, ``other`` (open); a printable line of at most 500 characters.
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
        """The path of the URL, which stays the same when the URL is signed again."""
        try:
            return urlsplit(self.url).path
        except ValueError:  # as 'http://[' does: then it stands for itself
            return self.url

    def to_dict(self, *, urls: bool = False) -> dict[str, Any]:
        """Return the output as JSON values; with ``urls`` the signed URL, too, which is a secret while it is valid."""
        members = {
            "index": self.index,
            "kind": self.kind,
            "duration": self.duration,
            "expires_at": self.expires_at and self.expires_at.isoformat(),
        }
        return {**members, "url": self.url} if urls else members


def renumber(fresh: Iterable[Output], known: Iterable[Output]) -> tuple[Output, ...]:
    """Return the outputs of a later answer with the numbers they had in the first one, and in that order.

    The order of outputs is not promised, and a URL is signed anew each time. So outputs are matched by the path of
    their URL, then by their kind, then by their duration, each time only where the value is unique; the rest by
    position, but never one kind with another. New outputs get the next numbers.

    Takes time in proportion to their number: one answer may list thousands.
    """
    left, missing = dict(enumerate(fresh)), dict(enumerate(known))
    unused = max((old.index for old in missing.values()), default=-1) + 1
    numbered: list[Output] = []
    for find in (_match_paths, _match_kinds, _match_durations, _match_positions):
        for old, new in find(missing, left):
            numbered.append(_give_index(left.pop(new), missing.pop(old).index))
    numbered += [_give_index(new, unused + number) for number, new in enumerate(left.values())]
    return tuple(sorted(numbered, key=lambda output: output.index))


def _give_index(output: Output, index: int) -> Output:
    return output if output.index == index else attrs.evolve(output, index=index)


_Outputs: TypeAlias = dict[int, Output]
_Pairs: TypeAlias = list[tuple[int, int]]


def _match_paths(missing: _Outputs, left: _Outputs) -> _Pairs:
    return _match_only(missing, left, mark=lambda output: _cut_path(output.url))


def _cut_path(url: str) -> str:
    """Return the path of a URL, or a text that is no URL as it is: as ``Output.path``, at a tenth of its cost."""
    plain = url.partition("?")[0].partition("#")[0]
    _, mark, rest = plain.partition("://")
    return rest.partition("/")[2] if mark else plain


def _match_kinds(missing: _Outputs, left: _Outputs) -> _Pairs:
    return _match_only(missing, left, mark=lambda output: output.kind)


def _match_durations(missing: _Outputs, left: _Outputs) -> _Pairs:
    """Match by duration and kind: the stems of one mix all have the same duration."""
    return _match_only(
        missing, left, mark=lambda output: None if output.duration is None else (output.duration, output.kind)
    )


def _match_only(missing: _Outputs, left: _Outputs, *, mark: Callable[[Output], Hashable]) -> _Pairs:
    """Match the outputs whose mark is the same, and unique on both sides; None is no mark."""
    twins, found = _only(missing, mark), _only(left, mark)
    return [(old, found[shared]) for shared, old in twins.items() if shared in found]


def _only(outputs: _Outputs, mark: Callable[[Output], Hashable]) -> dict[Hashable, int]:
    """Return the outputs whose mark is unique, by mark."""
    marks = {place: mark(output) for place, output in outputs.items()}
    counts = Counter(marks.values())
    return {shared: place for place, shared in marks.items() if shared is not None and counts[shared] == 1}


def _match_positions(missing: _Outputs, left: _Outputs) -> _Pairs:
    """Match by position: one without a kind is matched by any, one with a kind by one of it, or by one without."""
    queues: dict[str | None, deque[int]] = {}
    for place, output in left.items():
        queues.setdefault(output.kind, deque()).append(place)
    anyone, taken, pairs = deque(left), set[int](), _Pairs()
    for old, output in missing.items():
        fitting = (anyone,) if output.kind is None else (queues.get(None), queues.get(output.kind))
        heads = [head for queue in fitting if (head := _peek(queue, taken)) is not None]
        if heads:
            taken.add(min(heads))
            pairs.append((old, min(heads)))
    return pairs


def _peek(queue: deque[int] | None, taken: set[int]) -> int | None:
    """Return the first of a queue that was not taken from another queue; None: there is none."""
    while queue and queue[0] in taken:
        queue.popleft()
    return queue[0] if queue else None

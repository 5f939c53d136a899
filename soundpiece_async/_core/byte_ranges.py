"""Reads a ``Range`` header, and what a host's answer means for a part of a file (RFC 9110, section 14).

1. One range is answered. Several at once, another unit or nonsense are the whole file, as the RFC allows.
2. A part begins where the answer says; an answer that brings other bytes than were asked for is of no use.
3. Bytes of two answers are joined only under one strong ETag, and only while the total stays the same.
4. A host without ranges sends the whole file: the bytes before the part are left out.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus

import attrs

from soundpiece_async._core import resuming
from soundpiece_async._core.resuming import Refused, Unfit, Useless

_RANGE = re.compile(r"bytes\s*=\s*(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))", re.IGNORECASE)


@attrs.frozen
class ByteRange:
    """One range as a client asks for it: ``first`` to ``last``, to the end, or the ``suffix`` of so many bytes."""

    first: int | None = None
    last: int | None = None
    suffix: int | None = None

    @property
    def whole(self) -> bool:
        """True: it asks for all there is, from the first byte on."""
        return self.first == 0 and self.last is None

    def ask(self) -> str:
        """Return it as a header."""
        if self.suffix is not None:
            return f"bytes=-{self.suffix}"
        return f"bytes={self.first}-{'' if self.last is None else self.last}"

    def within(self, total: int) -> range:
        """Return the bytes of a file of ``total`` bytes that it asks for; none if it cannot be satisfied."""
        if self.first is None:
            return range(max(0, total - (self.suffix or 0)), total)
        return range(self.first, total if self.last is None else min(self.last + 1, total))


@attrs.frozen
class Part:
    """These bytes of the file are in the body, behind ``skip`` others."""

    span: range
    total: int | None
    etag: str | None
    skip: int = 0


@attrs.frozen
class Whole:
    """The client gets the whole file: another version than the one it knows, or one whose length nobody states."""


@attrs.frozen
class Nothing:
    """The file has none of the bytes that were asked for; ``total`` is its size, if the host states it."""

    total: int | None


@attrs.frozen(kw_only=True)
class Reply:
    """How a client is answered.

    Attributes:
        size: bytes of the whole file, or None.
        etag: a strong one, or None.
        span: the bytes of the part; empty if the file has none of those asked for (416); None: the whole file (200).
    """

    size: int | None
    etag: str | None = None
    span: range | None = None

    @property
    def status(self) -> int:
        """The status: 200, 206 or 416."""
        if self.span is None:
            return HTTPStatus.OK.value
        return (HTTPStatus.PARTIAL_CONTENT if self.span else HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE).value

    @property
    def headers(self) -> dict[str, str]:
        """The headers about length, part and version."""
        length = self.size if self.span is None else len(self.span)
        headers = {} if length is None else {"Content-Length": str(length), "Accept-Ranges": "bytes"}
        if self.span is not None:
            part = f"{self.span.start}-{self.span.stop - 1}" if self.span else "*"
            headers["Content-Range"] = f"bytes {part}/{'*' if self.size is None else self.size}"
        return headers | ({} if self.etag is None else {"ETag": self.etag})


def parse(header: str | None) -> ByteRange | None:
    """Read a ``Range`` header; None: the whole file (rule 1)."""
    found = _RANGE.fullmatch((header or "").strip())
    if found is None:
        return None
    first, last, suffix = (None if text is None else int(text) for text in found.groups())
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first, last, suffix)


def judge(
    status: int, headers: Mapping[str, str], *, wanted: ByteRange, if_range: str | None
) -> Part | Whole | Nothing | Refused | Unfit | Useless:
    """Read an answer to a request for ``wanted``; header names in lower case.

    ``if_range`` is what the client sent as ``If-Range``: only the file's own strong ETag lets it have a part.
    """
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return Nothing(resuming.read_total(headers))
    verdict = resuming.judge(status, headers, have=0, known=resuming.Known())
    if isinstance(verdict, Refused | Unfit):
        return verdict
    total, etag = resuming.read_total(headers), resuming.read_etag(headers)
    if resuming.read_encodings(headers) or (if_range is not None and if_range != etag):
        return Whole()
    if status != HTTPStatus.PARTIAL_CONTENT and "content-range" not in headers:
        return _cut(wanted, total=total, etag=etag)
    span = resuming.read_span(headers)
    if span is None or not _fits(span, wanted, total=total):
        return Useless(f"the host sent another part than {wanted.ask()}")
    return Part(span, total, etag)


def _cut(wanted: ByteRange, *, total: int | None, etag: str | None) -> Part | Whole | Nothing:
    """Find the part in a body that has the whole file (rule 4)."""
    if total is None:
        return Whole()
    span = wanted.within(total)
    return Part(span, total, etag, skip=span.start) if span else Nothing(total)


def _fits(span: range, wanted: ByteRange, *, total: int | None) -> bool:
    """Return whether a part is the one that was asked for; without a total, as far as that can be told."""
    if total is not None:
        return span == wanted.within(total)
    if wanted.first is None:
        return len(span) <= (wanted.suffix or 0)
    return span.start == wanted.first and (wanted.last is None or span.stop <= wanted.last + 1)

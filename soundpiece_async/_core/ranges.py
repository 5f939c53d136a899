"""HTTP ranges (RFC 9110, sections 13 to 15): continuing a download, and passing on a part of a file.

What to ask the output host for, and what its response means for the bytes already here:

1. Bytes of two responses are joined only under one strong ETag; without it a download starts again.
2. A 206 counts only when it begins where our bytes end, under the same ETag and the same total.
3. A 200 or 203 is the whole file: it starts again. One that says otherwise is believed: a ``Content-Range`` makes it
   a 206, a length that is not the file's sends us back to the beginning.
4. A 416 that names our length as the total says that nothing is missing; after any other 416 nothing is sure.
5. A body is whole when it has the announced length or, chunked, its last chunk. One that merely ends with the
   connection is whole if its last FLAC frame is (``flac``); else the rest is requested from the host, and rule 4
   decides, or a second body that ends at the same byte.
6. A refusal (any other 4xx) needs a renewed URL; a busy host (408, 425, 429, 5xx) needs time.
7. A ``Content-Encoding`` is a label, and the bytes decide whether it is true: stores hand on whatever was uploaded with
   a file (``aws-chunked``, ``UTF-8``). What really is encoded is decoded, and never continued.

Whether the host supports ranges, sends lengths or ETags is UNKNOWN (docs/api.md#downloads), so none of it is assumed.

A ``Range`` header of a client, and what the host's answer means for a part of the file:

8. One range is answered. Several at once, another unit or nonsense are the whole file, as the RFC allows.
9. A part begins where the response says; a response with other bytes than requested is not usable.
10. Bytes of two responses are joined only under one strong ETag, and only while the total stays the same.
11. A host without ranges sends the whole file: the bytes before the part are left out.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus

import attrs

_STRONG_ETAG = re.compile(r'"[!#-~\x80-\xff]*"')
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d{1,18})-(?P<last>\d{1,18})|\*)/(?:(?P<total>\d{1,18})|\*)")
_LENGTH = re.compile(r"\d{1,18}")
_BUSY = frozenset({408, 425, 429})
_WHOLE, _PART, _NO_SUCH_RANGE = (200, 203), 206, 416
_REAL_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_CLIENT_ERRORS, _SERVER_ERRORS = range(400, 500), range(500, 600)


@attrs.frozen(kw_only=True)
class RemoteFile:
    """What the host has said of the file whose first bytes are here.

    Attributes:
        etag: a strong one, or None; only under one may bytes of two responses be joined.
        size: in bytes, or None.
        ended: the last body ended with its connection and nothing says whether it was whole (rule 5).
    """

    etag: str | None = None
    size: int | None = None
    ended: bool = False


@attrs.frozen(kw_only=True)
class WriteFrom:
    """Write the body from ``start`` on; 0 throws away what was there.

    Attributes:
        end: the offset the body announces to end before, or None.
        certain: a body that ends cleanly without ``end`` is whole (chunked).
        known: what holds from now on.
        encodings: how the body is encoded, if its label is true (rule 7), in the order they were applied.
    """

    start: int
    end: int | None
    certain: bool
    known: RemoteFile
    encodings: tuple[str, ...] = ()


@attrs.frozen
class Complete:
    """Nothing is missing: the file has ``size`` bytes."""

    size: int


@attrs.frozen
class UrlRejected:
    """The host rejects the URL."""

    status: int


@attrs.frozen
class RetryLater:
    """A temporary failure: the same request may succeed later."""

    why: str


@attrs.frozen
class StartOver:
    """A response with which the bytes received so far cannot be continued: start over."""

    why: str


RangeResult = WriteFrom | Complete | UrlRejected | RetryLater | StartOver


def range_headers(have: int, known: RemoteFile) -> dict[str, str]:
    """Return the headers of the next GET, with ``have`` bytes on disk; a HEAD would return less."""
    headers = {"Accept-Encoding": "identity"}
    if _offset(have, known):
        headers["Range"] = f"bytes={have}-"
        if known.etag is not None:
            headers["If-Range"] = known.etag
    return headers


def interpret(status: int, headers: Mapping[str, str], *, have: int, known: RemoteFile) -> RangeResult:
    """Read a response to ``range_headers(have, known)``; header names in lower case."""
    if status in _BUSY or status in _SERVER_ERRORS:
        return RetryLater(f"the host is busy ({status})")
    if status == _NO_SUCH_RANGE:
        return _judge_no_such_range(headers, have=have, known=known)
    if status in _CLIENT_ERRORS:
        return UrlRejected(status)
    if status not in (*_WHOLE, _PART):
        return RetryLater(f"the host answered with an unexpected status ({status})")
    offset = _offset(have, known)
    if status == _PART or _has_part(headers, offset=offset):
        return _take_part(headers, offset=offset, known=known)
    return _take_whole(headers, offset=offset, known=known)


def read_encodings(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the encodings that would change a body, as a header names them; other words change nothing."""
    names = (name.strip().lower() for name in headers.get("content-encoding", "").split(","))
    return tuple(name for name in names if name in _REAL_ENCODINGS)


def read_total(headers: Mapping[str, str]) -> int | None:
    """Return the size of the whole file that a response with status 200, 203 or 206 states, or None."""
    if "content-range" in headers:
        match = _CONTENT_RANGE.fullmatch(headers["content-range"])
        return int(match["total"]) if match and match["total"] else None
    return _read_length(headers)


def read_span(headers: Mapping[str, str]) -> range | None:
    """Return the bytes of the file that a response says to be part of it, or None if it does not say so."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None or match["first"] is None or int(match["last"]) < int(match["first"]):
        return None
    return range(int(match["first"]), int(match["last"]) + 1)


def read_etag(headers: Mapping[str, str]) -> str | None:
    """Return the ETag of a response if it is a strong one."""
    etag = headers.get("etag", "")
    return etag if is_strong(etag) else None


def is_strong(etag: str) -> bool:
    """Return whether an ETag is well-formed and strong: a weak one does not promise equal bytes."""
    return _STRONG_ETAG.fullmatch(etag) is not None


def _offset(have: int, known: RemoteFile) -> int:
    """Where the next body has to begin (rules 1 and 5)."""
    return have if known.etag is not None or known.ended else 0


def _judge_no_such_range(headers: Mapping[str, str], *, have: int, known: RemoteFile) -> RangeResult:
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    total = int(match["total"]) if match and match["total"] else None
    if _offset(have, known) and total == have and known.size in (None, total):
        return Complete(have)
    return StartOver(f"the host has no bytes from {have} on (416), but does not state that the file ends there")


def _has_part(headers: Mapping[str, str], *, offset: int) -> bool:
    """Return whether what claims to be the whole file names a part (rule 3); junk counts where one was wanted."""
    if "content-range" not in headers:
        return False
    match = _CONTENT_RANGE.fullmatch(headers["content-range"])
    return bool(offset) or (match is not None and match["first"] is not None)


def _take_whole(headers: Mapping[str, str], *, offset: int, known: RemoteFile) -> RangeResult:
    etag = read_etag(headers)
    size = _read_length(headers)
    encodings = read_encodings(headers)
    same = etag is not None and etag == known.etag
    if offset and not encodings and known.size is not None and size is not None:
        contradicts = size != known.size if same else size == known.size - offset
        if contradicts:
            return StartOver(f"the host sent {size} bytes without stating whether they are the whole file or the rest")
    if size is None and same:
        size = known.size
    return WriteFrom(
        start=0,
        end=size,
        certain=_is_chunked(headers),
        known=RemoteFile(etag=etag, size=size),
        encodings=encodings,
    )


def _take_part(headers: Mapping[str, str], *, offset: int, known: RemoteFile) -> RangeResult:
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None or match["first"] is None:
        return StartOver("the host sent a part (206) without saying which")
    first, end = int(match["first"]), int(match["last"]) + 1
    total = int(match["total"]) if match["total"] else known.size
    if first != offset:
        return StartOver(f"the host sent the part from byte {first}, not from {offset}")
    if end <= first or (total is not None and end > total) or _read_length(headers) not in (None, end - first):
        return StartOver(f"the host sent a contradictory range: {headers['content-range']}")
    etag, encodings = read_etag(headers), read_encodings(headers)
    unlike = etag != known.etag if encodings else etag not in (None, known.etag)
    if offset and (known.etag is None or unlike):
        return StartOver("the host sent a part of another version of the file, or does not say of which")
    if offset and known.size not in (None, total):
        return StartOver(f"the file now has {total} bytes, not {known.size}")
    known = RemoteFile(etag=known.etag if offset else etag, size=total)
    return WriteFrom(start=first, end=end, certain=False, known=known, encodings=() if offset else encodings)


def _is_chunked(headers: Mapping[str, str]) -> bool:
    return "chunked" in headers.get("transfer-encoding", "").lower()


def _read_length(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body, or None for a chunked one, whatever else is stated (RFC 9112, section 6.3)."""
    text = headers.get("content-length", "")
    return int(text) if _LENGTH.fullmatch(text) and not _is_chunked(headers) else None


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
class WholeFile:
    """The client gets the whole file: another version than the one it has, or one of unknown length."""


@attrs.frozen
class NoSuchBytes:
    """The file has none of the requested bytes; ``total`` is its size, if the host states it."""

    total: int | None


@attrs.frozen(kw_only=True)
class RangeReply:
    """How a client is answered.

    Attributes:
        size: bytes of the whole file, or None.
        etag: a strong one, or None.
        span: the bytes of the part; empty if the file has none of the requested ones (416); None: the whole file (200).
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


def parse_range(header: str | None) -> ByteRange | None:
    """Read a ``Range`` header; None: the whole file (rule 8)."""
    found = _RANGE.fullmatch((header or "").strip())
    if found is None:
        return None
    first, last, suffix = (None if text is None else int(text) for text in found.groups())
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first, last, suffix)


def interpret_part(
    status: int, headers: Mapping[str, str], *, wanted: ByteRange, if_range: str | None
) -> Part | WholeFile | NoSuchBytes | UrlRejected | RetryLater | StartOver:
    """Read a response to a request for ``wanted``; header names in lower case.

    ``if_range`` is what the client sent as ``If-Range``: only the file's own strong ETag lets it have a part.
    """
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return NoSuchBytes(read_total(headers))
    verdict = interpret(status, headers, have=0, known=RemoteFile())
    if isinstance(verdict, UrlRejected | RetryLater):
        return verdict
    total, etag = read_total(headers), read_etag(headers)
    if read_encodings(headers) or (if_range is not None and if_range != etag):
        return WholeFile()
    if status != HTTPStatus.PARTIAL_CONTENT and "content-range" not in headers:
        return _cut_part(wanted, total=total, etag=etag)
    span = read_span(headers)
    if span is None or not _is_wanted(span, wanted, total=total):
        return StartOver(f"the host sent another part than {wanted.ask()}")
    return Part(span, total, etag)


def _cut_part(wanted: ByteRange, *, total: int | None, etag: str | None) -> Part | WholeFile | NoSuchBytes:
    """Find the part in a body that has the whole file (rule 11)."""
    if total is None:
        return WholeFile()
    span = wanted.within(total)
    return Part(span, total, etag, skip=span.start) if span else NoSuchBytes(total)


def _is_wanted(span: range, wanted: ByteRange, *, total: int | None) -> bool:
    """Return whether a part is the requested one; without a total, as far as that can be checked."""
    if total is not None:
        return span == wanted.within(total)
    if wanted.first is None:
        return len(span) <= (wanted.suffix or 0)
    return span.start == wanted.first and (wanted.last is None or span.stop <= wanted.last + 1)

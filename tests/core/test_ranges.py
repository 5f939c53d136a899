import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.ranges import (
    Complete,
    RangeResult,
    RemoteFile,
    RetryLater,
    StartOver,
    UrlRejected,
    WriteFrom,
    interpret,
    range_headers,
    read_encodings,
    read_total,
)

TAG, OTHER = '"a"', '"b"'
KNOWN = RemoteFile(etag=TAG, size=100)
PLAIN = {"accept-encoding": "identity"}


def headers(**lines: str | int) -> dict[str, str]:
    return {name.replace("_", "-"): str(value) for name, value in lines.items()}


def asked(have: int, known: RemoteFile) -> dict[str, str]:
    return {name.lower(): value for name, value in range_headers(have, known).items()}


@pytest.mark.parametrize(
    ("have", "known", "wanted"),
    [
        (0, RemoteFile(), PLAIN),
        (0, KNOWN, PLAIN),
        (10, RemoteFile(), PLAIN),
        (10, RemoteFile(size=100), PLAIN),
        (10, KNOWN, PLAIN | {"range": "bytes=10-", "if-range": TAG}),
        (10, RemoteFile(ended=True), PLAIN | {"range": "bytes=10-"}),
        (10, RemoteFile(etag=TAG, ended=True), PLAIN | {"range": "bytes=10-", "if-range": TAG}),
    ],
)
def test_only_bytes_under_a_strong_etag_are_continued(have: int, known: RemoteFile, wanted: dict[str, str]) -> None:
    """A range is asked for under an ETag, or to confirm an end; else everything is asked for again."""
    assert asked(have, known) == wanted


@pytest.mark.parametrize(
    ("status", "lines", "verdict"),
    [
        (
            200,
            headers(content_length=9, etag=OTHER),
            WriteFrom(start=0, end=9, certain=False, known=RemoteFile(etag=OTHER, size=9)),
        ),
        (200, headers(content_length=9), WriteFrom(start=0, end=9, certain=False, known=RemoteFile(size=9))),
        (
            200,
            headers(content_length=9, etag='W/"a"'),
            WriteFrom(start=0, end=9, certain=False, known=RemoteFile(size=9)),
        ),
        (200, headers(etag='"a\n"'), WriteFrom(start=0, end=None, certain=False, known=RemoteFile())),
        (200, headers(content_length="-1"), WriteFrom(start=0, end=None, certain=False, known=RemoteFile())),
        (200, headers(transfer_encoding="Chunked"), WriteFrom(start=0, end=None, certain=True, known=RemoteFile())),
        (
            200,
            headers(transfer_encoding="chunked", content_length=5),
            WriteFrom(start=0, end=None, certain=True, known=RemoteFile()),
        ),
        (200, headers(transfer_encoding="chunked", etag=TAG), WriteFrom(start=0, end=100, certain=True, known=KNOWN)),
        (
            200,
            headers(transfer_encoding="chunked", etag=OTHER),
            WriteFrom(start=0, end=None, certain=True, known=RemoteFile(etag=OTHER)),
        ),
        (
            206,
            headers(content_range="bytes 10-99/100", etag=TAG, content_length=90),
            WriteFrom(start=10, end=100, certain=False, known=KNOWN),
        ),
        (206, headers(content_range="bytes 10-99/100"), WriteFrom(start=10, end=100, certain=False, known=KNOWN)),
        (206, headers(content_range="bytes 10-49/100"), WriteFrom(start=10, end=50, certain=False, known=KNOWN)),
        (206, headers(content_range="bytes 10-99/*"), WriteFrom(start=10, end=100, certain=False, known=KNOWN)),
        (416, headers(content_range="bytes */10"), StartOver),
        (416, headers(content_range="bytes */100"), StartOver),
        (416, {}, StartOver),
        (206, headers(content_range="bytes 11-99/100"), StartOver),
        (206, headers(content_range="bytes 0-99/100"), StartOver),
        (206, headers(content_range="bytes 10-99/100", etag=OTHER), StartOver),
        (206, headers(content_range="bytes 10-99/100", etag='W/"a"', content_length=91), StartOver),
        (206, headers(content_range="bytes 10-98/99"), StartOver),
        (206, headers(content_range="bytes 10-100/100"), StartOver),
        (206, headers(content_range="bytes 10-100/*"), StartOver),
        (206, headers(content_range="bytes 10-9/100"), StartOver),
        (206, headers(content_range="bytes */100"), StartOver),
        (206, headers(content_type="multipart/byteranges"), StartOver),
        (
            200,
            headers(content_encoding="gzip", content_length=9),
            WriteFrom(start=0, end=9, certain=False, known=RemoteFile(size=9), encodings=("gzip",)),
        ),
        (203, headers(content_length=100, etag=TAG), WriteFrom(start=0, end=100, certain=False, known=KNOWN)),
        (
            200,
            headers(content_range="bytes 10-99/100", etag=TAG),
            WriteFrom(start=10, end=100, certain=False, known=KNOWN),
        ),
        (203, headers(content_range="bytes 10-99/100"), WriteFrom(start=10, end=100, certain=False, known=KNOWN)),
        (200, headers(content_range="bytes 11-99/100", etag=TAG), StartOver),
        (200, headers(content_range="bytes 10-99/100", etag=OTHER), StartOver),
        (200, headers(content_range="junk", etag=TAG), StartOver),
        (200, headers(content_length=90, etag=TAG), StartOver),
        (200, headers(content_length=90), StartOver),
        (200, headers(content_length=99, etag=TAG), StartOver),
        (206, headers(content_range="bytes 10-99/100", content_encoding="gzip"), StartOver),
        (
            206,
            headers(content_range="bytes 10-99/100", content_encoding="gzip", etag=TAG),
            WriteFrom(start=10, end=100, certain=False, known=KNOWN),
        ),
        (204, {}, RetryLater),
        (304, {}, RetryLater),
        (408, {}, RetryLater),
        (425, {}, RetryLater),
        (429, {}, RetryLater),
        (500, {}, RetryLater),
        (503, {}, RetryLater),
        (400, {}, UrlRejected(400)),
        (401, {}, UrlRejected(401)),
        (403, {}, UrlRejected(403)),
        (404, {}, UrlRejected(404)),
        (410, {}, UrlRejected(410)),
        (418, {}, UrlRejected(418)),
    ],
)
def test_an_answer_to_a_continuation_is_judged(
    status: int, lines: dict[str, str], verdict: RangeResult | type[RangeResult]
) -> None:
    """With 10 of 100 bytes here, each answer is used, refused, or sends us back to the beginning, as the rules say."""
    judged = interpret(status, lines, have=10, known=KNOWN)

    assert judged == verdict if not isinstance(verdict, type) else isinstance(judged, verdict)


@pytest.mark.parametrize(
    ("known", "status", "lines", "verdict"),
    [
        (RemoteFile(etag=TAG), 416, headers(content_range="bytes */10"), Complete(10)),
        (RemoteFile(ended=True), 416, headers(content_range="bytes */10"), Complete(10)),
        (RemoteFile(etag=TAG, size=10), 416, headers(content_range="bytes */10"), Complete(10)),
        (RemoteFile(ended=True), 416, headers(content_range="bytes */11"), StartOver),
        (RemoteFile(ended=True), 416, {}, StartOver),
        (RemoteFile(), 416, headers(content_range="bytes */10"), StartOver),
        (RemoteFile(ended=True), 206, headers(content_range="bytes 10-99/100"), StartOver),
        (
            RemoteFile(etag=TAG, ended=True),
            206,
            headers(content_range="bytes 10-99/100"),
            WriteFrom(start=10, end=100, certain=False, known=KNOWN),
        ),
        (
            RemoteFile(),
            206,
            headers(content_range="bytes 0-99/100", etag=TAG),
            WriteFrom(start=0, end=100, certain=False, known=KNOWN),
        ),
        (
            RemoteFile(etag=TAG),
            206,
            headers(content_range="bytes 10-49/*"),
            WriteFrom(start=10, end=50, certain=False, known=RemoteFile(etag=TAG)),
        ),
    ],
)
def test_an_unknown_end_is_confirmed(
    known: RemoteFile, status: int, lines: dict[str, str], verdict: RangeResult | type[RangeResult]
) -> None:
    """A 416 that names our length as the total ends a file whose size nobody had announced; nothing less does."""
    judged = interpret(status, lines, have=10, known=known)

    assert judged == verdict if not isinstance(verdict, type) else isinstance(judged, verdict)


@given(
    status=st.sampled_from([200, 203, 206, 416]) | st.integers(100, 599),
    lines=st.fixed_dictionaries(
        {},
        optional={
            "content-range": st.from_regex(r"bytes (\d{1,3}-\d{1,3}|\*)/(\d{1,3}|\*)", fullmatch=True) | st.text(),
            "content-length": st.from_regex(r"\d{1,3}", fullmatch=True) | st.text(),
            "etag": st.sampled_from([TAG, OTHER, 'W/"a"', ""]),
            "transfer-encoding": st.sampled_from(["chunked", "gzip, chunked"]),
        },
    ),
    have=st.integers(0, 200),
    known=st.builds(
        RemoteFile,
        etag=st.none() | st.sampled_from([TAG, OTHER]),
        size=st.none() | st.integers(0, 200),
        ended=st.booleans(),
    ),
)
def test_bytes_are_never_joined_without_proof(status: int, lines: dict[str, str], have: int, known: RemoteFile) -> None:
    """Whatever the host says, a body goes to the beginning, or to our end under our ETag and our size."""
    verdict = interpret(status, lines, have=have, known=known)

    match verdict:
        case WriteFrom(start=0):
            assert status in (200, 203, 206)
        case WriteFrom():
            assert status == 206 or "content-range" in lines
            assert verdict.start == have
            assert known.etag is not None
            assert lines.get("etag") in (None, known.etag, 'W/"a"', "")
            assert known.size in (None, verdict.known.size)
        case Complete(size):
            assert size == have
            assert known.size in (None, have)


@pytest.mark.parametrize("junk", ["junk", "bytes */100", ""])
def test_a_range_nobody_asked_for_is_read_if_it_can_be(junk: str) -> None:
    """Of a file whose beginning is asked for, a 200 is the whole file unless it names a part."""
    whole = WriteFrom(start=0, end=9, certain=False, known=RemoteFile(size=9))
    assert interpret(200, headers(content_range=junk, content_length=9), have=0, known=RemoteFile()) == whole

    part = interpret(200, headers(content_range="bytes 0-8/20", content_length=9), have=0, known=RemoteFile())
    assert part == WriteFrom(start=0, end=9, certain=False, known=RemoteFile(size=20))
    assert isinstance(interpret(200, headers(content_range="bytes 1-8/20"), have=0, known=RemoteFile()), StartOver)


@pytest.mark.parametrize(
    ("value", "encodings"),
    [
        ("", ()),
        ("identity, identity", ()),
        ("aws-chunked", ()),
        ("UTF-8", ()),
        ("binary,none", ()),
        ("aws-chunked, GZIP", ("gzip",)),
        ("deflate,br", ("deflate", "br")),
    ],
)
def test_only_names_of_encodings_count(value: str, encodings: tuple[str, ...]) -> None:
    """Stores repeat whatever was uploaded beside a file; most of it changes no byte."""
    assert read_encodings(headers(content_encoding=value)) == encodings


@pytest.mark.parametrize(
    ("lines", "total"),
    [
        (headers(content_range="bytes 0-41/100", content_length=42), 100),
        (headers(content_range="bytes 0-41/*", content_length=42), None),
        (headers(content_range="junk", content_length=42), None),
        (headers(content_length=42), 42),
        ({}, None),
    ],
)
def test_the_total_is_read(lines: dict[str, str], total: int | None) -> None:
    """The length of a part is not the length of the file."""
    assert read_total(lines) == total

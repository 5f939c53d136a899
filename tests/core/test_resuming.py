import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.resuming import (
    Known,
    Refused,
    Take,
    Unfit,
    Useless,
    Verdict,
    Whole,
    ask,
    judge,
    read_encodings,
    read_total,
)

TAG, OTHER = '"a"', '"b"'
KNOWN = Known(etag=TAG, size=100)
PLAIN = {"accept-encoding": "identity"}


def headers(**lines: str | int) -> dict[str, str]:
    return {name.replace("_", "-"): str(value) for name, value in lines.items()}


def asked(have: int, known: Known) -> dict[str, str]:
    return {name.lower(): value for name, value in ask(have, known).items()}


@pytest.mark.parametrize(
    ("have", "known", "wanted"),
    [
        (0, Known(), PLAIN),
        (0, KNOWN, PLAIN),
        (10, Known(), PLAIN),
        (10, Known(size=100), PLAIN),
        (10, KNOWN, PLAIN | {"range": "bytes=10-", "if-range": TAG}),
        (10, Known(ended=True), PLAIN | {"range": "bytes=10-"}),
        (10, Known(etag=TAG, ended=True), PLAIN | {"range": "bytes=10-", "if-range": TAG}),
    ],
)
def test_only_bytes_under_a_strong_etag_are_continued(have: int, known: Known, wanted: dict[str, str]) -> None:
    """A range is asked for under an ETag, or to confirm an end; else everything is asked for again."""
    assert asked(have, known) == wanted


@pytest.mark.parametrize(
    ("status", "lines", "verdict"),
    [
        (
            200,
            headers(content_length=9, etag=OTHER),
            Take(start=0, end=9, certain=False, known=Known(etag=OTHER, size=9)),
        ),
        (200, headers(content_length=9), Take(start=0, end=9, certain=False, known=Known(size=9))),
        (200, headers(content_length=9, etag='W/"a"'), Take(start=0, end=9, certain=False, known=Known(size=9))),
        (200, headers(etag='"a\n"'), Take(start=0, end=None, certain=False, known=Known())),
        (200, headers(content_length="-1"), Take(start=0, end=None, certain=False, known=Known())),
        (200, headers(transfer_encoding="Chunked"), Take(start=0, end=None, certain=True, known=Known())),
        (
            200,
            headers(transfer_encoding="chunked", content_length=5),
            Take(start=0, end=None, certain=True, known=Known()),
        ),
        (200, headers(transfer_encoding="chunked", etag=TAG), Take(start=0, end=100, certain=True, known=KNOWN)),
        (
            200,
            headers(transfer_encoding="chunked", etag=OTHER),
            Take(start=0, end=None, certain=True, known=Known(etag=OTHER)),
        ),
        (
            206,
            headers(content_range="bytes 10-99/100", etag=TAG, content_length=90),
            Take(start=10, end=100, certain=False, known=KNOWN),
        ),
        (206, headers(content_range="bytes 10-99/100"), Take(start=10, end=100, certain=False, known=KNOWN)),
        (206, headers(content_range="bytes 10-49/100"), Take(start=10, end=50, certain=False, known=KNOWN)),
        (206, headers(content_range="bytes 10-99/*"), Take(start=10, end=100, certain=False, known=KNOWN)),
        (416, headers(content_range="bytes */10"), Useless),
        (416, headers(content_range="bytes */100"), Useless),
        (416, {}, Useless),
        (206, headers(content_range="bytes 11-99/100"), Useless),
        (206, headers(content_range="bytes 0-99/100"), Useless),
        (206, headers(content_range="bytes 10-99/100", etag=OTHER), Useless),
        (206, headers(content_range="bytes 10-99/100", etag='W/"a"', content_length=91), Useless),
        (206, headers(content_range="bytes 10-98/99"), Useless),
        (206, headers(content_range="bytes 10-100/100"), Useless),
        (206, headers(content_range="bytes 10-100/*"), Useless),
        (206, headers(content_range="bytes 10-9/100"), Useless),
        (206, headers(content_range="bytes */100"), Useless),
        (206, headers(content_type="multipart/byteranges"), Useless),
        (
            200,
            headers(content_encoding="gzip", content_length=9),
            Take(start=0, end=9, certain=False, known=Known(size=9), encodings=("gzip",)),
        ),
        (203, headers(content_length=100, etag=TAG), Take(start=0, end=100, certain=False, known=KNOWN)),
        (200, headers(content_range="bytes 10-99/100", etag=TAG), Take(start=10, end=100, certain=False, known=KNOWN)),
        (203, headers(content_range="bytes 10-99/100"), Take(start=10, end=100, certain=False, known=KNOWN)),
        (200, headers(content_range="bytes 11-99/100", etag=TAG), Useless),
        (200, headers(content_range="bytes 10-99/100", etag=OTHER), Useless),
        (200, headers(content_range="junk", etag=TAG), Useless),
        (200, headers(content_length=90, etag=TAG), Useless),
        (200, headers(content_length=90), Useless),
        (200, headers(content_length=99, etag=TAG), Useless),
        (206, headers(content_range="bytes 10-99/100", content_encoding="gzip"), Useless),
        (
            206,
            headers(content_range="bytes 10-99/100", content_encoding="gzip", etag=TAG),
            Take(start=10, end=100, certain=False, known=KNOWN),
        ),
        (204, {}, Unfit),
        (304, {}, Unfit),
        (408, {}, Unfit),
        (425, {}, Unfit),
        (429, {}, Unfit),
        (500, {}, Unfit),
        (503, {}, Unfit),
        (400, {}, Refused(400)),
        (401, {}, Refused(401)),
        (403, {}, Refused(403)),
        (404, {}, Refused(404)),
        (410, {}, Refused(410)),
        (418, {}, Refused(418)),
    ],
)
def test_an_answer_to_a_continuation_is_judged(
    status: int, lines: dict[str, str], verdict: Verdict | type[Verdict]
) -> None:
    """With 10 of 100 bytes here, each answer is used, refused, or sends us back to the beginning, as the rules say."""
    judged = judge(status, lines, have=10, known=KNOWN)

    assert judged == verdict if not isinstance(verdict, type) else isinstance(judged, verdict)


@pytest.mark.parametrize(
    ("known", "status", "lines", "verdict"),
    [
        (Known(etag=TAG), 416, headers(content_range="bytes */10"), Whole(10)),
        (Known(ended=True), 416, headers(content_range="bytes */10"), Whole(10)),
        (Known(etag=TAG, size=10), 416, headers(content_range="bytes */10"), Whole(10)),
        (Known(ended=True), 416, headers(content_range="bytes */11"), Useless),
        (Known(ended=True), 416, {}, Useless),
        (Known(), 416, headers(content_range="bytes */10"), Useless),
        (Known(ended=True), 206, headers(content_range="bytes 10-99/100"), Useless),
        (
            Known(etag=TAG, ended=True),
            206,
            headers(content_range="bytes 10-99/100"),
            Take(start=10, end=100, certain=False, known=KNOWN),
        ),
        (
            Known(),
            206,
            headers(content_range="bytes 0-99/100", etag=TAG),
            Take(start=0, end=100, certain=False, known=KNOWN),
        ),
        (
            Known(etag=TAG),
            206,
            headers(content_range="bytes 10-49/*"),
            Take(start=10, end=50, certain=False, known=Known(etag=TAG)),
        ),
    ],
)
def test_an_unknown_end_is_confirmed(
    known: Known, status: int, lines: dict[str, str], verdict: Verdict | type[Verdict]
) -> None:
    """A 416 that names our length as the total ends a file whose size nobody had announced; nothing less does."""
    judged = judge(status, lines, have=10, known=known)

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
        Known, etag=st.none() | st.sampled_from([TAG, OTHER]), size=st.none() | st.integers(0, 200), ended=st.booleans()
    ),
)
def test_bytes_are_never_joined_without_proof(status: int, lines: dict[str, str], have: int, known: Known) -> None:
    """Whatever the host says, a body goes to the beginning, or to our end under our ETag and our size."""
    verdict = judge(status, lines, have=have, known=known)

    match verdict:
        case Take(start=0):
            assert status in (200, 203, 206)
        case Take():
            assert status == 206 or "content-range" in lines
            assert verdict.start == have
            assert known.etag is not None
            assert lines.get("etag") in (None, known.etag, 'W/"a"', "")
            assert known.size in (None, verdict.known.size)
        case Whole(size):
            assert size == have
            assert known.size in (None, have)


@pytest.mark.parametrize("junk", ["junk", "bytes */100", ""])
def test_a_range_nobody_asked_for_is_read_if_it_can_be(junk: str) -> None:
    """Of a file whose beginning is asked for, a 200 is the whole file unless it names a part."""
    whole = Take(start=0, end=9, certain=False, known=Known(size=9))
    assert judge(200, headers(content_range=junk, content_length=9), have=0, known=Known()) == whole

    part = judge(200, headers(content_range="bytes 0-8/20", content_length=9), have=0, known=Known())
    assert part == Take(start=0, end=9, certain=False, known=Known(size=20))
    assert isinstance(judge(200, headers(content_range="bytes 1-8/20"), have=0, known=Known()), Useless)


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

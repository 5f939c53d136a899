import json
import sys
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from helpers.contract import JSON, unhurried
from helpers.json_readers import READERS
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core import codec


def read(reader: str, body: bytes) -> str:
    """Show what comes out, or that nothing does."""
    try:
        return repr(READERS[reader](body))
    except ValueError:
        return "refused"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a":1,"b":2,"a":3}', "{'a': 3, 'b': 2}"),
        (b"[NaN,Infinity,-Infinity]", "[nan, inf, -inf]"),
        (b"[1e400,-1e400,1e-400]", "[inf, -inf, 0.0]"),
        (b"[18446744073709551615,-9223372036854775808]", "[18446744073709551615, -9223372036854775808]"),
        (b"[18446744073709551616,-9223372036854775809]", "[18446744073709551616, -9223372036854775809]"),
        (b"1" * 400, "1" * 400),
        (b"1" * 5000, "refused"),
        (
            b"[0.1234567890123456789,123456789012345678e3,-0,-0.0]",
            "[0.12345678901234568, 1.2345678901234568e+20, 0, -0.0]",
        ),
        (b'"\\ud800"', "'\\ud800'"),
        (b'"\xed\xa0\x80"', "'\\ud800'"),
        (b'"\\ud83d\\ude00"', "'\N{GRINNING FACE}'"),
        (b'"\xff"', "refused"),
        (b'"\xc0\x80"', "refused"),
        (b'"\x00"', "refused"),
        (b'\xef\xbb\xbf"a"', "'a'"),
        ('"a"'.encode("utf-16"), "'a'"),
        (b"[" * 300 + b"]" * 300, "[" * 300 + "]" * 300),
        (b"[" * 200_000, "refused"),
        (b"[1,]", "refused"),
        (b"", "refused"),
    ],
    ids=lambda value: ascii(value[:24]),
)
@pytest.mark.parametrize("reader", READERS)
def test_where_the_two_differ(reader: str, body: bytes, shown: str) -> None:
    """Where orjson by itself refuses what json reads, or reads it otherwise, json has the last word."""
    assert read(reader, body) == shown


def test_how_deep_json_goes() -> None:
    """An answer nested so deeply that json may refuse it is not read by orjson, which goes a little deeper."""
    asked = []
    reader = codec.JsonReader(asked.append)

    reader(b"[" * 250 + b"]" * 250)
    assert len(asked) == 1
    reader(b"[" * 400 + b'{"a":1},' * 150 + b"1" + b"]" * 400)
    assert len(asked) == 1


@unhurried
@given(JSON, st.sampled_from(["utf-8", "utf-16", "utf-32"]), st.booleans())
def test_any_json(value: Any, encoding: str, ascii_only: bool) -> None:  # noqa: FBT001 - hypothesis passes it
    """Whatever was written as JSON is read alike, in any of its encodings."""
    body = json.dumps(value, ensure_ascii=ascii_only).encode(encoding, "surrogatepass")

    assert read("orjson", body) == read("json", body) == repr(value)


@unhurried
@given(
    st.binary()
    | st.text(alphabet='0123456789.eE+-[]{}",: \\ud8a\ud800\ud83d').map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
)
def test_any_bytes(body: bytes) -> None:
    """Whatever the bytes: the same value, or a refusal by both."""
    assert read("orjson", body) == read("json", body)


def test_with_and_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed, orjson is used; missing, nothing is."""
    assert codec.find_orjson_loads() is orjson.loads
    assert repr(codec.JsonReader(codec.find_orjson_loads())) == "<JsonReader with orjson>"
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert codec.find_orjson_loads() is None
    assert repr(codec.JsonReader(codec.find_orjson_loads())) == "<JsonReader with json>"


def test_what_is_no_json(reader: Callable[[bytes], Any]) -> None:
    """A refusal is always a ValueError."""
    with pytest.raises(ValueError, match="nested too deeply"):
        reader(b"[" * 200_000)


OBJECT = b'{"id": "17"}'


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b")]}',\n" + OBJECT, {"id": "17"}),
        (b"while(1);" + OBJECT, {"id": "17"}),
        (b"for(;;);[5]", [5]),
        (b"callback(" + OBJECT + b");\n", {"id": "17"}),
        (b"data: " + OBJECT + b"\n\n", {"id": "17"}),
        (b"\0\0" + OBJECT + b"\0", {"id": "17"}),
        (b"\xef\xbb\xbf\n" + OBJECT, {"id": "17"}),
        (b"\0\xef\xbb\xbf" + OBJECT, {"id": "17"}),
        (b"\x1e" + OBJECT + b"\n\x1e[5]\n", [[5], {"id": "17"}]),
        (b'{"id": "16"}\r\n' + OBJECT + b"\n", [{"id": "17"}, {"id": "16"}]),
        (b'{"id": "\xff"}', {"id": "\N{REPLACEMENT CHARACTER}"}),
        (json.dumps(OBJECT.decode()).encode(), {"id": "17"}),
        (b'"ok"', "ok"),
    ],
    ids=ascii,
)
def test_json_with_something_around_it(body: bytes, data: object) -> None:
    """Padding, guards against scripts, several documents in a row with the latest first, and JSON in a text."""
    assert codec.decode_response(body) == data


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"OK", b"\xff", b"\0", b"5 apples", b"<html>{}</html>", b'"id": {}', b'{"id": "1', b"[" * 100_000),
        *(b"(" * 17 + OBJECT, OBJECT + b"<p>", OBJECT + b'"', OBJECT + b"{"),
    ],
    ids=lambda body: ascii(body[:24]),
)
def test_answers_that_are_no_json(body: bytes) -> None:
    """A page that holds some, or an answer that is cut or damaged."""
    with pytest.raises(ValueError, match=r"."):
        codec.decode_response(body)

"""Foreign text, as messages repeat it."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.redaction import (
    MAX_MESSAGE_CHARS,
    MAX_QUOTE_CHARS,
    Secret,
    SecretBytes,
    hide_secrets,
    redact_message,
    redact_text,
    redact_url,
)

TEXTS = {
    "see https://h.example/a.flac?X-Amz-Signature=SECRET&x=1, please": "see https://h.example/a.flac?… please",
    "HTTPS://h.example/?b=SECRET": "HTTPS://h.example/?…",
    "(http://u:SECRET@h.example/d?e)": "(http://h.example/d?…",
    "s3://key:SECRET@bucket": "s3://bucket",
    "s3://key:SEC/RET@bucket/x": "s3://bucket/x",
    "s3://b/x?X-Amz-Signature=SECRET": "s3://b/x?…",
    "ftp://me:SECRET@h/x": "ftp://h/x",
    "postgresql://u:SEC%40RET@h:5432/db?password=SECRET": "postgresql://h:5432/db?…",
    "//h.example/x?sig=SECRET": "//h.example/x?…",
    "//me:SECRET@h/x": "//h/x",
    "cdn.example/x.flac?Expires=1&Signature=SECRET": "cdn.example/x.flac?…",
    "cdn.example/x.flac?id=5&sig=SECRET": "cdn.example/x.flac?id=5&…",
    "cdn.example/x.flac?Key-Pair-Id=SECRET": "cdn.example/x.flac?…",
    "https://me:p?w#SECRET@h.example/y": "https://h.example/y",
    "https://SECRET@h/x#SECRET": "https://h/x",
    r'{"u":"https:\/\/h\/x?sig=SECRET"}': r'{"u":"https:\/\/h\/x?…"}',
    "https%3A%2F%2Fh%2Fx%3FX-Amz-Signature%3DSECRET": "https%3A%2F%2Fh%2Fx…",
    "https://a/?t=SECRET,https://u:SECRET@b/": "https://a/?…",
    "the key spk_SECRET$! or whsec_SECRET=": "the key spk_… or whsec_…",
    "MY_spk_SECRET": "MY_spk_…",
    "htt\u200bps://h/x?\u202esig=SECRET": "https://h/x?…",
    "ht\x1b[31mtps://h/x?\x1b[0msig=SECRET": "https://h/x?…",
    "what?! a=b; c&d=e, 4/4 // 120 bpm": "what?! a=b; c&d=e, 4/4 // 120 bpm",
    "https://h:443/@me/x and me@x.example": "https://h:443/@me/x and me@x.example",
    "https://[::1]:80/@me": "https://[::1]:80/@me",
    "https://h/x?": "https://h/x",
    "a\r\nb\tc\u2028d\x85e\x00f": "a b c d ef",
    "\x1b[31mred\x1b[0m \x9b1mbold \x1b]0;title\x07 \x1b]8;;http://x\x1b\\link": "red bold link",
    "\u202eright to left\u2069": "right to left",
    "half \ud83d": "half \ufffd",
    "": "(no text)",
    "\0\x1b[2J": "(no text)",
}


@pytest.mark.parametrize(("text", "shown"), TEXTS.items())
def test_a_text_is_one_printable_line_without_secrets(text: str, shown: str) -> None:
    """What is no secret stays."""
    assert redact_text(text) == shown
    assert redact_text(text.encode(errors="replace")) == shown.replace("\ufffd", "?")
    assert "SECRET" not in hide_secrets(text) or not text.isprintable()
    assert redact_message(text) == ("" if not text else shown)


@given(st.text(), st.text())
def test_any_text(before: str, after: str) -> None:
    """Whatever stands around them, neither the query of a URL, nor a password, nor a key is shown."""
    shown = redact_text(f"{before} https://u:PASS@h.example/?sig=SECRET spk_SECRET {after}")
    assert shown.isprintable()
    assert len(shown) <= MAX_QUOTE_CHARS + 1
    assert not {"PASS", "SECRET"} & set(shown.replace("_", " ").replace("=", " ").replace(":", " ").split())
    assert redact_text(shown) in {shown, shown.strip()} or len(shown) > MAX_QUOTE_CHARS


@given(st.text(alphabet="sp3k_:/@?#&%=.[]\\SECRET \x1b\n"))
def test_redacting_twice_changes_nothing(text: str) -> None:
    """A message that holds another message is as good as that."""
    once = hide_secrets(text)
    assert hide_secrets(once) == once
    line = redact_url(text)
    assert line.isprintable() or not line


@pytest.mark.parametrize("length", [MAX_QUOTE_CHARS, 8 * MAX_QUOTE_CHARS, 1_400_000])
def test_a_long_text_is_clipped(length: int) -> None:
    """At 500 characters; what was cut in the middle of a password is left out."""
    assert redact_text("x" * (length + 1)) == "x" * MAX_QUOTE_CHARS + "…"
    for number in range(8 * MAX_QUOTE_CHARS - 60, 8 * MAX_QUOTE_CHARS + 10):
        shown = redact_text(f"https://h/?{'q' * (number - 60)} https://user:{'SECRET' * 10}@h/")
        assert "SECRET" not in shown
        assert "SECRET" not in redact_url(" " * number + "https://user:" + "SECRET" * 900 + "@h/")


def test_a_long_message_keeps_its_end() -> None:
    """That is where it says what to do."""
    message = redact_message(f"/{'long/' * 900}: is no folder: choose another one")
    assert message.endswith("is no folder: choose another one")
    assert len(message) == MAX_MESSAGE_CHARS + 1


HOSTILE = [
    "//",
    "a:",
    "//a:",
    "@",
    "?",
    "&x-",
    "%3",
    "\x1b[",
    "\x1b]",
    "spk_",
    "//[",
    "&key",
    "[0",
    "\x9b0",
    "//:",
    "?#",
]


@pytest.mark.parametrize("part", HOSTILE)
def test_no_text_takes_for_ever(part: str) -> None:
    """Whatever the service makes of 1.4 MB: what took time by its square would end no sooner than the test's limit."""
    text = part * (1_400_000 // len(part))
    for shown in (redact_text(text), redact_text(text.encode()), redact_url(text), redact_message(text)):
        assert len(shown) <= MAX_MESSAGE_CHARS + 1
    assert len(hide_secrets(text)) <= len(text) + 1


def test_a_secret_is_the_text_and_shows_a_mask() -> None:
    """In reprs only, its own and those of what contains it."""
    secret = Secret("spk_SECRET", "spk_…")
    assert (secret, str(secret), f"{secret}", "Bearer " + secret) == ("spk_SECRET",) * 3 + ("Bearer spk_SECRET",)
    assert {"spk_SECRET": 1}[secret] == 1
    assert repr([secret, {"key": secret}]) == "['spk_…', {'key': 'spk_…'}]"
    for twin in (pickle.loads(pickle.dumps(secret)), copy.copy(secret), copy.deepcopy(secret)):  # noqa: S301 - our own
        assert (twin, repr(twin)) == ("spk_SECRET", "'spk_…'")
    assert repr((SecretBytes(b"SECRET"),)) == "(b'…',)"
    assert SecretBytes(b"SECRET") == b"SECRET"

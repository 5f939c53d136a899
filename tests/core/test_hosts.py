import ipaddress
import socket
import string
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.hosts import find_objection, find_scope, quote, read_address, resolve

LEGAL = string.ascii_letters + string.digits + "-._~:/?#[]@!$&'()*+,;="
"""RFC 3986, sections 2.2 and 2.3."""
legal_text = st.lists(
    st.sampled_from(LEGAL) | st.integers(0, 255).map(lambda byte: f"%{byte:02x}") | st.just("%2F")
).map("".join)


@given(path=legal_text)
def test_a_legal_url_is_not_changed(path: str) -> None:
    """Its signature is over these very characters."""
    url = f"https://bucket.example/{path}"
    assert quote(url) == url


@given(path=st.text())
def test_what_is_sent_is_legal_and_means_the_same(path: str) -> None:
    """Only illegal characters are encoded, so that what a server decodes is what the service wrote; once is enough."""
    sent = quote(f"https://bucket.example/a{path}z")

    assert all(character in LEGAL + "%" for character in sent)
    assert quote(sent) == sent
    if path.isprintable() and path.isascii() and "%" not in path:
        assert unquote_to_bytes(sent.partition("example/")[2]) == f"a{path}z".encode()


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://a.example/my song.flac?sig=a b", "https://a.example/my%20song.flac?sig=a%20b"),
        ("https://a.example/müde.flac", "https://a.example/m%C3%BCde.flac"),
        (
            "https://a.example/m\udcfcde.flac",
            "https://a.example/m%FCde.flac",
        ),  # a header in Latin-1, as aiohttp reads it
        ("https://a.example/\ud800", "https://a.example/%3F"),
        ("https://a.example/100%.flac?x=%4", "https://a.example/100%25.flac?x=%254"),
        ('https://a.example/"<>\\^`{|}', "https://a.example/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("https://a.example/?sig=a%2Fb%2bc+d%7E&f=[x]", "https://a.example/?sig=a%2Fb%2bc+d%7E&f=[x]"),
        ("https://bücher.example:8443/ü", "https://xn--bcher-kva.example:8443/%C3%BC"),
        ("https://me you@a.example/", "https://me%20you@a.example/"),
        ("https://ü..example/x", "https://ü..example/x"),
        (" https://a.example/x\n", "https://a.example/x"),
        ("/my song.flac", "/my%20song.flac"),
    ],
)
def test_illegal_characters_are_encoded(url: str, sent: str) -> None:
    """Spaces, letters beyond ASCII, lone percent signs; a host name by IDNA; a relative target of a redirect, too."""
    assert quote(url) == sent


LOOPBACK = [
    *("127.0.0.1", "127.0.0.1.", "127.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.1", "0X7F.0.0.1"),
    *(
        "0177.0.0.1",
        "017700000001",
        "127.0x0.1",
        "[::1]",
        "::1",
        "0:0:0:0:0:0:0:1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
    ),
    *("::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1"),
    *("::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "localhost", "LOCALHOST.", "songs.localhost", "ip6-localhost"),
]
LINK_LOCAL = [
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "fe80::1",
    "fe80::1%eth0",
    "[fe80::1%25eth0]",
    "::ffff:a9fe:a9fe",
    "64:ff9b:1:9::a9fe:a9fe",
]
UNSPECIFIED = ["0.0.0.0", "0", "0x0", "00", "::", "0.1.2.3", "::ffff:0.0.0.0"]  # noqa: S104 - read, not bound
METADATA = ["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "[FD00:EC2:0::254]"]
METADATA += ["fd20:ce::254", "fd00:c1::a9fe:a9fe"]
FINE = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "fd12:3456::1", "93.184.215.14", "2606:2800::1", "::ffff:10.0.0.1"),
    *(
        "100.64.0.1",
        "audio.example",
        "localhost.example",
        "notlocalhost",
        "127.0.0.1.example",
        "1.2.3.4.5",
        "256.1.1.1",
    ),
    *("0x", "08.1", "127.0.0.256", "1.2.3.", "a:b", "", "12345678901", "0xfffffffff", "127..1"),
]


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        *((host, "this machine") for host in LOOPBACK),
        *((host, "link-local") for host in LINK_LOCAL),
        *((host, "unspecified") for host in UNSPECIFIED),
        *((host, "metadata") for host in METADATA),
        *((host, None) for host in FINE if host != "0x"),
        ("0x", "unspecified"),
    ],
)
def test_forbidden_places_are_known_in_every_spelling(host: str, scope: str | None) -> None:
    """Decimal, octal, hexadecimal, short, mapped, translated, with a trailing dot; private ranges are fine."""
    found = find_scope(host)
    assert found is None if scope is None else scope in (found or "")


@given(number=st.integers(0, (1 << 32) - 1), bases=st.lists(st.sampled_from(["{}", "{:#x}", "0{:o}"]), min_size=4))
def test_addresses_are_read_as_the_system_reads_them(number: int, bases: list[str]) -> None:
    """Whatever ``inet_aton`` takes for an address is read as that address."""
    parts = [*number.to_bytes(4)]
    for length in range(1, 5):
        numbers = [*parts[: length - 1], int.from_bytes(parts[length - 1 :])]
        text = ".".join(base.format(part) for base, part in zip(bases, numbers, strict=False))
        assert read_address(text) == ipaddress.IPv4Address(socket.inet_aton(text)), text


@pytest.mark.parametrize(
    ("url", "objection"),
    [
        ("https://a.example/x", None),
        ("https://10.0.0.1:9000/x", None),
        ("http://a.example/x", "not https"),
        ("HTTPS://A.EXAMPLE/x", None),
        ("ftp://a.example/x", "not an http"),
        ("file:///etc/passwd", "not an http"),
        ("//a.example/x", "not an http"),
        ("https://", "not an http"),
        ("https://[/x", "malformed"),
        ("https://a.example:99999/x", "malformed"),
        ("https://2130706433/x", "its host is this machine"),
        ("https://user@127.1:443/x", "its host is this machine"),
        (quote("https://①②⑦.0.0.1/x"), "its host is this machine"),
    ],
)
def test_a_url_says_what_is_wrong_with_it(url: str, objection: str | None) -> None:
    """Its scheme, its host, or that it is not a URL."""
    found = find_objection(url, secure=True, local=False)
    assert found is None if objection is None else objection in (found or "")


def test_both_rules_can_be_lifted() -> None:
    """By what the API is, or by the settings."""
    assert find_objection("http://127.0.0.1/x", secure=False, local=True) is None
    assert find_objection("http://127.0.0.1/x", secure=True, local=True) == "it is not https, unlike the API"
    assert urlsplit("http://127.0.0.1/x").hostname == "127.0.0.1"


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("https://cdn.example/a?x=%2F..", "https://cdn.example/a?x=%2F.."),
        ("s3://bucket/a", "s3://bucket/a"),
        ("//cdn.example/a?sig=%2B", "https://cdn.example/a?sig=%2B"),
        ("/files/a.flac?sig=%2B+&x", "https://api.example/files/a.flac?sig=%2B+&x"),
        (" files/a.flac\n", "https://api.example/base/files/a.flac"),
        ("//[/a", "//[/a"),
    ],
)
def test_relative_urls(url: str, whole: str) -> None:
    """They are the API's, and only what is missing is added."""
    assert resolve(url, "https://api.example/base") == whole

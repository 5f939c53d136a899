"""Where outputs may come from, and how their URLs are written on the wire.

1. Over https when the API is https: the URL of an output and every redirect from it.
2. Never from this machine or its own link, unless the API is there itself: loopback, link-local and unspecified
   addresses, and the metadata services of clouds, in every spelling. Private ranges (RFC 1918, unique local IPv6) are
   fine: object stores have private endpoints.
3. ``Settings(allow_private_outputs=True)`` lifts both.
4. A URL is sent as the service wrote it, because its signature covers it. Only characters that no URL may have
   (RFC 3986, section 2) are percent-encoded: strict servers refuse them, and a signature is made over the encoded form.
   Square brackets stay: browsers send them in queries, and so do signers.
5. A URL without a scheme, or without a host, is one of the API's: it is resolved against the base URL.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network
from urllib.parse import urljoin, urlsplit

from soundpiece_async._core.errors import TransportError

LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")

_METADATA = frozenset(
    {"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe"}
)
_TRANSLATED = [IPv6Network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")]
"""Whose last four bytes are the IPv4 address that a translator sends to (RFC 6052, RFC 8215, RFC 2765)."""
_LONGEST_ADDRESS = 4
_LONGEST_SPELLING = 64  # of an address; the longest has some fifty characters
_LONGEST_LABEL = 63
_LONGEST_NAME = 254
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)(.*)", re.DOTALL)
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:")
_ILLEGAL = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]{0,8}|0[0-7]{0,11}|[1-9][0-9]{0,9})")


class OutputRefused(TransportError):
    """The URL of an output leads where none may come from, or nowhere; only another URL can help."""


def quote(url: str) -> str:
    """Return a URL that may be sent: illegal characters are percent-encoded, nothing else is changed (rule 4)."""
    match = _URL.fullmatch(url.strip())
    if match is None:
        return _ILLEGAL.sub(_encode, url.strip())
    scheme, authority, rest = match.groups()
    user, at, host = authority.rpartition("@")
    return f"{scheme}{_ILLEGAL.sub(_encode, user)}{at}{_encode_host(host)}{_ILLEGAL.sub(_encode, rest)}"


def resolve(url: str, base: str) -> str:
    """Return the absolute URL of an output (rule 5); an absolute one, or a text that is not a URL, is unchanged."""
    if _SCHEME.match(url):
        return url
    try:
        return urljoin(f"{base}/", url.strip())
    except ValueError:  # as '//[' does
        return url


def find_objection(url: str, *, secure: bool, local: bool) -> str | None:
    """Return why a URL may not be used (rules 1 and 2), as far as it can be seen from the URL itself, or None.

    Args:
        url: what ``quote`` returned.
        secure: https only.
        local: addresses of this machine are fine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is malformed"
    if parts.scheme not in ("http", "https") or not host:
        return "it is not an http(s) URL"
    if not is_host(host):
        return "its host name is invalid"
    if secure and parts.scheme != "https":
        return "it is not https, unlike the API"
    scope = find_scope(host)
    return None if local or scope is None else f"its host is {scope}"


def is_host(host: str) -> bool:
    """Return whether this is a valid host name: resolvers raise errors of any kind for others."""
    if read_address(host) is not None:
        return True
    labels = host.removesuffix(".").split(".")
    try:
        return len(host) <= _LONGEST_NAME and all(0 < len(_to_ascii(label)) <= _LONGEST_LABEL for label in labels)
    except UnicodeError:
        return False


def _to_ascii(label: str) -> bytes:
    """Return the encoded form of a label; UnicodeError if it is invalid, or encodes plain ASCII."""
    encoded = label.encode("idna")
    if encoded[:4].lower() == b"xn--" and encoded[4:].decode("punycode").isascii():
        raise UnicodeError(label)
    return encoded


def find_scope(host: str) -> str | None:
    """Return why a host is forbidden (rule 2), or None; a name is not resolved."""
    plain = host.strip("[]").rstrip(".").lower()
    if plain in LOCAL_NAMES or plain.endswith(".localhost"):
        return "this machine"
    address = read_address(plain)
    return None if address is None else _find_scope(address)


def read_address(host: str) -> IPv4Address | IPv6Address | None:
    """Read an IP address in any spelling that the resolvers of operating systems take, or return None for a name."""
    plain = host.strip("[]").rstrip(".").partition("%")[0]  # without the zone of a link-local address
    return _parse_address(plain) if len(plain) <= _LONGEST_SPELLING else None


@lru_cache(maxsize=64)
def _parse_address(plain: str) -> IPv4Address | IPv6Address | None:
    """Read an address; the files of a run come from a few hosts."""
    if ":" in plain:
        try:
            return IPv6Address(plain)
        except AddressValueError:
            return None
    numbers = plain.split(".")
    if len(numbers) > _LONGEST_ADDRESS or not all(map(_NUMBER.fullmatch, numbers)):
        return None
    *first, last = map(_read_number, numbers)
    if any(number >= 1 << 8 for number in first) or last >= 1 << 8 * (_LONGEST_ADDRESS - len(first)):
        return None
    return IPv4Address(int.from_bytes(bytes(first).ljust(_LONGEST_ADDRESS, b"\0")) + last)


def _find_scope(address: IPv4Address | IPv6Address) -> str | None:
    if isinstance(address, IPv6Address):
        for inner in _find_inner(address):
            if scope := _find_scope(inner):
                return scope
    if str(address) in _METADATA:
        return "the metadata service of a cloud"
    if address.is_loopback:
        return "this machine"
    if address.is_link_local:
        return "a link-local address"
    if address.is_unspecified or (isinstance(address, IPv4Address) and not address.packed[0]):
        return "an unspecified address"
    return None


def _find_inner(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that packets to an IPv6 address may end at."""
    last = IPv4Address(address.packed[-4:])
    found = [address.ipv4_mapped, address.sixtofour, address.teredo and address.teredo[1]]
    compatible = not any(address.packed[:12]) and int(address) > 1
    translated = any(address in network for network in _TRANSLATED)
    return [inner for inner in found if inner] + [last] * (compatible or translated)


def _read_number(text: str) -> int:
    if text[:2].lower() == "0x":
        return int(text[2:] or "0", 16)
    return int(text, 8 if text.startswith("0") else 10)


def _encode(match: re.Match[str]) -> str:
    try:
        raw = match[0].encode("utf-8", "surrogateescape")  # bytes of a header that are no UTF-8 stay those bytes
    except UnicodeEncodeError:
        raw = match[0].encode("utf-8", "replace")
    return "".join(f"%{byte:02X}" for byte in raw)


def _encode_host(host: str) -> str:
    """Return a host name with letters beyond ASCII encoded by IDNA, or unchanged if IDNA refuses it."""
    if host.isascii():
        return host
    name, colon, port = host.partition(":")
    try:
        return f"{name.encode('idna').decode()}{colon}{port}"
    except UnicodeError:
        return host

"""Webhook deliveries: headers and raw bytes in, news that is signed well out (docs/api.md#webhooks).

Rules:

1. Nothing of a body is read before its signature fits one of the secrets; several of each may be there, in rotation.
2. Comparing takes as long for a wrong signature as for the right one, and decodes nothing that a stranger wrote.
3. The timestamp is that of the *first* attempt, so a retry is as old as the trouble it came through: how old a delivery
   may be is the caller's setting. None comes from the future, except by a clock that is wrong.
4. Whatever a stranger can send is a ``WebhookError``, whose ``http_status`` is for the response; what is signed is read
   (``webhook_events.py``).
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from soundpiece_async._core import fields
from soundpiece_async._core.errors import SettingsError, WebhookError
from soundpiece_async._core.parsing import ResponseNote
from soundpiece_async._core.redaction import SecretBytes
from soundpiece_async._core.webhook_events import Delivery, parse_event

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[bytes | str, bytes | str]]
"""Header names in any case, as a mapping or (ASGI) as pairs."""

SKEW = 300.0
"""Seconds that clocks may differ: nothing honest was signed later than now."""

_PREFIX = "whsec_"
_VERSION = b"v1,"
_NUMBER = re.compile(r"[0-9]{1,19}(\.[0-9]{1,9})?")
_NAMES: Final = ("webhook", "svix")
"""What the names of the headers begin with: the standard's, and those of the service that it comes from."""
_ID: Final = "id"
_TIMESTAMP: Final = "timestamp"
_SIGNATURE: Final = "signature"
_FORMS: Mapping[str, re.Pattern[str]] = {
    _ID: re.compile("[!-~]{1,256}"),
    _TIMESTAMP: re.compile("[ -~]{1,64}"),
    _SIGNATURE: re.compile("[ -~]+"),
}


def read_secret(secret: str) -> tuple[bytes, ...]:
    """Return the keys that a signing secret may encode.

    By the standard it is base64 behind the prefix ``whsec_``; some services use the other alphabet of base64, or the
    text itself. The one that matches the signature is right.

    Raises:
        SettingsError: it is invalid; its text is not in the message.
    """
    text = secret.strip() if isinstance(secret, str) else ""
    bare = text.removeprefix(_PREFIX)
    if not bare or text.startswith("spk_"):  # that is the API key
        raise SettingsError(
            f"invalid webhook secret: expected {_PREFIX!r} followed by base64, as the dashboard shows it"
        )
    plain = (form.encode("utf-8", "surrogatepass") for form in (bare, text))
    return tuple(SecretBytes(key) for key in dict.fromkeys([*_read_base64(bare), *plain]))


def _read_base64(text: str) -> list[bytes]:
    try:
        plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)  # padding is easily lost in a copy
    except ValueError:  # binascii.Error is one
        return []
    return [key] if key else []


def sign(key: bytes, *, identity: str, timestamp: str, body: bytes) -> bytes:
    """Compute one entry of ``webhook-signature`` over ``<webhook-id>.<webhook-timestamp>.<body>``."""
    content = b".".join((identity.encode(), timestamp.encode(), body))
    return _VERSION + binascii.b2a_base64(hmac.digest(key, content, "sha256"), newline=False)


def read_delivery(
    headers: Headers, body: bytes, *, keys: Iterable[bytes], now: float, tolerance: float
) -> tuple[Delivery, tuple[ResponseNote, ...]]:
    """Verify a delivery, then read it. Returns it with what is odd about its operation.

    Args:
        headers: of the request; other headers do no harm.
        body: the bytes as they came, before any parsing.
        keys: those of the active secrets.
        now: seconds since 1970.
        tolerance: seconds that may have passed since the first attempt.

    Raises:
        WebhookError: it is not signed by the account, or too old.
    """
    signed = _pick_headers(headers)
    identity, timestamp = signed[_ID], signed[_TIMESTAMP]
    offered = [entry for entry in signed[_SIGNATURE].encode().split(b" ") if entry.startswith(_VERSION)]
    expected = [sign(key, identity=identity, timestamp=timestamp, body=body) for key in keys]
    if not any(hmac.compare_digest(one, other) for one in offered for other in expected):
        raise WebhookError(f"webhook {identity}: its signature matches none of the secrets", http_status=401)
    _check_age(identity, now - _read_timestamp(identity, timestamp), tolerance)
    return parse_event(identity, body)


def _pick_headers(headers: Headers) -> Mapping[str, str]:
    """Find the three headers, each there once and of its form."""
    found: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        lowered = _read_text(name).lower()
        prefix, _, form = lowered.partition("-")
        if prefix not in _NAMES or form not in _FORMS:
            continue
        if lowered in found or not _FORMS[form].fullmatch(_read_text(value)):
            raise WebhookError(f"the header {lowered} is duplicated or malformed")
        found[lowered] = _read_text(value)
    for prefix in _NAMES:
        if all(f"{prefix}-{form}" in found for form in _FORMS):
            return {form: found[f"{prefix}-{form}"] for form in _FORMS}
    missing = sorted({f"{_NAMES[0]}-{form}" for form in _FORMS} - found.keys())
    raise WebhookError(f"missing header{'s' if len(missing) > 1 else ''}: {', '.join(missing)}")


def _read_text(text: object) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text if isinstance(text, str) else ""


def _read_timestamp(identity: str, text: str) -> float:
    """Read when a delivery was signed, in seconds since 1970: a number of seconds, or any other time there is."""
    if _NUMBER.fullmatch(text):
        return fields.to_epoch(float(text))
    moment, reason = fields.read_time(text)
    if moment is None:
        raise WebhookError(f"webhook {identity}: its timestamp is invalid: {reason}")
    return moment.timestamp()


def _check_age(identity: str, age: float, tolerance: float) -> None:
    if age > tolerance:
        raise WebhookError(f"webhook {identity}: first sent {age:.0f} s ago, more than the tolerance of {tolerance} s")
    if -age > min(tolerance, SKEW):
        raise WebhookError(f"webhook {identity}: signed {-age:.0f} s in the future; check the clock")

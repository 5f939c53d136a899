"""Webhook deliveries: headers and raw bytes in, signed news out (contract section 9).

Rules:

1. Nothing of a body is read before its signature fits one of the secrets; several of each may be there, in rotation.
2. Comparing takes as long for a wrong signature as for the right one, and decodes nothing that a stranger wrote.
3. The timestamp is that of the *first* attempt, so a retry is as old as the trouble it came through: how old a delivery
   may be is the caller's setting. None comes from the future, except by a clock that is wrong.
4. A type this version does not know is news for a later one, and no error (contract section 11).
5. Whatever else a stranger can send is a ``WebhookError``, whose ``http_status`` is the answer.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import attrs

from soundpiece_async._core import codec
from soundpiece_async._core.errors import DecodeError, SettingsError, WebhookError
from soundpiece_async._core.models import Operation, Status
from soundpiece_async._core.redaction import SecretBytes
from soundpiece_async._core.requests import ROUTES

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[bytes | str, bytes | str]]
"""Header names in any case, as a mapping or (ASGI) as pairs."""

SKEW = 300.0
"""Seconds that clocks may differ: nothing honest was signed later than now."""

_PREFIX = "whsec_"
_VERSION = b"v1,"
_ID: Final = "webhook-id"
_TIMESTAMP: Final = "webhook-timestamp"
_SIGNATURE: Final = "webhook-signature"
_FORMS: Mapping[str, re.Pattern[str]] = {
    _ID: re.compile("[!-~]{1,256}"),
    _TIMESTAMP: re.compile("[0-9]{1,12}"),
    _SIGNATURE: re.compile("[ -~]+"),
}


@attrs.frozen(kw_only=True)
class Delivery:
    """News of one operation, from whoever knows the signing secret. A hint, no proof: its URLs may have expired.

    Attributes:
        id: of the event; the same on every attempt, and on duplicates.
        type: as it came, ``create.new_fx.ready``.
        route: the type up to its last dot.
        status: the rest of it; open, as ``Status`` is.
        operation: its ``request`` is rebuilt from the echo, as far as that goes. None when the type is not one of
            ``<route>.ready`` and ``<route>.failed`` of a route this version knows: to be answered 2xx and ignored.
    """

    id: str
    type: str
    route: str
    status: Status
    operation: Operation[Any] | None


def read_secret(secret: str) -> bytes:
    """Read the key in a signing secret: base64 behind the prefix ``whsec_``, however long it may be.

    Raises:
        SettingsError: it is none; what it is stays out of the message.
    """
    try:
        text = secret.removeprefix(_PREFIX)
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)  # padding is easily lost in a copy
    except (AttributeError, TypeError, ValueError):  # None, bytes, and binascii.Error is a ValueError
        key = b""
    if not key:
        raise SettingsError(f"a webhook secret is {_PREFIX} and base64, as the dashboard shows it once; this is not")
    return SecretBytes(key)


def sign(key: bytes, *, identity: str, timestamp: str, body: bytes) -> bytes:
    """Compute one entry of ``webhook-signature`` over ``<webhook-id>.<webhook-timestamp>.<body>``."""
    content = b".".join((identity.encode(), timestamp.encode(), body))
    return _VERSION + binascii.b2a_base64(hmac.digest(key, content, "sha256"), newline=False)


def read_delivery(headers: Headers, body: bytes, *, keys: Iterable[bytes], now: float, tolerance: float) -> Delivery:
    """Verify a delivery, then read it.

    Args:
        headers: of the request; other headers do no harm.
        body: the bytes as they came, before any parsing.
        keys: those of the active secrets.
        now: seconds since 1970.
        tolerance: seconds that may have passed since the first attempt.

    Raises:
        WebhookError: it is not one of ours.
    """
    signed = _pick_headers(headers)
    identity, timestamp = signed[_ID], signed[_TIMESTAMP]
    offered = [entry for entry in signed[_SIGNATURE].encode().split(b" ") if entry.startswith(_VERSION)]
    expected = [sign(key, identity=identity, timestamp=timestamp, body=body) for key in keys]
    if not any(hmac.compare_digest(one, other) for one in offered for other in expected):
        raise WebhookError(f"webhook {identity}: its signature fits none of the secrets", http_status=401)
    _check_age(identity, now - int(timestamp), tolerance)
    return _read_news(identity, body)


def _pick_headers(headers: Headers) -> Mapping[str, str]:
    """Find the three headers, each there once and of its form."""
    found: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        lowered = _read_text(name).lower()
        if lowered in _FORMS and (lowered in found or not _FORMS[lowered].fullmatch(_read_text(value))):
            raise WebhookError(f"the header {lowered} is there twice, or makes no sense")
        found[lowered] = _read_text(value)
    missing = _FORMS.keys() - found.keys()
    if missing:
        raise WebhookError(f"not a webhook: without {', '.join(sorted(missing))}")
    return found


def _read_text(text: object) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text if isinstance(text, str) else ""


def _check_age(identity: str, age: float, tolerance: float) -> None:
    if age > tolerance:
        raise WebhookError(
            f"webhook {identity}: first sent {age:.0f} s ago, which is over the tolerance, {tolerance} s"
        )
    if -age > min(tolerance, SKEW):
        raise WebhookError(f"webhook {identity}: signed {-age:.0f} s in the future; is the clock right?")


def _read_news(identity: str, body: bytes) -> Delivery:
    """Read a body that is signed, and may be of another shape all the same."""
    try:
        payload = codec.decode_json(body)
    except ValueError as error:
        raise WebhookError(f"webhook {identity}: not JSON") from error
    kind = payload.get("type") if isinstance(payload, dict) else None
    if not isinstance(kind, str):
        raise WebhookError(f"webhook {identity}: without a type")
    route, _, ending = kind.rpartition(".")  # a route has a dot of its own
    status = Status(ending)
    operation = None
    if route in ROUTES and status.final:
        operation = _read_operation(identity, payload.get("data"), route=route, status=status)
    return Delivery(id=identity, type=kind, route=route, status=status, operation=operation)


def _read_operation(identity: str, members: object, *, route: str, status: Status) -> Operation[Any]:
    """Read the bare operation object, which must be as the type says."""
    if not isinstance(members, dict):
        raise WebhookError(f"webhook {identity}: its data is no operation")
    try:
        operation = codec.decode_operation(members, route=route, request=None)
    except DecodeError as error:
        raise WebhookError(f"webhook {identity}: {error}") from error
    if operation.status is not status:
        raise WebhookError(f"webhook {identity}: of type {status}, but operation {operation.handle} is not")
    return operation

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

from soundpiece_async._core import codec, endings, envelopes, members
from soundpiece_async._core.errors import SettingsError, WebhookError
from soundpiece_async._core.models import Operation, Status
from soundpiece_async._core.outputs import Handle
from soundpiece_async._core.reading import Note, Reading, read_operation
from soundpiece_async._core.redaction import SecretBytes, redacted_repr
from soundpiece_async._core.requests import ROUTES

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
    type: str = attrs.field(repr=redacted_repr)
    route: str = attrs.field(repr=redacted_repr)
    status: Status
    operation: Operation[Any] | None


def read_secret(secret: str) -> tuple[bytes, ...]:
    """Return the keys that a signing secret may stand for.

    By the standard it is base64 behind the prefix ``whsec_``; some services use the other alphabet of base64, or the
    text as it is. That one is right which fits the signature.

    Raises:
        SettingsError: it is none; its text stays out of the message.
    """
    text = secret.strip() if isinstance(secret, str) else ""
    bare = text.removeprefix(_PREFIX)
    if not bare or text.startswith("spk_"):  # that is the API key
        raise SettingsError(f"a webhook secret must be text, such as {_PREFIX} and base64, as the dashboard shows it")
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
) -> tuple[Delivery, tuple[Note, ...]]:
    """Verify a delivery, then read it. Returns it with what is odd about its operation.

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
    _check_age(identity, now - _read_timestamp(identity, timestamp), tolerance)
    return _read_news(identity, body)


def _pick_headers(headers: Headers) -> Mapping[str, str]:
    """Find the three headers, each there once and of its form."""
    found: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        lowered = _read_text(name).lower()
        prefix, _, form = lowered.partition("-")
        if prefix not in _NAMES or form not in _FORMS:
            continue
        if lowered in found or not _FORMS[form].fullmatch(_read_text(value)):
            raise WebhookError(f"the header {lowered} is there twice, or makes no sense")
        found[lowered] = _read_text(value)
    for prefix in _NAMES:
        if all(f"{prefix}-{form}" in found for form in _FORMS):
            return {form: found[f"{prefix}-{form}"] for form in _FORMS}
    missing = sorted({f"{_NAMES[0]}-{form}" for form in _FORMS} - found.keys())
    raise WebhookError(f"not a webhook: without {', '.join(missing)}")


def _read_text(text: object) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text if isinstance(text, str) else ""


def _read_timestamp(identity: str, text: str) -> float:
    """Read when a delivery was signed, in seconds since 1970: a number of seconds, or any other time there is."""
    if _NUMBER.fullmatch(text):
        return members.to_epoch(float(text))
    moment, reason = members.read_time(text)
    if moment is None:
        raise WebhookError(f"webhook {identity}: its timestamp makes no sense: {reason}")
    return moment.timestamp()


def _check_age(identity: str, age: float, tolerance: float) -> None:
    if age > tolerance:
        raise WebhookError(
            f"webhook {identity}: first sent {age:.0f} s ago, which is over the tolerance, {tolerance} s"
        )
    if -age > min(tolerance, SKEW):
        raise WebhookError(f"webhook {identity}: signed {-age:.0f} s in the future; is the clock right?")


def _read_news(identity: str, body: bytes) -> tuple[Delivery, tuple[Note, ...]]:
    """Read a body that is signed, and may be of another shape all the same."""
    try:
        payload = codec.decode_answer(body)
    except ValueError as error:
        raise WebhookError(f"webhook {identity}: not JSON") from error
    kind = payload.get("type") if isinstance(payload, dict) else None
    if not isinstance(kind, str):
        raise WebhookError(f"webhook {identity}: without a type")
    route, _, ending = kind.rpartition(".")  # a route has a dot of its own
    status = endings.read_status(ending)
    if route not in ROUTES or not status.final:
        return Delivery(id=identity, type=kind, route=route, status=status, operation=None), ()
    reading = _read_operation(identity, payload.get("data"), route=route)
    operation = _end(reading, status)
    return Delivery(id=identity, type=kind, route=route, status=status, operation=operation), reading.notes


def _read_operation(identity: str, data: object, *, route: str) -> Reading:
    """Read the operation: bare as in the example, or in the envelope that the GET has (contract section 14, rule 8)."""
    found = envelopes.find_operation(data, route=route)
    known = None if found is None else members.read_id(found.get("id"))
    if found is None or known is None:
        raise WebhookError(f"webhook {identity}: its data is no operation")
    return read_operation(found, Handle(route, known), request=None)


def _end(reading: Reading, status: Status) -> Operation[Any]:
    """Return the operation as the type says that it ended; where the rest does not agree, it has to be read again.

    Such a one is ready without outputs, which wakes nobody by itself.
    """
    if reading.ending.status is status and not (reading.over and reading.operation.status is not status):
        return reading.settle()
    return attrs.evolve(reading.operation, status=Status.READY, outputs=(), error=None)

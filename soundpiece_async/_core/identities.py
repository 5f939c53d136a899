"""Which piece of a recorded run a request is.

1. A piece is told apart by the digest of its route and members, and by which occurrence of that digest it is in the
   run: two equal lines are two pieces, an edited line is a new one, an inserted line moves none of the others.
2. The key is no part of the digest. A key that was given, and not made here, is the whole identity by itself.
"""

import hashlib
import json

import attrs

from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.outputs import Output
from soundpiece_async._core.requests import AudioSource, MadeKey, Request
from soundpiece_async._core.tracebacks import forget_arguments

_DIGEST_BYTES = 16


@attrs.frozen(kw_only=True)
class Identity:
    """What a piece is found by (rules 1 and 2).

    Attributes:
        digest: of route and members.
        occurrence: the n-th of that digest in this run, from 1; None: ``key`` was given.
        key: the key that was given; None: it was made, and the journal's own counts.
    """

    digest: bytes
    occurrence: int | None = None
    key: str | None = None


def digest(request: Request) -> bytes:
    """Give what tells the content of a request from any other, whatever its key; the same in every process and version.

    Members at their defaults count as absent, so that a member of a later version changes nothing. JSON values are
    compared: 2 is 2.0. An ``Output`` counts by operation and number, because its URL is signed afresh each time.

    Raises:
        InvalidRequest: a member has no JSON form.
    """
    members = {}
    for member in attrs.fields(type(request)):
        if member.name == "idempotency_key":
            continue
        value = getattr(request, member.name)
        if value is member.default:  # most are, and then need not be written to be compared
            continue
        text = _canonise(request, member.name, value)
        if member.default is attrs.NOTHING or text != _canonise(request, member.name, member.default):
            members[member.name] = text
    whole = json.dumps([request.route, members], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=_DIGEST_BYTES).digest()


def given_key(request: Request) -> str | None:
    """Give the key of a request if it was given to it, and None if it was made (rule 2)."""
    return None if isinstance(request.idempotency_key, MadeKey) else request.idempotency_key


@forget_arguments
def _canonise(request: Request, name: str, value: object) -> str:
    """Write a member as JSON of one form; sources by what they are, whole numbers without a fraction."""
    match value:
        case Output():
            value = {"operation": str(value.handle), "index": value.index}
        case AudioSource():
            value = value.url
        case float() if value.is_integer():
            value = int(value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"{request.route}: {name} has no JSON form: {error}; nothing was sent", field=name
        ) from error

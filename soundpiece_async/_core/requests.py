"""The eight requests, their sources, outputs and handles, and the API's rules for each field.

``violations`` is no stricter than the API: the service may loosen its rules at any time, and
``Settings(validate=False)`` switches it off (docs/api.md#versioning). Where a range is UNKNOWN, only what can never be
right is refused.
"""

import math
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import ClassVar, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import attrs

from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.redaction import forget_arguments, redact_text, redact_url, redact_value, redacted_repr

URL_RENEWAL_MARGIN = timedelta(seconds=60)
"""A URL that is valid for less than this is renewed before it is used or submitted (docs/api.md#downloads)."""

_HANDLE = re.compile(r"(?P<route>[a-z_]+\.[a-z_]+)/(?P<id>[!-~]+)")


@attrs.frozen
class Handle:
    """Route and id of an operation, to find it again later or elsewhere; ``str`` and ``Handle.parse`` round-trip."""

    route: str = attrs.field(repr=redacted_repr)
    id: str = attrs.field(repr=redacted_repr)

    def __str__(self) -> str:
        return f"{self.route}/{self.id}"

    @classmethod
    @forget_arguments
    def parse(cls, text: str) -> "Handle":
        """Parse the text that ``str(handle)`` returns.

        Raises:
            ValueError: the text is not of that form.
        """
        match = _HANDLE.fullmatch(text)
        if match is None:
            shown = redact_text(redact_url(text), limit=100)  # what was passed by mistake may be a signed URL
            raise ValueError(f"invalid handle {shown!r}: expected <route>/<operation id>")
        return cls(match["route"], match["id"])


def _redact_url(url: object) -> str:
    return redact_url(url) if isinstance(url, str) else f"<{type(url).__name__}>"


@attrs.frozen(kw_only=True)
class Output:
    """One audio file of a ready operation.

    Attributes:
        url: signed, and a secret until ``expires_at``; not in the repr.
        expires_at: the time at which ``url`` stops working; the session renews it. None if the service did not name it.
        duration: length in seconds; None if the service did not name it.
        kind: of a stem: ``vocals``, ``drums``, ``bass``, ``other`` (open); a printable line of at most 500 characters.
        handle: the operation it belongs to.
        index: its number in that operation, from 0, fixed when the operation was first seen ready.
    """

    url: str = attrs.field(repr=_redact_url)
    expires_at: datetime | None = None
    duration: float | None = None
    kind: str | None = attrs.field(default=None, repr=redacted_repr)
    handle: Handle
    index: int = 0

    @property
    def path(self) -> str:
        """The path of the URL, which stays the same when the URL is signed again."""
        try:
            return urlsplit(self.url).path
        except ValueError:  # as 'http://[' does: then it stands for itself
            return self.url

    def to_dict(self, *, urls: bool = False) -> JsonObject:
        """Return the output as JSON values; with ``urls`` the signed URL, too, which is a secret while it is valid."""
        members = {
            "index": self.index,
            "kind": self.kind,
            "duration": self.duration,
            "expires_at": self.expires_at and self.expires_at.isoformat(),
        }
        return {**members, "url": self.url} if urls else members


def _show_url(url: object) -> str:
    """Return the repr of a URL without its query; of another object only its type, since it may be a URL, too."""
    if url is None or isinstance(url, AudioSource | Output):
        return repr(url)
    return repr(redact_url(url)) if isinstance(url, str) else f"<{type(url).__name__}>"


def _with_zone(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


@attrs.frozen
class AudioSource:
    """Audio the service fetches itself.

    Args:
        url: best an HTTPS URL that answers 200 directly, needs no cookie or header, and stays valid for several
            minutes. May be signed, so its query is not in the repr.
        expires_at: when the URL stops working, in UTC if it has no zone; None if that is unknown, or never.
        sha256: of the audio, as hex. If given, a journal identifies the source by it, and not by the URL.
        renew: returns this source with a new URL. Awaited before the request is first sent, when the URL expires
            within a minute; again, if the request then waits for so long that the new one expires, too.
    """

    url: str = attrs.field(repr=_show_url)
    expires_at: datetime | None = attrs.field(default=None, kw_only=True, converter=_with_zone)
    sha256: str | None = attrs.field(default=None, kw_only=True)
    renew: "Callable[[], Awaitable[AudioSource]] | None" = attrs.field(default=None, kw_only=True, repr=False, eq=False)


Source: TypeAlias = str | AudioSource | Output
"""What ``source`` and ``reference`` take: a URL, an ``AudioSource``, or an ``Output`` of an earlier operation."""


class GeneratedKey(str):
    """An idempotency key that was generated here: a journal must tell it from one that the caller passed.

    A key that the caller passed identifies the job of a bulk run; a generated one is new in every process.
    """

    __slots__ = ()


def _generate_key() -> GeneratedKey:
    return GeneratedKey(uuid4())


def _to_key(key: object) -> str:
    """Return a key as text, also a ``UUID``; a generated one keeps its type."""
    return key if isinstance(key, GeneratedKey) else str(key)


@attrs.frozen(kw_only=True)
class Request:
    """The fields that all eight share. One object is one operation: submitted twice, it is still paid for once.

    Args:
        idempotency_key: a UUID, generated once per object (docs/api.md#idempotency).
        callback_url: where the service posts a webhook at the end; a public HTTPS address (docs/api.md#webhooks).
    """

    route: ClassVar[str]
    """Path below ``/v1/``, for PUT and GET alike (docs/api.md#routes)."""
    envelope: ClassVar[str]
    """Field of a response that has the operation; any other name works, too."""

    idempotency_key: str = attrs.field(factory=_generate_key, converter=_to_key)
    callback_url: str | None = attrs.field(default=None, repr=_show_url)


def explicit_key(request: Request) -> str | None:
    """Return the key of a request if the caller set it, and None if it was generated."""
    return None if isinstance(request.idempotency_key, GeneratedKey) else request.idempotency_key


@attrs.frozen
class NewSong(Request):
    """A full song from lyrics, in the style of either a prompt or a reference track (docs/api.md#new-song).

    Args:
        lyrics: 1 to 3000 characters; section markers such as ``[Verse]`` stand on lines of their own.
        prompt: 1 to 1024 characters; or
        reference: a track as a model. Exactly one of the two.
    """

    route: ClassVar[str] = "create.new_song"
    envelope: ClassVar[str] = "song"

    lyrics: str
    prompt: str | None = attrs.field(default=None, kw_only=True)
    reference: Source | None = attrs.field(default=None, kw_only=True, repr=_show_url)


@attrs.frozen
class NewInstrumental(Request):
    """A track without vocals, in the style of either a prompt or a reference track (docs/api.md#new-instrumental).

    Args:
        prompt: 1 to 1024 characters; or
        reference: a track as a model. Exactly one of the two.
    """

    route: ClassVar[str] = "create.new_instrumental"
    envelope: ClassVar[str] = "instrumental"

    prompt: str | None = None
    reference: Source | None = attrs.field(default=None, kw_only=True, repr=_show_url)


@attrs.frozen
class NewSample(Request):
    """One short sample of a given length, optionally a loop (docs/api.md#new-sample).

    Args:
        prompt: 1 to 1024 characters.
        duration: seconds, above 0; the range the service accepts is UNKNOWN.
        loopable: make it loop without a seam.
    """

    route: ClassVar[str] = "create.new_sample"
    envelope: ClassVar[str] = "sample"

    prompt: str
    duration: float = attrs.field(kw_only=True)
    loopable: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen
class NewFx(Request):
    """One sound effect of a given length (docs/api.md#new-fx).

    Args:
        prompt: 1 to 1024 characters.
        duration: seconds, above 0; the range the service accepts is UNKNOWN.
    """

    route: ClassVar[str] = "create.new_fx"
    envelope: ClassVar[str] = "fx"

    prompt: str
    duration: float = attrs.field(kw_only=True)


@attrs.frozen
class RemixSong(Request):
    """New variations of a song with vocals, led by new lyrics and a prompt (docs/api.md#remix-song).

    Args:
        source: the track to remix.
        lyrics: 1 to 3000 characters.
        prompt: 1 to 1024 characters.
        n_variations: 1 to 3 outputs.
    """

    route: ClassVar[str] = "create.remix_song"
    envelope: ClassVar[str] = "remix_song"

    source: Source = attrs.field(repr=_show_url)
    lyrics: str = attrs.field(kw_only=True)
    prompt: str = attrs.field(kw_only=True)
    n_variations: int = attrs.field(default=1, kw_only=True)


@attrs.frozen
class RemixInstrumental(Request):
    """New variations of a track without vocals (docs/api.md#remix-instrumental).

    Args:
        source: the track to remix.
        n_variations: 1 to 3 outputs.
    """

    route: ClassVar[str] = "create.remix_instrumental"
    envelope: ClassVar[str] = "remix_instrumental"

    source: Source = attrs.field(repr=_show_url)
    n_variations: int = attrs.field(default=1, kw_only=True)


@attrs.frozen
class SeparateStems(Request):
    """Split a mix into vocals, drums, bass and other, identified by ``Output.kind`` (docs/api.md#separate-stems).

    Args:
        source: the mix to split.
    """

    route: ClassVar[str] = "adapt.separate_stems"
    envelope: ClassVar[str] = "stems"

    source: Source = attrs.field(repr=_show_url)


@attrs.frozen
class AutoCutDown(Request):
    """Cut a track down to a given length at musical cut points (docs/api.md#auto-cut-down).

    Args:
        source: the track to cut.
        target_duration: seconds, above 0; the result may be a little shorter or longer.
    """

    route: ClassVar[str] = "adapt.auto_cut_down"
    envelope: ClassVar[str] = "auto_cut"

    source: Source = attrs.field(repr=_show_url)
    target_duration: float = attrs.field(kw_only=True)


ROUTES: Mapping[str, type[Request]] = {
    kind.route: kind
    for kind in (
        NewSong,
        NewInstrumental,
        NewSample,
        NewFx,
        RemixSong,
        RemixInstrumental,
        SeparateStems,
        AutoCutDown,
    )
}
"""The whole API: each route and the class of its requests.

CONTRIBUTING.md lists what else a new route takes.
"""


def max_outputs(request: Request) -> int | None:
    """Return how many outputs the operation of a request has at most; None: the service does not say beforehand."""
    match request:
        case NewSample() | NewFx() | AutoCutDown():
            return 1
        case RemixSong(n_variations=number) | RemixInstrumental(n_variations=number):
            return number
    return None


SOURCE_FIELDS = ("source", "reference")
"""The fields whose value is audio, with the rule ``_source``; a request has at most one of them."""

MAX_PROMPT_CHARS = 1024
MAX_LYRICS_CHARS = 3000
MAX_CALLBACK_CHARS = 2048
MAX_VARIATIONS = 3


def violations(request: Request) -> Iterator[tuple[str, str]]:
    """Yield each invalid field, and what is wrong with it."""
    kind: type = type(request)  # a plain class, which a cache may hold
    for name, optional, rule in _list_rules(kind):
        value = getattr(request, name)
        if value is None and optional:
            continue
        wrong = rule(value)
        if wrong:
            yield name, wrong
    if isinstance(request, NewSong | NewInstrumental) and (request.prompt is None) == (request.reference is None):
        if request.prompt is None:
            yield "prompt", "is missing: pass either prompt or reference"
        else:
            yield "reference", "cannot be combined with prompt: pass either prompt or reference, not both"


@cache
def _list_rules(kind: type[Request]) -> tuple[tuple[str, bool, Callable[[object], str]], ...]:
    return tuple(
        (member.name, member.default is None, RULES.get(member.name, _foreign)) for member in attrs.fields(kind)
    )


def _foreign(_: object) -> str:
    """Reject a field that a subclass has added."""
    return "is not a field of the API; Settings(validate=False) sends it anyway"


def _text(longest: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str):
            return f"must be text, not {type(value).__name__}"
        if not 1 <= len(value) <= longest:
            return f"has {len(value)} characters, and must have 1 to {longest}"
        return ""

    return check


def seconds_fault(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"must be a number of seconds, not {type(value).__name__}"
    if not 0 < value < math.inf:  # false for NaN too
        return f"must be a number of seconds above 0, not {redact_value(value)}"
    return ""


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else f"must be True or False, not {redact_value(value)}"


def _variations(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VARIATIONS:
        return f"must be a whole number from 1 to {MAX_VARIATIONS}, not {redact_value(value)}"
    return ""


def _source(value: object) -> str:
    url = value.url if isinstance(value, AudioSource | Output) else value
    if not isinstance(url, str):
        return f"must be a URL, an AudioSource or an Output, not {type(value).__name__}"
    return "" if _reaches(url, ("https", "http")) else "must be an http(s) URL with a host"


def _callback(value: object) -> str:
    if not isinstance(value, str):
        return f"must be a URL, not {type(value).__name__}"
    if len(value) > MAX_CALLBACK_CHARS:
        return f"has {len(value)} characters, and may have at most {MAX_CALLBACK_CHARS}"
    return "" if _reaches(value, ("https",)) else "must be an https URL with a host"


def _key(value: object) -> str:
    if type(value) is GeneratedKey:
        return ""
    try:
        UUID(str(value))
    except ValueError:
        return f"must be a UUID, not {redact_value(value)}"
    return ""


def _reaches(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # as 'http://[' does
        return False
    return parts.scheme in schemes and bool(parts.hostname)


RULES: dict[str, Callable[[object], str]] = {
    "idempotency_key": _key,
    "callback_url": _callback,
    "prompt": _text(MAX_PROMPT_CHARS),
    "lyrics": _text(MAX_LYRICS_CHARS),
    **dict.fromkeys(SOURCE_FIELDS, _source),
    "duration": seconds_fault,
    "target_duration": seconds_fault,
    "loopable": _flag,
    "n_variations": _variations,
}
"""One rule per field name: a name means the same on every route. A rule returns '' or what is wrong."""

"""The eight requests: what each route takes, as data. The members' rules stand in ``validation.py``."""

from collections.abc import Mapping
from typing import ClassVar, TypeAlias
from uuid import uuid4

import attrs

from soundpiece_async._core.outputs import Output
from soundpiece_async._core.redaction import redact_url


def _show_url(url: object) -> str:
    """Show a URL without what may sign it, and nothing of a foreign object: that may be a URL of another library."""
    if url is None or isinstance(url, AudioSource | Output):
        return repr(url)
    return repr(redact_url(url)) if isinstance(url, str) else f"<{type(url).__name__}>"


@attrs.frozen
class AudioSource:
    """Audio the service fetches itself.

    Args:
        url: best an HTTPS URL that answers 200 directly, needs no cookie or header, and stays valid for several
            minutes. May be signed, so its query is not in the repr.
    """

    url: str = attrs.field(repr=_show_url)


Source: TypeAlias = str | AudioSource | Output
"""What ``source`` and ``reference`` take: a URL, an ``AudioSource``, or an ``Output`` of an earlier operation."""


class MadeKey(str):
    """An idempotency key that was made here: text like any other, but a journal can tell it from one that was given.

    A given key is what a piece of a bulk run is known by; a made one is new in every process.
    """

    __slots__ = ()


def _make_key() -> MadeKey:
    return MadeKey(uuid4())


def _keep_key(key: object) -> str:
    """Make text of a key, a ``UUID`` too; ``str`` would make plain text of a made one."""
    return key if isinstance(key, MadeKey) else str(key)


@attrs.frozen(kw_only=True)
class Request:
    """What all eight share. One object is one piece of work: submitted twice, it is still made (and paid for) once.

    Args:
        idempotency_key: a UUID, made once per object (docs/api.md#idempotency).
        callback_url: where the service posts the news when it is done; a public HTTPS address (docs/api.md#webhooks).
    """

    route: ClassVar[str]
    """Path below ``/v1/``, for PUT and GET alike (docs/api.md#routes)."""
    envelope: ClassVar[str]
    """Member of an answer that holds the operation; where the contract only infers it, any other name works too."""

    idempotency_key: str = attrs.field(factory=_make_key, converter=_keep_key)
    callback_url: str | None = attrs.field(default=None, repr=_show_url)


@attrs.frozen
class NewSong(Request):
    """A full song from lyrics, in the style of either a prompt or a reference track (docs/api.md#new-song).

    Args:
        lyrics: 1 to 3000 characters; section markers such as ``[Verse]`` stand on lines of their own.
        prompt: 1 to 1024 characters; or
        reference: a track to take as a model. Exactly one of the two.
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
        reference: a track to take as a model. Exactly one of the two.
    """

    route: ClassVar[str] = "create.new_instrumental"
    envelope: ClassVar[str] = "instrumental"

    prompt: str | None = None
    reference: Source | None = attrs.field(default=None, kw_only=True, repr=_show_url)


@attrs.frozen
class NewSample(Request):
    """One short sample of a wanted length, optionally a loop (docs/api.md#new-sample).

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
    """One sound effect of a wanted length (docs/api.md#new-fx).

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
    """Split a mix into vocals, drums, bass and other, told apart by ``Output.kind`` (docs/api.md#separate-stems).

    Args:
        source: the mix to split.
    """

    route: ClassVar[str] = "adapt.separate_stems"
    envelope: ClassVar[str] = "stems"

    source: Source = attrs.field(repr=_show_url)


@attrs.frozen
class AutoCutDown(Request):
    """Cut a track down to a wanted length at musical cut points (docs/api.md#auto-cut-down).

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
"""The whole API: each route and the class of its requests."""

__all__ = [
    "ROUTES",
    "AudioSource",
    "AutoCutDown",
    "MadeKey",
    "NewFx",
    "NewInstrumental",
    "NewSample",
    "NewSong",
    "RemixInstrumental",
    "RemixSong",
    "Request",
    "SeparateStems",
    "Source",
]

"""Arguments that several commands take: parsed, and destinations checked, before anything is sent."""

import math
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from cyclopts import Parameter, Token

from soundpiece_async import AutoCutDown, NewFx, NewSample, Request, SeparateStems
from soundpiece_async._core.filenames import safe_stem
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.settings import Verify
from soundpiece_async._download import destinations
from soundpiece_async._download.destinations import Destinations, check_destination
from soundpiece_async.cli.console import UsageError


def check_positive(_: object, value: float | None) -> None:
    """Refuse what is no number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise ValueError("It must be a number above 0.")


def read_lyrics_argument(_: object, tokens: Sequence[Token]) -> str:
    """Read lyrics from the command line, or from the file that ``@`` points to."""
    return read_lyrics(tokens[0].value)


def read_lyrics(text: str) -> str:
    """Return lyrics that were typed, or those of the file that ``@`` points to.

    Raises:
        UsageError: it cannot be read.
    """
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeError, RuntimeError) as error:  # the last one: there is no such user
        raise UsageError(f"--lyrics {text}: {error}") from error


def parse_folder(_: object, tokens: Sequence[Token]) -> Path:
    """Read the name, or the ``file:`` URL, of a folder; an empty one, as of a variable that is not set, means none."""
    place = _parse_destination(tokens)
    if isinstance(place, Path):
        return place
    raise ValueError(
        f"{redact_url(place)} is a bucket, and this command needs a folder of this machine. Into a bucket save "
        "soundpiece run --save-to, and run_many(save_to=...) with a journal in a folder."
    )


def parse_destination(_: object, tokens: Sequence[Token]) -> str | Path:
    """Read where files are to go: a folder, or the URL of one in an object store."""
    return _parse_destination(tokens)


def _parse_destination(tokens: Sequence[Token]) -> str | Path:
    if not tokens[0].value:
        raise ValueError('The name of the folder is empty; the folder you are in is ".".')
    return destinations.parse_text(tokens[0].value, field="folder")


FOLDER = Parameter(converter=parse_folder)
DESTINATION = Parameter(converter=parse_destination)
POSITIVE = Parameter(validator=check_positive)
LYRICS = Parameter(converter=read_lyrics_argument)

_SINGLE_OUTPUT = (NewFx, NewSample, AutoCutDown)
_KINDS = ("vocals", "drums", "bass", "other")


async def ensure_writable(to: str | Path, *, verify: Verify = "header") -> None:
    """Find out whether files can be put into a folder, which is made, or into a store.

    Raises:
        SoundpieceError: they cannot; the message says what to do.
    """
    check_destination(to, verify=verify)
    await Destinations(anyio.CapacityLimiter(1)).check(to)


async def require_unused_name(to: str | Path, name: str, request: Request) -> None:
    """Refuse a name that files there have already, as far as it can be foreseen how the new ones are called.

    Raises:
        UsageError: one of them has.
        SettingsError: a store cannot be asked.
    """
    place = await Destinations(anyio.CapacityLimiter(1)).open(to)
    for title in _likely_names(safe_stem(name), request):
        if isinstance(place, Path):
            taken = await anyio.Path(place, title).exists()
        else:
            taken = await place.has(title)
        if taken:
            raise UsageError(
                f"{to}: {title} is there already, and nothing was sent; choose another --name, or replace it with "
                "--overwrite"
            )


def _likely_names(stem: str, request: Request) -> list[str]:
    """Return the names the first files of an operation may have; the service decides how many there are."""
    if isinstance(request, _SINGLE_OUTPUT):
        endings: tuple[str, ...] = ("",)
    elif isinstance(request, SeparateStems):
        endings = tuple(f"-{kind}" for kind in _KINDS)
    else:
        endings = ("", "-1")
    return [f"{stem}{ending}.flac" for ending in endings]

"""Arguments of several commands: their parsers, and checks of destinations before anything is sent."""

import math
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from cyclopts import Parameter, Token

from soundpiece_async import Request, SeparateStems
from soundpiece_async._core.filenames import safe_stem
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.requests import max_outputs
from soundpiece_async._core.settings import Verify
from soundpiece_async._download import destinations
from soundpiece_async._download.destinations import Destinations, check_destination
from soundpiece_async.cli.console import UsageError


def check_positive(_: object, value: float | None) -> None:
    """Raise ValueError unless a value is a number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise ValueError("It must be a number above 0.")


def read_lyrics_argument(_: object, tokens: Sequence[Token]) -> str:
    """Parse the value of ``--lyrics``."""
    return read_lyrics(tokens[0].value)


def read_lyrics(text: str) -> str:
    """Return a text, or with ``@FILE`` the content of a file.

    Raises:
        UsageError: the file cannot be read.
    """
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: unknown user in ~user
        raise UsageError(f"--lyrics {text}: {error}") from error


def parse_folder(_: object, tokens: Sequence[Token]) -> Path:
    """Parse the path or ``file:`` URL of a folder; an empty one, as of an unset variable, is an error."""
    place = _parse_destination(tokens)
    if isinstance(place, Path):
        return place
    raise ValueError(f"{redact_url(place)} is not a local folder.")


def parse_destination(_: object, tokens: Sequence[Token]) -> str | Path:
    """Parse a destination: a folder, or a URL in an object store."""
    return _parse_destination(tokens)


def _parse_destination(tokens: Sequence[Token]) -> str | Path:
    if not tokens[0].value:
        raise ValueError('The name of the folder is empty; use "." for the current folder.')
    return destinations.parse_text(tokens[0].value, field="folder")


def parse_part(text: str) -> tuple[int, int]:
    """Parse a part of a run, as ``3/16``; ValueError if there is no such part."""
    number, slash, parts = text.partition("/")
    if slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts):
        return int(number), int(parts)
    raise ValueError("It must be K/N, with K from 1 to N, such as 3/16.")


def check_part(_: object, text: str) -> None:
    """Raise ValueError unless a text is a part of a run."""
    parse_part(text)


WHOLE = (1, 1)
"""The part that is all of a run."""
PART = Parameter(validator=check_part, show_default=False)
FOLDER = Parameter(converter=parse_folder)
DESTINATION = Parameter(converter=parse_destination)
POSITIVE = Parameter(validator=check_positive)
LYRICS = Parameter(converter=read_lyrics_argument)

_KINDS = ("vocals", "drums", "bass", "other")


async def ensure_writable(to: str | Path, *, verify: Verify = "header") -> None:
    """Check that a destination is writable; a folder is created.

    Raises:
        SoundpieceError: it is not; the message says what to do.
    """
    check_destination(to, verify=verify)
    await Destinations(anyio.CapacityLimiter(1)).check(to)


async def require_unused_name(to: str | Path, name: str, request: Request) -> None:
    """Check that no file with a likely name of the new ones exists yet.

    Raises:
        UsageError: one exists.
        SettingsError: the store cannot be read.
    """
    place = await Destinations(anyio.CapacityLimiter(1)).open(to)
    for title in _likely_names(safe_stem(name), request):
        if isinstance(place, Path):
            taken = await anyio.Path(place, title).exists()
        else:
            taken = await place.has(title)
        if taken:
            raise UsageError(
                f"{to}: {title} already exists, and nothing was sent; choose another --name, or replace it with "
                "--overwrite"
            )


def _likely_names(stem: str, request: Request) -> list[str]:
    """Return likely names of the first files of a request; the service decides on their number."""
    if max_outputs(request) == 1:
        endings: tuple[str, ...] = ("",)
    elif isinstance(request, SeparateStems):
        endings = tuple(f"-{kind}" for kind in _KINDS)
    else:
        endings = ("", "-1")
    return [f"{stem}{ending}.flac" for ending in endings]

"""What the values of flags must be: anything else is wrong usage, before anything is done."""

import math
from collections.abc import Sequence
from pathlib import Path

from cyclopts import Parameter, Token

from soundpiece_async._core.redaction import redact_url
from soundpiece_async._download import places
from soundpiece_async.cli.endings import UsageError


def check_positive(_: object, value: float | None) -> None:
    """Refuse what is no number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise ValueError("It must be a number above 0.")


def read_text(_: object, tokens: Sequence[Token]) -> str:
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


def read_folder(_: object, tokens: Sequence[Token]) -> Path:
    """Read the name, or the ``file:`` URL, of a folder; an empty one, as of a variable that is not set, means none."""
    place = _read_place(tokens)
    if isinstance(place, Path):
        return place
    raise ValueError(
        f"{redact_url(place)} is a bucket, and this command needs a folder of this machine. Into a bucket save "
        "soundpiece run --save-to, and run_many(save_to=...) with a journal in a folder."
    )


def read_destination(_: object, tokens: Sequence[Token]) -> str | Path:
    """Read where files are to go: a folder, or the URL of one in an object store."""
    return _read_place(tokens)


def _read_place(tokens: Sequence[Token]) -> str | Path:
    if not tokens[0].value:
        raise ValueError('The name of the folder is empty; the folder you are in is ".".')
    return places.read_text(tokens[0].value, field="folder")


FOLDER = Parameter(converter=read_folder)
DESTINATION = Parameter(converter=read_destination)
POSITIVE = Parameter(validator=check_positive)
TEXT = Parameter(converter=read_text)

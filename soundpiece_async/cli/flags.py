"""What the values of flags must be: anything else is wrong usage, before anything is done."""

import math
from collections.abc import Sequence
from pathlib import Path

from cyclopts import Parameter, Token

from soundpiece_async.cli.endings import UsageError


def check_positive(_: object, value: float | None) -> None:
    """Refuse what is no number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise ValueError("It must be a number above 0.")


def read_text(_: object, tokens: Sequence[Token]) -> str:
    """Take a text from the command line, or from the file that ``@`` points to."""
    text = tokens[0].value
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--lyrics {text}: {error}") from error


def read_folder(_: object, tokens: Sequence[Token]) -> Path:
    """Take a folder from the command line; an empty name, as of a variable that is not set, means none."""
    if not tokens[0].value:
        raise ValueError('The name of the folder is empty; the folder you are in is ".".')
    return Path(tokens[0].value)


FOLDER = Parameter(converter=read_folder)
POSITIVE = Parameter(validator=check_positive)
TEXT = Parameter(converter=read_text)

"""Foreign text in messages, reprs, logs and reports: no secrets, one printable line, clipped; and no secret in a frame.

A text of the service, of a host, of the file system or of the user's metadata may hold a signed URL, a password or a
key, escape codes, or a megabyte. Every place that repeats one asks here; the whole of it stays where it came from, as
``OperationError.message`` and ``Operation.raw``. Each function takes time in proportion to its text, whatever that is.

Error reporters send every local of every frame they find, so errors leave the frames that handled a secret behind.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, Self, TypeVar

MAX_QUOTE_CHARS: Final = 500
"""Characters of a foreign text that a message repeats."""

MAX_MESSAGE_CHARS: Final = 2000
"""Characters of a whole message; of a longer one the middle goes, because the end says what to do."""

_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*|\x1b.?")
"""Codes that colour, move a cursor, or name a window or a link."""
_WORD = re.compile(r"[^\s<>\"'`]+")
_SLASHES = re.compile(r"(\\?/\\?/)")
_AUTHORITY_END = re.compile(r"[/?#\\]|$")
_PORT = re.compile(r"[^:]*|.*:[0-9]*|\[[^\]]*\](?::[0-9]*)?")
_QUERY = re.compile(r"[?#]")
_SIGNING = re.compile(
    r"(?:[?&;#]|%3f|%26)[a-z_-]{0,30}(?:sign(?:ature)?|sig|token|credentials?|secret|passw(?:or)?d|policy|expires?|auth"
    r"|hmac|jwt|key(?:[_-]?id)?|key-pair-id)(?:=|%3d)",
    re.IGNORECASE,
)
"""A parameter of a query that signs a URL, or opens something."""
_KEY = re.compile(r"(spk|whsec)_[^\s<>\"'`]+")


class Secret(str):
    """Text whose repr, and so that of whatever contains it, shows only a mask: error reporters keep reprs of locals.

    It is sent, compared and hashed as the text it is; ``str(secret)`` is that text.
    """

    __slots__ = ("_mask",)

    _mask: str

    def __new__(cls, text: str, mask: str = "…") -> Self:
        """Build one, with what is shown instead."""
        secret = super().__new__(cls, text)
        secret._mask = mask
        return secret

    def __repr__(self) -> str:
        return repr(self._mask)

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (str(self), self._mask)


class SecretBytes(bytes):
    """Bytes whose repr shows none of them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'…'"


def redact_text(text: str | bytes, *, limit: int = MAX_QUOTE_CHARS) -> str:
    """Return the beginning of a foreign text as one printable line without secrets, for a message.

    Eight times ``limit`` characters are looked at: enough, whatever is taken out of them.
    """
    start, cut = text[: 8 * limit], len(text) > 8 * limit
    start = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    line = hide_secrets(_print(start), cut=cut)
    return _clip(line, limit, more=cut) or "(no text)"


def redact_message(text: str) -> str:
    """Return a whole message, with whatever it repeats, as one printable line without secrets."""
    line = redact_text(text, limit=8 * MAX_MESSAGE_CHARS) if text else ""
    if len(line) <= MAX_MESSAGE_CHARS:
        return line
    return f"{line[: MAX_MESSAGE_CHARS - 500]}…{line[-500:]}"


def redact_url(url: str) -> str:
    """Return a URL without user, query and fragment, for a message: what signs it is a secret while it is valid."""
    start, cut = url[: 8 * MAX_QUOTE_CHARS], len(url) > 8 * MAX_QUOTE_CHARS
    if not start.isprintable() or " " in start:
        start = "".join(map(_print, re.split("([?#])", start, maxsplit=1)))  # a mark may be part of an escape sequence
    return _clip(_KEY.sub(r"\1_…", _redact(start, cut=cut, query=_QUERY)), MAX_QUOTE_CHARS, more=cut)


def redact_value(value: object) -> str:
    """Return the beginning of what a caller passed by mistake, for a message: whatever its ``repr`` does."""
    try:
        return redact_text(repr(value))
    except Exception:  # noqa: BLE001 - it is foreign code; and a huge number has no text
        return f"<{type(value).__name__}>"


def redacted_repr(value: object) -> str:
    """Return the repr of an attribute that came from the service."""
    return repr(redact_text(value) if value and isinstance(value, str) else value)


def signed_url(url: str) -> Secret:
    """Return the same URL with a repr that does not sign it."""
    return Secret(url, redact_url(url))


def hide_secrets(text: str, *, cut: bool = False) -> str:
    """Return a text, however long, without queries of URLs, users and passwords in them, and keys of Soundpiece.

    Args:
        text: lines and blanks in it stay as they are.
        cut: it may end in the middle of a URL.
    """
    if not any(sign in text for sign in ("//", "/\\/", "=", "%3", "spk_", "whsec_")):
        return text
    end = len(text) if cut else -1
    hidden = _WORD.sub(lambda word: _redact(word[0], cut=word.end() == end), text)
    return _KEY.sub(r"\1_…", hidden)


def _redact(word: str, *, cut: bool, query: re.Pattern[str] | None = None) -> str:
    """Redact what may be a URL, or several that are joined."""
    first, *rest = _SLASHES.split(word)
    if rest:
        parts = [_hide_user(part, cut=cut and number == len(rest) - 1) for number, part in enumerate(rest)]
        word, query = "".join([first, *parts]), _QUERY
    found = (query.search(word) if query else None) or _SIGNING.search(word)
    if found is None:
        return word
    sign = found[0][0]
    more = found.end() < len(word) or found.end() > found.start() + 1
    return word[: found.start()] + ("" if sign == "#" or not more else "…" if sign == "%" else f"{sign}…")


def _hide_user(part: str, *, cut: bool) -> str:
    """Remove user and password after ``//``; a password may contain any character that belongs elsewhere."""
    if not cut and "@" not in part:
        return part
    end = _AUTHORITY_END.search(part)
    authority = part[: end.start()] if end else part
    odd = not _PORT.fullmatch(authority)  # a colon before what is no port: a password begins
    if "@" not in authority and not (odd and "@" in part):
        return "…" if odd or authority == part else part
    query = _QUERY.search(part)
    address = part[: query.start()] if query else part
    last = address.rfind("@") if "@" in address else part.rfind("@")
    return part[last + 1 :]


def _print(text: str) -> str:
    """Return a text on one line, without codes and characters that upset a terminal or turn the reading direction."""
    if not text.isprintable():
        text = "".join(map(_print_one, _ESCAPES.sub("", text)))
    return " ".join(text.split())


def _print_one(character: str) -> str:
    if character.isprintable():
        return character
    if "\ud800" <= character <= "\udfff":  # a byte of a path that is not text
        return "\ufffd"
    return " " if character.isspace() else ""


def _clip(line: str, limit: int, *, more: bool) -> str:
    if len(line) > limit:
        return line[:limit] + "…"
    return f"{line}…" if more else line


P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=BaseException)
C = TypeVar("C", bound=type)


def forget_frames(error: E) -> E:
    """Return an error, with its causes and contexts, as if none of them had been raised yet."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            if isinstance(one.__cause__ or one.__context__, UnicodeError):  # its repr is the whole text
                one.__cause__ = one.__context__ = None
            pending += [one.__cause__, one.__context__]
    return error


def forget_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Make what a function raises seem to come from its call: no frame holds its arguments, or what became of them."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised
            failure = forget_frames(error)
        del args, kwargs
        raise failure

    return call


def forget_members(kind: C) -> C:
    """Do the same for the constructor of a class."""
    kind.__init__ = forget_arguments(kind.__init__)  # type: ignore[misc]  # of the class itself, before it is used
    return kind

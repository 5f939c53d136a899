"""Foreign text in messages, reprs and logs: without what signs a URL, on one printable line, clipped."""

import re
from urllib.parse import urlsplit, urlunsplit

MAX_QUOTE_CHARS = 200
"""Characters of a foreign text that a message repeats; the whole of it is on the exception."""

_SIGNED = re.compile(r"(https?:[^\s\"'<>?]*)\?[^\s\"'<>]*", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return a URL without user, query and fragment: what signs it is a secret while valid (contract section 6)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that cannot be read)"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def redact_text(text: str | bytes) -> str:
    """Return the beginning of a foreign text on one line, without what signs the URLs in it or upsets a terminal."""
    start = text[: 4 * MAX_QUOTE_CHARS]  # enough, whatever is taken out below
    start = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    printable = "".join(character if character.isprintable() else " " for character in start)
    plain = _SIGNED.sub(r"\1?…", " ".join(printable.split()))
    return (plain if len(plain) <= MAX_QUOTE_CHARS else plain[:MAX_QUOTE_CHARS] + "…") or "(no text)"

"""Links in an answer: which of them lead to audio.

Rules:

1. A link is a text that is a URL, or begins as a relative one: ``https://host/a``, ``//host/a``, ``/a``. One to a
   picture, a page or a document, by the end of its path, does not lead to audio.
2. The words of a member's name say what its link is for (``audioUrl`` is *audio* and *url*). ``url`` is the documented
   name. Another leads to audio if all of its words are words for a link or for a file (``href``, ``download_url``,
   ``audio``), or if its path ends in ``.flac``; a word for anything else makes it another link (``page_url``).
3. Where a member may have any name, such as the kind of a stem, it is another link if its name has a word of
   ``BESIDE``, or says that it is a link and not to a file.
"""

import re
from collections.abc import Mapping
from typing import Any

BESIDE = frozenset(
    ["callback", "cover", "image", "next", "preview", "prev", "self", "status", "thumbnail", "waveform", "webhook"]
)
"""Words for what stands beside audio."""

_LINK = re.compile(r"(?:https?:)?//\S|/\S", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_FOR_A_LINK = frozenset({"href", "link", "location", "src", "uri", "url"})
_FOR_A_FILE = frozenset(
    {
        "artifact",
        "asset",
        "attachment",
        "audio",
        "clip",
        "content",
        "data",
        "download",
        "file",
        "flac",
        "item",
        "media",
        "output",
    }
    | {"music", "presigned", "render", "result", "signed", "song", "sound", "stem", "track", "variation"}
)
_NO_AUDIO = re.compile(r"\.(gif|html?|jpe?g|json|pdf|png|svg|txt|webp|xml)", re.IGNORECASE)


def is_audio(text: str) -> bool:
    """Return whether a text is a link that may lead to audio (rule 1)."""
    return _LINK.match(text.strip()) is not None and _NO_AUDIO.fullmatch(_read_extension(text)) is None


def is_for_a_file(name: str) -> bool:
    """Return whether a member of this name holds audio, or links to it (rule 2)."""
    words = _list_words(name)
    return words <= _FOR_A_LINK | _FOR_A_FILE and bool(words & _FOR_A_FILE)


def is_beside(name: str) -> bool:
    """Return whether a member of this name holds something else than audio (rule 3)."""
    words = _list_words(name)
    return bool(words & BESIDE) or bool(words & _FOR_A_LINK and not words <= _FOR_A_LINK | _FOR_A_FILE)


def find_audio(value: Mapping[str, Any]) -> str | None:
    """Return the link to audio in an object, or None (rule 2)."""
    url = value.get("url")
    if isinstance(url, str) and url.strip():
        return url if _NO_AUDIO.fullmatch(_read_extension(url)) is None else None
    ranked: list[tuple[bool, bool, str]] = []
    for name, text in value.items():
        if isinstance(text, str) and is_audio(text):
            words, flac = _list_words(name), _read_extension(text).lower() == ".flac"
            if flac or (words and words <= _FOR_A_LINK | _FOR_A_FILE):
                ranked.append((flac, bool(words & _FOR_A_FILE), text))
    return max(ranked, key=lambda one: one[:2])[2] if ranked else None


def _list_words(name: str) -> frozenset[str]:
    """Return the words of a member's name, each in the singular."""
    words = (word.lower() for word in _WORD.findall(name))
    return frozenset(word if word in BESIDE else word.removesuffix("s") for word in words)


def _read_extension(link: str) -> str:
    """Return the end of a link's path, with its dot; empty where it has none."""
    last = re.split("[?#]", link.strip(), maxsplit=1)[0].rpartition("/")[2]
    return last[last.rfind(".") :] if "." in last else ""

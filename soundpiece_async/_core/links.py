"""Links in an answer: which of them lead to audio.

Rules:

1. A link is a text that is a URL, or begins as a relative one: ``https://host/a``, ``//host/a``, ``/a``. One to a
   picture, a page or a document, by the end of its path, does not lead to audio.
2. The words of a member's name say what its link is for (``audioUrl`` is *audio* and *url*). ``url`` is the documented
   name. Another leads to audio if all of its words are words for a link or for a file (``href``, ``download_url``,
   ``audio``), or if its path ends in ``.flac``; a word for anything else makes it another link (``page_url``).
3. Where a member may have any name, such as the kind of a stem, it is another link if its name has a word of
   ``BESIDE``, or says that it is a link and not to a file. Several FLAC files of such names are outputs by kind.
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


def is_kind(name: str) -> bool:
    """Return whether a member's name says more than that it holds links or files, as the kind of a stem."""
    words = _list_words(name)
    return not words or not words <= _FOR_A_LINK | _FOR_A_FILE


def is_flac(link: str) -> bool:
    """Return whether the path of a link ends as that of a FLAC file."""
    return _read_extension(link).lower() == ".flac"


def find_audio(value: Mapping[str, Any]) -> str | None:
    """Return the link to audio in an object, or None (rule 2), also where there are several by kind (rule 3)."""
    url = value.get("url")
    if isinstance(url, str) and url.strip():
        return url if _NO_AUDIO.fullmatch(_read_extension(url)) is None else None
    found = {name: text for name, text in value.items() if isinstance(text, str) and is_audio(text)}
    kinds = {name for name, text in found.items() if is_flac(text) and is_kind(name) and not is_beside(name)}
    if len(kinds) > 1:
        return None
    names = [name for name in found if name in kinds or not is_kind(name)]
    best = max(names, key=lambda name: (is_flac(found[name]), is_for_a_file(name)), default=None)
    return None if best is None else found[best]


def _list_words(name: str) -> frozenset[str]:
    """Return the words of a member's name, each in the singular."""
    words = (word.lower() for word in _WORD.findall(name))
    return frozenset(word if word in BESIDE else word.removesuffix("s") for word in words)


def _read_extension(link: str) -> str:
    """Return the end of a link's path, with its dot; empty where it has none."""
    last = re.split("[?#]", link.strip(), maxsplit=1)[0].rpartition("/")[2]
    return last[last.rfind(".") :] if "." in last else ""

from typing import Any

import pytest

from soundpiece_async._core import fields

AUDIO = "https://h/a"


@pytest.mark.parametrize(
    ("text", "audio"),
    [
        ("https://h/a", True),
        ("HTTP://h/a.FLAC?x=y.png", True),
        ("//h/a", True),
        (" /files/a.flac", True),
        ("https://h.png/a", True),
        ("/", False),
        ("a.flac", False),
        ("ftp://h/a", False),
        ("https://h/cover.JPG?sig=1", False),
        ("/docs/a.html#top", False),
    ],
)
def test_what_may_be_audio(text: str, *, audio: bool) -> None:
    """A URL, whole or relative, unless its path ends as that of a picture, a page or a document."""
    assert fields.is_audio(text) is audio


@pytest.mark.parametrize(
    "value",
    [
        {"url": AUDIO, "download_url": "https://h/b"},
        {"href": AUDIO},
        {"uri": AUDIO},
        {"link": AUDIO, "thumbnail": "https://h/b", "self": "https://h/c"},
        {"downloadUrl": AUDIO, "href": "https://h/b"},
        {"AudioURL": AUDIO, "page_url": "https://h/b", "callback_url": "https://h/c"},
        {"url": None, "src": AUDIO},
        {"url": " ", "signedUrls": AUDIO},
        {"file": AUDIO},
        {"download_url": AUDIO, "image": "https://h/b.png"},
    ],
    ids=str,
)
def test_the_link_of_an_output(value: dict[str, Any]) -> None:
    """``url``, or else the one whose name has words for a link and for a file only; a word for a file counts more."""
    assert fields.find_audio(value) == AUDIO


def test_a_flac_file_has_any_name() -> None:
    """The end of its path says what it is."""
    assert fields.find_audio({"download_url": AUDIO, "lossless": "https://h/b.flac"}) == "https://h/b.flac"


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"url": 5}, {"url": "https://h/cover.png"}, {"page_url": AUDIO}, {"status": AUDIO}, {"mp3_url": AUDIO}),
        *({"": AUDIO}, {"href": "somewhere"}, {"self": AUDIO}),
        *({"preview": "/p.flac"}, {"vocals": "/a.flac", "drums": "/b.flac"}),
    ],
    ids=str,
)
def test_no_link_to_audio(value: dict[str, Any]) -> None:
    """A word for anything else makes it another link."""
    assert fields.find_audio(value) is None


def test_names() -> None:
    """Words are separated by case and punctuation, and compared in the singular."""
    assert all(fields.is_for_a_file(name) for name in ("results", "files", "audio_url", "dataURL", "trackHref"))
    assert not any(fields.is_for_a_file(name) for name in ("url", "links", "", "id", "file_size", "ö"))
    assert all(fields.is_beside(name) for name in ("self", "status", "thumbnails", "coverUrl", "page_url"))
    assert not any(fields.is_beside(name) for name in ("vocals", "url", "file", "no vocals"))

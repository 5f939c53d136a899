from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import attrs
import pytest
from helpers.contract import SIGNED
from rich.console import Console

from soundpiece_async._core.operations import Operation, OperationError, Status
from soundpiece_async._core.requests import AutoCutDown, Handle, NewFx, NewSong, Output, RemixInstrumental, Request
from soundpiece_async._core.results import SavedFile, Succeeded

CLEAN = "https://cdn.example/a/b.flac?…"
HANDLE = Handle("create.new_song", "op_1")
OUTPUTS = (
    Output(url=SIGNED, handle=HANDLE, duration=12.5),
    Output(url=SIGNED, handle=HANDLE, kind="<vocals>", index=1),
)
SONG = NewSong("[Verse]\nRain & <b>thunder</b>", reference=SIGNED, callback_url=SIGNED)
OPERATION = Operation(
    route=HANDLE.route,
    id=HANDLE.id,
    status=Status.READY,
    created_at=datetime(2026, 11, 22, 10, tzinfo=UTC),
    request=SONG,
    outputs=OUTPUTS,
    raw={"outputs": [{"url": SIGNED}]},
)
FILE = SavedFile(
    path=Path("out/a.flac"),
    bytes=2_345_678,
    sha256="0",
    duration=12.5,
    sample_rate=48000,
    channels=2,
    output=OUTPUTS[0],
)
SUCCEEDED = Succeeded(request=SONG, operation=OPERATION, files=(FILE, attrs.evolve(FILE, channels=1, bytes=4321)))


def read_rows(html: str) -> list[tuple[str, str]]:
    """Read a table as a browser would; it must be well formed."""
    rows = ET.fromstring(html.replace("<br>", "\n").replace("controls ", "")).iter("tr")  # noqa: S314 - ours
    return [(name.text or "", "".join(cell.itertext())) for name, cell in rows]


def read_sources(html: str) -> list[str]:
    """Read what the players of a table play."""
    table = ET.fromstring(html.replace("<br>", "\n").replace("controls ", ""))  # noqa: S314 - ours
    return [player.attrib["src"] for player in table.iter("audio")]


def show(value: Any) -> str:
    """Return what a terminal shows of a value."""
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        console.print(value)
    return captured.get()


def test_an_operation_is_a_table() -> None:
    """The request and its result, with markup escaped."""
    assert read_rows(OPERATION._repr_html_()) == [
        ("handle", "create.new_song/op_1"),
        ("status", "ready"),
        ("created", "2026-11-22 10:00:00 UTC"),
        ("lyrics", "[Verse]\nRain & <b>thunder</b>"),
        ("reference", repr(CLEAN)),
        ("outputs", "output 0, 12.50 s\n<vocals>"),
    ]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (None, []),
        (
            NewFx("as https://a.example/?key=1", duration=2),
            [("prompt", "as https://a.example/?…"), ("duration", "2")],
        ),
        (
            AutoCutDown(OUTPUTS[0], target_duration=30),
            [("source", "output 0, 12.50 s of create.new_song/op_1"), ("target_duration", "30")],
        ),
        (RemixInstrumental("https://a.example/b"), [("source", "'https://a.example/b'"), ("n_variations", "1")]),
    ],
)
def test_a_request_is_shown_as_it_was_made(request_: Request | None, expected: list[tuple[str, str]]) -> None:
    """Members that say something, URLs without what may sign them; nothing of an unknown one."""
    operation = Operation(route="create.new_fx", id="op_1", status=Status("<queued>"), request=request_)
    assert read_rows(operation._repr_html_()) == [
        ("handle", "create.new_fx/op_1"),
        ("status", "<queued>"),
        *expected,
    ]


def test_an_error_is_shown_without_what_signs_a_url() -> None:
    """The service may quote the URL that it could not fetch."""
    error = OperationError(code="<source>", message=f"could not fetch {SIGNED}, sorry")
    rows = read_rows(attrs.evolve(OPERATION, error=error, outputs=())._repr_html_())
    assert rows[-1] == ("error", f"<source>: could not fetch {CLEAN} sorry")


def test_a_saved_file_can_be_heard() -> None:
    """The player links to a file by its relative path, and to no other."""
    assert read_rows(FILE._repr_html_()) == [
        ("file", "out/a.flac"),
        ("audio", "12.50 s, 48000 Hz, 2 channels, 2.35 MB"),
        ("", ""),
    ]
    assert read_sources(FILE._repr_html_()) == ["out/a.flac"]
    assert 'preload="none"' in FILE._repr_html_()
    named = attrs.evolve(FILE, path=Path('a:"&b#c?d e%.flac'))
    assert read_sources(named._repr_html_()) == ["a%3A%22%26b%23c%3Fd%20e%25.flac"]
    assert read_sources(attrs.evolve(FILE, path=Path("/out/a.flac"))._repr_html_()) == []
    stored = attrs.evolve(FILE, path=None, url="s3://bucket/<a>.flac")
    assert read_rows(stored._repr_html_())[0] == ("file", "s3://bucket/<a>.flac")
    assert read_sources(stored._repr_html_()) == []


def test_a_piece_is_its_operation_and_its_files() -> None:
    """One table, a player for each file."""
    rows = read_rows(SUCCEEDED._repr_html_())
    assert [name for name, _ in rows[-6:]] == ["file", "audio", "", "file", "audio", ""]
    assert rows[-2][1] == "12.50 s, 48000 Hz, 1 channel, 4.3 kB"
    assert len(read_sources(SUCCEEDED._repr_html_())) == 2


def test_a_terminal_shows_fields() -> None:
    """As ``rich`` shows things, without the members that are for programs."""
    assert show(FILE) == ("SavedFile(path='out/a.flac', bytes=2345678, duration=12.5, sample_rate=48000, channels=2)\n")
    shown = show(SUCCEEDED)
    assert "Operation(" in shown
    assert "handle='create.new_song/op_1'" in shown
    assert "outputs=['output 0, 12.50 s', '<vocals>']" in shown
    assert "sha256" not in shown


@pytest.mark.parametrize("value", [OPERATION, FILE, SUCCEEDED])
def test_nothing_that_is_signed_is_shown(value: Any) -> None:
    """Neither in a notebook, which people pass on, nor in a terminal."""
    for secret in (SIGNED.partition("?")[2], "user:word"):
        assert secret in SIGNED
        assert secret not in value._repr_html_() + show(value)

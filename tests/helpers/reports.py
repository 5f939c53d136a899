"""Generated journals of bulk runs, for the tests of the report in this process and in a browser."""

import json
import random
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from soundpiece_async import Journal

BEGAN = 1_780_000_000.0
"""When the made-up run began, in seconds since 1970."""
SIGNATURE = "X-Signature=0123456789abcdef"
"""What must be in no report."""

FAILED = {
    "state": "failed",
    "error_kind": "OperationFailed",
    "error_code": "busy",
    "error_text": "later",
    "retryable": 1,
}
"""What a job that failed has besides."""

WAITS = {
    "create.new_song": 48.0,
    "create.new_instrumental": 41.0,
    "create.new_sample": 8.0,
    "create.new_fx": 5.0,
    "create.remix_song": 57.0,
    "create.remix_instrumental": 52.0,
    "adapt.separate_stems": 26.0,
    "adapt.auto_cut_down": 14.0,
}
"""Seconds in the median by route."""
STEMS = ("vocals", "drums", "bass", "other")
MOODS = (
    "synthwave, melancholic, slow",
    "indie folk with a warm upright bass",
    "rain on a tin roof, distant thunder",
    "solo piano, late at night, close microphones",
    "brass band walking by",
    "house, 124 bpm, dusty chords",
)
NOUNS = ("harbour", "lantern", "meadow", "signal", "winter", "copper", "orchard", "tide")
FAILURES = (
    ("OperationFailed", "content_policy", "The lyrics were refused by the content policy.", 1),
    ("OperationFailed", "internal_error", "The work could not be finished; nothing was charged.", 1),
    ("ValidationError", "422", "create.new_song: 422 lyrics: String should have at most 3000 characters", 0),
)


async def make_journal(folder: Path, rows: list[Mapping[str, Any]]) -> Path:
    """Make the journal of a folder that holds these rows; members left out are as ``planned`` has them."""
    async with Journal.open(folder):
        pass
    with sqlite3.connect(folder / "journal.sqlite3") as connection:
        for number, members in enumerate(rows, start=1):
            row = planned(number) | dict(members)
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO job ({names}) VALUES ({marks})", list(row.values()))  # noqa: S608 - our own names
    connection.close()
    return folder


def planned(number: int) -> dict[str, Any]:
    """Return a planned job."""
    return {
        "digest": number.to_bytes(32),
        "occurrence": 1,
        "key": f"00000000-0000-4000-8000-{number:012}",
        "route": "create.new_fx",
        "body": json.dumps({"prompt": "door slams", "duration": 2.5}).encode(),
        "state": "planned",
    }


def saved(
    stem: str, *, kinds: tuple[str | None, ...] = (None,), began: float = BEGAN, wait: float = 5.0, **changes: Any
) -> dict[str, Any]:
    """Return a job with a file for each kind."""
    names = [f"{stem}.flac" if kind is None else f"{stem}-{kind}.flac" for kind in kinds]
    outputs = [
        {
            "index": index,
            "kind": kind,
            "duration": 2.0,
            "expires_at": None,
            "url": f"https://cdn.example.com/{index}.flac?{SIGNATURE}",
        }
        for index, kind in enumerate(kinds)
    ]
    files = [
        {
            "path": name,
            "bytes": 88_200,
            "sha256": "ab" * 32,
            "duration": 2.0,
            "sample_rate": 22_050,
            "channels": 1,
            "index": index,
            "url": None,
        }
        for index, name in enumerate(names)
    ]
    row = {
        "state": "saved",
        "name": stem,
        "title": stem,
        "sent_at": began,
        "submitted_at": began + 0.25,
        "ready_at": began + 0.25 + wait,
        "ended_at": began + 0.75 + wait,
        "operation": f"op_{abs(hash(stem)):026}"[:29],
        "outputs": json.dumps(outputs),
        "files": json.dumps(files),
    }
    return row | changes


def a_night(count: int, *, seconds: float, seed: int = 1) -> list[Mapping[str, Any]]:
    """Make up a run of so many jobs over so many seconds: nearly all saved, a few failed, and some unfinished."""
    rng = random.Random(seed)
    routes = list(WAITS)
    weights = [30, 20, 12, 16, 6, 4, 8, 4]
    rows = []
    for number in range(1, count + 1):
        (route,) = rng.choices(routes, weights)
        prompt = f"{rng.choice(MOODS)}, take {number}"
        wait = WAITS[route] * rng.lognormvariate(0, 0.45)
        began = BEGAN + seconds * (number / count) ** 1.1 + rng.random()
        body = (
            {"prompt": prompt}
            if route.startswith("create.new")
            else {"source": {"url": f"https://media.example.com/{number}.wav?{SIGNATURE}"}, "prompt": prompt}
        )
        stem = f"{rng.choice(NOUNS)}-{rng.choice(NOUNS)}-{number:05}"
        kinds: tuple[str | None, ...] = STEMS if route == "adapt.separate_stems" else (None,)
        row = saved(stem, kinds=kinds, began=began, wait=wait) | {
            "route": route,
            "body": json.dumps(body).encode(),
            "line": number + 1,
            "metadata": json.dumps({"album": rng.choice(NOUNS), "track": number % 12 + 1}),
        }
        if rng.random() < 0.025:
            kind, code, text, retryable = rng.choices(FAILURES, (5, 3, 1))[0]
            row |= {
                "state": "failed",
                "error_kind": kind,
                "error_code": code,
                "error_text": text,
                "retryable": retryable,
                "outputs": None,
                "files": None,
            }
            if code == "422":
                row |= {"operation": None, "submitted_at": None, "ready_at": None}
        elif number > count - count // 100:
            row |= {
                "state": "planned",
                "sent_at": None,
                "submitted_at": None,
                "ready_at": None,
                "ended_at": None,
                "operation": None,
                "outputs": None,
                "files": None,
            }
        rows.append(row)
    return rows


def make_audio(path: Path, *, seconds: float = 2.0) -> None:
    """Write a tone that fades."""
    time = np.linspace(0, seconds, int(seconds * 22_050), endpoint=False)
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 330 * time) * np.exp(-time), 22_050, format="FLAC")

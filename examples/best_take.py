"""Songs, the best take of each, and a remix of that.

    python examples/best_take.py lyrics remixes

``lyrics`` is a folder of text files. A song has several takes; they are saved, so that a function of yours can look at
them and choose one: here the longest. It has to choose the same take from the same files, because the journal knows a
remix by the take it was made from. After a kill the same command resumes, and pays for nothing twice.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from soundpiece_async import Failed, Journal, NewSong, RemixSong, SavedFile, Session

STYLE, REMIX = "indie folk, warm, close vocals", "drum and bass, bright, 174 bpm"


def choose(takes: Sequence[SavedFile]) -> SavedFile:
    """Return the best take: measure loudness, ask a model, whatever you can compute."""
    return max(takes, key=lambda take: take.duration)


def read_songs(folder: Path) -> Iterator[tuple[NewSong, str]]:
    """Make a request of each text, named as its file."""
    for path in sorted(folder.glob("*.txt")):
        yield NewSong(path.read_text(encoding="utf-8"), prompt=STYLE), path.stem


async def main(folder: Path, out: Path) -> int:
    """Make what is not made yet; the exit code is 1 when something failed."""
    failures: list[Failed[Any]] = []
    async with Session() as session, Journal.open(out) as journal:

        async def remix() -> AsyncIterator[tuple[RemixSong, str]]:
            async with session.run_many(read_songs(folder), save_to=out / "takes", journal=journal) as results:
                async for song in results.succeeded(failures.append):
                    best = choose(song.files)
                    yield RemixSong(best.output, lyrics=song.request.lyrics, prompt=REMIX), f"{song.name}-remix"

        async with session.run_many(remix(), save_to=out, journal=journal) as results:
            async for done in results.succeeded(failures.append):
                print(done.files[0].path)
    for failed in failures:
        print(f"failed  {failed.name}: {failed.error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]))))

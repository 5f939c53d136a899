"""The stems of every file of a folder on this machine.

    python examples/folder_stems.py mixes s3://my-bucket/inbox stems

The API takes URLs only, so each file is uploaded to a bucket of yours first, under the SHA-256 of its content, and the
journal identifies it by that: a file may be renamed or moved, and is split and paid for once. After a kill the same
command resumes. The objects stay in the bucket: let a lifecycle rule delete them. Needs the extra ``obstore``.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from soundpiece_async import Failed, Journal, SeparateStems, Session, upload_source

AUDIO = {".wav", ".flac", ".aiff", ".mp3", ".m4a", ".ogg"}


async def upload(paths: Iterable[Path], inbox: str) -> AsyncIterator[tuple[SeparateStems, str]]:
    """Upload files no faster than they are split; those that are in the bucket already are not sent again."""
    for path in paths:
        source = await upload_source(path, inbox, expires=24 * 3600)
        yield SeparateStems(source), path.stem


async def main(paths: Iterable[Path], inbox: str, out: Path) -> int:
    """Split what is not split yet; the exit code is 1 when something failed."""
    failures: list[Failed[Any]] = []
    async with Session() as session, Journal.open(out) as journal:
        async with session.run_many(upload(paths, inbox), save_to=out, journal=journal) as results:
            async for stems in results.succeeded(failures.append):
                for file in stems.files:
                    print(file.path)
    for failed in failures:
        print(f"failed  {failed.name}: {failed.error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    mixes = sorted(path for path in Path(sys.argv[1]).iterdir() if path.suffix.lower() in AUDIO)
    sys.exit(asyncio.run(main(mixes, sys.argv[2], Path(sys.argv[3]))))

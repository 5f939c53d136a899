"""A pipeline: several instrumentals, each split into stems, and each stem cut down.

    python examples/pipeline.py out "ambient, slow" "house, piano"

Each stage reads the results of the one before, so all three run at the same time. It may be stopped or killed at any
moment: the same command resumes it, and pays for nothing twice.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from soundpiece_async import AutoCutDown, Failed, Journal, NewInstrumental, SeparateStems, Session


async def main(out: Path, prompts: Sequence[str], *, seconds: float = 10.0) -> int:
    """Make what is not made yet; the exit code is 1 when something failed."""
    failures: list[Failed[Any]] = []
    async with Session() as session, Journal.open(out) as journal:

        async def split() -> AsyncIterator[tuple[SeparateStems, str | None]]:
            tracks = [(NewInstrumental(prompt), prompt) for prompt in prompts]
            async with session.run_many(tracks, journal=journal) as results:
                async for track in results.succeeded(failures.append):
                    yield SeparateStems(track.operation.outputs[0]), track.name

        async def cut() -> AsyncIterator[tuple[AutoCutDown, str]]:
            async with session.run_many(split(), journal=journal) as results:
                async for stems in results.succeeded(failures.append):
                    for stem in stems.operation.outputs:
                        yield AutoCutDown(stem, target_duration=seconds), f"{stems.name}-{stem.kind}"

        async with session.run_many(cut(), save_to=out, journal=journal) as results:
            async for done in results.succeeded(failures.append):
                print(f"{done.files[0].duration:6.1f} s  {done.files[0].path}")
    for failed in failures:
        print(f"failed  {failed.name}: {failed.error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), sys.argv[2:])))

"""A resumable bulk run: a sound effect for every line of a file.

    python examples/bulk.py prompts.txt out

After an interruption, a crash or exhausted credits, run the same command again: it resumes, and pays for nothing twice.
Standard output has one line per result, standard error the progress.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from soundpiece_async import Failed, InsufficientCredits, Journal, NewFx, Session, Succeeded


def read_requests(prompts: Path) -> Iterator[NewFx]:
    """Yield a request per line; the file is read no faster than results are consumed, so it may have millions."""
    with prompts.open(encoding="utf-8") as lines:
        for line in lines:
            if prompt := line.strip():
                yield NewFx(prompt, duration=2.5)


async def main(prompts: Path, out: Path) -> int:
    """Run all jobs that are not finished; return exit code 1 if one is missing at the end."""
    taken, missing, no_credits = 0, 0, False
    async with Session() as session, Journal.open(out) as journal:
        async with session.run_many(read_requests(prompts), save_to=out, journal=journal) as results:
            async for result in results:
                match result:
                    case Succeeded(request=request, files=files):
                        print(files[0].path, request.prompt, sep="\t")
                    case Failed(request=request, error=error):  # a failed line does not stop the others
                        print("-", request.prompt, error, sep="\t")
                        missing += 1
                        no_credits |= isinstance(error, InsufficientCredits)
                taken += 1
                if taken % 100 == 0:
                    print(f"{taken} lines done, {session.statistics().in_flight} in flight", file=sys.stderr)
    if no_credits:
        print("out of credits: top up, and run the same command again", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]))))

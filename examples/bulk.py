"""A bulk run that survives anything: a sound effect for every line of a file.

    python examples/bulk.py prompts.txt out

It may be stopped, killed, or run out of credits: the same command goes on where it was, and pays for nothing twice.
Standard output gets one line for each result; how it goes is on standard error.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from soundpiece_async import Failed, InsufficientCredits, Journal, NewFx, Session, Succeeded


def read_requests(prompts: Path) -> Iterator[NewFx]:
    """Make a request of each line; it is read no faster than results are taken, so it may have millions."""
    with prompts.open(encoding="utf-8") as lines:
        for line in lines:
            if prompt := line.strip():
                yield NewFx(prompt, duration=2.5)


async def main(prompts: Path, out: Path) -> int:
    """Make everything that is not made yet; the exit code is 1 when something is missing at the end."""
    taken, missing, broke = 0, 0, False
    async with Session() as session, Journal.open(out) as journal:
        async with session.run_many(read_requests(prompts), save_to=out, journal=journal) as results:
            async for result in results:
                match result:
                    case Succeeded(request=request, files=files):
                        print(files[0].path, request.prompt, sep="\t")
                    case Failed(request=request, error=error):  # one bad line never stops the others
                        print("-", request.prompt, error, sep="\t")
                        missing += 1
                        broke |= isinstance(error, InsufficientCredits)
                taken += 1
                if taken % 100 == 0:
                    print(f"{taken} lines done, {session.statistics().in_flight} in flight", file=sys.stderr)
    if broke:
        print("out of credits: buy some, and run the same command again", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]))))

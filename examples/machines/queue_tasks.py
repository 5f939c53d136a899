"""One run in the workers of a task queue: procrastinate, whose tasks lie in the same Postgres as the journal.

    export SOUNDPIECE_API_KEY=spk_...
    export SOUNDPIECE_JOURNAL=postgresql://db.internal/audio SOUNDPIECE_SHARED=postgresql://db.internal/audio
    procrastinate --app=queue_tasks.app schema --apply          # once for each database
    procrastinate --app=queue_tasks.app worker --concurrency=2  # on each machine
    python queue_tasks.py album7 s3://audio/album7 16           # the run, where to save, and the number of parts

A task is a part of a run: a worker that is killed leaves it unfinished, and the next one that gets it pays for nothing
twice.
"""

import asyncio
import os
import sys
from contextlib import suppress

from procrastinate import App, PsycopgConnector, RetryStrategy
from procrastinate.exceptions import AlreadyEnqueued

from soundpiece_async import Failed, Journal, JournalError, Session

JOURNAL = os.environ["SOUNDPIECE_JOURNAL"]
app = App(connector=PsycopgConnector(conninfo=JOURNAL))


@app.task(queue="soundpiece", retry=RetryStrategy(max_attempts=20, wait=10, retry_exceptions=[JournalError]))
async def run_part(run: str, save_to: str, number: int, parts: int) -> dict[str, int]:
    """Run a part; a ``JournalError`` of the whole run means that the database was away: the queue repeats the task."""
    saved = failed = 0
    async with Session() as session, Journal.open(JOURNAL, run=run) as journal:
        jobs = journal.jobs(part=(number, parts))
        async with session.run_many(jobs, save_to=save_to, journal=journal) as results:
            async for result in results:
                if isinstance(result, Failed):
                    failed += 1
                    print(result.error, file=sys.stderr)
                else:
                    saved += 1
    return {"saved": saved, "failed": failed}


async def defer_all(run: str, save_to: str, parts: int) -> None:
    """Add every part of a run to the queue; a part that still waits there is not added again."""
    async with app.open_async():
        for number in range(1, parts + 1):
            task = run_part.configure(queueing_lock=f"{run} {number}/{parts}")
            with suppress(AlreadyEnqueued):
                await task.defer_async(run=run, save_to=save_to, number=number, parts=parts)


async def repeat_lost() -> int:
    """Return the tasks of workers that died to the queue; call it every minute, from cron or a periodic task."""
    async with app.open_async():
        lost = list(await app.job_manager.get_stalled_jobs())
        for job in lost:
            await app.job_manager.retry_job(job)
    return len(lost)


if __name__ == "__main__":
    name, place, number_of_parts = sys.argv[1:]
    asyncio.run(defer_all(name, place, int(number_of_parts)))

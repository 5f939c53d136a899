"""``soundpiece bulk --ray``: a planned run in actors on Ray, which this process follows."""

import anyio
import attrs
from cyclopts import Parameter

from soundpiece_async import JobState, RetryPolicy
from soundpiece_async._journal.store import TakenOver
from soundpiece_async.cli.bulk_options import DEFAULT_POLICY, OUTAGE_PATIENCE, BulkOptions, Count
from soundpiece_async.cli.console import DONE, FAILED, INTERRUPTED, TAKEN_OVER, UsageError, print_status
from soundpiece_async.cli.signals import GracefulStop

DEFAULT_WORKERS = 4


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class RayOptions:
    """Whether Ray runs the jobs.

    Args:
        ray: address of a Ray cluster whose actors run the jobs, with a journal in Postgres: auto is that of this
            machine, local starts one. Actors read SOUNDPIECE_API_KEY from their own environment.
        workers: number of actors (default: 4).
    """

    ray: str | None = None
    workers: Count = None


DEFAULT_RAY = RayOptions()


async def run_with_ray(options: BulkOptions, ray: RayOptions) -> int:
    """Run the jobs that are planned, print their progress, and return the exit code."""
    from soundpiece_async.engines.ray import run_on_ray  # it brings aiohttp, and --help needs neither

    location, load = options.location, options.load
    settings = {"limits": load.limits, "retries": RetryPolicy(submit_max_elapsed=OUTAGE_PATIENCE)}
    stop = anyio.Event()

    def interrupt() -> None:
        stop.set()
        print_status("interrupted: no more jobs are submitted; those in flight finish. Interrupt again to stop at once")

    with GracefulStop(interrupt):
        try:
            counts = await run_on_ray(
                str(location.where),
                run=location.run or "",
                save_to=location.out,
                address=ray.ray or "auto",
                workers=ray.workers or DEFAULT_WORKERS,
                settings=settings if load.verify is None else {**settings, "verify": load.verify},
                timeout=load.job_timeout,
                on_progress=_print_counts,
                stop=stop,
            )
        except TakenOver as error:
            print_status(f"stopped: {error}")
            return TAKEN_OVER
    _print_counts(counts)
    print_status(f"all reasons for failures: soundpiece status {location.arguments}")
    if stop.is_set():
        return INTERRUPTED
    return DONE if counts.keys() <= {JobState.SAVED} else FAILED


def check_policy(options: BulkOptions) -> None:
    """Raise UsageError for an option that actors do not have."""
    if options.policy != DEFAULT_POLICY:
        raise UsageError("--ray has no options for retries, failures and the output: soundpiece work has them")


def _print_counts(counts: dict[JobState, int]) -> None:
    print_status(", ".join(f"{number} {state}" for state, number in counts.items()))

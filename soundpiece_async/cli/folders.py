"""The place for the files: tried, and looked into, before anything is asked for and paid."""

from pathlib import Path

import anyio
import anyio.to_thread

from soundpiece_async import AutoCutDown, NewFx, NewSample, Request, SeparateStems
from soundpiece_async._core.names import safe_stem
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.places import Places, demand_place
from soundpiece_async.cli.endings import UsageError

_SINGLE = (NewFx, NewSample, AutoCutDown)
_KINDS = ("vocals", "drums", "bass", "other")


async def prepare(to: str | Path, *, verify: Verify = "header") -> None:
    """Find out whether files can be put into a folder, which is made, or into a store.

    Raises:
        SoundpieceError: they cannot; the message says what to do.
    """
    demand_place(to, verify=verify)
    await Places(anyio.CapacityLimiter(1)).demand(to)


async def demand_free(to: str | Path, name: str, request: Request) -> None:
    """Refuse a name that files there have already, as far as it can be foreseen how the new ones are called.

    Raises:
        UsageError: one of them has.
        SettingsError: a store cannot be asked.
    """
    place = await Places(anyio.CapacityLimiter(1)).open(to)
    for title in _foresee(safe_stem(name), request):
        if isinstance(place, Path):
            taken = await anyio.Path(place, title).exists()
        else:
            taken = await place.has(title)
        if taken:
            raise UsageError(
                f"{to}: {title} is there already, and nothing was sent; choose another --name, or replace it with "
                "--overwrite"
            )


def _foresee(stem: str, request: Request) -> list[str]:
    """Return the names the first files of an operation may have; the service decides how many there are."""
    if isinstance(request, _SINGLE):
        endings: tuple[str, ...] = ("",)
    elif isinstance(request, SeparateStems):
        endings = tuple(f"-{kind}" for kind in _KINDS)
    else:
        endings = ("", "-1")
    return [f"{stem}{ending}.flac" for ending in endings]

"""The service: the real one with an API key, otherwise a simulated one in this process."""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
from kinds import make_request
from store import Sound, Store

from soundpiece_async import Handle, Session, Settings, SoundpieceError
from soundpiece_async.webhooks import Webhooks

if TYPE_CHECKING:
    from soundpiece_async.simulator import Simulator

_logger = logging.getLogger("studio")

HOOK = "/hooks/soundpiece"
"""Path for webhooks."""

SIMULATED = "Simulated service, free of charge"


@attrs.frozen(kw_only=True)
class Service:
    """The service, as the rest of the studio uses it.

    Attributes:
        name: for the page.
        settings: for the session.
        webhooks: verifies deliveries; None: no webhooks, only polling.
        callback: the URL for webhooks.
        simulator: the simulated service, if it is simulated.
    """

    name: str
    settings: Settings
    webhooks: Webhooks | None = None
    callback: str | None = None
    simulator: "Simulator | None" = None


@asynccontextmanager
async def open_service(environ: Mapping[str, str], *, own_url: str, speed: float) -> AsyncIterator[Service]:
    """Open the service that the environment configures, or simulate one at ``speed`` times the real speed.

    ``SOUNDPIECE_API_KEY`` selects the real one. It sends webhooks if both ``STUDIO_PUBLIC_URL``, the address of this
    studio, and ``SOUNDPIECE_WEBHOOK_SECRET`` are set.
    """
    if environ.get("SOUNDPIECE_API_KEY"):
        public, secret = environ.get("STUDIO_PUBLIC_URL"), environ.get("SOUNDPIECE_WEBHOOK_SECRET")
        settings = Settings.from_environ(environ)
        parts = urlsplit(settings.base_url)
        name = parts.netloc if parts.scheme == "https" else SIMULATED  # http is for this machine only
        if not (public and secret):
            yield Service(name=name, settings=settings)
            return
        # the library refuses http callbacks, which only a simulator on this machine calls
        settings = attrs.evolve(settings, validate=public.startswith("https://"))
        yield Service(name=name, settings=settings, webhooks=Webhooks([secret]), callback=public.rstrip("/") + HOOK)
        return

    from soundpiece_async.simulator import Simulator  # an extra, which a real service does not need

    async with Simulator(speed=speed, track_seconds=(12.0, 20.0), allow_private_callbacks=True) as simulator:
        yield Service(
            name=SIMULATED,
            settings=Settings(api_key=simulator.api_key, base_url=simulator.url, validate=False),
            webhooks=Webhooks([str(simulator.webhook_secret)]),
            callback=own_url + HOOK,
            simulator=simulator,
        )


async def restore(simulator: "Simulator", session: Session, store: Store, sounds: Iterable[Sound]) -> list[Sound]:
    """Submit everything that an earlier simulated service had accepted to a new one, because it keeps no state.

    Finished operations are finished at once, others start again. The real service does not need this.
    """
    restored: dict[int, Sound] = {}
    for stored in sounds:
        # URLs of the earlier service are no longer valid: they are read again before they are used
        sound = attrs.evolve(stored, source=None)
        try:
            if sound.handle is not None:
                sound = await _submit_again(simulator, session, sound, restored)
        except (SoundpieceError, LookupError, TypeError, ValueError) as error:  # edited, or of another version
            _logger.warning("sound %s is not known to the simulated service: %r", sound.id, error)
        restored[sound.id] = sound
        await store.save(sound)
    return list(restored.values())


async def _submit_again(simulator: "Simulator", session: Session, sound: Sound, restored: Mapping[int, Sound]) -> Sound:
    if sound.parent is not None:
        parent = await session.refresh(Handle.parse(str(restored[sound.parent].handle)))
        sound = attrs.evolve(sound, source=parent.outputs[sound.take].url)
    operation = await session.submit(make_request(sound))
    if sound.ended:
        simulator.finish(operation.id)
    return attrs.evolve(sound, handle=str(operation.handle))

"""Who makes the music: the real service when there is a key, else a simulated one in this very process."""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
from kinds import make_request
from store import Piece, Store

from soundpiece_async import Handle, Session, Settings, SoundpieceError
from soundpiece_async.webhooks import Webhooks

if TYPE_CHECKING:
    from soundpiece_async.simulator import Simulator

_logger = logging.getLogger("studio")

HOOK = "/hooks/soundpiece"
"""Where the service posts its news."""

SIMULATED = "Simulated service, nothing is paid"


@attrs.frozen(kw_only=True)
class Service:
    """What the rest of the studio needs of it.

    Attributes:
        name: for the page.
        settings: for the session.
        webhooks: what deliveries are checked against; None: there are none, and polling does it all.
        callback: the URL for the service's news.
        simulator: the simulated service, if it is one.
    """

    name: str
    settings: Settings
    webhooks: Webhooks | None = None
    callback: str | None = None
    simulator: "Simulator | None" = None


@asynccontextmanager
async def open_service(environ: Mapping[str, str], *, own_url: str, speed: float) -> AsyncIterator[Service]:
    """Find the service in the environment, or simulate one that works ``speed`` times as fast.

    ``SOUNDPIECE_API_KEY`` chooses the real one. It sends webhooks if ``STUDIO_PUBLIC_URL`` says where this studio can
    be reached, and ``SOUNDPIECE_WEBHOOK_SECRET`` what they are signed with.
    """
    if environ.get("SOUNDPIECE_API_KEY"):
        public, secret = environ.get("STUDIO_PUBLIC_URL"), environ.get("SOUNDPIECE_WEBHOOK_SECRET")
        settings = Settings.from_environ(environ)
        parts = urlsplit(settings.base_url)
        name = parts.netloc if parts.scheme == "https" else SIMULATED  # plain http reaches no further than this machine
        if not (public and secret):
            yield Service(name=name, settings=settings)
            return
        # the library lets no callback be plain http, which only a simulator on this machine calls
        settings = attrs.evolve(settings, validate=public.startswith("https://"))
        yield Service(name=name, settings=settings, webhooks=Webhooks([secret]), callback=public.rstrip("/") + HOOK)
        return

    from soundpiece_async.simulator import Simulator  # noqa: PLC0415 - an extra, which a real service does not need

    async with Simulator(speed=speed, track_seconds=(12.0, 20.0), allow_private_callbacks=True) as simulator:
        yield Service(
            name=SIMULATED,
            settings=Settings(api_key=simulator.api_key, base_url=simulator.url, validate=False),
            webhooks=Webhooks([str(simulator.webhook_secret)]),
            callback=own_url + HOOK,
            simulator=simulator,
        )


async def restore(simulator: "Simulator", session: Session, store: Store, pieces: Iterable[Piece]) -> list[Piece]:
    """Ask a new simulated service for everything an earlier one had accepted: unlike the real one, it forgets.

    What was over is over at once; what was not, it makes anew. Nothing of this is needed with the real service.
    """
    restored: dict[int, Piece] = {}
    for stored in pieces:
        # the URLs of the earlier service are as forgotten as its work: they are looked up again before they are needed
        piece = attrs.evolve(stored, source=None)
        try:
            if piece.handle is not None:
                piece = await _submit_anew(simulator, session, piece, restored)
        except (SoundpieceError, LookupError, TypeError, ValueError) as error:  # edited, or of another version
            _logger.warning("piece %s is not known to the simulated service: %r", piece.id, error)
        restored[piece.id] = piece
        await store.save(piece)
    return list(restored.values())


async def _submit_anew(simulator: "Simulator", session: Session, piece: Piece, restored: Mapping[int, Piece]) -> Piece:
    if piece.parent is not None:
        parent = await session.refresh(Handle.parse(str(restored[piece.parent].handle)))
        piece = attrs.evolve(piece, source=parent.outputs[piece.take].url)
    operation = await session.submit(make_request(piece))
    if piece.ended:
        simulator.finish(operation.id)
    return attrs.evolve(piece, handle=str(operation.handle))

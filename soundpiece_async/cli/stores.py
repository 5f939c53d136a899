"""Objects on record, looked for in their stores by the credentials of the environment."""

from pathlib import Path

import anyio

from soundpiece_async import SettingsError
from soundpiece_async._core.pieces import FileRecord
from soundpiece_async._download.destinations import Places, locate

ASKING = 32
"""Objects that are asked for at a time: an answer takes tens of milliseconds, and there may be 100,000."""


class Stores:
    """Opens the store of each object; one client for each bucket."""

    def __init__(self) -> None:
        self._places = Places(anyio.CapacityLimiter(1))
        self._asking = anyio.CapacityLimiter(ASKING)

    def __repr__(self) -> str:
        return f"<Stores {self._places!r} asking={self._asking.borrowed_tokens}>"

    async def find_fault(self, file: FileRecord) -> str | None:
        """Return how an object differs from its record, by its size; its bytes are not fetched, which may cost.

        Raises:
            SettingsError: it cannot be looked for; the message is about its folder.
        """
        folder, _, name = str(file.url).rpartition("/")
        folder += "/"
        endpoint = locate(folder).endpoint
        if ":///" in folder:
            raise SettingsError(f"{folder} was in the memory of another process")
        if endpoint != file.endpoint:
            usual = "the provider's own endpoint"
            raise SettingsError(
                f"{folder} is behind {file.endpoint or usual}, and the environment leads to {endpoint or usual}"
            )
        async with self._asking:
            place = await self._places.open(folder)
            return None if isinstance(place, Path) else await place.compare(name, size=file.bytes)

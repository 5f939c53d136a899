"""Which files an operation has, what they are called, and the way of them to where they are wanted."""

from typing import Any

from soundpiece_async._core import wire
from soundpiece_async._core.errors import InvalidRequest
from soundpiece_async._core.models import Operation, SavedFile
from soundpiece_async._core.names import file_names
from soundpiece_async._core.outputs import Handle, Output
from soundpiece_async._downloader import Downloader
from soundpiece_async._places import Place
from soundpiece_async._reader import Reader


async def deliver(
    what: Operation[Any] | Handle | Output,
    to: Place,
    *,
    name: str | None,
    overwrite: bool,
    reader: Reader,
    downloader: Downloader,
) -> list[SavedFile] | SavedFile:
    """Save the files of a ready operation, or one of them; as ``Session.download``, which says the rest.

    Raises:
        InvalidRequest: the operation is not ready, or has no such output, or there is no such place; or ``name`` is no
            text.
        OperationFailed: it never will be ready.
        SoundpieceError: as ``Downloader.save``.
    """
    if not isinstance(name, str | None):
        raise InvalidRequest(f"name must be text, not {name!r}", field="name")
    if isinstance(what, Output):
        siblings = reader.recall(what.handle) or (await reader.refresh(what.handle)).outputs
        titles = file_names(name or what.handle.id, siblings)
        files = {sibling.index: title for sibling, title in zip(siblings, titles, strict=True)}
        if what.index not in files:
            raise InvalidRequest(f"operation {what.handle} lists no output {what.index}", field="what")
        return await downloader.save_in(what, to, files[what.index], overwrite=overwrite)
    operation = what if isinstance(what, Operation) and what.status.final else await reader.refresh(what)
    if not operation.status.final:
        told = f"operation {operation.handle} is {operation.status}: wait for it before downloading"
        raise InvalidRequest(told, field="what")
    outputs = wire.demand_ready(operation).outputs
    return await downloader.save_all(outputs, to, name or operation.id, overwrite=overwrite)

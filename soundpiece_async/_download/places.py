"""Where files go: a folder, or what obstore calls a store (extra ``obstore``)."""

import importlib.util
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from soundpiece_async._core.addresses import SCHEMES
from soundpiece_async._core.errors import InvalidRequest, SettingsError
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.settings import Verify
from soundpiece_async._download.inspecting import demand_header_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import ObjectStore

    from soundpiece_async._download.objects import Folder, Target

Destination: TypeAlias = Union[str, os.PathLike[str], "ObjectStore"]
"""A folder, the URL of one in an object store, or a store of obstore's, whose prefix is the folder."""

_NEEDED = "need the extra obstore: pip install 'soundpiece-async[obstore]'"
_LOST_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9]+):/[^/]")


def read_place(to: Destination) -> "Path | str | ObjectStore":
    """Tell a folder from a URL and from a store.

    Raises:
        InvalidRequest: it is none of them.
    """
    if isinstance(to, str | os.PathLike):
        _check_text(os.fspath(to))
    if isinstance(to, str):
        scheme, mark, _ = to.partition("://")
        if not mark:
            return Path(to)
        if scheme.lower() not in SCHEMES:
            raise InvalidRequest(
                f"{redact_url(to)!r} names no store that files can go to: {sorted(SCHEMES)}", field="to"
            )
        return to
    if isinstance(to, os.PathLike):
        path = Path(to)
        lost = _LOST_SLASH.match(str(path))
        if lost and lost[1].lower() in SCHEMES:
            raise InvalidRequest(f"a path cannot hold the URL {path}: pass it as text", field="to")
        return path
    if not hasattr(to, "put_async"):
        raise InvalidRequest(f"{to!r} is no folder, no URL and no store of obstore's", field="to")
    return to


def _check_text(text: object) -> None:
    """Refuse what no system takes for a path: it would be met in a thread, once the work was paid for."""
    try:
        usable = isinstance(text, str) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise InvalidRequest(f"{redact_url(str(text))!a} cannot be a path, or a URL, on this system", field="to")


def demand_place(to: Destination | None, *, verify: Verify) -> None:
    """Refuse a place that nothing could be saved to, before anything is sent and paid for.

    Raises:
        InvalidRequest: it is none.
        SettingsError: the extra ``obstore`` is missing, or ``verify="full"``, which needs files.
    """
    if to is None or isinstance(read_place(to), Path):
        return
    demand_header_check(verify)
    if importlib.util.find_spec("obstore") is None:
        raise SettingsError(f"object stores {_NEEDED}")


def load_objects() -> Any:
    """Load what knows obstore. Blocks: it is a large import.

    Raises:
        SettingsError: the extra is missing.
    """
    try:
        import obstore  # noqa: F401, PLC0415 - its extra may be missing
    except ImportError as error:
        raise SettingsError(f"object stores {_NEEDED} ({error.name} is missing)") from error
    from soundpiece_async._download import objects  # noqa: PLC0415 - it needs obstore

    return objects


class Places:
    """Opens places; one client for each bucket, however many files go there."""

    def __init__(self) -> None:
        self._stores: dict[str, ObjectStore] = {}
        self._one_at_a_time = threading.Lock()

    def __repr__(self) -> str:
        return f"<Places stores={sorted(self._stores)}>"

    def find(self, to: Destination) -> "Callable[[str], Path | Target]":
        """Give what makes a file's name its target. Blocks: obstore is a large import, and reads certificates.

        Raises:
            InvalidRequest: there is no such place.
            SettingsError: the extra ``obstore`` is missing, or the store's own settings are.
        """
        place = read_place(to)
        if isinstance(place, Path):
            return place.joinpath
        with self._one_at_a_time:
            folder: Folder = load_objects().open_folder(place, stores=self._stores)
        return folder.name

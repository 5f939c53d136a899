"""An exception as an error reporter sends it: every frame, with the reprs of its locals and their parts."""

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = str(Path(__file__).parents[2] / "soundpiece_async")
TESTS = str(Path(__file__).parents[1])


def linked(error: BaseException, seen: set[int] | None = None) -> Iterator[BaseException]:
    """Walk causes, contexts and groups, the suppressed ones too."""
    seen = set() if seen is None else seen
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    following = [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]
    for other in following:
        if isinstance(other, BaseException):
            yield from linked(other, seen)


def captured(error: BaseException) -> Iterator[tuple[FrameType, str, str]]:
    """Yield each frame but those of the tests, the name of each of its locals, and all that is visible of it."""
    for one in linked(error):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if not frame.f_code.co_filename.startswith(TESTS):
                for name, value in frame.f_locals.items():
                    yield frame, name, see(value)


def see(value: object) -> str:
    """Yield the repr of a value and, one level down, of its attributes."""
    parts: list[object] = [value]
    parts += vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, type) else []
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else tuple(slots)
        parts += [getattr(value, name, None) for name in names if name not in {"__weakref__", "_mask"}]
    return " ".join(map(_show, parts))


def _show(part: Any) -> str:
    try:
        shown = repr(part)
    except Exception as error:  # noqa: BLE001 - a half-made object
        shown = repr(error)
    return shown + (repr(dict(part)) if isinstance(part, Mapping) else "")


def find(error: BaseException, secret: str, *, ours: bool = False, deep: bool = True) -> list[str]:
    """Return the places where a secret is visible: in any frame, or in those of the package only."""
    places = [str(one) for one in linked(error) if secret in f"{one!r}{one}"]
    for frame, name, seen in captured(error):
        shown = seen if deep else _show(frame.f_locals.get(name))
        if secret in shown and (not ours or frame.f_code.co_filename.startswith(PACKAGE)):
            places.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}: {name}")
    return places

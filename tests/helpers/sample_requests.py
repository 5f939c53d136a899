"""Requests for tests."""

from typing import Any

from soundpiece_async import NewFx


def fx(number: int = 0, **members: Any) -> NewFx:
    """Return a short sound effect; each number makes a different request."""
    return NewFx(**{"prompt": f"door {number}", "duration": 0.2, **members})

"""Valid request bodies, and the errors of invalid ones."""

import json
from typing import Any

import pytest

from soundpiece_async.simulator.schema import ROUTES, InvalidRequestError, check_body

KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a01"
SOURCE = {"url": "https://media.example.com/mix.wav"}
BODIES: dict[str, dict[str, Any]] = {
    "create.new_song": {"lyrics": "la", "prompt": "folk"},
    "create.new_instrumental": {"reference": SOURCE},
    "create.new_sample": {"prompt": "riff", "duration": 8},
    "create.new_fx": {"prompt": "slam", "duration": 2.5},
    "create.remix_song": {"source": SOURCE, "lyrics": "la", "prompt": "house"},
    "create.remix_instrumental": {"source": SOURCE, "n_variations": 3},
    "adapt.separate_stems": {"source": SOURCE},
    "adapt.auto_cut_down": {"source": SOURCE, "target_duration": 30},
}


def errors(route: str, body: object, *, private_callbacks: bool = False) -> list[tuple[str, str]]:
    """Return the (type, path) of every field error."""
    with pytest.raises(InvalidRequestError) as refusal:
        check_body(ROUTES[route], body, private_callbacks=private_callbacks)
    json.dumps(refusal.value.errors, allow_nan=False)
    return [(error["type"], ".".join(error["loc"])) for error in refusal.value.errors]


def member(name: str, value: object, route: str = "create.new_sample") -> list[tuple[str, str]]:
    """Return the field errors of a body with one member changed."""
    return errors(route, {"idempotency_key": KEY, **BODIES[route], name: value})


def echo(route: str, **members: object) -> dict[str, Any]:
    """Return the echo of a valid body."""
    return dict(check_body(ROUTES[route], {"idempotency_key": KEY, **BODIES[route], **members}).echo)

"""Types of JSON values, whose shape is not ours: the service's responses, and the metadata of users."""

from typing import Any, TypeAlias

JsonValue: TypeAlias = Any
"""A JSON value that is passed on as it came."""

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object."""

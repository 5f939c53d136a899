"""The two JSON parsers that the client may use."""

import orjson

from soundpiece_async._core import codec

READERS = {"json": codec.JsonReader(None), "orjson": codec.JsonReader(orjson.loads)}
"""Without the extra ``fast``, and with it: both must return the same."""

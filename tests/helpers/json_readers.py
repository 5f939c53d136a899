"""The two JSON parsers that the client may use."""

import orjson

from soundpiece_async._core import codec

READERS = {"json": codec.make_reader(None), "orjson": codec.make_reader(orjson.loads)}
"""Without the extra ``fast``, and with it: both must return the same."""

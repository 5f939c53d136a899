"""One variation: the part of a response that it decides, and the function that does so at one seam."""

from collections.abc import Callable
from random import Random

import attrs

from soundpiece_async.simulator.operations import ServerOperation
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response
from soundpiece_async.simulator.schema import Document
from soundpiece_async.simulator.webhooks import Event


@attrs.frozen(kw_only=True)
class Variation:
    """A liberty that the documentation leaves to the service.

    Each function belongs to one seam; a variation without any is a switch, which one place asks for by its name.

    Attributes:
        part: The part of a response it decides, dotted: of two variations that decide the same part, or a part of the
            other's part, one would undo the other.
        meaning: What the service does, in words.
        document: Change the operation object, which is fresh each time, before it is put into an envelope or a webhook.
        envelope: Build the body of a 200 from the operation object and the documented name of its envelope.
        identity: Make the id of a new operation.
        instead: Build the response to a request that is not to take effect, or None; given the operation it is about.
        response: Change a response just before it is sent.
        audio: Change the file behind an output; runs in a worker thread.
        event: Change a webhook before it is signed.
        secret: Read the key from a signing secret.

    """

    part: str
    meaning: str
    document: Callable[[Document, ServerOperation], None] | None = None
    envelope: Callable[[Document, str], Document] | None = None
    identity: Callable[[Random], str] | None = None
    instead: Callable[[ReceivedRequest, ServerOperation | None], Response | None] | None = None
    response: Callable[[Response, ReceivedRequest], Response] | None = None
    audio: Callable[[bytes], bytes] | None = None
    event: Callable[[Event], Event] | None = None
    secret: Callable[[str], bytes] | None = None

    def contradicts(self, other: "Variation") -> bool:
        """Return whether one of the two would undo the other."""
        return f"{self.part}.".startswith(f"{other.part}.") or f"{other.part}.".startswith(f"{self.part}.")


Table = dict[str, dict[str, Variation]]
"""The variations by name and value."""

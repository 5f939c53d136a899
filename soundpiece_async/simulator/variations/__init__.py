"""Variations: behaviour that the documentation of the service leaves open.

1. A variation is written NAME=VALUE; the tables hold what there is, and nothing else is accepted.
2. Each is a small function at one seam: the operation object, its envelope, a rejection, the response just before it is
   sent, the file behind an output, the webhook just before it is signed.
3. They combine, in the order of the tables, unless one would undo another: then both are refused.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from random import Random

import attrs

from soundpiece_async.simulator.operations import ServerOperation
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response
from soundpiece_async.simulator.schema import Document
from soundpiece_async.simulator.variations.documents import DOCUMENTS
from soundpiece_async.simulator.variations.events import EVENTS
from soundpiece_async.simulator.variations.files import FILES
from soundpiece_async.simulator.variations.responses import HOLDS, RESPONSES, Hold
from soundpiece_async.simulator.variations.variation import Table, Variation
from soundpiece_async.simulator.webhooks import Event, read_secret

__all__ = ["TABLE", "Variations", "read_variations"]

TABLE: Table = {**DOCUMENTS, **RESPONSES, **FILES, **EVENTS}
Given = Mapping[str, str | Iterable[str]] | Iterable[str]
"""Variations as a caller writes them: {"echo": "strip"}, {"echo": ["strip", "nfc"]} or ["echo=strip", "echo=nfc"]."""


@attrs.frozen(repr=False)
class Variations:
    """The variations one simulator was given, by their names and values."""

    chosen: Mapping[str, Variation] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        """Return them as they are written."""
        return f"<Variations {' '.join(self.chosen) or 'none'}>"

    def has(self, written: str) -> bool:
        """Return whether one was given, a switch."""
        return written in self.chosen

    @property
    def hold(self) -> Hold:
        """The hold of a `wait=true`."""
        return next((hold for value, hold in HOLDS.items() if self.has(f"hold={value}")), Hold())

    @property
    def own_ids(self) -> bool:
        """Whether ids have another form than the documented one."""
        return any(variation.identity for variation in self.chosen.values())

    def change_document(self, document: Document, operation: ServerOperation) -> None:
        """Change the operation object in place."""
        for variation in self.chosen.values():
            if variation.document is not None:
                variation.document(document, operation)

    def build_body(self, document: Document, envelope: str) -> Document:
        """Build the body of a 200."""
        builders = (variation.envelope for variation in self.chosen.values() if variation.envelope is not None)
        build = next(builders, None)
        return {envelope: document} if build is None else build(document, envelope)

    def make_id(self, rng: Random, documented: str) -> str:
        """Return the id of a new operation."""
        makers = (variation.identity for variation in self.chosen.values() if variation.identity is not None)
        make = next(makers, None)
        return documented if make is None else make(rng)

    def answer_instead(self, request: ReceivedRequest, operation: ServerOperation | None) -> Response | None:
        """Return the response to a request that is not to take effect, the first there is."""
        for variation in self.chosen.values():
            if variation.instead is not None and (response := variation.instead(request, operation)) is not None:
                return response
        return None

    def change_response(self, response: Response, request: ReceivedRequest) -> Response:
        """Change a response before it is sent."""
        for variation in self.chosen.values():
            if variation.response is not None:
                response = variation.response(response, request)
        return response

    def change_audio(self, audio: bytes) -> bytes:
        """Change a file, in a worker thread."""
        for variation in self.chosen.values():
            if variation.audio is not None:
                audio = variation.audio(audio)
        return audio

    def change_event(self, event: Event) -> Event:
        """Change a webhook before it is signed."""
        for variation in self.chosen.values():
            if variation.event is not None:
                event = variation.event(event)
        return event

    def read_secret(self, secret: str) -> bytes:
        """Return the key in a signing secret."""
        readers = (variation.secret for variation in self.chosen.values() if variation.secret is not None)
        return next(readers, read_secret)(secret)


def read_variations(given: "Given | Variations") -> Variations:
    """Read variations as a caller writes them.

    Raises:
        ValueError: a name or a value that is not in the tables, or two variations that contradict each other.

    """
    if isinstance(given, Variations):
        return given
    chosen = {written: _find(written) for written in _write_out(given)}
    order = [f"{name}={value}" for name, values in TABLE.items() for value in values]
    ordered = {written: chosen[written] for written in sorted(chosen, key=order.index)}
    for number, (one, variation) in enumerate(ordered.items()):
        for other in list(ordered)[number + 1 :]:
            if variation.contradicts(ordered[other]):
                raise ValueError(f"the variations {one} and {other} contradict each other: give one of them")
    return Variations(ordered)


def _write_out(given: Given) -> Iterator[str]:
    """Read all forms as NAME=VALUE."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"'variations' must be a mapping, or an iterable of NAME=VALUE: {given!r}")  # noqa: TRY004 - as every argument
    if not isinstance(given, Mapping):
        yield from given
        return
    for name, values in given.items():
        if not isinstance(values, Iterable):
            raise ValueError(f"'variations' must have text for {name!r}, or several: {values!r}")  # noqa: TRY004 - ditto
        for value in (values,) if isinstance(values, str) else values:
            yield f"{name}={value}"


def _find(written: object) -> Variation:
    if not isinstance(written, str) or "=" not in written:
        raise ValueError(f"'variations' are written NAME=VALUE, such as echo=strip: {written!r}")
    name, _, value = written.partition("=")
    if name not in TABLE:
        raise ValueError(_explain(f"there is no variation {name!r}", name, TABLE))
    if value not in TABLE[name]:
        raise ValueError(_explain(f"the variation {name!r} has no value {value!r}", value, TABLE[name]))
    return TABLE[name][value]


def _explain(problem: str, wrong: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{problem}{guess}; there are {', '.join(names)}"

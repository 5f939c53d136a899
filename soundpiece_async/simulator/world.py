"""The service without a network: operations, processing times, idempotency, credits.

Rules:

1. Time comes in as `now`, the loop's seconds; the wall clock is `now` plus a constant. Nothing happens by itself:
   `advance` moves the world to `now`, and returns the operations that ended since.
2. The outcome of an operation follows from the seed, the route, its fields and the number of equal requests before
   it; not from its key, the port, or the order of unrelated requests. So runs repeat although keys are random.
3. The key is looked up before the account is checked: a replay is free
   (docs/api.md#idempotency). A request rejected with 402 does not use its key up.
4. Results are composed when they are first read, and never change afterwards.
"""

import hashlib
import heapq
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping

import attrs

from soundpiece_async.simulator.faults import Faults
from soundpiece_async.simulator.music import AudioOptions, ComposedTrack, compose_tracks, track_for_foreign_url
from soundpiece_async.simulator.operations import (
    FUTURE_MEMBERS,
    OperationError,
    OutputTrack,
    RejectionError,
    ServerOperation,
    describe,
)
from soundpiece_async.simulator.schema import Document, JsonObject, Route, Submission
from soundpiece_async.simulator.signed_urls import SignedUrl, Signer, parse_signed_url
from soundpiece_async.simulator.validators import check_duration
from soundpiece_async.simulator.variations import Variations

Durations = Callable[[str], float] | Mapping[str, float] | None
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_SPREAD = 0.5
"""Sigma of the lognormal processing times: one in a hundred takes three times its median (docs/api.md#status)."""


@attrs.define(eq=False, kw_only=True)
class World:
    """The state of the service; `durations` pins processing times in seconds, before `speed` divides them.

    `forward` is a service of next year, with fields, a status and a stem that no client knows
    (docs/api.md#versioning).
    """

    seed: int
    signer: Signer
    faults: Faults = attrs.field(factory=Faults)
    audio_options: AudioOptions = attrs.field(factory=AudioOptions)
    variations: Variations = attrs.field(factory=Variations)
    forward: bool = False
    speed: float = 1.0
    durations: Durations = None
    credits: int | None = None
    wall_offset: float = 0.0
    operations: dict[str, ServerOperation] = attrs.field(factory=dict, init=False)
    ended: Counter[str] = attrs.field(factory=Counter, init=False)
    replays: int = attrs.field(default=0, init=False)
    _keys: dict[str, ServerOperation] = attrs.field(factory=dict, init=False)
    _tracks: dict[str, OutputTrack] = attrs.field(factory=dict, init=False)
    _repeats: Counter[bytes] = attrs.field(factory=Counter, init=False)
    _agenda: list[tuple[float, str]] = attrs.field(factory=list, init=False)
    _order: random.Random = attrs.field(factory=lambda: random.Random(0), init=False)

    def __repr__(self) -> str:
        """Show the numbers of operations by status."""
        return f"<World {len(self.operations)} operations, {dict(self.ended)}, {self.replays} replays>"

    @property
    def next_due(self) -> float:
        """When the next operation ends, in the loop's seconds; infinity while none is to."""
        return self._agenda[0][0] if self._agenda else math.inf

    @property
    def future_members(self) -> JsonObject:
        """The fields that no client knows; none unless `forward`."""
        return FUTURE_MEMBERS if self.forward else {}

    def wall(self, now: float) -> float:
        """Return the wall clock's seconds since 1970 at `now`."""
        return now + self.wall_offset

    def submit(
        self, route: Route, submission: Submission, *, body: object, now: float, failure: OperationError | None = None
    ) -> tuple[ServerOperation, bool]:
        """Return the operation of a PUT, and whether its key had created it before.

        A `failure` lets a new operation fail with it. Raises `RejectionError` for a key used with another body (409:
        which status the service takes is unknown) and for an empty account (402).
        """
        fingerprint = _digest(route.name, body)
        known = self._keys.get(submission.key)
        if known is not None:
            if known.fingerprint != fingerprint:
                raise RejectionError(409, {"detail": "This idempotency_key was used before, for another request"})
            known.puts += 1
            self.replays += 1
            return known, True
        self._charge()
        operation = self._create(route, submission, fingerprint, now=now, failure=failure)
        self._keys[submission.key] = self.operations[operation.id] = operation
        heapq.heappush(self._agenda, (operation.due, operation.id))
        return operation, False

    def find_key(self, key: str | None) -> ServerOperation | None:
        """Return the operation that a key created."""
        return None if key is None else self._keys.get(key)

    def find(self, route: Route, identity: str) -> ServerOperation | None:
        """Return the operation of this route with this id, or None."""
        operation = self.operations.get(identity)
        return operation if operation is not None and operation.route is route else None

    def find_track(self, name: str) -> OutputTrack | None:
        """Return the output with this name on the output host, or None."""
        return self._tracks.get(name)

    def advance(self, now: float) -> list[ServerOperation]:
        """Advance the time to `now`; return the operations that ended."""
        ended = []
        while self._agenda and self._agenda[0][0] <= now:
            _, identity = heapq.heappop(self._agenda)
            operation = self.operations[identity]
            if operation.status == "processing":
                operation.status = "ready" if operation.failure is None else "failed"
                self.ended[operation.status] += 1
                ended.append(operation)
        return ended

    def finish(self, identity: str, *, now: float, failure: OperationError | None = None) -> None:
        """End an operation at `now`, whatever its timeline; with a failure it fails."""
        operation = self.operations[identity]
        operation.failure = failure or operation.failure
        heapq.heappush(self._agenda, (now, identity))

    def replace_audio(self, identity: str) -> None:
        """Put other audio of the same length behind the paths of a ready operation, as if generated again."""
        operation = self.operations[identity]
        operation.tracks = tuple(_replace_audio(track) for track in operation.tracks)
        self._tracks.update((track.name, track) for track in operation.tracks)

    def present(self, operation: ServerOperation, *, now: float, at_first: bool = False) -> Document:
        """Return the operation object as of `now`, with fresh URLs; or `at_first`, as in the response to its PUT."""
        status: str = "processing" if at_first else operation.status
        if self.forward and status == "processing" and now < (operation.created + operation.due) / 2:
            status = "queued"
        wall = self.wall(now)
        tracks = self._shown_tracks(operation, status)
        document = describe(
            operation,
            status=status,
            created_at=self.wall(operation.created),
            links=[(track, self.signer.sign(track.name, wall=wall)) for track in tracks],
            future_members=self.future_members,
        )
        self.variations.change_document(document, operation)
        return document

    def _shown_tracks(self, operation: ServerOperation, status: str) -> list[OutputTrack]:
        """Return the tracks shown under a status: all when ready, and one early if a variation says so."""
        if status == "ready":
            operation.times_shown += 1
            return self._current_tracks(operation)
        early = self.variations.has("outputs=early") and status != "failed" and operation.failure is None
        return self._current_tracks(operation)[:1] if early else []

    def _current_tracks(self, operation: ServerOperation) -> list[OutputTrack]:
        """Return the tracks of an operation, in the order in which they are shown now."""
        if not operation.tracks:
            names = [_digest(operation.id, index).hex() for index in range(8)]
            operation.tracks = tuple(
                OutputTrack(name=name, operation=operation.id, composed=composed)
                for name, composed in zip(names, operation.make_tracks(), strict=False)
            )
            self._tracks.update((track.name, track) for track in operation.tracks)
        tracks = list(operation.tracks)
        if self.variations.has("outputs=shuffled"):
            self._order.shuffle(tracks)
        return tracks

    def _charge(self) -> None:
        """Charge one credit; the shape of a 402 is unknown except for `detail` (docs/api.md#http-errors)."""
        if self.credits is None:
            return
        if self.credits < 1:
            detail = "Not enough credits: 1 required, 0 available"
            raise RejectionError(402, {"detail": detail, "required": 1, "available": 0})
        self.credits -= 1

    def _create(
        self, route: Route, submission: Submission, fingerprint: bytes, *, now: float, failure: OperationError | None
    ) -> ServerOperation:
        echo = submission.echo
        url = (echo.get("source") or echo.get("reference") or {}).get("url")
        own = parse_signed_url(url) if url is not None and self.signer.owns(url) else None
        rng = self._rng(route, echo, source=url if own is None else own.name)
        identity = self.variations.make_id(rng, "op_" + "".join(rng.choices(_ALPHABET, k=26)))
        seconds = self._seconds(route, rng)
        drawn = self._draw_failure(rng)
        track = own and self._fetch(own, now=now)
        if own is not None and track is None:
            drawn = OperationError(code="internal_error", message="The source could not be fetched: 403.")

        def make_tracks() -> tuple[ComposedTrack, ...]:
            source = (
                track.composed.score if track else url and track_for_foreign_url(url, audio_options=self.audio_options)
            )
            tracks = compose_tracks(route, echo, source=source, audio_options=self.audio_options, rng=rng)
            unknown_stem = self.forward and route.name == "adapt.separate_stems"
            return (*tracks, ComposedTrack(source, "mix")) if unknown_stem and source else tracks

        return ServerOperation(
            id=identity,
            route=route,
            key=submission.key,
            fingerprint=fingerprint,
            submission=submission,
            created=now,
            due=now + seconds / self.speed,
            failure=failure or drawn,
            make_tracks=make_tracks,
        )

    def _fetch(self, source: SignedUrl, *, now: float) -> OutputTrack | None:
        """Return the output that a source refers to, if its URL is valid now."""
        return self._tracks.get(source.name) if self.signer.allows(source, wall=self.wall(now)) else None

    def _rng(self, route: Route, echo: JsonObject, *, source: str | None) -> random.Random:
        """Return the random generator of one operation (rule 2)."""
        work = _digest(self.seed, route.name, {**echo, "source": source, "reference": None})
        self._repeats[work] += 1
        return random.Random(work + self._repeats[work].to_bytes(4, "big"))

    def _seconds(self, route: Route, rng: random.Random) -> float:
        """Return the processing time in seconds, before the speed divides it."""
        drawn = route.seconds * math.exp(rng.gauss(0.0, _SPREAD))
        match self.durations:
            case None:
                return drawn
            case Mapping():
                return self.durations.get(route.name, drawn)
            case _:
                return check_duration(route.name, self.durations(route.name))

    def _draw_failure(self, rng: random.Random) -> OperationError | None:
        """Draw the error that an operation ends with, or None."""
        if rng.random() >= self.faults.fail:
            return None
        return OperationError(code=rng.choice(self.faults.failure_codes))


def _replace_audio(track: OutputTrack) -> OutputTrack:
    score = attrs.evolve(track.composed.score, seed=track.composed.score.seed + 1)
    return attrs.evolve(track, composed=attrs.evolve(track.composed, score=score))


def _digest(*parts: object) -> bytes:
    """Return a digest of 16 bytes: the same for the same JSON values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

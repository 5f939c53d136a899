"""Operations, their outputs and errors, and their JSON (docs/api.md#operation-fields)."""

from collections.abc import Callable
from typing import Literal

import attrs

from soundpiece_async.simulator.music import ComposedTrack
from soundpiece_async.simulator.schema import Document, JsonObject, Route, Submission
from soundpiece_async.simulator.signed_urls import IssuedUrl, write_time

Status = Literal["processing", "ready", "failed"]
FUTURE_MEMBERS: JsonObject = {"added_since": {"anything": [1, None, "more"]}}
"""A field that no client knows: new fields are no breaking change (docs/api.md#versioning)."""


class RejectionError(Exception):
    """A request that an error status answers; `body` is its JSON."""

    def __init__(self, status: int, body: JsonObject) -> None:
        super().__init__(status, body)
        self.status: int = status
        self.body: JsonObject = body


@attrs.frozen(kw_only=True)
class OperationError:
    """Why an operation failed; the code may be absent (docs/api.md#operation-errors)."""

    code: str | None
    message: str = "The operation could not be completed."


@attrs.frozen(kw_only=True)
class OutputTrack:
    """One output of an operation; `name` is that of its file on the output host."""

    name: str
    operation: str
    composed: ComposedTrack


@attrs.define(eq=False, kw_only=True)
class ServerOperation:
    """An operation; `created` and `due` are the loop's seconds, `puts` counts its PUTs.

    `failure` is the error it will end with, if any; `tracks` are there once it is ready and someone has looked, and
    `times_shown` counts how often that was.
    """

    id: str
    route: Route
    key: str
    created: float
    due: float
    failure: OperationError | None
    status: Status = "processing"
    puts: int = 1
    times_shown: int = 0
    tracks: tuple[OutputTrack, ...] = attrs.field(default=(), repr=False)
    fingerprint: bytes = attrs.field(repr=False)
    submission: Submission = attrs.field(repr=False)
    make_tracks: Callable[[], tuple[ComposedTrack, ...]] = attrs.field(repr=False)


def describe(
    operation: ServerOperation,
    *,
    status: str,
    created_at: float,
    links: list[tuple[OutputTrack, IssuedUrl]],
    future_members: JsonObject,
) -> Document:
    """Return the operation object of an envelope or a webhook: every field, null where empty."""
    outputs = [{**_describe_output(track, link), **future_members} for track, link in links]
    single = operation.route.result == "output"
    failed = operation.failure if status == "failed" else None
    return {
        "id": operation.id,
        "status": status,
        "created_at": write_time(created_at),
        "idempotency_key": operation.key,
        **operation.submission.echo,
        operation.route.result: (outputs[0] if single else outputs) if outputs else None,
        "error": None if failed is None else {**_describe_error(failed), **future_members},
        **future_members,
    }


def _describe_output(track: OutputTrack, link: IssuedUrl) -> Document:
    kind = {} if track.composed.kind is None else {"kind": track.composed.kind}
    return {
        **kind,
        "url": link.url,
        "expires_at": write_time(link.expires_at),
        "duration": track.composed.score.seconds,
    }


def _describe_error(error: OperationError) -> Document:
    code = {} if error.code is None else {"code": error.code}
    return {**code, "message": error.message}

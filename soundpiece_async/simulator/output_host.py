"""The output host: FLAC files behind signed URLs, whole or in parts (RFC 9110 section 14; docs/api.md#downloads)."""

import re

import attrs

from soundpiece_async.simulator.clock import Clock
from soundpiece_async.simulator.faults import ActiveFault, Fault, Faults
from soundpiece_async.simulator.render_cache import Render, RenderCache
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response, xml_response
from soundpiece_async.simulator.signed_urls import SignedUrl, track_name

_SINGLE_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


class UnsatisfiableRangeError(Exception):
    """A range that begins behind the end of the file."""


@attrs.define(eq=False, kw_only=True)
class OutputHost:
    """Serves the files; like object stores, it rejects requests with an API key."""

    clock: Clock
    render_cache: RenderCache
    faults: Faults
    downloads: int = attrs.field(default=0, init=False)

    def identify(self, entry: ReceivedRequest) -> None:
        """Note whose file a request is about."""
        track = self.clock.world.find_track(track_name(entry.path))
        entry.operation = None if track is None else track.operation
        entry.route = None if track is None else self.clock.world.operations[track.operation].route.name

    async def answer(self, entry: ReceivedRequest, active: ActiveFault | None) -> Response:
        """Send a file or a part of it."""
        variations = self.clock.world.variations
        response = variations.answer_instead(entry, None) or await self._answer(entry, active)
        return variations.change_response(response, entry)

    async def _answer(self, entry: ReceivedRequest, active: ActiveFault | None) -> Response:
        world = self.clock.world
        track = world.find_track(track_name(entry.path))
        if track is None:
            return xml_response(404, "NoSuchKey", "The specified key does not exist.")
        if entry.method != "GET":
            return xml_response(405, "MethodNotAllowed", "The URL is signed for GET.", headers={"Allow": "GET"})
        if entry.authorized:
            return xml_response(400, "InvalidArgument", "Only one auth mechanism allowed: the URL is signed already.")
        signed_url = SignedUrl(path=entry.path, name=track.name, claims=entry.query)
        if not world.signer.allows(signed_url, wall=world.wall(entry.arrived)):
            return xml_response(self.faults.expired_status, "AccessDenied", "Request has expired")
        render = await self.render_cache.get(track.composed.score)
        self.downloads += 1
        deaf = self._no_ranges or (active is not None and active.fault is Fault.IGNORE_RANGE)
        return self._respond(render, None if deaf else _wanted(entry, render))

    @property
    def _no_ranges(self) -> bool:
        return self.faults.ignore_range or self.clock.world.variations.has("length=closed")

    def _respond(self, render: Render, wanted: str | None) -> Response:
        """Return a response with the whole file, or with the range requested."""
        size = len(render.audio)
        headers = {"Accept-Ranges": "none" if self._no_ranges else "bytes"}
        if not self.faults.hide_etag:
            headers["ETag"] = render.etag
        try:
            part = parse_range(wanted, size=size)
        except UnsatisfiableRangeError:
            headers["Content-Range"] = f"bytes */{size}"
            return xml_response(416, "InvalidRange", "The requested range is not satisfiable", headers=headers)
        if part is None:
            return Response(body=render.audio, headers=headers, content_type="audio/flac")
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        body = memoryview(render.audio)[part.start : part.stop]
        return Response(status=206, body=body, headers=headers, content_type="audio/flac")


def parse_range(header: str | None, *, size: int) -> range | None:
    """Return the bytes a Range header requests; None, the whole file, if it is invalid or has several parts."""
    match = _SINGLE_RANGE.fullmatch((header or "").strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    if start >= size:
        raise UnsatisfiableRangeError
    return range(start, stop)


def _wanted(entry: ReceivedRequest, render: Render) -> str | None:
    """Return the Range header, unless its If-Range names another version of the file."""
    return entry.range if entry.if_range in (None, render.etag) else None

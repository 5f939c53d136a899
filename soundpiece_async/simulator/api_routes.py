"""The API's origin: eight routes, PUT to submit and GET to poll (docs/api.md).

The order in which a request can be refused: unknown path (404), method (405), key (401), rate (429), body that is no
JSON (400), fields or parameters (422), a key used before (409), credits (402). The contract fixes the statuses, the
order is ours.
"""

import json
from http import HTTPStatus

import attrs

from soundpiece_async.simulator.clock import Clock
from soundpiece_async.simulator.faults import ActiveFault, Fault
from soundpiece_async.simulator.operations import OperationError, RejectionError, ServerOperation
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response, html_response, json_response, rate_limited_response
from soundpiece_async.simulator.schema import (
    ABSENT,
    ROUTES,
    InvalidRequestError,
    Route,
    check_body,
    check_query,
    reject_operation,
)
from soundpiece_async.simulator.token_bucket import TokenBucket
from soundpiece_async.simulator.variations import Variations

_PATHS = {f"/v1/{name}": route for name, route in ROUTES.items()}


@attrs.define(eq=False, kw_only=True)
class Api:
    """Answers for the eight routes; `hold` is the longest hold of a `wait=true` in real seconds."""

    clock: Clock
    bucket: TokenBucket
    api_key: str = attrs.field(repr=False)
    hold: float
    private_callbacks: bool
    rate_limited: int = attrs.field(default=0, init=False)

    def identify(self, entry: ReceivedRequest) -> None:
        """Note the route, the key, the operation and the wait of a request, as far as they can be read."""
        route = _PATHS.get(entry.path)
        if route is None:
            return
        entry.route = route.name
        if entry.method == "GET":
            entry.operation, entry.wait = entry.query.get("id"), entry.query.get("wait") == "true"
        elif entry.method == "PUT":
            entry.json = _decode(entry)
            key = entry.json.get("idempotency_key") if isinstance(entry.json, dict) else None
            entry.key = key if isinstance(key, str) else None

    @property
    def variations(self) -> Variations:
        """The variations of the service."""
        return self.clock.world.variations

    async def answer(self, entry: ReceivedRequest, active: ActiveFault | None) -> Response:
        """Process a request, or reject it."""
        try:
            response = await self._answer(entry, active)
        except RejectionError as rejection:
            response = json_response(rejection.body, status=rejection.status)
        except InvalidRequestError as invalid:
            response = json_response({"detail": invalid.errors}, status=422)
        return self.variations.change_response(response, entry)

    async def _answer(self, entry: ReceivedRequest, active: ActiveFault | None) -> Response:
        route = _PATHS.get(entry.path)
        if route is None:
            return json_response({"detail": "Not Found"}, status=404)
        if entry.method not in ("GET", "PUT"):
            return json_response({"detail": "Method Not Allowed"}, status=405, headers={"Allow": "GET, PUT"})
        if entry.headers.get("Authorization") != f"Bearer {self.api_key}":
            raise RejectionError(401, {"detail": "Missing or invalid Authorization header"})
        seconds = self.bucket.take(now=entry.arrived)
        if seconds:
            self.rate_limited += 1
            return rate_limited_response(seconds)
        if (instead := self._answer_instead(entry)) is not None:
            return instead
        if entry.method == "PUT":
            return self._submit(route, entry, active)
        return await self._poll(route, entry)

    def _answer_instead(self, entry: ReceivedRequest) -> Response | None:
        """Return the rejection that a variation has for a request, or None."""
        self.clock.catch_up()
        world = self.clock.world
        known = world.operations.get(entry.operation or "") if entry.method == "GET" else world.find_key(entry.key)
        return self.variations.answer_instead(entry, known)

    def _submit(self, route: Route, entry: ReceivedRequest, active: ActiveFault | None) -> Response:
        submission = check_body(route, _read_body(entry), private_callbacks=self.private_callbacks)
        forced = active is not None and active.fault is Fault.FAIL
        failure = OperationError(code=active.code or "internal_error") if active is not None and forced else None
        now = self.clock.catch_up()
        world = self.clock.world
        operation, known = world.submit(route, submission, body=entry.json, now=now, failure=failure)
        entry.operation = operation.id
        self.clock.catch_up()
        at_first = not known or self.variations.has("repeat=snapshot")
        return self._present(operation, now=now, at_first=at_first)

    async def _poll(self, route: Route, entry: ReceivedRequest) -> Response:
        identity, wait = check_query(entry.query, any_id=self.variations.own_ids)
        now = self.clock.catch_up()
        operation = self.clock.world.find(route, identity)
        if operation is None:
            raise reject_operation(identity)
        if wait and operation.status == "processing":
            hold = self.variations.hold
            await self.clock.wait(operation, seconds=self.hold * hold.share)
            now = self.clock.catch_up()
            if hold.status is not None and operation.status == "processing":
                return html_response(hold.status, HTTPStatus(hold.status).phrase)
        return self._present(operation, now=now)

    def _present(self, operation: ServerOperation, *, now: float, at_first: bool = False) -> Response:
        world = self.clock.world
        document = world.present(operation, now=now, at_first=at_first)
        body = self.variations.build_body(document, operation.route.envelope)
        return json_response({**body, **world.future_members})


def _read_body(entry: ReceivedRequest) -> object:
    """Return the body as FastAPI reads it: JSON only if its content type says so, else text, or `ABSENT`."""
    if not entry.body:
        return ABSENT
    if not _is_json(entry):
        return entry.body.decode(errors="replace")
    if entry.json is None and entry.body.strip() != b"null":
        raise RejectionError(400, {"detail": "There was an error parsing the body"})
    return entry.json


def _decode(entry: ReceivedRequest) -> object:
    """Return the JSON of a body, or None if it is not JSON."""
    if not _is_json(entry):
        return None
    try:
        return json.loads(entry.body.decode())
    except (ValueError, RecursionError):
        return None


def _is_json(entry: ReceivedRequest) -> bool:
    """Return whether the content type says JSON."""
    media_type = entry.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))

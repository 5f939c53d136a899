"""The simulator against the machine-readable contract: what the schema allows is accepted, what it forbids refused."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
import yaml
from anyio.from_thread import start_blocking_portal
from helpers.simulator_client import opened
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from schemathesis import Case
from schemathesis.specs.openapi.checks import negative_data_rejection

from soundpiece_async.simulator import Simulator
from soundpiece_async.simulator.schema import LONGEST, ROUTES
from soundpiece_async.simulator.webhooks import write_event

SPEC = Path(__file__).parent.parent / "data" / "openapi.yaml"
SOURCE = {"url": "https://media.example.com/mix.wav"}
MEMBERS = {"source": SOURCE, "lyrics": "la", "prompt": "pop", "duration": 0.5, "target_duration": 0.3}
known: dict[str, str] = {}
"""One operation of each route, by the route's name."""

SPECIFICATION = yaml.load(SPEC.read_text(), Loader=yaml.CSafeLoader)
# every request here carries the key: what happens without one is a test of the server
schema = schemathesis.openapi.from_dict({name: part for name, part in SPECIFICATION.items() if name != "security"})


def point_to_existing(query: Any, route: str) -> Any:
    """Replace a well-formed id by that of an existing operation: the response to others is not documented."""
    if isinstance(query, dict) and re.fullmatch(r"op_[0-9a-z]{26}", str(query.get("id"))):
        return query | {"id": known[route]}
    return query


def settle_what_is_open(body: Any, path: str) -> Any:
    """Choose where the contract leaves a choice: lengths and URLs the simulator takes, and no key used twice."""
    if not isinstance(body, dict):
        return body
    body = dict(body)
    for name in ("duration", "target_duration"):
        if isinstance(body.get(name), int | float) and not isinstance(body[name], bool):
            body[name] = min(max(body[name], 0.1), LONGEST)
    for name in ("source", "reference"):
        source = body.get(name)
        if isinstance(source, dict) and _is_uri(source.get("url")):
            body[name] = source | SOURCE
    if _is_uri(body.get("callback_url")) and len(body["callback_url"]) <= 2048:
        body["callback_url"] = "https://hooks.example.com/soundpiece"
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", str(body.get("idempotency_key"))):
        body["idempotency_key"] = str(uuid.uuid5(uuid.NAMESPACE_URL, path + repr(body)))
    return body


def _is_uri(value: object) -> bool:
    """Whether a value is what the schema calls a URI."""
    return isinstance(value, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value))


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """A simulator in another thread, with one ready operation of each route."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Simulator(speed=1000.0)) as simulator:
        for route in ROUTES.values():
            url = f"{simulator.url}/v1/{route.name}"
            headers = {"Authorization": f"Bearer {simulator.api_key}"}
            body = {"idempotency_key": str(uuid.uuid4()), **_body(route.name)}
            submitted = requests.put(url, json=body, headers=headers, timeout=5)
            known[route.name] = submitted.json()[route.envelope]["id"]
        yield simulator


def _body(route: str) -> dict[str, Any]:
    """An acceptable body of a route, but for its key."""
    return {member.name: MEMBERS[member.name] for member in ROUTES[route].members if member.name in MEMBERS}


@schema.parametrize()
@settings(max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_keeps_the_contract(case: Case, sim: Simulator) -> None:
    """Generated requests, valid and invalid, get the statuses, headers and bodies that the contract states."""
    case.query = point_to_existing(case.query, case.path.removeprefix("/v1/"))
    case.body = settle_what_is_open(case.body, case.path)
    # unlisted parameters are ignored: what the service does with them is unknown (docs/api.md#request-fields)
    unlisted = isinstance(case.query, dict) and set(case.query) - {"id", "wait"}
    case.call_and_validate(
        base_url=sim.url,
        headers={"Authorization": f"Bearer {sim.api_key}"},
        timeout=5,
        excluded_checks=[negative_data_rejection] if unlisted else [],
    )


def validate(document: object, reference: dict[str, Any]) -> None:
    """Check a document against a schema of the contract."""
    Draft202012Validator({"components": SPECIFICATION["components"], **reference}).validate(document)


@pytest.mark.anyio
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("forward", [False, True])
async def test_is_well_formed_in_every_status(route: str, *, forward: bool) -> None:
    """Processing, ready and failed operations, and the webhooks of the last two, have the contract's shape."""
    responses = SPECIFICATION["paths"][f"/v1/{route}"]["get"]["responses"]
    shape = responses["200"]["content"]["application/json"]["schema"]
    news = SPECIFICATION["webhooks"][route]["post"]["requestBody"]["content"]["application/json"]["schema"]
    statuses = []
    async with opened(durations=lambda _: 60.0, speed=1.0, forward=forward) as caller:
        for failure in (None, "sad"):
            submitted = await caller.put(route, **_body(route))
            caller.sim.finish(submitted.operation["id"], failure=failure)
            finished = await caller.get(submitted.operation["id"], route)
            statuses += [submitted.operation["status"], finished.operation["status"]]
            for answer in (submitted, finished):
                validate(_rename_status(answer.json), shape)
            validate(json.loads(write_event(route, finished.operation, status="ready")), news)

    first = "queued" if forward else "processing"
    assert statuses == [first, "ready", first, "failed"]


def _rename_status(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the one status that the schema does not list under its present name."""
    return json.loads(json.dumps(document).replace('"queued"', '"processing"'))


def test_writes_links_to_another_origin(sim: Simulator) -> None:
    """Outputs lie on an origin that is not the API's."""
    assert urlsplit(sim.url).netloc != urlsplit(sim.output_url).netloc

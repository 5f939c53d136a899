"""Variations of webhooks: their body, their headers, and the key they are signed with."""

import json
from collections.abc import Callable

import attrs

from soundpiece_async.simulator.schema import ROUTES
from soundpiece_async.simulator.variations.variation import Table, Variation
from soundpiece_async.simulator.webhooks import Event


def _envelop(event: Event) -> Event:
    """Put the data into the envelope of the GET's response."""
    body = json.loads(event.body)
    envelope = ROUTES[body["type"].rpartition(".")[0]].envelope
    return attrs.evolve(event, body=json.dumps({**body, "data": {envelope: body["data"]}}).encode())


def _flatten(event: Event) -> Event:
    """Put the fields of the operation beside the type."""
    body = json.loads(event.body)
    return attrs.evolve(event, body=json.dumps({**body.pop("data"), **body}).encode())


def _shout(event: Event) -> Event:
    """Write the type in capitals, with colons."""
    body = json.loads(event.body)
    return attrs.evolve(event, body=json.dumps({**body, "type": body["type"].upper().replace(".", ":")}).encode())


def _rename(event: Event) -> Event:
    """Write `event` for `type`."""
    body = json.loads(event.body)
    return attrs.evolve(event, body=json.dumps({"event": body.pop("type"), **body}).encode())


def _stamp(write: Callable[[float], str]) -> Callable[[Event], Event]:
    return lambda event: attrs.evolve(event, timestamp=write(float(event.timestamp)))


EVENTS: Table = {
    "webhook": {
        "enveloped": Variation(part="webhook.body", meaning="`data` holds the envelope that a GET has", event=_envelop),
        "flat": Variation(part="webhook.body", meaning="the fields of `data` are beside `type`", event=_flatten),
        "capitals": Variation(part="webhook.type", meaning="`type` is as `CREATE:NEW_FX:READY`", event=_shout),
        "event": Variation(part="webhook.member", meaning="the type is under `event`", event=_rename),
        "ms": Variation(
            part="webhook.time",
            meaning="`webhook-timestamp` in milliseconds",
            event=_stamp(lambda seconds: str(int(seconds * 1000))),
        ),
        "fraction": Variation(
            part="webhook.time",
            meaning="`webhook-timestamp` with a fraction",
            event=_stamp(lambda seconds: f"{seconds:.3f}"),
        ),
        "svix": Variation(
            part="webhook.names",
            meaning="`svix-id`, `svix-timestamp`, `svix-signature`",
            event=lambda event: attrs.evolve(event, prefix="svix"),
        ),
        "raw-secret": Variation(
            part="webhook.secret", meaning="the secret is the key, as text and with its prefix", secret=str.encode
        ),
    }
}

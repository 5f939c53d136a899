"""Variations of webhooks: their body, their headers, and the key they are signed with."""

import json
from collections.abc import Callable

import attrs

from soundpiece_async.simulator.schema import ROUTES
from soundpiece_async.simulator.variations.variation import Table, Variation
from soundpiece_async.simulator.webhooks import Event


def _envelop(event: Event) -> Event:
    """Put the data into the envelope of the GET's answer."""
    body = json.loads(event.body)
    envelope = ROUTES[body["type"].rpartition(".")[0]].envelope
    return attrs.evolve(event, body=json.dumps({**body, "data": {envelope: body["data"]}}).encode())


def _stamp(write: Callable[[float], str]) -> Callable[[Event], Event]:
    return lambda event: attrs.evolve(event, timestamp=write(float(event.timestamp)))


EVENTS: Table = {
    "webhook": {
        "enveloped": Variation(part="webhook.body", meaning="`data` holds the envelope that a GET has", event=_envelop),
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

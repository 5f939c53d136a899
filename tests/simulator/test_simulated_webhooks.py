"""Webhooks: their body and signature, retries, duplicates, losses, and where they never go."""

import json
import time

import pytest
from helpers.idle import until
from helpers.simulator_client import opened
from helpers.webhook_receiver import listening, submit
from standardwebhooks import Webhook

from soundpiece_async.simulator import Simulator
from soundpiece_async.simulator.webhooks import Event, read_secret, sign

pytestmark = pytest.mark.anyio

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OTHER_SECRET = "whsec_" + "b3RoZXIgc2VjcmV0IG9mIHRoZSBhY2NvdW50"
UNHEARD = "http://127.0.0.1:9/nobody"


async def test_signs_as_the_contract_computes() -> None:
    """The test vector comes out (docs/api.md#webhooks)."""
    body = b'{"type":"create.new_sample.failed","data":{"id":"op_01kd0000000000000000000003","status":"failed"}}'
    event = Event(id="msg_test_0001", operation="op", url="", timestamp="1795341600", body=body)

    headers = sign(event, keys=(read_secret(SECRET),))
    assert headers == sign(event, keys=(read_secret(SECRET.replace("+", "-").replace("/", "_")),))

    assert headers["webhook-signature"] == "v1,wszklMCqPgAiC8WLliEJhfIMz7OvVTo+FDjtDj66d5k="


async def test_delivers_the_news() -> None:
    """One POST per operation that ended: type, bare operation, a signature any standard library accepts."""
    async with listening() as receiver, opened(allow_private_callbacks=True, webhook_secret=SECRET) as caller:
        identity = await submit(caller, receiver.url)
        await receiver.expect(1)
        current = (await caller.get(identity)).operation
        await until(lambda: len(caller.sim.deliveries) == 1)

    headers, body = receiver.got[0]
    future_members = json.loads(body)
    assert Webhook(SECRET).verify(body, headers) == future_members
    assert headers["Content-Type"] == "application/json"
    assert future_members["type"] == "create.new_fx.ready"
    assert future_members["data"].keys() == current.keys()
    assert "callback_url" not in future_members["data"]
    assert (future_members["data"]["id"], future_members["data"]["output"]["duration"]) == (identity, 0.5)
    delivery = caller.sim.deliveries[0]
    assert (delivery.operation, delivery.attempt, delivery.status) == (identity, 1, 204)
    assert (caller.sim.statistics().webhooks_sent, caller.sim.statistics().webhooks_delivered) == (1, 1)


async def test_tells_of_failures() -> None:
    """A failed operation is news too."""
    async with listening() as receiver, opened(allow_private_callbacks=True, durations=lambda _: 1e9) as caller:
        submitted = await caller.put("create.new_fx", prompt="x", duration=1, callback_url=receiver.url)
        caller.sim.finish(submitted.operation["id"], failure="sad")
        await receiver.expect(1)

    future_members = json.loads(receiver.got[0][1])
    assert (future_members["type"], future_members["data"]["error"]["code"]) == ("create.new_fx.failed", "sad")


async def test_signs_with_every_secret() -> None:
    """While secrets rotate, each of them verifies."""
    options = {"allow_private_callbacks": True, "webhook_secret": (OTHER_SECRET, SECRET)}
    async with listening() as receiver, opened(**options) as caller:
        await submit(caller, receiver.url)
        await receiver.expect(1)

    headers, body = receiver.got[0]
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(body, headers)


async def test_tries_again_unchanged() -> None:
    """What is not a 2xx, redirects included, is tried again: same id, timestamp, body and signature."""
    async with listening(statuses=[500, 302, 410]) as receiver, opened(allow_private_callbacks=True) as caller:
        await submit(caller, receiver.url)
        await receiver.expect(4)
        await until(lambda: caller.sim.statistics().webhooks_delivered == 1)

    own = [
        {name: value for name, value in headers.items() if name.startswith("webhook-")} for headers, _ in receiver.got
    ]
    assert all(headers == own[0] for headers in own)
    assert len({body for _, body in receiver.got}) == 1
    assert [(d.attempt, d.status) for d in caller.sim.deliveries] == [(1, 500), (2, 302), (3, 410), (4, 204)]
    assert abs(int(own[0]["webhook-timestamp"]) - time.time()) < 5


async def test_gives_up() -> None:
    """After the last attempt nothing more is sent; nobody listening counts like an error."""
    async with listening(statuses=[500] * 9) as receiver:
        async with opened(allow_private_callbacks=True, webhook_attempts=2) as caller:
            await submit(caller, receiver.url)
            await submit(caller, UNHEARD)
            await receiver.expect(2)
            await until(lambda: caller.sim._webhook_sender.counts["given_up"] == 2)

    assert sorted(str(delivery.status) for delivery in caller.sim.deliveries) == ["500", "500", "None", "None"]
    assert caller.sim.statistics().webhooks_delivered == 0


async def test_waits_only_so_long() -> None:
    """A receiver that takes longer than the timeout has not received."""
    options = {"allow_private_callbacks": True, "webhook_timeout": 0.05, "webhook_attempts": 1}
    async with listening(delay=0.3) as receiver, opened(**options) as caller:
        await submit(caller, receiver.url)
        await until(lambda: len(caller.sim.deliveries) == 1)

        assert caller.sim.deliveries[0].status is None


async def test_doubles_and_loses() -> None:
    """Shares of the webhooks come twice, with the same id, or never."""
    async with listening() as receiver, opened(allow_private_callbacks=True, webhook_duplicates=1.0) as caller:
        await submit(caller, receiver.url)
        await receiver.expect(2)
    async with opened(allow_private_callbacks=True, webhook_loss=1.0) as lossy:
        await submit(lossy, receiver.url)
        await until(lambda: lossy.sim.statistics().webhooks_lost == 1)

    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert lossy.sim.deliveries == []


async def test_stays_at_home() -> None:
    """Callbacks to public hosts are accepted and withheld; without a secret, or a callback, nothing is sent at all."""
    async with opened() as caller:
        await submit(caller, "https://hooks.example.com/soundpiece")
        await caller.run()
        assert caller.sim.statistics().webhooks_withheld == 1
        refused = await caller.put("create.new_fx", prompt="x", duration=1, callback_url="https://127.0.0.1/hook")
        assert refused.status == 422
    async with listening() as receiver, opened(allow_private_callbacks=True, webhook_secret=None) as silent:
        await submit(silent, receiver.url)
        await receiver.expect(0)
        assert silent.sim.statistics().webhooks_sent == 0


async def test_can_come_late() -> None:
    """A receiver that hangs delays no other."""
    async with (
        listening(delay=0.5) as slow,
        listening() as quick,
        opened(allow_private_callbacks=True, webhook_attempts=1) as caller,
    ):
        await submit(caller, slow.url)
        await submit(caller, quick.url)
        await quick.expect(1)
        assert len(caller.sim.deliveries) == 1
        assert repr(caller.sim._webhook_sender) == "<WebhookSender {'sent': 2, 'delivered': 1}, 0 queued>"


async def test_refuses_secrets_that_are_none() -> None:
    """A signing secret is base64 behind its prefix."""
    with pytest.raises(ValueError, match="whsec_"):
        Simulator(webhook_secret="whsec_not base64")


async def test_operations_without_a_callback_may_have_one() -> None:
    """``callback_url`` is where their webhooks go, as to a receiver that is tried out."""
    async with listening() as receiver, opened(callback_url=receiver.url, webhook_secret=SECRET) as caller:
        operation = await caller.run("create.new_fx", prompt="slam", duration=0.5)
        await receiver.expect(1)
    assert json.loads(receiver.got[0][1])["data"]["id"] == operation["id"]

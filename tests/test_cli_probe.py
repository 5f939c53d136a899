"""``soundpiece probe``: what it prints of the simulator as documented, and that it finds every variation."""

import json
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from helpers.ports import reserved_port
from helpers.simulation import Serve

from soundpiece_async import Settings
from soundpiece_async._http.client import HttpClient
from soundpiece_async.cli import main
from soundpiece_async.cli.probe.client import Client
from soundpiece_async.cli.probe.experiments import FX, OPERATIONS, ROUTES, STEMS, Experiments, _other_member
from soundpiece_async.cli.probe.findings import Comparison, Finding, Findings
from soundpiece_async.cli.probe.forms import MISSING, compare, show_form, show_time
from soundpiece_async.cli.probe.listener import Delivery, listen
from soundpiece_async.simulator import Fault, Simulator
from soundpiece_async.simulator.variations import TABLE

Streams = pytest.CaptureFixture[str]

HOLD = "wait=true on an operation in progress"
QUICK = ["--pause", "0.01", "--patience", "20"]
VARIATIONS = [f"{name}={value}" for name, values in TABLE.items() for value in values]


def make_simulator(*variations: str, **options: Any) -> Simulator:
    """Build a service whose second separation of stems fails, and whose effects outlast a hold."""
    in_progress = any(variation.startswith(("hold=", "repeat=")) for variation in variations)
    durations = {**dict.fromkeys(ROUTES, 2.0), FX: 300.0 if in_progress else 30.0}
    simulator = Simulator(
        speed=100.0 if variations else 20.0,  # a long poll is distinguished from a round trip by its duration
        track_seconds=(5.0, 5.5),
        durations=durations,
        variations=variations,
        **options,
    )
    simulator.inject(Fault.FAIL, route=STEMS, skip=1)
    return simulator


class Differing(Findings):
    """Rows that end the run at the first one that is not as usual."""

    def __init__(self, usual: Mapping[str, str]) -> None:
        super().__init__()
        self.differ = anyio.CancelScope()
        self._usual = usual

    def _add(self, question: str, *row: Any) -> None:
        super()._add(question, *row)
        latest = list(self)[-1]
        if self._usual.get(question, latest.observed) != latest.observed:
            self.differ.cancel()


async def ask(*variations: str, usual: Mapping[str, str] | None = None) -> dict[str, Finding]:
    """Run every experiment, that of a webhook too, and return the rows by their questions."""
    findings = Differing(usual or {})
    with reserved_port() as port:
        await experiment(findings, port, *variations)
    return {row.question: row for row in findings}


async def experiment(findings: Differing, port: int, *variations: str) -> None:
    async with make_simulator(*variations, allow_private_callbacks=True) as simulator, listen(port) as listener:
        settings = Settings(api_key=simulator.api_key, base_url=simulator.url, proxy=None)
        async with HttpClient(settings) as http:
            experiments = Experiments(Client(http), findings, pause=0.01, patience=20)
            with findings.differ:
                await experiments.run_free()
                await experiments.run_with_operations(f"http://127.0.0.1:{port}/hooks")
                secret = simulator.webhook_secret
                assert isinstance(secret, str)
                experiments.describe_webhook(await listener.wait(timeout=20), secret)


@pytest.mark.anyio
async def test_every_variation_is_found() -> None:
    """A service that differs from the documentation in one thing has at least one finding about it."""
    plain = await ask()
    assert plain[HOLD].verdict is Comparison.AGREES
    missed = VARIATIONS
    limiter = anyio.CapacityLimiter(16)

    async def look(variation: str) -> None:
        ignored = set() if variation.startswith("hold=") else {HOLD}
        usual = {question: row.observed for question, row in plain.items() if question not in ignored}
        async with limiter:
            rows = await ask(variation, usual=usual)
        if usual == {question: row.observed for question, row in rows.items() if question not in ignored}:
            missed.append(variation)

    for _ in range(3):  # an immediate answer is recognized by its time, which a busy machine may spoil
        tried, missed = missed, []
        async with anyio.create_task_group() as looks:
            for variation in tried:
                looks.start_soon(look, variation)
    assert missed == []


@pytest.mark.anyio
async def test_a_service_as_documented_agrees() -> None:
    """Every finding with an assumption agrees."""
    rows = await ask()
    assert [row for row in rows.values() if row.verdict is Comparison.DIFFERS] == []


def test_without_spend_nothing_is_created(serve: Serve, capsys: Streams) -> None:
    """At most three requests; the table lists what was not tried."""
    simulator = serve()
    assert main(["probe", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "GET of an unknown id of the documented form (U4)" in out
    assert "run again with --spend" in out
    assert out.rstrip().endswith("findings differ from the assumptions of this library (≠)")
    assert not simulator.operations
    assert {request.method for request in simulator.log} == {"GET"}


def test_with_spend(serve: Serve, free_port: int, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of operations is printed first and is right; neither key nor signature is in the report."""
    simulator = serve(durations={FX: 30.0}, allow_private_callbacks=True)
    simulator.inject(Fault.RATE_LIMITED, seconds=1)
    monkeypatch.setenv("SOUNDPIECE_WEBHOOK_SECRET", str(simulator.webhook_secret))
    where = ["--callback-url", f"http://127.0.0.1:{free_port}/", "--listen", str(free_port)]
    assert main(["probe", "--spend", "--json", *QUICK, *where]) == 0
    out, err = capsys.readouterr()
    assert f"This creates {OPERATIONS} operations at http://127.0.0.1:" in err
    accepted = [line for line in json.loads(out)["findings"] if line["observed"] == "200" and "U9" in line["question"]]
    assert len(simulator.operations) == OPERATIONS + len(accepted)
    assert simulator.api_key not in out
    assert not re.search(r"sig=|token=|https?://[^\"]*\?[^…]", out)
    found = {row["question"]: row for row in json.loads(out)["findings"]}
    assert found["responses 429 during this run (U12)"]["observed"] == "1"
    assert found["key of a webhook's signature (U10)"]["verdict"] == "agrees"


def test_wrong_usage(serve: Serve, capsys: Streams) -> None:
    """A webhook needs a URL, a port and an operation."""
    serve()
    for wrong in (["--listen", "8080"], ["--spend", "--callback-url", "https://a.example"]):
        assert main(["probe", *wrong]) == 2
        assert "require each other" in capsys.readouterr().err


@pytest.mark.anyio
async def test_a_service_that_is_not_there() -> None:
    """Every question gets a finding."""
    findings = Findings()
    settings = Settings(api_key="spk_x", base_url="http://127.0.0.1:9", proxy=None)
    async with HttpClient(settings) as http:
        experiments = Experiments(Client(http), findings, pause=0.01, patience=1)
        await experiments.run_free()
        await experiments.run_with_operations(None)
    assert all("no response" in row.observed for row in findings if row.question.startswith(("GET", "answers")))
    experiments.describe_webhook(None, "")
    assert list(findings)[-1].observed == "none received"


def test_forms() -> None:
    """A value is shown by its type and pattern, never by its content."""
    shown = {
        show_form(value): value for value in ("op_A1", "", None, True, 1.5, MISSING, [None, 1], {"b": 1, "a": 2}, {})
    }
    assert list(shown) == [
        '"a_A9"',
        "an empty text",
        "null",
        "true or false",
        "a number",
        "missing",
        "a list of 2 with null in it",
        "an object with a, b",
        "an object with nothing",
    ]
    assert show_time(1_700_000_000) == "a number of 10 digits"
    assert list(compare({"prompt": "Rain", "callback_url": "x"}, {"prompt": "RAIN"})) == ["prompt: in other letters"]
    assert list(compare({"prompt": "Rain"}, {"prompt": "Snow"})) == ["prompt: another text"]


@pytest.mark.anyio
async def test_an_odd_webhook_and_a_broken_host() -> None:
    """Every outcome is a row: a body that is not JSON, an invalid secret, a dropped connection."""
    async with make_simulator() as simulator:
        simulator.inject(Fault.RESET_BEFORE, host="output", skip=1)
        settings, findings = Settings(api_key=simulator.api_key, base_url=simulator.url, proxy=None), Findings()
        async with HttpClient(settings) as http:
            experiments = Experiments(Client(http), findings, pause=0.01, patience=20)
            await experiments.run_with_operations(None)
    found = {row.question: row for row in findings}
    assert "reset" in found["a part of a file"].observed
    for secret, observed in (
        ("spk_x", "SOUNDPIECE_WEBHOOK_SECRET is not a secret"),
        ("whsec_AAAA", "none fits"),
        ("", ""),
    ):
        experiments.describe_webhook(Delivery(headers={"webhook-id": "msg_1"}, body=b"<"), secret)
        assert list(findings)[-1].observed == observed
    rows = {row.question: row.observed for row in findings}
    assert rows["data of a webhook"] == "null"
    assert rows["timestamp of a webhook (U10)"] == "0 digits"


def test_the_table(serve: Serve, capsys: Streams) -> None:
    """Three lines per question; differences are marked; webhooks need a URL."""
    serve(durations={FX: 30.0}, variations=["expires=epoch"])
    assert main(["probe", "--spend", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "≠ expires_at of the outputs of create.new_fx\n    observed: a number of 10 digits\n" in out
    assert "- webhooks (U10)\n" in out


def test_a_file_without_header_or_length() -> None:
    """A finding is missing or different, without an error."""
    findings = Findings()
    experiments = Experiments(cast("Any", None), findings, pause=0, patience=0)
    experiments._describe_audio({}, None)
    assert [row.observed for row in findings] == ["no FLAC header"]
    experiments._describe_audio({}, SimpleNamespace(tag=0, sample_rate=44100, channels=2, bits=16, duration=None))
    assert [row.observed for row in findings][1:] == ["FLAC at 44100 Hz", "2 channels, 16 bits"]


def test_outputs_under_another_name_are_reported() -> None:
    """Fields that are not outputs, and our own source, are not named."""
    output = {"url": "https://x.example/a.flac", "duration": 1.0}
    assert _other_member({"clips": [output], "source": output, "id": "op"}) == "clips: a list of 1"
    assert _other_member({"id": "op"}) == "nothing"


@pytest.mark.anyio
@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_that_arrives_while_the_listener_closes_is_closed(free_port: int, turns: int) -> None:
    """However many turns of the loop it is old; asyncio would forget one whose task begins after its server closed."""
    async with listen(free_port):
        delivery = socket.create_connection(("127.0.0.1", free_port))
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    with delivery:
        delivery.settimeout(5)
        with suppress(ConnectionResetError):  # it was not accepted any more
            assert delivery.recv(1) == b""

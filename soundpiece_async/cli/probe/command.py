"""The command ``soundpiece probe`` and its table."""

import json
import os
from typing import Annotated

import attrs
from cyclopts import Parameter
from cyclopts.validators import Number

from soundpiece_async import Settings
from soundpiece_async.cli.arguments import POSITIVE
from soundpiece_async.cli.console import UsageError, print_result, print_status
from soundpiece_async.cli.probe.findings import Comparison, Findings

WEBHOOK_PATIENCE = 60.0
"""Seconds to wait for a webhook after the last experiment."""


async def probe(
    *,
    spend: bool = False,
    callback_url: str | None = None,
    listen: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    patience: Annotated[float, POSITIVE] = 300.0,
    pause: Annotated[float, POSITIVE] = 1.0,
    as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False,
) -> None:
    """Compare the service with the assumptions of this library, and print a table to attach to an issue.

    The API documentation leaves questions open; this runs experiments that answer them for the service at
    SOUNDPIECE_BASE_URL. Without --spend nothing is created. The table contains no key, no signed URL and none of your
    texts.

    Args:
        spend: also run the experiments that create operations, whose number is printed first.
        callback_url: public URL that forwards to --listen, to receive a webhook; its secret is read from
            SOUNDPIECE_WEBHOOK_SECRET.
        listen: local port that receives the webhook.
        patience: maximum seconds to wait for an operation.
        pause: seconds between two requests for the same operation.
        as_json: print JSON instead of a table.
    """
    if (callback_url is None) != (listen is None) or (listen is not None and not spend):
        raise UsageError("--callback-url and --listen require each other and --spend")
    settings, findings = Settings(), Findings()
    await _run_experiments(
        settings, findings, spend=spend, webhook=(callback_url, listen), pause=pause, patience=patience
    )
    print_result(_write_json(findings, settings.base_url) if as_json else _write_table(findings))


async def _run_experiments(
    settings: Settings,
    findings: Findings,
    *,
    spend: bool,
    webhook: tuple[str | None, int | None],
    pause: float,
    patience: float,
) -> None:
    """Print what the experiments create, and run them; ``webhook``: its public URL and the port to listen on."""
    from soundpiece_async._http.client import HttpClient  # it brings aiohttp, and --help needs none
    from soundpiece_async.cli.probe.client import Client
    from soundpiece_async.cli.probe.experiments import EXTRA_OPERATIONS, OPERATIONS, Experiments
    from soundpiece_async.cli.probe.listener import listen

    if spend:
        print_status(
            f"This creates {OPERATIONS} operations at {settings.base_url}, and up to {EXTRA_OPERATIONS} more if it "
            "accepts requests that it should reject."
        )
    callback, port = webhook
    async with HttpClient(settings) as http:
        client = Client(http)
        experiments = Experiments(client, findings, pause=pause, patience=patience)
        await experiments.run_free()
        if port is not None:
            async with listen(port) as listener:
                await experiments.run_with_operations(callback)
                delivered = await listener.wait(timeout=min(patience, WEBHOOK_PATIENCE))
            experiments.describe_webhook(delivered, os.environ.get("SOUNDPIECE_WEBHOOK_SECRET", ""))
        elif spend:
            await experiments.run_with_operations(None)
    if not spend:
        findings.skip("questions that require operations (U1 to U3, U5, U7 to U9, U11)", "run again with --spend")
    if port is None:
        findings.skip("webhooks (U10)", "run again with --spend, --callback-url and --listen")
    findings.skip("402, how long a key is remembered, prices (U6, U13, U16)", "ask the vendor")
    findings.note("responses 429 during this run (U12)", str(client.limited), "the rate is learned from them")


def _write_json(findings: Findings, base_url: str) -> str:
    from soundpiece_async._version import __version__  # one name

    rows = [attrs.asdict(row) for row in findings]
    return json.dumps({"version": __version__, "base_url": base_url, "findings": rows}, indent=1, ensure_ascii=False)


def _write_table(findings: Findings) -> str:
    marks = {Comparison.AGREES: "  ", Comparison.DIFFERS: "≠ ", Comparison.OPEN: "  ", Comparison.NOT_TRIED: "- "}
    lines = []
    for row in findings:
        lines += [
            f"{marks[row.verdict]}{row.question}",
            f"    observed: {row.observed or '-'}",
            f"    assumed:  {row.assumed}",
        ]
    differing = sum(row.verdict is Comparison.DIFFERS for row in findings)
    return "\n".join(
        [*lines, f"{differing} of {len(list(findings))} findings differ from the assumptions of this library (≠)"]
    )

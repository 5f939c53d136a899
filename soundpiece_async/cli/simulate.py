"""``soundpiece simulate``: a simulated service on this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import attrs
from cyclopts import Parameter
from cyclopts.validators import Number

from soundpiece_async.cli.arguments import POSITIVE
from soundpiece_async.cli.console import UsageError, did_you_mean, print_result, print_status

if TYPE_CHECKING:
    from soundpiece_async.simulator import Faults
    from soundpiece_async.simulator.variations import Variations

DEFAULT_SPEED = 20.0
"""Fast enough for a person at a terminal."""
VARIATIONS_HELP = (
    "NAME=VALUE, repeatable: behaviour that the API documentation leaves open, such as echo=strip or expires=epoch. "
    "Names: audio, body, created, download, duration, echo, encoding, envelope, error, expires, "
    "firewall, hold, id, id-in, kind, length, link, outputs, read, read-id, repeat, status, submit, webhook. An "
    "invalid value prints the valid ones."
)


FAULTS_HELP = (
    "KIND=SHARE, repeatable: fault to inject, such as server_error=0.1 for a tenth of all requests. Kinds: "
    "bad_gateway, corrupt, cut, fail, gateway_timeout, reset_after, reset_before, server_error, stall."
)


async def simulate(
    *,
    speed: Annotated[float, POSITIVE] = DEFAULT_SPEED,
    seed: int = 0,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    output_port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    host: str = "127.0.0.1",
    public_url: str | None = None,
    rate_limit: Annotated[float | None, POSITIVE] = None,
    callback: str | None = None,
    fault: Annotated[list[str] | None, Parameter(negative=(), help=FAULTS_HELP)] = None,
    variation: Annotated[list[str] | None, Parameter(negative=(), help=VARIATIONS_HELP)] = None,
) -> None:
    """Run a simulated service until Ctrl-C, and print its URL, key and webhook secret as shell commands.

    Any client can use it, including 'soundpiece run'. It returns real audio after realistic waits, at no cost.

    Args:
        speed: speed of the operations relative to the real service.
        seed: random seed for the generated audio.
        port: port of the API; 0 selects a free one.
        output_port: port of the output host; 0 selects a free one.
        host: interface to listen on; 0.0.0.0 for all, as in a container.
        public_url: URL for clients, if it differs, as with a mapped port.
        rate_limit: maximum requests per second of the account; further requests get 429.
        callback: webhook URL of operations without a callback_url, such as http://127.0.0.1:8000/hook. With it,
            webhooks go to private networks, and only there.
        fault: see `FAULTS_HELP`.
        variation: see `VARIATIONS_HELP`.
    """
    from soundpiece_async.simulator import Simulator  # its extra may be missing

    service = Simulator(
        speed=speed,
        seed=seed,
        port=port,
        output_port=output_port,
        host=host,
        public_url=public_url,
        requests_per_second=rate_limit,
        callback_url=callback,
        allow_private_callbacks=callback is not None,
        faults=_parse_faults(fault or ()),
        variations=_parse_variations(variation or ()),
    )
    async with service:
        print_status(f"simulated service at {service.url}, {speed:g} times as fast as the real one; Ctrl-C stops it")
        print_status("paste these lines into another terminal, then try: soundpiece run create.new_fx 'door slams'")
        for name, value in {**service.environ, "SOUNDPIECE_WEBHOOK_SECRET": service.webhook_secret}.items():
            print_result(f"export {name}={value}")
        await anyio.sleep_forever()


def _parse_variations(written: Sequence[str]) -> "Variations":
    from soundpiece_async.simulator.variations import read_variations

    try:
        return read_variations(written)
    except ValueError as error:
        raise UsageError(f"--variation: {error}") from error


def _parse_faults(written: Sequence[str]) -> "Faults":
    from soundpiece_async.simulator import Faults

    kinds = sorted(
        name for name, field in attrs.fields_dict(Faults).items() if field.default == 0.0 and field.type is float
    )
    shares: dict[str, Any] = {}
    for text in written:
        kind, _, share = text.partition("=")
        if kind not in kinds:
            raise UsageError(
                f"--fault: unknown kind {kind!r}{did_you_mean(kind, kinds)}; known kinds: {', '.join(kinds)}"
            )
        try:
            shares[kind] = float(share)
        except ValueError:
            raise UsageError(f"--fault: {text!r} has no share; {kind}=0.1 is a tenth of all requests") from None
    try:
        return Faults(**shares)
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from error

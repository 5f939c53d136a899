"""``soundpiece simulate``: the service in a box, for as long as it is wanted."""

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
"""A person at a terminal does not wait a minute for a first song."""
VARIATIONS_HELP = (
    "NAME=VALUE, and as often as you like: what it does where the documentation is silent, such as echo=strip or "
    "expires=epoch. The names: audio, body, created, download, duration, echo, encoding, envelope, error, expires, "
    "firewall, hold, id, id-in, kind, length, link, outputs, read, read-id, repeat, status, submit, webhook. An "
    "unknown value is answered with those there are."
)


FAULTS_HELP = (
    "KIND=SHARE, and as often as you like: what goes wrong, as server_error=0.1 for a tenth of all requests. The kinds "
    "are bad_gateway, corrupt, cut, fail, gateway_timeout, reset_after, reset_before, server_error and stall."
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
    """Run a simulated service until Ctrl-C, and print its URL, its key and its webhook secret as shell commands.

    Point any client at it, 'soundpiece run' as well: its audio is real, its waits are realistic, and nothing is paid.

    Args:
        speed: how many times faster than the real service the work is done.
        seed: another seed makes other music.
        port: where to listen on this machine; 0 is any free port.
        output_port: the same for the host of the audio.
        host: the interface to listen on; 0.0.0.0 for all, as in a container.
        public_url: the URL as clients have it, where that is another one, as of a mapped port.
        rate_limit: requests per second that the account may send; more are answered 429.
        callback: where webhooks go, as http://127.0.0.1:8000/hook, of operations that name no callback_url themselves;
            addresses of private networks are called then, and no others.
        fault: what goes wrong, see `FAULTS_HELP`.
        variation: what it does where the documentation is silent, see `VARIATIONS_HELP`.
    """
    from soundpiece_async.simulator import Simulator  # noqa: PLC0415 - its extra may be missing

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
        print_status("in another terminal, paste these lines, then try: soundpiece run create.new_fx 'door slams'")
        for name, value in {**service.environ, "SOUNDPIECE_WEBHOOK_SECRET": service.webhook_secret}.items():
            print_result(f"export {name}={value}")
        await anyio.sleep_forever()


def _parse_variations(written: Sequence[str]) -> "Variations":
    from soundpiece_async.simulator.variations import read_variations  # noqa: PLC0415 - as above

    try:
        return read_variations(written)
    except ValueError as error:
        raise UsageError(f"--variation: {error}") from error


def _parse_faults(written: Sequence[str]) -> "Faults":
    from soundpiece_async.simulator import Faults  # noqa: PLC0415 - as above

    kinds = sorted(
        name for name, field in attrs.fields_dict(Faults).items() if field.default == 0.0 and field.type is float
    )
    shares: dict[str, Any] = {}
    for text in written:
        kind, _, share = text.partition("=")
        if kind not in kinds:
            raise UsageError(f"--fault: no kind {kind!r}{did_you_mean(kind, kinds)}; the kinds are {', '.join(kinds)}")
        try:
            shares[kind] = float(share)
        except ValueError:
            raise UsageError(f"--fault: {text!r} has no share, as {kind}=0.1 for a tenth of all") from None
    try:
        return Faults(**shares)
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from error

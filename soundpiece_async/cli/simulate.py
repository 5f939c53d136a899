"""``soundpiece simulate``: the service in a box, for as long as it is wanted."""

from typing import Annotated

import anyio
from cyclopts import Parameter
from cyclopts.validators import Number

from soundpiece_async.cli.endings import UsageError
from soundpiece_async.cli.flags import POSITIVE
from soundpiece_async.cli.speech import say

VARIATIONS_HELP = (
    "NAME=VALUE, and as often as you like: what it does where the documentation is silent, such as echo=strip or "
    "expires=epoch. The names: audio, created, download, duration, echo, encoding, envelope, error, expires, firewall, "
    "hold, id, kind, length, outputs, read, repeat, status, submit, webhook. An unknown value is answered with those "
    "there are."
)


async def simulate(
    *,
    speed: Annotated[float, POSITIVE] = 1.0,
    seed: int = 0,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    output_port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    host: str = "127.0.0.1",
    public_url: str | None = None,
    variation: Annotated[list[str] | None, Parameter(negative=(), help=VARIATIONS_HELP)] = None,
) -> None:
    """Run a simulated service until Ctrl-C, and print its URL and its key as shell commands.

    Point any client at it, 'soundpiece run' as well: its audio is real, its waits are realistic, and nothing is paid.

    Args:
        speed: how many times faster than the real service the work is done.
        seed: another seed makes other music.
        port: where to listen on this machine; 0 is any free port.
        output_port: the same for the host of the audio.
        host: the interface to listen on; 0.0.0.0 for all, as in a container.
        public_url: the URL as clients have it, where that is another one, as of a mapped port.
        variation: what it does where the documentation is silent, see `VARIATIONS_HELP`.
    """
    # its extra may be missing, and --help needs none
    from soundpiece_async.simulator import Simulator  # noqa: PLC0415
    from soundpiece_async.simulator.variations import read_variations  # noqa: PLC0415

    try:
        variations = read_variations(variation or ())
    except ValueError as error:
        raise UsageError(f"--variation: {error}") from error
    service = Simulator(
        speed=speed,
        seed=seed,
        port=port,
        output_port=output_port,
        host=host,
        public_url=public_url,
        variations=variations,
    )
    async with service:
        for name, value in service.environ.items():
            say(f"export {name}={value}")
        await anyio.sleep_forever()

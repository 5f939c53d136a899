"""A webhook receiver that saves every ready operation, whichever process submitted it.

    SOUNDPIECE_API_KEY=spk_... SOUNDPIECE_WEBHOOK_SECRET=whsec_... python examples/receiver.py out

Put it behind a public https address, and use that address as the `callback_url` of requests, with the path below. The
account needs an active signing secret, or nothing is sent at all. Deliveries may be duplicated, late or lost: to miss
none, also wait by handle.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from soundpiece_async import Operation, Session, SoundpieceError, Status
from soundpiece_async.webhooks import Webhooks, aiohttp_handler

WORKERS = 8


async def save(session: Session, deliveries: "asyncio.Queue[Operation[Any]]", out: Path) -> None:
    """Save one operation after the other; its webhook was answered before, within the service's 10 seconds."""
    while True:
        operation = await deliveries.get()
        if operation.status is Status.FAILED:
            print("failed", operation.handle, operation.error, sep="\t", flush=True)
            continue
        try:
            for file in await session.download(operation, out):  # an expired URL is renewed
                print("saved", operation.handle, file.path, sep="\t", flush=True)
        except SoundpieceError as error:
            print("missing", operation.handle, error, sep="\t", flush=True)


async def main(out: Path, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Listen until cancelled."""
    deliveries: asyncio.Queue[Operation[Any]] = asyncio.Queue()
    webhooks = Webhooks([os.environ["SOUNDPIECE_WEBHOOK_SECRET"]])  # while secrets rotate: both
    app = web.Application()
    app.router.add_post(
        "/hooks/soundpiece", aiohttp_handler(webhooks, deliveries.put_nowait)
    )  # invalid deliveries are answered
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        async with Session() as session, asyncio.TaskGroup() as workers:
            for _ in range(WORKERS):
                workers.create_task(save(session, deliveries, out))
            await web.TCPSite(runner, host, port).start()
            print(f"listening at http://{host}:{port}/hooks/soundpiece", flush=True)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)

"""Run the studio: ``python examples/studio``, then open the address it prints."""

import argparse
import logging
import os
from pathlib import Path

from aiohttp import web
from app import make_app
from yarl import URL

from soundpiece_async import SettingsError


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A small web application that generates music with Soundpiece.")
    parser.add_argument("--host", default="127.0.0.1", help="put a login in front before you change this")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data", type=Path, default=Path("studio-data"), help="folder for its database and audio")
    parser.add_argument("--speed", type=float, default=4.0, help="speed of the simulated service; 1 is realistic")
    options = parser.parse_args()
    if not options.port:
        parser.error("--port must not be 0: it is part of the address that webhooks are sent to")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    own_url = f"http://127.0.0.1:{options.port}"
    other_urls = [url for url in [os.environ.get("STUDIO_PUBLIC_URL")] if url]
    if options.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened to
        other_urls.append(str(URL.build(scheme="http", host=options.host, port=options.port)))
    try:
        web.run_app(
            make_app(options.data, own_url=own_url, speed=options.speed, other_urls=other_urls),
            host=options.host,
            port=options.port,
            handler_cancellation=True,  # a disconnect ends the event stream, and nothing else
            shutdown_timeout=2,
            access_log=None,
            print=lambda _: print(f"The studio is running at {own_url}  (Ctrl-C to stop)", flush=True),
        )
    except (SettingsError, OSError, ValueError) as error:  # an invalid key, a port in use, an invalid URL
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

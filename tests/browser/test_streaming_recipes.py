"""The applications of the guide on streaming, as they stand there, used by a real browser that plays and seeks."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from helpers.app_servers import serve_aiohttp, serve_asgi
from helpers.documents import ROOT, Block, make_module, read_blocks
from playwright.sync_api import Page, expect
from quart import Quart
from studio import Service, open_service

from soundpiece_async import Session

GUIDE = read_blocks(ROOT / "docs" / "how-to" / "streaming.md")
PAGE = next(block for block in GUIDE if block.language == "html")
APPS = [block for block in GUIDE if 'title="app.py"' in block.info]


@pytest.fixture(scope="module")
def slow_service() -> Iterator[Service]:
    """A service with music of half a minute, of which a browser has little when it seeks."""
    changes = {"durations": {"create.new_instrumental": math.inf}, "track_seconds": (32.0, 33.0), "n_variations": 1}
    with open_service(**changes, download_rate=300_000) as opened:
        yield opened


@contextmanager
def serve(app: Block, service: Service, folder: Path) -> Iterator[tuple[str, Session]]:
    """Run an application of the guide, with its page beside it; gives its address and its session."""
    (folder / "page.html").write_text(PAGE.code)
    module = make_module("app")
    exec(compile("\n" * app.line + app.code, str(app.page), "exec"), vars(module))  # noqa: S102 - our own guide
    made: Any = vars(module)["app"]
    with service.portal.wrap_async_context_manager(
        serve_aiohttp(made) if isinstance(made, web.Application) else serve_asgi(made)
    ) as url:
        match made:
            case web.Application():
                session = made[vars(module)["SESSION"]]
            case Quart():
                session = made.extensions["soundpiece"]
            case _:
                session = made.state.session
        yield url, session


@pytest.mark.parametrize("app", APPS, ids=["fastapi", "starlette", "aiohttp", "quart"])
def test_a_page_submits_shows_progress_plays_and_seeks(
    app: Block, slow_service: Service, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jump to the end is a range of its own, long before the file is there."""
    monkeypatch.chdir(tmp_path)
    for name, value in slow_service.environ.items():
        monkeypatch.setenv(name, value)
    with serve(app, slow_service, tmp_path) as (url, session):
        page.goto(url)
        page.get_by_role("button", name="Make it").click()
        state, audio = page.get_by_role("status"), page.locator("audio")
        expect(state).to_contain_text("Processing")
        slow_service.finish_all()
        expect(state).to_have_text("Ready.")
        audio.evaluate("audio => audio.play()")
        page.wait_for_function("document.querySelector('audio').currentTime > 0.2")
        seen = len(slow_service.sim.log)
        assert audio.evaluate("audio => audio.duration") > 30
        audio.evaluate(
            "audio => new Promise((go) => { audio.onseeked = go; audio.currentTime = audio.duration - 0.5; })"
        )
        page.wait_for_function("document.querySelector('audio').ended")
        asked = [entry.range for entry in list(slow_service.sim.log)[seen:]]
        assert any(wanted and not wanted.startswith("bytes=0-") for wanted in asked)
        page.goto("about:blank")
        deadline = time.monotonic() + 20
        while session.statistics().active_downloads and time.monotonic() < deadline:
            time.sleep(0.05)
        assert session.statistics().active_downloads == 0  # a visitor who left holds no stream

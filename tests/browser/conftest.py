"""A real Chromium, as a person would use it; the servers that it looks at run in processes of their own."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from studio import Service, Studio, open_service, open_studio

QUIET = [
    "--no-sandbox",  # as root, as on a build machine
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]

expect.set_options(timeout=10_000)  # milliseconds; for machines that have other work too


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests."""
    path = shutil.which("chromium")
    assert path, "these tests need Chromium: nox -s browser"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh page on which any error, of script or of network, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(8_000)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield opened
    context.close()
    assert faults == []


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A simulated service for all tests that do no harm to it."""
    with open_service() as opened:
        yield opened


@pytest.fixture(scope="session")
def studio(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio for them."""
    with open_studio(tmp_path_factory.mktemp("studio") / "data", service) as opened:
        yield opened

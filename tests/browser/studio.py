"""The studio in a process of its own, as a person runs it, and the service it talks to in a thread of this one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser, Locator, Page, expect

from soundpiece_async.simulator import Simulator

STUDIO = Path(__file__).parents[2] / "examples" / "studio"


class Service:
    """A simulated service that outlives any studio."""

    def __init__(self, sim: Simulator, portal: BlockingPortal) -> None:
        self.sim = sim
        self.portal = portal

    @property
    def environ(self) -> dict[str, str]:
        """What leads a studio to it, webhooks included."""
        return {**self.sim.environ, "SOUNDPIECE_WEBHOOK_SECRET": str(self.sim.webhook_secret)}

    @property
    def puts(self) -> list[Any]:
        """Every submission, in order of arrival."""
        return [entry for entry in list(self.sim.log) if entry.method == "PUT"]

    def finish_all(self) -> None:
        """Finish all operations now."""
        for operation in list(self.sim.operations):
            self.portal.call(self.sim.finish, operation)


@contextmanager
def open_service(**changes: Any) -> Iterator[Service]:
    """Run a simulator; short audio and quick work by default."""
    with start_blocking_portal() as portal:
        sim = Simulator(
            **{"speed": 60, "track_seconds": (3.0, 4.0), "allow_private_callbacks": True, "seed": 3, **changes}
        )
        with portal.wrap_async_context_manager(sim):
            yield Service(sim, portal)


class Studio:
    """One studio, which can be killed and started again: same folder, same port."""

    def __init__(self, folder: Path, service: Service | None = None, *, speed: float = 60) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.log = folder.with_suffix(".log")
        self._speed = speed
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SOUNDPIECE", "STUDIO"))}
        self._environ = ours | ({} if service is None else {**service.environ, "STUDIO_PUBLIC_URL": self.url})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with every warning an error, and wait until it answers."""
        command = [sys.executable, "-W", "error", STUDIO, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own example
                [*command, "--data", self.folder, "--speed", str(self._speed)],
                env=self._environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def start_another(self, *, port: int) -> "subprocess.CompletedProcess[str]":
        """Start another one on the same folder, which must end by itself."""
        return subprocess.run(  # noqa: S603 - as above
            [sys.executable, STUDIO, "--port", str(port), "--data", self.folder],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def kill(self) -> None:
        """Kill the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Close it as a process manager does; gives its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(10)


@contextmanager
def open_studio(folder: Path, service: Service | None = None, **details: Any) -> Iterator[Studio]:
    """Run a studio; whatever it had to say about itself on the way fails the test."""
    studio = Studio(folder, service, **details)
    studio.start()
    try:
        yield studio
    finally:
        code = studio.stop()
    expected = ("The studio is running", "WARNING studio: sound", "WARNING soundpiece_async.webhooks: answered 4")
    said = [line for line in studio.log.read_text().splitlines() if line and not line.startswith(expected)]
    if code or said:
        pytest.fail("\n".join((f"exit code {code}", *said)))


@contextmanager
def browse(chromium: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A browser of another person, who may see a server go away: such faults are no failure."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def make(page: Page, kind: str, prompt: str, **more: str) -> Locator:
    """Fill in the form, send it, and give the sound."""
    page.get_by_role("radio", name=kind).check()
    form = page.locator("#compose")
    form.get_by_label("Prompt").fill(prompt)
    for label, value in more.items():
        form.get_by_label(label).fill(value)
    page.get_by_role("button", name="Generate").click()
    return sound(page, prompt)


def sound(page: Page, title: str) -> Locator:
    """Find a sound by its title."""
    return page.get_by_role("article", name=title, exact=True)


def expect_ready(article: Locator) -> Locator:
    """Wait until a sound can be heard."""
    expect(article).to_have_attribute("data-state", "ready", timeout=15_000)
    return article


def level(page: Page) -> float:
    """How loud the page is now."""
    return float(page.evaluate("import('/static/player.js').then((player) => player.level())"))


def expect_loudness(page: Page, *, heard: bool) -> None:
    """Wait until there is sound, or none."""
    page.wait_for_function(
        "(heard) => import('/static/player.js').then((player) => player.level() > 0.003 === heard)", arg=heard
    )

"""Write the screenshots in docs/img: ``python tests/browser/pictures.py`` (the font they were taken with is Inter)."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright
from studio import Service, Studio, browse, expect_ready, make, open_service, open_studio, sound

from soundpiece_async.simulator import Fault

IMAGES = Path(__file__).parents[2] / "docs" / "img"
LYRICS = "[Verse]\nRain again on Harbour Street\nLights go by in pairs\n[Chorus]\nStay a while"


@contextmanager
def open_gallery(chromium: Browser, folder: Path, **changes: Any) -> Iterator[Studio]:
    """Run a studio that has something of everything: ready, split, in the making, failed."""
    with open_service(durations={"create.new_instrumental": math.inf}, **changes) as service:
        with open_studio(folder / "data", service) as studio:
            with browse(chromium, studio.url) as page:
                _furnish(page, service)
            yield studio


def _furnish(page: Page, service: Service) -> None:
    service.sim.inject(Fault.SERVER_ERROR, method="PUT", status=402)
    failed = make(page, "Effect", "heavy wooden door slams in a stone hall", Seconds="2.5")
    expect(failed).to_have_attribute("data-state", "failed")
    expect_ready(make(page, "Sample", "funk guitar riff, dry, 100 bpm", Seconds="8"))
    song = expect_ready(make(page, "Song", "indie folk, warm, female vocal", Lyrics=LYRICS))
    song.get_by_role("button", name="Split").click()
    expect_ready(sound(page, "Stems of take 1"))
    make(page, "Instrumental", "slow synthwave, rain on the window")


def settle(page: Page) -> None:
    """Look at everything, and wait until its audio was measured; what is far below is not fetched before."""
    expect(page.get_by_role("article")).to_have_count(5)
    for article in (*page.get_by_role("article").all(), page.get_by_role("banner")):
        article.scroll_into_view_if_needed()
    expect(page.locator("article[data-state=ready]:not([data-measured])")).to_have_count(0)
    page.evaluate(
        "Promise.all(document.getAnimations().filter(a => a.animationName === 'arrive').map(a => a.finished))"
    )


def take_picture(page: Page, path: Path) -> None:
    """Write a screenshot while stems are playing."""
    settle(page)
    if page.get_by_role("button", name="New sound").is_visible():
        page.get_by_role("button", name="New sound").click()
    page.locator("#prompt").fill("dream pop, slow, shimmering guitars, male vocal")
    page.locator("#lyrics").fill(LYRICS)
    stems = sound(page, "Stems of take 1")
    stems.get_by_role("button", name="Mute Drums").click()
    stems.get_by_role("slider").fill("9")
    stems.get_by_role("button", name="Play").click()
    expect(stems.locator(".time")).to_contain_text("0:10")
    if page.viewport_size and page.viewport_size["width"] < 900:
        page.get_by_role("article", name="indie folk").evaluate("it => scrollTo(0, it.offsetTop - 24)")
    page.screenshot(path=path)


def main() -> None:
    """Write all screenshots."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with open_gallery(chromium, Path(folder), track_seconds=(24.0, 28.0)) as studio:
            for name, width, height in (("studio", 1280, 940), ("studio-phone", 390, 844)):
                for scheme in ("light", "dark"):
                    viewport = {"width": width, "height": height}
                    with browse(
                        chromium, studio.url, viewport=viewport, color_scheme=scheme, device_scale_factor=1.5
                    ) as page:
                        take_picture(page, IMAGES / f"{name}-{scheme}.png")
        chromium.close()


if __name__ == "__main__":
    main()

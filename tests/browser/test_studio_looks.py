"""How the studio looks, to eyes and to a screen reader."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from pictures import open_gallery, settle
from playwright.sync_api import Browser
from studio import Studio, browse, sound


@pytest.fixture(scope="module")
def gallery(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio that has something of everything."""
    with open_gallery(chromium, tmp_path_factory.mktemp("gallery")) as studio:
        yield studio


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_and_contrast(chromium: Browser, gallery: Studio, scheme: str) -> None:
    """Axe finds nothing to complain about, in either scheme, nor while a question is open."""
    with browse(chromium, gallery.url, color_scheme=scheme, reduced_motion="reduce") as page:
        settle(page)
        sound(page, "Stems of take 1").get_by_role("button", name="Mute Drums").click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        sound(page, "indie folk, warm, female vocal").get_by_role("button", name="Remix").click()
        page.get_by_role("dialog").get_by_label("Lyrics").fill("")
        page.get_by_role("dialog").get_by_role("button", name="Remix").click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_all_of_it(chromium: Browser, gallery: Studio, width: int) -> None:
    """Nothing is wider than the screen, and everything to touch is large enough."""
    with browse(chromium, gallery.url, viewport={"width": width, "height": 844}, has_touch=True) as page:
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is None or min(box["width"], box["height"]) >= 28


def test_who_asks_for_less_motion_gets_none(chromium: Browser, gallery: Studio) -> None:
    """Something is in the making, and nothing moves but the numbers."""
    with browse(chromium, gallery.url) as page:
        settle(page)
        assert page.evaluate("document.getAnimations().length") > 0
        page.emulate_media(reduced_motion="reduce")
        assert page.evaluate("document.getAnimations().length") == 0

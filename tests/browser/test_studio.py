"""The studio, used by people who look, listen and type."""

import re

from playwright.sync_api import Browser, Locator, Page, expect
from studio import Service, Studio, browse, expect_loudness, expect_ready, level, make, sound


def test_a_song_is_made_and_heard(page: Page, studio: Studio, service: Service) -> None:
    """From a prompt to sound: the clock moves, the output is not silent, and a pause stops both."""
    page.goto(studio.url)
    song = expect_ready(make(page, "Song", "indie folk, warm", Lyrics="[Verse]\nThe kettle sings"))
    expect(song).to_have_attribute("data-measured", "0")  # its waveform was drawn from decoded audio

    song.get_by_role("button", name="Play").click()
    expect_loudness(page, heard=True)
    expect(song.locator(".time")).to_have_text(re.compile(r"0:0[1-4] / 0:0[34]"))
    song.get_by_role("button", name="Pause").click()
    expect_loudness(page, heard=False)

    song.get_by_role("radio", name="Take 2").check()
    expect(song).to_have_attribute("data-measured", "1")
    with page.expect_download() as download:
        song.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "indie-folk-warm.flac"
    assert download.value.path().read_bytes().startswith(b"fLaC")
    assert {delivery.status for delivery in service.sim.deliveries} == {204}  # a webhook told, on loopback


def replay(article: Locator) -> None:
    """Play from near the beginning, for a second."""
    article.get_by_role("slider").fill("0.1")
    if article.get_by_role("button", name="Play").is_visible():
        article.get_by_role("button", name="Play").click()
    expect(article.locator(".time")).to_contain_text("0:01 /")


def test_stems_are_soloed_and_muted(page: Page, studio: Studio) -> None:
    """Four tracks in step; a mute silences one, a solo all others, and all mutes together everything."""
    page.goto(studio.url)
    song = expect_ready(make(page, "Song", "disco", Lyrics="[Verse]\nLights"))
    song.get_by_role("button", name="Split into stems").dblclick()  # is one form all the same
    stems = expect_ready(sound(page, "Stems of take 1"))
    expect(song.get_by_role("button", name=re.compile("Split"))).to_have_count(0)  # that is done
    song.get_by_role("radio", name="Take 2").check()
    expect(song.get_by_role("button", name="Split into stems")).to_be_visible()
    stems.get_by_role("button", name="Play").click()
    expect_loudness(page, heard=True)

    for name in ("Vocals", "Drums", "Bass"):
        stems.get_by_role("button", name=f"Mute {name}").click()
    replay(stems)
    expect_loudness(page, heard=True)
    stems.get_by_role("button", name="Mute Other").click()  # at once, while it plays
    page.wait_for_timeout(150)
    assert level(page) < 0.001
    assert stems.get_by_role("button", name="Pause").is_visible()  # it is silent, and not over
    stems.get_by_role("button", name="Solo Other").click()
    expect(stems.locator(".lane.silent .name")).to_have_text(["Vocals", "Drums", "Bass"])
    replay(stems)
    expect_loudness(page, heard=True)
    expect(stems.get_by_role("button", name="Solo Other")).to_have_attribute("aria-pressed", "true")

    song.get_by_role("button", name="Play").click()  # one sounds at a time
    expect(stems.get_by_role("button", name="Play")).to_be_visible()


def test_what_is_there_becomes_something_else(page: Page, studio: Studio) -> None:
    """Cut down and remixed in a dialog, from the take that was chosen; a loop, and an effect of a length."""
    page.goto(studio.url)
    track = expect_ready(make(page, "Instrumental", "techno"))
    track.get_by_role("radio", name="Take 2").check()
    track.get_by_role("button", name="Cut down").click()
    page.get_by_label("Seconds").last.fill("1.5")
    page.get_by_role("button", name="Cut", exact=True).click()
    cut = expect_ready(sound(page, "Cut to 1.5 s of take 2"))
    expect(cut.locator(".meta")).to_have_text("0:01")

    track.get_by_role("button", name="Remix").click()
    page.get_by_label("Variations").fill("3")
    page.get_by_role("dialog").get_by_role("button", name="Remix").click()
    expect(expect_ready(sound(page, "Remix of take 2")).get_by_role("radio")).to_have_count(3)

    page.get_by_role("radio", name="Sample").check()
    page.get_by_label("Seamless loop").check()
    loop = expect_ready(make(page, "Sample", "funk riff", Seconds="1"))
    expect(loop.locator(".meta")).to_have_text("Sample · loop · 0:01")
    effect = expect_ready(make(page, "Effect", "door slams", Seconds="2.5"))
    expect(effect.get_by_role("button", name="Split")).to_have_count(0)


def test_a_keyboard_is_enough(page: Page, studio: Studio) -> None:
    """From an empty form to a cut, by keys alone; the focus is always on something that can be seen."""
    page.goto(studio.url)
    expect(page.get_by_text("Simulated service")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("slider", name="Volume")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="Song")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text("Enter a text.")
    page.keyboard.type("waltz")
    page.keyboard.press("Control+Enter")
    waltz = expect_ready(sound(page, "waltz"))

    play = waltz.get_by_role("button", name="Play")
    for _ in range(12):
        page.keyboard.press("Tab")
        if play.evaluate("node => node === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect_loudness(page, heard=True)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(waltz.get_by_role("slider", name="Position in waltz")).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(waltz.get_by_role("slider")).to_have_attribute("aria-valuetext", re.compile(r"^0:00 of"))
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Seconds")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(waltz.get_by_role("button", name="Cut down")).to_be_focused()


def test_two_browsers_at_once(chromium: Browser, page: Page, studio: Studio) -> None:
    """Each sees what the other makes, at once; both hear it; a page that is loaded again finds everything."""
    page.goto(studio.url)
    with browse(chromium, studio.url) as other:
        make(page, "Effect", "rain from the left", Seconds="1")
        make(other, "Effect", "rain from the right", Seconds="1")
        for someone in (page, other):
            for side in ("left", "right"):
                expect_ready(sound(someone, f"rain from the {side}"))
        there = other.get_by_role("article").count()
        sound(other, "rain from the left").get_by_role("button", name="Play").click()
        expect_loudness(other, heard=True)
    page.reload()
    expect(page.get_by_role("article")).to_have_count(there)
    expect_ready(sound(page, "rain from the right"))


def test_a_piece_is_renamed_and_deleted(page: Page, studio: Studio) -> None:
    """Its audio goes with it; what was made of it stays."""
    page.goto(studio.url)
    track = expect_ready(make(page, "Instrumental", "plain waltz"))
    track.get_by_role("button", name="Cut down").click()
    page.get_by_label("Seconds").last.fill("1")
    page.get_by_role("button", name="Cut", exact=True).click()
    cut = expect_ready(sound(page, "Cut to 1 s of take 1"))
    track.get_by_role("button", name="Rename").click()
    page.get_by_label("Title").fill("")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text("Enter a text.")
    page.get_by_label("Title").fill("evening  walk")
    page.get_by_role("button", name="Rename", exact=True).click()
    page.reload()
    track = expect_ready(sound(page, "evening walk"))
    audio = [str(link.get_attribute("href")) for link in track.get_by_role("link").all()]
    assert page.request.get(f"{studio.url}{audio[0]}").status == 200
    track.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(track).to_have_count(0)
    expect(cut).to_be_visible()
    assert page.request.get(f"{studio.url}{audio[0]}").status == 404


def test_the_volume_is_kept(page: Page, studio: Studio) -> None:
    """It is that of everything, and of the next visit."""
    page.goto(studio.url)
    expect(page.get_by_text("An example application of soundpiece_async")).to_be_visible()
    effect = expect_ready(make(page, "Effect", "a loud horn", Seconds="4"))
    volume = page.get_by_role("slider", name="Volume")
    volume.fill("0")
    effect.get_by_role("button", name="Play").click()
    expect(effect.get_by_role("button", name="Pause")).to_be_visible()
    page.wait_for_timeout(200)
    assert level(page) < 0.001
    volume.fill("1")
    expect_loudness(page, heard=True)
    volume.fill("0.5")
    page.reload()
    expect(volume).to_have_value("0.5")


def test_on_a_phone_the_form_folds_away(chromium: Browser, studio: Studio) -> None:
    """It is opened, used, and gone: what it made is what is looked at."""
    with browse(chromium, studio.url, viewport={"width": 390, "height": 844}) as page:
        form = page.locator("#compose")
        expect(form).to_be_hidden()
        page.get_by_role("button", name="New sound").click()
        make(page, "Effect", "a small bell", Seconds="1")
        expect(form).to_be_hidden()
        expect_ready(sound(page, "a small bell"))

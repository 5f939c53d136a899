"""What goes wrong is said in the page, in plain words, and trying again is never paid for twice."""

import json
from pathlib import Path

from playwright.sync_api import Browser, Page, expect
from studio import Service, Studio, browse, expect_ready, make, open_service, open_studio

from soundpiece_async.simulator import Fault


def test_an_empty_account(page: Page, studio: Studio, service: Service) -> None:
    """402: nothing was made; once the account is topped up, the same sound is sent again."""
    service.sim.inject(Fault.SERVER_ERROR, method="PUT", status=402)
    page.goto(studio.url)
    effect = make(page, "Effect", "empty pockets", Seconds="1")
    expect(effect).to_contain_text("The account has no credits left. Nothing was charged")
    effect.get_by_role("button", name="Try again").click()
    expect_ready(effect)
    first, second = service.puts[-2:]
    assert first.body == second.body


def test_a_form_that_the_service_refuses(page: Page, studio: Studio, service: Service) -> None:
    """422: the page names the field and repeats the reason; what was refused can be put away."""
    page.goto(studio.url)
    page.get_by_role("radio", name="Effect").check()
    seconds = page.locator("#compose").get_by_label("Seconds")
    seconds.fill("700")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_have_text(["Enter a text.", "Enter a number from 0.5 to 600."])
    expect(page.locator("#compose").get_by_label("Prompt")).to_be_focused()
    page.locator("#compose").get_by_label("Prompt").fill("far too long")
    expect(page.get_by_role("alert")).to_have_text(["Enter a number from 0.5 to 600."])
    page.get_by_role("button", name="Generate").click()
    expect(seconds).to_have_accessible_description("Enter a number from 0.5 to 600.")
    expect(seconds).to_be_focused()
    before = len(service.puts)
    seconds.evaluate("field => field.removeAttribute('max')")  # as if the page knew of no limit
    effect = make(page, "Effect", "far too long")
    expect(effect).to_contain_text("The service rejected the request: duration: Input should be less than")
    effect.get_by_role("button", name="Delete").click()
    expect(effect).to_have_count(0)
    page.reload()
    expect(page.get_by_text("Reconnecting").or_(page.get_by_text("Connecting"))).to_have_count(0)
    expect(effect).to_have_count(0)
    assert len(service.puts) == before + 1


def test_work_that_failed(page: Page, studio: Studio, service: Service) -> None:
    """The service gave up: its own words are shown, and trying again is another operation, with another key."""
    service.sim.inject(Fault.FAIL, code="internal_error")
    page.goto(studio.url)
    effect = make(page, "Effect", "broken glass", Seconds="1")
    expect(effect).to_contain_text("The operation failed: The operation could not be completed.")
    effect.get_by_role("button", name="Try again").click()
    expect_ready(effect)
    first, second = (json.loads(entry.body) for entry in service.puts[-2:])
    assert first.pop("idempotency_key") != second.pop("idempotency_key")
    assert first == second


def test_audio_that_cannot_be_fetched(page: Page, studio: Studio, service: Service) -> None:
    """The sound is paid for, so only its audio is fetched again."""
    service.sim.inject(Fault.SERVER_ERROR, host="output", status=403, times=4)
    page.goto(studio.url)
    effect = make(page, "Effect", "radio noise", Seconds="1")
    expect(effect).to_contain_text("its audio could not be downloaded")
    before = len(service.puts)
    effect.get_by_role("button", name="Try again").click()
    expect_ready(effect)
    assert len(service.puts) == before


def test_a_key_that_was_revoked(chromium: Browser, tmp_path: Path) -> None:
    """The sound was accepted before: with a good key the studio goes on waiting for it, and pays for nothing more."""
    with open_service(speed=0.001) as service, open_studio(tmp_path / "data", service) as studio:
        with browse(chromium, studio.url) as page:
            track = make(page, "Instrumental", "locked door")
            expect(track).to_have_attribute("data-state", "making")
            studio.kill()  # or it would wait for a webhook, and ask for nothing
            service.sim.inject(Fault.SERVER_ERROR, method="GET", host="api", status=401)
            studio.start()
            expect(track).to_contain_text("The API key was rejected.")
            service.finish_all()
            track.get_by_role("button", name="Try again").click()
            expect_ready(track)
        assert len(service.puts) == 1


def test_a_server_that_is_away(chromium: Browser, studio: Studio, service: Service) -> None:
    """A form that could not be sent stays in the form; sent again, it has the key it had."""
    before = len(service.puts)
    with browse(chromium, studio.url) as page:
        page.route("**/sounds", lambda route: (route.fetch(), route.abort()))  # it arrives, and the answer is lost
        form = page.locator("#compose")
        effect = make(page, "Effect", "lost letter", Seconds="1")
        expect(form.get_by_role("alert")).to_contain_text("nothing is submitted twice")
        page.unroute("**/sounds")
        page.get_by_role("button", name="Generate").click()
        expect(form.get_by_role("alert")).to_be_hidden()
        expect_ready(effect)
        expect(effect).to_have_count(1)
    assert len(service.puts) == before + 1


def test_what_makes_no_sense_is_refused(page: Page, studio: Studio) -> None:
    """Whatever is posted: 400 with a word, never a 500, and nothing is begun."""
    page.goto(studio.url)
    bodies = ["", "[]", "null", '{"kind": "create.nothing"}', '{"kind": "create.new_fx", "fields": null}']
    bodies += ['{"kind": "adapt.separate_stems", "fields": {}, "parent": 1, "take": -1}', "[" * 100_000]
    bodies += ['{"kind": "create.new_fx", "fields": {"prompt": "x", "duration": NaN}}']
    bodies += ['{"kind": "adapt.separate_stems", "fields": {}, "parent": 999}', '{"kind": "create.new_fx", "key": 5}']
    bodies += ['{"kind": "create.new_fx", "fields": {}}', '{"kind": ["x"], "fields": {}}', "\ud83d{"]
    for body in bodies:
        answer = page.request.post(f"{studio.url}/sounds", data=body.encode(errors="ignore"))
        assert (answer.status, list(answer.json())) == (400, ["problem"]), body
    for path in ("/audio/none.flac", "/audio/..%2fstudio.sqlite", "/static/../work.py"):
        assert page.request.get(f"{studio.url}{path}").status == 404
    strange = page.request.post(f"{studio.url}/sounds", data="{}", headers={"Sec-Fetch-Site": "cross-site"})
    assert strange.status == 403
    assert page.request.post(f"{studio.url}/sounds/999/again").status == 204
    assert page.request.post(f"{studio.url}/hooks/soundpiece", data=b"junk").status == 400

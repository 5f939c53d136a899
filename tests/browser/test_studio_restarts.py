"""The studio is killed at bad moments, and started again: nothing is lost, and nothing is paid for twice."""

from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from studio import Studio, browse, expect_loudness, expect_ready, make, open_service, open_studio, sound

from soundpiece_async.simulator import Fault

pytestmark = pytest.mark.timeout(90)  # seconds: each starts the studio several times


def test_killed_while_it_waits_and_while_it_sends_then_closed(chromium: Browser, tmp_path: Path) -> None:
    """Handles and keys are in the database before anything else happens; the page finds its way back by itself."""
    with open_service(speed=0.001) as service, open_studio(tmp_path / "data", service) as studio:
        with browse(chromium, studio.url) as page:
            waiting = make(page, "Instrumental", "slow dub")
            expect(waiting).to_have_attribute("data-state", "making")
            service.sim.inject(Fault.STALL, method="PUT", seconds=60)  # it took effect, and the answer never comes
            sending = make(page, "Effect", "thunder", Seconds="1")
            expect(sending).to_have_attribute("data-state", "sending")
            while len(service.puts) < 2:
                page.wait_for_timeout(10)

            studio.kill()
            expect(page.get_by_text("Reconnecting")).to_be_visible()
            studio.start()
            expect(page.get_by_text("Reconnecting")).to_be_hidden(timeout=10_000)
            expect(sending).to_have_attribute("data-state", "making")

            with closing(HTTPConnection("127.0.0.1", studio.port)) as events:
                events.request("GET", "/events")
                stream = events.getresponse()
                assert studio.stop() == 0  # an open page does not keep it from closing in good order
                assert stream.read().endswith(b"\n\n")  # nor is its stream cut off
                stream.close()
            studio.start()
            service.finish_all()
            expect_ready(waiting)
            expect_ready(sending).get_by_role("button", name="Play").click()
            expect_loudness(page, heard=True)

        bodies = [entry.body for entry in service.puts]
        assert len(bodies) == 3
        assert bodies[1] == bodies[2]  # the very same bytes, with the very same key
        assert len(service.sim.operations) == 2


def test_killed_while_a_derived_sound_is_sent(chromium: Browser, tmp_path: Path) -> None:
    """The signed URL of a source is part of the request, and so it is kept too; another take stays the other take."""
    with open_service(variations=["outputs=shuffled"]) as service, open_studio(tmp_path / "data", service) as studio:
        with browse(chromium, studio.url) as page:
            song = expect_ready(make(page, "Song", "ballad", Lyrics="[Verse]\nOh"))
            song.get_by_role("radio", name="Take 2").check()
            service.sim.inject(Fault.STALL, method="PUT", seconds=60)
            song.get_by_role("button", name="Split").click()
            stems = sound(page, "Stems of take 2")
            expect(stems).to_have_attribute("data-state", "sending")
            while len(service.puts) < 2:
                page.wait_for_timeout(10)
            studio.kill()
            studio.start()
            another = studio.start_another(port=studio.port)
            assert another.returncode == 1
            assert "another studio uses it" in another.stderr
            expect_ready(stems)
            assert stems.locator(".time").inner_text() == song.locator(".time").inner_text()
        first, second = (entry.body for entry in service.puts[1:])
        assert first == second
        assert len(service.sim.operations) == 2


def test_the_simulated_service_comes_back_too(chromium: Browser, tmp_path: Path) -> None:
    """Without a key there is nothing but the studio itself: what was made is there, and more can be made of it."""
    with open_studio(tmp_path / "data", speed=200) as studio, browse(chromium, studio.url) as page:
        expect(page.get_by_text("Simulated service, free of charge")).to_be_visible()
        page.get_by_role("button", name="slow synthwave").click()  # an idea fills the form
        page.get_by_role("button", name="Generate").click()
        track = expect_ready(sound(page, "slow synthwave, rain on the window"))
        expect(page.get_by_text("Nothing here yet")).to_be_hidden()
        studio.kill()
        studio.start()
        page.reload()
        track.get_by_role("radio", name="Take 2").check()
        track.get_by_role("button", name="Cut down").click()
        page.get_by_role("button", name="Cut", exact=True).click()
        cut = expect_ready(page.get_by_role("article", name="of take 2"))
        cut.get_by_role("button", name="Play").click()
        expect_loudness(page, heard=True)


def test_a_port_that_is_not_known_beforehand_is_refused(tmp_path: Path) -> None:
    """It is part of the address that webhooks are sent to."""
    refused = Studio(tmp_path / "data").start_another(port=0)
    assert refused.returncode == 2
    assert "--port must not be 0" in refused.stderr
    assert not (tmp_path / "data").exists()

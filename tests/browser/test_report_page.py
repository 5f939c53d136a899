"""The page that a bulk run leaves behind, opened from the disk as people open it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers.reports import FAILED, a_night, make_audio, make_journal, saved
from helpers.simulation import Serve
from playwright.sync_api import Browser, Page, expect

from soundpiece_async import Journal
from soundpiece_async.cli.report import write_report
from soundpiece_async.simulator import Fault

HOSTILE = "</script><img src=x onerror=hacked=1><script>hacked=1</script><b>bold\u202e"
COUNT = 10_000
ROWS = "#table tbody tr:not(.more)"


def make_report(folder: Path, rows: list[Any]) -> Path:
    """Write the report of a journal with these rows, in a thread: this one's loop is Playwright's."""

    async def work() -> Path:
        await make_journal(folder, rows)
        async with Journal.open(folder, read_only=True) as journal:
            return await write_report(journal)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(partial(anyio.run, work)).result()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report of ten thousand pieces; the files of the first hundred are there."""
    folder = tmp_path_factory.mktemp("night")
    rows = a_night(COUNT, seconds=6500)
    make_audio(folder / "tone.flac")
    for row in rows[:100]:
        for file in json.loads(row["files"] or "[]"):
            os.link(folder / "tone.flac", folder / file["path"])
    return make_report(folder, rows).as_uri()


@pytest.fixture
def listen(page: Page) -> Callable[[], list[str]]:
    """Return what the page fetched so far."""
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    return lambda: fetched


def wait(page: Page, condition: str) -> None:
    """Wait for a condition in the page; Playwright's own way would be stopped by its policy."""
    page.evaluate(f"async () => {{ while (!({condition})) await new Promise((go) => setTimeout(go, 20)); }}")


def shown(page: Page) -> str:
    """Return the line that counts the jobs shown."""
    return page.locator("#found").inner_text()


def first(page: Page, column: str = "name") -> str:
    """Return the text of the first row."""
    return page.locator(f"{ROWS} .{column}").first.inner_text()


def test_ten_thousand_pieces_are_shown_a_page_at_a_time(
    page: Page, night: str, listen: Callable[[], list[str]]
) -> None:
    """All are in the page, few are in its document, and nothing is fetched until it is played."""
    page.goto(night)
    expect(page.get_by_role("heading", level=1)).to_have_text("9,647 of 10,000 jobs are saved.")
    assert shown(page) == "1 to 50 of 10,000 jobs"
    assert page.locator(ROWS).count() == 50
    assert page.locator("audio").count() == 1
    assert page.locator(".player").count() > 50
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    assert page.locator("#throughput .good").count() > 90
    assert page.locator("#waiting tbody tr").count() == 8
    assert page.get_by_role("list", name="Jobs by state").inner_text().split("\n") == [
        "9,647 saved",
        "256 failed",
        "97 planned",
    ]
    assert listen() == [night]


def test_a_file_is_heard(page: Page, night: str) -> None:
    """Chromium plays FLAC: one file at a time, from the chosen position, and on to the next if enabled."""
    page.goto(night)
    deck, rows = page.locator("#deck"), page.locator(ROWS)
    top = deck.get_by_role("heading")
    expect(top).to_have_text(first(page))
    deck.get_by_role("button", name="Play", exact=False).click()
    wait(page, "document.querySelector('audio').currentTime > 0.2")
    plays = page.locator("#table .play")
    names = [str(plays.nth(number).get_attribute("aria-label")).partition(" ")[2] for number in range(3)]
    assert [plays.nth(number).get_attribute("aria-label") for number in range(3)] == [
        f"Pause {names[0]}",
        f"Play {names[1]}",
        f"Play {names[2]}",
    ]
    plays.nth(1).click()
    expect(plays.nth(0)).to_have_attribute("aria-label", f"Play {names[0]}")
    expect(plays.nth(1)).to_have_attribute("aria-label", f"Pause {names[1]}")
    wait(page, "document.querySelector('audio').currentTime > 0")
    deck.get_by_label("Play on to the next").check()
    page.locator("#table .player input").nth(1).fill("1.9")
    expect(plays.nth(2)).to_have_attribute("aria-label", f"Pause {names[2]}")
    deck.get_by_role("button", name="Previous file").click()
    expect(plays.nth(1)).to_have_attribute("aria-label", f"Pause {names[1]}")
    page.get_by_role("button", name="Next", exact=True).click()
    wait(page, "!document.querySelector('audio').paused")
    assert rows.count() == 50


def test_pieces_are_found_sorted_and_turned_over(page: Page, night: str) -> None:
    """Everything applies to all pieces, and not just to those on the page."""
    page.goto(night)
    page.get_by_label("State").last.select_option("failed")
    assert shown(page) == "1 to 50 of 256 jobs"
    assert set(page.locator(f"{ROWS} .state").all_inner_texts()) == {"failed"}
    page.get_by_label("Search").fill("content meadow-00088")
    expect(page.locator("#found")).to_have_text("1 to 1 of 1 job with all of these words")
    assert first(page) == "signal-meadow-00088"
    assert "content policy" in page.locator(f"{ROWS} .error").inner_text()
    page.get_by_label("Search").fill("no such piece")
    expect(page.locator("#found")).to_have_text("No job matches.")
    page.get_by_role("button", name="Show all").click()
    assert shown(page) == "1 to 50 of 10,000 jobs"
    page.get_by_role("button", name="Waited").click()
    page.get_by_role("button", name="Waited").click()
    assert page.get_by_role("columnheader", name="Waited").get_attribute("aria-sort") == "descending"
    waits = [float(text.split(" ")[0].replace(":", "")) for text in page.locator(f"{ROWS} .waited").all_inner_texts()]
    assert waits == sorted(waits, reverse=True)
    page.get_by_label("Page", exact=True).fill("200")
    page.get_by_label("Page", exact=True).press("Enter")
    assert shown(page) == "9,951 to 10,000 of 10,000 jobs"
    page.get_by_role("button", name="Back", exact=True).click()
    assert shown(page) == "9,901 to 9,950 of 10,000 jobs"
    page.get_by_label("Route").last.select_option("adapt.separate_stems")
    assert set(page.locator(f"{ROWS} .route").all_inner_texts()) == {"separate stems"}


def test_a_reason_leads_to_its_pieces(page: Page, night: str) -> None:
    """From what failed to which failed, and back."""
    page.goto(night)
    reason = page.locator("#failures li").nth(2)
    assert "422" in reason.inner_text()
    count = reason.locator(".number").inner_text()
    reason.get_by_role("button").click()
    assert shown(page) == f"1 to {count} of {count} jobs that failed with 422"
    assert page.evaluate("document.activeElement.id") == "jobs"


def test_it_works_without_a_mouse(page: Page, night: str) -> None:
    """Every control is reached and used by keyboard, and the focus stays where it was."""
    page.goto(night)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to the pieces
    names = []
    for _ in range(13):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert names[:3] == ["search", "state", "route"]
    assert names[3:10] == ["Line", "Job", "Route", "State", "Waited", "Length", "Files"]
    assert names[10] == first(page)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    details = page.locator("#table .more")
    expect(details).to_contain_text("Operation")
    page.keyboard.press("Enter")
    expect(details).to_have_count(0)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    wait(page, "document.querySelector('audio').currentTime > 0")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    wait(page, "document.querySelector('audio').ended")
    page.get_by_role("button", name="Next", exact=True).focus()
    page.keyboard.press("Enter")
    assert shown(page) == "51 to 100 of 10,000 jobs"
    assert page.evaluate("document.activeElement.innerText") == "Next"
    page.get_by_text("As a table").focus()
    page.keyboard.press("Enter")
    wait(page, "document.querySelectorAll('#throughput-table tr').length > 90")


@pytest.mark.parametrize(("scheme", "width", "search"), [("light", 1280, "-0982"), ("dark", 390, "-0995")])
def test_everyone_can_use_it(chromium: Browser, night: str, scheme: Any, width: int, search: str) -> None:
    """The checks of axe find nothing, by day and by night, on a desk and on a phone, which need not scroll sideways."""
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(night)
    page.get_by_label("Search").fill(search)  # ten pieces in several states: axe takes its time with every row
    expect(page.locator("#found")).to_have_text("1 to 10 of 10 jobs")
    page.locator(".name").first.click()
    page.get_by_text("As a table").click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_hostile_words_do_nothing(page: Page, tmp_path: Path, listen: Callable[[], list[str]]) -> None:
    """A name, a prompt, metadata, an error and a folder that try to be markup are shown as what they are."""
    folder = tmp_path / "<img src=x onerror=hacked=1>"
    folder.mkdir()
    words = {
        "name": HOSTILE,
        "title": HOSTILE,
        "body": json.dumps({"prompt": HOSTILE}).encode(),
        "metadata": json.dumps(HOSTILE),
        "error_text": HOSTILE,
        "error_code": HOSTILE,
        "route": HOSTILE,
    }
    rows = [saved("100% #1?"), saved("gone"), saved("c") | words, FAILED | words]
    make_audio(folder / "100% #1?.flac", seconds=0.3)
    address = make_report(folder, rows).as_uri()
    page.goto(address)
    assert page.locator("img, p b").count() == 0
    names = page.locator(f"{ROWS} .name").all_inner_texts()
    assert names == ["100% #1?", "gone", HOSTILE, HOSTILE]
    for name in page.locator(f"{ROWS} .name").all():
        name.click()
    assert page.locator("#folder").inner_text() == folder.name
    assert page.evaluate("typeof hacked") == "undefined"
    page.locator("#table .play").nth(0).click()
    wait(page, "document.querySelector('audio').ended")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert all(url.startswith(folder.as_uri()) for url in listen())


def test_a_file_that_is_gone_is_said_to_be(chromium: Browser, tmp_path: Path) -> None:
    """A page may be moved away from its files."""
    page = chromium.new_page()  # whose console may complain
    page.goto(make_report(tmp_path, [saved("gone")]).as_uri())
    page.locator("#table .play").click()
    expect(page.get_by_role("alert")).to_contain_text("is gone.flac still beside this page?")
    page.close()


def unnamed(number: int, *, prompt: str, **changes: Any) -> dict[str, Any]:
    """Return a saved job without a name."""
    operation = f"op_01kd{number:022}"
    body = json.dumps({"prompt": prompt}).encode()
    return saved(operation, **changes) | {"name": None, "operation": operation, "line": number, "body": body}


def test_a_report_explains_itself(chromium: Browser, tmp_path: Path) -> None:
    """Lines of the file, prompts before ids, takes, phrases, the longest file, and commands that can be copied."""
    takes = unnamed(12, prompt="bed, warm", kinds=(None, None))
    files = json.loads(str(takes["files"]))
    for number, (file, seconds) in enumerate(zip(files, (61.0, 75.0), strict=True), start=1):
        file |= {"path": f"{takes['operation']}-{number}.flac", "duration": seconds}
    takes["files"] = json.dumps(files)
    rows = [takes, *(saved(f"bed-{number}") | {"line": 20 + number} for number in (1, 2)), FAILED | {"line": 30}]
    context = chromium.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(make_report(tmp_path, rows).as_uri())
    assert page.locator(f"{ROWS} .line").all_inner_texts() == ["12", "21", "22", "30"]
    assert first(page) == "bed, warm"
    row = page.locator(ROWS).first
    assert row.locator(".id").inner_text() == takes["operation"]
    assert row.locator(".player .label").all_inner_texts() == ["Take 1", "Take 2"]
    assert row.locator(".length").inner_text() == "1:15"
    expect(page.locator("#deck .note")).to_have_text("Take 1 · new fx")
    expect(page.get_by_role("columnheader", name="p95")).to_be_visible()
    row.locator(".name").click()
    link = page.locator("#table .more a").first
    assert link.inner_text() == link.get_attribute("download") == f"{takes['operation']}-1.flac"
    expect(page.locator("#table .more")).to_contain_text("00000000-0000-4000-8000-000000000001")
    page.get_by_role("button", name="Copy: ").first.click()
    expect(page.get_by_role("button", name="Copy: ").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"soundpiece resume {tmp_path} --retry-failed"
    for search, found in (("bed-2", 1), ("BED,  WARM", 1), ("warm bed", 1), ("door", 3)):
        page.get_by_label("Search").fill(search)
        expect(page.locator(ROWS)).to_have_count(found)
    context.close()


PIPELINE = [
    {"route": "adapt.auto_cut_down", "target_duration": 1, "source": {"job": "stems", "output": "*"}, "name": "cut"},
    {"id": "stems", "route": "adapt.separate_stems", "source": {"job": "bed", "output": 0}, "name": "stems"},
    {"route": "create.new_fx", "prompt": "door", "duration": 0.5, "name": "door"},
    {"id": "bed", "route": "create.new_instrumental", "prompt": "ambient, slow", "name": "bed"},
    {"id": "lost", "route": "create.new_song", "lyrics": "[Verse]\nLost", "prompt": "folk", "name": "lost"},
    {"route": "adapt.separate_stems", "source": {"job": "lost"}, "name": "blocked"},
]


def left_edges(page: Page) -> list[float]:
    """Return where the name in each row begins."""
    boxes = [name.bounding_box() for name in page.locator(f"{ROWS} .name").all()]
    return [box["x"] for box in boxes if box]


def test_a_pipeline_is_a_tree_that_can_be_listened_through(page: Page, serve: Serve, tmp_path: Path) -> None:
    """What is made from a job stands below it, further in; keys open its details, and play it and what follows."""
    serve().inject(Fault.FAIL, route="create.new_song")
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    jobs.write_text("".join(f"{json.dumps(line)}\n" for line in PIPELINE))
    words = [sys.executable, "-m", "soundpiece_async", "bulk", str(jobs), str(out)]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 1  # noqa: S603 - our own
    page.goto((out / "report.html").as_uri())
    rows = page.locator(ROWS)
    expect(page.get_by_role("heading", level=1)).to_contain_text("7 of 9 jobs are saved")
    names = page.locator(f"{ROWS} .name").all_inner_texts()
    tree = {"door": 0, "bed": 0, "stems": 1, **dict.fromkeys(names[3:7], 2), "lost": 0, "blocked": 1}
    assert names == list(tree)
    assert set(names[3:7]) == {f"cut-{kind}" for kind in ("bass", "drums", "other", "vocals")}
    edges = left_edges(page)
    levels = dict(zip(tree.values(), edges, strict=True))
    assert edges == [levels[depth] for depth in tree.values()]
    assert levels[0] < levels[1] < levels[2]
    expect(rows.nth(8)).to_contain_text("failed: operation create.new_song/op_")
    cut = rows.nth(3)
    cut.locator(".name").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#table .more")).to_contain_text("stems, output ")
    page.keyboard.press("Enter")
    expect(page.locator("#table .more")).to_have_count(0)
    page.locator("#deck").get_by_label("Play on to the next").check()
    rows.nth(2).locator(".play").last.focus()
    page.keyboard.press("Enter")
    wait(page, "document.querySelector('audio').currentTime > 0")
    page.keyboard.press("Tab")
    page.keyboard.press("End")  # the stems end, and what was made from them follows
    expect(cut.locator(".play")).to_have_attribute("aria-label", f"Pause {names[3]}")
    wait(page, "document.querySelector('audio').currentTime > 0")
    expect(page.get_by_role("cell", name=f"{names[3]} made from stems")).to_be_visible()  # as a screen reader says it

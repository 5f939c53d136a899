"""What is written works: every block runs, every command is understood, every link leads somewhere."""

import logging
import os
import re
import runpy
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.documents import (
    CLI,
    IMAGES,
    LANGUAGES,
    PAGES,
    PUBLISHED,
    ROOT,
    Block,
    check_command,
    list_commands,
    make_module,
    read_anchors,
    read_blocks,
    read_commands,
    read_links,
    read_prose,
    with_help,
)
from helpers.object_stores import serve_bucket
from helpers.simulation import settings, simulate

import soundpiece_async
from soundpiece_async import Session
from soundpiece_async._core.requests import ROUTES
from soundpiece_async.cli.console import UsageError

BLOCKS = {str(page.relative_to(ROOT)): read_blocks(page) for page in PAGES}
RUNNABLE = [name for name, blocks in BLOCKS.items() if any(block.language == "python" for block in blocks)]


DURATIONS = dict.fromkeys(ROUTES, 4.0) | {"create.new_instrumental": 80.0}
"""Seconds, to be divided by the speed. Examples of what is still being made take an instrumental."""

FEW = 3

FILES = {"README.md": 2 + 1 + 4 + 10, "docs/tutorials/bulk-job.md": 6, "docs/tutorials/pipeline.md": 16}
FILES |= {"docs/tutorials/best-take.md": 6, "docs/tutorials/local-files.md": 8}
"""What comes of some of them, at least."""


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    """What a page sets up for the logs of a program is not for the tests that come after it."""
    logger = logging.getLogger("soundpiece_async")
    level, handlers, propagate = logger.level, [*logger.handlers], logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:], logger.propagate = handlers, propagate


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lead ``s3://songs`` to a server of ours."""
    with serve_bucket() as served:
        for variable, value in served.environ.items():
            monkeypatch.setenv(variable, value)
        yield


@pytest.mark.anyio
@pytest.mark.usefixtures("_logs_as_before")
@pytest.mark.parametrize("name", RUNNABLE)
async def test_every_program_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Run a page from its top, with the environment a reader has, and compare what it prints."""
    monkeypatch.chdir(tmp_path)
    if "s3://songs/" in (ROOT / name).read_text():
        request.getfixturevalue("bucket")
    async with simulate(durations=DURATIONS, allow_private_callbacks=True) as simulator:
        for variable, value in simulator.environ.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("SOUNDPIECE_WEBHOOK_SECRET", str(simulator.webhook_secret))
        async with Session(settings(simulator)) as session:
            page = make_module(name)
            monkeypatch.setitem(sys.modules, name, page)  # where frameworks look up the types of a handler
            namespace: dict[str, Any] = vars(page)
            namespace |= {"session": session, "simulator": simulator}
            for block in BLOCKS[name]:
                if block.language == "python" and block.runs:
                    await block.run(namespace)
    left = Counter(path.suffix for path in tmp_path.rglob("*"))
    assert left[".part"] == 0
    assert left[".flac"] >= FILES.get(name, 0)


def test_every_block_is_looked_at() -> None:
    """It is of a language we know; those that say that they cannot be run are few."""
    blocks = [block for page in BLOCKS.values() for block in page]
    assert {block.language for block in blocks} <= LANGUAGES
    assert sum(not block.runs for block in blocks) <= FEW
    assert [page.name for page in PAGES if re.search(r"\n\n {4,}\S", read_prose(page))] == []  # those nothing looks at


SHELL = [block for blocks in BLOCKS.values() for block in blocks if block.language == "sh"]


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_every_command_is_understood(block: Block) -> None:
    """What is to be typed can be typed."""
    commands = list(read_commands(block))
    assert commands
    for command in commands:
        check_command(command)


def test_every_command_is_documented_with_its_help_of_today() -> None:
    """Run ``python tests/helpers/documents.py`` to bring the help texts in ``docs/cli.md`` up to date."""
    text = CLI.read_text()
    assert text == with_help(text), "docs/cli.md is out of date: python tests/helpers/documents.py"
    for command in list_commands()[1:]:
        assert re.search(rf"^## soundpiece {command}\n\n\w", text, re.MULTILINE), f"no word about {command}"


RETIRED = re.compile(
    r"\b(?:[Mm]end(?:s|ed|ing|able)?|[Cc]urfews?|[Vv]essels?|(?:can|cannot|could not) be had|(?:is|are) none"
    r"|buys? (?:it|them) once more|bought (?:anew|once more)|[Gg]o(?:es)? on with|(?:is|are|was|were|be) told"
    r"|[Ww]hoever|he|his|[Ww]hat (?:was|is) asked for|sweeps? up|a folder that takes|[Tt]he way of an?|in a box"
    r"|_?dice|cellar|floors|[Gg]round floor|front room|rules of the house|[Hh]ouse rules"
    r"|(?:un)?usable answers?|answers? to an? (?:PUT|GET)|no answer within|on record"
    r"|[Ww]r(?:ite|ites|itten|ote) (?:(?:it|them) )?down"
    r"|trying again in|made anew|rate gate|store_away|buys? coverage|rejected by the account|last turn)\b"
)
"""Words that a reader cannot guess; the field has a standard word for each."""
QUAINT = re.compile(r'"""(?:Give|Say|Tell|Take|Let|Bring)s?\b')
"""Docstrings begin with the verb that engineers expect: Return, Raise, Send, Read, Write, Wait, Parse, Build, Close."""
FOLDERS = ("soundpiece_async", "tests", "benchmarks", "docs", "examples", ".github")
TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ".html", ".js", ".ipynb"}


def test_the_language_is_that_of_the_field() -> None:
    """In code, tests, pages, messages and help alike."""
    found = {}
    for path in (*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))):
        if path.suffix in TEXTS and path.is_file() and path.name != "test_docs.py":
            text = path.read_text()
            found |= {f"{path.relative_to(ROOT)}: {one[0]}": one for one in RETIRED.finditer(text)}
            found |= {f"{path.relative_to(ROOT)}: {one[0]}": one for one in QUAINT.finditer(text)}
    assert sorted(found) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files exist, and so do the headings that links name."""
    for link in read_links(page):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in read_anchors(file), link


def test_every_cited_heading_of_the_api_page_exists() -> None:
    """Code, tests and docs cite it by file and heading."""
    anchors = read_anchors(ROOT / "docs" / "api.md")
    files = [*(ROOT / "soundpiece_async").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *PAGES]
    files += [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    cited = {name: found for name in files if (found := set(re.findall(r"docs/api\.md#([\w-]+)", name.read_text())))}
    assert {name: wrong for name, found in cited.items() if (wrong := found - anchors)} == {}
    assert len(cited) > 20
    assert [name for name in files if re.search(r"contract,?\s+sections? \d", name.read_text())] == []


def test_the_picture_of_the_layers_is_drawn_from_the_contracts() -> None:
    """Run ``python docs/_site/layers.py`` after a change of the contracts in ``pyproject.toml``."""
    script = ROOT / "docs" / "_site" / "layers.py"
    drawn = runpy.run_path(str(script))["draw"]()
    picture = ROOT / "docs" / "img" / "layers.svg"
    assert picture.read_text() == drawn, "docs/img/layers.svg is out of date: python docs/_site/layers.py"


def test_every_file_that_a_page_names_exists() -> None:
    """By its path, or the end of it; code in examples may call its own files as it likes."""
    scripts = (*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")))
    known = {f"/{path.relative_to(ROOT).as_posix()}" for path in scripts}
    for page in (*PAGES, ROOT / "benchmarks" / "README.md"):
        named = set(re.findall(r"`((?:[\w.-]+/)*\w+\.py)`", read_prose(page))) - {"app.py"}
        assert {name for name in named if not any(path.endswith(f"/{name}") for path in known)} == set(), page


def test_every_logger_is_documented() -> None:
    """The page on logging has a row for each."""
    code = "\n".join(path.read_text() for path in (ROOT / "soundpiece_async").rglob("*.py"))
    names = set(re.findall(r'get_logger\("(\w+)"\)', code))
    page = (ROOT / "docs" / "how-to" / "logging.md").read_text()
    assert set(re.findall(r"^\| `soundpiece_async\.(\w+)` \|", page, re.MULTILINE)) == names


def test_links_of_the_readme_are_absolute() -> None:
    """An index page shows it where no file of ours lies beside it."""
    text = read_prose(ROOT / "README.md")
    targets = re.findall(r"\]\(([^)\s]+)|(?:src|srcset)=\"([^\"]+)", text)
    assert [target for pair in targets for target in pair if target and not target.startswith(("https://", "#"))] == []
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    assert f"{source}/blob/main/" == PUBLISHED
    assert f"{source}/main/".replace("github.com", "raw.githubusercontent.com") == IMAGES


def test_the_failure_guide_has_every_error() -> None:
    """Each class has a heading of its own, and an example behind it."""
    sections = re.split(r"^#{2,3} ", (ROOT / "docs" / "failures.md").read_text(), flags=re.MULTILINE)
    known = {section.partition("\n")[0].strip("`"): section for section in sections}
    for name in soundpiece_async.__all__:
        public = getattr(soundpiece_async, name)
        if isinstance(public, type) and issubclass(public, Exception):
            assert "```python" in known[name], name


def test_the_reference_has_every_public_name() -> None:
    """The reference is made from the code, page by page: no name may be forgotten."""
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: soundpiece_async\.(\w+)$", pages, re.MULTILINE))
    assert set(soundpiece_async.__all__) <= shown


def test_the_readme_names_every_public_name() -> None:
    """A name that is exported is a name that is explained."""
    readme = read_prose(ROOT / "README.md")
    assert [name for name in soundpiece_async.__all__ if not re.search(rf"`[^`]*\b{name}\b[^`]*`", readme)] == []


def test_the_readmes_test_command_is_that_of_the_landing() -> None:
    """The landing runs the very command that README.md prints."""
    run = ROOT / ".ci" / "run"
    assert "<!-- test command -->" in run.read_text()
    assert os.access(run, os.X_OK)
    assert re.search(r"<!-- test command -->\n```sh\n.*nox.*\n```", (ROOT / "README.md").read_text())


PAGE = """
```python
import asyncio

async def main():
    print("one", __name__)

asyncio.run(main())
```

```text
… __main__
```

Prose between.

```python
print(await asyncio.sleep(0, "two"), __name__)
```

```text
two
```

```python title="not run: it is a test"
1 / 0
```
"""


@pytest.mark.anyio
async def test_a_page_is_read_as_its_rules_say(tmp_path: Path) -> None:
    """Programs and continued blocks, what they print, and what is not run; a wrong page is found out."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    program, continued, skipped = read_blocks(page)
    assert (program.is_program, program.runs) == (True, True)
    assert (continued.is_program, skipped.runs) == (False, False)
    namespace: dict[str, Any] = {"__name__": "a page"}
    await program.run(namespace)
    with pytest.raises(AssertionError, match="two a page"):
        await continued.run(namespace)
    with pytest.raises(ZeroDivisionError):
        await skipped.run(namespace)


@pytest.mark.parametrize(
    "line",
    [
        "soundpiece sing",
        "soundpiece sing --help",
        "soundpiece run create.new_fx --loud",
        "pip install 'soundpiece-async[loud]'",
        "python benchmarks/missing.py",
        "rm -rf out",
    ],
)
def test_a_command_that_would_not_work_is_found(line: str) -> None:
    """Behind an operator as well, and with variables before it."""
    block = Block(page=CLI, line=1, language="sh", info="", code=f"export A=b && C=d {line} > file # a comment\n")
    export, command = read_commands(block)
    check_command(export)
    with pytest.raises((AssertionError, UsageError)):
        check_command(command)

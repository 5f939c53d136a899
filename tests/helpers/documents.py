"""The documentation as programs: the code blocks of each page, their output, and the links between pages.

    python tests/helpers/documents.py        # writes the help texts of `soundpiece` into docs/cli.md

1. A `python` block that calls `asyncio.run` (or that of anyio or uvloop) at its top level is a whole program: it runs
   as it stands, as `__main__`, in a thread of its own.
2. Any other `python` block continues in its page's namespace. `await` is allowed, as in `python -m asyncio`; a
   `session` is open, and `simulator` is what it talks to. What such a block calls `__name__` is not `__main__`.
3. A `text` block right behind a `python` block is what that prints; `…` stands for anything.
4. A `sh` block is looked through command by command: `soundpiece` must understand it, extras and scripts must exist.
5. A `sql` block is a query that `test_machines` makes.
6. A block that cannot be run says so behind its language: `python title="not run: why"`.
"""

import ast
import importlib.util
import inspect
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.machinery import ModuleSpec
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any
from unicodedata import normalize

import anyio.to_thread
import attrs

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
CLI = ROOT / "docs" / "cli.md"
HELP_COLUMNS = 88

PUBLISHED = "https://github.com/soundpiece/soundpiece-async/blob/main/"
IMAGES = "https://raw.githubusercontent.com/soundpiece/soundpiece-async/main/"
NOT_RUN = 'title="not run: '
LANGUAGES = {"python", "sh", "text", "json", "toml", "html", "sql"}
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(?P<title>.+?)(?: +\{ *#(?P<name>[\w-]+) *\})?$", re.MULTILINE)
_RUNNERS = {"asyncio.run", "anyio.run", "uvloop.run"}
_OPERATORS = {"&&", "||", "|", ";", "&"}


@attrs.frozen(kw_only=True)
class Block:
    """A fenced block; ``prints`` is the text block right behind it."""

    page: Path
    line: int
    language: str
    info: str
    code: str
    prints: str | None = None

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """False: it says that it cannot be run."""
        return NOT_RUN not in self.info

    @property
    def is_program(self) -> bool:
        """True when it brings its own event loop (rule 1)."""
        calls = [
            node.value for node in ast.parse(self.code, self.place, mode="exec").body if isinstance(node, ast.Expr)
        ]
        return any(isinstance(call, ast.Call) and ast.unparse(call.func) in _RUNNERS for call in calls)

    async def run(self, namespace: dict[str, Any]) -> None:
        """Run it, and compare what it prints."""
        written = StringIO()
        with redirect_stdout(written):
            if self.is_program:
                await anyio.to_thread.run_sync(self._run_program, namespace)
            else:
                await self._continue(namespace)
        if self.prints is not None:
            pattern = ".+?".join(map(re.escape, self.prints.strip().split("…")))
            assert re.fullmatch(pattern, written.getvalue().strip(), re.DOTALL), (self.place, written.getvalue())

    def _compile(self, flags: int = 0) -> Any:
        return compile("\n" * self.line + self.code, str(self.page), "exec", flags=flags, dont_inherit=True)

    def _run_program(self, namespace: dict[str, Any]) -> None:
        own = {"__name__": "__main__"}
        exec(self._compile(), own)  # noqa: S102 - our own pages
        namespace.update({name: value for name, value in own.items() if not name.startswith("__")})

    async def _continue(self, namespace: dict[str, Any]) -> None:
        code = self._compile(ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, namespace)  # noqa: S307 - our own pages
        if code.co_flags & inspect.CO_COROUTINE:
            await result


def make_module(name: str) -> ModuleType:
    """Return an empty module, with the spec that every imported one has: Python 3.15 warns of those without."""
    return importlib.util.module_from_spec(ModuleSpec(name, loader=None, origin=name))


def read_blocks(page: Path) -> list[Block]:
    """Find the blocks of a page, in order."""
    text, blocks, end = page.read_text(), [], -1
    for found in _FENCE.finditer(text):
        indent = len(found["indent"])
        code = "\n".join(line[indent:] for line in found["code"].splitlines()) + "\n"
        behind = not text[end : found.start()].strip()
        end = found.end()
        if blocks and behind and found["language"] == "text" and blocks[-1].language == "python":
            blocks[-1] = attrs.evolve(blocks[-1], prints=code)
            continue
        line = text.count("\n", 0, found.start()) + 1
        blocks.append(Block(page=page, line=line, language=found["language"], info=found["info"], code=code))
    return blocks


def read_prose(page: Path) -> str:
    """Return a page without its blocks."""
    return _FENCE.sub("", page.read_text())


def read_links(page: Path) -> list[str]:
    """Return the targets of a page's links that stay in the project; those of README are absolute, for index pages."""
    targets = [found["target"].removeprefix(PUBLISHED) for found in _LINK.finditer(read_prose(page))]
    targets = [target.removeprefix(IMAGES) for target in targets]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def read_anchors(page: Path) -> set[str]:
    """Return the anchors of a page."""
    return {found["name"] or slug(found["title"]) for found in _HEADING.finditer(read_prose(page))}


def slug(title: str) -> str:
    """Make a heading's name, as the site and code hosts do."""
    plain = normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def read_commands(block: Block) -> Iterator[list[str]]:
    """Split a shell block into commands, without comments, operators, redirections and assignments."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        words = iter([*lexer, ";"])
        for word in words:
            if word.startswith((">", "<")):
                next(words)
            elif word in _OPERATORS:
                if command:
                    yield command
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(word)


def check_command(command: list[str]) -> None:
    """Refuse a command that would not work for a reader."""
    from soundpiece_async.cli.commands import app, parse_command  # pages can be read without the extra

    match command:
        case ["soundpiece", *arguments] if {"--help", "--version"} & set(arguments) or not arguments:
            assert not arguments or arguments[0].startswith("-") or arguments[0] in app, command
        case ["soundpiece", *arguments]:
            assert parse_command(arguments) is not None, command
        case ["python", "-m", "pip", "install", *packages] | ["pip", "install", *packages]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            for extra in re.findall(r"(?:\.|soundpiece-async)\[([\w,]+)\]", " ".join(packages)):
                assert set(extra.split(",")) <= set(project["optional-dependencies"]), command
        case ["python", "-m", "nox", *_] | ["nox", *_] | ["python", "-m", "asyncio" | "pytest", *_] | ["pytest", *_]:
            pass
        case ["pre-commit", "install"]:
            pass
        case (
            ["python" | "sbatch", file, *_] | ["kubectl", "apply", "-f", file] | ["docker", "compose", "-f", file, "up"]
        ):
            assert (ROOT / file).exists(), command
        case ["python3", "-m", "venv", ".venv"] | [".", ".venv/bin/activate"]:
            pass
        case ["export", assignment]:
            assert "=" in assignment, command
        case _:
            raise AssertionError(f"unknown command, so it cannot be checked: {shlex.join(command)}")


def render_help(command: str) -> str:
    """Return what ``soundpiece COMMAND --help`` prints; '' is the program itself."""
    from soundpiece_async.cli.commands import app
    from soundpiece_async.cli.rich_output import PipeSafeConsole

    written = StringIO()
    app.help_print(command.split(), console=PipeSafeConsole(file=written, width=HELP_COLUMNS))
    return "\n".join(line.rstrip() for line in written.getvalue().strip().splitlines()) + "\n"


def list_commands() -> list[str]:
    """Return the program itself, as '', and its commands."""
    from soundpiece_async.cli.commands import app

    return ["", *sorted(name for name in app if not name.startswith("-"))]


def with_help(text: str) -> str:
    """Return ``docs/cli.md`` with the current help texts; a command without a section gets a short one at the end."""
    for command in list_commands():
        mark = f"<!-- soundpiece {command} --help".replace("  ", " ") + " -->"
        shown = render_help(command)
        if mark not in text:
            summary = " ".join(shown.split("\n\n")[1].split())
            text = f"{text.rstrip()}\n\n## soundpiece {command}\n\n{summary}\n\n{mark}\n"
        help_text = f"{mark}\n```text\n{shown}```\n"
        text = re.sub(
            rf"{re.escape(mark)}\n(?:```text\n.*?^```\n)?",
            lambda _, new=help_text: new,
            text,
            flags=re.MULTILINE | re.DOTALL,
        )
    return text


if __name__ == "__main__":
    CLI.write_text(with_help(CLI.read_text()))

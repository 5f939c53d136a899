"""What docs/security.md promises and no other test holds; and that each of its promises has a test."""

import ast
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers.simulation import settings, simulate

from soundpiece_async import Journal, NewFx, Session

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
CLIENT = [path for path in (ROOT / "soundpiece_async").rglob("*.py") if "simulator" not in path.parts]
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_promise_names_a_test_that_is_there(file: str, name: str) -> None:
    """By its file and its function."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in tests


def test_no_promise_is_without_a_test() -> None:
    """Each row of each table ends with one."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.endswith(("| test |", "| --- |"))]
    assert len(promises) > 30
    for row in promises:
        assert re.search(r"\| `[\w/]+\.py::\w+` \|$", row), row


def test_how_to_report_is_said_and_shipped() -> None:
    """In the file where GitHub looks for it, which the source distribution has, too."""
    text = (ROOT / "SECURITY.md").read_text()
    assert "docs/security.md" in text
    assert "Report a vulnerability" in text
    assert "@" not in text
    assert '"SECURITY.md"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.anyio
async def test_nobody_else_is_contacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From opening a session to its end, every connection and every look-up is for the API or the output host."""
    asked: set[Any] = set()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connecting(self: socket.socket, address: Any) -> None:
        asked.add(address)
        connect(self, address)

    def looking_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        asked.add((host, port))
        return look_up(host, port, *args, **kwargs)

    async with simulate() as sim:
        known = {("127.0.0.1", int(url.rpartition(":")[2])) for url in (sim.url, sim.output_url)}
        monkeypatch.setattr(socket.socket, "connect", connecting)
        monkeypatch.setattr(socket, "getaddrinfo", looking_up)
        async with Session(settings(sim)) as session, Journal.open(tmp_path) as journal:
            async with session.run_many([NewFx("door", duration=1)], save_to=tmp_path, journal=journal) as results:
                assert [len(result.files) async for result in results] == [1]  # type: ignore[union-attr]
        monkeypatch.undo()
    assert asked == known


def test_what_is_read_is_never_run() -> None:
    """No file of the package loads code, or objects, from data; nor does it start another program."""
    forbidden = {"pickle", "marshal", "shelve", "dill", "yaml", "subprocess", "ctypes", "imp", "runpy"}
    for path in CLIENT:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    assert not forbidden & {alias.name.partition(".")[0] for alias in names}, path
                case ast.ImportFrom(module=str(module)):
                    assert module.partition(".")[0] not in forbidden, path
                case ast.Call(func=ast.Name(id=name)):
                    assert name not in {"eval", "exec", "compile", "__import__"}, path

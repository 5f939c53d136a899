"""The example notebook, executed: every cell runs, and what it shows can be heard and keeps secrets."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"
SECRET = re.compile(r"signature=|spk_|whsec_")


def tables(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Return the HTML of its outputs, in order."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield output["data"]["text/html"]


def names(html: str) -> list[str]:
    """Return the names of a table's rows."""
    return re.findall(r"<th[^>]*>([^<]*)</th>", html)


def test_the_notebook_shows_what_it_says(tmp_path: Path) -> None:
    """Its stored outputs are those of today, its players find their files, and no signed URL is anywhere in it."""
    stored, fresh = nbformat.read(NOTEBOOK, as_version=4), nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(fresh, resources={"metadata": {"path": tmp_path}}, timeout=60).execute()
    for notebook in (stored, fresh):
        assert not SECRET.search(nbformat.writes(notebook))
    shown = list(tables(fresh))
    assert [names(html) for html in shown] == [names(html) for html in tables(stored)]
    players = re.findall(r'<audio [^>]*src="([^"]+)"', "".join(shown))
    assert len(players) == 1 + 4
    assert all((tmp_path / unquote(player)).read_bytes().startswith(b"fLaC") for player in players)

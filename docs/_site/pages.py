"""Hooks of the site: pages from other folders, and a check that nothing is loaded from another host."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
ELSEWHERE = {"benchmarks/README.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}
"""Files beside docs/, and the pages they are on the site."""

_LINK = re.compile(r"\[(?P<label>[^\]]*)\]\((?P<target>\.\./[^)#\s]+)(?P<anchor>#[\w-]+)?\)")
_SCRIPT = re.compile(r"\[(`?[\w/]+\.py`?)\]\([\w/]+\.py\)")
_OUTSIDE = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages of other folders."""
    for source, page in ELSEWHERE.items():
        text = _SCRIPT.sub(r"\1", (ROOT / source).read_text().replace("](../docs/", "]("))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Point links that leave docs/ to those pages; replace any other by its text."""
    folder = posixpath.dirname(page.file.src_uri)

    def lead(link: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join("docs", folder, link["target"]))
        if place.startswith("docs/"):
            return link[0]
        if place not in ELSEWHERE:
            return link["label"]
        return f"[{link['label']}]({posixpath.relpath(ELSEWHERE[place], folder)}{link['anchor'] or ''})"

    return _LINK.sub(lead, markdown)


def on_post_build(*, config: Any) -> None:
    """Write the search index as a script too, and refuse a site that loads something from another host."""
    search = Path(config.site_dir, "search")
    index = (search / "search_index.json").read_text()
    (search / "search_index.js").write_text(f"var __index = {index}")  # the theme reads it where the site is a folder
    for page in Path(config.site_dir).rglob("*.html"):
        found = _OUTSIDE.search(page.read_text())
        if found:
            raise PluginError(f"{page.name} loads something from another host: {found[0]}")

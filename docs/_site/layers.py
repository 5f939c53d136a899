"""Draw the layers of the package from the import-linter contracts in pyproject.toml.

    python docs/_site/layers.py        # writes docs/img/layers.svg

A test compares the committed picture with what this file draws, so that the picture cannot become untrue.
"""

import re
import textwrap
import tomllib
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PICTURE = ROOT / "docs" / "img" / "layers.svg"
WIDTH = 960
MARGIN, GAP, LINE = 16, 8, 18
CHARACTER = 7.25
"""Width of one character at 12 px, in a monospaced font."""
COLUMNS = 3

STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1d2433 }
.caption { font: 600 13px system-ui, sans-serif }
.note { font: 12px system-ui, sans-serif; fill: #4a5468 }
.page { fill: #ffffff; stroke: #d5dae5 }
.layer { fill: #f3f5fa }
.module { fill: #ffffff; stroke: #8692ab }
.package { fill: #e3eaff; stroke: #5b74c9 }
"""


def read_contracts() -> list[dict[str, Any]]:
    """Return the contracts, in the order in which they are written."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return contracts


def draw() -> str:
    """Return the picture as SVG."""
    parts: list[str] = []
    layers = [one for one in read_contracts() if one["type"] == "layers"]
    layers.sort(key=lambda one: one["containers"][0].count("."))
    bottom = _draw_panel(parts, layers[0], x=MARGIN, y=MARGIN, width=WIDTH - 2 * MARGIN)
    width = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * MARGIN) // COLUMNS
    columns = [bottom + MARGIN] * COLUMNS
    for contract in layers[1:]:
        column = columns.index(min(columns))
        x = MARGIN + column * (width + MARGIN)
        columns[column] = _draw_panel(parts, contract, x=x, y=columns[column], width=width) + MARGIN
    bottom = max(columns)
    for contract in read_contracts():
        if contract["type"] == "forbidden":
            bottom = _draw_rule(parts, contract, y=bottom)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" role="img" aria-label="Layers">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{bottom - 1}" rx="8"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _draw_panel(parts: list[str], contract: dict[str, Any], *, x: int, y: int, width: int) -> int:
    """Draw one contract of layers, the highest layer first; return where it ends."""
    container = contract["containers"][0]
    y += LINE - 4
    parts.append(f'<text class="caption" x="{x}" y="{y}">{_path(container)}</text>')
    y += GAP
    for layer in contract["layers"]:
        modules = [f"{container}.{name}" for name in re.findall(r"\w+", layer)]
        y = _draw_layer(parts, modules, x=x, y=y, width=width) + 4
    return y


def _draw_layer(parts: list[str], modules: list[str], *, x: int, y: int, width: int) -> int:
    """Draw the modules of a layer beside each other, in as many lines as they need."""
    boxes: list[str] = []
    left, top, height = x + GAP, y + 5, LINE + 6
    for module in modules:
        text = _path(module).rpartition("/")[2] if not _is_package(module) else _path(module).split("/")[-2] + "/"
        wide = round(len(text) * CHARACTER) + 2 * GAP
        if left + wide > x + width - 4 and left > x + GAP:
            left, top = x + GAP, top + height + 5
        kind = "package" if _is_package(module) else "module"
        boxes.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{wide}" height="{height}" rx="4"/>')
        boxes.append(f'<text x="{left + GAP}" y="{top + 16}">{escape(text)}</text>')
        left += wide + GAP
    bottom = top + height + 5
    parts.append(f'<rect class="layer" x="{x}" y="{y}" width="{width}" height="{bottom - y}" rx="5"/>')
    parts.extend(boxes)
    return bottom


def _draw_rule(parts: list[str], contract: dict[str, Any], *, y: int) -> int:
    """Write a contract of forbidden imports as a sentence; return where it ends."""
    sources = ", ".join(_path(module) for module in contract["source_modules"])
    forbidden = ", ".join(_path(module) for module in contract["forbidden_modules"])
    y += LINE - 4
    parts.append(f'<text class="caption" x="{MARGIN}" y="{y}">{escape(sources)} never imports</text>')
    for line in textwrap.wrap(forbidden, 140):
        y += LINE
        parts.append(f'<text class="note" x="{MARGIN}" y="{y}">{escape(line)}</text>')
    return y + MARGIN


def _is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def _path(module: str) -> str:
    """Return the path of a module of ours, and the name of any other."""
    if not module.startswith("soundpiece_async"):
        return module
    return module.replace(".", "/") + ("/" if _is_package(module) else ".py")


if __name__ == "__main__":
    PICTURE.write_text(draw())

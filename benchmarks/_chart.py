"""Draws what `peers.py` measured, for README.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHERS, INK, FAINT = "#0f766e", "#c8cdd3", "#1f2937", "#6b7280"
FONTS = ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"]


@attrs.frozen
class Panel:
    """One measure, a number for each client."""

    title: str
    values: Mapping[str, float]
    form: str

    def write(self, value: float) -> str:
        """Write a number beside its bar; thousandths of a second as milliseconds."""
        if self.form == "s":
            return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.0f} ms"
        return self.form.format(value)


def draw(panels: list[Panel], path: Path, *, title: str, ours: str) -> None:
    """Draw bars beside one another, one colour for ours and one for all others, with the numbers at their ends."""
    from matplotlib import pyplot as plt  # only who wants a picture needs it

    clients = list(panels[0].values)
    with plt.rc_context({"font.family": "sans-serif", "font.sans-serif": FONTS, "text.color": INK, "font.size": 10}):
        figure, axes = plt.subplots(1, len(panels), figsize=(10.5, 0.42 * len(clients) + 1.25), sharey=True)
        for panel, axis in zip(panels, axes, strict=True):
            _draw_panel(panel, axis, ours=ours)
        axes[0].set_yticks(range(len(clients)), clients)
        for label in axes[0].get_yticklabels():
            label.set(color=OURS if label.get_text() == ours else INK)
            label.set(fontweight="bold" if label.get_text() == ours else "normal", fontsize=10.5)
        figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
        figure.tight_layout(w_pad=2.2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})
        plt.close(figure)


def _draw_panel(panel: Panel, axis: "Axes", *, ours: str) -> None:
    values = list(panel.values.values())
    colours = [OURS if client == ours else OTHERS for client in panel.values]
    axis.barh(range(len(values)), values, height=0.62, color=colours)
    for row, (client, value) in enumerate(panel.values.items()):
        mine = client == ours
        axis.annotate(
            panel.write(value),
            (value, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=OURS if mine else INK,
            fontweight="bold" if mine else "normal",
            fontsize=9.5,
        )
    axis.set_title(panel.title, loc="left", fontsize=10, color=FAINT, pad=6)
    axis.set_xlim(0, max(values) * 1.22)
    axis.invert_yaxis() if not axis.yaxis_inverted() else None
    axis.set_xticks([])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.axvline(0, color=FAINT, linewidth=0.8)

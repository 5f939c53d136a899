"""Draw what the gate does with a limit it is not told, in virtual time; for docs/gate.md.

    python benchmarks/gate_picture.py docs/img/gate.png

On the left one session and its learned rate, while the account's limit halves; on the right what reaches the account
from eight sessions, with the gate and without one. Takes ten seconds.
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from _account import Client, Gated, Sent, TokenBucket, Ungated, World
from matplotlib.axes import Axes

from soundpiece_async._core.gate import Ticket

LIMIT, HALVES_AT, SECONDS = 20.0, 90.0, 180.0
SESSIONS, SETTLED = 8, 60.0
INK, CALM, ALARM, PALE = "#22302f", "#1d6470", "#b4532a", "#c9d6d3"


CLIENTS: dict[str, Callable[[random.Random], Client]] = {
    "the gate": Gated,
    "fixed pause of 2 s": lambda rng: Ungated(rng, pause=2.0),
    "each obeys its Retry-After": Ungated,
}


class Watched(Gated):
    """The shipped gate, with what it has learned recorded."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.learned: list[tuple[float, float]] = []
        self.refused: list[float] = []

    def hear(self, ticket: Ticket, now: float, retry_after: int | None) -> None:
        """Note the rate, and whether this was a 429."""
        super().hear(ticket, now, retry_after)
        if self.gate.rate is not None:
            self.learned.append((now, self.gate.rate))
        if retry_after is not None:
            self.refused.append(now)


def draw_learning(axes: Axes) -> None:
    """Draw one session's rate, and the 429s it learned from."""
    world = World(TokenBucket(LIMIT, 1), Watched, sessions=1, seed=1)
    world.run(SECONDS, halve_at=HALVES_AT)
    (client,) = world.clients
    assert isinstance(client, Watched)  # noqa: S101 - it was made above
    axes.step(
        [0, HALVES_AT, SECONDS], [LIMIT, LIMIT / 2, LIMIT / 2], where="post", color=PALE, linewidth=6, label="limit"
    )
    axes.plot(*zip(*client.learned, strict=True), color=CALM, linewidth=1.6, label="learned")
    axes.plot(client.refused, [0.4] * len(client.refused), "|", color=ALARM, markersize=9, label="429s")
    axes.set(xlabel="seconds", ylabel="requests per second", ylim=(0, LIMIT * 1.35), xlim=(0, SECONDS))
    axes.set_title(f"One session; a limit of {LIMIT:.0f}/s that halves", loc="left")
    axes.legend(frameon=False, ncols=3, loc="upper right")


def draw_traffic(axes: Axes) -> None:
    """Draw what eight sessions send, and how much of it is refused."""
    for row, make in enumerate(CLIENTS.values()):
        world = World(TokenBucket(LIMIT, 1), make, sessions=SESSIONS, seed=1)
        taken, refused = count(world.run(SECONDS), since=SETTLED)
        axes.barh(row, taken, color=CALM, height=0.55, label="answered" if row == 0 else None)
        axes.barh(row, refused, left=taken, color=ALARM, height=0.55, label="refused (429)" if row == 0 else None)
        axes.text(taken + refused, row, f"  {refused / (taken + refused):.0%} refused", va="center", color=INK)
    axes.set(yticks=range(len(CLIENTS)), yticklabels=list(CLIENTS), xlabel="requests per second")
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])
    axes.invert_yaxis()
    axes.set_title(f"{SESSIONS} sessions on {LIMIT:.0f}/s: what reaches the account", loc="left")
    axes.legend(frameon=False, loc="upper right")


def count(log: list[Sent], *, since: float) -> tuple[float, float]:
    """Return the requests per second that were answered, and those refused."""
    seen = [sent for sent in log if sent.at >= since]
    refused = sum(sent.limited for sent in seen)
    return (len(seen) - refused) / (SECONDS - since), refused / (SECONDS - since)


def main() -> None:
    """Draw both halves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", type=Path, help="the PNG to write")
    plt.rcParams.update({"font.size": 10, "axes.edgecolor": PALE, "axes.labelcolor": INK, "text.color": INK})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.9))
    draw_learning(left)
    draw_traffic(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(parser.parse_args().picture, dpi=110)


if __name__ == "__main__":
    main()

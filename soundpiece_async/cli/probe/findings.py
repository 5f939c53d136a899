"""What the probe found: one row for each question."""

from collections.abc import Iterator
from enum import StrEnum

import attrs

from soundpiece_async._core.redaction import redact_text


class Verdict(StrEnum):
    """Whether the service does what the library assumes."""

    AGREES = "agrees"
    DIFFERS = "differs"
    OPEN = "open"
    """Nothing is assumed: any answer is handled."""
    NOT_TRIED = "not tried"


@attrs.frozen(kw_only=True)
class Finding:
    """One row of the table.

    Attributes:
        question: an open question of the documentation.
        came: what the service did.
        assumed: what the library assumes, or does about it.
        verdict: how the two compare.
    """

    question: str
    came: str
    assumed: str
    verdict: Verdict


class Findings:
    """Collects rows, in the order of the questions."""

    def __init__(self) -> None:
        self._rows: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._rows)

    def add(self, question: str, came: str, assumed: str, *, agrees: bool | None = None) -> None:
        """Add a row; without ``agrees`` the two texts are compared."""
        same = came == assumed if agrees is None else agrees
        self._add(question, came, assumed, Verdict.AGREES if same else Verdict.DIFFERS)

    def note(self, question: str, came: str, done: str) -> None:
        """Add a row about which nothing is assumed."""
        self._add(question, came, done, Verdict.OPEN)

    def skip(self, question: str, why: str) -> None:
        """Add a row for what was not tried."""
        self._add(question, "", why, Verdict.NOT_TRIED)

    def _add(self, question: str, came: str, assumed: str, verdict: Verdict) -> None:
        self._rows.append(
            Finding(question=question, came=redact_text(came) if came else "", assumed=assumed, verdict=verdict)
        )

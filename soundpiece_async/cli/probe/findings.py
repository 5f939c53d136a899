"""Findings of the probe: one row per question."""

from collections.abc import Iterator
from enum import StrEnum

import attrs

from soundpiece_async._core.redaction import redact_text


class Comparison(StrEnum):
    """Whether the service behaves as the library assumes."""

    AGREES = "agrees"
    DIFFERS = "differs"
    OPEN = "open"
    """No assumption: any behaviour is handled."""
    NOT_TRIED = "not tried"


@attrs.frozen(kw_only=True)
class Finding:
    """One row of the table.

    Attributes:
        question: an open question of the documentation.
        observed: behaviour of the service.
        assumed: assumption of the library, or how it handles the behaviour.
        verdict: result of the comparison.
    """

    question: str
    observed: str
    assumed: str
    verdict: Comparison


class Findings:
    """Collects findings in the order of the questions."""

    def __init__(self) -> None:
        self._rows: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._rows)

    def add(self, question: str, observed: str, assumed: str, *, agrees: bool | None = None) -> None:
        """Add a finding; ``agrees=None`` compares the two texts."""
        same = observed == assumed if agrees is None else agrees
        self._add(question, observed, assumed, Comparison.AGREES if same else Comparison.DIFFERS)

    def note(self, question: str, observed: str, done: str) -> None:
        """Add a finding without an assumption."""
        self._add(question, observed, done, Comparison.OPEN)

    def skip(self, question: str, why: str) -> None:
        """Add a question that was not tried."""
        self._add(question, "", why, Comparison.NOT_TRIED)

    def _add(self, question: str, observed: str, assumed: str, verdict: Comparison) -> None:
        self._rows.append(
            Finding(
                question=question, observed=redact_text(observed) if observed else "", assumed=assumed, verdict=verdict
            )
        )

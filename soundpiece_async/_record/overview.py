"""A journal seen from above: how many pieces of which route are how far, how long they took, and why some failed."""

import attrs

from soundpiece_async._core.pieces import JobState
from soundpiece_async._core.redaction import redact_message
from soundpiece_async._record.ledger import STATE, Ledger


@attrs.frozen
class Waits:
    """How long the operations of a route took from their submission until they were seen ready, in seconds."""

    number: int
    mean: float
    longest: float


@attrs.frozen
class Reason:
    """Why pieces failed: the error's class, the service's code, one of the texts, and how many there are of them."""

    kind: str
    code: str
    text: str
    number: int


async def count_by_route(ledger: Ledger, *, now: float) -> dict[str, dict[JobState, int]]:
    """Count the pieces of each route in each state; ``now`` in seconds since 1970."""
    rows = await ledger.query(f"SELECT route, {STATE}, count(*) FROM piece GROUP BY 1, 2 ORDER BY 1", {"now": now})  # noqa: S608 - constants
    counts: dict[str, dict[JobState, int]] = {}
    for route, state, number in rows:
        counts.setdefault(route, {})[JobState(state)] = number
    return counts


async def measure_waits(ledger: Ledger) -> dict[str, Waits]:
    """Give how long the operations of each route took, as far as any are known."""
    rows = await ledger.query(
        "SELECT route, count(*), avg(ready_at - submitted_at), max(ready_at - submitted_at) FROM piece "
        "WHERE ready_at > submitted_at GROUP BY route",
        {},
    )
    return {route: Waits(number, mean, longest) for route, number, mean, longest in rows}


async def list_reasons(ledger: Ledger) -> list[Reason]:
    """Give the reasons for failures, the commonest first."""
    rows = await ledger.query(
        "SELECT error_kind, error_code, min(error_text), count(*) AS number FROM piece WHERE state = 'failed' "
        "GROUP BY 1, 2 ORDER BY number DESC, 1, 2",
        {},
    )
    return [Reason(kind, redact_message(code), redact_message(text), number) for kind, code, text, number in rows]


async def count_verified(ledger: Ledger) -> dict[str, int]:
    """Count saved files by the level of checks they have passed; ``""``: an earlier version did not record it."""
    rows = await ledger.query(
        "SELECT coalesce(json_extract(file.value, '$.verified'), ''), count(*) "
        "FROM piece, json_each(piece.files) AS file WHERE state = 'saved' GROUP BY 1 ORDER BY 1",
        {},
    )
    return {str(level): number for level, number in rows}


async def count_echo_differences(ledger: Ledger) -> dict[str, int]:
    """Count the jobs that had a member echoed otherwise than it was sent, for each member."""
    rows = await ledger.query(
        "SELECT member.value, count(*) FROM piece, json_each(echo_differences) AS member GROUP BY 1 ORDER BY 1", {}
    )
    return {str(member): number for member, number in rows}


async def count_ended_since(ledger: Ledger, moment: float) -> int:
    """Count the pieces that were saved, or failed, since a moment in seconds since 1970."""
    ((number,),) = await ledger.query("SELECT count(*) FROM piece WHERE ended_at > :moment", {"moment": moment})
    return int(number)

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.job_graph import EVERY, JobGraph, JobReference
from soundpiece_async._core.requests import (
    AutoCutDown,
    Handle,
    NewFx,
    NewInstrumental,
    NewSong,
    Output,
    RemixInstrumental,
    Request,
    SeparateStems,
    max_outputs,
)

URL = "https://media.example.com/mix.wav"
KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"
STEMS = tuple(
    Output(url=f"{URL}?{index}", kind=kind, handle=Handle("adapt.separate_stems", "op_1"), index=index)
    for index, kind in enumerate(("drums", "bass", "drums"))
)


@pytest.mark.parametrize(
    ("members", "reference"),
    [
        ({"job": "bed"}, JobReference("bed", 0)),
        ({"job": "bed", "output": 2}, JobReference("bed", 2)),
        ({"job": "bed", "output": "*"}, JobReference("bed", EVERY)),
        ({"job": "bed", "kind": "drums"}, JobReference("bed", None, "drums")),
        ({"job": "bed", "output": None, "kind": None}, JobReference("bed", 0)),
    ],
)
def test_a_reference_names_a_job_and_one_of_its_outputs_or_all(
    members: dict[str, Any], reference: JobReference
) -> None:
    assert JobReference.parse(members) == reference


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"job": 7}, "job must be the id"),
        ({"job": " "}, "job must be the id"),
        ({"output": 0}, "job must be the id"),
        ({"job": "bed", "stem": "drums"}, "unknown field 'stem'"),
        ({"job": "bed", "output": 0, "kind": "drums"}, "either output or kind"),
        ({"job": "bed", "kind": ""}, "kind must be text"),
        ({"job": "bed", "output": -1}, "output must be a number from 0"),
        ({"job": "bed", "output": True}, "output must be a number from 0"),
        ({"job": "bed", "output": 1.0}, "output must be a number from 0"),
        ({"job": "bed", "output": 1 << 40}, "output must be a number from 0"),
        ({"job": "bed", "output": "all"}, "output must be a number from 0"),
    ],
)
def test_other_members_are_refused_with_the_reason(members: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        JobReference.parse(members)


def test_a_reference_selects_by_number_by_kind_or_all() -> None:
    assert JobReference("stems", 1).select(STEMS) == STEMS[1:2]
    assert JobReference("stems", None, "drums").select(STEMS) == STEMS[:1]
    assert JobReference("stems", EVERY).select(STEMS) == STEMS
    assert JobReference("stems", 7).select(STEMS) == ()
    assert JobReference("stems", None, "vocals").select(STEMS) == ()
    assert str(JobReference("stems", 7)) == "output 7"
    assert str(JobReference("stems", None, "vocals")) == "output of kind 'vocals'"


def test_how_many_outputs_a_route_has_is_known_where_the_contract_says_so() -> None:
    assert max_outputs(NewFx("door", duration=1)) == 1
    assert max_outputs(RemixInstrumental(URL, n_variations=3)) == 3
    assert max_outputs(NewSong("la", prompt="folk")) is None
    assert max_outputs(SeparateStems(URL)) is None


def graph_of(*jobs: tuple[Request | None, str | None, JobReference | None]) -> JobGraph:
    """Build the graph of a file whose n-th line is the n-th job."""
    graph = JobGraph()
    for line, (request, id_, reference) in enumerate(jobs, start=1):
        assert graph.add(line, request, id=id_, reference=reference) is None
    return graph


BED = NewInstrumental("ambient")
SPLIT = SeparateStems(URL)
CUT = AutoCutDown(URL, target_duration=15)


def test_a_pipeline_is_right_whatever_the_order_of_its_lines() -> None:
    """A reference may lead to a line below."""
    graph = graph_of(
        (CUT, None, JobReference("stems", None, "drums")),
        (SPLIT, "stems", JobReference("bed")),
        (BED, None, None),
        (BED, "bed", None),
        (CUT, None, JobReference("bed")),
    )
    assert graph.check() == []
    assert graph
    assert repr(graph) == "<JobGraph jobs=4 dependents=3>"
    assert [graph.source(line) for line in range(1, 7)] == [2, 4, None, None, 4, None]
    assert list(graph.dependents(4)) == [2, 5]
    assert list(graph.dependents(3)) == list(graph.dependents(99)) == []
    assert [graph.has_dependents(line) for line in (1, 2)] == [False, True]
    assert [graph.component(line) for line in range(1, 6)] == [1, 1, 3, 1, 1]
    assert graph.count_dependents(4) == (3, 3)
    assert graph.count_dependents(3) == (0, 0)


def test_a_file_without_references_costs_nothing() -> None:
    graph = graph_of((BED, None, None), (BED, None, None))
    assert graph.check() == []
    assert not graph
    assert repr(graph) == "<JobGraph jobs=0 dependents=0>"


def test_every_fault_of_a_graph_is_found_by_line() -> None:
    graph = graph_of(
        (SPLIT, "a", JobReference("c")),
        (SPLIT, "b", JobReference("a")),
        (SPLIT, "c", JobReference("b")),
        (SPLIT, "self", JobReference("self")),
        (SPLIT, None, JobReference("nobody")),
        (NewFx("door", duration=1), "fx", None),
        (CUT, None, JobReference("fx", 1)),
        (CUT, None, JobReference("fx", None, "drums")),
        (RemixInstrumental(URL, n_variations=2), "remix", JobReference("fx")),
        (CUT, None, JobReference("remix", 2)),
        (None, "wrong", None),
        (CUT, None, JobReference("wrong", None, "drums")),
        (CUT, None, JobReference("wrong", 7)),
        (BED, "bed", None),
        (attrs.evolve(CUT, idempotency_key=KEY), "cuts", JobReference("bed", EVERY)),
        (attrs.evolve(CUT, idempotency_key=KEY), None, JobReference("cuts")),
        (CUT, None, JobReference("bed", None, "drums")),
        (CUT, None, JobReference("bed", 7)),
    )
    assert graph.check() == [
        (1, "takes its source from itself, by lines 3, 2"),
        (4, "takes its source from itself"),
        (5, "no line has the id 'nobody'"),
        (7, "line 6 has no output 1: it has one output, output 0"),
        (8, "line 6 has no kinds of outputs: only adapt.separate_stems has"),
        (10, "line 9 has no output 2: it has 2 outputs, from 0 to 1"),
        (15, 'an idempotency_key belongs to one job, and "output": "*" may make several of the line: remove the key'),
        (16, 'an idempotency_key belongs to one job, and "output": "*" may make several of the line: remove the key'),
        (17, "line 14 has no kinds of outputs: only adapt.separate_stems has"),
    ]


def test_an_id_belongs_to_one_line() -> None:
    graph = graph_of((BED, "bed", None))
    assert graph.add(2, BED, id="bed") == 1
    assert graph.add(3, BED, id="Bed") is None
    assert graph.check() == []


def test_a_long_cycle_is_told_shortly() -> None:
    jobs = [(SPLIT, str(number), JobReference(str((number + 1) % 40))) for number in range(40)]
    (fault,) = graph_of(*jobs).check()
    assert fault == (1, "takes its source from itself, by lines 2, 3, 4, 5, 6, 7, 8, 9, 10, ...")


def test_lines_behind_every_output_are_counted_as_far_as_the_routes_say() -> None:
    graph = graph_of(
        (RemixInstrumental(URL, n_variations=3), "remix", None),
        (RemixInstrumental(URL, n_variations=2), "again", JobReference("remix", EVERY)),
        (CUT, None, JobReference("again", EVERY)),
        (SPLIT, "stems", JobReference("remix")),
        (CUT, "cuts", JobReference("stems", EVERY)),
        (CUT, None, JobReference("cuts")),
    )
    assert graph.check() == []
    assert [graph.is_repeated(line) for line in range(1, 8)] == [False, True, True, False, True, True, False]
    assert graph.count_dependents(2) == (1, 2)
    assert graph.count_dependents(1) == (5, None)
    assert graph.count_dependents(4) == (2, None)
    assert graph.count_dependents(5) == (1, 1)


def test_more_jobs_than_anybody_can_count_are_not_counted() -> None:
    chain = [
        (RemixInstrumental(URL, n_variations=3), str(number), JobReference(str(number - 1), EVERY) if number else None)
        for number in range(60)
    ]
    graph = graph_of(*chain)
    assert graph.check() == []
    assert graph.count_dependents(1) == (59, None)
    assert graph.count_dependents(50) == (10, sum(3**power for power in range(1, 11)))


@attrs.frozen
class Naive:
    """What the graph of a file has to be, worked out with dictionaries."""

    sources: dict[int, int]

    def chain(self, line: int) -> list[int]:
        """Return a line and what it comes from, each once."""
        lines = [line]
        while (source := self.sources.get(lines[-1])) is not None and source not in lines:
            lines.append(source)
        return lines

    def component(self, line: int) -> frozenset[int]:
        """Return all lines that are connected with a line."""
        joined = {line}
        while True:
            more = {one for pair in self.sources.items() if joined & set(pair) for one in pair}
            if more <= joined:
                return frozenset(joined)
            joined |= more


REFERENCES = st.lists(st.none() | st.integers(0, 11), min_size=1, max_size=12)


@given(REFERENCES)
def test_a_graph_is_what_its_lines_say(wanted: list[int | None]) -> None:
    """Any references among any lines: the same faults, sources, dependents and components as by plain dictionaries."""
    jobs: list[tuple[Request | None, str | None, JobReference | None]] = [
        (SPLIT, f"job {number}", None if source is None else JobReference(f"job {source}"))
        for number, source in enumerate(wanted)
    ]
    graph = graph_of(*jobs)
    faults = graph.check()
    sources = {number + 1: source + 1 for number, source in enumerate(wanted) if source is not None}
    naive = Naive({line: source for line, source in sources.items() if source <= len(wanted)})
    unknown = {line for line, source in sources.items() if source > len(wanted)}
    cycles = {
        min(chain[chain.index(last) :])
        for line in naive.sources
        if (last := naive.sources.get((chain := naive.chain(line))[-1])) is not None
    }
    assert {line for line, _ in faults} == unknown | cycles
    if faults:
        return
    for line in range(1, len(wanted) + 1):
        assert graph.source(line) == naive.sources.get(line)
        assert list(graph.dependents(line)) == [one for one, source in naive.sources.items() if source == line]
        assert graph.component(line) == min(naive.component(line))
        below = sum(line in naive.chain(other)[1:] for other in naive.sources)
        assert graph.count_dependents(line) == (below, below)


@given(st.lists(st.text(max_size=4), max_size=300))
def test_ids_are_told_apart_however_many_there_are(ids: list[str]) -> None:
    graph, first = JobGraph(), dict[str, int]()
    for line, id_ in enumerate(ids, start=1):
        assert graph.add(line, BED, id=id_) == first.get(id_)
        first.setdefault(id_, line)
    assert graph.check() == []

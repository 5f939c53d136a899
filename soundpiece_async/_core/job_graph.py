"""Jobs of a file that take their source from other jobs of it: the reference in a line, and the graph of the file.

1. A job takes from one job at most: every route has either ``source`` or ``reference``. So what depends on a job is a
   tree, and a connected component of the graph is a tree, or has exactly one cycle.
2. A line that takes every output (``"output": "*"``) is one job for each of them, and so is every line that takes from
   it. Such lines are *repeated*: how many jobs they are is known once the outputs are.
3. Files may be very long: a job with an id or a reference takes some 80 bytes here, every other line takes none.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import attrs

from soundpiece_async._core.requests import (
    Output,
    Request,
    SeparateStems,
    explicit_key,
    max_outputs,
)

EVERY: Final = "*"
"""Selects every output, each for a job of its own."""

_NONE = -1
_ALL, _BY_KIND = -1, -2
"""Selectors that are no number of an output."""
_UNKNOWN, _KINDS, _INVALID = 0, 254, 255
"""Instead of a number of outputs: it is not known beforehand; nor is it, but they have kinds; the line is invalid."""
_COUNTABLE = 1 << 62
_REPEATED_KEY = 'an idempotency_key belongs to one job, and "output": "*" may make several of the line: remove the key'
_SHOWN = 10
"""Lines of a cycle that a message lists."""


@attrs.frozen
class JobReference:
    """A source that is an output of another job of the same file: ``{"job": "bed", "output": 0}``.

    Attributes:
        job: the id of that job.
        output: the number of the output, from 0; ``"*"``: every output, each for a job of its own; None: ``kind`` says.
        kind: the kind of the output, as ``"drums"``.
    """

    job: str
    output: int | Literal["*"] | None = 0
    kind: str | None = None

    @classmethod
    def parse(cls, members: Mapping[str, object]) -> "JobReference":
        """Build a reference of the fields of a JSON object.

        Raises:
            ValueError: the fields are not those of a reference; the message says why.
        """
        foreign = [name for name in members if name not in ("job", "output", "kind")]
        if foreign:
            raise ValueError(f"unknown field {foreign[0]!r}; a reference to a job has job, and output or kind")
        job, output, kind = members.get("job"), members.get("output"), members.get("kind")
        if not isinstance(job, str) or not job.strip():
            raise ValueError("job must be the id of another line, which is text that is not blank")
        if output is not None and kind is not None:
            raise ValueError("pass either output or kind, not both")
        if kind is not None:
            if not isinstance(kind, str) or not kind.strip():
                raise ValueError('kind must be text, such as "drums"')
            return cls(job, None, kind)
        if output is None or output == EVERY:
            return cls(job, EVERY if output == EVERY else 0)
        if isinstance(output, bool) or not isinstance(output, int) or not 0 <= output < _HIGHEST:
            raise ValueError(f'output must be a number from 0, or "*" for every output, not {output!r}')
        return cls(job, output)

    def __str__(self) -> str:
        return f"output {self.output}" if self.kind is None else f"output of kind {self.kind!r}"

    def select(self, outputs: Sequence[Output]) -> tuple[Output, ...]:
        """Return the outputs of the job that are meant: several only for ``"*"``, none where there is no such output.

        Several outputs of one kind: the first of them.
        """
        if self.output == EVERY:
            return tuple(outputs)
        wanted = (
            (output for output in outputs if output.index == self.output)
            if self.kind is None
            else (output for output in outputs if output.kind == self.kind)
        )
        return tuple(output for output in [next(wanted, None)] if output is not None)


_HIGHEST = 1 << 31


class JobGraph:
    """The jobs of one file that have an id or a reference: added line by line, then checked, then asked."""

    def __init__(self) -> None:
        self._ids = _Texts()
        self._defined = array("i")
        """By the number of an id: its node, or ``_NONE``."""
        self._lines = array("Q")
        """By node, in ascending order; so are the following."""
        self._sources = array("i")
        """The number of the wanted id, or ``_NONE``; the node of the source once ``check`` was called."""
        self._selectors = array("i")
        self._outputs = bytearray()
        self._keyed = bytearray()
        self._repeated = bytearray()
        self._first_dependent = array("i")
        self._next_dependent = array("i")
        self._at_least, self._at_most = array("q"), array("q")
        self._parents = array("i")
        self._dependents = 0

    def __repr__(self) -> str:
        return f"<JobGraph jobs={len(self._lines)} dependents={self._dependents}>"

    def __len__(self) -> int:
        """Return how many lines take from another."""
        return self._dependents

    @property
    def repeated(self) -> int:
        """How many lines may be several jobs (rule 2), once ``check`` was called."""
        return sum(self._repeated)

    def add(
        self,
        line: int,
        request: Request | None,
        *,
        id: str | None = None,  # noqa: A002 - the field's name
        reference: JobReference | None = None,
    ) -> int | None:
        """Add the job of a line, which must be above the lines added before.

        Args:
            line: its number.
            request: made of it, with any source; None: the line is invalid, and only its id is of interest.
            id: by which other lines name it.
            reference: to the job it takes from.

        Returns:
            The line that has this id already; then the job is not added. None: no other line has it.
        """
        if id is None and reference is None:
            return None
        node = len(self._lines)
        if id is not None:
            number = self._number(id)
            if self._defined[number] != _NONE:
                return self._lines[self._defined[number]]
            self._defined[number] = node
        self._lines.append(line)
        self._sources.append(_NONE if reference is None else self._number(reference.job))
        self._selectors.append(_read_selector(reference))
        self._outputs.append(_count_outputs(request))
        self._keyed.append(request is not None and explicit_key(request) is not None)
        self._dependents += reference is not None
        return None

    def check(self) -> list[tuple[int, str]]:
        """Return the faults of references as lines and messages, in the order of the lines; to be called once."""
        faults = [*self._resolve(), *self._find_cycles()]
        faults += self._check_selectors()
        self._link()
        return sorted(faults)

    def source(self, line: int) -> int | None:
        """Return the line that a line takes its source from."""
        node = self._find(line)
        return None if node is None or self._sources[node] == _NONE else self._lines[self._sources[node]]

    def dependents(self, line: int) -> Iterator[int]:
        """Iterate over the lines that take from a line, in their order."""
        node = self._find(line)
        after = _NONE if node is None else self._first_dependent[node]
        while after != _NONE:
            yield self._lines[after]
            after = self._next_dependent[after]

    def has_dependents(self, line: int) -> bool:
        """Return whether any line takes from a line."""
        return next(self.dependents(line), None) is not None

    def is_repeated(self, line: int) -> bool:
        """Return whether a line may be several jobs (rule 2)."""
        node = self._find(line)
        return node is not None and bool(self._repeated[node])

    def count_dependents(self, line: int) -> tuple[int, int | None]:
        """Return how many jobs depend on one job of a line, directly or not: at least, and at most (None: unknown)."""
        node = self._find(line)
        if node is None:
            return 0, 0
        if len(self._at_least) < len(self._lines):
            self._sum_up()
        most = self._at_most[node]
        return self._at_least[node], None if most == _NONE else most

    def component(self, line: int) -> int:
        """Return the smallest line of the connected component of a line: the same for all lines of a tree."""
        node = self._find(line)
        if node is None:
            return line
        if len(self._parents) < len(self._lines):
            self._join()
        return self._lines[self._root(node)]

    def _number(self, id: str) -> int:  # noqa: A002 - the field's name
        number = self._ids.number(id)
        if number == len(self._defined):
            self._defined.append(_NONE)
        return number

    def _find(self, line: int) -> int | None:
        node = bisect_left(self._lines, line)
        return node if node < len(self._lines) and self._lines[node] == line else None

    def _resolve(self) -> Iterator[tuple[int, str]]:
        """Replace the ids of sources by their nodes."""
        for node, number in enumerate(self._sources):
            if number == _NONE:
                continue
            self._sources[node] = self._defined[number]
            if self._sources[node] == _NONE:
                yield self._lines[node], f"no line has the id {self._ids[number]!r}"

    def _find_cycles(self) -> Iterator[tuple[int, str]]:
        """Cut every cycle at its first line, and find out which lines are repeated."""
        self._repeated = bytearray(len(self._lines))
        seen, on_path = bytearray(len(self._lines)), bytearray(len(self._lines))
        for start in range(len(self._lines)):
            path, node = array("i"), start
            while node != _NONE and not seen[node]:
                seen[node] = on_path[node] = True
                path.append(node)
                node = self._sources[node]
            if node != _NONE and on_path[node]:
                cycle = path[path.index(node) :]
                first = min(cycle)
                yield self._lines[first], self._describe_cycle(cycle, first)
                self._sources[first] = _NONE
            for node in reversed(path):
                on_path[node] = False
                source = self._sources[node]
                inherited = source != _NONE and self._repeated[source]
                self._repeated[node] = inherited or (source != _NONE and self._selectors[node] == _ALL)

    def _describe_cycle(self, cycle: Sequence[int], first: int) -> str:
        turn = list(cycle).index(first)
        lines = [self._lines[node] for node in (*cycle[turn:], *cycle[:turn])]
        if len(lines) == 1:
            return "takes its source from itself"
        shown = ", ".join(map(str, lines[1:_SHOWN])) + (", ..." if len(lines) > _SHOWN else "")
        return f"takes its source from itself, by line{'s' * (len(lines) > 2)} {shown}"

    def _check_selectors(self) -> Iterator[tuple[int, str]]:
        for node, source in enumerate(self._sources):
            if source == _NONE:
                continue
            selector, outputs, where = self._selectors[node], self._outputs[source], self._lines[source]
            if selector == _BY_KIND and outputs not in (_KINDS, _INVALID):
                yield self._lines[node], f"line {where} has no kinds of outputs: only {SeparateStems.route} has"
            if outputs not in (_UNKNOWN, _KINDS, _INVALID) and selector >= outputs:
                has = "one output, output 0" if outputs == 1 else f"{outputs} outputs, from 0 to {outputs - 1}"
                yield self._lines[node], f"line {where} has no output {selector}: it has {has}"
            if self._repeated[node] and self._keyed[node]:
                yield self._lines[node], _REPEATED_KEY

    def _link(self) -> None:
        """Make the lists of dependents."""
        self._first_dependent = array("i", [_NONE]) * len(self._lines)
        self._next_dependent = array("i", [_NONE]) * len(self._lines)
        for node in range(len(self._lines) - 1, -1, -1):
            source = self._sources[node]
            if source != _NONE:
                self._next_dependent[node] = self._first_dependent[source]
                self._first_dependent[source] = node

    def _sum_up(self) -> None:
        """Count what depends on each node, from the leaves to the roots."""
        size = len(self._lines)
        self._at_least, self._at_most = array("q", bytes(8 * size)), array("q", bytes(8 * size))
        waiting = array("i", bytes(4 * size))
        for source in self._sources:
            if source != _NONE:
                waiting[source] += 1
        leaves = array("i", (node for node in range(size) if not waiting[node]))
        while leaves:
            node = leaves.pop()
            source = self._sources[node]
            if source == _NONE:
                continue
            self._at_least[source] += 1 + self._at_least[node]
            self._at_most[source] = self._add_at_most(source, node)
            waiting[source] -= 1
            if not waiting[source]:
                leaves.append(source)

    def _add_at_most(self, source: int, node: int) -> int:
        times = self._outputs[source] if self._selectors[node] == _ALL else 1
        so_far, more = self._at_most[source], self._at_most[node]
        if _NONE in (so_far, more) or times in (_UNKNOWN, _KINDS, _INVALID):
            return _NONE
        total = so_far + times * (1 + more)
        return total if total < _COUNTABLE else _NONE

    def _join(self) -> None:
        """Find the components; the first node of each stands for it."""
        self._parents = array("i", range(len(self._lines)))
        for node, source in enumerate(self._sources):
            if source != _NONE:
                one, other = self._root(node), self._root(source)
                self._parents[max(one, other)] = min(one, other)

    def _root(self, node: int) -> int:
        parents = self._parents
        while parents[node] != node:
            parents[node] = node = parents[parents[node]]
        return node


class _Texts:
    """Numbers different texts, from 0 and in the order they come; a third of the memory that a dictionary takes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")
        self._hashes = array("q")
        self._slots = array("i", [_NONE]) * 64

    def __getitem__(self, number: int) -> str:
        return self._encoded(number).decode(errors="surrogatepass")

    def number(self, text: str) -> int:
        """Return the number of a text; a new text gets the next one."""
        encoded = text.encode(errors="surrogatepass")
        mark = hash(encoded)
        slot = self._find(encoded, mark)
        if self._slots[slot] != _NONE:
            return self._slots[slot]
        number = self._slots[slot] = len(self._ends)
        self._bytes += encoded
        self._ends.append(len(self._bytes))
        self._hashes.append(mark)
        if len(self._ends) * 2 > len(self._slots):
            self._grow()
        return number

    def _find(self, encoded: bytes, mark: int) -> int:
        """Return the slot of a text, or the free one it may take."""
        slot = mark % len(self._slots)
        while (number := self._slots[slot]) != _NONE:
            if self._hashes[number] == mark and self._encoded(number) == encoded:
                break
            slot = (slot + 1) % len(self._slots)
        return slot

    def _encoded(self, number: int) -> bytes:
        start = self._ends[number - 1] if number else 0
        return bytes(self._bytes[start : self._ends[number]])

    def _grow(self) -> None:
        self._slots = array("i", [_NONE]) * (2 * len(self._slots))
        for number, mark in enumerate(self._hashes):
            slot = mark % len(self._slots)
            while self._slots[slot] != _NONE:
                slot = (slot + 1) % len(self._slots)
            self._slots[slot] = number


def _read_selector(reference: JobReference | None) -> int:
    if reference is None:
        return 0
    if reference.kind is not None:
        return _BY_KIND
    return _ALL if isinstance(reference.output, str) else reference.output or 0


def _count_outputs(request: Request | None) -> int:
    if request is None:
        return _INVALID
    if isinstance(request, SeparateStems):
        return _KINDS
    return min(max_outputs(request) or _UNKNOWN, _KINDS - 1)

"""What the files of one run are called, when many operations share a folder.

1. Two operations never get the same file name, nor two that differ by case alone: some file systems make them one.
2. Who comes first gets the name as it is, who comes later a number behind it; asked again, each gets its own.
3. A run may have any number of operations, so only the latest names are remembered. An older one is found on the disk:
   the downloader writes over no file of other content.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from soundpiece_async._core.names import file_names, number_stem
from soundpiece_async._core.operations import Operation

if TYPE_CHECKING:
    from soundpiece_async._core.outputs import Handle

REMEMBERED_NAMES = 50_000
"""File names of one run that are remembered, about 200 bytes each, the oldest going first."""


class Titles:
    """One per run."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, Handle] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Titles given={len(self._owners)}>"

    def give(self, operation: Operation[Any], stem: str) -> str:
        """Give the name under which the files of an operation get names that are theirs alone."""
        titles = (number_title(stem, number) for number in count(1))
        return next(title for title in titles if self._claim(title, operation))

    def _claim(self, title: str, operation: Operation[Any]) -> bool:
        """Take the names of an operation's files under a title, unless one of them is another's."""
        owner = operation.handle
        wanted = [name.casefold() for name in file_names(title, operation.outputs)]
        free = all(self._owners.get(name, owner) == owner for name in wanted)
        if free:
            self._owners.update(dict.fromkeys(wanted, owner))
            while len(self._owners) > max(REMEMBERED_NAMES, len(wanted)):
                self._owners.popitem(last=False)
        return free


def number_title(stem: str, number: int) -> str:
    """Give the n-th title of a stem, from 1."""
    return stem if number == 1 else number_stem(stem, number)


def find_free(is_free: Callable[[int], bool]) -> int:
    """Find a number from 1 that is free, with few questions also where a hundred thousand are taken without a gap."""
    taken, free = 0, 1
    while not is_free(free):
        taken, free = free, free * 2
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (taken, middle) if is_free(middle) else (middle, free)
    return free

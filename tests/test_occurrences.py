import gc

from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._journal.occurrences import OccurrenceCounter


@given(st.lists(st.binary(max_size=2)))
def test_occurrences_are_counted(digests: list[bytes]) -> None:
    """Each gets its number among equal ones, and the position of the first of them."""
    seen = OccurrenceCounter()
    for place, digest in enumerate(digests):
        assert seen.count(digest, place) == (digests[: place + 1].count(digest), digests.index(digest))
    assert repr(seen) == f"<OccurrenceCounter of {len(set(digests))}>"


def test_nothing_is_left_open() -> None:
    """Where they are forgotten, their memory is given back without a warning."""
    OccurrenceCounter().count(b"once")
    gc.collect()

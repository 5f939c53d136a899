from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.filenames import MAX_STEM_BYTES, REMEMBERED_NAMES, UniqueNames, file_names, first_free
from soundpiece_async._core.operations import Operation, Status
from soundpiece_async._core.requests import Handle, Output


def operation(name: str, *, files: int = 1) -> Operation[None]:
    handle = Handle("create.new_song", name)
    outputs = tuple(Output(url=f"https://x/{n}", handle=handle, index=n) for n in range(files))
    return Operation(route=handle.route, id=name, status=Status.READY, request=None, outputs=outputs)


def test_names_that_differ_by_case_alone_get_a_number() -> None:
    """Who comes first keeps the name; asked again, each gets its own."""
    titles = UniqueNames()

    assert titles.assign(operation("1"), "Rain") == "Rain"
    assert titles.assign(operation("2"), "rain") == "rain-2"
    assert titles.assign(operation("3"), "RAIN") == "RAIN-3"
    assert titles.assign(operation("2"), "rain") == "rain-2"
    assert titles.assign(operation("1"), "Rain") == "Rain"
    assert repr(titles) == "<UniqueNames given=3>"


def test_a_name_does_not_meet_the_numbers_of_another() -> None:
    """Several outputs have numbers in their names, which others may be called."""
    titles = UniqueNames()

    assert titles.assign(operation("1", files=2), "take") == "take"
    assert titles.assign(operation("2"), "take-1") == "take-1-2"
    assert titles.assign(operation("3"), "take") == "take"


def test_only_the_latest_names_are_remembered() -> None:
    """A run of ten million does not grow; names of one operation are distinct however many they are."""
    titles = UniqueNames()

    for number in range(REMEMBERED_NAMES + 5):
        assert titles.assign(operation(str(number)), f"take {number}") == f"take {number}"
    assert repr(titles) == f"<UniqueNames given={REMEMBERED_NAMES}>"
    assert titles.assign(operation("new"), f"take {REMEMBERED_NAMES}") == f"take {REMEMBERED_NAMES}-2"
    assert titles.assign(operation("new"), "take 0") == "take 0"
    large = operation("large", files=REMEMBERED_NAMES + 1)
    assert titles.assign(large, "large") == "large"
    assert repr(titles) == f"<UniqueNames given={REMEMBERED_NAMES + 1}>"


def test_long_names_are_numbered_too() -> None:
    """The number is behind what is cut, not cut itself."""
    titles = UniqueNames()

    names = [titles.assign(operation(str(n)), "é" * MAX_STEM_BYTES) for n in range(12)]

    assert len(set(names)) == 12
    assert all(len(name.encode()) <= MAX_STEM_BYTES for name in names[1:])


@given(st.lists(st.tuples(st.text("aA-12/é.", max_size=4), st.integers(1, 3)), max_size=12))
def test_no_two_files_are_one(pieces: list[tuple[str, int]]) -> None:
    """Whatever pieces are called, however many files they have."""
    titles = UniqueNames()
    operations = [operation(str(number), files=files) for number, (_, files) in enumerate(pieces)]

    names = [
        name.casefold()
        for one, (stem, _) in zip(operations, pieces, strict=True)
        for name in file_names(titles.assign(one, stem), one.outputs)
    ]

    assert len(set(names)) == len(names)


@given(st.sets(st.integers(1, 40), max_size=30))
def test_a_free_number_is_found(taken: set[int]) -> None:
    """It is one that nobody has; where the taken ones have no gap it is the next."""
    found = first_free(lambda number: number not in taken)

    assert found not in taken
    assert found > 0
    if taken == set(range(1, len(taken) + 1)):
        assert found == len(taken) + 1


def test_a_free_number_is_found_with_few_questions() -> None:
    """A hundred thousand lines may all ask for one name."""
    asked: list[int] = []

    assert first_free(lambda number: bool(asked.append(number)) or number > 100_000) == 100_001
    assert len(asked) < 40

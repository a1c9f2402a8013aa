"""Tells which cell a database is by the places at which its URL stands."""

import pytest

from service.domain.cells import ALL_BATCHES, Slice, cell_of, numbers_at, slices_at


@pytest.mark.parametrize(
    ("places", "slices", "numbers"),
    [
        ("a", {"a": ALL_BATCHES}, [0]),
        ("ab", {"a": Slice(2, 0), "b": Slice(2, 1)}, [0, 1]),
        ("abcb", {"a": Slice(4, 0), "b": Slice(2, 1), "c": Slice(4, 2)}, [0, 1, 2, 1]),
        ("abab", {"a": Slice(2, 0), "b": Slice(2, 1)}, [0, 1]),
    ],
)
def test_a_database_is_the_cell_of_its_places(places: str, slices: dict[str, Slice], numbers: list[int]) -> None:
    found = slices_at(list(places))
    assert {name: of for of, name in found} == slices
    assert numbers_at([of for of, _ in found]) == numbers
    for batch_id in (f"b{number}" for number in range(99)):
        (owner,) = (of for of in slices.values() if of.holds(batch_id))
        assert numbers[cell_of(batch_id, len(numbers))] == owner.cell


@pytest.mark.parametrize("places", ["aab", "abba", "abcbadcb"])
def test_a_database_at_other_places_is_no_cell(places: str) -> None:
    with pytest.raises(ValueError, match="are no cell"):
        slices_at(list(places))

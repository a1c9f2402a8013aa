"""The name of a group, and the texts of its offsets, say which cell it is of."""

import pytest

from service.domain.cells import ALL_BATCHES, Slice, slice_named
from service.kafka.group import committed_epoch, foreign_group_error, offset_text

SLICES = [ALL_BATCHES, Slice(2, 0), Slice(2, 1), Slice(4, 0), Slice(1024, 1000)]


@pytest.mark.parametrize("of", SLICES, ids=str)
@pytest.mark.parametrize("base", ["els", "els.cell-1-of-4", "", "cell-1-of-4", "els.cell-1-of-4.blue"])
def test_each_slice_has_groups_of_its_own(base: str, of: Slice) -> None:
    if base == "els.cell-1-of-4" and of.is_all:
        return  # what a service without cells must not use
    assert slice_named(base + of.suffix) == of
    for suffix in ("", ".replay"):
        for each in SLICES:
            error = foreign_group_error(base + of.suffix + suffix, (), each)
            assert error == (
                None
                if each == of
                else f"ELS_CONSUMER_GROUP: the group '{base + of.suffix + suffix}' is that of {of}, and this is {each}"
            )


@pytest.mark.parametrize("of", SLICES, ids=str)
def test_one_offset_of_another_slice_makes_a_group_foreign(of: Slice) -> None:
    group = "els" + of.suffix
    own = offset_text(7, 3, of)[1]
    unknown = ["", "of another program", "els/progress/", "els/progress/1/2", "els/progress/1/2/3/4", own + " "]
    assert committed_epoch(own) == 3
    assert foreign_group_error(group, [*unknown, own], of) is None
    for other in set(SLICES) - {of}:
        error = foreign_group_error(group, [own, *unknown, offset_text(7, 3, other)[1]], of)
        assert error == f"ELS_CONSUMER_GROUP: the group '{group}' has offsets of {other}, and this is {of}"

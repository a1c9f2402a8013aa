"""Tests where a pod continues in a partition, by what is known of it."""

from dataclasses import replace

import pytest

from service.history.resumption import Observed, Resumption, records_behind, resume
from service.store.progress import ProgressRow

ROW = ProgressRow(epoch=2, next_offset=50)
SEEN = Observed(ROW, group_offset=50, group_epoch=2, beginning=10, end=60)
OLDER = ROW._replace(previous_release=True)


@pytest.mark.parametrize(
    ("observed", "behind"),
    [
        (SEEN, 0),
        (replace(SEEN, group_offset=51), 1),
        (replace(SEEN, group_offset=40), 0),
        (replace(SEEN, group_offset=None), 0),
        (replace(SEEN, group_offset=51, group_epoch=1), 0),
        (replace(SEEN, group_offset=51, group_epoch=3), 1),
        (replace(SEEN, group_offset=51, group_epoch=None), 1),
        (replace(SEEN, row=OLDER, group_offset=51, group_epoch=None), 0),
        (replace(SEEN, row=OLDER, group_offset=51), 1),
        (replace(SEEN, row=None, group_offset=51, group_epoch=None), 0),
        (replace(SEEN, row=None, group_offset=51, group_epoch=0), 41),
        (replace(SEEN, row=None, group_offset=10, group_epoch=0), 0),
    ],
)
def test_a_row_is_behind_the_offset_that_a_pod_with_rows_has_committed_in_the_same_log(
    observed: Observed, behind: int
) -> None:
    assert records_behind(observed) == behind


@pytest.mark.parametrize(
    ("observed", "resumption"),
    [
        (SEEN, Resumption(50, 2)),
        (replace(SEEN, group_offset=None), Resumption(50, 2)),
        (replace(SEEN, group_offset=30), Resumption(50, 2)),
        (replace(SEEN, row=OLDER, group_offset=55, group_epoch=None), Resumption(55, 2)),
        (replace(SEEN, row=OLDER, group_offset=30, group_epoch=None), Resumption(50, 2)),
        (replace(SEEN, row=None, group_epoch=None), Resumption(50)),
        (replace(SEEN, row=None, group_offset=None, group_epoch=None), Resumption(10)),
        (replace(SEEN, row=None, group_offset=5, group_epoch=None), Resumption(10)),
        (replace(SEEN, row=None, group_offset=99, group_epoch=None), Resumption(10)),
        (replace(SEEN, record="same"), Resumption(50, 2)),
        (replace(SEEN, beginning=55), Resumption(55, 2, (50, 55, "deleted"))),
        (replace(SEEN, record="another"), Resumption(10, 3, (10, 10, "replaced"))),
        (replace(SEEN, end=45, record="missing"), Resumption(10, 3, (45, 50, "truncated"))),
        (replace(SEEN, beginning=55, record="another"), Resumption(55, 3, (55, 55, "replaced"))),
    ],
)
def test_where_to_continue(observed: Observed, resumption: Resumption) -> None:
    assert resume(observed) == resumption

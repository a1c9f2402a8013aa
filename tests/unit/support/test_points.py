"""By what a point of a race is known again: everything that decides how it goes on, and nothing else."""

from dataclasses import replace

import pytest

from tests.support.interleaving.points import Been, History, Point, Row, Standing, end, point

SLOT: Row = ("slots", "(0,1)", [], ["10:00"], "taken by c1")
OPEN: Row = ("slots", "(0,2)", [], [None], "open")
TOLD: Row = ("outbox_pages", "(0,1)", [7], ["10:00"], "slot assigned")
READY: Row = ("outbox_pages", "(0,2)", [8], ["10:00"], "ready")
HERE = Standing(b"asked", fresh=True, view=[SLOT, OPEN])


def key(committed: list[Row], **standing: Standing) -> bytes:
    return point(committed, standing, [], [], None, after_end=False).key


def test_what_the_clock_says_and_numbers_that_were_left_out_make_no_other_point() -> None:
    later: list[Row] = [
        ("slots", "(3,5)", [], ["11:30"], "taken by c1"),
        ("slots", "(4,1)", [], [None], "open"),
        ("outbox_pages", "(9,1)", [107], ["11:30"], "slot assigned"),
        ("outbox_pages", "(9,2)", [109], ["11:30"], "ready"),
    ]
    assert key([SLOT, OPEN, TOLD, READY]) == key(later)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("another row", [SLOT, OPEN, TOLD, (*READY[:4], "errors")]),
        ("a row more", [SLOT, OPEN, TOLD, READY, ("excess_content", "(0,1)", [], ["10:00"], "c9")]),
        ("numbers the other way round", [SLOT, OPEN, ("outbox_pages", "(0,1)", [9], *TOLD[3:]), READY]),
        ("rows the other way round", [SLOT, OPEN, ("outbox_pages", "(0,3)", *TOLD[2:]), READY]),
        ("another transaction's time", [SLOT, OPEN, TOLD, (*READY[:3], ["10:01"], "ready")]),
    ],
)
def test_what_is_committed_makes_another_point(what: str, other: list[Row]) -> None:
    assert key([SLOT, OPEN, TOLD, READY]) != key(other), what


@pytest.mark.parametrize(
    "other",
    [
        replace(HERE, history=b"asked and answered"),
        replace(HERE, fresh=False),
        replace(HERE, view=[SLOT, OPEN, TOLD]),
        replace(HERE, view=[SLOT]),
    ],
)
def test_what_an_actor_was_answered_and_what_it_has_written_make_another_point(other: Standing) -> None:
    assert key([SLOT, OPEN], A=HERE) != key([SLOT, OPEN], A=other)
    assert key([SLOT, OPEN], A=HERE) != key([SLOT, OPEN], B=HERE)


def test_who_waits_is_known_by_what_there_was_when_it_began_and_at_each_end_since() -> None:
    def waits(before: Point, *, after_end: bool, committed: list[Row]) -> Point:
        return point(committed, {"A": HERE}, [], ["B"], before, after_end)

    first = point([SLOT], {"A": HERE}, [], [], None, after_end=False)
    second = point([OPEN], {"A": HERE}, [], [], None, after_end=False)
    begun = waits(first, after_end=False, committed=[SLOT])
    assert begun.key != waits(second, after_end=False, committed=[SLOT]).key
    assert waits(begun, after_end=False, committed=[SLOT]) == begun
    through = waits(begun, after_end=True, committed=[OPEN])
    assert waits(through, after_end=True, committed=[SLOT]).key != begun.key


def test_who_has_died_makes_another_end_and_where_rows_lie_does_not() -> None:
    moved: Row = ("slots", "(5,1)", *SLOT[2:])
    assert end([SLOT, OPEN], ["A"]) == end([moved, OPEN], ["A"])
    assert end([SLOT, OPEN], ["A"]) != end([SLOT, OPEN], ["B"])
    assert end([SLOT, OPEN], []) != end([SLOT], [])


def test_an_order_has_done_anothers_work_where_no_more_was_asleep() -> None:
    here, been = Point(b"here", {}), Been()
    assert not been.before(here, {"A": 1})
    assert been.before(here, {"A": 1, "B": 1})
    assert not been.before(here, {"A": 2, "B": 1})
    assert not been.before(here, {})
    assert been.before(here, {"C": 1})
    assert not been.before(Point(b"there", {}), {"C": 1})


def test_a_history_tells_what_was_answered_apart() -> None:
    histories = [History() for _ in range(4)]
    for history, steps in zip(
        histories, (["look", "commit"], ["look", "commit"], ["commit"], ["commit", "look"]), strict=True
    ):
        for step in steps:
            history.add(step)
    one, same, shorter, turned = (history.digest for history in histories)
    assert one == same
    assert len({one, shorter, turned}) == 3

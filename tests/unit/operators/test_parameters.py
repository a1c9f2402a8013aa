"""Tests how the parameters of operator actions are read."""

from datetime import UTC, datetime, timedelta

import pytest

from service.operators import parameters

NOW_SECONDS = 60.0
"""More than a test takes."""


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2h", 7_200), ("1d", 86_400)])
def test_a_time_is_also_how_long_ago_it_was(text: str, seconds: int) -> None:
    for read in (parameters.moment, parameters.moment_end):
        passed = datetime.now(UTC) - read(text) - timedelta(seconds=seconds)
        assert abs(passed) < timedelta(seconds=NOW_SECONDS)
    for age in (parameters.age_since, parameters.age_until):
        assert seconds <= age(text) < seconds + NOW_SECONDS


def test_a_date_begins_at_midnight_and_ends_with_its_day() -> None:
    day = datetime(2026, 11, 29, tzinfo=UTC)
    assert parameters.moment("2026-11-29") == day
    assert parameters.moment_end("2026-11-29") == day + timedelta(days=1, microseconds=-1)
    assert (
        parameters.moment("2026-11-29T08:00+01:00")
        == parameters.moment_end("2026-11-29T07:00")
        == datetime(2026, 11, 29, 7, tzinfo=UTC)
    )
    assert parameters.age_since("2026-11-29") - parameters.age_until("2026-11-29") == pytest.approx(86_400, abs=1)


def test_a_time_that_comes_has_the_age_0() -> None:
    assert parameters.age_since("8000-01-01") == parameters.age_until("8000-01-01") == 0.0


@pytest.mark.parametrize("text", ["soon", "", "2h ago", "2020", "90", "20261399"])
def test_no_time_is_named_as_such(text: str) -> None:
    for read in (parameters.moment, parameters.moment_end, parameters.age_since, parameters.age_until):
        with pytest.raises(ValueError, match="must be a date or a time"):
            read(text)

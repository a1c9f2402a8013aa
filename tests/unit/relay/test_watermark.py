"""Tests that the watermark never rises above a row that waits, or that a running transaction may still commit."""

import pytest

from service.relay import watermark as watermark_module
from service.relay.watermark import Watermark
from service.store.outbox import OutboxRow


def rows(*seqs: int, horizon: int = 0) -> list[OutboxRow]:
    return [OutboxRow(seq, 0, b"b", b"{}", True, 0, False, 0.0, horizon) for seq in seqs]


@pytest.fixture
def watermark() -> Watermark:
    watermark = Watermark()
    watermark.fetched(rows(1, 2, 3))
    watermark.drawn(100)
    return watermark


def test_it_rises_to_what_was_read_before_all_older_transactions_ended(watermark: Watermark) -> None:
    watermark.fetched(rows(4, 5, horizon=100))
    assert watermark.seq == 3


def test_it_does_not_rise_while_an_older_transaction_runs(watermark: Watermark) -> None:
    watermark.fetched(rows(4, 5, horizon=99))
    assert watermark.seq == 0


def test_it_stays_below_a_row_that_is_not_acknowledged(watermark: Watermark) -> None:
    watermark.fetched(rows(2, 4, horizon=100))
    assert watermark.seq == 1


def test_a_row_that_was_read_after_the_transaction_id_was_drawn_does_not_count(watermark: Watermark) -> None:
    watermark.fetched(rows(4, 5, horizon=99))
    watermark.drawn(200)
    watermark.fetched(rows(9, horizon=150))
    assert watermark.seq == 3


def test_it_is_dropped_after_some_seconds(watermark: Watermark, monkeypatch: pytest.MonkeyPatch) -> None:
    watermark.fetched(rows(4, horizon=100))
    monkeypatch.setattr(watermark_module, "WATERMARK_SECONDS", -1.0)
    assert watermark.seq == 0


def test_nothing_of_before_is_used_after_a_drop(watermark: Watermark) -> None:
    watermark.drop()
    watermark.fetched(rows(4, horizon=100))
    assert watermark.seq == 0

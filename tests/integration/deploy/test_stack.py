"""Tests what `make up` does with the database."""

import psycopg

from deploy.local.stack import begin_new_epochs
from service.domain.topics import CONTENT_PROVISIONED


def test_a_new_broker_has_new_topics(app_url: str, database_url: str) -> None:
    """Else pods report the records of the broker before it as lost."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "insert into els.progress"
            " (topic, partition, epoch, next_offset, record_offset, record_digest, applied_until)"
            " values (%s, 0, 3, 70, 69, 'x', now())",
            [CONTENT_PROVISIONED],
        )
        begin_new_epochs(app_url)
        found = conn.execute("select epoch, next_offset, record_offset, record_digest, applied_until from els.progress")
        assert found.fetchall() == [(4, 0, None, None, None)]

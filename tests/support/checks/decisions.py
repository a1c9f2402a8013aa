"""Compares what pods log about contents with the tables."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import psycopg

from deploy.servers.pods import Pod

Key = tuple[str, str]
"""(batch_id, text_storage_id)"""

ENDS = {
    "content_assigned": "select batch_id, text_storage_id from els.slots where state = 'assigned'",
    "content_excess": "select batch_id, text_storage_id from els.excess_content",
}


def check_decisions(pods: Iterable[Pod], database_url: str) -> None:
    """Asserts that the outcome of each content, and each repeat, is logged once with all three ids."""
    lines: dict[str, Counter[Key]] = defaultdict(Counter)
    for pod in pods:
        for entry in pod.logged():
            if entry["event"].startswith("content_"):
                assert entry["correlation_id"]
                lines[entry["event"]][entry["batch_id"], entry["text_storage_id"]] += 1
    with psycopg.connect(database_url) as conn:
        for event, query in ENDS.items():
            assert lines[event] == Counter(_keys(conn, query)), event
        waiting = _keys(conn, "select batch_id, text_storage_id from els.pending_content")
    assert set(lines["content_pending"].values()) <= {1}
    assert set(waiting) <= set(lines["content_pending"])
    assert set(lines["content_repeated"]) <= set(lines["content_assigned"] + lines["content_excess"]) | set(waiting)


def _keys(conn: "psycopg.Connection[tuple[str, str]]", query: str) -> list[Key]:
    return conn.execute(query.encode()).fetchall()

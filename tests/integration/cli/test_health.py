"""Tests the commands on the verdict of ops.health."""

from typing import Any

import psycopg

from tests.support.builders.alive import ALIVE
from tests.support.pods.command_line import CommandLine

LOST = (
    "insert into els.lost_inputs (topic, partition, first_offset, next_offset, cause)"
    " values ('one', 0, 1, 3, 'deleted'), ('two', 0, 1, 3, 'replaced')"
)


def test_health_shows_the_level_and_its_reasons(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    shown = service("health")
    assert shown.status == 1
    assert shown.out.startswith("action needed\n- action needed: ")
    assert "relays: no pod publishes events (docs/operations.md#elsnorelay)" in shown.out
    conn.execute(ALIVE)
    assert (service("health").out, service("health").status) == ("fine\n", 0)
    conn.execute(LOST)
    shown = service("health", "--json")
    assert (shown.status, shown.json["level"]) == (0, "notice")
    assert [(each["level"], each["kind"]) for each in shown.json["conditions"]] == [("notice", "lost_inputs")]


def test_health_acknowledge_says_what_it_has_marked(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute(ALIVE)
    conn.execute(LOST)
    assert service("health", "acknowledge", "2").out == "Acknowledged: loss 2 of two.\n"
    would = service("health", "acknowledge", "lost_inputs", "--dry-run")
    assert would.out == "Would be acknowledged: loss 1 of one.\n"
    assert service("health", "acknowledge", "--why", "asked for again").out == "Acknowledged: loss 1 of one.\n"
    assert service("health", "acknowledge").status == 1
    assert service("health", "acknowledge", "another").status == 2
    assert service("health").out == "fine\n"


def test_what_needs_an_action_is_not_acknowledged(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute(ALIVE)
    conn.execute("delete from els.relays")
    for arguments in (["relays"], []):
        result = service("health", "acknowledge", *arguments)
        assert result.status == 1
        assert "cannot be acknowledged: no pod publishes events (docs/operations.md#elsnorelay)" in result.err
    assert conn.execute("select count(*) from ops.operator_actions").fetchone() == (0,)

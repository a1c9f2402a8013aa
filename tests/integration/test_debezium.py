"""The outbox is one that Debezium's event router reads: its connector (deploy/debezium) names columns that are there,
and makes records of them that are those of the relay. No Debezium runs here.
"""

import json

import psycopg
from sqlalchemy import Text, Uuid

from service.domain.topics import LARGEST_RECORD
from service.postgres.tables import outbox
from service.relay import publication
from service.store.outbox import Row
from tests.support.pods import ROOT

FOLDER = ROOT / "deploy" / "debezium"
CONNECTOR: dict[str, str] = json.loads((FOLDER / "outbox-connector.json").read_text())["config"]
ROUTER = {
    name.removeprefix("transforms.outbox."): value
    for name, value in CONNECTOR.items()
    if name.startswith("transforms.outbox.")
}
HEADERS = [each.split(":") for each in ROUTER["table.fields.additional.placement"].split(",")]

NAMES = {"event.id": "id", "event.key": "aggregateid", "event.type": "type", "event.payload": "payload"}
"""Debezium's own, so that a connector which says nothing of them reads this table too."""


def test_the_router_finds_its_columns_under_their_usual_names() -> None:
    assert {name: ROUTER[f"table.field.{name}"] for name in NAMES} == NAMES
    assert {*NAMES.values(), "aggregatetype", ROUTER["route.by.field"]} <= set(outbox.c.keys())
    assert isinstance(outbox.c.id.type, Uuid)
    assert isinstance(outbox.c.payload.type, Text)
    assert isinstance(outbox.c.aggregateid.type, Text)


def test_the_router_sends_each_row_to_the_topic_that_it_names() -> None:
    assert ROUTER["route.by.field"] == "type"
    assert ROUTER["route.topic.replacement"] == "${routedByValue}"
    assert CONNECTOR["table.include.list"] == outbox.fullname


def test_the_records_have_the_headers_of_the_relay() -> None:
    assert all(column in outbox.c and place == "header" for column, place, _ in HEADERS)
    whole = Row(1, 1, b"batch", b"topic", b"{}", b"event", b"correlation", b"parent", b"state", 0.0, 1)
    assert {name for _, _, name in HEADERS} == {name for name, _ in publication._headers(whole)}
    assert {name: column for column, _, name in HEADERS} == {
        "event_id": "id",
        "event_type": "type",
        "correlation_id": "correlation_id",
        "traceparent": "traceparent",
        "tracestate": "tracestate",
    }


def test_key_and_payload_go_out_as_they_are() -> None:
    string = "org.apache.kafka.connect.storage.StringConverter"
    assert {CONNECTOR[f"{part}.converter"] for part in ("key", "value", "header")} == {string}
    assert int(CONNECTOR["producer.override.max.request.size"]) == LARGEST_RECORD


def test_a_row_is_never_updated_which_the_router_takes_for_an_error(database_url: str) -> None:
    assert ROUTER["table.op.invalid.behavior"] == "error"
    with psycopg.connect(database_url) as conn:
        found = conn.execute("select has_table_privilege('els_app', 'els.outbox', 'update')").fetchone()
    assert found == (False,)


def test_the_publication_holds_what_is_inserted_and_its_role_reads_nothing_else(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        conn.execute((FOLDER / "publication.sql").read_bytes())
        published = "select tablename::text, pubinsert, pubupdate, pubdelete, pubtruncate from pg_publication_tables"
        published += " join pg_publication using (pubname) where pubname = %s"
        assert conn.execute(published, [CONNECTOR["publication.name"]]).fetchall() == [
            ("outbox", True, False, False, False)
        ]
        readable = """
            select oid::regclass::text from pg_class
            where relnamespace in ('els'::regnamespace, 'ops'::regnamespace)
            and relkind in ('r', 'v')
            and has_table_privilege(%s, oid, 'select')
        """
        assert conn.execute(readable, [CONNECTOR["database.user"]]).fetchall() == [("els.outbox",)]
        conn.rollback()

"""Tests that what is erased is nowhere afterwards, and stays away; that all else stays."""

import hmac
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.personal_data import BLANK, OTHER_COLUMNS, PERSONAL_COLUMNS
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.intake.reporting import report as report_effects
from service.operators.errors import Conflict, InvalidRequest
from service.operators.operations import Operations
from service.operators.privacy import ErasureReport, ErasureRequest
from service.operators.repetition import TOMBSTONE_NEEDED, Repetition
from service.postgres.pool import Database
from service.recovery.acts import Act
from service.recovery.blanking import import_tombstones, tombstone_of
from service.store import search
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from tests.support.builders.inputs import content, delivery, failed, provisioned, registered, registration
from tests.support.checks.personal import COLUMNS, contains_name, places_of
from tests.support.pods.applier import ApplyFixture

NAME = "Åsa Öberg"
FILE = f"{NAME} uppsats 3.docx"
USER = "lärare-77"
BY = Operator("tester", "case 7")
DETAIL = {"message": f"cannot read {FILE}", "details": {"path": f"/upload/{FILE}"}, "stack_trace": FILE}


class Eraser(ApplyFixture):
    """Applies polls, and erases."""

    def __init__(self, database: Database, conn: psycopg.Connection[Any]) -> None:
        super().__init__(database, conn)
        self.operations = Operations(database, IntakeLimits(), DEFAULT_LIMITS)

    async def erase(self, kind: Any, batch_id: str = "", name: str = "", **options: Any) -> ErasureReport:
        return await self.operations.privacy.erase(BY, ErasureRequest(kind, batch_id, name), **options)

    def publish(self) -> None:
        """Empty the outbox, as a relay does."""
        self.conn.execute("delete from els.outbox_pages")

    def kind_of(self, table: str, column: str) -> str:
        query = "select data_type from information_schema.columns where table_name = %s and column_name = %s"
        (kind,) = self.conn.execute(query, [table, column]).fetchone() or ("",)
        return str(kind)

    def places(self, name: str = NAME) -> set[str]:
        return places_of(self.conn, name, ("els", "ops"))


@pytest.fixture
async def eraser(app_url: str, database_url: str) -> AsyncIterator[Eraser]:
    database = Database(app_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield Eraser(database, conn)
    await database.close()


def rejected(batch_id: str | None, text: str, **data: Any) -> Delivery:
    """A content that is rejected, each time with another event id."""
    value = json.loads(content("", text, **{"original_file_name": FILE, "file_size_bytes": -1, **data}))
    value["data"]["batch_id"] = batch_id
    headers = [("file", value["data"]["original_file_name"].encode())]
    return delivery(CONTENT_PROVISIONED, json.dumps(value).encode(), headers=headers)


def inputs(batch_id: str, early: str) -> list[Delivery]:
    """Bring the name into every table."""
    return [
        registered(
            batch_id, "e1", "e2", user_id=USER, essay_instructions=f"for {NAME}", student_prompt_ref={"n": NAME}
        ),
        provisioned(batch_id, "t1", original_file_name=FILE),
        failed(batch_id, "u2", original_file_name=FILE, validation_error_detail=DETAIL),
        provisioned(batch_id, "t3", original_file_name=FILE),
        provisioned(early, "t4", original_file_name=FILE),
        failed(early, "u5", original_file_name=FILE, validation_error_detail=DETAIL),
    ]


async def fill(eraser: Eraser, batch_id: str = "b", early: str = "early") -> None:
    for each in [*inputs(batch_id, early), rejected(batch_id, "t6"), rejected(early, "t7")]:
        await eraser.once(each)
    await eraser.operations.pending.remove(
        Operator("tester", f"wrong file {FILE}"), "pending clear", PendingFilter(early, contains=NAME)
    )
    eraser.publish()
    async with eraser.database.transaction() as conn:  # as the purge does
        await search.index_changes(conn)


def state(eraser: Eraser) -> list[Any]:
    """Identities and states of all rows."""
    queries = (
        "select batch_id, state, expected, assigned, failed, essay_set from els.batches",
        "select batch_id, essay_id, state, text_storage_id, file_upload_id, taken_at from els.slots",
        "select batch_id, text_storage_id, state, file_upload_id, arrival from els.pending_content",
        "select batch_id, text_storage_id, reason, file_upload_id from els.excess_content",
        "select batch_id, file_upload_id, state, validation_error_code from els.validation_failures",
        "select topic, fingerprint, state, reason from els.quarantine",
        "select id, who, action, batch_id from els.operator_actions where action not like 'privacy %'",
    )
    return [sorted(eraser.rows(query), key=str) for query in queries]


EVERYWHERE = {
    "batches.essay_instructions",
    "batches.student_prompt_ref",
    "slots.original_file_name",
    "excess_content.original_file_name",
    "validation_failures.original_file_name",
    "validation_failures.error_detail",
    "pending_content.original_file_name",
    "quarantine.value",
    "quarantine.headers",
    "quarantine.original_file_name",
    "operator_actions.why",
    "operator_actions.details",
    "search.names",
}


async def test_what_is_erased_is_nowhere_and_repeats_are_still_repeats(eraser: Eraser) -> None:
    await fill(eraser)
    assert places_of(eraser.conn, NAME) == EVERYWHERE
    before = state(eraser)
    for batch_id in ("b", "early"):
        report = await eraser.erase("batch", batch_id)
        assert report.blocked == []
        assert report.rejected_inputs == 1
    assert eraser.places() == set()
    assert eraser.places(USER) == set()
    assert state(eraser) == before
    with capture_logs() as logs:
        for each in [*inputs("b", "early"), rejected("b", "t6"), rejected("early", "t7")]:
            await report_effects((await eraser.once(each)).effects)
    assert eraser.places() == set()
    assert not contains_name(repr(logs).encode(), NAME)
    assert {each["event"] for each in logs} >= {"registration_repeated", "content_repeated", "input_rejected"}
    after = state(eraser)
    assert after[:5] == before[:5]
    assert len(after[5]) == len(before[5]) + 2, "a rejected input with another event id has a row of its own"
    assert eraser.outbox() == []


async def test_what_comes_for_an_erased_batch_later_is_blanked_and_its_events_are_valid(eraser: Eraser) -> None:
    await eraser.once(registered("b", "e1", "e2", user_id=USER, essay_instructions=NAME))
    await eraser.once(failed("b", "u1", original_file_name=FILE, validation_error_detail=DETAIL))
    await eraser.once(provisioned("early", "t1", original_file_name=FILE))
    eraser.publish()
    await eraser.erase("batch", "b")
    await eraser.erase("batch", "early")
    await eraser.once(provisioned("b", "t2", original_file_name=FILE))
    await eraser.once(provisioned("b", "t3", original_file_name=FILE))
    await eraser.once(registered("early", "e1", user_id=USER, essay_instructions=NAME))
    assert eraser.places() == set()
    assert eraser.places(USER) == set()
    by_topic = {each["event_type"].split(".")[-2]: each["data"] for each in [*eraser.outbox(), *eraser.outbox("early")]}
    assert by_topic["completed"]["user_id"] == BLANK
    (failure,) = by_topic["errors"]["failed_essays"]
    assert (failure["file_name"], failure["error_detail"]["message"]) == (BLANK, BLANK)
    assert by_topic["ready"]["essay_instructions"] == ""
    assert by_topic["assigned"]["original_file_name"] == BLANK


async def test_a_user_is_erased_with_batches_that_are_registered_later(eraser: Eraser) -> None:
    await fill(eraser)
    await fill(eraser, "c", "other")
    await eraser.once(registered("theirs", "e1", user_id="another", essay_instructions="kept"))
    await eraser.once(provisioned("late", "t1", original_file_name=FILE))
    await eraser.once(failed("late", "u1", original_file_name=FILE, validation_error_detail=DETAIL))
    eraser.publish()
    report = await eraser.erase("user", name=USER)
    assert [each["batch_id"] for each in report.batches] == ["b", "c"]
    assert eraser.places(USER) == set()
    assert eraser.rows("select user_id, essay_instructions from els.batches where batch_id = 'theirs'") == [
        ("another", "kept")
    ]
    assert "pending_content.original_file_name" in eraser.places()  # nobody knows whose it is yet
    with capture_logs() as logs:
        late = registered("late", "e1", "e2", "e3", user_id=USER, essay_instructions=NAME)
        await report_effects((await eraser.once(late)).effects)
    assert [each["batch_id"] for each in logs if each["event"] == "erased_user_registered"] == ["late"]
    await eraser.once(provisioned("late", "t2", original_file_name=FILE))
    await eraser.once(rejected("late", "t3"))
    found = eraser.rows("select original_file_name from els.slots where batch_id = 'late' and state <> 'open'")
    assert found == [(BLANK,)] * 3
    assert eraser.rows("select event from ops.outbox_events where batch_id = 'late' and event like '%Öberg%'") == []
    await eraser.erase("batch", "early")
    await eraser.erase("batch", "other")
    assert eraser.places() == set()


async def test_one_text_is_erased_and_the_rest_of_its_batch_stays(eraser: Eraser) -> None:
    await eraser.once(registered("b", "e1", "e2", "e3", user_id=USER))
    await eraser.once(provisioned("b", "t1", original_file_name=FILE))
    await eraser.once(provisioned("b", "t2", original_file_name="other.txt"))
    await eraser.once(failed("b", "upload-t1", original_file_name=FILE, validation_error_detail=DETAIL))
    await eraser.once(rejected("b", "t1"))
    await eraser.once(rejected("b", "t2", original_file_name="other.txt"))
    eraser.publish()
    report = await eraser.erase("text", "b", "t1")
    assert report.batches[0]["text_storage_ids"] == ["t1"]
    assert report.batches[0]["file_upload_ids"] == ["upload-t1"]
    assert eraser.places() == set()
    assert eraser.rows("select user_id from els.batches") == [(USER,)]
    assert eraser.rows("select original_file_name from els.slots where text_storage_id = 't2'") == [("other.txt",)]
    assert eraser.rows("select id from els.quarantine where erased_at is null and value is not null") == [(2,)]
    for each in (provisioned("b", "t1", original_file_name=FILE), rejected("b", "t1"), provisioned("b", "t9")):
        await eraser.once(each)
    assert eraser.places() == set()
    assert eraser.rows("select original_file_name from els.excess_content") == [("t9.txt",)]


async def test_an_upload_that_has_not_come_yet_is_erased_when_it_comes(eraser: Eraser) -> None:
    await eraser.erase("upload", "b", "upload-t1")
    await eraser.once(provisioned("b", "t1", original_file_name=FILE))
    await eraser.once(failed("b", "upload-t1", original_file_name=FILE, validation_error_detail=DETAIL))
    await eraser.once(provisioned("b", "t2", original_file_name="other.txt"))
    assert eraser.places() == set()
    assert eraser.rows("select original_file_name from els.pending_content order by arrival") == [
        (BLANK,),
        ("other.txt",),
    ]


async def test_files_are_found_by_a_part_of_their_names(eraser: Eraser) -> None:
    await fill(eraser)
    await eraser.once(rejected(None, "t9"))
    await eraser.once(provisioned("theirs", "t1", original_file_name="Anna.docx"))
    eraser.publish()
    found = await eraser.erase("file", name="åsa öberg", dry_run=True)
    assert {(each["batch_id"], each["file_upload_id"]) for each in found.matches} == {
        ("b", "upload-t1"), ("b", "u2"), ("b", "upload-t3"), ("early", "upload-t4"), ("early", "u5"),
    }  # fmt: skip
    assert found.rejected_inputs == 3
    assert "slots.original_file_name" in eraser.places()
    done = await eraser.erase("file", name="åsa öberg")
    assert done.rejected_inputs == 3
    assert places_of(eraser.conn, NAME) == {"batches.essay_instructions", "batches.student_prompt_ref"}
    assert eraser.rows("select original_file_name from els.pending_content where batch_id = 'theirs'") == [
        ("Anna.docx",)
    ]
    await eraser.once(rejected(None, "t9"))
    assert places_of(eraser.conn, NAME) == {"batches.essay_instructions", "batches.student_prompt_ref"}
    with pytest.raises(InvalidRequest, match="3 characters"):
        await eraser.erase("file", name="Å")


@pytest.mark.parametrize("part", ["tim", "ida", "ess", "fil", "ada", "sion"])
async def test_a_part_of_a_name_is_not_found_in_the_names_of_fields_or_in_uuids(eraser: Eraser, part: str) -> None:
    value = json.loads(content("b", "t1", original_file_name="Å.odt", file_size_bytes=-1))
    value["correlation_id"] = value["event_id"] = "ada00000-ada0-4ada-8ada-adaadaadaada"
    await eraser.once(delivery(CONTENT_PROVISIONED, json.dumps(value).encode(), key=b"b"))
    assert (await eraser.erase("file", name=part, dry_run=True)).rejected_inputs == 0
    named = json.loads(content("c", "t2", original_file_name=f"{part} 1.odt", file_size_bytes=-1))
    await eraser.once(delivery(CONTENT_PROVISIONED, json.dumps(named).encode(), key=b"c"))
    assert (await eraser.erase("file", name=part)).rejected_inputs == 1


async def test_the_name_of_a_file_alone_does_not_erase_what_somebody_else_has_sent(eraser: Eraser) -> None:
    await eraser.once(provisioned("b", "t1", original_file_name="essay.docx"))
    await eraser.once(rejected("theirs", "t2", original_file_name="essay.docx"))
    eraser.publish()
    assert (await eraser.erase("batch", "b")).rejected_inputs == 0
    await eraser.once(rejected("theirs", "t3", original_file_name="essay.docx"))
    assert eraser.rows("select count(*) from els.quarantine where erased_at is null") == [(2,)]


async def test_a_short_name_blanks_no_action_that_is_about_something_else(eraser: Eraser) -> None:
    for name in ("e", "user", "42", "%_"):
        await eraser.once(provisioned("b", f"t-{name}", original_file_name=name))
    for why in ("sent to the wrong class", "user e sent it", "a file named 'E'"):
        await eraser.once(provisioned("theirs", why, original_file_name="theirs.txt"))
        await eraser.operations.pending.remove(
            Operator("tester", why), "pending clear", PendingFilter("theirs", ids=[why])
        )
    await eraser.erase("user", name="somebody")
    query = "select why, details from els.operator_actions where action = %s order by id"
    (earlier,) = eraser.conn.execute(query, ["privacy erase"]).fetchall()
    await eraser.erase("batch", "b")
    await eraser.erase("text", "c", "t")
    assert [why for why, _ in eraser.conn.execute(query, ["pending clear"])] == [
        "sent to the wrong class", BLANK, BLANK
    ]  # fmt: skip
    assert eraser.conn.execute(query, ["privacy erase"]).fetchone() == earlier


async def test_an_erased_input_is_not_replayed(eraser: Eraser) -> None:
    await eraser.once(rejected("b", "t1"))
    await eraser.erase("batch", "b")
    (replayed,) = [each async for each in eraser.operations.quarantine.replay(BY, [1])]
    assert "was erased" in replayed.error
    shown = await eraser.operations.quarantine.show(1)
    assert (shown["value"], shown["error"], shown["reason"]) == (None, BLANK, "invalid_field")
    assert await eraser.operations.quarantine.discard(BY, [1]) == 1


async def test_an_id_in_a_header_or_in_json_that_was_encoded_twice_is_found(eraser: Eraser) -> None:
    twice = json.dumps(content("batch-0001", "t1", original_file_name=FILE).decode()).encode()
    named = [("batch", b"batch-0001"), ("file", FILE.encode())]
    for round_ in range(2):
        for number, (value, headers) in enumerate([(twice, []), (b"no JSON", named)]):
            each = delivery(CONTENT_PROVISIONED, value + b" " * round_, headers=headers, key=b"%d" % number)
            await eraser.once(each)
        if not round_:
            assert (await eraser.erase("batch", "batch-0001")).rejected_inputs == 2
        assert eraser.places() == set()
    assert eraser.rows("select count(*) from els.quarantine where erased_at is not null") == [(4,)]


async def test_an_edited_value_of_an_erased_batch_is_kept_blank(eraser: Eraser) -> None:
    await eraser.erase("batch", "b")
    await eraser.once(delivery(CONTENT_PROVISIONED, b"no JSON"))
    done = await eraser.operations.quarantine.edit(BY, 1, content("b", "t1", original_file_name=FILE))
    assert done.error == ""
    assert eraser.places() == set()
    assert eraser.rows("select original_file_name from els.pending_content") == [(BLANK,)]
    ((kept,),) = eraser.rows("select edited_value from els.quarantine")
    assert json.loads(kept)["data"]["text_storage_id"] == "t1"


async def test_an_erasure_waits_until_the_events_are_published(eraser: Eraser) -> None:
    await eraser.once(registered("b", "e1"), provisioned("b", "t1", original_file_name=FILE))
    lines: list[str] = []
    report = await eraser.erase("batch", "b", wait_seconds=0.1, log=lines.append)
    assert [each["batch_id"] for each in report.blocked] == ["b"]
    assert "not published yet" in lines[0]
    assert "slots.original_file_name" in eraser.places()
    await eraser.once(provisioned("b", "t2", original_file_name=FILE))
    assert eraser.rows("select original_file_name from els.excess_content") == [(BLANK,)], "it is blanked from now on"
    eraser.publish()
    assert (await eraser.erase("batch", "b")).blocked == []
    assert eraser.places() == set()


async def test_a_dry_run_changes_nothing(eraser: Eraser) -> None:
    await fill(eraser)
    report = await eraser.erase("batch", "b", dry_run=True)
    assert report.batches == [
        {"batch_id": "b", "whole": True, "texts": 2, "uploads": 3, "names": 1, "unpublished_rows": 0}
    ]
    assert places_of(eraser.conn, NAME) == EVERYWHERE
    assert eraser.rows("select count(*) from els.erasures") == [(0,)]


@pytest.mark.parametrize(
    ("kind", "names", "some"),
    [
        ("batch", ("b",), True),
        ("user", ("", USER), True),
        ("text", ("b", "t6"), True),
        ("upload", ("b", "upload-t6"), True),
        ("text", ("b", "t1"), True),
        ("upload", ("b", "upload-t1"), True),
        ("batch", ("nobody's",), False),
    ],
)
async def test_a_dry_run_counts_the_rejected_inputs_that_are_blanked(
    eraser: Eraser, kind: Any, names: tuple[str, ...], some: bool
) -> None:
    await fill(eraser)
    await eraser.once(rejected(None, "t1"))
    await eraser.once(delivery(BATCH_REGISTERED, registration("theirs", [], user_id=USER), key=b"theirs"))
    batch_id, name = (*names, "")[:2]
    before = state(eraser)
    report = await eraser.erase(kind, batch_id, name, dry_run=True)
    assert state(eraser) == before
    assert eraser.rows("select count(*) from els.erasures") == [(0,)]
    done = await eraser.erase(kind, batch_id, name)
    assert report.rejected_inputs == done.rejected_inputs
    assert (done.rejected_inputs > 0) == some


async def test_the_log_of_actions_says_what_was_erased_without_its_name(eraser: Eraser) -> None:
    await fill(eraser)
    await eraser.erase("user", name=USER)
    (user, batch) = eraser.rows(
        "select batch_id, who, why, details from els.operator_actions where action = 'privacy erase' order by id"
    )
    assert user[:3] == (None, "tester", "case 7")
    assert user[3]["kind"] == "user"
    assert bytes.fromhex(user[3]["digest"]) in {
        bytes(each) for (each,) in eraser.rows("select digest from els.erasures")
    }
    assert (batch[0], batch[3]["whole"], batch[3]["rows"]["slots"]) == ("b", True, 2)


@pytest.mark.parametrize("why", [f"{USER} asks", f"wants {FILE} away", "ÅSA ÖBERG UPPSATS 3"])
async def test_the_reason_may_not_contain_the_name(eraser: Eraser, why: str) -> None:
    await fill(eraser)
    for request in (ErasureRequest("user", name=USER), ErasureRequest("batch", "b")):
        with pytest.raises(InvalidRequest, match="case number"):
            await eraser.operations.privacy.erase(Operator("tester", why), request)
    assert places_of(eraser.conn, NAME) == EVERYWHERE


async def test_an_erasure_that_is_given_again_finishes_what_was_begun(eraser: Eraser) -> None:
    await fill(eraser)
    await fill(eraser, "c", "other")
    request = ErasureRequest("user", name=USER)
    privacy = eraser.operations.privacy
    targets = await privacy._find(request, ErasureReport("user", False))
    await privacy._begin(BY, request, targets)  # and here it is killed
    assert eraser.places() >= EVERYWHERE
    await eraser.erase("user", name=USER)
    assert (await eraser.erase("user", name=USER)).batches == []
    for early in ("early", "other"):
        await eraser.erase("batch", early)
    assert eraser.places() == set()


async def test_events_of_an_erased_batch_are_not_published_again(eraser: Eraser) -> None:
    await eraser.once(registered("b", "e1"), provisioned("b", "t1"))
    eraser.publish()
    await eraser.erase("batch", "b")
    with pytest.raises(Conflict, match="was erased"):
        await eraser.operations.batches.republish(BY, "b")


async def test_tombstones_of_another_database_need_its_key(eraser: Eraser) -> None:
    await eraser.erase("batch", "b")
    exported = [json.dumps(row, default=str).encode() for row in await eraser.operations.privacy.export()]
    seen = [
        json.dumps({"digest": digest, "key_id": key_id, "kind": kind, "erased_at": at.isoformat()}).encode()
        for digest, key_id, kind, at in eraser.rows("select digest, key_id, kind, erased_at from ops.erasures")
    ]
    eraser.conn.execute("truncate els.erasures, els.erasure_keys")
    eraser.conn.execute("select els.add_erasure_key(sha256('another'), true)")
    async with eraser.database.transaction() as conn:
        assert await import_tombstones(conn, [tombstone_of(line) for line in seen])
        await conn.rollback()
    async with eraser.database.transaction() as conn:
        assert not await import_tombstones(conn, [tombstone_of(line) for line in exported])
    await eraser.once(provisioned("b", "t1", original_file_name=FILE))
    assert eraser.places() == set()
    for wrong in (b"{}", b"[]", b'{"digest": "00", "kind": "user", "erased_at": "2026-01-01", "key_id": "x"}', b"x"):
        with pytest.raises(ValueError, match="privacy export"):
            tombstone_of(wrong)


async def test_an_erasure_of_the_lost_time_is_repeated(eraser: Eraser) -> None:
    """From the rows that it has written, as a recovery does with an export of them."""
    await eraser.erase("user", name=USER)
    await eraser.erase("text", "b", "t1")
    await eraser.erase("batch", "early")
    columns = "at, who, action, batch_id, topic, why, details"
    acts = [Act(*row) for row in eraser.rows(f"select {columns} from ops.operator_actions order by id")]
    eraser.conn.execute("truncate els.erasures, els.operator_actions")
    await fill(eraser)
    left = await Repetition(eraser.database, eraser.operations, "tester").repeat(acts)
    assert [(act.details["kind"], why) for act, why in left] == [("user", TOMBSTONE_NEEDED)]
    assert eraser.rows("select original_file_name from els.slots where state = 'assigned'") == [(BLANK,)]
    assert eraser.rows("select original_file_name from els.excess_content") == [(FILE,)]
    assert eraser.rows("select distinct original_file_name from els.pending_content") == [(BLANK,)]
    assert await Repetition(eraser.database, eraser.operations, "tester").repeat(acts) == left


async def test_digests_are_hmacs(eraser: Eraser) -> None:
    await eraser.erase("text", "b", "t1")
    ((key,),) = eraser.rows("select key from els.erasure_keys where is_own")
    expected = hmac.digest(bytes(key), b"text:1:b:t1", "sha256")
    assert eraser.rows("select kind from els.erasures where digest = '\\x" + expected.hex() + "'") == [("text",)]


# -- the lists of places


def test_every_column_is_classified(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        found: dict[str, set[str]] = {}
        for schema, table, column, kind in conn.execute(COLUMNS).fetchall():
            if schema == "els" and kind in ("text", "json", "jsonb", "bytea", "text[]", "character varying"):
                found.setdefault(table, set()).add(column)
    views = {"unpublished", "ended_batches", "expirable_content", "expirable_failures", "expirable_confirmations"}
    views.add("alembic_version")
    listed = {
        table: {*PERSONAL_COLUMNS.get(table, ()), *OTHER_COLUMNS.get(table, ())}
        for table in PERSONAL_COLUMNS.keys() | OTHER_COLUMNS.keys()
    }
    assert {table: columns for table, columns in found.items() if table not in views} == listed


async def test_every_personal_column_is_blanked(eraser: Eraser) -> None:
    """Each column of the list contains the name before, and nothing afterwards, by nothing but its erasure."""
    await fill(eraser)
    async with eraser.database.transaction() as conn:
        await search.index_batches(conn, ["b"])
    mark = f"{NAME}-{uuid4()}"
    for table, columns in PERSONAL_COLUMNS.items():
        for column in columns:
            if table not in ("outbox", "outbox_pages", "incomplete_batches"):
                kind = eraser.kind_of(table, column)
                value = {"json": json.dumps({"message": mark}), "jsonb": json.dumps({"error": mark})}.get(kind, mark)
                where = "where state <> 'open'" if table == "slots" else ""
                given = f'"batch_id": "b", "batch_id": "early" {mark}'.encode() if kind == "bytea" else value
                eraser.conn.execute(f"update els.{table} set {column} = %s {where}".encode(), [given])
    expected = {
        f"{table}.{column}"
        for table, columns in PERSONAL_COLUMNS.items()
        for column in columns
        if table not in ("outbox", "outbox_pages", "incomplete_batches")
    }
    assert places_of(eraser.conn, mark) == expected
    for batch_id in ("b", "early"):
        await eraser.erase("batch", batch_id)
    assert places_of(eraser.conn, mark) == set()

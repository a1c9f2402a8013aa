"""Tests what the pages show, and how actions are performed."""

import asyncio
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from aiokafka.errors import KafkaConnectionError

from service import __version__
from service.console import acting
from service.console.console import PAGES
from service.console.pages.overview import HELP, lines
from service.console.pages.quarantine import differences
from service.console.pages.runbook import _sections as runbooks
from service.console.rendering import FOLDER, href, span
from service.console.samples import KEPT, Samples
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.kafka.offsets import OffsetsReader, PartitionOffsets, TopicOffsets
from service.postgres.pool import Database
from tests.integration.console.conftest import ServedHere
from tests.support.builders.inputs import content, delivery, failed, provisioned, registered
from tests.support.pods.command_line import NOBODY


def test_vendored_files_are_those_that_their_packages_contain() -> None:
    files = json.loads((FOLDER / "static" / "vendored.json").read_text())
    ours = {"console.js", "console.css", "icon.svg", "vendored.json"}
    there = {path.name for path in (FOLDER / "static").iterdir()} - ours
    assert there == files.keys() | {each["licence"] for each in files.values()}
    for name, each in files.items():
        assert hashlib.sha256((FOLDER / "static" / name).read_bytes()).hexdigest() == each["sha256"], name


def test_templates_and_our_script_name_no_other_place_and_have_no_code_of_their_own() -> None:
    for path in [
        *(FOLDER / "templates").iterdir(),
        FOLDER / "static" / "console.js",
        FOLDER / "static" / "console.css",
    ]:
        text = path.read_text()
        assert "://" not in text, path
        for forbidden in ("style=", "onclick", "<style", "|safe", "autoescape", "eval("):
            assert forbidden not in text, f"{path}: {forbidden}"


async def test_the_verdict_is_read_once_for_everybody(console: ServedHere, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = 0
    opened = Database.transaction

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return opened(*args, **kwargs)

    monkeypatch.setattr(Database, "transaction", counted)
    for _ in range(5):
        assert "no pod publishes events" in (await console.send("GET", ""))[1]
    assert transactions == 2  # what is down, and the verdict


def test_every_kind_of_condition_of_the_health_view_leads_to_what_helps() -> None:
    text = (FOLDER.parents[1] / "sql" / "views" / "health.sql").read_text()
    assert set(re.findall(r"\([0-9]+, '([a-z_]+)', (?:true|false)", text)) == HELP.keys()
    paths = {page.path for page in PAGES} | {f"do/{name}" for name in acting.ACTIONS}
    assert {page for page, _ in HELP.values()} <= paths
    for runbook in re.findall(r"'([a-z]+\.md#[a-z0-9-]+)'", text):
        document, _, anchor = runbook.partition("#")
        assert anchor in runbooks(document), runbook
    (line,) = lines(["4 inputs (of many) are open: ops.quarantine (docs/operations.md#x)"], ["quarantine"])
    (both,) = lines(["5 contents expired: ops.expired_content and 2 failures expired: ops.validation_failures"], ["x"])
    assert both.text == "5 contents expired and 2 failures expired"
    assert line[:3] == ("4 inputs (of many) are open", "operations.md#x", "quarantine")


async def test_an_action_needs_a_reason_and_its_fields(console: ServedHere) -> None:
    await console.take(provisioned("b", "t"))
    for form, why in (
        ({"step": "perform", "why": " "}, "give a reason"),
        ({"step": "perform", "why": "x" * 2001}, "at most 2000 characters"),
        ({"step": "perform", "why": "x", "until": "soon"}, "Stored until: must be a date"),
    ):
        response, text = await console.send("POST", "do/pending-clear?batch=b", data=form)
        assert (response.status, why in text) == (422, True), text
    response, text = await console.send("POST", "do/pending-clear", data={"step": "perform", "why": "x"})
    assert (response.status, "Batch: is missing" in text) == (422, True)
    response, text = await console.send("POST", "do/quarantine-replay", data={"step": "plan", "why": "x"})
    assert "give ids, or filter by topic" in text


async def test_each_action_plans_without_a_change_and_says_what_forbids_it(
    console: ServedHere, conn: psycopg.Connection[Any]
) -> None:
    fields = {"batch": "none", "text": "t", "ids": "4711", "topic": BATCH_REGISTERED, "id": "4711", "value": "{}"}
    fields |= {"partition": "0", "offset": "0"}
    for action in acting.ACTIONS.values():
        given = {each.name: fields[each.name] for each in action.fields if each.name in fields}
        given |= {each.name: each.choices[0] for each in action.fields if each.name == "kind"}
        given |= {"name": "nobody"} if action.name == "privacy-erase" else {}
        response, text = await console.send("POST", f"do/{action.name}", data=given | {"step": "plan", "why": "x"})
        no_broker = action.name == "inputs-skip"
        assert (response.status, 'role="alert"' in text) == (503 if no_broker else 422, True), action.name
    assert conn.execute("select count(*) from els.operator_actions").fetchone() == (0,)


async def test_failures_that_wait_are_shown_and_removed_with_the_content(
    console: ServedHere, conn: psycopg.Connection[Any]
) -> None:
    await console.take(provisioned("b", "t"), failed("b", "u1"), failed("b", "u2"))
    _, text = await console.send("GET", "batch?id=b")
    assert all(f"pending-remove?batch=b&amp;text={upload}" in text for upload in ("t", "u1", "u2"))
    _, text = await console.send("POST", "do/pending-clear?batch=b", data={"step": "plan", "why": "x"})
    assert "1 content and 2 validation failures of batch b will be removed" in text
    await console.send("POST", "do/pending-remove?batch=b&text=u1", data={"step": "perform", "why": "x"})
    await console.send("POST", "do/pending-clear?batch=b", data={"step": "perform", "why": "x"})
    assert conn.execute("select distinct state from els.validation_failures").fetchall() == [("removed",)]
    details = conn.execute("select details ->> 'failures' from els.operator_actions order by id").fetchall()
    assert details == [("1",), ("1",)]


async def test_an_id_with_line_ends_comes_back_from_the_form_as_it_is(
    console: ServedHere, conn: psycopg.Connection[Any]
) -> None:
    await console.take(provisioned("a\nb", "t\r\n\u202e"))
    target = str(href("do/pending-remove", batch="a\nb", text="t\r\n\u202e")).replace("&amp;", "&")
    path = target.removeprefix("/console/")
    _, text = await console.send("POST", path, data={"step": "plan", "why": "x"})
    assert f'action="{target.replace("&", "&amp;")}"' in text
    assert "\u202e" not in text
    _, text = await console.send("POST", path, data={"step": "perform", "why": "x"})
    assert "1 content" in text
    assert conn.execute("select batch_id, who, why from els.operator_actions").fetchall() == [("a\nb", "Åsa", "x")]


async def test_a_rejected_input_is_compared_with_what_its_topic_requires(console: ServedHere) -> None:
    value = content("b", "t", file_size_bytes="many").decode()
    assert ("data.file_size_bytes", '"many"') in [
        (field, found) for field, _, found in differences(CONTENT_PROVISIONED, value)
    ]
    assert differences(CONTENT_PROVISIONED, content("b", "t").decode()) == []
    for name, wrong, shown in (("schema_version", 2, "2"), ("event_type", BATCH_REGISTERED, f'"{BATCH_REGISTERED}"')):
        changed = json.dumps(json.loads(content("b", "t")) | {name: wrong})
        assert [(field, found) for field, _, found in differences(CONTENT_PROVISIONED, changed)] == [(name, shown)]
    assert differences("no topic", "{}") == differences(CONTENT_PROVISIONED, "no JSON") == []
    await console.take(delivery(CONTENT_PROVISIONED, value.encode()), delivery(BATCH_REGISTERED, b"\x00\xff"))
    _, text = await console.send("GET", "quarantine")
    assert "invalid_field" in text
    _, text = await console.send("GET", "quarantine/input?id=1")
    assert "What differs from what is expected" in text
    _, text = await console.send("GET", "quarantine/input?id=2")
    assert "AP8=" in text


async def test_a_value_that_is_too_long_or_no_text_is_edited_with_the_command_that_the_page_names(
    console: ServedHere,
) -> None:
    grown = b"[" + b"1," * 100_000 + b"1]"  # with a line for each number, it is too long for a form
    await console.take(
        delivery(CONTENT_PROVISIONED, b"x" * 300_000),
        delivery(CONTENT_PROVISIONED, b"\x00"),
        delivery(CONTENT_PROVISIONED, grown),
    )
    for id_, options, is_said in ((1, "", True), (2, " --file FILE", True), (3, "", False)):
        command = f"els quarantine edit {id_}{options} --why"
        _, text = await console.send("GET", f"quarantine/input?id={id_}")
        assert (command in text, "do/quarantine-edit" in text) == (is_said, not is_said)
    for id_, options in ((2, " --file FILE"), (3, "")):
        response, text = await console.send("GET", f"do/quarantine-edit?id={id_}")
        assert (response.status, f"els quarantine edit {id_}{options} --why" in text) == (409, True)
    response, text = await console.send("POST", "do/quarantine-edit?id=1", data={"value": "x" * 1_100_000})
    assert (response.status, "els quarantine edit" in text) == (413, True)


async def test_rejected_inputs_are_grouped_by_release_and_a_group_of_one_day_is_replayed(
    console: ServedHere, conn: psycopg.Connection[Any]
) -> None:
    await console.take(*(delivery(CONTENT_PROVISIONED, b"no JSON %d" % number) for number in range(6)))
    conn.execute("update els.quarantine set release = null where id <= 2")
    conn.execute("update els.quarantine set release = '0.1.9' where id = 3")
    conn.execute(
        "update els.quarantine set first_seen_at = date_trunc('day', now()) - interval '1 hour' where id in (4, 5)"
    )
    _, text = await console.send("GET", "quarantine")
    group = f"do/quarantine-replay?topic={CONTENT_PROVISIONED}&amp;reason=not_json&amp;release="
    assert {release for release in ("unknown", "0.1.9", __version__, "0.2.0") if f'{group}{release}"' in text} == {
        "unknown", "0.1.9", __version__,
    }  # fmt: skip
    today = datetime.now(UTC).date()
    day = f"since={today - timedelta(days=1)}&until={today - timedelta(days=1)}"
    for query, found in (("release=unknown", {1, 2}), ("release=0.1.9", {3}), (f"{day}&release={__version__}", {4, 5})):
        _, text = await console.send("GET", f"quarantine?{query}")
        assert {id_ for id_ in range(1, 7) if f'quarantine/input?id={id_}"' in text} == found, query
        _, text = await console.send("POST", f"do/quarantine-replay?{query}", data={"why": "x", "step": "plan"})
        assert f"ids={'%2C'.join(map(str, sorted(found)))}" in text, query
    assert (
        "do/quarantine-replay?release=" + __version__ + "&amp;since="
        in (await console.send("GET", f"quarantine?{day}&release={__version__}"))[1]
    )


async def test_the_overview_names_no_view_and_links_to_the_runbook(console: ServedHere) -> None:
    await console.take(delivery(CONTENT_PROVISIONED, b"no JSON"))
    _, text = await console.send("GET", "")
    assert ">1 rejected inputs are open</span>" in text
    assert "ops." not in text
    assert "docs/" not in text
    (target,) = re.findall(r'"/console/(runbook[^"]*elsquarantineopen)"', text)
    response, text = await console.send("GET", target)
    assert (response.status, "<h1>ElsQuarantineOpen</h1>" in text) == (200, True)
    assert "<code>els quarantine list --state open</code>" in text
    assert 'href="/console/runbook?name=operations.md%23correct-a-message-and-replay-it"' in text
    for name in ("operations.md#nothing", "operations.md", "../README.md#x", "events.md#inputs"):
        response, _ = await console.send("GET", "runbook", params={"name": name})
        assert response.status == 404, name


async def test_what_to_do_next_is_a_link_and_no_command(console: ServedHere, conn: psycopg.Connection[Any]) -> None:
    await console.take(
        registered("open", "e1", "e2"),
        registered("it's", "e"),
        provisioned("it's", "t"),
        registered("bad", "e1"),
        delivery(CONTENT_PROVISIONED, content("bad", "t", file_size_bytes="many")),
        provisioned("waits", "t"),
    )
    conn.execute("truncate els.outbox_pages")
    for batch, links in (
        (
            "open",
            ['<a href="/console/topics">Topics</a> shows', '<a href="/console/do/batches-close?batch=open">Close'],
        ),
        ("it's", ['<a href="/console/do/batches-republish?batch=it%27s">Publish again</a>']),
        ("bad", ['next: <a href="/console/quarantine/input?id=1">Look at the rejected input</a>']),
        ("waits", ['<a href="/console/topics">Topics</a> shows']),
    ):
        _, text = await console.send("GET", "batch", params={"id": batch})
        (said,) = re.findall("What to do next: .*", text)
        assert [link for link in links if link not in said] == []
        assert "els " not in said
    _, text = await console.send("GET", "batch?id=open", role="viewer")
    assert "do/batches-close" not in text
    conn.execute(
        "insert into els.outbox_blocked (batch_id, topic, seq, error, since, retry_at)"
        " values ('it''s', 't', 1, 'too large', now(), now())"
    )
    _, text = await console.send("GET", "batch", params={"id": "it's"})
    assert '(<a href="/console/runbook?name=operations.md%23elsoutboxblocked">the runbook</a>)' in text


async def test_a_form_shows_what_is_selected_and_asks_for_nothing_that_would_replace_it(console: ServedHere) -> None:
    await console.take(delivery(CONTENT_PROVISIONED, b"no JSON"))
    for query, asked, narrowed in (
        ("", {"ids", "topic", "reason", "release", "batch", "since", "until", "all"}, set()),
        (f"topic={CONTENT_PROVISIONED}&reason=not_json", set(), {"release", "batch", "since", "until"}),
        ("ids=1", set(), set()),
        ("all=yes", set(), set()),
    ):
        _, text = await console.send("GET", f"do/quarantine-replay?{query}")
        first, _, second = text.partition("<summary>Narrow it down</summary>")
        named = [set(re.findall(r'<(?:input|select)[^>]* name="([a-z_]+)"', part)) for part in (first, second)]
        assert named == [asked, narrowed], query
        assert ("<h2>Selected</h2>" in text) == bool(query)
    _, text = await console.send("GET", "do/quarantine-replay?reason=not_json&since=2h")
    assert '<span class="label">First seen since</span> <span class="id"><bdi>2h</bdi></span>' in text
    assert '<a href="/console/quarantine?reason=not_json&amp;since=2h">See what this selects</a>' in text
    _, text = await console.send("GET", "do/pending-clear?batch=b")
    assert "Stored since" in text


async def test_who_has_removed_or_closed_something_is_found_from_what_it_was(console: ServedHere) -> None:
    await console.take(
        provisioned("b", "text-1"), *(delivery(CONTENT_PROVISIONED, b"no JSON %d" % each) for each in range(2))
    )
    for path, why in (("do/pending-remove?batch=b&text=text-1", "a copy"), ("do/quarantine-discard?ids=1,2", "no use")):
        _, text = await console.send("POST", path, data={"step": "perform", "why": why})
        assert 'role="status"' in text, text
    _, text = await console.send("GET", "find?text=text-1")
    assert '<a href="/console/actions?batch=b">by whom?</a>' in text
    _, text = await console.send("GET", "actions?batch=b")
    assert ("Åsa" in text, "a copy" in text) == (True, True)
    _, text = await console.send("GET", "quarantine/input?id=2")
    assert re.search(r"<dt>By</dt><dd>.*Åsa.*quarantine discard: .*no use", text)
    assert text.count("<dt>By</dt>") == 1


async def test_a_replay_says_what_was_not_replayed_and_why_and_what_to_do(console: ServedHere) -> None:
    await console.take(
        *(delivery(CONTENT_PROVISIONED, b"no JSON %d" % each) for each in range(2)),
        delivery(CONTENT_PROVISIONED, content("b", "t", file_size_bytes="many")),
    )
    _, text = await console.send("GET", "quarantine/input?id=1")
    assert "<dt>Last replay</dt><dd>none</dd>" in text
    target = "do/quarantine-replay?ids=1,2,3"
    _, text = await console.send("POST", target, data={"step": "plan", "why": "x"})
    assert all(f'quarantine/input?id={id_}">rejected input {id_}</a>' in text for id_ in (1, 2, 3))
    _, text = await console.send("POST", target, data={"step": "perform", "why": "mended"})
    assert "0 inputs replayed, 3 not: 2 rejected again (not_json), 1 rejected again (invalid_field)." in text
    assert all(f'quarantine/input?id={id_}">rejected input {id_}</a>' in text for id_ in (1, 2, 3))
    assert "Edit and replay" in text
    _, text = await console.send("GET", "quarantine/input?id=3")
    assert re.search(r"<dt>Last replay</dt><dd>\d{4}-.* UTC by .*Åsa.*rejected again \(invalid_field\)", text)
    _, text = await console.send("GET", "actions")
    assert text.count('<td class="bad"><span class="id"><bdi>not replayed: rejected again') == 3
    assert '<a href="/console/quarantine/input?id=3">rejected input 3</a>' in text


async def test_only_the_actions_on_an_input_are_shown_with_it(
    console: ServedHere, conn: psycopg.Connection[Any]
) -> None:
    await console.take(
        *(delivery(CONTENT_PROVISIONED, b"no JSON %d" % each) for each in range(2)),
        delivery(BATCH_REGISTERED, b"no JSON"),
    )
    for path, why in (("replay?ids=1,2", "both"), ("replay?ids=1", "one"), ("discard?ids=2,3", "the others")):
        await console.send("POST", f"do/quarantine-{path}", data={"step": "perform", "why": why})
    # Rows of earlier times and other topics, with the same number: of a database that was set back.
    conn.execute(
        "insert into els.operator_actions (at, who, action, topic, why, details)"
        " select at - interval '1 year', 'bo', action, topic, 'before', details from els.operator_actions"
    )
    conn.execute(
        "insert into els.operator_actions (who, action, topic, why, details)"
        " values ('bo', 'quarantine replay', 'another', 'elsewhere', '{\"id\": 1, \"outcome\": \"assigned\"}')"
    )
    for id_, shown in ((1, {"both", "one"}), (2, {"both", "the others"}), (3, {"the others"})):
        _, text = await console.send("GET", f"quarantine/input?id={id_}")
        whys = {"both", "one", "the others", "before", "elsewhere"}
        assert {why for why in whys if f"<bdi>{why}</bdi>" in text} == shown, id_
    assert re.search(r"<dt>Last replay</dt><dd>none</dd>", text)


async def test_the_details_of_an_action_are_readable(console: ServedHere) -> None:
    await console.take(provisioned("b", "t"), failed("b", "u1"))
    await console.send("POST", "do/pending-clear?batch=b", data={"step": "perform", "why": "x"})
    _, text = await console.send("GET", "batch?id=b")
    assert "<bdi>removed: 1 content and 1 validation failure</bdi>" in text
    assert "<dt>text storage ids</dt>" in text
    assert "{" not in text[text.index("<h2>Actions</h2>") :]


async def test_the_log_of_operator_actions_is_filtered(console: ServedHere) -> None:
    await console.take(provisioned("b", "t"), provisioned("c", "t"))
    for batch in "bc":
        await console.send("POST", f"do/pending-clear?batch={batch}", data={"step": "perform", "why": f"why-{batch}"})
    for query, found in (
        ("", ["why-b", "why-c"]),
        ("batch=b", ["why-b"]),
        ("who=%C3%85sa&action=pending+clear", ["why-b", "why-c"]),
        ("who=bo", []),
        ("since=2020-01-01&until=2020-01-02", []),
        ("before=2", ["why-b"]),
    ):
        _, text = await console.send("GET", f"actions?{query}")
        assert [each for each in ("why-b", "why-c") if each in text] == found, query
    assert (await console.send("GET", "actions?since=soon"))[0].status == 422


async def test_late_batches_are_listed_by_what_they_wait_for(
    console: ServedHere, conn: psycopg.Connection[Any]
) -> None:
    await console.take(registered("late", "e"), registered("open", "e"))
    conn.execute("update els.batches set timed_out_at = now() where batch_id = 'late'")
    _, text = await console.send("GET", "late")
    assert text.index("Reported as late") < text.index("batch?id=late") < text.index("Not confirmed")
    assert text.index("Not complete") < text.index("batch?id=open")
    for table in text.split("<table>")[1:]:
        names = re.findall(r'<th scope="col">([^<]*)</th>', table)
        assert len(names) == len(set(names))


async def test_who_asks_for_offsets_meanwhile_shares_one_connection_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = OffsetsReader({"bootstrap_servers": NOBODY}, "group")
    attempts = 0
    connect = OffsetsReader._connect

    async def counted(self: OffsetsReader) -> Any:
        nonlocal attempts
        attempts += 1
        return await connect(self)

    monkeypatch.setattr(OffsetsReader, "_connect", counted)
    results = await asyncio.gather(*(reader.read() for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in results} == {KafkaConnectionError}
    assert attempts == 1


def test_samples_are_an_hour_of_rates_and_levels() -> None:
    samples = Samples(dict, OffsetsReader({"bootstrap_servers": NOBODY}, "group"))
    assert (samples.begin, samples.latest()["lag"]) == (None, None)
    from aiokafka.structs import TopicPartition  # noqa: PLC0415

    def offsets(end: int) -> TopicOffsets:
        return TopicOffsets({TopicPartition(BATCH_REGISTERED, 0): PartitionOffsets(end, 5)})

    for number in range(KEPT + 10):
        samples.add(100.0 + 15 * number, {"els_pending_content": 7.0}, offsets(30 * number))
    assert samples.latest() == {"input": 2.0, "output": 0.0, "waiting": 7.0, "lag": 5.0, "outbox": None}
    columns = samples.columns()
    assert {len(column) for column in columns.values()} == {KEPT}
    assert samples.begin == 100.0 + 150
    samples.add(1e6, {}, offsets(0))  # the topics were created again
    assert samples.latest()["input"] is None
    samples.add(1e6 + 15, {}, None)
    assert samples.latest()["lag"] is None


def test_durations_are_for_people() -> None:
    given = (0, 59, 61, 3_725, 90_000, -5)
    assert [span(each) for each in given] == ["0 s", "59 s", "1 min", "1 h 2 min", "1 d 1 h", "0 s"]


async def test_a_search_is_limited_to_days(console: ServedHere) -> None:
    await console.take(provisioned("b", "t", original_file_name="Åsa.docx"))
    for query, found in (
        ("since=2000-01-01&until=8000-01-01", True),
        ("until=2000-01-01", False),
        ("since=", True),
        ("since=2h", True),
        ("until=2h", False),
    ):
        response, text = await console.send("GET", f"find?text=%C3%85sa&{query}")
        assert (response.status, "Åsa.docx" in text) == (200, found), query
    response, text = await console.send("GET", "find?text=%C3%85sa&since=tuesday")
    assert (response.status, "since: must be a date or a time" in text) == (422, True)

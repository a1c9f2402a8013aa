"""Tests that an audit takes what an operator has sent in place of a rejected input as an input."""

from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.operators.quarantine import QuarantineActions
from service.store.operator_actions import Operator
from tests.support.builders.inputs import content, registration
from tests.support.checks.audited import audited, check_audit
from tests.support.pods.running_consumer import ConsumerFixture


async def test_an_audit_takes_an_edited_value_as_an_input(strict_consumers: ConsumerFixture) -> None:
    consumers = strict_consumers
    running = await consumers.start()
    await consumers.publish(BATCH_REGISTERED, registration("b", ["e1", "e2"], expected_essay_count=3))
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"), content("b", "t2", file_size_bytes=-1))
    await consumers.all_committed()
    actions = QuarantineActions(running.database, IntakeLimits(), InputLimits())
    corrected = {
        BATCH_REGISTERED: registration("b", ["e1", "e2"]),
        CONTENT_PROVISIONED: content("b", "t2", file_size_bytes=1),
    }
    for id_, topic in consumers.conn.execute("select id, topic from els.quarantine order by topic").fetchall():
        done = await actions.edit(Operator("me", "a typing error"), id_, corrected[topic])
        assert not done.failed
    await consumers.stop()
    assert consumers.value("select assigned from els.batches") == 2
    await check_audit(consumers.app_url, consumers.broker, consumers.group)
    consumers.conn.execute("update els.quarantine set edited_value = null")
    report = await audited(consumers.app_url, consumers.broker, consumers.group)
    assert sorted(each.detail for each in report.findings if each.rule == "I8") == [
        "content t2 is stored, and no such record was received",
        f"registration {report.findings[-1].detail.split()[1]} is stored, and no such record was received",
    ]

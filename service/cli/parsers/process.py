"""Defines the options of the commands that run, set up or examine the service."""

from pathlib import Path

from service.cli.arguments import (
    Commands,
    add,
    group,
    with_json,
    with_operator,
    with_pages,
)


def add_process(commands: Commands) -> None:
    """Add the commands that run, set up or examine the service."""
    run = add(commands, "cli.commands.run", "run", "run a pod (one process of the service) until SIGTERM")
    run.add_argument(
        "--roles",
        default="",
        metavar="ROLE,…",
        help="run only these of the roles consumer, relay, purge and console (default: all)",
    )
    run.add_argument(
        "--replay",
        action="store_true",
        help="only read all inputs once more, in a consumer group of its own: what was missed is applied",
    )
    relay = add(
        commands,
        "cli.commands.relay",
        "relay",
        "run a pod that only publishes the outbox (events that wait for Kafka), until SIGTERM",
    )
    relay.add_argument(
        "--once", action="store_true", help="publish what is in the outbox, then end; exit status 1 if rows remain"
    )
    add(
        commands,
        "cli.commands.migrate",
        "migrate",
        "migrate the schema, views and grants of the database to this version",
    )
    with_json(
        add(
            commands,
            "cli.environment.check",
            "check",
            "check settings, connections, schema, topics, rights and retentions",
        )
    )
    purge = add(
        commands,
        "cli.commands.purge_now",
        "purge",
        "run one purge round now: expire content, report late batches and delete old rows",
    )
    with_json(purge).add_argument("--dry-run", action="store_true", help="only count what is due; change nothing")
    recover = add(
        commands,
        "cli.recovery.recover",
        "recover",
        "bring a database that is behind its topics, or empty, up to date with them",
    )
    recover.add_argument(
        "--accept-unknown",
        action="store_true",
        help="recover although the output topics do not reach back to the time of the database",
    )
    recover.add_argument(
        "--acts",
        type=Path,
        metavar="FILE",
        help="operator actions of the lost time, which are performed again: an export of ops.operator_actions (a JSON "
        "object a line, or CSV with a header), or lines of the log",
    )
    recover.add_argument(
        "--erasures",
        type=Path,
        metavar="FILE",
        help="tombstones of personal data that was erased (of `privacy export`): blank it in what is recovered",
    )
    recover.add_argument("--abandon", action="store_true", help="end a recovery that has begun, without finishing it")
    recover.add_argument(
        "--fresh", action="store_true", help="the database is empty on purpose: apply all inputs as new ones"
    )
    recover.add_argument("--dry-run", action="store_true", help="only report what would be done; change nothing")
    with_operator(with_json(recover))
    audit = add(
        commands, "cli.commands.audit_all", "audit", "compare input topics, tables and output topics; list violations"
    )
    with_pages(audit, "violations to list").add_argument(
        "--whole",
        action="store_true",
        help="report records that are missing from the topics as violations; only if no record was ever deleted",
    )
    send = add(
        commands,
        "cli.sending.send",
        "send",
        "publish events to the input topics, as the neighbouring services do; for trying it out",
    )
    send.add_argument(
        "file", metavar="FILE", help="JSON: one event, or several one after the other; - reads standard input"
    )
    send.add_argument("--force", action="store_true", help="also publish what the service will reject")
    with_json(send)
    topics = group(commands, "topics", "create and alter the Kafka topics of the service")
    with_json(
        add(
            topics,
            "cli.topics.topics_create",
            "create",
            "create missing topics; report existing ones that have too few replicas or take too small records",
        )
    )
    alter = add(
        topics,
        "cli.topics.topics_alter",
        "alter",
        "raise replicas and sizes of existing topics to what is needed; exit status 1 if something remains to be done",
    )
    with_json(alter).add_argument(
        "--dry-run", action="store_true", help="only show what would be altered (exit status 1 if anything)"
    )
    adopt = add(
        topics,
        "cli.topics.topics_adopt",
        "adopt",
        "publish to the partitions, too, that were added to the output topics; stop the relays before",
    )
    with_json(with_operator(adopt)).add_argument("--dry-run", action="store_true", help="only show what would change")
    adopt.add_argument(
        "--while-publishing",
        action="store_true",
        help="also while relays run, if the readers of a batch's events order them by the header seq",
    )

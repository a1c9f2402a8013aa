"""Implements the commands that create and alter the topics.

Each command returns its exit status, or raises CommandError (exit status 1) or SettingsError (exit status 2).
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import KafkaError

from service.cli.operations import opened_operations, operator_of
from service.cli.output import CommandError, print_rows, warn
from service.domain.topics import OUTGOING_TOPICS
from service.environment import difference_line, unreadable_lines
from service.kafka import rights
from service.kafka import topics as kafka
from service.kafka.alteration import alter_topics
from service.kafka.cluster import ClusterState, Operation, read_cluster
from service.kafka.connection import admin_client
from service.settings import Settings
from service.wiring import broker_error, kafka_options

_UNAVAILABLE = (KafkaError, OSError, TimeoutError)


async def topics_create(settings: Settings, options: Namespace) -> int:
    """Create missing topics. Existing topics stay as they are; exit status 1 if one takes too small records."""
    try:
        created, differences = await kafka.create_topics(
            kafka_options(settings),
            partitions=settings.kafka_topic_partitions,
            replication=settings.kafka_topic_replication,
        )
    except _UNAVAILABLE as error:
        raise CommandError(broker_error(error)) from None
    rows = [{"topic": topic, "state": "created"} for topic in created]
    rows += [{"topic": topic, "state": "there already"} for topic in kafka.TOPICS if topic not in created]
    print_rows(rows, options.json)
    for difference in differences:
        warn(difference_line(difference))
    # The embedded broker does not report some settings: nobody can fix that, so it is not an error.
    return 1 if any(each.found is not None and each.name == kafka.MESSAGE_BYTES for each in differences) else 0


async def topics_alter(settings: Settings, options: Namespace) -> int:
    """Raise the properties of existing topics that are too small. Exit status 1 if something remains to be done."""
    connection = kafka_options(settings)
    try:
        altered = await alter_topics(connection, replication=settings.kafka_topic_replication, dry_run=options.dry_run)
    except _UNAVAILABLE as error:
        raise CommandError(broker_error(error)) from None
    done = "would be altered" if options.dry_run else "altered"
    rows = [
        {
            "topic": each.difference.topic,
            "property": each.difference.name,
            "found": each.difference.found,
            "wanted": each.difference.wanted,
            "state": each.error or done,
        }
        for each in altered.alterations
    ]
    print_rows(rows, options.json)
    left = [*_absent(altered.cluster, connection), *unreadable_lines(altered.cluster, connection)]
    left += [f"{fault.topic}: {fault.message}" for fault in kafka.faults(altered.cluster) if fault.is_error]
    for line in left:
        warn(line)
    is_left = bool(left) or any(each.error is not None for each in altered.alterations)
    return 1 if is_left or (options.dry_run and rows) else 0


async def topics_adopt(settings: Settings, options: Namespace) -> int:
    """Make relays use the partitions that were added to output topics; exit status 1 while relays run."""
    try:
        async with admin_client(kafka_options(settings)) as admin:
            cluster = await read_cluster(admin, OUTGOING_TOPICS)
    except _UNAVAILABLE as error:
        raise CommandError(broker_error(error)) from None
    found = {topic: len(state.partitions) for topic, state in cluster.topics.items()}
    async with opened_operations(settings) as operations:
        adopted = await operations.output_topics.adopt(
            operator_of(options), found, while_publishing=options.while_publishing, dry_run=options.dry_run
        )
    print_rows([each._asdict() for each in adopted], options.json)
    return 0


def _absent(cluster: ClusterState, options: Mapping[str, Any]) -> list[str]:
    lines = [f"{topic} is missing: run topics create" for topic in cluster.missing]
    return lines + [
        broker_error(rights.NotAllowed(rights.MissingRight("topic", topic, (Operation.DESCRIBE,)), options))
        for topic in cluster.hidden
    ]

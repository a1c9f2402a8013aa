"""Implements the commands that create and alter the topics, and the part of `check` that is about the broker.

Each command returns its exit status, or raises CommandError (exit status 1) or SettingsError (exit status 2).
"""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from service.cli.operations import opened_operations, operator_of
from service.cli.output import CommandError, print_rows, warn
from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS
from service.kafka import rights
from service.kafka import topics as kafka
from service.kafka.alteration import alter_topics
from service.kafka.cluster import ClusterState, Operation, read_cluster
from service.kafka.connection import admin_client
from service.purge import policy
from service.recovery import reading
from service.settings import Settings
from service.wiring import REPLAY_SUFFIX, broker_error, kafka_options, retention_policy

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
        warn(_difference(difference))
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
    left = [*_absent(altered.cluster, connection), *_unreadable(altered.cluster, connection)]
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


class Check(NamedTuple):
    """A row of `check`. It is good where the message is only a warning."""

    about: str
    is_good: bool
    message: str


async def check_broker(settings: Settings) -> list[Check]:
    """Check the connection, our rights, the topics and their retentions."""
    options = kafka_options(settings)
    try:
        async with admin_client(options) as admin:
            cluster = await read_cluster(admin, kafka.TOPICS)
            rows = [Check("broker", True, "reachable"), *await _check_rights(settings, admin, cluster)]
    except _UNAVAILABLE as error:
        return [Check("broker", False, broker_error(error))]
    rows += [Check("topic", False, f"{topic} is missing: run topics create") for topic in cluster.missing]
    rows += [Check("topic", True, f"warning: {line}") for line in _unreadable(cluster, options)]
    # The embedded broker does not report some settings: nobody can fix that, so it is not an error.
    rows += [
        Check("topic", each.found is None, _difference(each))
        for each in kafka.differences(cluster, replication=settings.kafka_topic_replication)
    ]
    for fault in [*kafka.faults(cluster), *_few_partitions(cluster, settings.kafka_topic_partitions)]:
        warning = "" if fault.is_error else "warning: "
        rows.append(Check("topic", not fault.is_error, f"{warning}{fault.topic}: {fault.message}"))
    return rows + _check_retentions(settings, cluster)


async def _check_rights(settings: Settings, admin: AIOKafkaAdminClient, cluster: ClusterState) -> list[Check]:
    missing, rows = rights.missing_on_topics(cluster), []
    try:
        missing += await rights.missing_on_groups(
            admin, [settings.consumer_group, settings.consumer_group + REPLAY_SUFFIX]
        )
        missing += await rights.missing_on_cluster(admin, cluster, idempotent=settings.kafka_enable_idempotence)
    except _UNAVAILABLE as error:
        rows = [Check("right", False, broker_error(error))]
    options = kafka_options(settings)
    return rows + [Check("right", False, broker_error(rights.NotAllowed(right, options))) for right in missing]


def _check_retentions(settings: Settings, cluster: ClusterState) -> list[Check]:
    """Check that data is kept longer than the input topics keep their records, and backups less long.

    A record that is delivered again after its data was purged would be handled as a new one.
    """
    kept, outputs = kafka.retentions(cluster), kafka.retentions(cluster, OUTGOING_TOPICS)
    errors = policy.too_short(retention_policy(settings), kept)
    errors += reading.too_short(kept, outputs, settings.oldest_backup_seconds)
    return [Check("retention", False, message) for message in errors]


def _difference(difference: kafka.Difference) -> str:
    found = difference.found or "not reported by the broker"
    line = f"{difference.topic}: {difference.name} is {found}; it should be {difference.wanted} or more"
    return line if difference.found is None else f"{line}: run topics alter"


def _few_partitions(cluster: ClusterState, wanted: int) -> Iterable[kafka.Fault]:
    for topic in INCOMING_TOPICS:
        count = len(cluster.topics[topic].partitions) if topic in cluster.topics else wanted
        if count < wanted:
            yield kafka.Fault(
                topic,
                f"it has {count} partitions, and ELS_KAFKA_TOPIC_PARTITIONS is {wanted}: at most {count} pods share "
                "its records",
                is_error=False,
            )


def _absent(cluster: ClusterState, options: Mapping[str, Any]) -> list[str]:
    lines = [f"{topic} is missing: run topics create" for topic in cluster.missing]
    return lines + [
        broker_error(rights.NotAllowed(rights.MissingRight("topic", topic, (Operation.DESCRIBE,)), options))
        for topic in cluster.hidden
    ]


def _unreadable(cluster: ClusterState, options: Mapping[str, Any]) -> list[str]:
    """Name the topics whose configurations can't be compared. The running service does not need that right."""
    return [
        "its configuration can't be compared: "
        + broker_error(rights.NotAllowed(rights.MissingRight("topic", topic, (Operation.DESCRIBE_CONFIGS,)), options))
        for topic, state in cluster.topics.items()
        if state.configs is None
    ]

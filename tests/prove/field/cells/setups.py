"""Environments that users set up otherwise than the docs say: what `check`, and a pod that starts, say of them."""

import asyncio
from functools import partial
from typing import Final

from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from deploy.local.postgres import Postgres
from deploy.servers import databases, postgres_versions
from tests.prove.field.environment import PARTITIONS, Kind
from tests.prove.field.play import Cell, Play
from tests.prove.field.topics import INPUTS, OUTPUTS, READY, REGISTERED

ONE: Final = Kind()
THREE: Final = Kind(brokers=3)
TOPICS: Final = (*INPUTS, *OUTPUTS)


async def another_database(play: Play, url: str, names: str) -> None:
    """Somebody starts a pod, `check` and `migrate` with this database; the message names what is wrong with it."""
    async with play.load(), play.fault():
        for command in ("run", "check", "migrate"):
            await play.run(command, names=names, ELS_DATABASE_URL=url, ELS_MIGRATION_DATABASE_URL=url)


async def old_server(play: Play, version: type[Postgres], names: str) -> None:
    """The server is older than the service supports."""
    with databases.embedded_server(durable=False, kind=version) as server:
        await another_database(play, server.url(), names)


async def latin1(play: Play, names: str) -> None:
    """The database has another encoding than UTF-8."""
    world = play.world
    await asyncio.to_thread(
        world.sql, "create database latin template template0 encoding 'LATIN1' locale_provider libc locale 'C'"
    )
    try:
        await another_database(play, databases.database_in(world.url(), "latin"), names)
    finally:
        await asyncio.to_thread(world.sql, "drop database latin with (force)")


async def topics_of_others(play: Play, *wrong: str) -> None:
    """Somebody else created the topics, as the broker creates them by default; `topics alter` brings them in line."""
    world = play.world
    play.watch.down |= set(range(len(world.pods.all)))
    for pod in world.pods.all:
        pod.terminate()
    for pod in world.pods.all:
        await pod.ended()
    await asyncio.to_thread(world.kafka.delete_topics)
    admin = world.kafka.admin
    for created in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in TOPICS]).values():
        await asyncio.to_thread(created.result)
    superuser = {"ELS_KAFKA_BOOTSTRAP_SERVERS": world.kafka.servers, "ELS_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}
    async with play.fault():
        for each in wrong:
            await play.run("check", names=f"{each}.*run topics alter", **superuser)
        await play.run("topics", "alter", **superuser)
        said = await play.run("check", **superuser)
        assert not [line for line in said if line.startswith("topic")], f"`topics alter` has left {said}"
        for name in TOPICS:
            play.judge.reader.begin_again(name)
        for pod in world.pods.all:
            pod.start()
        play.watch.down.clear()
        await world.pods.ready()
    await play.send(play.batches(60))


async def topics_by_command(play: Play) -> None:
    """`topics create` has created the topics, without a setting that says how many replicas they shall have."""
    admin = play.world.kafka.admin
    topics = (await asyncio.to_thread(admin.list_topics, timeout=20)).topics
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in TOPICS]
    for resource, described in admin.describe_configs(resources).items():
        configs = await asyncio.to_thread(described.result)
        replicas = {len(each.replicas) for each in topics[resource.name].partitions.values()}
        needed = configs["min.insync.replicas"].value
        assert (replicas, needed) == ({3}, "2"), f"{resource.name} has {replicas} replicas and needs {needed}"
    await play.send(play.batches(60))


TOO_OLD: Final = r"the server is PostgreSQL {}\..*PostgreSQL 17 or newer is needed"
LATIN1: Final = "the encoding of the database is LATIN1; create it with encoding 'UTF8'"

CELLS: Final = [
    *(
        Cell(f"PostgreSQL {number}", ONE, partial(old_server, version=version, names=TOO_OLD.format(number)),
             names=TOO_OLD.format(number), lacks=version.jars.missing)
        for number, version in (
            (15, postgres_versions.MuchTooOldPostgres),
            (16, postgres_versions.TooOldPostgres),
        )
    ),
    Cell("a database in LATIN1", ONE, partial(latin1, names=LATIN1), names=LATIN1),
    Cell("topics created by others, with default sizes", ONE,
         lambda play: topics_of_others(play, f"{READY}: max.message.bytes is", f"{REGISTERED}: max.message.bytes is"),
         names="max.message.bytes is", spoils=True),
    Cell("topics created by others, with one replica", THREE,
         lambda play: topics_of_others(play, f"{READY}: .*replica.* is 1; it should be 3"),
         names="replica.* is 1; it should be 3", spoils=True),
    Cell("topics created with the command", THREE, topics_by_command),
]  # fmt: skip

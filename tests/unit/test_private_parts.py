"""Names every private or undocumented part of a library that the service relies on.

Such a part may change in any release. pyproject.toml therefore pins aiokafka and psycopg below the next minor version.
When a newer one is tried, this test says which part is missing and which of our modules needs it.
"""

import ast
import dis
import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import service

SERVICE = Path(service.__file__).parent
LIBRARIES = ("aiokafka", "psycopg")

# Written as module:name.attribute; an attribute may also be one that the class assigns to its instances.
PARTS: Mapping[str, Sequence[str]] = {
    "kafka/connection.py": [
        "aiokafka.conn:collect_hosts",
        "aiokafka.conn:create_conn",
    ],
    "kafka/alteration.py": [
        "aiokafka.admin:AIOKafkaAdminClient._send_to_controller",
    ],
    "kafka/cluster.py": [
        "aiokafka.admin:AIOKafkaAdminClient._client",
        "aiokafka.admin:AIOKafkaAdminClient._send_request",
        "aiokafka.client:AIOKafkaClient.cluster",
        "aiokafka.cluster:ClusterMetadata.brokers",
        "aiokafka.protocol.admin:DescribeConfigsRequest",
    ],
    "kafka/errors.py": [
        "aiokafka.cluster:ClusterMetadata.unauthorized_topics",
    ],
    "kafka/requests.py": [
        "aiokafka.protocol.api:Request.prepare",
        "aiokafka.protocol.api:RequestStruct",
        "aiokafka.protocol.api:Response",
        "aiokafka.protocol.types:Schema",
    ],
    "kafka/rights.py": [
        "aiokafka.protocol.admin:ApiVersionRequest",
        "aiokafka.protocol.coordination:FindCoordinatorRequest",
    ],
    "http/server.py": [
        "aiohttp.web_response:SERVER_SOFTWARE",
    ],
    "kafka/group.py": [
        "aiokafka:AIOKafkaConsumer._client",
        "aiokafka:AIOKafkaConsumer._fetcher",
        "aiokafka:AIOKafkaConsumer._subscription",
        "aiokafka:AIOKafkaConsumer._wait_topics",
        "aiokafka.consumer.subscription_state:SubscriptionState.subscription",
        "aiokafka.client:AIOKafkaClient.close",
        "aiokafka.client:AIOKafkaClient.force_metadata_update",
        "aiokafka.consumer.fetcher:Fetcher._fetch_max_wait_ms",
        "aiokafka.consumer.fetcher:Fetcher._proc_fetch_request",
    ],
    "kafka/broker_view.py": [
        "aiokafka:AIOKafkaConsumer._client",
        "aiokafka:AIOKafkaConsumer._fetcher",
        "aiokafka.consumer.fetcher:Fetcher._isolation_level",
        "aiokafka.consumer.fetcher:Fetcher.end_offsets",
        "aiokafka.consumer.fetcher:READ_UNCOMMITTED",
        "aiokafka.client:AIOKafkaClient._conns",
        "aiokafka.client:AIOKafkaClient.cluster",
        "aiokafka.client:AIOKafkaClient.force_metadata_update",
        "aiokafka.cluster:ClusterMetadata.leader_for_partition",
        "aiokafka.cluster:ClusterMetadata.partitions_for_topic",
        "aiokafka.cluster:ClusterMetadata.unauthorized_topics",
        "aiokafka.conn:AIOKafkaConnection._reader",
        "asyncio:StreamReader._buffer",
    ],
    "kafka/quota.py": [
        "aiokafka.client:AIOKafkaClient.send",
    ],
    "kafka/producer.py": [
        "aiokafka:AIOKafkaProducer._closed",
        "aiokafka:AIOKafkaProducer._message_accumulator",
        "aiokafka:AIOKafkaProducer._sender",
        "aiokafka:AIOKafkaProducer.client",
        "aiokafka.client:AIOKafkaClient.add_topic",
        "aiokafka.client:AIOKafkaClient.close",
        "aiokafka.client:AIOKafkaClient.cluster",
        "aiokafka.client:AIOKafkaClient.force_metadata_update",
        "aiokafka.cluster:ClusterMetadata.available_partitions_for_topic",
        "aiokafka.cluster:ClusterMetadata.leader_for_partition",
        "aiokafka.cluster:ClusterMetadata.partitions_for_topic",
        "aiokafka.partitioner:murmur2",
        "aiokafka.producer.message_accumulator:MessageAccumulator._batch_ttl",
        "aiokafka.producer.message_accumulator:MessageAccumulator.fail_all",
        "aiokafka.producer.sender:Sender.sender_task",
    ],
    "kafka/compressed.py": [
        "aiokafka.producer.message_accumulator:BatchBuilder",
        "aiokafka.producer.message_accumulator:BatchBuilder._build",
        "aiokafka.record.util:calc_crc32c",
    ],
    "kafka/inflating.py": [
        "cramjam:DecompressionError",  # aiokafka's extras bring cramjam
        "cramjam:lz4.decompress_into",
        "cramjam:snappy.decompress_raw",
        "cramjam:snappy.decompress_raw_len",
        "cramjam:zstd.decompress_into",
    ],
    "kafka/record_batches.py": [
        "aiokafka.consumer.fetcher:FetchResult._assignment",
        "aiokafka.consumer.fetcher:FetchResult._partition_records",
        "aiokafka.consumer.fetcher:FetchResult._topic_partition",
        "aiokafka.consumer.fetcher:FetchResult.getall",
        "aiokafka.consumer.fetcher:MemoryRecords",
        "aiokafka.consumer.fetcher:Fetcher._records",
        "aiokafka.consumer.fetcher:PartitionRecords._aborted_transactions",
        "aiokafka.consumer.fetcher:PartitionRecords._records",
        "aiokafka.consumer.fetcher:PartitionRecords.next_fetch_offset",
        "aiokafka.record.default_records:DefaultRecordBatch.base_offset",
        "aiokafka.record.default_records:DefaultRecordBatch.compression_type",
        "aiokafka.record.default_records:DefaultRecordBatch.is_control_batch",
        "aiokafka.record.default_records:DefaultRecordBatch.is_transactional",
        "aiokafka.record.default_records:DefaultRecordBatch.magic",
        "aiokafka.record.default_records:DefaultRecordBatch.next_offset",
        "aiokafka.record.default_records:DefaultRecordBatch.producer_id",
        "aiokafka.record.default_records:DefaultRecordBatch.validate_crc",
    ],
    "postgres/pipeline.py": [
        "psycopg:AsyncConnection._pipeline",
        "psycopg:AsyncConnection.lock",
        "psycopg:AsyncConnection.wait",
        "psycopg:AsyncCursor._conn",
        "psycopg:AsyncCursor._convert_query",
        "psycopg:AsyncCursor._fetch_pipeline",
        "psycopg:AsyncCursor._pgconn",
        "psycopg:AsyncPipeline._communicate_gen",
        "psycopg:AsyncPipeline._enqueue_sync",
        "psycopg:AsyncPipeline._exit_gen",
        "psycopg:AsyncPipeline._fetch_gen",
        "psycopg:AsyncPipeline._process_results",
        "psycopg:AsyncPipeline.command_queue",
        "psycopg:AsyncPipeline.result_queue",
        "psycopg._queries:PostgresQuery.params",
        "psycopg.generators:fetch_many",
        "psycopg.generators:send",
        "psycopg.pq:PGconn.send_flush_request",
    ],
    "postgres/pool.py": [
        "psycopg:AsyncConnection._prepared",
        "psycopg._preparing:PrepareManager.clear",
    ],
    "relay/producer_line.py": [
        "aiokafka.producer.message_accumulator:BatchBuilder.size",
    ],
    "relay/publication.py": [
        "aiokafka.producer.message_accumulator:BatchBuilder.append",
    ],
    "runtime/metrics.py": [
        "prometheus_client:Histogram._buckets",
        "prometheus_client:Histogram._sum",
        "prometheus_client:Histogram._upper_bounds",
    ],
    "store/outbox.py": [
        "psycopg.types.string:ByteaBinaryLoader",
    ],
}


@pytest.mark.parametrize(("module", "part"), [(module, part) for module, parts in PARTS.items() for part in parts])
def test_a_part_that_the_service_relies_on_is_there(module: str, part: str) -> None:
    assert is_there(part), f"{part} is missing, and service/{module} needs it"


@pytest.mark.parametrize(("variable", "ours"), [("records", "Records"), ("next_batch", "RecordBatch")])
def test_the_consumer_of_aiokafka_asks_our_reader_only_for_what_it_has(variable: str, ours: str) -> None:
    """`kafka/record_batches.py` takes the place of aiokafka's own reader."""
    fetcher = importlib.import_module("aiokafka.consumer.fetcher")
    reader = getattr(importlib.import_module("service.kafka.record_batches"), ours)
    asked = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(fetcher)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == variable
    }
    assert asked, f"aiokafka.consumer.fetcher has no `{variable}`, and service/kafka/record_batches.py replaces it"
    missing = sorted(name for name in asked if not hasattr(reader, name))
    assert not missing, f"aiokafka asks for {missing}, which {ours} of service/kafka/record_batches.py lacks"


def test_no_private_part_is_used_without_being_named_here() -> None:
    unnamed = {
        f"{module}: {name}"
        for module in sorted(str(path.relative_to(SERVICE)) for path in SERVICE.rglob("*.py"))
        for name in private_names(module) - set(re.split("[:.]", ".".join(PARTS.get(module, []))))
    }
    assert unnamed == set()


def is_there(part: str) -> bool:
    module, _, path = part.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
    except (ImportError, AttributeError):
        return False
    return hasattr(owner, name) or (isinstance(owner, type) and name in assigned(owner))


def assigned(owner: type) -> set[str]:
    """The attributes that the methods of a class, or of the classes it is derived from, assign."""
    methods = [each for base in owner.__mro__ for each in vars(base).values() if isinstance(each, FunctionType)]
    return {step.argval for each in methods for step in dis.get_instructions(each) if step.opname == "STORE_ATTR"}


def private_names(module: str) -> set[str]:
    """The private names of others that a module uses, and those of libraries that its classes override or inherit."""
    source = (SERVICE / module).read_text()
    lines, tree = source.splitlines(), ast.parse(source)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and re.match(r"(aiokafka|psycopg)\b.*\._", node.module or ""):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and "noqa: SLF001" in lines[node.lineno - 1] and not is_self(node.value):
            names |= {node.attr} if node.attr.startswith("_") else set()
        elif isinstance(node, ast.ClassDef) and any(library in source for library in LIBRARIES):
            imported = importlib.import_module("service." + module.removesuffix(".py").replace("/", "."))
            owner = getattr(imported, node.name, None)
            names |= {name for name in written_in(node) if isinstance(owner, type) and is_of_a_library(owner, name)}
    return names


def written_in(owner: ast.ClassDef) -> set[str]:
    """The names with one leading underscore that a class defines or uses."""
    names = {node.attr for node in ast.walk(owner) if isinstance(node, ast.Attribute)}
    names |= {node.name for node in ast.walk(owner) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def is_of_a_library(owner: type, name: str) -> bool:
    bases = [each for each in owner.__mro__ if each.__module__.startswith(LIBRARIES)]
    return any(name in vars(base) or name in assigned(base) for base in bases)


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"

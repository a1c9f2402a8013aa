"""Builds each part and its options from the settings. Opens no connection."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from pydantic import SecretStr

from service.access_settings import names_of
from service.consumer.consumer import Consumer
from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.domain.topics import INCOMING_TOPICS, LISTING_TOPICS
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.kafka.connection import CertificateError, client_options
from service.kafka.errors import describe
from service.kafka.group import REPLAY_SUFFIX, ConsumerOptions
from service.kafka.offsets import OffsetsReader
from service.kafka.producer import Producer
from service.kafka.rights import NotAllowed
from service.operators.operations import Operations
from service.postgres.pool import Database
from service.postgres.server import count_on_server
from service.postgres.session import Timeouts
from service.purge.policy import RetentionPolicy
from service.relay.relay import Relay
from service.runtime import metrics
from service.runtime.health import Health
from service.runtime.tokens import Denials, Tokens
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from aiohttp import web

    from service.console.cells import ConsoleCells
    from service.console.samples import Samples
    from service.console.session import TrustedProxy

ADMIN_SESSIONS: Final = 2
"""Sessions in the pool of operator actions. It is a separate pool, so that they never make the consumer wait."""

CONSOLE_SESSIONS: Final = 2
"""Sessions in the pool of what the console reads. Few, and their statements are short: a curious person must not make
the consumer slow."""

CONSOLE_TIMEOUTS: Final = Timeouts(lock_timeout=500, statement_timeout=5_000, transaction_timeout=10_000)

CELL_SECONDS: Final = 30.0
"""How long a command that asks all cells waits for the database of each."""

UNPOOLED_SESSIONS: Final = 3
"""Sessions of a pod outside of its pools: LISTEN, and for moments a check of the server and one of a session."""

SPARE_SESSIONS: Final = 10
"""Sessions that `check` counts for everybody else: operators, dashboards, a migration, a backup."""


RELAY_SHARE: Final = 0.15
"""Share of the drain time that the relay may use to finish sending, and again to give up its lease. The consumer has
stopped before that."""


def open_database(settings: Settings, timeouts: Timeouts | None = None, sessions: int | None = None) -> Database:
    """Create the connection pool that the settings describe. `sessions` replaces the pool size of the settings."""
    return Database(
        settings.database_url.get_secret_value(),
        pool_size=sessions or settings.database_pool_size,
        pooler=settings.database_pooler,
        timeouts=timeouts,
        of=settings.slice,
    )


def sessions_of_pods(settings: Settings) -> int:
    """Compute how many sessions of the server all pods of this cell and their operators need at most."""
    pod = settings.database_pool_size + UNPOOLED_SESSIONS
    if settings.admin_token or settings.viewer_token:
        pod += ADMIN_SESSIONS + CONSOLE_SESSIONS
    return settings.max_pods * pod


def cells_on_server(settings: Settings) -> int:
    """Count the cells whose databases are on the server of this one, as far as ELS_CELL_DATABASE_URLS tells."""
    return max(1, count_on_server(settings.database_url.get_secret_value(), settings.url_of_cell.values()))


def kafka_options(settings: Settings) -> dict[str, object]:
    """Build the options of all Kafka clients. Raises SettingsError if a certificate file cannot be used."""
    password = settings.kafka_sasl_password
    try:
        return client_options(
            settings.kafka_bootstrap_servers,
            security_protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=password.get_secret_value() if password else None,
            ssl_cafile=settings.kafka_ssl_cafile,
            ssl_certfile=settings.kafka_ssl_certfile,
            ssl_keyfile=settings.kafka_ssl_keyfile,
        )
    except CertificateError as error:
        raise SettingsError(f"ELS_KAFKA_{error.option.upper()}: {error}") from None


def broker_error(error: Exception) -> str:
    """Describe why the broker could not be used, in one line that names the setting to check."""
    setting, message = "BOOTSTRAP_SERVERS", describe(error)
    match error:
        case ssl.SSLCertVerificationError():
            # OpenSSL says "mismatch" both for a host name and for an address that the certificate lacks.
            setting = "BOOTSTRAP_SERVERS" if "mismatch" in error.verify_message else "SSL_CAFILE"
        case ssl.SSLError(reason=str(alert)) if "UNKNOWN_CA" in alert or "CERTIFICATE" in alert:
            setting = "SSL_CERTFILE"  # the broker does not accept our certificate
        case ssl.SSLError():
            setting = "SECURITY_PROTOCOL"
        case NotAllowed():
            setting, message = error.option.upper(), str(error)
        case TopicAuthorizationFailedError() | GroupAuthorizationFailedError() | ClusterAuthorizationFailedError():
            setting = "SASL_USERNAME"
        case SaslAuthenticationFailed():
            setting = "SASL_PASSWORD"
        case UnsupportedSaslMechanismError():
            setting = "SASL_MECHANISM"
        case ConnectionResetError() | KafkaConnectionError():
            setting = "SECURITY_PROTOCOL"
            message = f"the broker closes the connection; it may use another protocol ({message})"
    return f"ELS_KAFKA_{setting}: {message}"


def intake_limits(settings: Settings) -> IntakeLimits:
    """Build the limits of the intake."""
    return IntakeLimits(
        settings.consecutive_rejections_limit,
        settings.quarantine_max_bytes,
        ready_waits=settings.ready_waits_for_associations,
    )


def input_limits(settings: Settings) -> InputLimits:
    """Build the bounds of what is unpacked and decoded."""
    sizes = dict.fromkeys(INCOMING_TOPICS, settings.max_message_bytes)
    sizes |= dict.fromkeys(LISTING_TOPICS, settings.max_registration_bytes)
    return InputLimits(
        sizes,
        json_values=settings.max_json_values,
        key_bytes=settings.max_key_bytes,
        headers=settings.max_headers,
        header_bytes=settings.max_header_bytes,
        fetched_bytes=settings.max_fetched_bytes,
        inflated_bytes=settings.max_inflated_bytes,
        poll_bytes=settings.max_poll_bytes,
    )


def retention_policy(settings: Settings) -> RetentionPolicy:
    """Build the retention policy."""
    return RetentionPolicy(
        pending_ttl=settings.pending_ttl_seconds,
        expired_retention=settings.expired_retention_seconds,
        batch_timeout=settings.batch_timeout_seconds,
        batch_retention=settings.batch_retention_seconds,
        closed_retention=settings.closed_retention_seconds,
        # No action is deleted before the rows that it closed.
        actions_retention=max(settings.actions_retention_seconds, settings.closed_retention_seconds),
        # What is older than the retention of batches is in no topic any more, but may be in a backup.
        erasure_retention=max(settings.batch_retention_seconds, settings.oldest_backup_seconds or 0),
        ready_waits=settings.ready_waits_for_associations,
    )


def consumer_of(
    settings: Settings,
    database: Database,
    health: Health,
    committed: Callable[[Effects], Awaitable[None]],
    *,
    replay: bool = False,
) -> Consumer:
    """Build the consumer. `committed` is called with the effects of each committed transaction."""
    options = ConsumerOptions(
        group=settings.group + (REPLAY_SUFFIX if replay else ""),
        replay=replay,
        max_poll_records=settings.max_poll_records,
        session_timeout=settings.session_timeout_seconds,
        rebalance_timeout=settings.rebalance_timeout_seconds,
        fetch_wait=settings.kafka_fetch_wait_ms / 1000,
        drain=settings.drain_seconds,
        watchdog=settings.watchdog_seconds,
        limits=input_limits(settings),
        of=settings.slice,
    )
    intake = Intake(database, intake_limits(settings), health, committed)
    return Consumer(kafka_options(settings), database, intake, health, options, metrics.set_lag)


def relay_of(settings: Settings, database: Database) -> Relay:
    """Build the relay."""
    options, listen = kafka_options(settings), settings.database_pooler != "transaction"
    return Relay(
        database,
        lambda: Producer(options, idempotent=settings.kafka_enable_idempotence),
        listen=listen,
        poll_seconds=1.0 if listen else 0.1,
        drain_seconds=settings.drain_seconds * RELAY_SHARE,
    )


def tokens_of(settings: Settings) -> Tokens | None:
    """Build the tokens of /admin/ and of the console. None if there are none: then both are closed."""
    if settings.admin_token is None and settings.viewer_token is None:
        return None
    operator, viewer = settings.admin_token, settings.viewer_token
    return Tokens(*(None if each is None else each.get_secret_value() for each in (operator, viewer)))


def trusted_proxy_of(settings: Settings) -> "TrustedProxy | None":
    """Build what is known of the proxy that authenticates persons. None if there is none."""
    if settings.console_user_header is None:
        return None
    from service.console.session import TrustedProxy  # noqa: PLC0415  saves its memory in pods without a console

    return TrustedProxy.of(
        settings.console_user_header, names_of(settings.console_proxies), names_of(settings.console_operators)
    )


def settings_of_cells(settings: Settings) -> list[Settings]:
    """Return the settings of a process of each cell; none where their databases are not known."""
    return [
        settings.model_copy(update={**of._asdict(), "database_url": SecretStr(url)})
        for of, url in settings.url_of_cell.items()
    ]


def operations_of(settings: Settings, database: Database) -> Operations:
    """Build the operator actions."""
    urls = settings.url_of_cell

    def other_cell(batch_id: str) -> Database:
        of = next(each for each in urls if each.holds(batch_id))
        return Database(urls[of], pool_size=1, pooler=settings.database_pooler, of=of)

    return Operations(
        database,
        intake_limits(settings),
        input_limits(settings),
        lambda: kafka_options(settings),
        other_cell if urls else None,
    )


@dataclass(frozen=True, slots=True)
class ConsoleParts:
    """What the console reads from, and what must be closed at its end."""

    cells: "ConsoleCells"
    samples: "Samples"
    readers: Sequence[OffsetsReader]
    databases: Sequence[Database]

    async def close(self) -> None:
        """Close all connections."""
        closing = [each.close() for each in self.readers] + [each.close() for each in self.databases]
        await asyncio.gather(*closing)


def console_parts(
    settings: Settings,
    operations: Operations,
    admin_database: Database,
    gauges: Callable[[], Mapping[str, float]],
    check: Callable[[], Awaitable[Sequence[Any]]],
) -> ConsoleParts:
    """Build what the console shows: this cell, or all where their databases are known.

    `operations` act on `admin_database`, that of this cell. What is read has sessions of its own, in each database.
    """
    from service.console.cells import ConsoleCell, ConsoleCells  # noqa: PLC0415
    from service.console.outages import Outages  # noqa: PLC0415
    from service.console.pages.reads import Reads  # noqa: PLC0415
    from service.console.samples import Samples  # noqa: PLC0415

    all_cells = settings_of_cells(settings) or [settings]
    own = settings.slice.cell
    # The URL of its own cell may be another one, of a pooler.
    all_cells = [settings if each.slice == settings.slice else each for each in all_cells]
    # Only this cell is sampled all the time: many pods may have a console.
    sampled = OffsetsReader(kafka_options(settings), settings.group)
    offsets = OffsetsReader(kafka_options(settings), *(each.group for each in all_cells))
    samples = Samples(gauges, sampled)
    cells, databases = {}, []
    for place, each in enumerate(all_cells):
        is_own = each is settings
        reading = open_database(each, CONSOLE_TIMEOUTS, CONSOLE_SESSIONS)
        acting = admin_database if is_own else open_database(each, sessions=ADMIN_SESSIONS)
        databases += [reading, acting]
        reads = Reads(
            reading,
            operations_of(each, reading),
            sampled if is_own else offsets.of(place),
            samples if is_own else None,
            Outages(acting, sampled),
            check,
        )
        cells[each.slice.cell] = ConsoleCell(reads, operations if is_own else operations_of(each, acting))
    return ConsoleParts(ConsoleCells(cells, own, settings.numbers_of_cells), samples, [sampled, offsets], databases)


def console_of(settings: Settings, parts: ConsoleParts, tokens: Tokens, denials: Denials) -> "web.Application":
    """Build the application that serves the console."""
    from service.console.access import Access  # noqa: PLC0415
    from service.console.console import Console  # noqa: PLC0415
    from service.console.session import Sessions  # noqa: PLC0415

    access = Access(tokens, Sessions(tokens), denials, trusted_proxy_of(settings))
    return Console(access, parts.cells).application()

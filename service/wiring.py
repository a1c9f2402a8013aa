"""Builds the options of each part, and the parts themselves, from the settings. Nothing connects here."""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from service.consumer.consumer import Consumer
from service.domain.delivery import IntakeLimits
from service.domain.topics import BATCH_REGISTERED, INCOMING_TOPICS
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.kafka.connection import CertificateError, client_options
from service.kafka.group import ConsumerOptions
from service.kafka.producer import Producer
from service.operators.operations import Operations
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.purge.policy import RetentionPolicy
from service.relay.relay import Relay
from service.runtime import metrics
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.settings import Settings, SettingsError

ADMIN_SESSIONS: Final = 2
"""Sessions of the pool for operators: it is a pool of its own, so that they never keep the consumer waiting."""

RELAY_SHARE: Final = 0.15
"""Share of the drain time that the relay may take to finish what it sends, and once more to leave. The consumer has
stopped before."""


def open_database(settings: Settings, timeouts: Timeouts | None = None, sessions: int | None = None) -> Database:
    """The pool that the settings describe, or one of so many sessions."""
    return Database(
        settings.database_url.get_secret_value(),
        pool_size=sessions or settings.database_pool_size,
        pooler=settings.database_transaction_pooler,
        timeouts=timeouts,
    )


def kafka_options(settings: Settings) -> dict[str, object]:
    """What every Kafka client is made with. Raises SettingsError where a certificate file cannot be used."""
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
    """Why the broker could not be used, in one line that names the setting to check."""
    setting, message = "BOOTSTRAP_SERVERS", one_line(error)
    match error:
        case ssl.SSLCertVerificationError():
            # The same word, whether it is a name or an address that the certificate does not have.
            setting = "BOOTSTRAP_SERVERS" if "mismatch" in error.verify_message else "SSL_CAFILE"
        case ssl.SSLError(reason=str(alert)) if "UNKNOWN_CA" in alert or "CERTIFICATE" in alert:
            setting = "SSL_CERTFILE"  # ours, which the broker does not accept
        case ssl.SSLError():
            setting = "SECURITY_PROTOCOL"
        case SaslAuthenticationFailed():
            setting = "SASL_PASSWORD"
        case UnsupportedSaslMechanismError():
            setting = "SASL_MECHANISM"
        case ConnectionResetError() | KafkaConnectionError():
            setting = "SECURITY_PROTOCOL"
            message = f"the broker closes the connection; it may use another protocol ({message})"
    return f"ELS_KAFKA_{setting}: {message}"


def intake_limits(settings: Settings) -> IntakeLimits:
    """The limits of the intake."""
    return IntakeLimits(consecutive_rejections=settings.consecutive_rejections_limit)


def max_bytes(settings: Settings) -> Mapping[str, int]:
    """The largest value taken, by input topic."""
    sizes = dict.fromkeys(INCOMING_TOPICS, settings.max_message_bytes)
    sizes[BATCH_REGISTERED] = settings.max_registration_bytes
    return sizes


def retention_policy(settings: Settings) -> RetentionPolicy:
    """How long things are kept."""
    return RetentionPolicy(
        pending_ttl=settings.pending_ttl_seconds,
        expired_retention=settings.expired_retention_seconds,
        batch_timeout=settings.batch_timeout_seconds,
        batch_retention=settings.batch_retention_seconds,
        closed_retention=settings.closed_retention_seconds,
    )


def consumer_of(
    settings: Settings, database: Database, health: Health, committed: Callable[[Effects], Awaitable[None]]
) -> Consumer:
    """The consumer that the settings describe. `committed` gets the effects of each transaction."""
    options = ConsumerOptions(
        group=settings.consumer_group,
        max_poll_records=settings.max_poll_records,
        session_timeout=settings.session_timeout_seconds,
        rebalance_timeout=settings.rebalance_timeout_seconds,
        fetch_wait=settings.kafka_fetch_wait_ms / 1000,
        drain=settings.drain_seconds,
        watchdog=settings.watchdog_seconds,
        max_bytes=max_bytes(settings),
    )
    intake = Intake(database, intake_limits(settings), health, committed)
    return Consumer(kafka_options(settings), database, intake, health, options, metrics.set_lag)


def relay_of(settings: Settings, database: Database) -> Relay:
    """The relay that the settings describe."""
    options, pooler = kafka_options(settings), settings.database_transaction_pooler
    return Relay(
        database,
        lambda: Producer(options, idempotent=settings.kafka_enable_idempotence),
        listen=not pooler,
        poll_seconds=0.1 if pooler else 1.0,
        drain_seconds=settings.drain_seconds * RELAY_SHARE,
    )


def operations_of(settings: Settings, database: Database) -> Operations:
    """The operator actions that the settings describe."""
    return Operations(database, intake_limits(settings), max_bytes(settings))

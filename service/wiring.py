"""Builds the options of each part from the settings."""

import ssl

from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from service.domain.delivery import IntakeLimits
from service.domain.topics import BATCH_REGISTERED, INCOMING_TOPICS
from service.kafka import connection, producer
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.purge.purge import RetentionPolicy
from service.relay.relay import Relay
from service.runtime.errors import one_line
from service.settings import Settings, SettingsError

ADMIN_SESSIONS = 2
"""Operators have a pool of their own: they never keep the consumer or the relay waiting for a session."""

RELAY_SHARE = 0.15
"""Of the drain time, once to finish what is on its way and once to leave; the consumer has gone before."""


def open_database(settings: Settings, timeouts: Timeouts | None = None, sessions: int | None = None) -> Database:
    """The pool that the settings describe, or one of so many sessions."""
    return Database(
        settings.database_url.get_secret_value(),
        pool_size=sessions or settings.database_pool_size,
        pooler=settings.database_transaction_pooler,
        timeouts=timeouts,
    )


def retention_policy(settings: Settings) -> RetentionPolicy:
    """How long things last."""
    return RetentionPolicy(
        pending_ttl=settings.pending_ttl_seconds,
        expired_retention=settings.expired_retention_seconds,
        batch_timeout=settings.batch_timeout_seconds,
        batch_retention=settings.batch_retention_seconds,
        closed_retention=settings.closed_retention_seconds,
    )


def kafka_options(settings: Settings) -> dict[str, object]:
    """What every Kafka client is made with. Raises SettingsError where a file of it can't be used."""
    password = settings.kafka_sasl_password
    try:
        return connection.client_options(
            settings.kafka_bootstrap_servers,
            security_protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=password.get_secret_value() if password else None,
            ssl_cafile=settings.kafka_ssl_cafile,
            ssl_certfile=settings.kafka_ssl_certfile,
            ssl_keyfile=settings.kafka_ssl_keyfile,
        )
    except connection.CertificateError as error:
        raise SettingsError(f"ELS_KAFKA_{error.option.upper()}: {error}") from None


def broker_error(error: Exception) -> str:
    """Why the broker could not be had, in one line that names the setting to look at."""
    setting, told = "BOOTSTRAP_SERVERS", one_line(error)
    match error:
        case ssl.SSLCertVerificationError():
            # The same word, whether it is a name or an address that the certificate does not have.
            setting = "BOOTSTRAP_SERVERS" if "mismatch" in error.verify_message else "SSL_CAFILE"
        case ssl.SSLError(reason=str(alert)) if "UNKNOWN_CA" in alert or "CERTIFICATE" in alert:
            setting = "SSL_CERTFILE"  # ours, which the broker does not take
        case ssl.SSLError():
            setting = "SECURITY_PROTOCOL"
        case SaslAuthenticationFailed():
            setting = "SASL_PASSWORD"
        case UnsupportedSaslMechanismError():
            setting = "SASL_MECHANISM"
        case ConnectionResetError() | KafkaConnectionError():
            setting, told = "SECURITY_PROTOCOL", f"the broker hangs up; it may speak another protocol ({told})"
    return f"ELS_KAFKA_{setting}: {told}"


def relay_of(settings: Settings, database: Database) -> Relay:
    """The relay that the settings describe; nothing runs yet."""
    options, pooler = kafka_options(settings), settings.database_transaction_pooler
    return Relay(
        database,
        lambda: producer.Producer(options, idempotent=settings.kafka_enable_idempotence),
        listen=not pooler,
        poll_seconds=0.1 if pooler else 1.0,
        drain_seconds=settings.drain_seconds * RELAY_SHARE,
    )


def limits(settings: Settings) -> IntakeLimits:
    """What an event may weigh, and how many rejections stop a topic."""
    return IntakeLimits(consecutive_rejections=settings.consecutive_rejections_limit)


def max_bytes(settings: Settings) -> dict[str, int]:
    """The largest message taken, by topic."""
    sizes = dict.fromkeys(INCOMING_TOPICS, settings.max_message_bytes)
    sizes[BATCH_REGISTERED] = settings.max_registration_bytes
    return sizes

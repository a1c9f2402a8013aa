"""The environment (and a `.env` file), read once into one frozen `Settings`.

Everything that can be set is a field here. Its description is its documentation:
docs/configuration.md is made from it. No secret is ever part of an error, a repr or a log line.
"""

import re
from pathlib import Path
from typing import Any, Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ELS_"

_MEBIBYTE = 1024 * 1024
_DAY = 24 * 60 * 60
_YEAR = 366 * _DAY

_BROKER = re.compile(r"(?:[^\s,:\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")


class SettingsError(Exception):
    """A setting is missing or malformed; the message is one line that names it."""


class Settings(BaseSettings):
    """What one process was told. Made by `load_settings`, passed on as values."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    database_url: SecretStr = Field(
        description="Where PostgreSQL is: `postgresql://user:password@host:port/database?sslmode=…`, "
        "with all that libpq knows (several hosts, a socket in `host`)."
    )
    migration_database_url: SecretStr | None = Field(
        None,
        description="The same database for `migrate`, as a role that may be the owner, and never through "
        "a transaction pooler. `ELS_DATABASE_URL` where it is not set.",
    )
    database_pool_size: int = Field(10, ge=4, le=100, description="Connections of one process.")
    database_transaction_pooler: bool = Field(
        False,
        description="Whether a transaction pooler (PgBouncer) stands before the database: no prepared "
        "statements, no LISTEN, and timeouts and the planner's settings come from the role `els_app`.",
    )

    kafka_bootstrap_servers: str = Field(description="Brokers, as `host:port`, separated by commas.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How the brokers are spoken to."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="How one logs in; needed with `SASL_…`."
    )
    kafka_sasl_username: str | None = Field(None, description="Needed with `SASL_…`.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Needed with `SASL_…`.")
    kafka_ssl_cafile: Path | None = Field(
        None, description="Certificates to trust (PEM); those of the system where it is not set."
    )
    kafka_ssl_certfile: Path | None = Field(None, description="The client's certificate (PEM).")
    kafka_ssl_keyfile: Path | None = Field(None, description="The key of that certificate (PEM).")
    kafka_enable_idempotence: bool = Field(
        True, description="The idempotent producer; the embedded broker needs `false`."
    )
    kafka_fetch_wait_ms: int = Field(
        10,
        ge=1,
        le=5000,
        description="How long a broker may hold a fetch that finds nothing; ten times as long after a second in which "
        "nothing came. Apache Kafka answers as soon as there is something; the embedded broker only when this is over, "
        "so that it adds to each event's latency.",
    )
    kafka_topic_partitions: int = Field(
        12, ge=1, le=1000, description="Partitions of a topic that `topics create` makes."
    )
    kafka_topic_replication: int = Field(
        1, ge=1, le=15, description="Replicas of a topic that `topics create` makes; 3 in production."
    )

    consumer_group: str = Field(
        "essay-lifecycle-service", min_length=1, max_length=255, description="The Kafka consumer group."
    )
    session_timeout_seconds: int = Field(
        6, ge=1, le=300, description="After how long without a heartbeat a pod's partitions go to others."
    )
    rebalance_timeout_seconds: int = Field(
        30, ge=1, le=300, description="How long a pod may take to finish its work before a rebalance."
    )
    max_poll_records: int = Field(
        2000, ge=1, le=10_000, description="Records that are applied in one transaction, at most."
    )
    max_message_bytes: int = Field(
        _MEBIBYTE, ge=1024, le=32 * _MEBIBYTE, description="A larger message goes to quarantine unread."
    )
    max_registration_bytes: int = Field(
        16 * _MEBIBYTE, ge=1024, le=32 * _MEBIBYTE, description="The same for registrations."
    )
    consecutive_rejections_limit: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        validation_alias=AliasChoices("ELS_CONSECUTIVE_REJECTIONS_LIMIT", "ELS_REFUSALS_IN_A_ROW_LIMIT"),
        description="Consecutive rejections after which a topic is paused. The former name "
        "`ELS_REFUSALS_IN_A_ROW_LIMIT` is accepted until 0.3.0.",
    )
    drain_seconds: int = Field(20, ge=1, le=300, description="How long a stop may take to finish its work.")
    watchdog_seconds: int = Field(
        60,
        ge=20,
        le=3600,
        description="After how long without progress despite lag, or without a share of the group, a pod makes its "
        "client anew.",
    )

    pending_ttl_seconds: int = Field(
        _DAY, ge=1, le=10 * _YEAR, description="How long pending content waits for its registration."
    )
    expired_retention_seconds: int = Field(
        30 * _DAY,
        ge=1,
        le=10 * _YEAR,
        description="How long expired content is kept. Longer than the input topics keep their records.",
    )
    batch_timeout_seconds: int = Field(
        _DAY, ge=1, le=10 * _YEAR, description="After how long a batch that is not ready is reported."
    )
    batch_retention_seconds: int | None = Field(
        None,
        ge=_DAY,
        le=10 * _YEAR,
        description="How long batches that are ready, failed or were reported as late are kept; for ever where it "
        "is not set. Longer than the input topics keep their records.",
    )
    closed_retention_seconds: int | None = Field(
        None,
        ge=_DAY,
        le=10 * _YEAR,
        description="How long removed content, replayed or discarded quarantine rows and the audit of operators are "
        "kept; for ever where it is not set. Longer than the input topics keep their records.",
    )
    purge_interval_seconds: int = Field(60, ge=1, le=_DAY, description="Time between two purges.")

    http_host: str = Field(
        "0.0.0.0",  # noqa: S104  a pod is asked from outside
        min_length=1,
        description="Address that health and metrics listen on.",
    )
    http_port: int = Field(8080, ge=0, le=65535, description="Port that they listen on; 0 takes a free one.")
    admin_token: SecretStr | None = Field(
        None, description="The bearer token of `/admin/`, which is closed where it is not set."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="The least that is logged.")
    log_format: Literal["json", "console"] = Field(
        "json", description="`json` for one object a line, `console` for people."
    )

    @property
    def migration_url(self) -> str:
        """The URL that `migrate` connects to, with its password."""
        return (self.migration_database_url or self.database_url).get_secret_value()

    @field_validator("kafka_security_protocol", "kafka_sasl_mechanism", "log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _is_a_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _check_database_url(url.get_secret_value())
        return url

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _is_a_list_of_brokers(cls, servers: str) -> str:
        brokers = [broker.strip() for broker in servers.split(",")]
        for broker in brokers:
            found = _BROKER.fullmatch(broker)
            if found is None or not 1 <= int(found["port"]) <= 65535:
                raise ValueError(f"{broker!r} is not host:port")
        return ",".join(brokers)

    @field_validator("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
    @classmethod
    def _is_a_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"there is no file {str(path)!r}")
        return path

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        """Settings that only make sense with each other; the error names the one to add or change."""
        if self.kafka_security_protocol.startswith("SASL_"):
            for name in ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password"):
                if getattr(self, name) is None:
                    raise _needs(name, f"{_variable('kafka_security_protocol')}={self.kafka_security_protocol}")
        if self.kafka_ssl_keyfile and not self.kafka_ssl_certfile:
            raise _needs("kafka_ssl_certfile", "ELS_KAFKA_SSL_KEYFILE")
        if self.kafka_ssl_certfile and not self.kafka_ssl_keyfile:
            raise _needs("kafka_ssl_keyfile", "ELS_KAFKA_SSL_CERTFILE")
        if self.rebalance_timeout_seconds < self.session_timeout_seconds:
            raise ValueError("ELS_REBALANCE_TIMEOUT_SECONDS: should not be less than ELS_SESSION_TIMEOUT_SECONDS")
        return self


def load_settings() -> Settings:
    """Read the environment and `.env`.

    Raises SettingsError, in one line, where a setting is missing or malformed.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_told(detail) for detail in error.errors())) from None
    except (UnicodeDecodeError, OSError) as error:
        raise SettingsError(f".env: can't be read: {error}") from None


def settings_table() -> str:
    """Every setting as a Markdown table, as docs/configuration.md shows it."""
    rows = ["| setting | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{_variable(name)}` | {_default(field)} | {field.description} |")
    return "\n".join(rows) + "\n"


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default is None:
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _needs(name: str, because: str) -> ValueError:
    return ValueError(f"{_variable(name)}: is needed with {because}")


def _told(detail: ErrorDetails) -> str:
    """One problem in words. What was given is shown only where it can't be a secret."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0]).removeprefix(PREFIX).lower()  # an alias is the whole name of the variable
    if detail["type"] == "missing":
        return f"{_variable(name)}: is not set"
    message = message[:1].lower() + message[1:]
    if detail["type"] == "value_error" or "SecretStr" in str(Settings.model_fields[name].annotation):
        return f"{_variable(name)}: {message}"
    return f"{_variable(name)}: {message}, and not {str(detail['input'])[:100]!r}"


def _check_database_url(url: str) -> None:
    """libpq's own complaint may quote the password, so its words are not passed on."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("should begin with postgresql://")
    try:
        parts = conninfo_to_dict(url)
    except (ProgrammingError, UnicodeError):
        raise ValueError("is not a URL that PostgreSQL's client library can read") from None
    for port in str(parts.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError("its port should be a number from 1 to 65535")

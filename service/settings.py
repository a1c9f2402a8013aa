"""Reads the environment and a `.env` file into one frozen `Settings`.

Every setting is a field of `Settings`; docs/configuration.md is generated from the descriptions. No secret appears in
an error, a repr or a log line.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict

from service.access_settings import AccessSettings
from service.cell_settings import CellSettings
from service.database_settings import DatabaseSettings

PREFIX = "ELS_"

_DAY = 24 * 60 * 60
_YEAR = 366 * _DAY

_BROKER = re.compile(r"(?:[^\s,:@\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")


ALIKE = 0.85
"""How alike a variable and a setting are (at most 1) if one is taken for a misspelt other."""


class SettingsError(Exception):
    """A setting is missing or malformed. The message is one line that names it."""


def _list_of_brokers(servers: str) -> str:
    brokers = [broker.strip() for broker in servers.split(",")]
    for number, broker in enumerate(brokers, 1):
        found = _BROKER.fullmatch(broker)
        if found is None or not 1 <= int(found["port"]) <= 65535:
            raise ValueError(f"its entry {number} is not host:port")  # not repeated: it may contain a password
    return ",".join(brokers)


class Settings(DatabaseSettings, CellSettings, AccessSettings):
    """Holds the settings of one process. `load_settings` creates it; other packages get plain values from it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    kafka_bootstrap_servers: Annotated[str, AfterValidator(_list_of_brokers)] = Field(
        description="Brokers, as `host:port`, separated by commas."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Security protocol of the brokers."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism; required with `SASL_…` protocols."
    )
    kafka_sasl_username: str | None = Field(None, description="User name; required with `SASL_…` protocols.")
    kafka_sasl_password: SecretStr | None = Field(None, description="Password; required with `SASL_…` protocols.")
    kafka_ssl_cafile: Path | None = Field(
        None, description="File of trusted CA certificates (PEM). Default: those of the system."
    )
    kafka_ssl_certfile: Path | None = Field(None, description="File of the client certificate (PEM).")
    kafka_ssl_keyfile: Path | None = Field(None, description="File of the client certificate's key (PEM).")
    kafka_enable_idempotence: bool = Field(
        True, description="Use the idempotent producer. The embedded broker needs `false`."
    )
    kafka_fetch_wait_ms: int = Field(
        10,
        ge=1,
        le=5000,
        description="Time in milliseconds that the broker may wait for records before it answers a fetch. After a "
        "second without records it is ten times as long. Apache Kafka answers as soon as a record arrives. The "
        "embedded broker always waits for the whole time, which adds to the latency of each event.",
    )
    kafka_topic_partitions: int = Field(
        12, ge=1, le=1000, description="Partitions of each topic that `topics create` creates."
    )
    kafka_topic_replication: int | None = Field(
        None,
        ge=1,
        le=15,
        description="Replicas that each topic should have. Default: as many as there are brokers, at most 3.",
    )

    consumer_group: str = Field(
        "essay-lifecycle-service",
        min_length=1,
        max_length=255,
        description="The Kafka consumer group. With `ELS_CELLS` above 1, `.cell-2-of-4`, for example, is appended.",
    )
    session_timeout_seconds: int = Field(
        6, ge=1, le=300, description="Time without a heartbeat after which a pod's partitions go to other pods."
    )
    rebalance_timeout_seconds: int = Field(
        30, ge=1, le=300, description="Time that a pod has to finish its work before a rebalance."
    )
    max_poll_records: int = Field(
        2000, ge=1, le=10_000, description="Maximum number of records applied in one transaction."
    )
    drain_seconds: int = Field(20, ge=1, le=300, description="Time that a pod has to finish its work at shutdown.")
    watchdog_seconds: int = Field(
        60,
        ge=20,
        le=3600,
        description="A pod creates a new Kafka client after this time without progress despite consumer lag, or "
        "without assigned partitions.",
    )

    pending_ttl_seconds: int = Field(
        _DAY, ge=1, le=10 * _YEAR, description="Time that pending content waits for its registration; then it expires."
    )
    expired_retention_seconds: int = Field(
        30 * _DAY,
        ge=1,
        le=10 * _YEAR,
        description="Time that content is kept after it expired. Must be longer than the retention of the input "
        "topics.",
    )
    batch_timeout_seconds: int = Field(
        _DAY, ge=1, le=10 * _YEAR, description="Time after which a batch that is not complete is reported."
    )
    ready_waits_for_associations: bool = Field(
        True,
        description="BatchEssaysReady of a batch with a class waits until StudentAssociationsConfirmed has arrived. "
        "Turned off, it is sent at once, and the next purge round announces the batches that wait.",
    )
    batch_retention_seconds: int = Field(
        400 * _DAY,
        ge=_DAY,
        le=10 * _YEAR,
        description="Time that batches are kept after they are ready, failed or reported as late. Must be longer than "
        "the retention of the input topics.",
    )
    closed_retention_seconds: int = Field(
        90 * _DAY,
        ge=_DAY,
        le=10 * _YEAR,
        description="Time that removed content and failures, and replayed or discarded quarantine rows, are kept. Must "
        "be longer than the retention of the input topics.",
    )
    actions_retention_seconds: int = Field(
        400 * _DAY,
        ge=30 * _DAY,
        le=10 * _YEAR,
        description="Time that the log of operator actions is kept, if `ELS_CLOSED_RETENTION_SECONDS` is not longer.",
    )
    oldest_backup_seconds: int | None = Field(
        None,
        ge=_DAY,
        le=10 * _YEAR,
        description="Age of the oldest backup of the database that may be restored. `check` compares it with the "
        "retention of the topics, from which `recover` brings a restored database up to date. Default: not compared.",
    )
    purge_interval_seconds: int = Field(60, ge=1, le=_DAY, description="Time between two purge rounds.")

    http_host: str = Field(
        "0.0.0.0",  # noqa: S104  health and metrics are read from outside the pod
        min_length=1,
        description="Address on which the HTTP server (health, metrics, `/admin/`, `/console/`) listens.",
    )
    http_port: int = Field(8080, ge=0, le=65535, description="Port of the HTTP server; 0 means any free port.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level of the messages that are logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="Format of the log. `json`: one object per line; `console`: lines for people."
    )

    @property
    def group(self) -> str:
        """Returns the consumer group of this cell: each has one of its own, since each reads all inputs."""
        return self.consumer_group + self.slice.suffix

    @field_validator("kafka_security_protocol", "kafka_sasl_mechanism", "log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
    @classmethod
    def _is_a_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"there is no file {str(path)!r}")
        return path

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        """Check settings that depend on each other. The error names the one to add or change."""
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


def load_settings(*, needs_database: bool = True) -> Settings:
    """Read the settings from the environment and `.env`. Raises SettingsError if one is missing or malformed.

    A command that does not need the database need not get its password.
    """
    try:
        return Settings() if needs_database else Settings(database_url=SecretStr("postgresql:///"))
    except ValidationError as error:
        raise SettingsError("; ".join(_message(detail) for detail in error.errors())) from None
    except (UnicodeDecodeError, OSError) as error:
        raise SettingsError(f".env: cannot be read: {error}") from None


def misspelt_settings() -> list[str]:
    """Name each variable of the environment that is no setting, but resembles one: it is ignored."""
    known = {_variable(name) for name in Settings.model_fields}
    known |= {str(each) for field in Settings.model_fields.values() for each in _former_names(field)}
    likely = {
        name: get_close_matches(name, known, n=1, cutoff=ALIKE)
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known
    }
    return [f"{name} is no setting, and is ignored: {alike[0]} may be meant" for name, alike in likely.items() if alike]


def settings_table() -> str:
    """Returns all settings as the Markdown table of docs/configuration.md."""
    rows = ["| setting | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{_variable(name)}` | {_default(field)} | {field.description} |")
    return "\n".join(rows) + "\n"


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _former_names(field: FieldInfo) -> list[Any]:
    return field.validation_alias.choices[1:] if isinstance(field.validation_alias, AliasChoices) else []


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default is None:
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _needs(name: str, because: str) -> ValueError:
    return ValueError(f"{_variable(name)}: is needed with {because}")


def _message(detail: ErrorDetails) -> str:
    """Describe one error of a setting. Shows the given value only if it cannot be a secret."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0]).removeprefix(PREFIX).lower()  # an alias is the whole name of the variable
    field = Settings.model_fields[name]
    variable = _variable(name)
    for former in _former_names(field):
        variable += f" (or its former name {former})"  # it does not say which one was read
    if detail["type"] == "missing":
        return f"{variable}: is not set"
    message = message[:1].lower() + message[1:]
    if detail["type"] == "value_error" or "SecretStr" in str(field.annotation):
        return f"{variable}: {message}"
    return f"{variable}: {message}, and not {str(detail['input'])[:100]!r}"

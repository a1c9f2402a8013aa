"""Declares the settings of the database, and of what stands in front of it."""

from typing import Annotated, Any, Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator

from service.input_settings import InputSettings


def _pooler(given: Any) -> Any:
    """Translate a value of the former setting, which was a boolean."""
    text = str(given).lower()
    if text in ("true", "1", "yes", "on"):
        return "transaction"
    return "none" if text in ("false", "0", "no", "off") else text


class DatabaseSettings(InputSettings):
    """Holds the settings of the database; `Settings` adds the others."""

    database_url: SecretStr = Field(
        description="URL of PostgreSQL: `postgresql://user:password@host:port/database?sslmode=…`. Everything that "
        "libpq accepts works (several hosts, a socket in `host`)."
    )
    migration_database_url: SecretStr | None = Field(
        None,
        description="URL of the same database for `migrate`: with a role that may act as the owner, and not through "
        "a transaction pooler. Default: `ELS_DATABASE_URL`.",
    )
    database_pool_size: int = Field(
        6,
        ge=4,
        le=100,
        description="Database sessions in the pool of one process. How many a pod needs in all: "
        "[Database sessions](deployment.md#database-sessions).",
    )
    max_pods: int = Field(
        1,
        ge=1,
        le=1000,
        description="How many pods run at most. Only `check` uses it: it compares the sessions that they need with "
        "those that the server, the role and the database allow.",
    )
    database_pooler: Annotated[Literal["none", "session", "transaction"], BeforeValidator(_pooler)] = Field(
        "none",
        validation_alias=AliasChoices("ELS_DATABASE_POOLER", "ELS_DATABASE_TRANSACTION_POOLER"),
        description="What stands in front of PostgreSQL: `none`, or a pooler (PgBouncer) with this `pool_mode`. With "
        "`transaction` the service uses no prepared statements and no LISTEN, and takes timeouts and planner settings "
        "from the role `els_app`. The former name `ELS_DATABASE_TRANSACTION_POOLER` (`true`: `transaction`) is "
        "accepted until 0.3.0.",
    )

    @property
    def migration_url(self) -> str:
        """Returns the URL that `migrate` connects to, with its password."""
        return (self.migration_database_url or self.database_url).get_secret_value()

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _is_a_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            check_database_url(url.get_secret_value())
        return url


def check_database_url(url: str) -> None:
    """Raise ValueError for a malformed URL. Does not repeat libpq's message, which may quote the password."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("should begin with postgresql://")
    try:
        parts = conninfo_to_dict(url)
    except (ProgrammingError, UnicodeError):
        raise ValueError("is not a URL that PostgreSQL's client library can read") from None
    # The client library ends the password at the first @, and its errors quote what follows as the host's name.
    if any("@" in str(parts.get(name) or "") for name in ("host", "hostaddr", "dbname")):
        raise ValueError("should have one @ only; in a password, write it as %40, and a / as %2F")
    for port in str(parts.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError("its port should be a number from 1 to 65535")

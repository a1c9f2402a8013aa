"""What every session is connected with: timeouts, planner settings and TCP settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

APPLICATION_NAME: Final = "essay-lifecycle-service"

CONNECT_SECONDS = 5

# libpq gives up on a server that has gone without a word after these, in seconds and milliseconds.
_SOCKET: Mapping[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# The statements of the flow probe indexes for a few rows. What the planner makes of an array of unknown length and of
# statistics that lag behind the tables must not turn one into a scan (docs/decisions/0003-plans.md).
PLANNER = (
    "-c enable_hashjoin=off",
    "-c enable_mergejoin=off",
    "-c enable_bitmapscan=off",
    "-c enable_seqscan=off",
    "-c jit=off",
)

# And the server gives up on a pod that has gone without a word: it must not hold its locks until it times out.
_GONE = (
    "-c tcp_keepalives_idle=5",
    "-c tcp_keepalives_interval=2",
    "-c tcp_keepalives_count=3",
    "-c tcp_user_timeout=10000",
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a session may wait, work or idle, in milliseconds. sql/roles.sql says the same for els_app."""

    lock_timeout: int = 2_000
    idle_in_transaction_session_timeout: int = 10_000
    statement_timeout: int = 60_000
    transaction_timeout: int = 120_000
    client_connection_check_interval: int = 5_000

    def options(self) -> str:
        """As libpq's `options`, which the server applies when the session starts."""
        timeouts = [f"-c {timeout.name}={getattr(self, timeout.name)}" for timeout in fields(self)]
        return " ".join([*timeouts, *PLANNER, *_GONE, "-c TimeZone=UTC"])


def conninfo(url: str, application_name: str, timeouts: Timeouts | None) -> str:
    """`url` with our session settings added; what the URL says itself wins."""
    given = {name: value for name, value in conninfo_to_dict(url).items() if value is not None}
    ours: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": CONNECT_SECONDS,
        **_SOCKET,
    }
    merged = {**ours, **given, "client_encoding": "utf8"}
    if timeouts is not None:
        merged["options"] = f"{timeouts.options()} {given.get('options', '')}".strip()
    return make_conninfo("", **merged)

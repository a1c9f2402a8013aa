"""Builds the connection string of a session, with its timeouts, planner settings and TCP settings."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.domain.cells import Slice

APPLICATION_NAME: Final = "essay-lifecycle-service"

Pooler = Literal["none", "session", "transaction"]
"""What stands in front of the server.

A session pooler rejects `options` in the startup message. A transaction pooler hands out another session of the server
for each transaction: no prepared statements, no LISTEN, and no session settings but those of the role.
"""

CONNECT_SECONDS = 5
"""How long a connection attempt may take."""

# After these, in seconds and milliseconds, libpq closes a connection whose server has disappeared.
_CLIENT_TCP: Mapping[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# The statements of intake, relay and purge probe indexes for a few rows. The planner guesses the length of an array,
# and its statistics lag behind the tables; it must not choose a scan because of that (docs/decisions/0003-plans.md).
PLANNER: Mapping[str, str] = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "jit": "off",
}

# After these the server ends the session of a pod that has disappeared, so that its locks are free before the timeouts.
_SERVER_TCP: Mapping[str, str] = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


BEGIN: Final = "begin isolation level read committed"
"""A statement must see what was committed while the one before it waited for a lock: under `repeatable read`, which a
role, database or server may have as its default, content would wait for ever for a registration that is there."""

_AT_LEAST_ON = """
select set_config(
    'synchronous_commit',
    case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' else 'on' end,
    {is_local}
)
"""

DURABLE: Final = _AT_LEAST_ON.format(is_local="false")
"""Makes commits of a session at least as durable as `on`, whatever is the default. Only `remote_apply` is more."""

START: Final = f"{DURABLE}, pg_backend_pid()"
"""The first statement of a session: makes it durable, and returns the server's process id as the second column. Behind
a pooler, the id that the client was given is not the server's."""

BEGIN_DURABLE: Final = f"{BEGIN}; {_AT_LEAST_ON.format(is_local='true')}"
"""The same for one transaction, in one message: a transaction pooler hands out sessions with unknown settings."""


_SLICE_SETTING: Final = "els.slice"
"""The setting with which a session states the slice of its process (`4/2`: cell 2 of 4). The database refuses to be
changed by one of another slice than its own; a session without the setting means all batches. So it is never left to
`options`, which a pooler may drop: a cell would be let into a database of all batches, and skip what is not its own. A
process of all batches states it, too: a pooler may hand out a session as a process of a cell has left it."""


def _slice_settings(of: Slice) -> Mapping[str, str]:
    return {_SLICE_SETTING: f"{of.cells}/{of.cell}"}


def begin_durable(of: Slice) -> str:
    """Return `BEGIN_DURABLE` for a process of this slice."""
    return _setting(BEGIN_DURABLE, _slice_settings(of), is_local=True)


def start_of(of: Slice, settings: Mapping[str, str]) -> str:
    """Return `START` for a session of a process of this slice; `settings` are those that `options` could not set."""
    return _setting(START, {**settings, **_slice_settings(of)}, is_local=False)


def _setting(statement: str, settings: Mapping[str, str], *, is_local: bool) -> str:
    """Add settings to a `select`, for the transaction or the session."""
    parts = (f"set_config('{name}', '{value}', {str(is_local).lower()})" for name, value in settings.items())
    return ", ".join([statement, *parts])


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a session may wait, work or be idle, in milliseconds. sql/roles.sql sets the same for els_app."""

    lock_timeout: int = 2_000
    idle_in_transaction_session_timeout: int = 10_000
    statement_timeout: int = 60_000
    transaction_timeout: int = 120_000
    client_connection_check_interval: int = 5_000

    @property
    def settings(self) -> Mapping[str, str]:
        """Returns all settings of a session, by name."""
        timeouts = {name: str(value) for name, value in asdict(self).items()}
        return {**timeouts, **PLANNER, **_SERVER_TCP, "TimeZone": "UTC"}

    def options(self) -> str:
        """Return libpq's `options`, which the server applies when the session starts."""
        return options_of(self.settings)


def options_of(settings: Mapping[str, str]) -> str:
    """Return libpq's `options` for settings of a session."""
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def conninfo(url: str, application_name: str, timeouts: Timeouts | None) -> str:
    """Return `url` with our session settings added. Settings of the URL take precedence."""
    given = {name: value for name, value in conninfo_to_dict(url).items() if value is not None}
    ours: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": CONNECT_SECONDS,
        "target_session_attrs": "read-write",  # of several hosts the primary; a standby is no use
        **_CLIENT_TCP,
    }
    merged = {**ours, **given, "client_encoding": "utf8"}
    if timeouts is not None:
        merged["options"] = f"{timeouts.options()} {given.get('options', '')}".strip()
    return make_conninfo("", **merged)

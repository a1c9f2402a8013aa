"""What every alembic command runs in: one migration at a time, as the owner, views and grants at the end."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

from service import migration, tables
from service.settings import load_settings


def ours(name: str | None, kind: str, _parents: Any) -> bool:
    """What autogenerate compares: the schema els, without alembic's own table."""
    if kind == "schema":
        return name == tables.SCHEMA
    return not (kind == "table" and name == "alembic_version")


def goes_to_head() -> bool:
    """Whether this is an upgrade to the newest revision, and not `current`, `check` or a downgrade."""
    try:
        return bool(context.get_revision_argument() == context.get_head_revision())
    except KeyError:
        return False


def migrate(connection: Connection) -> None:
    upgrading = goes_to_head()
    with migration.alone(connection):
        context.config.attributes["notes"] = migration.lay_roles(connection) if upgrading else []
        with migration.as_owner(connection):
            context.configure(
                connection=connection,
                target_metadata=tables.METADATA,
                version_table_schema=tables.SCHEMA,
                include_schemas=True,
                include_name=ours,
                transaction_per_migration=True,
            )
            with context.begin_transaction():
                context.run_migrations()
            if upgrading:
                migration.lay_views(connection)


def main() -> None:
    if context.is_offline_mode():
        raise SystemExit("There is no --sql here: roles, views and grants are laid on what the server has.")
    given = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    with migration.connect(load_settings().migration_url) as connection:
        migrate(connection)
    for note in context.config.attributes["notes"]:
        context.config.print_stdout("%s", note)


main()

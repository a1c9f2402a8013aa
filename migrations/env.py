"""Runs every Alembic command: one migration at a time, as the owner, with views and grants at the end."""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection, text

from service.postgres import migration, tables
from service.settings import load_settings


def is_compared(name: str | None, kind: str, _parents: Any) -> bool:
    """Tell whether autogenerate compares an object: those of schema els, without Alembic's own table."""
    if kind == "schema":
        return name == tables.SCHEMA
    return not (kind == "table" and name == "alembic_version")


def upgrades_to_head() -> bool:
    """Tell whether this is an upgrade to the newest revision, and not `current`, `check` or a downgrade."""
    try:
        return bool(context.get_revision_argument() == context.get_head_revision())
    except KeyError:
        return False


def record_oldest_code(
    ctx: MigrationContext,
    step: MigrationInfo,
    heads: Collection[Any],  # noqa: ARG001  Alembic passes these by name
    run_args: Mapping[str, Any],  # noqa: ARG001
) -> None:
    """Record the oldest code that runs on the new revision, in the transaction of the revision."""
    script = context.script.get_revision(step.destination_revision_ids[0]) if step.destination_revision_ids else None
    if script is not None and not ctx.as_sql and ctx.connection is not None:
        parameters = {"oldest_code": script.module.oldest_code}
        ctx.connection.execute(text("update els.alembic_version set oldest_code = :oldest_code"), parameters)


def migrate(connection: Connection) -> None:
    """Run the revisions; after an upgrade to head, replace views and grants, too."""
    upgrading = upgrades_to_head()
    with migration.migration_lock(connection):
        context.config.attributes["notes"] = migration.apply_roles(connection) if upgrading else []
        with migration.as_owner(connection):
            context.configure(
                connection=connection,
                target_metadata=tables.METADATA,
                version_table_schema=tables.SCHEMA,
                include_schemas=True,
                include_name=is_compared,
                transaction_per_migration=True,
                on_version_apply=record_oldest_code,
            )
            with context.begin_transaction():
                context.run_migrations()
            if upgrading:
                migration.replace_views(connection)


def main() -> None:
    """Run the command on a given connection, on one of its own, or offline.

    Offline prints the SQL of the revisions, without roles, views and grants.
    """
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", version_table_schema=tables.SCHEMA, transaction_per_migration=True)
        context.run_migrations()
        return
    given = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    with migration.connect(load_settings().migration_url) as connection:
        migrate(connection)
    for note in context.config.attributes["notes"]:
        context.config.print_stdout("%s", note)


main()

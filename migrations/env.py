"""What every alembic command runs in: one migration at a time, as the owner, views and grants at the end."""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection, text

from service.postgres import migration, tables
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


def declare(
    ctx: MigrationContext,
    step: MigrationInfo,
    heads: Collection[Any],  # noqa: ARG001  alembic names what it passes
    run_args: Mapping[str, Any],  # noqa: ARG001
) -> None:
    """Beside the new revision, in its transaction: the oldest code that runs on it."""
    script = context.script.get_revision(step.destination_revision_ids[0]) if step.destination_revision_ids else None
    if script is not None and not ctx.as_sql and ctx.connection is not None:
        given = {"oldest_code": script.module.oldest_code}
        ctx.connection.execute(text("update els.alembic_version set oldest_code = :oldest_code"), given)


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
                on_version_apply=declare,
            )
            with context.begin_transaction():
                context.run_migrations()
            if upgrading:
                migration.lay_views(connection)


def main() -> None:
    if context.is_offline_mode():  # to be read and linted: roles, views and grants are laid only on what is there
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

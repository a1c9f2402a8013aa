"""Declares the columns and constraints that several tables have."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    Uuid,
    text,
)

SCHEMA = "els"
METADATA = MetaData(schema=SCHEMA)

TIME = DateTime(timezone=True)

BRIN: Mapping[str, Any] = {
    "postgresql_using": "brin",
    "postgresql_with": {"pages_per_range": 16, "autosummarize": "on"},
}
"""An index of times that costs next to nothing where rows are written in the order of these times."""


def not_null(name: str, kind: Any, **options: Any) -> Column[Any]:
    """Declare a column that is not null."""
    return Column(name, kind, nullable=False, **options)


def length_check(table: str, column: str) -> CheckConstraint:
    """Declare the constraint of an identity: a text of 1 to 255 characters."""
    return CheckConstraint(f"char_length({column}) between 1 and 255", name=f"{table}_{column}_check")


def file_columns(nullable: Collection[str] = ()) -> list[Column[Any]]:
    """Declare the columns of an uploaded file, as the File Service describes it."""
    return [
        Column("file_upload_id", Text, nullable="file_upload_id" in nullable),
        Column("original_file_name", Text, nullable="original_file_name" in nullable),
        Column("raw_file_storage_id", Text, nullable="raw_file_storage_id" in nullable),
        Column("file_size_bytes", BigInteger, nullable="file_size_bytes" in nullable),
        Column("content_md5_hash", Text),
    ]


def trace_columns(*, nullable: bool = False) -> list[Column[Any]]:
    """Declare the columns of a correlation id and a trace."""
    return [Column("correlation_id", Uuid, nullable=nullable), Column("traceparent", Text), Column("tracestate", Text)]


def origin_columns(table: str, *known: str) -> list[Column[Any] | CheckConstraint]:
    """Declare the column that says that only an output topic reports the row: then `known` may be null."""
    complete = f"origin is not null or num_nulls({', '.join(known)}) = 0"
    return [
        Column("origin", Text),
        CheckConstraint("origin = 'output'", name=f"{table}_origin_check"),
        *([CheckConstraint(complete, name=f"{table}_complete_check")] if known else []),
    ]


def only_row(table: str) -> list[Column[Any] | PrimaryKeyConstraint | CheckConstraint]:
    """Declare the key of a table that has one row at most."""
    return [
        not_null("only_row", Boolean, server_default=text("true")),
        PrimaryKeyConstraint("only_row", name=f"{table}_pkey"),
        CheckConstraint("only_row", name=f"{table}_only_row_check"),
    ]

"""Declares the current schema, as SQLAlchemy metadata.

The migrations create the schema; a test compares it with this declaration, through the catalog. The reasons of
constraints and storage settings are in migrations/versions.
"""

from service.postgres.tables import batches, inputs, operations, outbox  # noqa: F401 - they add their tables
from service.postgres.tables.shared import METADATA, SCHEMA

__all__ = ["METADATA", "SCHEMA"]

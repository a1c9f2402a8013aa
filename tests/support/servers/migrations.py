"""Brings the schema of a database back to an earlier revision."""

from alembic import command
from alembic.config import Config

from deploy.servers.pods import ROOT
from service.postgres import migration


def moved(url: str, revision: str) -> None:
    """Bring the database back to a revision."""
    config = Config(ROOT / "alembic.ini")
    with migration.connect(url) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

"""Checks the SQL of each revision with squawk, one by one: a table is new only in the revision that creates it."""

import subprocess
import sys
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from service.postgres import migration

HERE = Path(__file__).parent
SQUAWK = Path(sys.executable).with_name("squawk")


def main() -> int:
    """Check all revisions. Returns the exit status: 0 where squawk finds nothing."""
    status = 0
    for revision in ScriptDirectory.from_config(Config(HERE.parent / "alembic.ini")).walk_revisions():
        span = f"{revision.down_revision or 'base'}:{revision.revision}"
        result = subprocess.run(
            [SQUAWK, "--config", HERE / "squawk.toml", "--stdin-filepath", f"revision {revision.revision}"],
            input=migration.render(span),
            text=True,
            capture_output=True,
            check=False,
        )
        if result.returncode:
            sys.stderr.write(result.stdout + result.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

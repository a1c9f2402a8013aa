"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from alembic import op
% if imports:
${imports}
% endif

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}
# The oldest code that runs on this schema, by the revision that it expects: that of the release before, or an older one,
# so that its pods keep running during the migration and can be started again after it.
oldest_code = ${repr(down_revision)}

# A transaction of its own is opened for each revision. An index on a table that is there already goes through
# `service.postgres.migration.create_index`, which does not block writers. docs/decisions/0005-migrations.md.


def upgrade() -> None:
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    ${downgrades if downgrades else "raise NotImplementedError"}

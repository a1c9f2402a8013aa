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
# The oldest code that runs on the schema from here on, by the revision that it expects: at least that of the release
# before, so that its pods go on while this is made, and can be started again after it.
oldest_code = ${repr(down_revision)}

# A transaction of its own is opened for each revision. An index on a table that is there already goes through
# `service.migration.create_index`, which does not hold up those who write. docs/decisions/0005-migrations.md.


def upgrade() -> None:
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    ${downgrades if downgrades else "raise NotImplementedError"}

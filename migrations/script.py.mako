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
# The oldest code that runs on this schema, by the revision that it expects. The previous release must be included: its
# pods run during the migration, and can be started again after it. If this revision only adds tables, indexes or
# nullable columns, repeat the `oldest_code` of the previous revision.
oldest_code = ${repr(down_revision)}

# Each revision runs in a transaction of its own. An index on an existing table is made by
# `service.postgres.migration.create_index`, which does not block writes. See docs/decisions/0005-migrations.md.


def upgrade() -> None:
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    ${downgrades if downgrades else "raise NotImplementedError"}

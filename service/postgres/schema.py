"""Which schema this code needs, and whether a database has it."""

from typing import Final

EXPECTED_REVISION: Final = "0003"
"""The schema that this code is written for: the last file of migrations/versions. Revisions are numbers of four
digits, so that they compare as texts."""

# As JSON, since the column may not be there yet: then the revision serves its own code only.
REVISION = "select version_num, to_jsonb(told) ->> 'oldest_code' from els.alembic_version as told"

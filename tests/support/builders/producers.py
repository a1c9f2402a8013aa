"""What the producers of tests have in common."""

from typing import Any


def noting_ids(records: Any) -> Any:
    """A record batch that is being built, with the event ids of what it has taken in `ids`."""
    append, records.ids = records.append, []

    def noting(**record: Any) -> Any:
        taken = append(**record)
        if taken is not None:
            records.ids.append(dict(record["headers"])["event_id"])
        return taken

    records.append = noting
    return records

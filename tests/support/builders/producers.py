"""Helps producers of tests to count acknowledged events."""

from typing import Any


def noting_ids(records: Any) -> Any:
    """Makes a record batch builder note the event ids of its records in `ids`."""
    append, records.ids = records.append, []

    def noting(**record: Any) -> Any:
        taken = append(**record)
        if taken is not None:
            records.ids.append(dict(record["headers"])["event_id"])
        return taken

    records.append = noting
    return records

"""Builds the array parameters that several statements share."""

from collections.abc import Sequence
from typing import Any

from service.postgres.arrays import Integers, Texts, Uuids


def content_columns(uploads: Sequence[Any]) -> dict[str, object]:
    """Build the columns of uploaded files, with their origin. An upload of None gives nulls."""
    return {
        "text_storage_ids": Texts([getattr(each, "text_storage_id", None) for each in uploads]),
        "file_upload_ids": Texts([getattr(each, "file_upload_id", None) for each in uploads]),
        "original_file_names": Texts([getattr(each, "original_file_name", None) for each in uploads]),
        "raw_file_storage_ids": Texts([getattr(each, "raw_file_storage_id", None) for each in uploads]),
        "file_sizes_bytes": Integers([getattr(each, "file_size_bytes", None) for each in uploads]),
        "content_md5_hashes": Texts([getattr(each, "content_md5_hash", None) for each in uploads]),
        **origin_columns(uploads),
    }


def origin_columns(events: Sequence[Any]) -> dict[str, object]:
    """Build the columns that say where each event came from: correlation id and trace."""
    return {
        "correlation_ids": Uuids([getattr(event, "correlation_id", None) for event in events]),
        "traceparents": Texts([getattr(event, "traceparent", None) for event in events]),
        "tracestates": Texts([getattr(event, "tracestate", None) for event in events]),
    }

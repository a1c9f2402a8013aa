"""Defines the settings that bound what is unpacked, decoded and kept. They are part of `Settings`."""

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings

from service.domain.input_limits import DEFAULT_LIMITS, MEBIBYTE


class InputSettings(BaseSettings):
    """Holds the bounds of what is unpacked, decoded and kept; `InputLimits` states the reasons."""

    max_message_bytes: int = Field(
        MEBIBYTE,
        ge=1024,
        le=32 * MEBIBYTE,
        description="Largest accepted message; larger ones go to quarantine without being decoded.",
    )
    max_registration_bytes: int = Field(
        16 * MEBIBYTE,
        ge=1024,
        le=32 * MEBIBYTE,
        description="Largest accepted registration or confirmation; larger ones go to quarantine too.",
    )
    max_json_values: int = Field(
        DEFAULT_LIMITS.json_values,
        ge=100_000,
        le=10_000_000,
        description="Most JSON values in a message: each takes 60 to 110 bytes. A record beyond this bound, or "
        "beyond one of the next three, goes to quarantine.",
    )
    max_key_bytes: int = Field(
        DEFAULT_LIMITS.key_bytes,
        ge=1024,
        le=MEBIBYTE,
        description="Largest key of a record.",
    )
    max_headers: int = Field(
        DEFAULT_LIMITS.headers,
        ge=16,
        le=100_000,
        description="Most headers of a record.",
    )
    max_header_bytes: int = Field(
        DEFAULT_LIMITS.header_bytes,
        ge=1024,
        le=MEBIBYTE,
        description="Largest size of all headers of a record together.",
    )
    max_fetched_bytes: int = Field(
        DEFAULT_LIMITS.fetched_bytes,
        ge=MEBIBYTE,
        le=256 * MEBIBYTE,
        description="Bytes of record batches that are fetched ahead, as the broker sends them.",
    )
    max_inflated_bytes: int = Field(
        DEFAULT_LIMITS.inflated_bytes,
        ge=4 * MEBIBYTE,
        le=1024 * MEBIBYTE,
        description="Largest record batch uncompressed; larger ones go to quarantine as they are.",
    )
    max_poll_bytes: int = Field(
        DEFAULT_LIMITS.poll_bytes,
        ge=MEBIBYTE,
        le=256 * MEBIBYTE,
        description="Memory for the records of one transaction. Three times as much may be in use.",
    )
    consecutive_rejections_limit: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        validation_alias=AliasChoices("ELS_CONSECUTIVE_REJECTIONS_LIMIT", "ELS_REFUSALS_IN_A_ROW_LIMIT"),
        description="Number of consecutive rejections after which an input topic is paused. The former name "
        "`ELS_REFUSALS_IN_A_ROW_LIMIT` is accepted until 0.3.0.",
    )
    quarantine_max_bytes: int = Field(
        1024 * MEBIBYTE,
        ge=MEBIBYTE,
        description="Bytes of new rejected inputs within a day that pause a topic, until there are fewer.",
    )

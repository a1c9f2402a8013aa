"""Which parts of this process are well, for the health endpoints."""

from collections.abc import Mapping


class Health:
    """The parts by name, each well or with what troubles it. A part that was never heard of is not ready."""

    def __init__(self, *parts: str) -> None:
        self._troubles: dict[str, str | None] = dict.fromkeys(parts, "starting")

    def well(self, part: str) -> None:
        self._troubles[part] = None

    def trouble(self, part: str, why: str) -> None:
        """`why` is one line, with no secret in it."""
        self._troubles[part] = why

    @property
    def parts(self) -> Mapping[str, str | None]:
        """Every part, with None where it is well."""
        return self._troubles

    @property
    def ready(self) -> bool:
        return not any(self._troubles.values())

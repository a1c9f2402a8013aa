"""Which parts of this process are healthy, for the health endpoints."""

from collections.abc import Mapping


class Health:
    """The parts by name, each healthy or with its error. A part that has not reported yet is not ready."""

    def __init__(self, *parts: str) -> None:
        self._errors: dict[str, str | None] = dict.fromkeys(parts, "starting")

    def set_healthy(self, part: str) -> None:
        self._errors[part] = None

    def set_error(self, part: str, why: str) -> None:
        """`why` is one line, with no secret in it."""
        self._errors[part] = why

    @property
    def parts(self) -> Mapping[str, str | None]:
        """The error of each part; None where it is healthy."""
        return self._errors

    @property
    def ready(self) -> bool:
        return not any(self._errors.values())

"""Records which parts of this process are healthy, for the health endpoints."""

from collections.abc import Mapping


class Health:
    """Holds the error of each part, by name. A part that has not reported yet counts as not ready."""

    def __init__(self, *parts: str) -> None:
        self._errors: dict[str, str | None] = dict.fromkeys(parts, "starting")

    def set_healthy(self, part: str) -> None:
        self._errors[part] = None

    def set_error(self, part: str, why: str) -> None:
        """Record why a part is not healthy. `why` is one line and contains no secret."""
        self._errors[part] = why

    def report(self, part: str, error: str | None) -> None:
        """Record the error of a part, as `set_error` does; None: it is healthy."""
        self._errors[part] = error

    @property
    def parts(self) -> Mapping[str, str | None]:
        """Returns the error of each part; None if it is healthy."""
        return self._errors

    @property
    def ready(self) -> bool:
        """Returns whether all parts are healthy."""
        return not any(self._errors.values())

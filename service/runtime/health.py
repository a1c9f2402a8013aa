"""Which parts of this process are well, for the health endpoints."""

from collections.abc import Mapping


def one_line(error: BaseException, most: int = 500) -> str:
    """An error in one line of at most so many characters, for people: its kind, and how its message begins."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:most] if lines else type(error).__name__


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

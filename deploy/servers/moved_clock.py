"""Moves the clock of single processes, with libfaketime (Debian's package); not the one that measures durations."""

from pathlib import Path
from typing import Any, Final

from deploy.local.postgres import Postgres

LIBRARY: Final = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def missing() -> str | None:
    """Returns a text that says what this machine lacks, or None."""
    return None if LIBRARY else "libfaketime (Debian's package faketime) is not there"


class Clock:
    """The clock of the processes that have its environment."""

    def __init__(self, file: Path) -> None:
        """The processes must be able to read the folder of `file`."""
        self._file = file
        self.move(0)

    @property
    def environment(self) -> dict[str, str]:
        """Returns what to add to the environment of a process."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def move(self, seconds: int) -> None:
        """Moves the clock to so many seconds ahead of that of the machine, within a second."""
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(f"{seconds:+d}\n")
        new.chmod(0o644)
        new.rename(self._file)


class MovedPostgres(Postgres):
    """A server whose clock can be moved."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.clock = Clock(self.place / "clock")

    def environment(self) -> dict[str, str]:
        return super().environment() | self.clock.environment

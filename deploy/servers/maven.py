"""Fetches programs from the Java registry with Maven, once, into a cache of the user."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.processes import StackError
from deploy.servers.locks import one_at_a_time

POM = """\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId>
  <artifactId>programs-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""

DEPENDENCY = """\
    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>{}</dependency>"""


@dataclass(frozen=True, slots=True)
class Jars:
    """Packages, each as group, artifact and version, with all that they need; `name` is their cache's.

    The classifier, where there is one, names the variant of all of them, such as "linux-x86_64".
    """

    name: str
    packages: Sequence[tuple[str, str, str]]
    classifier: str | None = None

    def missing(self) -> str | None:
        """Returns a text that says what this machine lacks to fetch them, or None."""
        if self._complete() or shutil.which("mvn"):
            return None
        return f"Maven (mvn), which fetches {self.name}, is missing"

    def folder(self) -> Path:
        """Returns the folder of the jars; fetches them if necessary. Raises StackError if that fails."""
        with one_at_a_time(self.name):
            if not self._complete():
                self._fetch()
        return self._cache / "libs"

    @property
    def _cache(self) -> Path:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "els-tests" / self.name

    def _complete(self) -> bool:
        """Returns whether a fetch was completed and all its jars still exist."""
        try:
            names: list[str] = json.loads((self._cache / "fetched.json").read_text())
        except (OSError, ValueError):
            return False
        return all((self._cache / "libs" / name).exists() for name in names)

    def _fetch(self) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        pom, libs = self._cache / "pom.xml", self._cache / "libs"
        variant = f"<classifier>{self.classifier}</classifier>" if self.classifier else ""
        dependencies = "\n".join(DEPENDENCY.format(*each, variant) for each in self.packages)
        pom.write_text(POM.format(dependencies=dependencies))
        fetched = subprocess.run(
            [
                "mvn", "--batch-mode", "--quiet", "--file", str(pom),
                "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={libs}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if fetched.returncode:
            raise StackError(f"Maven could not fetch {self.name}:\n{fetched.stdout}{fetched.stderr}")
        names = sorted(path.name for path in libs.glob("*.jar"))
        (self._cache / "fetched.json").write_text(json.dumps(names))

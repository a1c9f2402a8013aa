"""Lists the container images that the deployment files name, and pins them by their digests.

    python -m deploy.images            # each image, and the file that names it
    python -m deploy.images --pin      # asks the registries through Docker, and writes the digests into the files

A tag can be moved to other bytes, a digest cannot. A pinned image is asked for again by its tag, so that running the
command again updates it. Exit status 1: an image was not found; no file is changed then.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FILES = ("deploy/Dockerfile", "deploy/compose.yaml")
"""The only files that name images of others. Those of Kubernetes name the service's own, which `kustomize` sets."""
OURS = "essay-lifecycle-service"
IMAGE = re.compile(
    r"(?P<before>^\s*image: |^ARG \w+_IMAGE=)(?P<name>[\w./-]+)(:(?P<tag>[\w.-]+))?(@(?P<digest>\S+))?$", re.MULTILINE
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class NamedImage(NamedTuple):
    """An image that a file names."""

    file: str
    name: str
    tag: str | None
    digest: str | None

    @property
    def tagged(self) -> str:
        """The image by its tag."""
        return f"{self.name}:{self.tag}"


def images(root: Path = ROOT) -> Iterator[NamedImage]:
    """Yields the images of others, in the order of the files."""
    for file in FILES:
        for found in IMAGE.finditer((root / file).read_text()):
            if found["name"] != OURS:
                yield NamedImage(file, found["name"], found["tag"], found["digest"])


def pin(root: Path = ROOT) -> None:
    """Writes the digest of each image behind its tag. Raises LookupError where one is not found."""
    digests = {image.tagged: _digest_of(image.tagged) for image in images(root)}

    def pinned(found: re.Match[str]) -> str:
        image = f"{found['name']}:{found['tag']}"
        return f"{found['before']}{image}@{digests[image]}" if image in digests else found[0]

    for file in FILES:
        text = (root / file).read_text()
        (root / file).write_text(IMAGE.sub(pinned, text))


def _digest_of(image: str) -> str:
    """Asks the registry for the digest of the image for all platforms. Raises LookupError."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LookupError(f"{image}: {error}") from None
    digest = answer.stdout.strip()
    if answer.returncode or not _DIGEST.fullmatch(digest):
        raise LookupError(f"{image}: {answer.stderr.strip() or f'{digest!r} is no digest'}")
    return digest


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Runs the command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--pin", action="store_true", help="write the digests into the files")
    if parser.parse_args(arguments).pin:
        try:
            pin(root)
        except LookupError as error:
            print(error, file=sys.stderr)
            return 1
    for image in images(root):
        print(f"{image.file}\t{image.tagged}\t{image.digest or 'not pinned'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks that every container image is named by a whole version, and that one command replaces the tags by digests."""

import re
import shutil
from pathlib import Path

import pytest

from deploy import images

ROOT = Path(__file__).parents[3]
WHOLE = re.compile(r"v?\d+\.\d+(\.\d+)?(-[a-z]+)*")
"""At least the version of the last digit: PostgreSQL's have two numbers."""
NAMES = re.compile(r"^\s*(?:-\s+)?(?:image:|FROM|ARG \w*IMAGE\w*=)", re.MULTILINE)
DIGEST = "sha256:" + "ab" * 32
DOCKER = f"""#!/bin/sh
case "$4" in "$MISSING") echo "$4: not found" >&2; exit 1 ;; esac
test "$1 $2 $3 $5" = "buildx imagetools inspect --format" && echo {DIGEST}
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, and a `docker` that knows every image but $MISSING."""
    for file in images.FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("MISSING", "none")
    return tmp_path


def test_every_image_has_a_whole_version() -> None:
    found = list(images.images())
    assert len(found) >= 5
    for image in found:
        tag = re.sub(r"^(3\.\d+\.\d+)-slim-[a-z]+$", r"\1", image.tag or "latest")
        parts = 2 if image.name == "postgres" else 3
        assert WHOLE.fullmatch(tag), image
        assert len(tag.split(".")) >= parts, image


def test_no_other_file_names_an_image_of_others() -> None:
    others = [
        path
        for pattern in ("deploy/**/*.yaml", "deploy/**/Dockerfile*", ".github/**/*.yaml")
        for path in ROOT.glob(pattern)
        if str(path.relative_to(ROOT)) not in images.FILES
    ]
    assert len(others) > 10
    for path in others:
        named = [line.strip() for line in path.read_text().splitlines() if NAMES.match(line)]
        assert [line for line in named if images.OURS not in line] == [], path


def test_images_are_pinned_in_all_files_and_pinned_again(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [image.tagged for image in images.images(checkout)]
    for _ in range(2):
        assert images.main(["--pin"], checkout) == 0
        assert [(image.tagged, image.digest) for image in images.images(checkout)] == [(tag, DIGEST) for tag in before]
    assert "not pinned" not in capsys.readouterr().out
    for file in images.FILES:
        assert (checkout / file).read_text().replace(f"@{DIGEST}", "") == re.sub(
            r"@sha256:\w+", "", (ROOT / file).read_text()
        )
    assert f"ARG PYTHON_IMAGE={before[0]}@{DIGEST}\n" in (checkout / "deploy" / "Dockerfile").read_text()


@pytest.mark.parametrize("missing", [image.tagged for image in images.images()])
def test_where_an_image_is_not_found_no_file_is_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setenv("MISSING", missing)
    assert images.main(["--pin"], checkout) == 1
    assert capsys.readouterr().err == f"{missing}: {missing}: not found\n"
    for file in images.FILES:
        assert (checkout / file).read_bytes() == (ROOT / file).read_bytes()


def test_without_docker_nothing_is_pinned(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "bin" / "docker").unlink()
    (checkout / "bin" / "docker").mkdir()
    assert images.main(["--pin"], checkout) == 1
    assert "docker" in capsys.readouterr().err

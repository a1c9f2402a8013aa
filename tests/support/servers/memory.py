"""Makes control groups, so that a process of a test can take no more than so much memory."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(limit: int) -> Iterator[Path | None]:
    """Yields the folder of a control group with this limit in bytes, None where this user may not make one."""
    group = (ROOT / "memory" if (ROOT / "memory").is_dir() else ROOT) / f"els-test-{uuid4().hex[:8]}"
    try:
        group.mkdir()
        _limit(group, limit)
    except OSError:
        with suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        with suppress(OSError):
            group.rmdir()


def _limit(group: Path, limit: int) -> None:
    if (group / "memory.limit_in_bytes").exists():
        (group / "memory.limit_in_bytes").write_text(str(limit))
        return
    (group / "memory.max").write_text(str(limit))
    with suppress(OSError):
        (group / "memory.swap.max").write_text("0")


def peak(group: Path) -> int:
    """Returns the most bytes that the processes of the group have taken."""
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / name).exists():
            return int((group / name).read_text())
    return 0


def killed(group: Path) -> int:
    """Returns how many processes of the group were killed because of its limit."""
    for name in ("memory.oom_control", "memory.events"):
        if (group / name).exists():
            fields = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(fields.get("oom_kill", 0))
    return 0

"""Draws the series of a result as an SVG beside its JSON."""

from pathlib import Path

import matplotlib as mpl
import orjson
from matplotlib import pyplot as plt


def draw(result: Path) -> Path | None:
    """Draws `whole.json` as `whole.svg`, with one panel for each pair of axes. Returns None without series."""
    found = orjson.loads(result.read_bytes())
    panels: dict[tuple[str, str], list[tuple[str, list[tuple[float, float]]]]] = {}
    for name, points in found["series"].items():
        what, _, over = name.partition(" over ")
        unit = what.split()[-1]
        panels.setdefault((unit, over), []).append((what, points))
    if not panels:
        return None
    mpl.rcParams["svg.hashsalt"] = "the same picture for the same figures"
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 3.6), squeeze=False)
    for axis, ((unit, over), lines) in zip(axes[0], panels.items(), strict=True):
        for what, points in lines:
            axis.plot(*zip(*points, strict=True), label=what, marker="." if len(points) < 30 else "")
        axis.set(xlabel=over, ylabel=unit, ylim=(0, None))
        axis.legend(frameon=False)
    figure.suptitle(f"{found['question']}, {found['at'][:10]}")
    figure.tight_layout()
    path = result.with_suffix(".svg")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path

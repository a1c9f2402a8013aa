"""A picture of the dashboard without Grafana: the same panels, queries and places, drawn from Prometheus' own answers.

    python -m deploy.grafana.picture http://127.0.0.1:9090 START END > docs/pictures/dashboard.svg

START and END are seconds since 1970. What Grafana draws looks different; what it shows is the same.
"""

import json
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from html import escape
from typing import Final

from deploy.grafana.dashboard import ROWS, WIDTH, Panel

RATE_INTERVAL: Final = "30s"
"""What stands for Grafana's $__rate_interval."""

COLUMN, ROW, GAP = 62, 30, 8
"""Pixels of the grid."""

COLORS: Final = ("#3274d9", "#e0752d", "#299c46", "#a352cc", "#c4162a", "#8a8a8a", "#d6b000", "#1f9e9e")
FONT: Final = "font-family='sans-serif'"

Line = tuple[str, list[tuple[float, float]]]
"""A legend and its points: seconds, value."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server, and the time that is looked at."""

    url: str
    start: float
    end: float

    def lines(self, panel: Panel) -> list[Line]:
        """What the queries of a panel answer. Raises OSError where the server does not."""
        found: list[Line] = []
        for query in panel.queries:
            parameters = {
                "query": query.expr.replace("$__rate_interval", RATE_INTERVAL),
                "start": self.start,
                "end": self.end,
                "step": (self.end - self.start) / 150,
            }
            address = f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
            with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  whoever draws names the server
                series = json.load(answer)["data"]["result"]
            for each in series:
                points = [(float(at), float(value)) for at, value in each["values"] if value != "NaN"]
                found.append((_legend(query.legend, each["metric"]), points))
        return [(legend, points) for legend, points in found if points]


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value.removeprefix("huleedu."))
    return template


def told(value: float, unit: str) -> str:
    """A value in its unit, short."""
    if unit == "s":
        for size, name in ((3600, "h"), (60, "min"), (1, "s")):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1000:.3g} ms"
    short = f"{value / 1000:.3g}k" if value >= 10_000 else f"{value:.3g}"
    return f"{short}/s" if unit == "ops" else short


def picture(prometheus: Prometheus) -> str:
    """The whole as SVG."""
    parts: list[str] = []
    top = 0.0
    for title, height, panels in ROWS:
        if title:
            parts.append(
                f"<text x='{GAP}' y='{top + 22}' {FONT} font-size='15' font-weight='bold'>{escape(title)}</text>"
            )
            top += ROW
        width = WIDTH // len(panels) * COLUMN
        for place, panel in enumerate(panels):
            draw = _stat if panel.kind == "stat" else _graph
            body = draw(panel, prometheus, width - GAP, height * ROW - GAP)
            parts.append(f"<g transform='translate({place * width + GAP / 2} {top + GAP / 2})'>{body}</g>")
        top += height * ROW
    size = f"viewBox='0 0 {WIDTH * COLUMN} {top:g}' width='{WIDTH * COLUMN}' height='{top:g}'"
    ground = "<rect width='100%' height='100%' fill='#f4f5f5'/>"
    return "\n".join([f"<svg xmlns='http://www.w3.org/2000/svg' {size}>", ground, *parts, "</svg>", ""])


def _frame(panel: Panel, width: float, height: float, fill: str = "white") -> str:
    return (
        f"<rect width='{width:g}' height='{height:g}' rx='3' fill='{fill}' stroke='#d8d9da'/>"
        f"<text x='8' y='18' {FONT} font-size='12' font-weight='bold'>{escape(panel.title)}</text>"
    )


def _stat(panel: Panel, prometheus: Prometheus, width: float, height: float) -> str:
    lines = prometheus.lines(panel)
    last = lines[0][1][-1][1] if lines else None
    bad = last is not None and panel.bad is not None and last >= panel.bad
    fill = "#f2c0c4" if bad else "#d3ecd8"
    text = "no data" if last is None else told(last, panel.unit)
    number = f"<text x='{width / 2:g}' y='{height / 2 + 18:g}' {FONT} font-size='30' text-anchor='middle'>{text}</text>"
    return _frame(panel, width, height, fill) + number


def _graph(panel: Panel, prometheus: Prometheus, width: float, height: float) -> str:
    lines = prometheus.lines(panel)
    legend = 14.0 * min(len(lines), 5)
    left, above, right, below = 48.0, 28.0, width - 8, height - 12 - legend
    most = max((value for _, points in lines for _, value in points), default=0) or 1
    parts = [_frame(panel, width, height)]
    for share in (0, 0.5, 1):
        y = below - share * (below - above)
        parts.append(f"<line x1='{left:g}' x2='{right:g}' y1='{y:g}' y2='{y:g}' stroke='#e4e4e4'/>")
        label = told(most * share, panel.unit) if share else "0"
        parts.append(f"<text x='{left - 4:g}' y='{y + 4:g}' {FONT} font-size='10' text-anchor='end'>{label}</text>")
    across = (right - left) / (prometheus.end - prometheus.start)
    for number, (name, points) in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        path = " ".join(
            f"{left + (at - prometheus.start) * across:.1f},{below - value / most * (below - above):.1f}"
            for at, value in points
        )
        parts.append(f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='1.4'/>")
        if number < 5:
            y = below + 14 + 14 * number
            parts.append(f"<rect x='8' y='{y - 7:g}' width='12' height='4' fill='{color}'/>")
            parts.append(f"<text x='24' y='{y:g}' {FONT} font-size='10'>{escape(name)}</text>")
    return "".join(parts)


if __name__ == "__main__":
    url, start, end = sys.argv[1:]
    sys.stdout.write(picture(Prometheus(url, float(start), float(end))))

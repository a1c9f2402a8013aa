"""Defines the dashboard: `python -m deploy.grafana.dashboard` writes dashboards/essay-lifecycle.json.

The first rows follow an event from left to right: consumer lag, intake, pending content, its outcome, outbox, published
events. The next rows show durations, then what must stay at zero; the last one compares cells. Counters are summed over
pods. Gauges of the database have the same value in each pod of a cell, so the maximum of each cell is used. The
variable `cell` selects cells; without cells, metrics have no such label, and All shows them.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).parent / "dashboards" / "essay-lifecycle.json"

WIDTH = 24
"""Columns of Grafana's grid."""

UID = "essay-lifecycle"

RUNBOOKS = "https://runbooks.example/operations.md"
"""The address of docs/operations.md: a placeholder, as in the alerts (docs/deployment.md)."""

FIRING = 'ALERTS{alertname=~"Els.*",alertstate="firing"}'


@dataclass(frozen=True, slots=True)
class Query:
    """One Prometheus query and the legend of its series."""

    expr: str
    legend: str

    @property
    def of_cells(self) -> str:
        """The query, of the cells that are selected."""
        return re.sub(r"\b(els_[a-z_]+)(?:{([^}]*)})?", _with_cell, self.expr)


def _with_cell(found: re.Match[str]) -> str:
    labels = f"{found[2]}," if found[2] else ""
    return f'{found[1]}{{{labels}cell=~"$cell"}}'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `stat` shows a number, red from `bad` on; `graph` shows lines over time.

    `runbook` is the heading of docs/operations.md that says what to do: that of an alert, mostly.
    """

    title: str
    kind: Literal["stat", "graph"]
    unit: str
    queries: tuple[Query, ...]
    about: str
    runbook: str
    bad: float | None = None


def _stat(title: str, unit: str, expr: str, about: str, runbook: str, bad: float | None = None) -> Panel:
    return Panel(title, "stat", unit, (Query(expr, title),), about, runbook, bad)


def _graph(title: str, unit: str, about: str, runbook: str, *queries: tuple[str, str]) -> Panel:
    return Panel(title, "graph", unit, tuple(Query(*query) for query in queries), about, runbook)


def _rate(counter: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({counter}[$__rate_interval]))"


def _amount(gauge: str, by: str = "") -> str:
    """What the databases of all cells have together, or by cell; every pod of a cell reports what its database has."""
    return f"max by (cell) ({gauge})" if by else f"sum(max by (cell) ({gauge}))"


def _quantile(share: float, histogram: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({histogram}_bucket[$__rate_interval])))"


ROWS: tuple[tuple[str, int, tuple[Panel, ...]], ...] = (
    (
        "Amounts, from left to right",
        4,
        (
            _stat(
                "Lag",
                "short",
                "sum(els_consumer_lag)",
                "records that wait in the input topics",
                "ElsConsumerLagGrows",
                10_000,
            ),
            _stat(
                "Polls",
                "ops",
                _rate("els_transaction_seconds_count{step='poll'}"),
                "polls applied",
                "ElsTransactionsSlow",
            ),
            _stat(
                "Pending",
                "short",
                _amount("els_pending_content"),
                "contents that wait for a registration",
                "ElsPendingContentOld",
            ),
            _stat(
                "Slots assigned",
                "ops",
                _rate("els_slots_assigned_total"),
                "contents that got a slot",
                "Why is my batch not ready?",
            ),
            _stat(
                "Outbox",
                "short",
                _amount("els_outbox_pending"),
                "events that wait to be published",
                "ElsOutboxNotDraining",
                10_000,
            ),
            _stat(
                "Published",
                "ops",
                _rate("els_outbox_published_total"),
                "events that the broker has acknowledged",
                "ElsOutboxNotDraining",
            ),
        ),
    ),
    (
        "",
        8,
        (
            _graph(
                "Lag by topic",
                "short",
                "should fall",
                "ElsConsumerLagGrows",
                ("sum by (topic) (els_consumer_lag)", "{{topic}}"),
            ),
            _graph(
                "Intake",
                "ops",
                "repeats are normal after a restart",
                "ElsRegistrationsMissing",
                (_rate("els_batches_registered_total"), "registrations"),
                (_rate("els_pending_content_stored_total"), "early content"),
                (_rate("els_duplicates_total", "event"), "repeated {{event}}"),
            ),
            _graph(
                "Waiting for a registration",
                "short",
                "grows where registrations are missed",
                "ElsPendingContentOld",
                (_amount("els_pending_content"), "contents"),
                (_amount("els_pending_batches"), "batches"),
            ),
            _graph(
                "What becomes of content",
                "ops",
                "reconciled: it had waited",
                "What happened to an upload?",
                (_rate("els_slots_assigned_total"), "assigned"),
                (_rate("els_pending_content_reconciled_total", "outcome"), "reconciled {{outcome}}"),
                (_rate("els_excess_content_total", "reason"), "excess {{reason}}"),
                (_rate("els_batches_ready_total"), "batches ready"),
            ),
            _graph(
                "Outbox",
                "short",
                "empties within a second",
                "ElsOutboxNotDraining",
                (_amount("els_outbox_pending"), "events"),
                (_amount("els_outbox_blocked_batches"), "batches blocked"),
            ),
            _graph(
                "Published by topic",
                "ops",
                "what leaves",
                "ElsOutboxNotDraining",
                (_rate("els_outbox_published_total", "topic"), "{{topic}}"),
            ),
        ),
    ),
    (
        "Durations",
        8,
        (
            _graph(
                "Transactions",
                "s",
                "the commit included",
                "ElsTransactionsSlow",
                (_quantile(0.5, "els_transaction_seconds", "step"), "{{step}} p50"),
                (_quantile(0.99, "els_transaction_seconds", "step"), "{{step}} p99"),
            ),
            _graph(
                "Age of what waits",
                "s",
                "the first content without registration, the first event that is not published",
                "ElsPendingContentOld",
                ("max(els_pending_oldest_seconds)", "content"),
                ("max(els_outbox_oldest_seconds)", "event"),
            ),
            _graph(
                "Commit to Kafka",
                "s",
                "from the outbox to the acknowledgement",
                "ElsPublishingSlow",
                (_quantile(0.5, "els_event_to_publish_seconds"), "p50"),
                (_quantile(0.99, "els_event_to_publish_seconds"), "p99"),
            ),
            _graph(
                "Registration to ready",
                "s",
                "half of the batches, and nearly all; and how long content had waited",
                "Why is my batch not ready?",
                (_quantile(0.5, "els_batch_ready_seconds"), "ready p50"),
                (_quantile(0.99, "els_batch_ready_seconds"), "ready p99"),
                (_quantile(0.99, "els_pending_content_age_seconds"), "waited p99"),
            ),
        ),
    ),
    (
        "Errors: all of these should be zero",
        4,
        (
            _stat(
                "Quarantine, open", "short", _amount("els_quarantine_open"), "ops.quarantine", "ElsQuarantineOpen", 1
            ),
            _stat("Topics paused", "short", _amount("els_topics_paused"), "ops.stopped_topics", "ElsTopicPaused", 1),
            _stat(
                "Batches blocked",
                "short",
                _amount("els_outbox_blocked_batches"),
                "ops.outbox_blocked",
                "ElsOutboxBlocked",
                1,
            ),
            _stat(
                "Expired in a day",
                "short",
                _amount("els_expired_content_last_day"),
                "ops.expired_content",
                "ElsContentExpired",
                1,
            ),
            _stat(
                "Violations",
                "short",
                _amount("els_invariant_violations"),
                "ops.invariant_violations",
                "ElsInvariantViolated",
                1,
            ),
            _stat(
                "Parts unhealthy",
                "short",
                "count(els_part_healthy == 0) or vector(0)",
                "/readyz of the pods",
                "ElsPartUnhealthy",
                1,
            ),
        ),
    ),
    (
        "",
        8,
        (
            _graph(
                "Rejections by reason",
                "ops",
                "ops.quarantine",
                "ElsQuarantineFills",
                (_rate("els_quarantined_total", "reason"), "{{reason}}"),
            ),
            _graph(
                "Oldest transaction",
                "s",
                "prevents the removal of dead rows",
                "ElsLongTransaction",
                ("max(els_oldest_transaction_seconds)", "oldest"),
            ),
            _graph(
                "Transactions held back",
                "short",
                "dead rows are kept for a standby or a replication slot",
                "ElsVacuumHeldBack",
                ("max(els_held_back_transactions)", "transactions"),
                (_amount("els_inactive_replication_slots"), "inactive slots"),
            ),
            _graph(
                "Expired, late, failed",
                "short",
                "within the last hour",
                "ElsBatchesLate",
                ("sum(increase(els_pending_content_expired_total[1h]))", "contents expired"),
                ("sum(increase(els_batches_timed_out_total[1h]))", "batches late"),
                ("sum(increase(els_batches_failed_total[1h]))", "batches failed"),
            ),
            _graph(
                "Classes not confirmed in time",
                "short",
                "batches, up to 1,000",
                "ElsConfirmationsLate",
                (_amount("els_batches_unconfirmed"), "batches"),
            ),
            _graph("Pods", "short", "that publish", "ElsNoRelay", (_amount("els_relays"), "relays")),
        ),
    ),
    (
        "Each cell, where several databases share the batches",
        8,
        (
            _graph(
                "Lag by cell",
                "short",
                "each cell reads all records",
                "ElsConsumerLagGrows",
                ("sum by (cell) (els_consumer_lag)", "cell {{cell}}"),
            ),
            _graph(
                "Outbox by cell",
                "short",
                "empties within a second",
                "ElsOutboxNotDraining",
                (_amount("els_outbox_pending", "cell"), "cell {{cell}}"),
            ),
            _graph(
                "Quarantine by cell",
                "short",
                "ops.quarantine of the cell",
                "ElsQuarantineOpen",
                (_amount("els_quarantine_open", "cell"), "cell {{cell}}"),
            ),
            _graph(
                "Pods by cell",
                "short",
                "that can be scraped; a cell without one is missing",
                "ElsPartUnhealthy",
                ("count by (cell) (els_build_info)", "cell {{cell}}"),
                ("count by (cell) (els_part_healthy == 0)", "cell {{cell}}: parts unhealthy"),
            ),
        ),
    ),
)


def expressions() -> list[str]:
    """Returns every query of the dashboard."""
    return [query.of_cells for _, _, panels in ROWS for panel in panels for query in panel.queries]


def dashboard() -> dict[str, Any]:
    """Returns the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = [_alerts(1)]
    top = ALERTS_HEIGHT
    for title, height, row in ROWS:
        if title:
            panels.append(_row(title, len(panels) + 1, top))
            top += 1
        width = WIDTH // len(row)
        for place, panel in enumerate(row):
            grid = {"x": place * width, "y": top, "w": width, "h": height}
            panels.append(_panel(panel, len(panels) + 1, grid))
        top += height
    return {
        "uid": UID,
        "title": "Essay Lifecycle Service",
        "description": "docs/operations.md says what each number means and what to do.",
        "links": [_link("Runbooks", "Index"), _link("Views of the database", "Views"), _link("Commands", "Commands")],
        "annotations": {"list": [_firing()]},
        "tags": ["essay-lifecycle-service"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _cell()]},
        "panels": panels,
    }


ALERTS_HEIGHT = 5


def _alerts(number: int) -> dict[str, Any]:
    """The alerts that fire; Grafana shows the runbook of each as a link."""
    return {
        "id": number,
        "type": "alertlist",
        "title": "Alerts that fire or are about to",
        "description": "Each leads to its runbook.",
        "gridPos": {"x": 0, "y": 0, "w": WIDTH, "h": ALERTS_HEIGHT},
        "options": {
            "viewMode": "list",
            "alertName": "Els",
            "datasource": "${datasource}",
            "maxItems": 20,
            "sortOrder": 3,
            "stateFilter": {"firing": True, "pending": True, "normal": False, "error": True, "noData": False},
        },
    }


def _firing() -> dict[str, Any]:
    """Marks in every graph the times at which an alert fired."""
    return {
        "name": "Alerts",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "iconColor": "red",
        "expr": FIRING,
        "step": "60s",
        "titleFormat": "{{alertname}}",
        "tagKeys": "severity",
    }


def anchor(heading: str) -> str:
    """The anchor of a heading, as hosting sites name it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _link(title: str, heading: str) -> dict[str, Any]:
    return {"title": title, "type": "link", "url": f"{RUNBOOKS}#{anchor(heading)}", "targetBlank": True}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _cell() -> dict[str, Any]:
    """Selects cells. All includes metrics without the label, which are those of a service without cells."""
    return {
        "name": "cell",
        "label": "Cell",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": "label_values(els_build_info, cell)", "refId": "cell"},
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _row(title: str, number: int, top: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        "panels": [],
    }


def _panel(panel: Panel, number: int, grid: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad is not None:
        steps.append({"color": "red", "value": panel.bad})
    return {
        "id": number,
        "type": "stat" if panel.kind == "stat" else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "links": [_link(f"Runbook: {panel.runbook}", panel.runbook)],
        "gridPos": grid,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query.of_cells, "legendFormat": query.legend}
            for place, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background"}
        if panel.kind == "stat"
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def rendered() -> str:
    """The text of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(rendered())

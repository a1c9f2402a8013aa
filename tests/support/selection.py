"""Which tests `make test` runs, and how they are shared out among workers.

`make test` runs what the embedded servers suffice for and what is short. `make test-all` adds `--everything`: Apache
Kafka, TLS, promtool, and the tests that are marked `only_in_test_all`. The last lines of a run say what was left out.
"""

import os
import shutil
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from functools import cache
from typing import Any

import pytest

from deploy.servers import apache_kafka, brokers, kafka_tools, pgbouncer, postgres_versions
from tests.support.servers import pythons
from tests.support.typescript import programs as typescript

GIVEN = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ELS_")}
"""Taken out of the environment: what a test runs gets its settings from the test alone."""

NAMED_DATABASE = GIVEN.get("ELS_DATABASE_URL")
NAMED_KAFKA = GIVEN.get("ELS_KAFKA_BOOTSTRAP_SERVERS")

NOT_EMBEDDED = {
    "promtool": "with promtool",
    "kustomize": "with kustomize",
    "chromium": "in Chromium",
    "typescript": "with TypeScript",
    "secure_postgres_server": "over TLS",
    "secure_kafka": "over TLS",
    "apache": "on Apache Kafka",
    "apache_server": "on Apache Kafka",
    "guarded_cluster": "on three brokers",
    "field_servers": "in the field: on Apache Kafka, with other clients",
    "oldest_postgres": "on PostgreSQL 17",
    "too_old_postgres": "on PostgreSQL 16",
    "pgbouncer": "behind PgBouncer",
}
"""Fixtures that need more than the embedded servers, and what their tests are about."""

GROUPS = {
    "guarded_cluster": "cluster",
    "field_servers": "field",
    "oldest_postgres": "versions",
    "too_old_postgres": "versions",
    "chromium": "console",
    "secure_kafka": "secured",
    "secure_postgres_server": "secured",
    "typescript": "typescript",
    "apache": "apache",
    "apache_server": "apache",
    "strict_broker": "apache",
}
"""Fixtures that are expensive to make. The tests of one name share a worker, so there is one of each in a run."""

WORKERS_ON_APACHE = 4
"""The tests on Apache Kafka would keep one worker busy for longer than the others need for all else."""

MARKER = "only_in_test_all"
LEFT = pytest.StashKey[dict[str, int]]()
"""How many tests were left to `make test-all`, by the reason."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--everything",
        action="store_true",
        help="what `make test-all` runs: on Apache Kafka, over TLS, with promtool, and long tests too",
    )


def configure(config: pytest.Config) -> None:
    """With CI set, a run of everything that would leave something out does not begin."""
    config.addinivalue_line("markers", f"{MARKER}(why): `make test` leaves this test to `make test-all`")
    if is_controller(config) and (NAMED_DATABASE or NAMED_KAFKA):
        raise pytest.UsageError("workers can't share the servers that the environment names: use -n 0")
    for what, why in missing(config).items():
        if os.environ.get("CI"):
            raise pytest.UsageError(f"CI is set, and the tests {what} can't run: {why}")


def pytest_xdist_auto_num_workers() -> int:
    """Five for two processors, as tests wait half of their time; none where workers would share a named server."""
    return 0 if NAMED_DATABASE or NAMED_KAFKA else 5 * (os.cpu_count() or 1) // 2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `kafka` runs on the embedded broker and on Apache Kafka, where this machine can."""
    if "kafka" in metafunc.fixturenames:
        everything_but_apache = metafunc.config.getoption("everything") and apache_missing()
        ours = ["tansu"] if everything_but_apache else ["tansu", "apache"]
        metafunc.parametrize("kafka", ["named"] if NAMED_KAFKA else ours, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    reasons: Counter[str] = Counter()
    for item in items:
        reason = None if config.getoption("everything") else _reason(item)
        if reason is None:
            kept.append(item)
        else:
            left.append(item)
            reasons[reason] += 1
    config.stash[LEFT] = dict(reasons)
    kept.sort(key=_longest_first)
    if config.getoption("loadgroup", False):  # set by xdist, in its workers
        _share_out(kept, apache=on_apache(config))
    items[:] = kept
    if left:
        config.hook.pytest_deselected(items=left)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker reports which tests it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[MARKER] = session.config.stash.get(LEFT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Each worker has collected, and left out, the same."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]
    config.stash[LEFT] = getattr(node, "workeroutput", {}).get(MARKER) or config.stash.get(LEFT, {})


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = [f"Nothing was tested {what}: {why}." for what, why in missing(config).items()]
    left = config.stash.get(LEFT, {})
    if left:
        lines += [f"{count:4} {reason}" for reason, count in sorted(left.items())]
        lines.append(f"{sum(left.values()):4} tests in all; `make test-all` runs them.")
    if lines:
        terminalreporter.section("left out")
    for line in lines:
        terminalreporter.line(line)


def partly_in_test_all(values: Iterable[Any], long: Container[Any], why: str) -> list[Any]:
    """Values for `parametrize`, of which `make test` leaves the long ones out."""
    mark = pytest.mark.only_in_test_all(why)
    return [pytest.param(value, marks=mark) if value in long else value for value in values]


def is_controller(config: pytest.Config) -> bool:
    """Whether this process leaves the tests to workers."""
    return not hasattr(config, "workerinput") and config.getoption("dist", "no") != "no"


def on_apache(config: pytest.Config) -> bool:
    """Whether tests run on Apache Kafka, too."""
    return bool(config.getoption("everything")) and apache_missing() is None


@cache
def apache_missing() -> str | None:
    """Why tests can't run on Apache Kafka here; None where they can."""
    return brokers.apache_missing()


@cache
def promtool_missing() -> str | None:
    """Why promtool can't be run here; None where it can."""
    return None if shutil.which("promtool") else "promtool (Debian's package prometheus) is not there"


@cache
def kustomize_missing() -> str | None:
    """Why no overlay of Kubernetes can be built here; None where it can. Debian's kubectl is too old for ours."""
    return None if shutil.which("kubectl") or shutil.which("kustomize") else "kubectl or kustomize 4 is not there"


@cache
def chromium_missing() -> str | None:
    """Why nothing can be tested in Chromium here; None where it can."""
    return None if shutil.which("chromium") else "Chromium (Debian's package chromium) is not there"


def missing(config: pytest.Config) -> dict[str, str]:
    """What a run of everything can't test on this machine, and why."""
    if not config.getoption("everything"):
        return {}
    found = {
        "on Apache Kafka": None if NAMED_KAFKA else apache_missing(),
        "on three brokers": apache_kafka.missing(),
        "over TLS": brokers.secured_missing(),
        "in the field": kafka_tools.missing(),
        "with promtool": promtool_missing(),
        "with kustomize": kustomize_missing(),
        "in Chromium": chromium_missing(),
        "with TypeScript": typescript.missing(),
        "on PostgreSQL 16 and 17": postgres_versions.missing(),
        "behind PgBouncer": pgbouncer.missing(),
        **{f"on Python {version}": pythons.missing(version) for version in pythons.others()},
    }
    return {what: why for what, why in found.items() if why}


def _reason(item: pytest.Item) -> str | None:
    """Why `make test` leaves this test out; None where it does not."""
    fixtures = _fixtures(item)
    for name, why in NOT_EMBEDDED.items():
        if name in fixtures:
            return why
    marker = item.get_closest_marker(MARKER)
    return None if marker is None else str(marker.args[0])


def _longest_first(item: pytest.Item) -> tuple[float, bool]:
    """Tests that may take long begin first, so that no worker is left with one at the end."""
    marker = item.get_closest_marker("timeout")
    return (-float(marker.args[0]) if marker else 0.0, item.get_closest_marker(MARKER) is None)


def _fixtures(item: pytest.Item) -> set[str]:
    """Those that an item asks for; of `kafka` the broker that it stands for."""
    broker = item.callspec.params.get("kafka") if hasattr(item, "callspec") else None
    return {*getattr(item, "fixturenames", ()), broker}


def _share_out(items: Sequence[pytest.Item], *, apache: bool) -> None:
    """Appends the group of each test to its id, where the scheduler of xdist looks for it.

    xdist does this for the marker `xdist_group`, but in vain with pytest 9.2 (pytest-xdist, issue 1386).
    """
    number = 0
    for item in items:
        names = GROUPS.keys() & _fixtures(item)
        group = next((group for name, group in GROUPS.items() if name in names), None)
        if group == "apache":
            group = f"apache{number % WORKERS_ON_APACHE}" if apache else None
            number += 1
        if group is not None:
            item._id = item._id.parse(f"{item.nodeid}@{group}")

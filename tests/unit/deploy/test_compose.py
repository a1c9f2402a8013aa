"""deploy/compose.yaml agrees with the code (names, ports, commands, times), and the files that it mounts exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.servers import docker
from service.cli import parser as commandline
from service.domain.cells import ALL_BATCHES, Slice
from service.settings import PREFIX, Settings

DEPLOY = Path(__file__).parents[3] / "deploy"

CELLS = 4


def interpolated(cells: int | None) -> dict[str, Any]:
    """The file as Docker Compose reads it with this value of CELLS in the environment."""
    text = (DEPLOY / "compose.yaml").read_text()
    text = re.sub(r"\$\{CELLS:-(\w+)\}", lambda found: str(cells or found[1]), text)
    text = re.sub(r"\$\{CELLS:\+([^}]+)\}", lambda found: found[1] if cells else "", text)
    found: dict[str, Any] = yaml.load(text, yaml.CSafeLoader)
    return found


COMPOSE = interpolated(None)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {
    name: service
    for name, service in SERVICES.items()
    if service["image"] == "essay-lifecycle-service" and service.get("profiles") != ["cells"]
}
IN_CELLS = {
    name: service
    for name, service in interpolated(CELLS)["services"].items()
    if service["image"] == "essay-lifecycle-service" and service.get("profiles") != ["demo"]
}
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
PORT = Settings.model_fields["http_port"].default


def whole_settings(service: dict[str, Any]) -> Settings:
    given: dict[str, str] = service["environment"]
    assert given.keys() <= SETTINGS
    return Settings.model_validate(
        {key.removeprefix(PREFIX).lower(): value for key, value in given.items() if value != ""}
    )


@pytest.mark.parametrize("name", OURS)
def test_what_it_sets_is_a_setting_and_makes_settings_that_are_whole(name: str) -> None:
    whole = whole_settings(OURS[name])
    assert whole.kafka_bootstrap_servers == "kafka:9092"
    assert whole.slice == ALL_BATCHES


# -- with CELLS=4 and the profile `cells`


def test_each_cell_has_a_pod_and_a_migration_on_a_database_of_its_own() -> None:
    for command in ("run", "migrate"):
        found = {name: whole_settings(each) for name, each in IN_CELLS.items() if each["command"] == [command]}
        assert sorted(each.slice for each in found.values()) == [Slice(CELLS, cell) for cell in range(CELLS)]
        urls = [each.database_url.get_secret_value() for each in sorted(found.values(), key=lambda each: each.slice)]
        assert [tuple(urls)] * CELLS == [each.urls_of_cells for each in found.values()]
        assert len(set(urls)) == CELLS
        if command == "migrate":
            owners = [each.migration_database_url for each in sorted(found.values(), key=lambda each: each.slice)]
            names = [owner.get_secret_value().rpartition("/")[2] for owner in owners if owner]
            assert names == [url.rpartition("/")[2] for url in urls]


def test_the_server_has_the_databases_of_the_cells() -> None:
    """It makes them where it makes its data, besides the one that it is told."""
    assert interpolated(CELLS)["services"]["postgres"]["environment"]["CELLS"] == CELLS
    script = (DEPLOY / "compose" / "logins.sql").read_text()
    assert "select format('create database els_%s', cell) from generate_series(1, :cells - 1) as cell \\gexec" in script
    databases = {f"postgresql://els_app:local@postgres/els{'' if n == 0 else f'_{n}'}" for n in range(CELLS)}
    assert databases == {whole_settings(each).database_url.get_secret_value() for each in IN_CELLS.values()}


def test_cells_start_only_with_their_profile_and_are_scraped_under_the_name_of_the_service() -> None:
    more = {name: SERVICES[name] for name in IN_CELLS.keys() - OURS.keys()}
    assert sorted(more) == [f"{what}-{cell}" for what in ("cell", "migrate") for cell in range(1, CELLS)]
    for name, each in more.items():
        assert each["profiles"] == ["cells"]
        if name.startswith("cell"):
            assert each["networks"] == {"default": {"aliases": ["service"]}}
            assert each["depends_on"].keys() == {name.replace("cell", "migrate"), "topics"}
            assert each["healthcheck"] == SERVICES["service"]["healthcheck"]
    scraped = yaml.load((DEPLOY / "prometheus" / "prometheus.yaml").read_text(), yaml.CSafeLoader)["scrape_configs"]
    assert [each["names"] for job in scraped for each in job["dns_sd_configs"]] == [["service"]]


def test_cells_without_their_number_do_not_start() -> None:
    """The profile alone would run cells beside a service that applies all batches."""
    for name in IN_CELLS.keys() - OURS.keys():
        with pytest.raises(ValueError, match="ELS_CELL: should be 0"):
            whole_settings(SERVICES[name])


# -- with and without cells


@pytest.mark.parametrize("name", [name for name in OURS | IN_CELLS if "entrypoint" not in SERVICES[name]])
def test_its_commands_exist(name: str) -> None:
    words = SERVICES[name]["command"]
    assert words[-1] in commandline.parser().parse_args(words).command


@pytest.mark.parametrize("name", OURS | IN_CELLS)
def test_ours_is_neither_privileged_nor_able_to_write(name: str) -> None:
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]


def test_a_stop_leaves_time_for_the_drain() -> None:
    assert _seconds(SERVICES["service"]["stop_grace_period"]) >= Settings.model_fields["drain_seconds"].default + 5


def test_everything_is_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == len(set(published)) > 0
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_the_service_waits_for_its_schema_and_its_topics() -> None:
    waits_for = {name: told["condition"] for name, told in SERVICES["service"]["depends_on"].items()}
    assert waits_for == dict.fromkeys(["migrate", "topics"], "service_completed_successfully")


def test_the_port_that_is_asked_scraped_and_published_is_the_one_it_listens_on() -> None:
    scraped = yaml.load((DEPLOY / "prometheus" / "prometheus.yaml").read_text(), yaml.CSafeLoader)["scrape_configs"]
    assert SERVICES["service"]["ports"][0].endswith(f":{PORT}")
    assert f":{PORT}/readyz" in str(SERVICES["service"]["healthcheck"]["test"])
    assert [each["port"] for job in scraped for each in job["dns_sd_configs"]] == [PORT]


def test_its_servers_are_those_that_the_tests_run_on() -> None:
    assert SERVICES["postgres"]["image"].partition("@")[0] == docker.POSTGRES_IMAGE
    assert SERVICES["kafka"]["image"].partition("@")[0] == docker.KAFKA_IMAGE


def test_what_it_lays_in_is_there() -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    files = [DEPLOY / source for source in mounted if source.startswith("./")]
    assert files
    assert [str(file) for file in files if not file.exists()] == []


def test_the_logins_get_the_passwords_of_the_urls() -> None:
    given = SERVICES["postgres"]["environment"]
    script = (DEPLOY / "compose" / "logins.sql").read_text()
    asked = re.findall(r"^\\getenv \w+ (\w+)$", script, re.MULTILINE)
    assert sorted(asked) == ["CELLS", "ELS_APP_PASSWORD", "ELS_OPS_PASSWORD"]
    assert set(asked) <= given.keys()
    assert f"els_app:{given['ELS_APP_PASSWORD']}@" in SERVICES["service"]["environment"]["ELS_DATABASE_URL"]


def test_dashboards_find_their_prometheus_and_rules_are_read() -> None:
    provisioned = (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    [source] = yaml.load(provisioned, yaml.CSafeLoader)["datasources"]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / home.name).read_text())
    named = set(re.findall(r'"uid": "([^"$]+)"', json.dumps(dashboard.get("panels")))) - {dashboard.get("uid")}
    assert named <= {source["uid"]}
    rules = yaml.load((DEPLOY / "prometheus" / "prometheus.yaml").read_text(), yaml.CSafeLoader)["rule_files"]
    assert [rule for rule in rules if not (DEPLOY / "prometheus" / rule).exists()] == []


def _seconds(period: str) -> int:
    assert period.endswith("s")
    return int(period[:-1])

"""deploy/compose.yaml agrees with the code (names, ports, commands, times), and the files that it mounts exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.servers import docker
from service.cli import parser as commandline
from service.settings import PREFIX, Settings

DEPLOY = Path(__file__).parents[3] / "deploy"

COMPOSE: dict[str, Any] = yaml.load((DEPLOY / "compose.yaml").read_text(), yaml.CSafeLoader)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "essay-lifecycle-service"}
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
PORT = Settings.model_fields["http_port"].default


@pytest.mark.parametrize("name", OURS)
def test_what_it_sets_is_a_setting_and_makes_settings_that_are_whole(name: str) -> None:
    given: dict[str, str] = OURS[name]["environment"]
    assert given.keys() <= SETTINGS
    whole = Settings.model_validate({key.removeprefix(PREFIX).lower(): value for key, value in given.items()})
    assert whole.kafka_bootstrap_servers == "kafka:9092"


@pytest.mark.parametrize("name", [name for name in OURS if "entrypoint" not in OURS[name]])
def test_its_commands_exist(name: str) -> None:
    words = OURS[name]["command"]
    assert words[-1] in commandline.parser().parse_args(words).command


@pytest.mark.parametrize("name", OURS)
def test_ours_is_neither_privileged_nor_able_to_write(name: str) -> None:
    assert OURS[name]["read_only"] is True
    assert OURS[name]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in OURS[name]["security_opt"]


def test_a_stop_leaves_time_for_the_drain() -> None:
    assert _seconds(SERVICES["service"]["stop_grace_period"]) >= Settings.model_fields["drain_seconds"].default + 5


def test_everything_is_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
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
    assert sorted(asked) == ["ELS_APP_PASSWORD", "ELS_OPS_PASSWORD"]
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

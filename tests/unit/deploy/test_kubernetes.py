"""The manifests under deploy/kubernetes are what Kubernetes takes, and say what the code says.

Built-in kinds are validated against the schemas of Kubernetes. What kustomize does with the files is played for cells
only, where kubectl is installed. Of the others, that it can: every file is listed and there, every patch meets what it
is for.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.cli import parser as commandline
from service.domain.cells import Slice
from service.settings import PREFIX, Settings
from tests.support import selection

DEPLOY = Path(__file__).parents[3] / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
PRODUCTION = DEPLOY / "kubernetes" / "overlays" / "production"
CELLS = DEPLOY / "kubernetes" / "overlays" / "cells"
COMMON, GROUP, CELL = CELLS / "common", CELLS / "group", CELLS / "0"
VERSION = "1.33"

Json = dict[str, Any]
Kustomize = Callable[[Path], list[Json]]


def read(folder: Path, name: str) -> list[Any]:
    return list(yaml.load_all((folder / name).read_text(), yaml.CSafeLoader))


def kustomization(folder: Path) -> Json:
    [found] = read(folder, "kustomization.yaml")
    return dict(found)


def manifests(folder: Path) -> Iterator[Json]:
    for name in kustomization(folder)["resources"]:
        if not (folder / name).is_dir():
            yield from read(folder, name)


ALL = {(each["kind"], each["metadata"]["name"]): each for folder in (BASE, PRODUCTION) for each in manifests(folder)}
DEPLOYMENT = ALL["Deployment", "els"]
WORKLOADS = [DEPLOYMENT, ALL["Job", "els-migrate"], ALL["Job", "els-topics"]]
PODS = {each["metadata"]["name"]: each["spec"]["template"] for each in WORKLOADS}
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}
SCALED = ALL["ScaledObject", "els"]["spec"]
OF_OTHERS = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}


def settings(*folders: Path) -> dict[str, str]:
    """What the ConfigMap says; the last folder wins, as it does in an overlay that merges."""
    lines = []
    for folder in folders:
        [generated] = kustomization(folder)["configMapGenerator"]
        lines += generated.get("literals", [])
        lines += [line for env in generated.get("envs", []) for line in (folder / env).read_text().split()]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def kustomize() -> Kustomize:
    """Builds the objects of a folder."""
    if missing := selection.kustomize_missing():
        pytest.skip(missing)
    program = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]

    def build(folder: Path) -> list[Json]:
        done = subprocess.run([*program, str(folder)], capture_output=True, text=True, check=True)
        return list(yaml.load_all(done.stdout, yaml.CSafeLoader))

    return build


# -- what Kubernetes takes


@pytest.mark.parametrize("key", [key for key in ALL if key[0] not in OF_OTHERS], ids="/".join)
def test_a_manifest_is_as_its_schema_wants_it(key: tuple[str, str]) -> None:
    assert kubernetes_validate.validate(ALL[key], VERSION, strict=True) == VERSION


def test_a_manifest_with_a_wrong_word_is_not() -> None:
    wrong = json.loads(json.dumps(DEPLOYMENT).replace("readinessProbe", "readynessProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.parametrize("folder", [BASE, PRODUCTION, COMMON, GROUP, CELL], ids=lambda folder: folder.name)
def test_every_file_of_a_folder_is_used_and_every_file_that_is_named_is_there(folder: Path) -> None:
    found = kustomization(folder)
    named = [*found["resources"], *(patch["path"] for patch in found.get("patches", []))]
    named += found.get("transformers", [])
    named += [env for generated in found.get("configMapGenerator", []) for env in generated.get("envs", [])]
    assert [name for name in named if not (folder / name).exists()] == []
    files = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    assert files == {name for name in named if not (folder / name).is_dir()}


PATCHES = [
    (folder, patch)
    for folder in (PRODUCTION, COMMON)
    for patch in kustomization(folder)["patches"]
    if patch["path"] != "alerts.yaml"
]


@pytest.mark.parametrize(("folder", "patch"), PATCHES, ids=[patch["path"] for _, patch in PATCHES])
def test_a_patch_meets_what_it_is_for(folder: Path, patch: Json) -> None:
    [operations] = read(folder, patch["path"])
    target = ALL[patch["target"]["kind"], patch["target"]["name"]]
    assert operations[0]["op"] == "test"
    for operation in operations:
        *way, last = operation["path"].strip("/").split("/")
        place: Any = target
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        assert operation["op"] == "add" or last in place
        assert operation["op"] != "test" or place[last] == operation["value"]


def test_the_image_that_the_overlay_renames_is_the_one_of_every_container_and_of_the_compose_file() -> None:
    [image] = kustomization(PRODUCTION)["images"]
    compose = yaml.load((DEPLOY / "compose.yaml").read_text(), yaml.CSafeLoader)
    names = {container["image"] for container in CONTAINERS.values()} | {compose["x-service"]["image"]}
    assert names == {image["name"]}


# -- what the code says


FOLDERS = [(BASE,), (BASE, PRODUCTION), (BASE, PRODUCTION, COMMON, CELL)]


@pytest.mark.parametrize("folders", FOLDERS, ids=["base", "production", "cell"])
def test_its_settings_are_settings_and_whole_with_the_secrets(folders: tuple[Path, ...], tmp_path: Path) -> None:
    given = settings(*folders)
    assert given.keys() <= {PREFIX + name.upper() for name in Settings.model_fields}
    ca = tmp_path / "ca.pem"
    ca.touch()
    if path := given.get("ELS_KAFKA_SSL_CAFILE"):
        mounts = [mount["mountPath"] for mount in CONTAINERS["els"]["volumeMounts"]]
        assert str(Path(path).parent) in mounts
        given["ELS_KAFKA_SSL_CAFILE"] = str(ca)
    given |= {"ELS_DATABASE_URL": "postgresql://els_app:x@db/els", "ELS_KAFKA_SASL_USERNAME": "els"}
    given |= {"ELS_KAFKA_SASL_PASSWORD": "x"} if "ELS_KAFKA_SASL_MECHANISM" in given else {}
    whole = Settings.model_validate({name.removeprefix(PREFIX).lower(): value for name, value in given.items()})
    assert whole.kafka_bootstrap_servers == given["ELS_KAFKA_BOOTSTRAP_SERVERS"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_its_command_exists(name: str) -> None:
    words = CONTAINERS[name]["args"]
    assert words[-1] in commandline.parser().parse_args(words).command


def test_the_port_that_is_probed_monitored_and_let_in_is_the_one_it_listens_on() -> None:
    port = Settings.model_fields["http_port"].default
    container = CONTAINERS["els"]
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    paths = {name: probe["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    [monitored] = ALL["PodMonitor", "els"]["spec"]["podMetricsEndpoints"]
    assert (monitored["port"], monitored["path"]) == ("http", "/metrics")
    assert ALL["Service", "els"]["spec"]["ports"] == [{"name": "http", "port": port, "targetPort": "http"}]
    assert ALL["NetworkPolicy", "els"]["spec"]["ingress"][0]["ports"] == [{"port": port, "protocol": "TCP"}]
    assert all(
        f'"{path}"' in (DEPLOY.parent / "service" / "http" / "server.py").read_text() for path in {*paths.values()}
    )


def test_a_stop_leaves_time_for_the_drain() -> None:
    drain = int(settings(BASE, PRODUCTION).get("ELS_DRAIN_SECONDS", Settings.model_fields["drain_seconds"].default))
    assert DEPLOYMENT["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + 5


def test_check_compares_the_sessions_of_as_many_pods_as_there_may_be() -> None:
    assert int(settings(BASE, PRODUCTION)["ELS_MAX_PODS"]) == SCALED["maxReplicaCount"]


def test_there_are_never_more_pods_than_partitions() -> None:
    partitions = int(settings(BASE, PRODUCTION)["ELS_KAFKA_TOPIC_PARTITIONS"])
    assert SCALED["minReplicaCount"] <= SCALED["maxReplicaCount"] <= partitions
    assert SCALED["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert "replicas" not in DEPLOYMENT["spec"]


def test_pods_are_scaled_by_the_lag_of_the_group_and_by_what_waits() -> None:
    lag, waiting = SCALED["triggers"]
    assert (lag["type"], waiting["type"]) == ("kafka", "postgresql")
    assert lag["metadata"]["bootstrapServersFromEnv"] in settings(BASE)
    assert lag["metadata"]["consumerGroup"] == Settings.model_fields["consumer_group"].default
    view = (DEPLOY.parent / "sql" / "views" / "health.sql").read_text()
    assert "from ops.health" in waiting["metadata"]["query"]
    assert "as oldest_pending," in view
    assert ("TriggerAuthentication", waiting["authenticationRef"]["name"]) in ALL
    most = int(re.search(r", (\d+)\)::integer", waiting["metadata"]["query"])[1])  # type: ignore[index]
    assert most / int(waiting["metadata"]["targetQueryValue"]) <= SCALED["maxReplicaCount"] / 2


# -- cells


SCALED_IN_CELLS = {
    operation["path"]: operation["value"] for [scaling] in [read(COMMON, "scaling.yaml")] for operation in scaling
}
FEWEST, MOST = (SCALED_IN_CELLS[f"/spec/{name}ReplicaCount"] for name in ("min", "max"))


def test_pods_of_a_cell_are_scaled_by_the_lag_of_its_group() -> None:
    """What the transformer does: it puts settings of the cell between the hyphens of a name."""
    given = settings(BASE, PRODUCTION, COMMON, CELL)
    parts = SCALED_IN_CELLS["/spec/triggers/0/metadata/consumerGroup"].split("-")
    [transformer] = read(GROUP, "group.yaml")
    for replacement in transformer["replacements"]:
        [target] = replacement["targets"]
        assert target["fieldPaths"] == ["spec.triggers.0.metadata.consumerGroup"]
        name = replacement["source"]["fieldPath"].removeprefix("data.")
        parts[target["options"]["index"]] = given[name]
    of = Slice(int(given["ELS_CELLS"]), int(given["ELS_CELL"]))
    assert "-".join(parts) == Settings.model_fields["consumer_group"].default + of.suffix


def test_a_cell_has_at_least_one_pod_and_check_knows_how_many_there_may_be() -> None:
    assert 1 <= FEWEST <= MOST == int(settings(BASE, PRODUCTION, COMMON)["ELS_MAX_PODS"])
    assert SCALED_IN_CELLS["/spec/fallback/replicas"] <= MOST


def test_the_alerts_are_applied_once_and_not_in_each_cell() -> None:
    [patch] = read(COMMON, "alerts.yaml")
    assert patch.pop("$patch") == "delete"
    assert patch.items() <= (ALL["PrometheusRule", "els"] | {"metadata": {"name": "els"}}).items()


def test_a_cell_is_made_of_another_by_its_number(tmp_path: Path, kustomize: Kustomize) -> None:
    """By the command of docs/scaling.md, played with the real program. One of them is half of a cell that was split."""
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "deploy" / "kubernetes")
    shown = (DEPLOY.parent / "docs" / "scaling.md").read_text()
    [recipe] = re.findall(r"```sh\n(cd deploy/kubernetes/overlays/cells\n.*?)```", shown, re.DOTALL)
    loop = recipe[: recipe.index("done\n") + len("done\n")]
    subprocess.run(["bash", "-euo", "pipefail", "-c", loop], cwd=tmp_path, check=True)
    cells = tmp_path / CELLS.relative_to(DEPLOY.parent)
    half = cells / "3" / "kustomization.yaml"
    half.write_text(half.read_text().replace("ELS_CELL=3", "ELS_CELL=19, ELS_CELLS=32"))
    for number in range(16):
        objects = kustomize(cells / str(number))
        assert {each["metadata"]["namespace"] for each in objects} == {f"essay-lifecycle-cell-{number}"}
        found = {each["kind"]: each for each in objects}
        given = found["ConfigMap"]["data"]
        of = Slice(int(given["ELS_CELLS"]), int(given["ELS_CELL"]))
        assert of == (Slice(32, 19) if number == 3 else Slice(16, number))
        [container] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"][0]["configMapRef"]["name"] == found["ConfigMap"]["metadata"]["name"]
        trigger = found["ScaledObject"]["spec"]["triggers"][0]["metadata"]
        assert trigger["consumerGroup"] == Settings.model_fields["consumer_group"].default + of.suffix
        assert "PrometheusRule" not in found


@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "Service"])
def test_what_selects_pods_meets_those_of_the_deployment(kind: str) -> None:
    spec = ALL[kind, "els"]["spec"]
    wanted = spec["selector"] if kind == "Service" else (spec.get("selector") or spec["podSelector"])["matchLabels"]
    assert wanted.items() <= PODS["els"]["metadata"]["labels"].items()


# -- security


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_as_the_restricted_profile_wants_it_and_has_no_token(name: str) -> None:
    pod, container = PODS[name]["spec"], CONTAINERS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["serviceAccountName"] == ALL["ServiceAccount", "els"]["metadata"]["name"]
    assert f"USER {pod['securityContext']['runAsUser']}:" in (DEPLOY / "Dockerfile").read_text()


def test_only_the_migration_may_own_the_schema() -> None:
    secrets = {
        name: {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}
        for name, container in CONTAINERS.items()
    }
    both = {"els-service", "els-migration"}
    assert secrets == {"els": {"els-service"}, "els-migrate": both, "els-topics": set()}, (
        "the topics need no password of the database"
    )


def test_no_manifest_holds_a_secret() -> None:
    assert [key for key in ALL if key[0] == "Secret"] == []
    secret = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field)}
    assert not secret & settings(BASE, PRODUCTION).keys()

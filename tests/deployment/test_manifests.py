"""What nobody runs here: schemas and linters, and whether it says the same as the proxy."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from alknet_firewall.config import ProxyConfig, parse_config
from alknet_firewall.proxy.settings import Source, refuse_itself
from alknet_firewall.proxy.state import state_of
from alknet_firewall.proxy.telemetry import Telemetry

from .gateways import EXAMPLES, program

yaml = pytest.importorskip("yaml")

ROOT = EXAMPLES.parent
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = EXAMPLES / "vllm" / "compose.yaml"
MANIFESTS = sorted((EXAMPLES / "kubernetes").rglob("*.yaml"))
INSTALL = "scripts/check-deployment installs it"
IMAGE = f"alknet-firewall:{version('alknet-firewall')}"


def checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_linted() -> None:
    checked([program("hadolint", INSTALL), str(DOCKERFILE)])


def test_shell_scripts_are_linted() -> None:
    found = [ROOT / ".ci" / "run", *(ROOT / "scripts").iterdir()]
    shell = [str(path) for path in found if path.is_file() and b"bash" in _first_line(path)]
    assert shell
    checked([program("shellcheck", INSTALL), *shell])


def _first_line(path: Path) -> bytes:
    return path.read_bytes().partition(b"\n")[0]


def test_the_compose_file_is_valid() -> None:
    command = [program("check-jsonschema", INSTALL), "--builtin-schema", "vendor.compose-spec"]
    checked([*command, str(COMPOSE)])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_valid(path: Path) -> None:
    checked([program("kubernetes-validate", INSTALL), "--strict", str(path)])


# --- the image ---------------------------------------------------------------


def instruction(name: str) -> str:
    """The last instruction of this name in the Dockerfile, continued lines joined."""
    text = DOCKERFILE.read_text("utf-8").replace("\\\n", " ")
    return str(re.findall(rf"^{name} (.*)", text, re.MULTILINE)[-1])


def test_the_image_serves_where_its_health_check_asks() -> None:
    port = ProxyConfig().port
    assert instruction("EXPOSE") == str(port)
    assert f"http://127.0.0.1:{port}/readyz" in instruction("HEALTHCHECK")
    assert f"VERSION={version('alknet-firewall')}" in DOCKERFILE.read_text("utf-8")
    environ = dict(re.findall(r"(\w+)=(\S+)", instruction("ENV")))
    config = Source(ROOT / "proxy.toml").load(environ)
    assert config.proxy.host == "0.0.0.0"
    assert config.proxy.upstream == "https://api.openai.com/v1"


# --- compose -----------------------------------------------------------------


def test_compose_keeps_everything_behind_the_firewall() -> None:
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["firewall"]
    assert services["firewall"]["depends_on"] == {"vllm": {"condition": "service_healthy"}}
    assert services["firewall"]["image"] == IMAGE
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert name == "cache" or service["user"].split(":")[0] not in ("0", "root")


def test_what_compose_sets_is_loaded() -> None:
    service = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]["firewall"]
    config = Source(ROOT / "proxy.toml").load(service["environment"])
    assert config.proxy.upstream == "http://vllm:8000/v1"
    assert config.telemetry.log_format == "json"
    assert service["ports"] == [f"127.0.0.1:8080:{config.proxy.port}"]


# --- kubernetes --------------------------------------------------------------


def objects(kind: str) -> list[Any]:
    loaded = [item for path in MANIFESTS for item in yaml.safe_load_all(path.read_text("utf-8"))]
    return [item for item in loaded if item["kind"] == kind]


def pods() -> list[Any]:
    return [item["spec"]["template"]["spec"] for item in objects("Deployment")]


def containers() -> Iterator[Any]:
    for pod in pods():
        yield from pod["containers"]


def test_configurations_can_be_served() -> None:
    maps = objects("ConfigMap")
    assert len(maps) == 2
    for item in maps:
        config = parse_config(tomllib.loads(item["data"]["proxy.toml"]))
        state_of(config, Telemetry())
        refuse_itself(config)


def test_pods_have_no_rights() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
    for container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_firewalls_container_is_the_images() -> None:
    found = [item for item in containers() if item["name"] == "firewall"]
    assert len(found) == 2
    for container in found:
        assert container["image"] == IMAGE
        assert container["args"] == json.loads(instruction("CMD"))
        [port] = container["ports"]
        assert port["containerPort"] == ProxyConfig().port
        for probe, path in (
            ("readiness", "/readyz"),
            ("startup", "/readyz"),
            ("liveness", "/heal"),
        ):
            asked = container[f"{probe}Probe"]["httpGet"]
            assert asked["path"].startswith(path)
            assert asked["port"] == port["name"]
        [mount] = [item for item in container["volumeMounts"] if item["name"] == "config"]
        assert mount["mountPath"] == str(Path(container["args"][-1]).parent)


def test_streams_can_end_before_a_pod_does() -> None:
    for pod in pods():
        waits = [
            int(item["lifecycle"]["preStop"]["exec"]["command"][1]) for item in pod["containers"]
        ]
        assert pod["terminationGracePeriodSeconds"] > min(waits) + 30
        assert max(waits) in (min(waits), *range(min(waits) + 30, 60))


def test_everything_speaks_of_the_same_pods() -> None:
    labels = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in objects("Deployment")
    }
    for service in objects("Service"):
        assert service["spec"]["selector"] == labels[service["metadata"]["name"]]
    [budget], [scaler] = objects("PodDisruptionBudget"), objects("HorizontalPodAutoscaler")
    assert budget["spec"]["selector"]["matchLabels"] == labels["alknet-firewall"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in labels
    [policy] = objects("NetworkPolicy")
    [rule] = policy["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == labels["alknet-firewall"]

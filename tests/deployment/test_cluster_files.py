"""The files that start clusters.

Valid by the schemas of those who read them, unknown fields included.
"""

from __future__ import annotations

import copy
import gzip
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from embed_ops.commands.options import load_spec
from embed_ops.spec.spec import Spec

ROOT = Path(__file__).parents[2]
FILES = ROOT / "cluster"
CRDS = ROOT / "tests" / "fixtures" / "crds"
RAY_UP = ["aws", "gcp"]
KUBERAY = ["raycluster", "rayjob"]


def read(name: str) -> dict[str, Any]:
    """Read one of the files."""
    found: dict[str, Any] = yaml.safe_load((FILES / name).read_text())
    return found


def crd_schema(kind: str) -> dict[str, Any]:
    """Read the operator's schema of a kind, closed against fields that it does not know."""
    crd = yaml.load(gzip.decompress((CRDS / f"ray.io_{kind}s.yaml.gz").read_bytes()), Loader=yaml.CSafeLoader)
    version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    close(schema)
    found: dict[str, Any] = schema
    return found


def close(schema: Any) -> None:
    """Refuse unknown fields at every depth, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        for item in schema:
            close(item)
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema["type"] = ["integer", "string"]
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for value in schema.values():
        close(value)


@pytest.fixture(scope="module", params=KUBERAY)
def kuberay(request: pytest.FixtureRequest) -> tuple[dict[str, Any], jsonschema.Draft7Validator]:
    """Give a file and the validator of its kind."""
    return read(f"kuberay/{request.param}.yaml"), jsonschema.Draft7Validator(crd_schema(request.param))


def test_kuberay_schema(kuberay: tuple[dict[str, Any], jsonschema.Draft7Validator]) -> None:
    """The operator takes the file as it stands.

    The check itself sees a misspelt field and a wrong type.
    """
    content, validator = kuberay
    assert [error.message for error in validator.iter_errors(content)] == []
    for place, value in (
        ("shutdownAfterJobFinish", True),
        ("rayVersion", 2.6),
        ("rayClusterSpec", {"headGroupSpec": {}, "autoscaling": 1}),
    ):
        wrong = copy.deepcopy(content)
        wrong["spec"][place] = value
        assert list(validator.iter_errors(wrong)), place
    worker = copy.deepcopy(content)
    cluster = worker["spec"].get("rayClusterSpec", worker["spec"])
    cluster["workerGroupSpecs"][0]["template"]["spec"]["tolerations"][0]["efect"] = "NoSchedule"
    assert list(validator.iter_errors(worker)), "a field deep inside"


def test_kuberay_promises(kuberay: tuple[dict[str, Any], jsonschema.Draft7Validator]) -> None:
    """A token for everyone, a head that only drives, and a GPU group that grows from nothing."""
    content = kuberay[0]
    cluster = content["spec"].get("rayClusterSpec", content["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["rayVersion"] == constraint("ray")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] < group["maxReplicas"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in group["template"][
        "spec"
    ]["tolerations"]
    for container in (cluster["headGroupSpec"], group):
        resources = container["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"], "Ray counts the limits as its own"
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_rayjob_entrypoint() -> None:
    """The job ends its cluster, is tried again, and runs a command that exists."""
    spec = read("kuberay/rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0
    python, dash_m, module, verb, path, *words = shlex.split(spec["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "embed_ops")
    assert importlib.util.find_spec(f"embed_ops.commands.{verb}") is not None
    mounts = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert Path(path).parent == Path(mounts[0]["mountPath"])
    fields = [word for word in words if "=" in word]
    loaded: Spec = load_spec(["source.path=a", "source.column=b", "encoder.model=c", "sink.path=d", *fields])
    workers = spec["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    assert (loaded.resources.gpus_per_replica, loaded.resources.replicas) == (1, (1, workers))


@pytest.mark.parametrize("cloud", RAY_UP)
def test_ray_up_schema(cloud: str) -> None:
    """Ray's own launcher takes the file, and refuses one with an unknown field."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = read(f"ray_up/{cloud}.yaml")
    validate_config(prepare_config(copy.deepcopy(content)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(copy.deepcopy(content) | {"max_worker": 1}))
    wrong = copy.deepcopy(content)
    wrong["available_node_types"]["gpu_spot"]["resource"] = {"GPU": 1}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize("cloud", RAY_UP)
def test_ray_up_promises(cloud: str) -> None:
    """On-demand head, spot GPU workers from zero, a token for everyone, a private dashboard."""
    content = read(f"ray_up/{cloud}.yaml")
    types = content["available_node_types"]
    head, worker = types[content["head_node_type"]], types["gpu_spot"]
    spot = {"aws": ("InstanceMarketOptions", {"MarketType": "spot"}), "gcp": ("scheduling", None)}[cloud]
    assert spot[0] not in head["node_config"]
    assert spot[1] in (None, worker["node_config"][spot[0]])
    assert cloud == "aws" or worker["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert (worker["min_workers"], worker["resources"]["GPU"], head["resources"]["CPU"]) == (0, 1, 0)
    assert worker["max_workers"] <= content["max_workers"]
    starts = content["head_start_ray_commands"] + content["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in content["head_start_ray_commands"][1]
    assert "/home/ray/.ray/auth_token" in content["file_mounts"]


def test_every_file_names_the_same_image() -> None:
    """The image of the files is the one that the Dockerfile says it makes, in this version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    named = {
        image
        for path in [*FILES.rglob("*.yaml"), FILES / "Dockerfile"]
        for image in re.findall(r"\S+/embed-ops:[\w.]+", path.read_text())
    }
    assert named == {f"REGISTRY/embed-ops:{version}"}


def test_dockerfile() -> None:
    """What can be checked without building.

    What it copies is there, the package is, versions are pinned, no root.
    """
    lines = (FILES / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [
        name
        for line in lines
        if line.startswith("COPY")
        for name in line.split()[1:-1]
        if not name.startswith("--")
    ]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert "embed_ops" in copied
    assert any("--constraint constraints.txt" in line for line in lines)
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["ray"]
    assert f"FROM python:{'3.11'}" in "\n".join(lines)


def constraint(package: str) -> str:
    """Give the version that the constraints pin."""
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]

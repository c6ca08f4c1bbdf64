"""What a submitted job is given.

The files that are uploaded, the packages, and the spec as words.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

from embed_ops.commands.submit import _from_everywhere
from embed_ops.engine.environment import environment
from embed_ops.errors import AddressError
from embed_ops.spec.spec import Spec
from embed_ops.spec.toml import spec_words

ROOT = Path(__file__).parents[2]


def uploaded(runtime: dict[str, Any], target: Path) -> set[str]:
    """List the files that Ray's own packaging takes."""
    create_package(runtime["working_dir"], target, include_gitignore=True, excludes=runtime["excludes"])
    with zipfile.ZipFile(target) as package:
        return {name for name in package.namelist() if not name.endswith("/")}


def test_what_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code goes up; environments, caches, secrets, ignored files and the spec's data do not."""
    folder = tmp_path / "project"
    code = {
        "run.toml",
        "jobs/embed.py",
        "deep/er/module.py",
        "data.py",
        "more/data/table.py",
        "constraints.txt",
    }
    data = {
        "data/a.parquet",
        "out/data/b.parquet",
        "shards/x.jsonl",
        "models/m/model.safetensors",
        "!odd name/c.parquet",
    }
    never = {
        ".git/config",
        ".venv/bin/python",
        "a/__pycache__/x.pyc",
        ".env",
        "build/lib/x.py",
        "x.egg-info/PKG-INFO",
        ".mypy_cache/x",
        "secret.key",
    }
    for name in code | data | never:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("*.key\n")
    monkeypatch.chdir(folder)
    places = ["data", "out/", "shards/*.jsonl", str(folder / "models" / "m"), "!odd name", "/elsewhere"]
    runtime = environment(Path(), install=False, leave_out=places)
    assert uploaded(runtime, tmp_path / "package.zip") == code | {".gitignore"}
    with pytest.raises(AddressError, match="holds the data itself"):
        environment(folder, install=False, leave_out=[str(folder)])
    with pytest.raises(AddressError, match="no such folder"):
        environment(folder / "nowhere", install=False)


def test_this_checkout_fits(tmp_path: Path) -> None:
    """A checkout uploads its three packages and little else, far below Ray's limit of 512 MiB."""
    names = uploaded(environment(ROOT), tmp_path / "package.zip")
    assert {
        "jobs/embed.py",
        "cluster/local.py",
        "embed_ops/embedding/pipeline.py",
        "constraints.txt",
        "pyproject.toml",
    } <= names
    assert [
        name for name in names if ".venv" in name or "__pycache__" in name or name.startswith(".git/")
    ] == []
    assert (tmp_path / "package.zip").stat().st_size < 20 * 2**20


def test_packages(tmp_path: Path) -> None:
    """What the project depends on, in the versions of its constraints; never Ray.

    Other constraints are another environment.
    """
    packages = environment(ROOT)["pip"]["packages"]
    assert packages[0].startswith("-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt # ")
    assert [line for line in packages if line.startswith("ray")] == []
    assert any(line.startswith("torch>=") for line in packages)
    (tmp_path / "requirements.txt").write_text("# these\nray[data]\nnumpy\n\n  pandas>=2\n")
    assert environment(tmp_path)["pip"]["packages"][:2] == ["numpy", "pandas>=2"]
    digests = set()
    for version in ("1", "2"):
        (tmp_path / "constraints.txt").write_text(f"numpy=={version}\n")
        digests.add(environment(tmp_path)["pip"]["packages"][0])
    assert len(digests) == 2


def test_from_any_folder(tmp_path: Path) -> None:
    """Without a checkout this package goes up too, with what it depends on, but for Ray."""
    runtime = environment(tmp_path)
    assert [Path(place).name for place in runtime["py_modules"]] == ["embed_ops"]
    assert (Path(runtime["py_modules"][0]) / "commands/embed.py").is_file()
    packages = runtime["pip"]["packages"]
    assert any(line.startswith("torch>=") for line in packages)
    assert [line for line in packages if line.startswith(("ray", "embed-ops")) or "extra" in line] == []
    (tmp_path / "requirements.txt").write_text("embed-ops\nray[data]\nxxhash\n")
    assert environment(tmp_path)["pip"]["packages"] == ["xxhash", *packages]
    assert "py_modules" not in environment(ROOT)
    assert "py_modules" not in environment(tmp_path, install=False)


@pytest.mark.parametrize("options", [{"image": "REGISTRY/embed-ops:0.1.0"}, {"install": False}, {}])
def test_ray_takes_it(options: dict[str, Any]) -> None:
    """Ray's own check of a runtime environment passes for each way."""
    runtime = environment(ROOT, **options)
    runtime.pop("working_dir", None)
    RuntimeEnv(**runtime)


def test_the_spec_survives_as_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The words of the job's command make the same spec, with paths that mean the same anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    spec = Spec.parse(
        {
            "max_reject_fraction": 0.25,
            "source": {
                "kind": "jsonl",
                "path": ["data/", "s3://bucket/x y?region=eu-west-1"],
                "template": 'it\'s "{title}"\n= {body} \u00fc \U0001f600 \x7f \\',
                "keep": ["id", "a.b"],
                "where": "lang = 'en'",
                "types": {"a.b": "int64", "id": "string"},
            },
            "encoder": {
                "model": "model",
                "outputs": [{"name": "v", "pooling": "mean"}, {"name": "w", "normalize": True}],
            },
            "sink": {"path": "out"},
            "resources": {"replicas": [1, 16], "gpus_per_replica": 0.5},
        }
    )
    again = Spec.load(None, spec_words(_from_everywhere(spec)))
    assert again.source.path == (str(tmp_path / "data"), "s3://bucket/x y?region=eu-west-1")
    assert (again.encoder.model, again.sink.path) == (str(tmp_path / "model"), str(tmp_path / "out"))
    same = {"source": again.source.model_copy(update={"path": spec.source.path})}
    same |= {
        "encoder": again.encoder.model_copy(update={"model": "model"}),
        "sink": again.sink.model_copy(update={"path": "out"}),
    }
    assert again.model_copy(update=same) == spec

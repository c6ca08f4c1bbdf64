"""Laws of imports: what is light stays light, and one module alone knows the engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import embed_ops

ROOT = Path(embed_ops.__file__).parent
LIGHT = (
    "embed_ops",
    "embed_ops.spec.spec",
    "embed_ops.sources.plan",
    "embed_ops.runs.ledger",
    "embed_ops.embedding.batching",
    "embed_ops.runs.directory",
    "embed_ops.runs.run",
    "embed_ops.runs.verify.run",
    "embed_ops.embedding.job",
    "embed_ops.embedding.steps",
    "embed_ops.embedding.resources",
    "embed_ops.embedding.driver",
    "embed_ops.postprocessing.driver",
    "embed_ops.engine.base",
    "embed_ops.engine.session",
    "embed_ops.sources.registry",
    "embed_ops.sources.corpus",
    "embed_ops.sources.parquet",
    "embed_ops.sources.lines",
    "embed_ops.sources.csv",
    "embed_ops.runs.parquet",
)


def imported(path: Path) -> set[str]:
    """List the top-level packages that a module imports, but not for its types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_light_modules_load_no_engine_and_no_model() -> None:
    """A module of the plan or of a step loads neither Ray nor torch nor transformers."""
    code = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    print(module, *(name for name in ("ray", "torch", "transformers") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code, *LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(LIGHT)


def test_few_modules_know_ray() -> None:
    """Outside of the engine only the pipeline and `Run.dataset` import Ray, at any depth."""
    knowing = [str(path.relative_to(ROOT)) for path in sorted(ROOT.rglob("*.py")) if "ray" in imported(path)]
    assert [name for name in knowing if not name.startswith("engine/")] == [
        "embedding/pipeline.py",
        "runs/run.py",
    ]


def test_sources_know_no_model() -> None:
    """Nothing below `sources` imports torch or transformers, nor an encoder."""
    files = [*(ROOT / "sources").glob("*.py"), ROOT / "runs/ledger.py", ROOT / "runs/directory.py"]
    assert all(not {"torch", "transformers", "ray"} & imported(path) for path in files)
    assert all("embed_ops.encoders" not in path.read_text(encoding="utf-8") for path in files)


def test_the_public_names_are_complete() -> None:
    """`__all__` is sorted, every name of it is there, and every lazy name is in it."""
    assert embed_ops.__all__ == sorted(embed_ops.__all__)
    homes = vars(embed_ops)["_HOMES"]
    assert set(embed_ops.__all__) == {*homes, "__version__"}
    for name, home in homes.items():
        path = ROOT / f"{home.partition('.')[2].replace('.', '/')}.py"
        defined = {
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert name in defined
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        embed_ops.nope  # noqa: B018

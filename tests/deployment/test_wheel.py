"""The wheel owns one name, brings what it needs, and runs where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import embed_ops

ROOT = Path(__file__).parents[2]


def test_one_name(wheel: Path) -> None:
    """`jobs` and `cluster` are names of users' own modules: the wheel holds `embed_ops` alone."""
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"embed_ops-{embed_ops.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"embed_ops", metadata}
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "embed_ops").rglob("*.py")}
    assert code <= set(names)
    of_page = {f"embed_ops/analysis/page/{name}" for name in ("page.html", "page.css", "page.js", "map.js")}
    assert {"embed_ops/py.typed", *of_page} <= set(names)
    examples = [path for path in (ROOT / "examples").rglob("*") if path.suffix in (".toml", ".py", ".ipynb")]
    assert {f"embed_ops/{path.relative_to(ROOT)}" for path in examples} <= set(names)
    assert f"{metadata}/licenses/LICENSE" in names


def test_runs_without_a_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked into a folder of its own, it is found there, says its version, knows its verbs."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    told = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, *words]
        return subprocess.run(line, env=told, cwd=tmp_path, capture_output=True, text=True, check=False)

    home = run("-c", "import embed_ops; print(embed_ops.__file__)").stdout.strip()
    assert Path(home).is_relative_to(site)
    assert run("-m", "embed_ops", "--version").stdout.split() == ["embed-ops", embed_ops.__version__]
    assert "postprocess" in run("-m", "embed_ops", "--help").stdout
    assert "make_data.py" in run("-m", "embed_ops", "examples", "first").stdout
    assert (tmp_path / "first/make_data.py").read_bytes() == (ROOT / "examples/make_data.py").read_bytes()
    for name in ("jobs", "cluster"):
        assert run("-c", f"import {name}").returncode == 1
